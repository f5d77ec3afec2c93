"""Errors by runs: those of theory for independent runs, larger for correlated frames; blocks lose nothing."""

from pathlib import Path

import numpy as np
import pytest

from cgrefine.config.priors import BondPrior
from cgrefine.data.store import Dataset, in_memory
from cgrefine.fm.priors import bootstrap, classes, estimators, marginals
from cgrefine.fm.priors.classes import Kind, Scheme
from cgrefine.fm.priors.estimators import bond_estimator
from cgrefine.system import topology_from_species
from tests.chains import random_chain
from tests.fm.histograms import counts, edges, sampled

KT, K, R0 = 0.6359, 160.0, 3.85
SCHEMES: dict[Kind, Scheme] = {"bond": "global", "angle": "class", "dihedral": "type"}
BLOCKS, PER_BLOCK, ROWS = 32, 300, 40


def bond_blocks(shift):
    """ROWS types of bonds, each seen PER_BLOCK times in each of BLOCKS runs; shift: sd of a run's mean, Å."""
    blocks = np.zeros((BLOCKS, len(classes.labels("bond", "type")), 800))
    rng = np.random.default_rng(1)
    for row in range(ROWS):
        r = sampled(
            lambda r: 2.0 * np.log(r) - 0.5 * K * (r - R0) ** 2 / KT, 3.45, 4.3, BLOCKS * PER_BLOCK, row
        ).reshape(BLOCKS, PER_BLOCK)
        for block, values in zip(blocks, r + shift * rng.normal(size=(BLOCKS, 1)), strict=True):
            block[row] = np.histogram(values, edges("bond"))[0]
    return blocks


def bond_errors(blocks, resamples=60):
    """Mean over the rows of the standard errors of x0 and of k, without shrinkage."""
    estimator = bond_estimator(BondPrior(classes="type"), edges("bond"), 0.0)
    found = [
        estimator.params(estimators.inverted(estimator, sample["bond"], 0.0), KT)
        for sample in bootstrap.resampled({"bond": blocks}, resamples, seed=3)
    ]
    best = estimator.params(estimators.inverted(estimator, blocks.sum(axis=0), 0.0), KT)
    return [
        bootstrap.standard_error(np.stack([f[key] for f in found]), best[key], BLOCKS)[:ROWS].mean()
        for key in ("x0", "k")
    ]


def test_errors_of_independent_runs_are_those_of_theory():
    """sqrt(kT/k/n) of x0 and k sqrt(2/n) of k. The error of a row is known to 13 % from 32 blocks and to 9 %
    from 60 resamples, its mean over 40 rows to 2.5 %; the spread of the draws, which all rows share, adds
    1.6 %. Four of both together are 12 %."""
    x0, k = bond_errors(bond_blocks(0.0))
    n = BLOCKS * PER_BLOCK
    assert x0 == pytest.approx(np.sqrt(KT / K / n), rel=0.12)
    assert k == pytest.approx(K * np.sqrt(2 / n), rel=0.12)


def test_errors_of_correlated_runs_are_larger():
    """Runs whose means differ by 0.02 Å: the error of x0 is that of 32 means, 5 times the naive one."""
    x0, _ = bond_errors(bond_blocks(0.02))
    expected = np.sqrt(0.02**2 / BLOCKS + KT / K / (BLOCKS * PER_BLOCK))
    assert x0 == pytest.approx(expected, rel=0.12)
    assert x0 > 4 * np.sqrt(KT / K / (BLOCKS * PER_BLOCK))


def test_factor_for_few_blocks():
    """Means of three values drawn with replacement from three: all 27 draws give the unbiased error."""
    values = np.array([1.0, 2.0, 6.0])
    draws = np.stack([g.ravel() for g in np.meshgrid(values, values, values)]).mean(axis=0)
    expected = values.std(ddof=1) / np.sqrt(3)
    assert bootstrap.standard_error(draws, np.asarray(3.0), 3) == pytest.approx(expected)


