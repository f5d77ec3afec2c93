"""Coefficients of all losses of a molecule, by their gradient, against derivatives of reweighted frames.

One bead a frame, in an energy whose four parameters enter linearly and not. The frames of a replica go to and
fro, so that each counts as independent and Bessel's factor is known: N/(N - 1) of its N frames.
"""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.boltzmann.combine import cosine
from cgrefine.boltzmann.estimate import Objective, Reference, estimated, means
from cgrefine.boltzmann.gradient import effective_sizes
from cgrefine.boltzmann.samples import Pooled, Sample
from cgrefine.boltzmann.surrogate import surrogate_gradient
from cgrefine.boltzmann.targets import Target
from cgrefine.config.refining import Refine
from cgrefine.observables.structure import Observable, valuer
from cgrefine.system import topology_from_species

BETA, SCALE = 1.7, 0.5
ONE = topology_from_species([0])
PARAMS = {"a": np.asarray(0.8), "b": np.asarray(-0.5), "c": np.asarray([0.3, 1.1])}
RNG = np.random.default_rng(3)

HEIGHT = Observable("height", "Å", (), lambda x: x[0, 2] + 0.3 * x[0, 0] ** 2)
MOMENTS = Observable("moments", "Å²", (2,), lambda x: jnp.stack([x[0, 0] * x[0, 1], x[0, 2] ** 2]))
TARGETS = (
    Target(HEIGHT, "mse", np.asarray(-0.4), np.asarray(0.0), floor=0.3, weight=2.0),
    Target(MOMENTS, "noise", np.array([0.3, 2.0]), np.array([0.02, 0.05])),
)


def energy(params, positions, system, neighbors):
    x, y, z = positions.T
    return params["a"] * x**2 + jnp.sin(params["b"] * y) + params["c"][0] * x * z + params["c"][1] ** 2 * z


def reduced(params, x):
    return BETA * energy(params, x[:, 0], None, None)


def sample(*counts):
    """So many frames of each replica, each frame about the opposite of the one before."""
    replica = np.repeat(np.arange(len(counts)), counts)
    sign = np.concatenate([(-1.0) ** np.arange(count) for count in counts])
    x = np.array([1.0, 0.6, -1.4]) * sign[:, None] + 0.3 * RNG.normal(size=(len(replica), 3))
    return Sample(x[:, None], np.ones(len(replica)), replica)


def frames_of(own, targets=TARGETS):
    values = np.zeros((len(own.replica), 0))
    if targets:
        found = valuer([t.observable for t in targets])(own.positions)
        values = np.concatenate([v.reshape(len(v), -1) for v in found], axis=1)
    start = np.asarray(reduced(PARAMS, own.positions))[None]
    return Pooled(own, values, start, np.array([len(own.replica)]))


def weights_of(count):
    p = RNG.uniform(0.5, 1.5, count)
    return p / p.sum()


NONE = Reference(RNG.normal(size=(7, 1, 3)), None)


def found_of(own, p, reference=NONE, targets=TARGETS, seed=0, **fields):
    cfg = Refine.model_validate({"relative_entropy": 0.0, **fields})
    objective = Objective(ONE, targets, BETA, cfg)
    rng = np.random.default_rng(seed)
    return estimated(objective, frames_of(own, targets), p, reference, SCALE, rng)


def gradient(found):
    """Of both halves, over the scale."""
    ensembles = [e for half in found.halves for e in half]
    total = surrogate_gradient(energy, PARAMS, ensembles, 0.0)
    return jax.tree.map(lambda leaf: leaf / SCALE, total)


def assert_close(found, expected, rtol=1e-9):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def total_loss(mean, variance):
    """Of both targets at means in a row: 2 (o - g)²/0.3, and the mean of (o - g)²/variance."""
    apart = (mean[1:] - TARGETS[1].mean) ** 2 / (TARGETS[1].variance + variance[1:])
    return 2.0 / 0.3 * (mean[0] + 0.4) ** 2 + jnp.mean(apart)


