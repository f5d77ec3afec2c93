"""Force fields with known differences on the same frames."""

import numpy as np
import pytest

from cgrefine.config.data import Loader
from cgrefine.data.frames import frame_set
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.fm.blocks import Estimate, drawings
from cgrefine.fm.compare import Difference, _difference, compare
from cgrefine.fm.evaluate import evaluate
from cgrefine.fm.forcefield import ForceField, prior_only
from tests.data.domains import flat_domain
from tests.fm.prior_toy import FACTS, T_K, TRUE, prior_domain
from tests.fm.toy import RADIAL, TEACHER

NOISE = 3.0
CUTOFF = 9.0


def stiffer(factor: float) -> ForceField:
    """The true bonds and repulsion with every force constant of the bonds times `factor`."""
    bond = {**TRUE["bond"], "k": factor * TRUE["bond"]["k"]}
    return prior_only(FACTS, {"bond": bond, "repulsion": TRUE["repulsion"]}, T_K)


@pytest.fixture(scope="module")
def frames():
    """Eight beads at 300 K, and twelve at 400 K with twice the noise."""
    cold = prior_domain(8, 60, seed=8, noise=NOISE, temperature_K=300.0)
    hot = prior_domain(12, 60, seed=12, noise=2 * NOISE, temperature_K=400.0)
    return frame_set([cold, hot], False, CUTOFF)


@pytest.fixture(scope="module")
def result(frames):
    given = {"true": stiffer(1.0), "soft": stiffer(0.9), "same": stiffer(1.0), "hard": stiffer(1.1)}
    return compare(given, frames, 60, Loader())


def test_errors_are_those_of_evaluate(result, frames):
    errors, force_field = result.contenders[1].errors, stiffer(0.9)
    alone = evaluate(force_field.model, force_field.params, frames, 60, Loader()).metrics
    assert errors.mse == pytest.approx(alone["force_mse"], rel=1e-5)
    assert errors.rmse.value == pytest.approx(np.sqrt(errors.mse.value))
    assert errors.explained_variance == pytest.approx(alone["explained_variance"], rel=1e-5)
    assert errors.explained_variance_over_prior.value == pytest.approx(0.0, abs=1e-6)
    assert result.zero.mse.value == pytest.approx(alone["force_mse_zero"].value)
    assert (result.frames, result.beads) == (120, 60 * 20)


def test_the_true_one_wins_and_its_copy_ties(result):
    true, soft, same, hard = result.contenders
    assert true.difference is None
    assert same.difference == Difference(Estimate(0.0, 0.0), 0.0, 0.0) and not same.difference.significant
    for other in (soft, hard):
        d = other.difference
        assert d.significant and d.mse.value == pytest.approx(other.errors.mse.value - true.errors.mse.value)
        assert d.low < d.mse.value < d.high
        # what the frames have in common drops out
        assert d.mse.stderr < 0.5 * other.errors.mse.stderr


def test_the_mean_and_the_best_combination(result):
    """0.9 and 1.1 times the bond forces average to the true ones, so do all four; the floor is the noise.

    Half the mean square difference over the six pairs: (0.1² · 4 + 0.2²)/12 of the mean square bond force.
    """
    true, soft = result.contenders[:2]
    assert result.mean.mse.value == pytest.approx(true.errors.mse.value, rel=1e-4)
    assert 0.98 * true.errors.mse.value < result.floor_at_most.value <= true.errors.mse.value
    bond = (
        100 * (soft.errors.mse.value + result.contenders[3].errors.mse.value - 2 * true.errors.mse.value) / 2
    )
    assert result.spread.value == pytest.approx(bond * (4 * 0.1**2 + 0.2**2) / 12, rel=1e-3)


def test_temperatures_are_apart(result):
    """The true model leaves the noise of each; standard error σ² sqrt(2/components), four of them."""
    found = result.contenders[0].by_temperature
    assert list(found) == [300.0, 400.0]
    for t, n, noise in ((300.0, 8, NOISE), (400.0, 12, 2 * NOISE)):
        allowed = 4 * noise**2 * np.sqrt(2 / (60 * 3 * n))
        assert found[t].mse.value == pytest.approx(noise**2, abs=allowed)
    mean = 0.4 * found[300.0].mse.value + 0.6 * found[400.0].mse.value
    assert result.contenders[0].errors.mse.value == pytest.approx(mean)


def test_a_network_counts_on_top_of_its_priors(frames, monkeypatch):
    monkeypatch.setattr(forcefield, "network_term", lambda facts: RADIAL)
    both = forcefield.with_network(stiffer(1.0), {"name": "allegro"}, TEACHER)
    found = compare({"priors": stiffer(1.0), "both": both}, frames, 60, Loader())
    priors, network = found.contenders
    assert (priors.network_parameters, network.network_parameters) == (0, 2)
    assert network.parameters == priors.parameters + 2
    ratio = 1 - network.errors.mse.value / priors.errors.mse.value
    assert network.errors.explained_variance_over_prior.value == pytest.approx(ratio)
    assert network.difference is not None and network.difference.mse.value > 0.0


def test_the_interval_covers_no_difference_as_often_as_it_says():
    """Two predictions of equal error in truth: 95 % of the intervals hold zero, within four standard errors
    of 200 trials (false alarm 6e-5)."""
    rng, hits, trials = np.random.default_rng(2), 0, 200
    counts = drawings(60, rng)
    for _ in range(trials):
        f, a, b = rng.normal(size=(3, 60, 20))
        u = np.stack([f, f + a, f + b])
        p = np.einsum("kbn,lbn->bkl", u, u)
        drawn = np.einsum("db,bkl->dkl", counts, p)
        found = _difference(drawn, 20.0 * counts.sum(1), np.eye(3)[1], np.eye(3)[2])
        hits += not found.significant
    assert hits / trials == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / trials))


def test_no_frame_is_an_error():
    empty = frame_set([flat_domain(0, [(300.0, 5, True)])], False, CUTOFF)
    with pytest.raises(InputError, match="no frame"):
        compare({"a": stiffer(1.0)}, empty, 60, Loader())
