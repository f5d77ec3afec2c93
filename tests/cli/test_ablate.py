"""The ablation on stages of known outcome: its runs, what is skipped, its statistics and its page.

Stand-ins for the stages write real artefacts of hand-made numbers; `slow` runs the real ones.
"""

import csv
import math
import sys
import types

import jax
import numpy as np
import pytest

from cgrefine import artifacts, energy
from cgrefine.artifacts import read_json, write_json
from cgrefine.cli import ablate, ablate_report, ablate_results, ablate_runs
from cgrefine.cli.ablate_results import Reached, Summary, reached, summary
from cgrefine.cli.console import Console
from cgrefine.cli.observe import model_groups
from cgrefine.cli.replicas import Outcome, write_outcomes
from cgrefine.config import parse
from cgrefine.data.store import write_domain, write_index
from cgrefine.errors import GateError, InputError
from cgrefine.fm import forcefield
from cgrefine.neighbors import padded
from cgrefine.sim.trajectory import TrajectoryWriter, write_pdb
from cgrefine.system import pack, topology_from_species
from tests.chains import chain_from_internal, ideal_helix
from tests.report.pages import valid_figures

pytestmark = pytest.mark.stages

SEEDS, EPOCHS, REPLICAS, DURATION = [3, 5, 8], 4, 4, 10.0
RAW = {
    "data": {"raw": ["sample"]},
    "model": {"name": "allegro", "cutoff_A": 8},
    "train": {"epochs": EPOCHS, "train_priors": True},
    "sim": {
        "temperature_K": 320, "timestep_fs": 5, "friction_per_ps": 1.0, "replicas": REPLICAS,
        "duration_ps": DURATION,
    },
    "ablate": {"seeds": SEEDS},
}  # fmt: skip
CONFIG = parse(RAW, "test")
LOSSES = {
    "both": {3: [100.0, 95, 92, 91, 90], 5: [100.0, 94, 91, 90, 89], 8: [100.0, 97, 94, 92, 91]},
    "network": {3: [150.0, 120, 100, 95, 91.7], 5: [150.0, 120, 100, 95, 93], 8: [150.0, 130, 110, 100, 95]},
}  # fmt: skip
RMSE = {"priors": [10.0] * 3, "network": [9.6, 9.7, 9.8], "both": [9.5, 9.4, 9.6]}
ANGLE = {"priors": [0.3, 0.2, 0.4], "network": [0.9, 0.9, 0.9], "both": [0.1, 0.1, 0.4]}
LIVED = {3: [None, None, None, None], 5: [None, None, None, 2.5], 8: [None, None, 5.0, 5.0]}
"""Failure times of the replicas of `both`; those of `network` fail at once, of `priors` never."""


def variant_of(config) -> str:
    if config.model.name == "none":
        return "priors"
    return "both" if config.model.priors else "network"


def outcomes(variant: str, seed: int) -> list[Outcome]:
    """A frame each ps; a replica of `network` has its starting frame only."""
    times = {"priors": [None] * REPLICAS, "network": [0.1] * REPLICAS, "both": LIVED[seed]}[variant]
    return [
        Outcome(
            "toy", r, "OK" if t is None else "BOND", "", t, 1 + int(DURATION if t is None else t), 320.0, ""
        )
        for r, t in enumerate(times)
    ]


def _train(stage, config, root, console):
    assert (root / "prepare" / "mark").read_text() == (root / "priors" / "mark").read_text() == "shared"
    variant, seed = variant_of(config), config.train.seed
    losses = LOSSES.get(variant, {}).get(seed, [100.0])
    stage.record.metric("val_force_mse", min(losses), unit="(kcal/mol/Å)²")
    if variant != "priors":
        with (stage.path / "log.csv").open("w", newline="") as handle:
            csv.writer(handle).writerows([("epoch", "val_force_mse"), *enumerate(losses)])


def _evaluate(stage, config, root, console):
    value = RMSE[variant_of(config)][SEEDS.index(config.train.seed)]
    stage.record.metric("force_rmse_kcal_mol_A", value, unit="kcal/mol/Å", stderr=0.3)
    stage.record.metric("explained_variance", 1.0 - value**2 / 200.0, stderr=0.01)