def variance_of(frames, p):
    """Of a mean over r replicas, by hand: r/(r - 1) Σ of the squares of what each adds to it."""
    mean, total = p @ frames.values, np.zeros(3)
    replicas = np.unique(frames.sample.replica)
    for r in replicas:
        mine = frames.sample.replica == r
        total += (p[mine] @ (frames.values[mine] - mean)) ** 2
    return total * len(replicas) / (len(replicas) - 1)


def reweighted(own, p, of_means):
    """Derivative of a loss of the means of frames whose weights follow the energy."""

    def loss(params):
        logs = jnp.log(p) - (reduced(params, own.positions) - reduced(PARAMS, own.positions))
        return of_means(jax.nn.softmax(logs) @ frames_of(own).values)

    return jax.grad(loss)(PARAMS)


def test_whole_is_the_derivative_of_the_reweighted_loss():
    """All frames centred together: the exact derivative times N/(N - 1), with N = 5 + 8 + 6."""
    own = sample(5, 8, 6)
    p, count = weights_of(19), 19
    found = found_of(own, p, product="whole", centring="all")
    assert found.told and found.n_eff == count
    frames = frames_of(own)
    variance = variance_of(frames, p)
    exact = reweighted(own, p, lambda mean: total_loss(mean, variance))
    assert_close(gradient(found), jax.tree.map(lambda leaf: count / (count - 1) * leaf, exact))
    assert list(found.losses) == ["height", "moments"]
    assert sum(found.losses.values()) == pytest.approx(float(total_loss(p @ frames.values, variance)))


def test_means_have_the_shapes_of_their_observables():
    own, p = sample(4, 3), weights_of(7)
    one, two = means(Objective(ONE, TARGETS, BETA, Refine()), frames_of(own), p)
    np.testing.assert_allclose(one, p @ frames_of(own).values[:, 0])
    np.testing.assert_allclose(two, p @ frames_of(own).values[:, 1:])


def test_split_has_the_slope_of_the_other_half_and_centres_each_replica():
    """By hand: -β/2 Σ over replicas of P n/(n - 1) Cov(L'·g, ∂U/∂θ), L' at the mean of the other half."""
    counts = (5, 8, 6, 4)
    own = sample(*counts)
    p = weights_of(sum(counts))
    found = found_of(own, p)
    assert found.told and found.n_eff == sum(counts)
    frames = frames_of(own)
    variance, values = variance_of(frames, p), frames.values
    half = own.replica % 2
    slope = jax.grad(total_loss)
    a = np.zeros(len(p))
    for r, count in enumerate(counts):
        mine, other = own.replica == r, half != r % 2
        along = values @ np.asarray(slope(p[other] @ values[other] / p[other].sum(), variance))
        mean = p[mine] @ along[mine] / p[mine].sum()
        share = p[mine] / p[half == r % 2].sum()
        a[mine] = -0.5 * BETA * share * (along[mine] - mean) * count / (count - 1)

    def surrogate(params):
        return jnp.sum(a * reduced(params, own.positions)) / BETA

    assert_close(gradient(found), jax.grad(surrogate)(PARAMS))


def test_minibatches_are_pairs_with_residual_and_covariance_of_their_own():
    """Of four frames two pairs, in three ways: the mean over both of 2 · (exact derivative of the pair)."""
    own = sample(2, 2)
    p = np.array([0.1, 0.2, 0.3, 0.4])
    targets = TARGETS[:1]

    def of_pair(pair):
        two = Sample(*(part[list(pair)] for part in own))
        return reweighted(two, np.full(2, 0.5), lambda mean: 2.0 / 0.3 * (mean[0] + 0.4) ** 2)

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    expected = []
    for pair in combinations(range(1, 4), 1):
        one = (0, *pair)
        rest = tuple(set(range(4)) - set(one))
        expected.append(0.5 * (2.0 * flat(of_pair(one)) + 2.0 * flat(of_pair(rest))))
    seen = set()
    for seed in range(30):
        found = found_of(
            own, p, targets=targets, seed=seed, product="minibatch", minibatch_frames=2, centring="all"
        )
        assert found.n_eff == 4.0
        apart = [np.abs(flat(gradient(found)) - way).max() for way in expected]
        assert min(apart) < 1e-9
        seen.add(int(np.argmin(apart)))
    assert seen == {0, 1, 2}


