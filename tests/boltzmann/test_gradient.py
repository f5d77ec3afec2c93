"""Coefficients of the Boltzmann estimator: identities on discrete states, and closed forms by sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.boltzmann.gradient import (
    coefficients,
    effective_sizes,
    local_coefficients,
    projected,
    relative_entropy_coefficients,
    split_half_coefficients,
    weighted_mean,
)
from cgrefine.boltzmann.weights import boltzmann_weights, uniform_weights

STATES, COLUMNS, BETA = 17, 5, 1.7
RNG = np.random.default_rng(11)
SHAPES = RNG.normal(size=(STATES, 3))
VALUES = RNG.normal(size=(STATES, COLUMNS))
TARGET = RNG.normal(size=COLUMNS)
THETA = np.array([0.4, -0.8, 0.3])


def energies(theta):
    """Of each state, not linear in the parameters."""
    return jnp.sin(jnp.asarray(SHAPES) @ theta) + (SHAPES[:, 0] * theta[1]) ** 2


def loss(mean):
    return jnp.sum((mean - TARGET) ** 2) + mean[0] * mean[1]


slope = jax.grad(loss)


def exact_weights(theta=THETA, beta=BETA):
    return boltzmann_weights(beta * np.asarray(energies(theta)))


def surrogate_gradient(a, theta=THETA):
    return jax.grad(lambda t: jnp.sum(jnp.asarray(a) * energies(t)))(theta)


def exact_gradient(beta=BETA):
    def of(theta):
        p = jax.nn.softmax(-beta * energies(theta))
        return loss(p @ jnp.asarray(VALUES))

    return jax.grad(of)(THETA)


def exact_coefficients(values=VALUES, beta=BETA, **kwargs):
    p = exact_weights(beta=beta)
    return coefficients(values, p, np.asarray(slope(p @ VALUES)), beta, n_eff=np.inf, **kwargs)


@pytest.mark.parametrize("beta", [BETA, 0.4])
def test_the_surrogate_has_the_gradient_of_the_exact_ensemble(beta):
    """Σ a ∂U against the derivative of f(Σ softmax(-βU) g), sign and β included."""
    np.testing.assert_allclose(
        surrogate_gradient(exact_coefficients(beta=beta)), exact_gradient(beta), rtol=1e-10
    )


def test_it_equals_the_explicit_jacobian_of_each_frame():
    """-β Σ_k L'_k (⟨g_k ∂U⟩ - ⟨g_k⟩⟨∂U⟩) N/(N - 1) from N rows of ∂U/∂θ."""
    p = np.full(STATES, 1.0 / STATES)
    jacobian = np.asarray(jax.jacobian(energies)(THETA))
    along = np.asarray(slope(VALUES.mean(0)))
    covariance = VALUES.T @ jacobian / STATES - np.outer(VALUES.mean(0), jacobian.mean(0))
    expected = -BETA * STATES / (STATES - 1) * along @ covariance
    np.testing.assert_allclose(surrogate_gradient(coefficients(VALUES, p, along, BETA)), expected, rtol=1e-10)


def test_masked_frames_equal_removed_frames_whatever_they_hold():
    good = np.arange(STATES) % 3 != 0
    values = np.where(good[:, None], VALUES, np.nan)
    a = coefficients(values, uniform_weights(good), TARGET, BETA)
    removed = coefficients(VALUES[good], np.full(good.sum(), 1 / good.sum()), TARGET, BETA)
    np.testing.assert_allclose(a[good], removed, rtol=1e-12)
    assert np.all(a[~good] == 0.0)


def test_a_shift_of_the_energy_by_any_function_of_the_parameters_adds_nothing():
    blocks = np.arange(STATES) % 4
    for a in (exact_coefficients(), exact_coefficients(blocks=blocks)):
        assert abs(a.sum()) < 1e-12 * np.abs(a).sum()


def test_reweighting_at_the_energy_that_made_the_frames_is_the_estimate_without_bessels_factor():
    """d/dθ of f(Σ softmax(-β(U_θ - U_ref)) g) at θ = θ_ref is (N - 1)/N times the on-policy estimate."""
    old = energies(THETA)

    def reweighted(theta):
        return loss(jax.nn.softmax(-BETA * (energies(theta) - old)) @ jnp.asarray(VALUES))

    on_policy = coefficients(VALUES, np.full(STATES, 1 / STATES), np.asarray(slope(VALUES.mean(0))), BETA)
    np.testing.assert_allclose(
        jax.grad(reweighted)(THETA), surrogate_gradient(on_policy) * (STATES - 1) / STATES, rtol=1e-10
    )


