"""Frames of a domain to beads: what is fitted on what, what is left out, and what ends up in the arrays."""

import numpy as np
import pytest

from cgrefine.config.data import Data, ForceMap
from cgrefine.data.aggregate import aggregate
from cgrefine.data.force_map import apply, basic_map
from cgrefine.data.mdcath import read_domain
from cgrefine.data.source import frame_blocks
from cgrefine.data.topology import alpha_carbons, constraint_groups
from cgrefine.errors import InputError
from tests.data.mini import Mini, edit

DATA = Data(raw=["x"])
IN_SAMPLE = ForceMap(kind="optimal", cross_fit=False, block_frames=8)
KINDS = [
    IN_SAMPLE,
    ForceMap(kind="optimal", block_frames=8),
    ForceMap(kind="windowed", cross_fit=False, block_frames=8),
    ForceMap(kind="windowed", block_frames=8),
]
BY_REPLICA = (30, 0, 30, 0)
ALL_HELD, NONE_HELD = (0,) * 4, (30,) * 4
CA = Mini().ca
KEYS = {"positions", "forces", "temperature_K", "replica", "frame", "validation"}


def name_of(options):
    return f"{options.kind}{' crossed' if options.cross_fit else ''}"


@pytest.fixture
def mini():
    return Mini()


@pytest.fixture
def path(mini, tmp_path):
    return mini.write(tmp_path / "mini.h5")


def run(path, held_from=BY_REPLICA, data=DATA, options=IN_SAMPLE):
    domain = read_domain(path, "1abcA00")
    return aggregate(domain, domain.runs, held_from, data, options)


@pytest.mark.parametrize("options", KINDS, ids=name_of)
def test_arrays_are_complete_and_in_the_order_of_runs(mini, path, options):
    result = run(path, options=options)
    assert set(result.arrays) == KEYS
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


@pytest.mark.parametrize("options", KINDS, ids=name_of)
def test_validation_frames_do_not_reach_the_fit(path, options):
    """Other forces in the held-out replica leave the training forces the same to the last bit."""
    before = run(path, options=options)
    for key in ("320/1", "450/1"):
        edit(path, f"1abcA00/{key}/forces", lambda f: f[::-1] * np.float32(1.5))
    after = run(path, options=options)
    training = ~before.arrays["validation"]
    assert np.array_equal(before.arrays["forces"][training], after.arrays["forces"][training])
    assert not np.allclose(before.arrays["forces"][~training], after.arrays["forces"][~training])


@pytest.mark.parametrize("options", KINDS, ids=name_of)
def test_a_split_inside_runs_keeps_validation_out_of_the_fit(path, options):
    def spoil_end(f):
        f[24:] *= np.float32(-2.0)
        return f

    before = run(path, (24,) * 4, options=options)
    edit(path, "1abcA00/320/1/forces", spoil_end)
    after = run(path, (24,) * 4, options=options)
    training = ~before.arrays["validation"]
    assert training.sum() == 96
    assert np.array_equal(before.arrays["forces"][training], after.arrays["forces"][training])


@pytest.mark.parametrize("kind", ["optimal", "windowed"])
def test_cross_fitted_forces_of_a_replica_do_not_depend_on_its_own_fit(path, kind):
    """Forces of replica 1 in reversed order: its map is fitted on replica 0, so mapped ones are reversed."""
    options = ForceMap(kind=kind, block_frames=8)
    before = run(path, NONE_HELD, options=options)
    for key in ("320/1", "450/1"):
        edit(
            path,
            f"1abcA00/{key}/forces",
            lambda f: f[::-1] * np.linspace(1, 2, 30, dtype=f.dtype)[:, None, None],
        )
    after = run(path, NONE_HELD, options=options)
    for temperature in (320, 450):
        own = (before.arrays["replica"] == 1) & (before.arrays["temperature_K"] == temperature)
        expected = before.arrays["forces"][own][::-1] * np.linspace(1, 2, 30)[:, None, None]
        assert np.allclose(after.arrays["forces"][own], expected, rtol=1e-4, atol=1e-4)
    other = before.arrays["replica"] == 0
    assert not np.allclose(after.arrays["forces"][other], before.arrays["forces"][other])
    assert before.held_out.n_frames == 120 and before.in_sample.n_frames == 0