def _simulate(stage, config, root, console):
    found = outcomes(variant_of(config), config.sim.seed)
    write_outcomes(stage.path / "replicas.csv", found)
    stage.record.metric("duration_ps", DURATION, unit="ps")
    stage.record.metric("stable_fraction", sum(o.stable for o in found) / len(found))


def _observe(stage, config, root, console):
    variant = variant_of(config)
    assert variant != "network"
    stage.record.metric("js_angle", ANGLE[variant][SEEDS.index(config.sim.seed)], unit="nats")
    stage.record.metric("contact_map_mae", 0.1)
    angle, contacts = {"jensen_shannon_floor": 0.02}, {"jensen_shannon_floor": None}
    write_json(
        stage.path / "observables.json", {"toy": {"observables": {"angle": angle, "contacts": contacts}}}
    )


def _shared(stage, config, root, console):
    (stage.path / "mark").write_text("shared")


BUILDS = {
    "prepare": _shared, "priors": _shared, "train": _train, "evaluate": _evaluate, "simulate": _simulate,
    "observe": _observe,
}  # fmt: skip


@pytest.fixture
def built(monkeypatch) -> list[tuple[str, str]]:
    """Stand-ins for the stages; the list of (run folder, stage) that were built."""
    calls = []
    monkeypatch.setattr(artifacts, "_git_revision", lambda: None)
    monkeypatch.setattr(artifacts, "_versions", dict)

    def module(name, build):
        def counted(stage, config, root, console):
            calls.append((root.name, name))
            build(stage, config, root, console)

        return types.SimpleNamespace(build=counted)

    for name, build in BUILDS.items():
        monkeypatch.setitem(sys.modules, f"cgrefine.cli.{name}", module(name, build))
    return calls


def ablated(root, config=CONFIG) -> dict:
    ablate.run_ablation(config, root, Console(quiet=True), allow_ungated=True)
    return read_json(root / "ablate" / "ablation.json")


def test_priors_that_failed_their_gate_are_refused_before_any_variant_is_trained(tmp_path, built):
    with pytest.raises(GateError, match="never gated"):
        ablate.run_ablation(CONFIG, tmp_path, Console(quiet=True))
    assert [stage for _, stage in built] == ["prepare", "priors"] and not (tmp_path / "ablate").exists()


def test_a_case_differs_in_its_seeds_and_in_what_it_leaves_out():
    variants = {v: ablate.case_config(CONFIG, v, 7) for v in ("priors", "network", "both")}
    for config in variants.values():
        assert config.model and config.train and config.sim
        assert config.train.seed == config.sim.seed == 7 and config.train.epochs == EPOCHS
        assert config.data == CONFIG.data and config.priors == CONFIG.priors
    kept = {v: (c.model.name, c.model.priors, c.train.train_priors) for v, c in variants.items()}  # pyright: ignore[reportOptionalMemberAccess] - asserted above
    assert kept == {
        "priors": ("none", True, False),
        "network": ("allegro", False, False),
        "both": ("allegro", True, True),
    }
    parse(variants["network"].model_dump(), "the copy is a configuration that the schema allows")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": None}, "ablate needs the section `train`"),
        ({"sim": None}, "ablate needs the section `sim`"),
        ({"ablate": {"seeds": [1, 1, 2]}}, r"ablate.seeds = \[1, 1, 2\]: each may be named once"),
        ({"ablate": {"variants": ["both", "both"]}}, "ablate.variants"),
        ({"ablate": {"variants": ["priors", "network"]}}, "give ablate.loss_target"),
        ({"model": {"name": "none", "cutoff_A": 8}}, "needs a network to leave out"),
        ({"model": {"name": "allegro", "cutoff_A": 8, "priors": False}}, "needs priors to leave out"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_before_anything_is_computed(tmp_path, built, change, message):
    with pytest.raises(InputError, match=message):
        ablated(tmp_path / "run", parse({**RAW, **change}, "test"))
    assert not built and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ablate": {"seeds": [1, 2]}}, "ablate.seeds.*at least 3 items"),
        ({"ablate": {"variants": ["prior"]}}, "ablate.variants.*'priors', 'network' or 'both'"),
        ({"train": {}}, "train.epochs: required, and not given"),
    ],
)
def test_the_schema_refuses_what_is_no_study(change, message):
    with pytest.raises(InputError, match=message):
        parse({**RAW, **change}, "test")


