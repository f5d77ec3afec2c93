"""The priors stage on a small data set on disk: its files, its metrics, and its honesty about failure."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cgrefine import residues
from cgrefine.artifacts import Record, Stage, file_hash, read_json
from cgrefine.cli import priors, priors_run
from cgrefine.cli.console import Console
from cgrefine.cli.priors_run import PriorRun
from cgrefine.config.load import parse
from cgrefine.data.store import open_dataset, write_domain, write_index
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.fm.priors import marginals
from cgrefine.fm.priors.fit import FittedPriors, fit_priors
from cgrefine.status import REASONS, Status
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal
from tests.report.pages import valid_figures

pytestmark = pytest.mark.stages

SEQUENCES = {"one": "AGTALKAEAV", "two": "AEAAPKAGAA"}


def frames_of(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Chains near an α-helix: right-handed, so that the fit can be asked for its hand.

    Chains that cross themselves are drawn again: a run started from one would fail at its first step.
    """
    i, j = np.triu_indices(n, k=3)
    frames: list[np.ndarray] = []
    while len(frames) < count:
        x = chain_from_internal(
            rng.normal(3.82, 0.06, n - 1), rng.normal(1.62, 0.12, n - 2), rng.normal(0.9, 0.25, n - 3)
        )
        if np.linalg.norm(x[i] - x[j], axis=1).min() > 3.6:
            frames.append(x)
    return np.asarray(frames)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng, count = tmp_path_factory.mktemp("run"), np.random.default_rng(0), 120
    entries = []
    for name, sequence in SEQUENCES.items():
        topology = topology_from_species(residues.species_from_sequence(sequence))
        x = frames_of(len(sequence), count, rng)
        arrays = {
            "positions": x,
            "forces": np.zeros_like(x),
            "temperature_K": np.repeat([320.0, 450.0], count // 2),
            "replica": np.zeros(count),
            "frame": np.arange(count),
            "validation": np.arange(count) % 5 == 0,
        }
        entries.append(write_domain(root / "prepare", name, topology, arrays, {}))
    write_index(root / "prepare", entries, {})
    return root


GATE = {"steps": 1000, "replicas": 8, "domains": 1, "save_every_ps": 0.2, "nve_duration_ps": 4.0}


def run(root: Path, path: Path, **settings) -> Stage:
    small = {"angle": {"knots": 12}, "bootstrap": 4, "iterate": {"rounds": 1, "steps": 1000}, "gate": GATE}
    config = parse({"priors": {**small, **settings}}, "test")
    stage = Stage("priors", path, Record())
    priors.build(stage, config, root, Console(quiet=True))
    return stage


@pytest.fixture(scope="module")
def made(root, tmp_path_factory) -> Stage:
    return run(root, tmp_path_factory.mktemp("priors"))


def test_files_and_metrics(made):
    loaded = forcefield.load(made.path / "forcefield")
    assert loaded.facts["temperature_K"] == 320.0 and loaded.facts["network"] is None
    assert [t.name for t in loaded.model.terms] == ["bond", "angle", "dihedral", "repulsion"]
    assert len(valid_figures(made.path / "report.html")) >= 7
    found = read_json(made.path / "diagnostics.json")
    assert found["frames"] == 2 * 48 and found["rounds"] == 1
    metrics = made.record.metrics
    assert metrics["replicas"] == 8 and metrics["steps"] == 1000
    assert metrics["duration_ps"]["value"] == pytest.approx(4.0)
    assert metrics["stable_fraction"] == 1.0
    assert metrics["bond_r0"]["value"] == pytest.approx(3.82, abs=0.01) and metrics["bond_r0"]["stderr"] > 0
    # kT/k = 0.06² at 320 K; 800 bonds: 5 % standard error
    assert metrics["bond_k"]["value"] == pytest.approx(0.6359 / 0.06**2, rel=0.2)
    assert metrics["helix_mirror_gap_kT"] > 1.0 and metrics["smallest_distance_A"] > 2.8


def test_the_verdict_names_its_parameters_and_its_run(made):
    """gate.json holds every check with its limit, and the hash of the parameters that it is about."""
    verdict = read_json(made.path / "gate.json")
    assert verdict["parameters"] == file_hash(made.path / "forcefield" / "params.npz")
    assert set(verdict["checks"]) == set(made.record.checks) >= {"stable_fraction", "kl_bond", "walls_kT"}
    assert verdict["passed"] == all(check["passed"] for check in verdict["checks"].values())
    run = verdict["simulation"]
    assert run["replicas"] == 8 and run["steps"] == 1000 and run["domains"] == ["one"]
    assert abs(run["kinetic_temperature_K"] - 320.0) < 40.0 and run["failed"] == []


LONGER = {**GATE, "steps": 5_000}


def judged(root: Path, fitted: FittedPriors) -> tuple[set[str], set[int]]:
    """After a real simulation of these priors: names of the checks that fail, and statuses of replicas."""
    cfg = parse({"priors": {"gate": LONGER}}, "test").priors
    dataset = open_dataset(root / "prepare")
    shown = replace(dataset, domains=dataset.domains[:1])
    made = priors.judge(fitted, None, shown, cfg, Console(quiet=True))
    return {name for name, check in made.checks.items() if not check.passed}, set(made.run.status.tolist())


@pytest.fixture(scope="module")
def inverted(root) -> FittedPriors:
    config = parse({"priors": {"angle": {"knots": 12}, "bootstrap": 0}}, "test")
    return fit_priors(open_dataset(root / "prepare"), config.priors)


def test_what_is_not_planted_passes(root, inverted):
    assert judged(root, inverted) == (set(), {Status.OK})


def planted(fitted: FittedPriors, term: str, facts: dict, **values: np.ndarray) -> FittedPriors:
    terms = [t | facts if t["name"] == term else t for t in fitted.facts["terms"]]
    params = {**fitted.params, term: values if facts else {**fitted.params[term], **values}}
    return replace(fitted, facts={**fitted.facts, "terms": terms}, params=params)


@pytest.mark.slow
def test_planted_false_minimum_of_angles_at_43_degrees(root, inverted):
    """A free polynomial with a deep well where no data lie: angles fold there, and the run says so."""
    theta = np.linspace(0.2, np.pi, 300)
    true = 40.0 * (theta - 1.62) ** 2
    well = -70.0 * np.exp(-0.5 * ((theta - np.radians(43.0)) / 0.25) ** 2)
    powers = np.cos(theta)[:, None] ** np.arange(1, 9)
    fit = np.linalg.lstsq(powers, true + well, rcond=None)[0]
    facts = {
        "form": "polynomial",
        "classes": "global",
        "low": 0.3,
        "high": 3.0,
        "wall_k": 1.0,
        "wall_ramp": 0.035,
    }
    bad, statuses = judged(root, planted(inverted, "angle", facts, coefficients=fit[None]))
    assert bad >= {"stable_fraction", "walls_kT"} and Status.SECOND_NEIGHBOR in statuses


@pytest.mark.slow
def test_planted_tail_without_force(root, inverted):
    """The ends of the angle spline made level, and no curvature beyond: no wall."""
    level = np.array(inverted.params["angle"]["coefficients"])
    level[:, :4], level[:, -4:] = level[:, 3:4], level[:, -4:-3]
    facts = {"wall_k": 0.0}
    bad, _ = judged(root, planted(inverted, "angle", facts, coefficients=level))
    assert bad >= {"walls_kT"}


def test_planted_priors_without_sines(root, inverted):
    bad, _ = judged(root, planted(inverted, "dihedral", {}, sin=0.0 * inverted.params["dihedral"]["sin"]))
    assert bad >= {"helix_mirror_gap_kT", "reference_mirror_gap_kT"}
    assert not bad & {"bond_variance_error", "walls_kT", "angle_below_65"}


def test_planted_pooled_temperatures(root, inverted):
    """Frames of 320 and 450 K in one inversion at 320 K: springs too soft by 385/320."""
    bad, _ = judged(root, planted(inverted, "bond", {}, k=inverted.params["bond"]["k"] * 320.0 / 385.0))
    assert bad >= {"bond_variance_error"}
    assert not bad & {"helix_mirror_gap_kT", "walls_kT", "angle_below_65"}


def test_a_run_that_blows_up_is_said_to(root, tmp_path, monkeypatch):
    """All replicas broken before the first frame that counts: the gate fails, and the page is written."""
    status, never = np.full(4, Status.BOND), np.zeros(4)
    lost = PriorRun(marginals.empty(), status, never, math.nan, 1000, 4.0, 0)
    monkeypatch.setattr(priors_run, "simulate", lambda *_: lost)
    stage = run(root, tmp_path)
    assert stage.record.metrics["stable_fraction"] == 0.0
    verdict = read_json(tmp_path / "gate.json")
    assert not verdict["passed"] and len(verdict["simulation"]["failed"]) == 4
    failed = {name for name, check in verdict["checks"].items() if not check["passed"]}
    assert failed >= {
        "stable_fraction",
        "kl_bond",
        "bond_variance_error",
        "angle_below_65",
        "smallest_distance_A",
    }
    assert REASONS[Status.BOND] in (tmp_path / "report.html").read_text()


def test_a_temperature_that_is_not_there(root, tmp_path):
    with pytest.raises(InputError, match="320, 450 K"):
        run(root, tmp_path, temperature_K=400.0)
