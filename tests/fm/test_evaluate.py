"""Force errors of a model whose errors are known."""

import numpy as np
import pytest

from cgrefine.config.data import Loader
from cgrefine.data.frames import frame_set
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm.evaluate import evaluate
from tests.fm.toy import CUTOFF, PRIOR, PRIOR_PARAMS, RADIAL, TEACHER, domain

NOISE = 2.0
MODEL = SumOfTerms((*PRIOR.terms, RADIAL))
PARAMS = {**PRIOR_PARAMS, "network": TEACHER}


@pytest.fixture(scope="module")
def frames():
    domains = [domain(n, 40, seed=n, noise=NOISE, validation=range(30)) for n in (6, 11)]
    return frame_set(domains, validation=True, cutoff_A=CUTOFF)


@pytest.fixture(scope="module")
def result(frames):
    return evaluate(MODEL, PARAMS, frames, batch_beads=50, loader=Loader())


def test_only_the_noise_is_left(result):
    """The true model leaves the noise: MSE σ², standard error σ² sqrt(2/components); 4 σ, fixed seed."""
    components = 3 * result.beads
    assert (result.frames, result.beads) == (60, 30 * 17)
    mse = result.metrics["force_mse"]
    expected = NOISE**2 * np.sqrt(2 / components)
    assert abs(mse.value - NOISE**2) < 4 * expected
    assert 0.4 * expected < mse.stderr < 2.5 * expected
    assert result.metrics["force_rmse_kcal_mol_A"].value == pytest.approx(np.sqrt(mse.value))


def test_metrics_agree_with_direct_sums(result, frames):
    squares = sum(float((frames.forces(row).astype(float) ** 2).sum()) for row in range(len(frames)))
    metrics = {name: estimate.value for name, estimate in result.metrics.items()}
    assert metrics["force_mse_zero"] == pytest.approx(squares / (3 * result.beads))
    assert metrics["explained_variance"] == pytest.approx(
        1 - metrics["force_mse"] / metrics["force_mse_zero"]
    )
    assert metrics["explained_variance_prior"] == pytest.approx(
        1 - metrics["force_mse_prior"] / metrics["force_mse_zero"]
    )
    assert metrics["force_mse"] < metrics["force_mse_prior"] < metrics["force_mse_zero"]


def test_terms_add_up(result):
    assert [row.term for row in result.terms] == ["bond", "network"]
    bond, network = result.terms
    assert bond.cumulative_mse == pytest.approx(result.metrics["force_mse_prior"].value)
    assert network.cumulative_mse == pytest.approx(result.metrics["force_mse"].value)
    assert bond.rms_force > 0 and network.rms_force > 0
    assert bond.alone_mse == pytest.approx(bond.cumulative_mse)
    assert network.alone_mse == pytest.approx(result.metrics["force_mse_network"].value)
    assert network.cumulative_rmse == pytest.approx(result.metrics["force_rmse_kcal_mol_A"].value)


@pytest.mark.parametrize("title", ["residue type", "chain position", "temperature", "protein"])
def test_divisions_of_the_beads_add_up(result, title):
    rows = result.breakdowns[title]
    components = np.array([row.components for row in rows])
    assert components.sum() == 3 * result.beads
    for field, metric in (("mse", "force_mse"), ("reference_rms", "force_rmse_zero_kcal_mol_A")):
        values = np.array([getattr(row, field).value for row in rows]) ** (1 if field == "mse" else 2)
        mean = (components * values).sum() / components.sum()
        expected = result.metrics[metric].value ** (1 if field == "mse" else 2)
        assert mean == pytest.approx(expected)
    assert len({row.group for row in rows}) == len(rows) > (0 if title == "temperature" else 1)
    for row in rows:
        assert row.rmse.value == pytest.approx(np.sqrt(row.mse.value))
        assert row.explained_variance.value == pytest.approx(1 - row.mse.value / row.reference_rms.value**2)


