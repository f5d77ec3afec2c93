"""What refine refuses before it begins, each in one sentence; targets from files; a state on disk."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cgrefine import checkpoint
from cgrefine.boltzmann.refine import Kept, Phase
from cgrefine.cli import refine_state
from cgrefine.cli.console import Console
from cgrefine.cli.refine_setup import Setup, refined_terms, setup, targets_of, with_frames
from cgrefine.cli.simulate import assigned
from cgrefine.config.load import load_config
from cgrefine.config.schema import Config
from cgrefine.config.training import Model
from cgrefine.data.store import Domain, in_memory, open_dataset
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.observables.catalogue import standard
from cgrefine.status import Status
from tests.cli import refine_toy
from tests.fm.prior_toy import T_K

QUIET = Console(quiet=True)


def refused(folder: Path, message: str, **changes: dict[str, Any]) -> None:
    """By the stage, of which nothing is left."""
    refine_toy.write_config(folder, **changes)
    with pytest.raises(InputError, match=message) as error:
        refine_toy.refine(folder)
    assert "\n" not in str(error.value) and not (folder / "refine").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"targets": [{"observable": "P(q)"}]},
            r"^refine\.targets: chain0 has no observable 'P\(q\)'; choose from bond, angle, .*P\(r\)",
        ),
        (
            {"terms": ["network"]},
            r"^refine\.terms: network is no term of this model; choose from bond, repulsion$",
        ),
        (
            {"targets": [], "warn": {"bond_deviation_A": 0.7, "second_neighbor_min_A": 0.02}},
            r"refine\.warn\.bond_deviation_A = 0\.7: is not on the safe side of sim\.criteria\..* = 0\.6",
        ),
        ({"targets": [], "warn": {"second_neighbor_min_A": 0.005}}, r"neighbor_min_A = 0\.005: is not on"),
        (
            {"targets": [], "warn": {"second_neighbor_min_A": 0.02, "overlap_min_A": 2.8}},
            r"refine\.warn\.overlap_min_A = 2\.8: is not on the safe side of .* = 2\.8",
        ),
        (
            {"targets": [{"observable": "P(r)", "domain": "chain7", "file": "none.json"}]},
            r"^refine\.targets: domain chain7 is not refined; choose from chain0",
        ),
        ({"targets": [{"observable": "P(r)", "file": "none.json"}]}, r"none\.json: cannot be read"),
        (
            {"targets": [{"observable": "contacts", "kind": "cdf"}]},
            r"refine: chain0: target contacts: cdf needs a histogram",
        ),
        ({"save_every_ps": 0.004}, r"refine\.save_every_ps = 0\.004: is shorter than a time step of 5 fs"),
    ],
)  # fmt: skip
def test_what_cannot_be_refined_is_one_sentence(toy, changes, message):
    refused(toy, message, refine=changes)


def test_exchange_is_refused(toy):
    ladder = {"exchange": {"temperatures_K": [T_K, T_K + 20.0]}}
    refused(toy, r"sim\.exchange: refine judges replicas that stay at one temperature", sim=ladder)


def test_frames_at_the_temperature_are_needed_of_both_parts(tmp_path):
    """Training frames at 300 K alone, and validation frames at 400 K alone."""
    folder = refine_toy.run_folder(tmp_path, held_out_K=400.0)
    refused(folder, r"^refine\.evaluation: no validation frame near 300 K \(data\.split\)")
    refused(folder, r"^refine: no training frame near 400 K", sim={"temperature_K": 400.0})


def test_the_stages_before_it_are_named(tmp_path, toy):
    (tmp_path / "prepare").symlink_to(toy / "prepare")
    refused(tmp_path, "refine needs the folder .*train, which is not there: run `cgrefine train` first")


def test_proteins_without_frames_are_told(toy, capsys):
    one = open_dataset(toy / "prepare").domains[0]
    arrays = {name: np.asarray([getattr(one, name)[k] for k in range(2)]) for name in
              ("positions", "forces", "temperature_K", "replica", "frame")}  # fmt: skip
    other = in_memory("other", one.topology, {**arrays, "validation": np.zeros(2, bool)})
    sim = config_of(toy).sim
    assert sim is not None
    found = with_frames([one, other], sim, validation=True, what="here", console=Console())
    assert [d.name for d in found] == ["chain0"]
    assert "here: without other, of which no validation frame is near 300 K" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"refine\.replicas = 1: 2 domains need one each"):
        assigned([one, other], sim.model_copy(update={"replicas": 1}), None, key="refine.replicas")


def test_the_network_is_refined_if_there_is_one(toy):
    cfg = config_of(toy, terms=None).refine
    assert cfg is not None
    priors = forcefield.load(toy / "train" / "forcefield")
    facts = {**Model(name="schnet", cutoff_A=8.0).model_dump(), "avg_neighbors": 4.0}
    assert refined_terms(cfg, priors) == ("bond", "repulsion")
    assert refined_terms(cfg, forcefield.with_network(priors, facts, {})) == ("network",)
    cfg = cfg.model_copy(update={"terms": ["repulsion", "bond"]})
    assert refined_terms(cfg, priors) == ("bond", "repulsion")


def config_of(folder: Path, **changes: Any) -> Config:
    refine_toy.write_config(folder, refine=changes)
    return load_config(folder / "config.yaml")


def target_of(toy: Path, path: Path, observable: str, content: Any, kind: str = "mse") -> Any:
    """The only target, that of a file with this content."""
    path.write_text(json.dumps(content))
    wanted = {"observable": observable, "kind": kind, "file": str(path), "weight": 2.0}
    config = config_of(toy, targets=[wanted], strain_weight=0.0)
    assert config.refine is not None and config.sim is not None
    (found,) = targets_of(chain(toy), config.sim, config.refine, config.observables)
    return found


def chain(toy: Path) -> Domain:
    return open_dataset(toy / "prepare").domains[0]


def histogram(toy: Path, name: str) -> dict[str, Any]:
    """A good file of one: all in the middle."""
    known = {o.name: o for o in standard(chain(toy).topology, config_of(toy).observables)}
    grid = known[name].grid
    assert grid is not None
    mean = np.zeros(grid.size)
    mean[grid.size // 2] = 1.0
    return {"unit": known[name].unit, "low": grid.low, "high": grid.high, "mean": mean.tolist()}


def test_a_target_of_a_file_is_what_stands_there(toy, tmp_path):
    told = histogram(toy, "Rg")
    told["stderr"] = (0.1 * np.asarray(told["mean"])).tolist()
    found = target_of(toy, tmp_path / "t.json", "Rg", told, "cdf")
    assert np.array_equal(found.mean, told["mean"]) and found.variance.max() == pytest.approx(0.01)
    assert found.value(np.asarray(told["mean"])) == 0.0 and (found.weight, found.floor) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"unit": "nm"}, r"t\.json: unit 'nm', Rg is in 'Å'"),
        ({"low": 1.0}, r"t\.json: a grid from 1\.0 to .*, Rg has one from 0 to 19 Å"),
        ({"high": None}, r"t\.json: a grid from 0\.0 to None"),
        ({"mean": [0.5, 0.5]}, r"target Rg: shape \(2,\), the observable has \("),
        ({"mean": ["a", "b"]}, r"t\.json: `mean` and `stderr` are to be numbers"),
        ({"mean": {"a": 1}}, r"t\.json: `mean` and `stderr` are to be numbers"),
        ({"mean": None}, r"target Rg: shape \(\)"),
        ({"stderr": [0.1]}, r"t\.json: stderr has shape \(1,\), mean \("),
        ({"stderr": -1.0}, r"t\.json: a value of `stderr` is not finite or below 0"),
        ({"stderr": float("nan")}, r"t\.json: a value of `stderr` is not finite or below 0"),
    ],
)
def test_a_file_that_is_no_target_is_one_sentence(toy, tmp_path, wrong, message):
    told = histogram(toy, "Rg")
    if isinstance(wrong.get("stderr"), float):
        wrong = {"stderr": [wrong["stderr"]] * len(told["mean"])}
    with pytest.raises(InputError, match=message) as error:
        target_of(toy, tmp_path / "t.json", "Rg", {**told, **wrong})
    assert "\n" not in str(error.value)


def test_a_file_without_its_keys_is_one_sentence(toy, tmp_path):
    for content in ({"unit": "Å"}, {"mean": []}, [1.0], 3):
        with pytest.raises(InputError, match=r"t\.json: is no target; it needs `unit` and `mean`"):
            target_of(toy, tmp_path / "t.json", "Rg", content)


def test_a_target_beyond_its_grid_is_refused(toy, tmp_path):
    told = histogram(toy, "Rg")
    told["mean"] = [0.0] * (len(told["mean"]) - 1) + [1.0]
    with pytest.raises(InputError, match=r"target Rg: 100% of it lie outside the grid from 0 to 19 Å"):
        target_of(toy, tmp_path / "t.json", "Rg", told)


@pytest.fixture(scope="module")
def made(toy) -> Setup:
    config = config_of(toy, keep_windows=2, product="whole", targets=[])
    return setup(config, toy, QUIET, lambda packs: packs)


def test_what_is_set_up_is_what_was_asked_for(made):
    assert made.sim.duration_ps == 2.0 and made.judging.duration_ps == 4.0 and made.judging.packs == 1
    assert made.judging.seed == made.sim.seed + 1
    validation = np.asarray(made.domains[0].positions[made.domains[0].validation])
    centred = validation - validation.mean(axis=1, keepdims=True)
    for r in made.held_out:
        assert np.abs(centred - r.start).max(axis=(1, 2)).min() < 1e-4
    starts = made.refinement.starts.reshape(8, 10, 3)
    assert min(np.abs(centred - x).max(axis=(1, 2)).min() for x in starts) > 0.1
    assert made.refinement.choice.burn_in == 4


def filled(made: Setup) -> Any:
    """A state like one in the middle: two windows kept, numbers that there are not yet."""
    refinement, rng = made.refinement, np.random.default_rng(0)
    state = refinement.init()
    window = refinement.simulator.empty()
    windows = []
    for k in (1, 2):
        status = window.status.copy()
        status[k] = Status.OVERLAP
        windows.append(
            window._replace(
                positions=rng.normal(size=window.positions.shape).astype(np.float32), status=status
            )
        )
    state = state._replace(
        kept=tuple(Kept(jax.tree.map(lambda p, k=k: p + np.float32(k), state.fit.params), w)
                   for k, w in enumerate(windows)),
        counters=state.counters._replace(phase=np.asarray(int(Phase.LEARN)), windows=np.asarray(5)),
        fit=state.fit._replace(rate=np.asarray(0.2)),
    )  # fmt: skip
    assert np.isnan(state.marks.least)
    return state


@pytest.mark.parametrize("control", [True, False])
def test_a_state_on_disk_is_the_state(made, tmp_path, control):
    state, path = filled(made), tmp_path / "state.npz"
    log = [{"window": 1, "failed": float("nan"), "rejected": ""}]
    if not control:
        state = state._replace(fit=state.fit._replace(control=None))
    refine_state.save(path, state, log, "this")
    assert refine_state.found(path, made.refinement, "other") is None
    assert refine_state.found(tmp_path / "none.npz", made.refinement, "this") is None
    if not control:
        # a refinement with a control cannot go on from a state without one
        with pytest.raises(InputError, match=r"is not of this refinement .* begin anew with --resume never"):
            refine_state.found(path, made.refinement, "this")
        return
    found = refine_state.found(path, made.refinement, "this")
    assert found is not None and found[1][0]["window"] == 1 and np.isnan(found[1][0]["failed"])
    pairs = zip(*(checkpoint.named_leaves(s).items() for s in (state, found[0])), strict=True)
    for (name, a), (other, b) in pairs:
        assert name == other and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), (
            name
        )


def test_a_state_without_a_control_is_found_by_its_like(toy, made, tmp_path):
    config = config_of(toy, evaluation={"control": False}, targets=[])
    without = setup(config, toy, QUIET, lambda packs: packs).refinement
    state = without.init()
    assert state.fit.control is None
    refine_state.save(tmp_path / "state.npz", state, [], "this")
    found = refine_state.found(tmp_path / "state.npz", without, "this")
    assert found is not None and found[0].fit.control is None and found[0].kept == () and found[1] == []


def test_packs_are_those_of_the_section_and_at_most_one_a_replica(toy):
    seen = []

    def begun(packs: int) -> int:
        seen.append(packs)
        return 3

    config = config_of(toy, targets=[])
    assert config.sim is not None
    config = config.model_copy(update={"sim": config.sim.model_copy(update={"packs": 20, "replicas": 20})})
    made = setup(config, toy, QUIET, begun)
    assert seen == [8] and len(made.refinement.simulator.packs) == 3
    assert made.sim.packs == 3 and made.judging.packs == 3
