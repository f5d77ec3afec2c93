"""Force matching of a whole force field in minibatches: values and gradients against sums over frames."""

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import combinations

import jax
import numpy as np
import pytest

from cgrefine import energy, neighbors, system
from cgrefine.data.frames import frame_set
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm.minibatches import Minibatches
from tests.fm.toy import CUTOFF, PRIOR, RADIAL, domain

N, FRAMES = 7, 6
MODEL = SumOfTerms((*PRIOR.terms, RADIAL))
START = {"bond": np.asarray(90.0, np.float32), "network": {"height": np.array([4.0, -1.0], np.float32)}}
MOVED = {"bond": np.asarray(95.0, np.float32), "network": {"height": np.array([5.0, 1.0], np.float32)}}


@cache
def toy():
    """Six frames, and two held out, with noise on their forces."""
    return domain(N, FRAMES + 2, seed=4, noise=3.0, validation=(FRAMES, FRAMES + 1))


def matching(of=None, beads=3 * N, mean_frames=100, control_variate=False, seed=5):
    training, held_out = (frame_set([of or toy()], part, CUTOFF) for part in (False, True))
    return Minibatches(MODEL, START, training, held_out, seed, beads, mean_frames, control_variate)


@jax.jit
def _square(params, x, target, listed):
    found = energy.forces(MODEL, params, x, system.pack([toy().topology]), listed)
    return ((found - target) ** 2).mean()


EVERY = np.asarray([(i, j) for i in range(N) for j in range(N) if i != j], np.int32)
LISTED = neighbors.padded(EVERY[:, 0], EVERY[:, 1], len(EVERY))
_slope = jax.jit(jax.value_and_grad(_square))


def by_hand(params, frames):
    """Mean squared error of these frames, and its gradient, in float64 and with all pairs listed."""
    double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    found = [
        _slope(double, np.asarray(toy().positions[f], np.float64), toy().forces[f].astype(np.float64), LISTED)
        for f in frames
    ]
    return jax.tree.map(lambda *parts: np.mean(np.stack(parts), axis=0), *found)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def test_a_minibatch_of_all_frames_has_their_loss_growth_and_gradient():
    """Single precision: sums of squares to 1e-5 of the labels', the gradient to 1e-4 of its largest."""
    found = matching(beads=FRAMES * N).step(MOVED, 0)
    loss, gradient = by_hand(MOVED, range(FRAMES))
    start, _ = by_hand(START, range(FRAMES))
    assert found.loss == pytest.approx(loss, rel=1e-4)
    assert found.growth == pytest.approx(loss / start - 1.0, abs=1e-4)
    np.testing.assert_allclose(flat(found.gradient), flat(gradient), atol=1e-4 * np.abs(flat(gradient)).max())


def test_the_gradient_is_the_difference_of_losses():
    """The loss is quadratic in all parameters, so that a central difference over ±1 has no error of its own:
    1e-6 of the loss is left of single precision."""
    of = matching()
    gradient = flat(of.step(MOVED, 3).gradient)
    for k in range(3):

        def loss(step, k=k):
            at = flat(MOVED) + step * (np.arange(3) == k)
            return of.step({"bond": np.float32(at[0]), "network": {"height": np.float32(at[1:])}}, 3).loss

        up, down = loss(1.0), loss(-1.0)
        assert gradient[k] == pytest.approx(0.5 * (up - down), abs=2e-6 * up, rel=1e-4)


def test_at_the_start_nothing_has_grown():
    of = matching()
    assert [of.step(START, number).growth for number in range(3)] == [0.0, 0.0, 0.0]
    assert of.step(MOVED, 0).growth != 0.0


def test_a_number_is_a_minibatch():
    """The same again, another by another number or seed."""
    of = matching()
    loss = of.step(MOVED, 7).loss
    assert matching().step(MOVED, 7).loss == loss == of.step(MOVED, 7).loss
    assert len({of.step(MOVED, number).loss for number in range(6)} | {loss}) > 3
    assert matching(seed=6).step(MOVED, 7).loss != loss


