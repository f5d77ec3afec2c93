"""Force errors of a model whose errors are known."""

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest

from cgrefine.config.schema import Loader
from cgrefine.data.frames import Pieces, frame_set
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm.evaluate import _blocks, evaluate
from tests.data.domains import flat_domain
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


def test_residue_types_add_up(result):
    beads = np.array([row.beads for row in result.residues])
    rmse = np.array([row.rmse for row in result.residues])
    assert beads.sum() == result.beads
    assert (beads * rmse**2).sum() / result.beads == pytest.approx(result.metrics["force_mse"].value)
    assert len({row.residue for row in result.residues}) == len(result.residues) > 5


def test_priors_alone(frames):
    result = evaluate(PRIOR, PRIOR_PARAMS, frames, batch_beads=50, loader=Loader())
    assert result.metrics["explained_variance"] == result.metrics["explained_variance_prior"]


def test_blocks_are_stretches_of_one_run():
    """Runs of 25 and 7 frames, and one of 12 that is stored in two parts: blocks of at most ten frames."""
    runs = [(320.0, 25, True), (450.0, 7, True), (320.0, 3, False)]
    frames = frame_set([flat_domain(0, runs), flat_domain(1, [(320.0, 12, True)])], True, CUTOFF)
    blocks = _blocks(frames)
    assert [len(list(group)) for _, group in groupby(blocks.tolist())] == [10, 10, 5, 7, 10, 2]
    assert sorted(set(blocks.tolist())) == list(range(6))
    cut = Pieces._make(np.append(column, column[-1]) for column in frames.pieces)
    cut.count[-2:], cut.start[-1] = (5, 7), 5
    assert np.array_equal(_blocks(replace(frames, pieces=cut)), blocks)


def test_no_frame_is_an_error():
    empty = frame_set([domain(6, 2, seed=1)], validation=True, cutoff_A=CUTOFF)
    with pytest.raises(InputError, match="no frame"):
        evaluate(MODEL, PARAMS, empty, batch_beads=50, loader=Loader())
