"""Weights by a rule, from forces whose noise is known."""

from dataclasses import replace

import numpy as np
import pytest

from cgrefine.config.training import Loss
from cgrefine.data.frames import frame_set
from cgrefine.data.packing import budget_for
from cgrefine.energy import SumOfTerms
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.fm.weighting import weighting
from tests.chains import random_topology
from tests.fm.prior_toy import FACTS, TRUE, prior_domain

N, FRAMES = 40, 60
CHAINS = {4: (300.0, 1.0), 5: (300.0, 1.0), 6: (450.0, 2.0)}
"""Seed → temperature in K, and its factor on the noise."""

NOISE = np.where(np.arange(20) % 3 == 0, 3.0, 1.0)
"""By species, kcal/mol/Å; the bonds of these chains have some 40."""


@pytest.fixture(scope="module")
def frames():
    domains = [
        prior_domain(
            N,
            FRAMES,
            seed,
            noise=factor * NOISE[random_topology(N, seed).species][:, None],
            temperature_K=kelvin,
        )
        for seed, (kelvin, factor) in CHAINS.items()
    ]
    broken = np.array(domains[0].forces)
    broken[3, 2] = np.nan
    return frame_set([replace(domains[0], forces=broken), *domains[1:]], False, 9.0)


def found(frames, **rules):
    model = SumOfTerms(prior_terms(FACTS))
    params = {term.name: TRUE[term.name] for term in model.terms}
    weights = weighting(frames, Loss(**rules), model, params, budget_for([frames], 400, 1.2))
    assert weights is not None
    return weights


def beads(frames):
    """Species, square of the noise and temperature of each bead of a frame of each chain."""
    species = np.concatenate([domain.topology.species for domain in frames.domains])
    kelvin, factor = np.repeat(np.array(list(CHAINS.values())), N, axis=0).T
    return species, (NOISE[species] * factor) ** 2, kelvin


def agrees(ratio, expected, *counts):
    """Of mean squares over so many Gaussian components each, whose relative variance is 2/n: 5 σ."""
    return abs(np.log(ratio / expected)) < 5.0 * np.sqrt(sum(2.0 / n for n in counts))


def test_residues_weigh_as_the_inverse_of_what_the_priors_leave(frames):
    weights = found(frames, residue_weights="inverse_variance")
    species, squares, _ = beads(frames)
    count, mean = np.bincount(species, minlength=20), np.bincount(species, squares, minlength=20)
    there = np.flatnonzero(count)
    mean = mean[there] / count[there]
    for k, kind in enumerate(there[1:], 1):
        ratio = weights.residue[kind] / weights.residue[there[0]]
        # of unlike variances, fewer components count: at least a third
        sizes = FRAMES * count[[there[0], kind]]
        assert agrees(ratio, mean[0] / mean[k], *sizes)
    assert np.all(weights.residue[count == 0] == 1) and np.all(weights.piece == 1)
    # but for the frame that is left out
    assert np.sum(count * weights.residue) / np.sum(count) == pytest.approx(1.0, abs=0.02)


def test_temperatures_weigh_as_the_inverse_of_what_the_priors_leave(frames):
    weights = found(frames, temperature_weights="inverse_variance")
    _, squares, kelvin = beads(frames)
    cold, hot = (kelvin == 300.0), (kelvin == 450.0)
    pieces = frames.pieces.temperature_K
    low, high = weights.piece[pieces == 300.0], weights.piece[pieces == 450.0]
    assert np.ptp(low) == 0 and np.ptp(high) == 0 and np.all(weights.residue == 1)
    expected = squares[hot].mean() / squares[cold].mean()
    assert agrees(low[0] / high[0], expected, FRAMES * cold.sum() / 3, FRAMES * hot.sum() / 3)
    assert (2 * low[0] + high[0]) / 3 == pytest.approx(1.0, abs=0.02)