def test_one_replica_is_cross_fitted_over_its_temperatures(path):
    """Only replica 0 is for training: the fold of a run is its temperature."""
    options = ForceMap(kind="windowed", block_frames=8)
    before = run(path, options=options)
    edit(path, "1abcA00/450/0/forces", lambda f: f[::-1] * np.float32(3.0))
    after = run(path, options=options)
    hot = before.arrays["temperature_K"] == 450
    training = before.arrays["replica"] == 0
    assert not np.allclose(before.arrays["forces"][training & ~hot], after.arrays["forces"][training & ~hot])


def test_one_run_cannot_be_cross_fitted(tmp_path):
    path = Mini(temperatures=(320,), replicas=1).write(tmp_path / "one.h5")
    with pytest.raises(InputError, match="1 fold has frames, cross-fitting needs at least 2"):
        run(path, (30,), options=ForceMap(kind="windowed"))


def test_a_held_out_domain_is_fitted_on_its_own_frames(path):
    own, none_held = run(path, ALL_HELD), run(path, NONE_HELD)
    assert own.held_out.n_frames == 0 and own.in_sample.n_frames == 120
    assert np.array_equal(own.arrays["forces"], none_held.arrays["forces"])
    assert own.arrays["validation"].all()


def test_zero_net_force_and_torque(path):
    result = run(path, options=ForceMap(kind="windowed", zero_net_force=True))
    forces = result.arrays["forces"].astype(float)
    x = result.arrays["positions"].astype(float)
    torque = np.cross(x - x.mean(axis=1, keepdims=True), forces).sum(axis=1)
    assert np.abs(forces.sum(axis=1)).max() < 1e-4 and np.abs(torque).max() < 1e-3


def test_a_cis_bond_is_flagged(path):
    def bend(x):
        towards = x[:, CA[4]] - x[:, CA[3]]
        x[:, CA[4]] = x[:, CA[3]] + towards * (2.95 / np.linalg.norm(towards, axis=1))[:, None]
        return x

    assert run(path).cis_bonds == []
    for key in ("320/0", "320/1", "450/0"):
        edit(path, f"1abcA00/{key}/coords", bend)
    assert run(path).cis_bonds == [4]


def test_each_run_must_be_in_angstrom(path):
    edit(path, "1abcA00/450/1/coords", lambda x: x / 10)
    with pytest.raises(
        InputError, match=r"run 450/1: median distance of consecutive Cα .* \(nm instead of Å\)"
    ):
        run(path)


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
    domain = read_domain(path, "1abcA00")
    assert domain.bonds is not None
    groups = constraint_groups(domain.atoms, domain.bonds)
    blocks = [block for r in domain.runs for block in frame_blocks(domain, r, 1, 30)]
    weights = basic_map(groups, alpha_carbons(domain.atoms))
    expected = np.concatenate([apply(weights, block.forces) for block in blocks])
    assert np.allclose(result.arrays["forces"], expected, rtol=1e-5, atol=1e-5)
    assert result.held_out.basic == pytest.approx(result.held_out.optimal, rel=1e-6)


def test_block_size_does_not_matter(path):
    small, large = run(path, options=ForceMap(block_frames=3)), run(path, options=ForceMap(block_frames=500))
    assert np.allclose(small.arrays["forces"], large.arrays["forces"], rtol=1e-4, atol=1e-4)


def test_psf_and_geometry_give_the_same_forces(tmp_path):
    results = [run(Mini(psf=psf).write(tmp_path / f"{psf}.h5")) for psf in (True, False)]
    assert np.array_equal(results[0].arrays["forces"], results[1].arrays["forces"])


def test_singular_fit_is_an_input_error(tmp_path):
    path = Mini(frames=2).write(tmp_path / "few.h5")
    with pytest.raises(InputError, match=r"domain 1abcA00: the Gram matrix .* larger ridge"):
        run(path, (2, 0, 2, 0), options=ForceMap(kind="optimal", cross_fit=False, ridge=0.0))
