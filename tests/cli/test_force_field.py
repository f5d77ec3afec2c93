"""The trained force field at the temperature of a stage."""

from pathlib import Path

import jax
import numpy as np
import pytest

from cgrefine.cli.console import Console
from cgrefine.cli.force_field import exported_at, opened, trained_at
from cgrefine.cli.train_member import network_facts
from cgrefine.config.load import parse
from cgrefine.config.running import Export
from cgrefine.config.training import Model
from cgrefine.data.frames import frame_set
from cgrefine.errors import InputError
from cgrefine.export.bundle import write_bundle
from cgrefine.export.loaded import Loaded
from cgrefine.fm import forcefield
from cgrefine.fm.models.registry import network_term
from tests.fm.prior_toy import FACTS, T_K, WRONG
from tests.fm.toy import CUTOFF, domain

MODEL = Model.model_validate(
    {"name": "schnet", "cutoff_A": CUTOFF, "hidden": 4, "layers": 1, "n_bessel": 3, "entropy": True}
)


@pytest.fixture(scope="module")
def facts():
    frames = [domain(6, 3, seed=k, temperature_K=t) for k, t in enumerate((320.0, 413.0))]
    return network_facts(MODEL, frame_set(frames, False, CUTOFF), T_K)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, facts) -> Path:
    """A train stage with a conditioned network."""
    folder = tmp_path_factory.mktemp("train")
    prior = forcefield.prior_only(FACTS, {name: WRONG[name] for name in ("bond", "repulsion")}, T_K)
    params = jax.tree.map(np.asarray, network_term(facts).init(jax.random.key(0)))
    forcefield.save(folder / "forcefield", forcefield.with_network(prior, facts, params))
    return folder


def test_the_priors_and_the_frames_set_its_temperatures(facts):
    assert facts["reference_K"] == T_K and facts["temperature_range_K"] == [320.0, 413.0]


def test_one_temperature_cannot_tell_energy_from_entropy():
    frames = frame_set([domain(6, 3, seed=1, temperature_K=320.0)], False, CUTOFF)
    with pytest.raises(InputError, match="all training frames are at 320 K, and it takes two"):
        network_facts(MODEL, frames, T_K)


@pytest.mark.parametrize("lost", ["avg_neighbors", "name"])
def test_facts_of_another_version_are_refused_in_one_sentence(train: Path, tmp_path: Path, lost):
    """A network without a fact that this version needs, as one written before there was such a fact."""
    old = forcefield.load(train / "forcefield")
    network = {name: fact for name, fact in old.facts["network"].items() if name != lost}
    forcefield.save(tmp_path, forcefield.ForceField({**old.facts, "network": network}, old.params))
    with pytest.raises(InputError, match=rf"forcefield.json: this version cannot make .*'{lost}'.*once more"):
        forcefield.load(tmp_path)


def test_saved_conditioned_and_loaded_fixed(train: Path, capsys: pytest.CaptureFixture[str]):
    assert forcefield.conditioned_range(forcefield.load(train / "forcefield")) == (320.0, 413.0)
    fixed = trained_at(train, 400.0, Console(quiet=True))
    assert fixed.facts["network"]["reference_K"] is None and capsys.readouterr().out == ""
    trained_at(train, 450.0, Console(quiet=True))
    assert "warning: 450 K is outside the 320 to 413 K" in capsys.readouterr().out


def test_the_export_has_a_temperature(train: Path):
    sim = {"temperature_K": 330, "timestep_fs": 4, "friction_per_ps": 1, "replicas": 3, "duration_ps": 1}
    console = Console(quiet=True)
    assert exported_at(train, parse({"sim": sim}, "test"), console).facts["temperature_K"] == 330.0
    both = parse({"sim": sim, "export": {"temperature_K": 350}}, "test")
    assert exported_at(train, both, console).facts["temperature_K"] == 350.0
    with pytest.raises(InputError, match=r"give export\.temperature_K or a section `sim`"):
        exported_at(train, parse({}, "test"), console)


def test_a_path_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"neither a force field \(forcefield\.json\) nor a bundle"):
        opened(tmp_path, 300.0, Console(quiet=True))


def test_force_fields_and_bundles_are_told_apart(train: Path, tmp_path: Path, capsys):
    """The train folder, its forcefield/, and a bundle of springs, which is of its own temperature."""
    for path in (train, train / "forcefield"):
        found = opened(path, 350.0, Console(quiet=True))
        assert isinstance(found, forcefield.ForceField) and found.facts["temperature_K"] == 350.0
    prior = forcefield.prior_only(FACTS, {name: WRONG[name] for name in ("bond", "repulsion")}, T_K)
    chain = domain(6, 3, seed=1)
    facts, made = prior.facts, Export(reference_frames=1)
    write_bundle(
        tmp_path / "bundle", prior.model, prior.params, chain.topology, chain.positions[:], "a", made, facts
    )
    found = opened(tmp_path, T_K, Console(quiet=True))
    assert isinstance(found, Loaded) and found.model == prior.model and capsys.readouterr().out == ""
    assert np.array_equal(found.params["bond"]["k"], prior.params["bond"]["k"])
    opened(tmp_path, 350.0, Console(quiet=True))
    assert "is a bundle of a model at 300 K, and it is used at 350 K" in capsys.readouterr().out