def test_wrong_input_ends_with_one_sentence_and_2(tmp_path, monkeypatch, capsys):
    from cgrefine.cli.main import main

    (tmp_path / "c.yaml").write_text("data: {raw: [sample]}\nablate: {seeds: [1, 2]}")
    monkeypatch.setattr(sys, "argv", ["cgrefine", "ablate", str(tmp_path / "c.yaml"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    message = capsys.readouterr().err
    assert "ablate.seeds" in message and message.count("\n") == 1


def test_shared_stages_run_once_and_every_case_is_a_run_folder_of_its_own(tmp_path, built):
    ablated(tmp_path)
    assert [call for call in built if call[1] in ("prepare", "priors")] == [
        (tmp_path.name, "prepare"), (tmp_path.name, "priors"),
    ]  # fmt: skip
    whole = ("train", "evaluate", "simulate", "observe")
    for variant in ("priors", "network", "both"):
        for seed in SEEDS:
            stages = [stage for folder, stage in built if folder == f"{variant}-{seed}"]
            assert stages == list(whole[:3] if variant == "network" else whole)
    link = tmp_path / "ablate" / "both-5" / "prepare"
    assert link.is_symlink() and not link.readlink().is_absolute()
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / "ablate" / "both-5" / "priors" / "mark").read_text() == "shared"


def test_finished_runs_are_skipped_and_an_interrupted_study_goes_on(tmp_path, built, monkeypatch):
    ready = sys.modules["cgrefine.cli.evaluate"]

    def interrupted(stage, config, root, console):
        if root.name == "network-5":
            raise KeyboardInterrupt
        ready.build(stage, config, root, console)

    monkeypatch.setitem(sys.modules, "cgrefine.cli.evaluate", types.SimpleNamespace(build=interrupted))
    with pytest.raises(KeyboardInterrupt):
        ablated(tmp_path)
    assert ("network-5", "train") in built and ("network-5", "evaluate") not in built
    monkeypatch.setitem(sys.modules, "cgrefine.cli.evaluate", ready)
    first = ablated(tmp_path)
    assert len(built) == len(set(built)) == 2 + 9 * 4 - 3
    assert ablated(tmp_path) == first and len(built) == 2 + 9 * 4 - 3
    longer = parse({**RAW, "sim": {**RAW["sim"], "friction_per_ps": 2.0}}, "test")
    ablated(tmp_path, longer)
    again = built[2 + 9 * 4 - 3 :]
    assert {stage for _, stage in again} == {"simulate", "observe"} and len(again) == 9 + 6


def test_observables_of_an_earlier_study_are_not_those_of_a_run_without_frames(tmp_path, built, monkeypatch):
    """All replicas of a second study fail at once; observe/ of the first one is still there."""
    ablated(tmp_path)
    monkeypatch.setitem(LIVED, 3, [0.1] * REPLICAS)
    colder = parse({**RAW, "sim": {**RAW["sim"], "temperature_K": 300.0}}, "test")
    found = ablated(tmp_path, colder)
    assert (tmp_path / "ablate" / "both-3" / "observe").exists()
    assert found["variants"]["both"]["metrics"]["js_angle"]["values"] == [None, 0.1, 0.4]


def test_numbers_of_the_study(tmp_path, built):
    found = ablated(tmp_path)
    assert found["format"] == 1 and found["budget"]["epochs"] == EPOCHS
    assert found["budget"]["replicas_per_seed"] == REPLICAS and found["budget"]["seeds"] == SEEDS
    both, network, priors = (found["variants"][v] for v in ("both", "network", "priors"))

    rmse = both["metrics"]["force_rmse_kcal_mol_A"]
    assert rmse["mean"] == pytest.approx(9.5) and rmse["stderr"] == pytest.approx(0.1 / math.sqrt(3))
    assert priors["metrics"]["force_rmse_kcal_mol_A"]["stderr"] == pytest.approx(0.0, abs=1e-15)
    assert both["metrics"]["js_angle"]["mean"] == pytest.approx(0.2) and "js_angle" not in network["metrics"]
    assert found["reference_floors"] == {"js_angle": 0.02}

    # 1.02 × the median of 90, 89, 91
    assert found["loss_target"]["value"] == pytest.approx(91.8)
    assert both["epochs_to_target"]["epochs"] == [3, 2, 4] and both["epochs_to_target"]["mean"] == 3.0
    assert network["epochs_to_target"] == {
        "epochs": [4, None, None], "budget": EPOCHS, "reached": 1,
        "mean": None, "stderr": None, "median": None,
    }  # fmt: skip
    assert priors["epochs_to_target"]["epochs"] == [None] * 3

    stable = both["stability"]
    assert (stable["stable"], stable["replicas"]) == (9, 12)
    # Wilson at 95 % for 9 of 12, by its formula
    assert (stable["low"], stable["high"]) == (
        pytest.approx(0.4677, abs=1e-4),
        pytest.approx(0.9111, abs=1e-4),
    )
    assert stable["median_survival_ps"] == {"value": DURATION, "lower_bound": True}
    assert network["stability"]["stable"] == 0 and network["stability"]["high"] == pytest.approx(
        0.2425, abs=1e-4
    )
    lived = both["metrics"]["lived_fraction"]
    assert lived["values"] == pytest.approx([1.0, 32.5 / 40, 0.75])

    gap = found["differences"]["both - network"]["force_rmse_kcal_mol_A"]
    assert gap["mean"] == pytest.approx(-0.2) and "js_angle" not in found["differences"]["both - network"]
    # -0.1, -0.3, -0.2: Student's 97.5 % quantile of 2 degrees of freedom is 4.3027
    assert gap["high"] == pytest.approx(-0.2 + 4.3027 * 0.1 / math.sqrt(3), abs=1e-4)
    # Newcombe's of 0.75 - 0 from the two Wilson intervals above
    held = found["differences"]["both - network"]["stable_fraction"]
    low, high = 0.75 - math.hypot(0.75 - 0.4677, 0.2425), 0.9111
    assert (held["mean"], held["low"], held["high"]) == pytest.approx((0.75, low, high), abs=2e-4)
    row = next(r for r in found["runs"] if (r["variant"], r["seed"]) == ("network", 5))
    assert row["epochs_to_target"] == {"reached": False, "epoch": None}
    assert row["domains_without_frames"] == ["toy"] and row["stderr_over_validation_frames"] == {
        "force_rmse_kcal_mol_A": 0.3, "explained_variance": 0.01,
    }  # fmt: skip
    assert set(row["seconds"]) == set(row["fingerprints"]) == {"train", "evaluate", "simulate"}


def test_page_and_screen_say_what_was_not_reached_and_not_measured(tmp_path, built, capsys):
    ablated(tmp_path)
    page = (tmp_path / "ablate" / "report.html").read_text()
    for text in (
        "1 of 3 seeds reached it in 4",
        "not reached (no training)",
        "network-8 (toy)",
        "4.3",
        "9.5 ±",
    ):
        assert text in page
    assert page.count("data:image/png") == len(valid_figures(tmp_path / "ablate" / "report.html")) == 3
    for name in ("loss", "survival", "observables"):
        assert (tmp_path / "ablate" / f"{name}.png").stat().st_size > 5000
    screen = " ".join(capsys.readouterr().out.split())
    assert "9 of 12" in screen and "stable replicas" in screen


def test_a_given_target_and_fewer_variants(tmp_path, built):
    """Priors that meet the target need no epoch; those who train start at epoch 0 too."""
    some = {**RAW, "ablate": {"seeds": SEEDS, "variants": ["priors", "network"], "loss_target": 100.0}}
    found = ablated(tmp_path, parse(some, "test"))
    assert found["loss_target"]["value"] == 100.0 and set(found["differences"]) == {"network - priors"}
    assert found["variants"]["priors"]["epochs_to_target"]["epochs"] == [0, 0, 0]
    assert found["variants"]["network"]["epochs_to_target"]["epochs"] == [2, 2, 3]
    assert "both" not in found["variants"]


def test_a_folder_in_the_place_of_a_link_is_not_touched(tmp_path, built):
    (tmp_path / "ablate" / "priors-3" / "prepare").mkdir(parents=True)
    with pytest.raises(InputError, match="priors-3/prepare: must be a link"):
        ablated(tmp_path)


def test_summaries_leave_out_what_is_no_number():
    assert summary([1.0, None, 3.0]) == Summary(2.0, 1.0, (1.0, None, 3.0))
    assert summary([0.1, 0.1, 0.1]) == Summary(0.1, 0.0, (0.1, 0.1, 0.1))
    assert summary([2.0, float("nan"), None]) == Summary(2.0, None, (2.0, None, None))
    assert (
        summary([None, None]) == Summary(None, None, (None, None)) and summary([None, 4.0, 2.0]).measured == 2
    )
    assert ablate_report.with_error(Summary(2.0, 0.5, (1.0, 3.0, None))) == "2 ± 0.5 (2 of 3 seeds)"
    assert (
        ablate_report.with_error(None) == ablate_report.with_error(summary([None])) == ablate_report.MISSING
    )


def test_censored_epochs_never_become_numbers():
    assert reached([1, 4, 4], 9) == Reached((1, 4, 4), 9, 3.0, 1.0, 4.0)
    assert reached([2, None, 4], 9) == Reached((2, None, 4), 9, None, None, 4.0)
    assert reached([2, None, 4, None], 9).median is None and reached([None] * 3, 9).reached == 0
    assert ablate_report.epochs_text(reached([2, None, 4], 9)) == "median 4, 2 of 3 seeds reached it in 9"
    assert ablate_report.epochs_text(reached([None] * 3, 9)) == "not reached in 9"
    assert ablate_results.first_epoch([(0, 5.0), (1, 3.0), (2, 4.0)], 3.0) == 1
    assert ablate_results.first_epoch([], 3.0) is None


def test_a_loss_that_is_not_finite_is_no_point_of_the_curve(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,val_force_mse\n0,9\n1,\n2,inf\n3,7\n")
    assert ablate_runs._curve(tmp_path / "log.csv", {}) == [(0, 9.0), (3, 7.0)]
    (tmp_path / "log.csv").write_text("epoch,loss\n0,9\n")
    with pytest.raises(InputError, match="not the log of a training"):
        ablate_runs._curve(tmp_path / "log.csv", {})


@pytest.mark.parametrize("discard", [0.0, 0.1, 0.5, 0.9])
def test_frameless_is_what_observe_refuses(tmp_path, discard):
    """The prediction from replicas.csv against observe's own reading of trajectories."""
    topology = topology_from_species([0] * 5)
    frame = ideal_helix(5)
    for folder in ("topology", "trajectories"):
        (tmp_path / folder).mkdir()
    for longest in (1, 2, 3, 10):
        name = f"d{longest}"
        write_pdb(tmp_path / "topology" / f"{name}.pdb", topology, frame)
        counts = (1, longest)
        with TrajectoryWriter([tmp_path / "trajectories" / f"{name}_r00{r}.dcd" for r in range(2)]) as writer:
            for r, count in enumerate(counts):
                writer.write(r, np.repeat(frame[None], count, axis=0), np.arange(count))
        found = [Outcome(name, r, "BOND", "", 0.1, count, None, "") for r, count in enumerate(counts)]
        if ablate_runs.unobservable(found, discard):
            with pytest.raises(InputError, match="no frame of"):
                model_groups(tmp_path, name, discard)
        else:
            assert model_groups(tmp_path, name, discard)
    healthy = Outcome("other", 0, "OK", "", None, 30, None, "")
    assert ablate_runs.unobservable([*found, healthy], 0.9) == (["d10"] if discard > 1 else [])


TERMS = [
    {"name": "bond", "kind": "bond", "form": "harmonic", "classes": "global"},
    {"name": "angle", "kind": "angle", "form": "harmonic", "classes": "global"},
    {
        "name": "repulsion", "kind": "pair", "form": "power", "epsilon": 1.0, "exponent": 12,
        "shift_order": 2, "cutoff_A": 6.5, "min_separation": 3, "max_separation": None,
    },
]  # fmt: skip
PARAMS = {
    "bond": {"k": np.full(2, 120.0), "x0": np.array([3.82, 2.95])},
    "angle": {"k": np.array([25.0]), "x0": np.array([1.62])},
    "repulsion": {"sigma": np.full((20, 20), 3.9)},
}
NOISE = 2.0
"""Standard deviation of the force labels around those of the priors, kcal/mol/Å."""


def _chains(stage, config, root, console):
    """A chain near a helix, whose forces are those of TERMS and noise; the later half validates."""
    rng, count, n = np.random.default_rng(0), 40, 9
    model = forcefield.prior_only({"terms": TERMS}, PARAMS, 320.0).model
    topology = topology_from_species([0] * n)
    internal = [(3.82, 0.05, n - 1), (1.62, 0.1, n - 2), (0.9, 0.15, n - 3)]
    x = np.stack([chain_from_internal(*(rng.normal(*i) for i in internal)) for _ in range(count)])
    i, j = np.nonzero(~np.eye(n, dtype=bool))
    packed, pairs = pack([topology]), padded(i.astype(np.int32), j.astype(np.int32), len(i))
    exact = jax.vmap(lambda frame: energy.forces(model, PARAMS, frame, packed, pairs))(x)
    arrays = {
        "positions": x, "forces": np.asarray(exact) + rng.normal(0, NOISE, x.shape),
        "temperature_K": np.full(count, 320.0), "replica": np.arange(count) % 2,
        "frame": np.arange(count), "validation": np.arange(count) >= 20,
    }  # fmt: skip
    write_index(stage.path, [write_domain(stage.path, "toy", topology, arrays, {})], {})


def _known_priors(stage, config, root, console):
    forcefield.save(stage.path / "forcefield", forcefield.prior_only({"terms": TERMS}, PARAMS, 320.0))


@pytest.mark.slow
def test_priors_that_are_the_truth_hold_and_a_network_without_them_does_not(tmp_path, monkeypatch):
    """The real stages. Labels are the forces of the priors and noise: priors have an error of exactly the
    noise (five standard errors of 20 × 9 × 3 components), and a network can only come near to it.
    """
    for name, build in (("prepare", _chains), ("priors", _known_priors)):
        monkeypatch.setitem(sys.modules, f"cgrefine.cli.{name}", types.SimpleNamespace(build=build))
    network = {"name": "allegro", "cutoff_A": 8, "channels": 2, "hidden": 4, "layers": 1, "l_max": 1}
    config = parse(
        {
            **RAW,
            "model": {**network, "n_bessel": 4},
            "train": {"epochs": 1, "batch_beads": 60},
            "sim": {
                "temperature_K": 320, "timestep_fs": 5, "friction_per_ps": 5.0, "replicas": 4,
                "duration_ps": 5.0,
            },
            "ablate": {"loss_target": 1.1 * NOISE**2},
        },
        "test",
    )  # fmt: skip
    found = ablated(tmp_path, config)
    assert len(found["runs"]) == 9 and ablated(tmp_path, config) == found
    priors, network_only, both = (found["variants"][v] for v in ("priors", "network", "both"))
    components = 20 * 9 * 3
    error = NOISE / math.sqrt(2 * components)
    rmse = {v: found["variants"][v]["metrics"]["force_rmse_kcal_mol_A"] for v in found["variants"]}
    assert abs(rmse["priors"]["mean"] - NOISE) < 5 * error and rmse["priors"]["stderr"] < 1e-6
    assert abs(rmse["both"]["mean"] - NOISE) < 10 * error
    assert rmse["network"]["mean"] > 2 * NOISE
    assert priors["epochs_to_target"]["epochs"] == both["epochs_to_target"]["epochs"] == [0, 0, 0]
    assert network_only["epochs_to_target"]["reached"] == 0
    for held in (priors, both):
        assert held["stability"]["low"] > network_only["stability"]["high"]
    assert found["differences"]["both - network"]["force_rmse_kcal_mol_A"]["high"] < 0
