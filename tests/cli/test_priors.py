"""The priors stage on a small data set on disk: its files, its metrics, and its honesty about failure."""

import math
from pathlib import Path

import numpy as np
import pytest

from cgrefine import residues
from cgrefine.artifacts import Record, Stage, read_json
from cgrefine.cli import priors
from cgrefine.cli.console import Console
from cgrefine.config.load import parse
from cgrefine.data.store import write_domain, write_index
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.fm.priors import marginals
from cgrefine.status import REASONS, Status
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal

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


def run(root: Path, path: Path, **settings) -> Stage:
    short = {"duration_ps": 0.8, "timestep_fs": 4.0, "replicas": 2}
    config = parse({"priors": {"angle_knots": 12, "simulation": short, **settings}}, "test")
    stage = Stage("priors", path, Record())
    priors.build(stage, config, root, Console(quiet=True))
    return stage


def test_files_and_metrics(root, tmp_path):
    stage = run(root, tmp_path)
    loaded = forcefield.load(tmp_path / "forcefield")
    assert loaded.facts["temperature_K"] == 320.0 and loaded.facts["network"] is None
    assert [t.name for t in loaded.model.terms] == ["bond", "angle", "dihedral", "repulsion"]
    assert "<html" in (tmp_path / "report.html").read_text()
    assert read_json(tmp_path / "diagnostics.json")["frames"] == 2 * 48
    metrics = stage.record.metrics
    assert metrics["replicas"] == 4 and metrics["duration_ps"]["value"] == pytest.approx(0.8, rel=0.01)
    assert metrics["stable_fraction"] == 1.0
    assert metrics["bond_r0"]["value"] == pytest.approx(3.82, abs=0.01)
    # kT/k = 0.06² at 320 K; 800 bonds: 5 % standard error
    assert metrics["bond_k"]["value"] == pytest.approx(0.6359 / 0.06**2, rel=0.2)
    assert metrics["helix_mirror_gap_kT"] > 1.0
    assert metrics["angle_below_65_fraction"] < 0.01 and metrics["smallest_nonbonded_A"]["value"] > 2.8
    assert set(stage.record.checks) == {"stable_fraction", "angle_below_65", "kl_bond"}


def test_a_run_that_blows_up_is_said_to(root, tmp_path, monkeypatch):
    """All replicas broken before the first frame that counts: no check passes, and the page is written."""
    lost = priors.PriorRun(marginals.empty(), np.full(4, Status.BOND), math.nan, 0.1, 0)
    monkeypatch.setattr(priors, "simulate_priors", lambda *_: lost)
    stage = run(root, tmp_path)
    assert stage.record.metrics["stable_fraction"] == 0.0
    assert not any(check["passed"] for check in stage.record.checks.values())
    assert REASONS[Status.BOND] in (tmp_path / "report.html").read_text()


def test_a_temperature_that_is_not_there(root, tmp_path):
    with pytest.raises(InputError, match="320, 450 K"):
        run(root, tmp_path, temperature_K=400.0)