def triples(of, numbers):
    """The frames of each minibatch, told by its loss: any three of six, none twice."""
    losses = {three: by_hand(MOVED, three)[0] for three in combinations(range(FRAMES), 3)}
    found = []
    for number in numbers:
        loss = of.step(MOVED, number).loss
        three, apart = min(((t, abs(v - loss)) for t, v in losses.items()), key=lambda pair: pair[1])
        assert apart < 1e-4 * loss
        found.append(three)
    return found


def test_frames_have_equal_chances():
    """Of 200 minibatches of three of six frames each frame is in about half: four standard errors (6e-5)."""
    count = Counter(f for three in triples(matching(), range(200)) for f in three)
    assert sorted(count) == list(range(FRAMES))
    assert all(abs(c - 100) < 4 * np.sqrt(200 * 0.25) for c in count.values())


def test_the_control_variate_changes_the_noise_and_not_the_mean():
    """g(θ) - g(θ₀) + ⟨g(θ₀)⟩ of a minibatch, frame by frame by hand; near the start its spread is small."""
    near = jax.tree.map(lambda a, b: a + np.float32(0.05) * (b - a), START, MOVED)
    plain, varied = matching(), matching(control_variate=True)
    mean = flat(by_hand(START, range(FRAMES))[1])
    plains, varieds = [], []
    for number, three in enumerate(triples(plain, range(8))):
        at, start = (flat(by_hand(params, three)[1]) for params in (near, START))
        plains.append(flat(plain.step(near, number).gradient))
        varieds.append(flat(varied.step(near, number).gradient))
        np.testing.assert_allclose(varieds[-1], at - start + mean, atol=2e-4 * np.abs(mean).max())
    assert np.all(np.std(varieds, axis=0) < 0.2 * np.std(plains, axis=0))


def test_the_mean_at_the_start_is_over_so_many_even_frames():
    """The first and the last of six."""
    of = matching(mean_frames=2, control_variate=True)
    expected = flat(by_hand(START, (0, FRAMES - 1))[1])
    np.testing.assert_allclose(flat(of.step(START, 0).gradient), expected, atol=1e-4 * np.abs(expected).max())


def test_held_out_is_the_error_of_all_held_out_frames():
    of = matching()
    for params in (START, MOVED):
        assert of.held_out(params) == pytest.approx(by_hand(params, (FRAMES, FRAMES + 1))[0], rel=1e-4)


def test_frames_without_finite_forces_are_left_out():
    """Three of six in any minibatch of six; and when there is no other frame that is said."""
    forces = np.array(toy().forces)
    forces[[0, 2, 5], 1, 0] = [np.nan, np.inf, -np.inf]
    broken = replace(toy(), forces=forces)
    loss, gradient = by_hand(MOVED, (1, 3, 4))
    for number in range(3):
        found = matching(broken, beads=3 * N).step(MOVED, number)
        assert found.loss == pytest.approx(loss, rel=1e-4)
        np.testing.assert_allclose(
            flat(found.gradient), flat(gradient), atol=1e-4 * np.abs(flat(gradient)).max()
        )
    forces[:FRAMES] = np.nan
    with pytest.raises(InputError, match=r"refine\.forces: no training frame has finite forces"):
        matching(broken).step(MOVED, 0)


def test_proteins_of_different_length_fill_a_minibatch_by_beads():
    """The loss is a mean over components: that of 7 and 11 residues together, whichever come."""
    other = domain(11, 3, seed=9, noise=1.0, validation=(2,))
    training, held_out = (frame_set([toy(), other], part, CUTOFF) for part in (False, True))
    of = Minibatches(MODEL, START, training, held_out, 0, FRAMES * N + 2 * 11, 10, False)
    found = of.step(MOVED, 0)
    alone = Minibatches(MODEL, START, frame_set([other], False, CUTOFF), held_out, 0, 22, 10, False)
    weights = np.array([FRAMES * N, 22.0])
    losses = np.array([by_hand(MOVED, range(FRAMES))[0], alone.step(MOVED, 0).loss])
    assert found.loss == pytest.approx(weights @ losses / weights.sum(), rel=1e-4)
