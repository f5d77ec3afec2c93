"""Frames of a domain to beads: what is fitted on what, what is left out, and what ends up in the arrays."""

import numpy as np
import pytest

from cgrefine.config.schema import Data, ForceMap
from cgrefine.data.aggregate import aggregate
from cgrefine.data.mdcath import read_domain
from cgrefine.data.store import ARRAYS
from cgrefine.errors import InputError
from tests.data.mini import Mini, edit

DATA, MAP = Data(raw=["x"]), ForceMap(block_frames=8)
BY_REPLICA = (False, True, False, True)


@pytest.fixture
def mini():
    return Mini()


@pytest.fixture
def path(mini, tmp_path):
    return mini.write(tmp_path / "mini.h5")


def run(path, validation=BY_REPLICA, data=DATA, options=MAP):
    domain = read_domain(path, "1abcA00")
    return aggregate(domain, domain.runs, validation, data, options)


def test_arrays_are_complete_and_in_the_order_of_runs(mini, path):
    result = run(path)
    assert set(result.arrays) == set(ARRAYS)
    assert result.arrays["positions"].shape == (4 * mini.frames, 5, 3)
    coords = np.concatenate([mini.trajectory(t, r)[0] for t in (320, 450) for r in (0, 1)])
    assert np.array_equal(result.arrays["positions"], coords[:, mini.ca])
    assert result.arrays["temperature_K"].tolist() == [320.0] * 60 + [450.0] * 60
    assert np.array_equal(result.arrays["validation"], result.arrays["replica"] == 1)
    assert result.identity_residual < 1e-10 and result.constraint_residual < 1e-10


def test_optimal_map_lowers_the_mean_square_where_it_was_not_fitted(path):
    result = run(path)
    assert result.held_out.n_frames == 60 and result.in_sample.n_frames == 60
    assert result.held_out.optimal < 0.9 * result.held_out.basic
    assert result.in_sample.optimal < result.held_out.optimal


def test_validation_frames_do_not_reach_the_fit(path):
    """Other forces in the held-out replica leave the training forces the same to the last bit."""
    before = run(path)
    for key in ("320/1", "450/1"):
        edit(path, f"1abcA00/{key}/forces", lambda f: f[::-1] * np.float32(1.5))
    after = run(path)
    training = ~before.arrays["validation"]
    assert np.array_equal(before.arrays["forces"][training], after.arrays["forces"][training])
    assert not np.allclose(before.arrays["forces"][~training], after.arrays["forces"][~training])


def test_a_held_out_domain_is_fitted_on_its_own_frames(path):
    own, none_held = run(path, (True,) * 4), run(path, (False,) * 4)
    assert own.held_out.n_frames == 0 and own.in_sample.n_frames == 120
    assert np.array_equal(own.arrays["forces"], none_held.arrays["forces"])
    assert own.arrays["validation"].all()


def test_broken_frames_are_left_out_and_counted(mini, path):
    def spoil(x):
        x[3], x[17], x[28:] = np.nan, 2.1e7, 0.0
        return x

    edit(path, "1abcA00/450/0/coords", spoil)
    result = run(path)
    assert result.left_out == 4
    frames = result.arrays["frame"][(result.arrays["temperature_K"] == 450) & (result.arrays["replica"] == 0)]
    assert frames.tolist() == [f for f in range(28) if f not in (3, 17)]
    assert np.isfinite(result.arrays["forces"]).all()


def test_training_runs_without_a_valid_frame_are_refused(path):
    for key in ("320/0", "450/0"):
        edit(path, f"1abcA00/{key}/coords", lambda x: x * np.nan)
    with pytest.raises(InputError, match="no valid frame in the 2 training runs"):
        run(path)


def test_stride(path):
    whole, strided = run(path), run(path, data=DATA.model_copy(update={"stride": 7}))
    kept = whole.arrays["frame"] % 7 == 0
    assert np.array_equal(strided.arrays["positions"], whole.arrays["positions"][kept])
    assert np.array_equal(strided.arrays["frame"], whole.arrays["frame"][kept])


def test_basic_kind_is_the_basic_map(path):
    result = run(path, options=ForceMap(kind="basic"))
    assert np.array_equal(result.arrays["forces"], result.arrays["basic_forces"])


def test_block_size_does_not_matter(path):
    small, large = run(path, options=ForceMap(block_frames=3)), run(path, options=ForceMap(block_frames=500))
    assert np.allclose(small.arrays["forces"], large.arrays["forces"], rtol=1e-5, atol=1e-5)


def test_psf_and_geometry_give_the_same_forces(tmp_path):
    results = [run(Mini(psf=psf).write(tmp_path / f"{psf}.h5")) for psf in (True, False)]
    assert np.array_equal(results[0].arrays["forces"], results[1].arrays["forces"])


def test_singular_fit_is_an_input_error(tmp_path):
    path = Mini(frames=2).write(tmp_path / "few.h5")
    with pytest.raises(InputError, match=r"domain 1abcA00: the Gram matrix .* larger ridge"):
        run(path, options=ForceMap(ridge=0.0))
