"""The truth of the toy by quadrature, against sums over another grid and against differences of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.observables.histogram import Bins
from cgrefine.toy.potentials import EDGE_A, POTENTIALS, Truth, bin_of, binned, plane

PLACES = np.array([-4.7, -2.6, -0.3, 1.9, 3.1, 4.9])
NAMES = ["uncoupled", "coupled"]


def energy(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(POTENTIALS[name].scalar({}, jnp.asarray(plane(x, y))))


def by_trapezoid(name: str, kT: float, reach: float, x: float) -> tuple[float, ...]:
    """PMF, mean force and variance at x from 40,001 equal steps in y and differences of the energy in x."""
    y, h = np.linspace(-reach, reach, 40_001), 1e-5
    v = {s: energy(name, np.full_like(y, x + s * h), y) for s in (-1, 0, 1)}
    weight = np.exp(-v[0] / kT)
    force = -(v[1] - v[-1]) / (2.0 * h)
    total = np.trapezoid(weight, y)
    mean = np.trapezoid(weight * force, y) / total
    found = (-kT * np.log(total), mean, np.trapezoid(weight * (force - mean) ** 2, y) / total)
    return tuple(float(value) for value in found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kT", "reach"), [(1.0, EDGE_A), (0.4, 30.0)])
def test_quadrature_agrees_with_sums_over_y(name, kT, reach):
    found = Truth(POTENTIALS[name], kT, reach).conditional(PLACES)
    expected = np.array([by_trapezoid(name, kT, reach, x) for x in PLACES]).T
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_force_is_minus_the_slope_of_the_pmf(name):
    """By differences of fourth order; the temperature is in the PMF twice and in the force once."""
    truth, h = Truth(POTENTIALS[name], 0.7, EDGE_A), 1e-3
    steps = {k: truth.conditional(PLACES + k * h)[0] for k in (-2, -1, 1, 2)}
    slope = (8.0 * (steps[1] - steps[-1]) - (steps[2] - steps[-2])) / (12.0 * h)
    assert truth.conditional(PLACES)[1] == pytest.approx(-slope, abs=5e-6)


def test_without_coupling_the_pmf_is_the_potential_along_x():
    pmf, _, variance = Truth(POTENTIALS["uncoupled"], 1.0, EDGE_A).conditional(PLACES)
    v = energy("uncoupled", PLACES, 0.0 * PLACES)
    assert pmf - v == pytest.approx(np.full(6, pmf[0] - v[0]), abs=1e-10)
    assert variance == pytest.approx(np.zeros(6), abs=1e-12)


def test_potentials_are_those_of_the_docstrings():
    """By hand at (1, 2): (-3)(3)(-1)(4)/50 = 0.72, and sin(126)/25, sin(-72)/25."""
    x, y = np.array([1.0]), np.array([2.0])
    ripples = np.sin([126.0, -72.0]) / 25.0
    assert energy("uncoupled", x, y)[0] == pytest.approx(0.72 + 2.0 + ripples[0])
    assert energy("coupled", x, y)[0] == pytest.approx(0.72 + 0.2 + ripples[1])


def test_the_histogram_is_that_of_the_density():
    truth, grid = Truth(POTENTIALS["coupled"], 1.0, EDGE_A), Bins(-EDGE_A, EDGE_A, 40)
    h = truth.histogram(grid)
    assert h.sum() == pytest.approx(1.0) and 0.0 < h[0] < h[-1] < 0.01
    x, y = np.linspace(-8.0, 8.0, 641), np.linspace(-EDGE_A, EDGE_A, 401)
    p = np.exp(-energy("coupled", np.repeat(x, 401), np.tile(y, 641))).reshape(641, 401).sum(axis=1)
    inner = (x >= 1.0) & (x <= 1.25)
    assert h[25] == pytest.approx(np.trapezoid(p[inner], x[inner]) / np.trapezoid(p, x), rel=1e-3)
    assert truth.known.right() == pytest.approx(h[21:].sum())


def test_places_in_a_histogram_are_those_of_its_edges():
    grid = Bins(-1.0, 1.0, 4)
    x = np.array([-1.5, -1.0, -0.51, 0.0, 0.99, 1.3])
    assert bin_of(x, grid).tolist() == [0, 1, 1, 3, 4, 5]
    assert binned(x, np.full(6, 0.25), grid).tolist() == [0.25, 0.5, 0.0, 0.25, 0.25, 0.25]


def test_a_field_acts_on_real_beads_alone():
    from cgrefine.energy import bead_energies_and_forces
    from cgrefine.neighbors import padded
    from cgrefine.system import Capacity, pack, topology_from_species

    none = padded(np.zeros(0, np.int32), np.zeros(0, np.int32), 0)
    system = pack([topology_from_species([0])] * 2, Capacity(3, 3, 1, 1, 1))
    x = jnp.asarray([[1.0, 2.0, 0.0], [0.5, 1.0, 0.0], [jnp.nan, 0.0, 0.0]])
    energies, forces = bead_energies_and_forces(POTENTIALS["coupled"], {}, x, system, none)
    alone = jax.grad(lambda r: POTENTIALS["coupled"].scalar({}, r).sum())(x[:2])
    assert np.asarray(energies)[2] == 0.0 and not np.asarray(forces)[2].any()
    assert np.asarray(forces)[:2] == pytest.approx(-np.asarray(alone))