def test_errors_of_an_angle_know_its_period():
    samples = np.array([3.1, -3.1, 3.0, -3.0])
    found = bootstrap.standard_error(samples, np.asarray(np.pi), 10**9, 2 * np.pi)
    gap = np.pi - np.array([3.1, 3.1, 3.0, 3.0])
    assert found == pytest.approx(np.sqrt((gap**2).mean()), rel=1e-6)


def dispersion_of(repeats):
    phi = sampled(lambda x: -np.cos(x), -np.pi, np.pi, 30_000, 0).reshape(30, -1)[:, : 1000 // repeats]
    blocks = np.stack([repeats * counts(part, "dihedral") for part in phi])
    order = np.arange(1, 7)
    centres = 0.5 * (edges("dihedral")[1:] + edges("dihedral")[:-1])
    waves = np.concatenate([np.cos(centres[:, None] * order), np.sin(centres[:, None] * order)], axis=1)
    return bootstrap.dispersion(blocks, "dihedral", "global", waves)[0][0]


def test_dispersion_counts_repeated_frames():
    """Every torsion counted 20 times: variances are 20-fold. χ² with 12 · 29 degrees: 8 %, four of them."""
    assert 1.0 <= dispersion_of(1) < 1.32
    assert dispersion_of(20) == pytest.approx(20.0, rel=0.32)


def test_dispersion_of_rows_in_one_block_is_that_of_all():
    blocks = np.random.default_rng(0).poisson(5.0, (6, 3, 360)).astype(float)
    blocks[1:, 2] = 0.0
    blocks[:, 0] *= 3.0
    everything, by_class = bootstrap.dispersion(
        blocks, "dihedral", "class", np.cos(np.arange(360.0))[:, None]
    )
    assert by_class[2] == everything[0]
    alone = bootstrap.dispersion(blocks[:1], "dihedral", "class", np.cos(np.arange(360.0))[:, None])
    assert all(np.all(level == 1.0) for level in alone)


def domain(name, n_frames, replicas, temperature_K=320.0, n=8):
    """Random chains; frames in turn from the replicas."""
    x = np.stack([random_chain(n, seed) for seed in range(n_frames)]).astype(np.float32)
    arrays = {
        "positions": x,
        "forces": np.zeros_like(x),
        "temperature_K": np.full(n_frames, temperature_K),
        "replica": np.sort(np.arange(n_frames) % replicas),
        "frame": np.arange(n_frames),
        "validation": np.zeros(n_frames, bool),
    }
    return in_memory(name, topology_from_species([0, 7, 14, 0, 9, 1, 2, 3][:n]), arrays)


def dataset(*domains):
    return Dataset(Path("."), domains, {})


def test_blocks_are_runs_and_hold_every_count():
    data = dataset(domain("a", 12, 3), domain("b", 4, 2), domain("hot", 5, 1, 450.0))
    found = bootstrap.training_counts(data, 320.0, 3, SCHEMES)
    assert (found.n_frames, found.n_runs, found.n_blocks, found.unit) == (16, 5, 5, "runs")
    assert found.blocks["bond"].sum(axis=(1, 2)).tolist() == [28.0, 28.0, 28.0, 14.0, 14.0]
    for kind, scheme in SCHEMES.items():
        fine = marginals.grouped(getattr(found.marginals, kind), kind, scheme)
        assert np.array_equal(found.blocks[kind].sum(axis=0), fine.counts)
    assert np.array_equal(found.blocks["distance"].sum(axis=0), found.marginals.distance.counts)


def test_many_runs_are_dealt_to_few_blocks():
    found = bootstrap.training_counts(dataset(domain("a", 70, 70)), 320.0, 3, SCHEMES)
    assert (found.n_runs, found.n_blocks) == (70, bootstrap.MAX_BLOCKS)
    per_frame = found.blocks["bond"].sum(axis=(1, 2)) / 7
    assert per_frame.tolist() == [3.0] * 6 + [2.0] * 26


def test_one_run_is_cut_in_pieces():
    found = bootstrap.training_counts(dataset(domain("a", 20, 1)), 320.0, 3, SCHEMES)
    assert (found.n_runs, found.n_blocks, found.unit) == (1, bootstrap.PIECES, "pieces of one run")
    assert found.blocks["bond"].sum() == 20 * 7