def test_a_minibatch_of_all_frames_is_the_whole_with_equal_weights():
    own, count = sample(4, 5), 9
    p = np.full(count, 1.0 / count)
    one = found_of(own, p, product="minibatch", minibatch_frames=40, centring="all")
    assert_close(gradient(one), gradient(found_of(own, p, product="whole", centring="all")))


def entropy_gradient(own, p, reference):
    """β(⟨∂U/∂θ⟩_ref - ⟨∂U/∂θ⟩_model)."""
    return jax.grad(lambda t: jnp.mean(reduced(t, reference)) - p @ reduced(t, own.positions))(PARAMS)


def test_relative_entropy_alone():
    own = sample(5, 8, 6)
    p = weights_of(19)
    found = found_of(own, p, targets=(), relative_entropy=0.7)
    assert (found.losses, found.told) == ({}, True) and np.isnan(found.n_eff)
    expected = jax.tree.map(lambda leaf: 0.7 * leaf, entropy_gradient(own, p, NONE.positions))
    assert_close(gradient(found), expected)


def test_a_constant_in_the_energy_says_nothing_of_either_half():
    """One replica in three is of the second half, and so are eight of 24 reference frames: the halves agree
    in the sign of a wide energy's gradient although an energy of the origin far away is added."""
    own = sample(8, 8, 8)
    p = np.full(24, 1.0 / 24)
    wide = Reference(2.0 * own.positions, None)
    found = found_of(own, p, wide, targets=(), relative_entropy=1.0)
    for half, share in zip(found.halves, (2 / 3, 1 / 3), strict=True):
        model, data = (e.coefficients.sum() / (SCALE * BETA) for e in half)
        assert (model, data) == (pytest.approx(-share), pytest.approx(share))

    def shifted(params, positions, system, neighbors):
        return energy(params, positions, system, neighbors) + 1e3 * params["a"]

    both = [surrogate_gradient(shifted, PARAMS, half, 0.0)["a"] for half in found.halves]
    assert both[0] > 0.0 and both[1] > 0.0
    assert cosine({"a": both[0]}, {"a": both[1]}) == pytest.approx(1.0)


def test_anchor_alone_is_half_the_variance_of_the_change():
    own = sample(3, 3)
    x = NONE.positions
    started = {"a": np.asarray(1.0), "b": np.asarray(-0.1), "c": np.asarray([0.0, 1.0])}

    def change(params):
        return reduced(params, x) - reduced(started, x)

    reference = Reference(x, np.asarray(change(PARAMS)))
    found = found_of(own, weights_of(6), reference, targets=(), anchor=2.5)
    exact = jax.grad(lambda t: 2.5 * 0.5 * jnp.var(change(t)))(PARAMS)
    assert_close(gradient(found), exact)
    assert found.losses == {"anchor": pytest.approx(0.5 * float(np.var(change(PARAMS))))}


@pytest.mark.parametrize("replica", [0, 1])
def test_one_replica_tells_no_covariance_but_its_mean(replica):
    """Both halves are needed for a split: relative entropy is still there, losses too."""
    own = sample(6)._replace(replica=np.full(6, replica))
    p = weights_of(6)
    found = found_of(own, p, relative_entropy=1.0)
    assert not found.told and np.isnan(found.n_eff)
    assert all(np.isfinite(value) for value in found.losses.values())
    assert_close(gradient(found), entropy_gradient(own, p, NONE.positions))


def test_a_replica_without_frames_is_no_independent_frame():
    """Three frames of the first and third replica, none of the second."""
    series, replica = np.array([1.0, -1.0, 1.0, 2.0, -2.0, 2.0]), np.array([0, 0, 0, 2, 2, 2])
    np.testing.assert_array_equal(effective_sizes(series, np.full(6, 1 / 6), replica), [3.0, 0.0, 3.0])
    np.testing.assert_array_equal(effective_sizes(np.ones(6), np.full(6, 1 / 6), replica), [1.0, 0.0, 1.0])
