"""What the integrators sample, against closed forms; each check is seen to find a factor of two.

Averages over time of many independent replicas: their spread, which holds the autocorrelation of each, gives
the standard error. Within 3 of them with a fixed key (false alarm 0.3 % a number); a planted error must be
further away than 5.
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.sim.brownian import Brownian
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.nose_hoover import NoseHoover
from tests import analytic
from tests.dynamics import averages, deviations, evaluate_with, run

BEADS, REPLICAS = 4, 250
N = BEADS * REPLICAS
KT = 0.9
MASS = jnp.tile(jnp.array([20.0, 30.0, 45.0, 70.0]), REPLICAS)
DT = 0.25
INTEGRATORS = {
    "langevin": Langevin(DT, 0.3),
    "brownian": Brownian(DT, 1.0),
    "nose_hoover": NoseHoover(DT, 3.0),
}
EXACT = {"friction": 1.0, "mass": 1.0, "kT": 1.0}
PLANTED = [{**EXACT, name: 2.0} for name in EXACT]


def per_replica(values):
    """Means (r,) over all that belongs to one replica, of values in the order of the beads."""
    return values.reshape(REPLICAS, -1).mean(1)


def heat(state, beads=N, replicas=REPLICAS):
    """Twice the kinetic energy a momentum of each replica (r,): kT."""
    return (state.momenta**2 / MASS[:beads, None]).reshape(replicas, -1).mean(1)


def free_particles(planted):
    """Deviations in standard errors of free particles from what friction 0.3, MASS and KT give.

    Kinetic energy; autocorrelation of the velocity after n steps, exactly exp(-γ n h); mean square
    displacement 2D(t - (1 - exp(-γt))/γ), D = kT/(mγ), to which BAOAB adds a part of (γh)²/12 = 5e-4.
    """
    friction, steps = 0.3, 40
    n = 12 * N
    mass = jnp.tile(MASS, 12)
    mover = Langevin(DT, planted["friction"] * friction)
    arguments = mover, evaluate_with(analytic.harmonic), {"k": 0.0}, jnp.zeros((n, 3))
    bath = mass * planted["mass"], jnp.full(n, KT * planted["kT"])
    first, last = (run(*arguments, *bath, s) for s in (0, steps))
    scale = np.sqrt(np.asarray(mass) * KT)[:, None]
    p0, p1 = (np.asarray(s.momenta) / scale for s in (first, last))
    t = steps * DT
    spread = (
        2.0 * KT / (np.asarray(mass)[:, None] * friction) * (t - (1.0 - math.exp(-friction * t)) / friction)
    )
    return np.array(
        [
            deviations((p1**2).ravel(), 1.0),
            deviations((p0 * p1).ravel(), math.exp(-friction * t)),
            deviations((np.asarray(last.positions) ** 2 / spread).ravel(), 1.0),
        ]
    )


def test_free_particles_have_their_temperature_velocity_decay_and_diffusion():
    assert np.abs(free_particles(EXACT)).max() < 3.0


@pytest.mark.parametrize("planted", PLANTED, ids=EXACT)
def test_a_factor_of_two_is_found_in_free_particles(planted):
    assert np.abs(free_particles(planted)).max() > 5.0


def test_brownian_particles_diffuse_exactly():
    """⟨x²⟩ = 2 kT t/(m γ), less h/2 of its time since the first and last noise count half; and planted γ."""

    def deviation(factor):
        state = run(
            Brownian(DT, 2.0 * factor), evaluate_with(analytic.harmonic), {"k": 0.0}, jnp.zeros((N, 3)), MASS,
            jnp.full(N, KT), 60,
        )  # fmt: skip
        expected = 2.0 * KT * 59.5 * DT / (2.0 * np.asarray(MASS)[:, None])
        return deviations((np.asarray(state.positions) ** 2 / expected).ravel(), 1.0)

    assert abs(deviation(1.0)) < 3.0
    assert abs(deviation(2.0)) > 5.0


def wells(name, kT):
    """Deviations of ⟨x²⟩ in a harmonic well, of ⟨x⟩ and ⟨x²⟩ in a tilted double well, and of the temperature.

    Replicas with even numbers are in the one, the others in the other.
    """
    a, b, k = 1.0, 0.4, 3.0
    one, two = (analytic.asymmetric_moment(a, b, KT, power) for power in (1, 2))
    double = (jnp.arange(N) // BEADS) % 2

    def energy(params, x, system, neighbors):
        tilted = analytic.asymmetric({"a": a, "b": b}, x, system, neighbors)
        return jnp.where(double, tilted, analytic.harmonic({"k": k}, x, system, neighbors))

    def measure(state):
        x = state.positions
        return x.mean(1), (x**2).mean(1), heat(state)

    sides = jnp.where(jnp.arange(N)[:, None] % 2, 1.0, -1.0) * jnp.ones((N, 3))
    x, squared, hot = averages(
        INTEGRATORS[name], evaluate_with(energy), {}, 0.5 * sides, MASS, jnp.full(N, kT), 300, 1500, measure,
        beads=BEADS, every=5,
    )  # fmt: skip
    return {
        "harmonic": deviations(per_replica(squared)[::2], KT / k),
        "mean": deviations(per_replica(x)[1::2], one),
        "square": deviations(per_replica(squared)[1::2], two),
        "temperature": deviations(hot, KT),
    }


@pytest.mark.parametrize("name", ["langevin", "brownian"])
def test_wells_are_sampled_exactly(name):
    assert max(map(abs, wells(name, KT).values())) < 3.0


def test_a_chain_thermostat_samples_the_harmonic_well():
    """Not the separable double well: coordinates that only the thermostat couples mix too slowly for it."""
    found = wells("nose_hoover", KT)
    assert abs(found["harmonic"]) < 3.0 and abs(found["temperature"]) < 3.0


def test_twice_the_kT_is_found_in_wells():
    assert min(map(abs, wells("langevin", 2.0 * KT).values())) > 5.0


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_chain_of_three_beads_is_sampled_exactly(name):
    """⟨r⟩ with its r² weight, ⟨cos θ⟩, and the temperature with 3n momenta: no momentum is held."""
    params = {"k": 30.0, "r0": 3.8, "c": 20.0, "u": -0.3}
    n = 3 * REPLICAS
    ends = jnp.array([[-3.8, 0.3, 0.0], [0.0, 0.0, 0.0], [1.1, 3.6, 0.0]])
    length, cosine = analytic.three_beads_means(params, KT)

    def measure(state):
        a, b, c = jnp.moveaxis(state.positions.reshape(-1, 3, 3), 1, 0)
        left, right = a - b, c - b
        r = jnp.linalg.norm(left, axis=1), jnp.linalg.norm(right, axis=1)
        return (r[0] + r[1]) / 2, jnp.sum(left * right, axis=1) / (r[0] * r[1]), heat(state, n)

    found = averages(
        INTEGRATORS[name], evaluate_with(analytic.three_beads), params, jnp.tile(ends, (REPLICAS, 1)),
        MASS[:n], jnp.full(n, KT), 1500, 1500, measure, beads=3, every=5,
    )  # fmt: skip
    for values, expected in zip(found, (length, cosine, KT), strict=True):
        assert abs(deviations(values, expected)) < 3.0
    assert abs(deviations(found[0], params["r0"])) > 5.0  # the bare minimum: the weight r² left out