def test_blocks_are_centred_each_by_itself():
    """Two replicas in basins far apart: their distance does not enter; weights of blocks are kept."""
    blocks = (np.arange(STATES) >= 9).astype(int)
    shifted = VALUES + 100.0 * blocks[:, None]
    p = np.full(STATES, 1 / STATES)
    a = coefficients(shifted, p, TARGET, BETA, blocks)
    for b in (0, 1):
        inside = blocks == b
        n = inside.sum()
        alone = coefficients(VALUES[inside], np.full(n, 1 / n), TARGET, BETA)
        np.testing.assert_allclose(a[inside], n / STATES * alone, rtol=1e-9)


def test_a_block_of_one_frame_gives_its_weight_to_the_others():
    blocks = np.array([0] * (STATES - 1) + [1])
    p = np.full(STATES, 1 / STATES)
    a = coefficients(VALUES, p, TARGET, BETA, blocks)
    alone = coefficients(VALUES[:-1], np.full(STATES - 1, 1 / (STATES - 1)), TARGET, BETA)
    assert a[-1] == 0.0
    np.testing.assert_allclose(a[:-1], alone, rtol=1e-12)
    with pytest.raises(ValueError, match="no covariance"):
        coefficients(VALUES[:1], np.ones(1), TARGET, BETA)


def test_local_covariance_with_everything_in_reach_is_the_whole():
    """Values of 5 parts, energies of 4 beads; and cut to reach, each part against its own beads only."""
    beads = RNG.normal(size=(STATES, 4))
    p, ones = exact_weights(), np.ones((COLUMNS, 4), bool)
    parts, along = VALUES[:, :, None], TARGET[:, None]
    a = local_coefficients(parts, p, along, BETA, ones, n_eff=np.inf)
    whole = coefficients(VALUES, p, TARGET, BETA, n_eff=np.inf)
    np.testing.assert_allclose(np.sum(a * beads), np.sum(whole * beads.sum(1)), rtol=1e-10)
    reach = RNG.random((COLUMNS, 4)) < 0.5
    near = local_coefficients(parts, p, along, BETA, reach, n_eff=np.inf)
    mean = p @ VALUES
    expected = -BETA * sum(
        TARGET[i] * np.sum(p * (VALUES[:, i] - mean[i]) * beads[:, j])
        for i in range(COLUMNS)
        for j in range(4)
        if reach[i, j]
    )
    np.testing.assert_allclose(np.sum(near * beads), expected, rtol=1e-10)


def test_two_state_points_add_up():
    """One set of frames under two β: the coefficients of a sum of losses are those of each, with its β."""
    one, two = exact_coefficients(beta=1.0), exact_coefficients(beta=2.0)
    total = surrogate_gradient(one) + 0.3 * surrogate_gradient(two)
    np.testing.assert_allclose(total, exact_gradient(1.0) + 0.3 * exact_gradient(2.0), rtol=1e-10)


def test_relative_entropy_is_its_derivative_and_vanishes_on_equal_frames():
    """S = Σ q ln(q/p_θ): dS/dθ from both sides' coefficients."""
    q = np.asarray(jax.nn.softmax(jnp.asarray(RNG.normal(size=STATES))))

    def entropy(theta):
        return -jnp.sum(jnp.asarray(q) * jax.nn.log_softmax(-BETA * energies(theta)))

    model, reference = relative_entropy_coefficients(exact_weights(), q, BETA)
    np.testing.assert_allclose(
        surrogate_gradient(model) + surrogate_gradient(reference), jax.grad(entropy)(THETA), rtol=1e-10
    )
    same = relative_entropy_coefficients(q, q, BETA)
    assert np.all(same[0] + same[1] == 0.0)


def test_beta_is_to_be_positive():
    with pytest.raises(ValueError, match="beta = -1"):
        coefficients(VALUES, exact_weights(), TARGET, -1.0)


