"""The noise floor where mean force and noise are known."""

import numpy as np
import pytest

from cgrefine.data.frames import FrameSet, frame_set
from cgrefine.data.store import in_memory
from cgrefine.fm import noise_floor
from cgrefine.fm.blocks import drawings, drawn, estimate, frame_blocks
from cgrefine.fm.evaluate import _neighbours
from cgrefine.fm.force_products import Kept
from cgrefine.fm.local_frames import local_axes, triads
from cgrefine.fm.noise_floor import explainable, extrapolated, groups, map_bounds, nearest, neighbourhood
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal
from tests.fm.test_local_frames import rotation

N_BEADS, N_FRAMES, NOISE, SIZE = 5, 300, 2.0, 1.5


def slow_noise(rng: np.random.Generator, count: int, lasting: int) -> np.ndarray:
    """Unit noise, in the axes of each bead, that stays the same for `lasting` frames."""
    return np.repeat(rng.normal(size=(-(-count // lasting), N_BEADS, 3)), lasting, axis=0)[:count]


def known(
    lasting: int = 1, n_replicas: int = 2, seed: int = 5, turns: int = 4, ends_know: bool = True
) -> tuple[FrameSet, dict[int, Kept], np.ndarray]:
    """Chains of one slowly varying torsion φ, turned at random, and half of their mean force as the model.

    Mean force SIZE·(cos φ, sin φ, 1) in the axes of each bead, noise of variance NOISE² per component. The
    two end beads see a rigid triangle, no torsion: theirs is SIZE·(1, 0, 1) where ends_know.
    """
    rng = np.random.default_rng(seed)
    frame, count = np.arange(N_FRAMES), N_FRAMES * n_replicas
    phi = 2 * np.pi * turns * np.tile(frame, n_replicas) / N_FRAMES + 0.02 * rng.normal(size=count)
    x = np.array([chain_from_internal(np.full(4, 3.8), np.full(3, 1.6), np.full(2, p)) for p in phi])
    turned = np.array([rotation(int(s)) for s in rng.integers(1 << 30, size=20)])[np.arange(count) % 20]
    x = np.einsum("fab,fnb->fna", turned, x) + rng.normal(0.0, 5.0, (count, 1, 3))
    local = np.stack([np.cos(phi), np.sin(phi), np.ones(count)], axis=1)[:, None].repeat(N_BEADS, 1)
    if ends_know:
        local[:, [0, -1]] = [1.0, 0.0, 1.0]
    axes, _ = local_axes(x, triads(N_BEADS, ()))
    mean = SIZE * np.einsum("fna,fnac->fnc", local, axes)
    noise = np.concatenate([slow_noise(rng, N_FRAMES, lasting) for _ in range(n_replicas)])
    noise = np.einsum("fna,fnac->fnc", noise, axes)
    arrays = {
        "positions": x,
        "forces": mean + NOISE * noise,
        "temperature_K": np.full(len(x), 300.0),
        "replica": np.repeat(np.arange(n_replicas), N_FRAMES),
        "frame": np.tile(frame, n_replicas),
        "validation": np.ones(len(x), bool),
    }
    frames = frame_set([in_memory("known", topology_from_species([0] * N_BEADS), arrays)], True, 0.0)
    kept = {
        row: Kept(frames.positions(row), frames.forces(row), 0.5 * f, 0.5 * f)
        for row, f in enumerate(mean.astype(np.float32))
    }
    return frames, kept, mean


def found_on(frames: FrameSet, kept: dict[int, Kept]):
    blocks = frame_blocks(frames)
    near = neighbourhood(frames, groups(frames), kept, blocks)
    found = _neighbours(near, drawings(len(blocks), np.random.default_rng(0)))
    assert found is not None
    return found


def test_near_neighbours_find_noise_and_what_is_left():
    """The model has half of the mean force, so a quarter of its square is left; four standard errors.

    Standard errors are themselves known to a few per cent of the values here. Fixed seed.
    """
    frames, kept, mean = known()
    found = found_on(frames, kept)
    explained = float((mean**2).mean())
    assert found.beads == N_BEADS * len(frames)
    assert found.unexplained.stderr < 0.1 < found.unexplained.value
    assert found.unexplained.value == pytest.approx(0.25 * explained, abs=4 * found.unexplained.stderr)
    assert found.floor.value == pytest.approx(NOISE**2, abs=4 * found.floor.stderr)
    assert found.floor.stderr < 0.1 * NOISE**2
    ceiling = explained / (explained + NOISE**2)
    assert found.explainable_variance.value == pytest.approx(ceiling, abs=0.04)
    assert found.floor_rmse.value == pytest.approx(np.sqrt(found.floor.value))
    # with a good model of the mean force in the span of the functions, the bound is the floor itself
    assert found.at_most.value == pytest.approx(NOISE**2, abs=4 * found.at_most.stderr)


def test_a_model_of_nothing_has_the_same_floor():
    """The floor belongs to the forces: with no model at all the neighbours explain the mean force."""
    frames, kept, mean = known()
    empty = {row: k._replace(prior=0 * k.prior, model=0 * k.model) for row, k in kept.items()}
    found = found_on(frames, empty)
    assert found.floor.value == pytest.approx(NOISE**2, abs=4 * found.floor.stderr)
    assert found.unexplained.value == pytest.approx(float((mean**2).mean()), rel=0.1)
    assert NOISE**2 - 4 * found.at_most.stderr < found.at_most.value < 1.2 * NOISE**2


def test_what_the_surroundings_do_not_know_counts_as_noise():
    """Torsion forces on the two end beads of five, of mean square SIZE²/3 a component, raise the floor."""
    frames, kept, _ = known(ends_know=False)
    empty = {row: k._replace(prior=0 * k.prior, model=0 * k.model) for row, k in kept.items()}
    found = found_on(frames, empty)
    expected = NOISE**2 + 0.4 * SIZE**2 / 3
    assert found.floor.value == pytest.approx(expected, abs=3 * found.floor.stderr)
    assert found.floor.value > NOISE**2 + 2.5 * found.floor.stderr


def test_noise_that_lasts_is_not_taken_for_mean_force(monkeypatch):
    """Frames near in time are no neighbours: with them, noise that lasts ten frames looks like a force."""
    frames, kept, _ = known(lasting=10, n_replicas=1, turns=1)
    assert found_on(frames, kept).floor.value == pytest.approx(NOISE**2, rel=0.25)
    monkeypatch.setattr(noise_floor, "GAP_FRAMES", 1)
    assert found_on(frames, kept).floor.value < 0.75 * NOISE**2


def test_extrapolation_is_the_least_squares_line():
    delta = np.array([[0.5, 0.9, 1.4], [1.0, 1.0, 1.0]])
    values = np.array([[2.0, 1.5, 1.2], [3.0, 4.0, 5.0]])
    level, slope = extrapolated(delta, values)
    assert (slope[0], level[0]) == pytest.approx(tuple(np.polyfit(delta[0], values[0], 1)))
    assert (slope[1], level[1]) == (0.0, 4.0)


def test_nearest_frames_in_order_without_the_forbidden():
    features = np.array([[0.0], [1.0], [3.0], [7.0]])
    forbidden = np.eye(4, dtype=bool)
    forbidden[0, 1] = True
    found, distance = nearest(features, forbidden, 2)
    assert found[0].tolist() == [2, 3] and distance[0] == pytest.approx([9.0, 49.0])
    assert found[1].tolist() == [0, 2] and distance[1] == pytest.approx([1.0, 4.0])
    assert np.isinf(nearest(features, forbidden, 3)[1][0, 2])


def test_what_is_explainable_is_the_least_squares_fit():
    """bᵀ G⁻¹ b against numpy's least squares, with functions of the wrong size, and with a copy of one."""
    rng = np.random.default_rng(3)
    f = rng.normal(size=(3, 500))
    force = 2.0 * f[0] - 0.7 * f[1] + rng.normal(size=500)
    fit = np.linalg.lstsq(f.T, force, rcond=None)[0] @ f
    for functions in (f, f * [[0.1], [5.0], [-2.0]], np.concatenate([f, f[:1]])):
        u = np.concatenate([force[None], functions])
        assert float(explainable(u @ u.T)) == pytest.approx(float(fit @ fit))


def test_the_bound_is_a_bound():
    """Held-out functions of R: E|F|² − bᵀG⁻¹b lies above σ² by what the functions lack, here f₃ of variance
    1; a model of half the right size has the same bound as the right one. Four standard errors."""
    rng, n = np.random.default_rng(4), 20000
    f = rng.normal(size=(3, n))
    force = f.sum(0) + NOISE * rng.normal(size=n)
    for size in (1.0, 0.5):
        u = np.stack([force, size * (f[0] + f[1])])
        left = float(u[0] @ u[0] - explainable(u @ u.T)) / n
        assert left == pytest.approx(NOISE**2 + 1.0, abs=4 * 5.0 * np.sqrt(2 / n))


def test_groups_are_bounded(monkeypatch):
    frames, _, _ = known()
    (group,) = groups(frames)
    assert group.rows.tolist() == list(range(2 * N_FRAMES))
    assert group.place.tolist() == [*range(N_FRAMES)] * 2
    monkeypatch.setattr(noise_floor, "GROUP_FRAMES", 100)
    (group,) = groups(frames)
    assert len(group.rows) == 100 and group.rows[-1] == 2 * N_FRAMES - 1
    assert group.run.tolist() == [0] * 50 + [1] * 50
    monkeypatch.setattr(noise_floor, "GROUP_FRAMES", noise_floor.NEIGHBOURS)
    assert groups(frames) == []


def test_maps_bound_the_noise_from_below():
    noise = [
        {"name": "a", "maps": {
            "basic": {"held_out": 700.0}, "optimal": {"held_out": None},
            "optimal, cross-fitted": {"held_out": 190.0}, "windowed ±1, cross-fitted": {"held_out": 180.0},
        }},
        {"name": "b", "failed": "too few runs"},
    ]  # fmt: skip
    (found,) = map_bounds(noise, "basic")
    assert (found.molecule, found.used, found.best) == ("a", 700.0, "windowed ±1, cross-fitted")
    assert found.noise_at_least == 520.0
    assert map_bounds(noise, "windowed")[0].noise_at_least == 0.0
    assert map_bounds(noise, "pooled") == []


@pytest.mark.slow
def test_standard_errors_are_of_the_right_size():
    """The spread of the floor over six independent data sets is its bootstrap error: within a factor 3."""
    values, errors = [], []
    for seed in range(6):
        frames, kept, _ = known(n_replicas=1, seed=seed)
        floor = found_on(frames, kept).floor
        values.append(floor.value)
        errors.append(floor.stderr)
    assert 1 / 3 < np.std(values, ddof=1) / np.mean(errors) < 3.0


def test_drawn_products_give_the_same_bound():
    """The bound over drawings of blocks: the first one is that of all frames."""
    rng = np.random.default_rng(6)
    u = rng.normal(size=(3, 40, 25))
    p = np.einsum("kbn,lbn->bkl", u, u)
    found = estimate(explainable(drawn(drawings(40, rng), p)))
    assert found.value == pytest.approx(float(explainable(p.sum(0))))
    assert found.stderr > 0.0
