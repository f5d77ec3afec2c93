"""Energies and curvature of frames, and the configurational temperature, on systems with known answers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import units
from cgrefine.sim import evaluation
from cgrefine.sim.configurational import configurational_temperature
from cgrefine.system import topology_from_species
from tests import analytic, planted
from tests.chains import random_chain

ONE = topology_from_species([0])


def pairs_within(params, positions, system, neighbors):
    """½ k (r - 5)² of each directed pair within 5 Å, on the sender: needs the neighbours."""
    r = jnp.linalg.norm(positions[neighbors.receivers] - positions[neighbors.senders] + 1e-30, axis=1)
    energy = jnp.where(neighbors.edge_mask, 0.5 * params["k"] * (r - 5.0) ** 2, 0.0)
    return jax.ops.segment_sum(energy, neighbors.senders, len(positions))


def test_energies_are_those_frame_by_frame(monkeypatch):
    """Seven frames, three at a time; numpy gives the sum over pairs within the cutoff."""
    monkeypatch.setattr(evaluation, "BATCH_BEADS", 36)
    n = 12
    frames = np.stack([random_chain(n, seed) for seed in range(7)])
    chain = topology_from_species([0] * n)
    found = evaluation.energies(pairs_within, {"k": 2.0}, chain, frames, 5.0)
    r = np.linalg.norm(frames[:, :, None] - frames[:, None], axis=-1)
    expected = np.where((r < 5.0) & (r > 0), (r - 5.0) ** 2, 0.0).sum(axis=2)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_molecules_of_different_length_share_a_room_and_its_program():
    """Chains of 9 and 12 beads, and a frame with more edges than there is room for: values of each alone."""
    long, short = (topology_from_species([0] * n) for n in (12, 9))
    x, y = (np.stack([random_chain(n, seed) for seed in range(6)]) for n in (12, 9))
    within = evaluation.room([(long, x), (short, y)], 5.0)._replace(frames=4, beads=40)
    traced = []

    def counted(params, positions, system, neighbors):
        traced.append(positions.shape)
        return pairs_within(params, positions, system, neighbors)

    for chain, frames in ((long, x), (short, y)):
        found = evaluation.energies(counted, {"k": 2.0}, chain, frames, 5.0, within)
        alone = evaluation.energies(pairs_within, {"k": 2.0}, chain, frames, 5.0)
        np.testing.assert_allclose(found, alone, rtol=1e-12)
    assert traced == [(40, 3)]
    dense = 0.3 * np.stack([random_chain(12, 8)])
    tight = within._replace(edges=8)
    found = evaluation.energies(pairs_within, {"k": 2.0}, long, dense, 5.0, tight)
    np.testing.assert_allclose(found, evaluation.energies(pairs_within, {"k": 2.0}, long, dense, 5.0))


def test_curvature_of_a_harmonic_well_is_exact():
    """∇²U = 3 k of each bead whatever the signs drawn, |∇U|² = k² x²; float64 under a float32 default."""
    x = np.random.default_rng(0).normal(size=(5, 1, 3))
    with jax.enable_x64(False):
        found = evaluation.squared_forces_and_laplacian(analytic.harmonic, {"k": 2.0}, ONE, x, 0.0, 1)
    np.testing.assert_allclose(found[0], 4.0 * (x**2).sum(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found[1], 6.0, rtol=1e-9)


def test_the_laplacian_of_springs_is_that_by_hand():
    """∇² of ½ k (r - r0)² over both ends is 2 k (1 + 2 (r - r0)/r): 400 estimates, 4 errors (6e-5)."""
    n = 6
    x = random_chain(n, 1)
    bonds = planted.MODEL.only(("bond",))
    r = np.linalg.norm(np.diff(x, axis=0), axis=1)
    trace = (2 * planted.K * (1 + 2 * (r - planted.R0) / r)).sum()
    found = evaluation.squared_forces_and_laplacian(
        bonds, planted.params(n, {}), planted.topology(n), np.repeat(x[None], 400, axis=0), 0.0, 3
    )[1]
    assert found.std() > 0.0
    assert abs(found.mean() - trace) < 4 * found.std() / math.sqrt(400)


@pytest.mark.parametrize("temperature_K", [300.0, 450.0])
def test_configurational_temperature_of_boltzmann_samples(temperature_K):
    """The asymmetric double well sampled from its exact density: T within four standard errors (~2e-4, t)."""
    rng, kT = np.random.default_rng(2), units.thermal_energy(temperature_K)
    params = {"a": 1.5, "b": 0.4}
    grid = np.linspace(-2.5, 2.5, 20001)
    density = np.exp(-(params["a"] * (grid**2 - 1) ** 2 - params["b"] * grid) / kT)
    uniform = rng.random((2000, 1, 3))
    x = np.interp(uniform, np.cumsum(density) / density.sum(), grid)
    f2, laplacian = evaluation.squared_forces_and_laplacian(analytic.asymmetric, params, ONE, x, 0.0, 0)
    found = configurational_temperature(f2, laplacian, np.arange(2000) // 100)
    assert 0.0 < found.stderr < 0.05 * temperature_K
    assert abs(found.value - temperature_K) < 4 * found.stderr


def test_jackknife_of_equal_replicas_is_the_error_of_their_mean():
    """With equal curvature the ratio is a mean, and the jackknife its standard error."""
    f2 = np.array([1.0, 2.0, 4.0, 5.0])
    found = configurational_temperature(f2, np.full(4, 2.0), np.arange(4))
    kelvin = f2 / 2.0 / units.KB
    assert found.value == pytest.approx(kelvin.mean())
    assert found.stderr == pytest.approx(kelvin.std(ddof=1) / 2.0)
    assert math.isnan(configurational_temperature(f2, np.full(4, 2.0), np.zeros(4)).stderr)