def harmonic_trials(trials, frames, k=1.3, kT=0.7):
    """Estimates of d⟨x²⟩/dk of ½kx² from independent frames, one a trial, and the truth -kT/k²."""
    x = np.random.default_rng(5).normal(0.0, np.sqrt(kT / k), (trials, frames))
    p = np.full(frames, 1 / frames)
    a = [coefficients(x[t, :, None] ** 2, p, np.ones(1), 1.0 / kT) for t in range(trials)]
    return np.sum(np.stack(a) * 0.5 * x**2, axis=1), -kT / k**2


def test_harmonic_width():
    """The mean of 400 trials within three standard errors, which β left out or a wrong sign are not; the
    spread of a trial 3.742/√N of the value, to 15 %. With 5 frames a trial Bessel's factor shows."""
    found, truth = harmonic_trials(400, 250)
    assert abs(found.mean() - truth) < 3 * found.std() / np.sqrt(400)
    assert found.std() / abs(truth) * np.sqrt(250) == pytest.approx(3.742, rel=0.15)
    for wrong in (found * 0.7, -found):
        assert abs(wrong.mean() - truth) > 3 * wrong.std() / np.sqrt(400)
    few, _ = harmonic_trials(4000, 5)
    assert abs(few.mean() - truth) < 3 * few.std() / np.sqrt(4000)
    assert abs(few.mean() * 4 / 5 - truth) > 3 * few.std() / np.sqrt(4000)


def test_halves_remove_the_bias_of_the_product():
    """L = (⟨x²⟩ - t)² at its optimum, 40 frames: the gradient's mean is 0 with halves and -0.2 without.

    d L/dk = 2 (o - t) · d⟨x²⟩/dk with both from the same frames: in units of kT²/k³ the mean of the product
    is 2 Cov(o, ∂o) = -β Cov(x², ½x²·(x² - o)) 2/N → -8/N (k = kT = 1), which is -0.2 at N = 40.
    """
    rng, trials, n = np.random.default_rng(6), 1500, 40
    p, second = np.full(n, 1 / n), np.arange(n) >= n // 2
    plain, halves = [], []
    for _ in range(trials):
        x = rng.normal(size=n)
        g, dU = x[:, None] ** 2, 0.5 * x**2

        def along(mean):
            return 2.0 * (mean - 1.0)

        plain.append(np.sum(coefficients(g, p, along(g.mean(0)), 1.0) * dU))
        halves.append(np.sum(split_half_coefficients(g, p, along, 1.0, second) * dU))
    assert abs(np.mean(halves)) < 3 * np.std(halves) / np.sqrt(trials)
    assert np.mean(plain) == pytest.approx(-0.2, abs=4 * np.std(plain) / np.sqrt(trials))
    assert np.mean(plain) < -4 * np.std(plain) / np.sqrt(trials)


def test_halves_that_share_a_block_are_refused():
    p, blocks = np.full(4, 0.25), np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="both halves"):
        split_half_coefficients(VALUES[:4], p, lambda m: m, 1.0, np.array([0, 1, 1, 1], bool), blocks)
    with pytest.raises(ValueError, match="half of the frames has no weight"):
        split_half_coefficients(VALUES[:4], p, lambda m: m, 1.0, np.zeros(4, bool))


def test_effective_sizes_of_a_correlated_series():
    """AR(1) of coefficient φ: N (1 - φ)/(1 + φ) of of each replica, to 10 %; masked frames do not count."""
    rng, phi, n = np.random.default_rng(7), 0.8, 20_000
    series = np.zeros((8, n))
    for t in range(1, n):
        series[:, t] = phi * series[:, t - 1] + rng.normal(size=8)
    blocks = np.repeat(np.arange(8), n)
    weights = np.full(8 * n, 1.0)
    weights[n // 2 : n] = 0.0
    flat = series.reshape(-1) + 5.0 * blocks
    flat[weights == 0.0] = np.nan
    sizes = effective_sizes(flat, weights, blocks)
    expected = n * (1 - phi) / (1 + phi)
    np.testing.assert_allclose(sizes, [expected / 2] + 7 * [expected], rtol=0.1)


def test_projection_is_the_centred_product():
    p = uniform_weights(np.ones(STATES, bool))
    v = projected(VALUES, p, TARGET)
    np.testing.assert_allclose(v, (VALUES - weighted_mean(VALUES, p)) @ TARGET, atol=1e-12)