@pytest.mark.parametrize("title", ["component", "local axis"])
def test_components_add_up(result, title):
    """Any three perpendicular axes: Pythagoras; each row has one component of every bead."""
    rows = result.breakdowns[title]
    assert [row.components for row in rows] == [result.beads] * 3
    assert np.mean([row.mse.value for row in rows]) == pytest.approx(result.metrics["force_mse"].value)


def test_errors_by_position_agree_with_direct_sums(frames):
    """No model but priors that are wrong by a known factor: residuals written out bead by bead."""
    half = {"bond": 0.5 * PRIOR_PARAMS["bond"]}
    found = evaluate(PRIOR, half, frames, batch_beads=50, loader=Loader()).breakdowns["chain position"]
    squares: dict[str, list[float]] = {}
    for row in range(len(frames)):
        x, f = frames.positions(row).astype(float), frames.forces(row).astype(float)
        bond = np.diff(x, axis=0)
        length = np.linalg.norm(bond, axis=1, keepdims=True)
        pull = 50.0 * (length - 3.8) * bond / length
        error = f.copy()
        error[:-1] -= pull
        error[1:] += pull
        n = len(x)
        for i, e in enumerate(error):
            name = f"N-terminal {i + 1}" if i < 3 else f"C-terminal {n - i}" if n - i <= 3 else "interior"
            squares.setdefault(name, []).append(float((e**2).sum()))
    assert {row.group for row in found} == set(squares)
    for row in found:
        assert row.components == 3 * len(squares[row.group])
        assert row.mse.value == pytest.approx(np.mean(squares[row.group]) / 3, rel=1e-4)


def test_the_network_alone_and_over_the_priors(frames):
    """Priors and network as they are: E|F − f_net|² = E|f_prior|² + σ² as far as the noise is independent."""
    found = evaluate(MODEL, PARAMS, frames, batch_beads=50, loader=Loader()).metrics
    priors = evaluate(PRIOR, PRIOR_PARAMS, frames, batch_beads=50, loader=Loader())
    rms = priors.terms[0].rms_force
    assert found["force_mse_network"].value == pytest.approx(rms**2 + NOISE**2, rel=0.05)
    assert found["explained_variance_over_prior"].value == pytest.approx(
        1 - found["force_mse"].value / found["force_mse_prior"].value
    )
    assert found["force_mse_prior"].value == pytest.approx(priors.metrics["force_mse"].value, rel=1e-5)


def test_histograms_count_every_component(result, frames):
    found = result.histograms
    reference = np.concatenate([frames.forces(row).ravel() for row in range(len(frames))])
    assert np.array_equal(found.counts["reference"], np.histogram(reference.astype(float), found.edges)[0])
    assert found.outside == 3 * result.beads - found.counts["reference"].sum()
    assert 0 < found.outside < 0.01 * len(reference)
    # the residual is the noise: its second moment is σ²
    centre = 0.5 * (found.edges[1:] + found.edges[:-1])
    spread = (found.counts["residual"] * centre**2).sum() / found.counts["residual"].sum()
    assert spread == pytest.approx(result.metrics["force_mse"].value, rel=0.02)
    assert found.joint.sum() <= found.counts["reference"].sum()
    assert np.array_equal(found.joint.sum(1) <= found.counts["reference"], np.ones(len(centre), bool))


def test_the_noise_floor_is_bounded(result):
    """The true model: the best scaling of its parts leaves σ² as well, and no more than it does."""
    mse = result.metrics["force_mse"].value
    assert 0.98 * mse < result.floor_at_most.value <= mse


def test_priors_alone(frames):
    result = evaluate(PRIOR, PRIOR_PARAMS, frames, batch_beads=50, loader=Loader())
    assert result.metrics["explained_variance"] == result.metrics["explained_variance_prior"]


def test_no_frame_is_an_error():
    empty = frame_set([domain(6, 2, seed=1)], validation=True, cutoff_A=CUTOFF)
    with pytest.raises(InputError, match="no frame"):
        evaluate(MODEL, PARAMS, empty, batch_beads=50, loader=Loader())
