"""Configuration errors name file, key, value and what is allowed; good files resolve with defaults."""

import re
from pathlib import Path

import pytest
import yaml

from cgrefine.config import dump, load_config, parse
from cgrefine.errors import InputError

GOOD = {
    "data": {"raw": ["sample"]},
    "model": {"name": "allegro", "cutoff_A": 12.0},
    "train": {"epochs": 2},
    "sim": {
        "temperature_K": 320, "timestep_fs": 4, "friction_per_ps": 1, "replicas": 2, "duration_ps": 2,
    },
}  # fmt: skip


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    return path


SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_configurations_of_the_repository_are_good(path):
    config = load_config(path)
    own = config.data is not None and config.model is not None and config.train is not None
    assert own or config.toy is not None


def test_resolved_config_round_trips(config_file):
    config = load_config(config_file)
    assert parse(yaml.safe_load(dump(config)), "dump") == config
    assert config.force_map.kind == "windowed"


def test_overrides_are_yaml_values(config_file):
    config = load_config(config_file, ["train.epochs=7", "data.temperatures_K=[320, 450]", "sim.seed=3"])
    assert config.train is not None and config.train.epochs == 7
    assert config.data is not None and config.data.temperatures_K == [320.0, 450.0]


def test_a_given_field_wins_over_the_size(config_file):
    """Whichever is named first; the dump states every number, and reads as the same model."""
    default = load_config(config_file).model
    for overrides in (["model.size=large", "model.channels=48"], ["model.channels=48", "model.size=large"]):
        config = load_config(config_file, overrides)
        model = config.model
        assert default is not None and model is not None
        assert model.channels == 48 and model.hidden > default.hidden and model.layers > default.layers
        assert model.l_max == default.l_max
        assert parse(yaml.safe_load(dump(config)), "dump") == config
    same = load_config(config_file, ["model.size=default"]).model
    assert same == default


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.cutof=5",
            r"model\.cutof: unknown key \(did you mean cutoff_A\?\); choose from .*\bcutoff_A, ",
        ),
        ("model.name=alegro", r"model\.name = 'alegro': .*'allegro', .*or 'none'"),
        ("model.size=huge", r"model\.size = 'huge': .*'small', 'default' or 'large'"),
        ("model.size=[large]", r"model\.size = \['large'\]: .*'small', 'default' or 'large'"),
        ("model=allegro", r"model = 'allegro': .*instance of Model"),
        ("sim.timestep_fs=-2", r"sim\.timestep_fs = -2: .*greater than 0"),
        ("sim.temperature_K=0.3", r"sim\.temperature_K = 0\.3"),
        ("train.epochs=0", r"train\.epochs = 0"),
        ("data.raw=[]", r"data: .*give raw \(mdCATH files\) or trajectories"),
        ("trian.epochs=3", r"trian: unknown key \(did you mean train\?\)"),
        ("sim.save_every_ps=50", r"save_every_ps 50\.0 is longer than duration_ps"),
        ("nonsense", r"--set nonsense: must have the form section\.key=value"),
        ("model.name.x=1", r"--set model\.name\.x=1: name is a value, not a section"),
    ],
)
def test_faults_are_one_sentence(config_file, override, message):
    with pytest.raises(InputError) as error:
        load_config(config_file, [override])
    assert re.search(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


RUN = {"temperature_K": 300, "replicas": 1, "duration_ps": 1}


def test_physics_has_no_default():
    with pytest.raises(InputError, match=r"sim\.temperature_K: required"):
        parse({"sim": {"friction_per_ps": 1, "replicas": 1, "duration_ps": 1}}, "x")
    with pytest.raises(InputError, match=r"friction_per_ps is needed by the integrator brownian"):
        parse({"sim": {**RUN, "integrator": "brownian"}}, "x")


def test_a_start_from_a_pdb_names_it():
    with pytest.raises(InputError, match="given together"):
        parse({"sim": {**RUN, "friction_per_ps": 1, "start": "pdb"}}, "x")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "\x00"])
def test_what_is_not_a_mapping_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        load_config(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"no\.yaml: cannot be read"):
        load_config(tmp_path / "no.yaml")
