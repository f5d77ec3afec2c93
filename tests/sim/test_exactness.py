"""What the integrators sample, against closed forms; each check is seen to find a factor of two.

Averages over time of many independent replicas: their spread, which holds the autocorrelation of each, gives
the standard error. Within 3 of them with a fixed key (false alarm 0.3 % a number); a planted error must be
further away than 5.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.config.running import Criteria
from cgrefine.sim.brownian import Brownian
from cgrefine.sim.kernels import Fast
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.nose_hoover import NoseHoover
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.rollout import Settings, rollout
from cgrefine.sim.stability import checks
from tests import analytic
from tests.dynamics import KEY, averages, deviations, evaluate_with, run

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


def no_forces(chain, x):
    return jnp.zeros_like(x)


def free_particles_of_the_engine(planted, fast):
    """The same three deviations of a rollout, between its two frames. fast: by the steps of fast forces."""
    friction, steps, n = 0.3, 40, 3 * N
    system, truth = analytic.free_beads(n), np.tile(np.asarray(MASS), 3)
    system = system._replace(mass=planted["mass"] * truth)
    limits = checks(system, np.zeros(0), Criteria(size_limits=False, max_kinetic_kT=1e3))
    settings = Settings(2, steps, 1, 0.0, check_every=20 if fast else 1)
    chunks = rollout(
        analytic.harmonic, {"k": 0.0}, system, np.zeros((n, 3)), np.full(n, KT * planted["kT"]), KEY,
        Langevin(DT, planted["friction"] * friction), settings, limits, Fast(no_forces, ()) if fast else None,
    )  # fmt: skip
    first, last = (chunk.snapshot.progress for chunk in chunks)
    assert not last.status.any()
    scale = np.sqrt(truth * KT)[:, None]
    p0, p1 = (np.asarray(s.state.momenta) / scale for s in (first, last))
    moved = np.asarray(last.state.positions) - np.asarray(first.state.positions)
    t = steps * DT
    spread = 2.0 * KT / (truth[:, None] * friction) * (t - (1.0 - math.exp(-friction * t)) / friction)
    return np.array(
        [
            deviations((p1**2).ravel(), 1.0),
            deviations((p0 * p1).ravel(), math.exp(-friction * t)),
            deviations((moved**2 / spread).ravel(), 1.0),
        ]
    )


@pytest.mark.parametrize("fast", [False, True], ids=["edges", "fast"])
def test_the_engine_hands_on_mass_friction_and_kT(fast):
    assert np.abs(free_particles_of_the_engine(EXACT, fast)).max() < 3.0
    for planted in PLANTED:
        assert np.abs(free_particles_of_the_engine(planted, fast)).max() > 5.0


def diffusion(planted):
    """Deviation of ⟨x²⟩ = 2 kT t/(m γ) of Brownian particles, γ = 2; the first and last noise count half."""
    state = run(
        Brownian(DT, 2.0 * planted["friction"]), evaluate_with(analytic.harmonic), {"k": 0.0},
        jnp.zeros((N, 3)), MASS * planted["mass"], jnp.full(N, KT * planted["kT"]), 60,
    )  # fmt: skip
    expected = 2.0 * KT * 59.5 * DT / (2.0 * np.asarray(MASS)[:, None])
    return deviations((np.asarray(state.positions) ** 2 / expected).ravel(), 1.0)


def test_brownian_particles_diffuse_exactly():
    assert abs(diffusion(EXACT)) < 3.0


@pytest.mark.parametrize("planted", PLANTED, ids=EXACT)
def test_a_factor_of_two_is_found_in_diffusion(planted):
    assert abs(diffusion(planted)) > 5.0


def wells(name, planted):
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
        INTEGRATORS[name], evaluate_with(energy), {}, 0.5 * sides, MASS * planted["mass"],
        jnp.full(N, KT * planted["kT"]), 300, 1500, measure, beads=BEADS, every=5,
    )  # fmt: skip
    return {
        "harmonic": deviations(per_replica(squared)[::2], KT / k),
        "mean": deviations(per_replica(x)[1::2], one),
        "square": deviations(per_replica(squared)[1::2], two),
        "temperature": deviations(hot, KT),
    }


@pytest.mark.parametrize("name", ["langevin", "brownian"])
def test_wells_are_sampled_exactly(name):
    assert max(map(abs, wells(name, EXACT).values())) < 3.0


def test_a_chain_thermostat_samples_the_harmonic_well():
    """Not the separable double well: coordinates that only the thermostat couples mix too slowly for it."""
    found = wells("nose_hoover", EXACT)
    assert abs(found["harmonic"]) < 3.0 and abs(found["temperature"]) < 3.0


@pytest.mark.parametrize(
    "name",
    ["langevin", *(pytest.param(name, marks=pytest.mark.slow) for name in ("brownian", "nose_hoover"))],
)
def test_twice_the_kT_is_found_in_wells(name):
    """In every number that the tests above look at."""
    found = wells(name, {**EXACT, "kT": 2.0})
    looked_at = ("harmonic", "temperature") if name == "nose_hoover" else found
    assert min(abs(found[key]) for key in looked_at) > 5.0


@pytest.mark.slow
@pytest.mark.parametrize("name", INTEGRATORS)
def test_twice_the_mass_is_found_in_the_temperature_alone(name):
    """Configurational averages know neither mass nor friction: particles that diffuse show those."""
    found = wells(name, {**EXACT, "mass": 2.0})
    assert abs(found["temperature"]) > 5.0 and abs(found["harmonic"]) < 4.0


CHAIN = {"k": 30.0, "r0": 3.8, "c": 20.0, "u": -0.3}
BENT = np.array([[-3.8, 0.3, 0.0], [0.0, 0.0, 0.0], [1.1, 3.6, 0.0]])


def chain(name, planted):
    """Deviations of ⟨r⟩ with its r² weight, ⟨cos θ⟩, and the temperature with 3n momenta: none is held.

    `bare`: of ⟨r⟩ from the minimum, the weight r² left out.
    """
    n = 3 * REPLICAS
    length, cosine = analytic.three_beads_means(CHAIN, KT)

    def measure(state):
        a, b, c = jnp.moveaxis(state.positions.reshape(-1, 3, 3), 1, 0)
        left, right = a - b, c - b
        r = jnp.linalg.norm(left, axis=1), jnp.linalg.norm(right, axis=1)
        return (r[0] + r[1]) / 2, jnp.sum(left * right, axis=1) / (r[0] * r[1]), heat(state, n)

    r, cos, hot = averages(
        INTEGRATORS[name], evaluate_with(analytic.three_beads), CHAIN, jnp.tile(BENT, (REPLICAS, 1)),
        MASS[:n] * planted["mass"], jnp.full(n, KT * planted["kT"]), 1500, 1500, measure, beads=3, every=5,
    )  # fmt: skip
    return {
        "length": deviations(r, length),
        "cosine": deviations(cos, cosine),
        "temperature": deviations(hot, KT),
        "bare": deviations(r, CHAIN["r0"]),
    }


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_chain_of_three_beads_is_sampled_exactly(name):
    found = chain(name, EXACT)
    assert abs(found.pop("bare")) > 5.0
    assert max(map(abs, found.values())) < 3.0


@pytest.mark.slow
@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_factor_of_two_is_found_in_a_chain_of_three_beads(name):
    """Of kT in the length and the temperature (cos θ is all but symmetric), of the mass in the latter."""
    hot = chain(name, {**EXACT, "kT": 2.0})
    assert min(abs(hot[key]) for key in ("length", "temperature")) > 5.0
    assert abs(chain(name, {**EXACT, "mass": 2.0})["temperature"]) > 5.0


def energies(dt, duration=150.0, mass=1.0, loss=0.0):
    """Total energy (steps, r) of chains of three beads at constant energy, the kinetic part with MASS.

    Without the first fifth, in which all replicas leave one structure: their errors there are alike.

    mass: factor of the one that the integrator has; loss: share of the momenta lost at each time unit.
    """
    n = 3 * REPLICAS
    pair = VelocityVerlet(dt).pair(
        evaluate_with(analytic.three_beads), MASS[:n, None] * mass, jnp.full((n, 1), KT)
    )

    def body(state, _):
        state = pair.step(KEY, state, CHAIN)
        state = state._replace(momenta=(1.0 - loss * dt) * state.momenta)
        per_bead = jnp.sum(state.momenta**2, axis=1) / (2.0 * MASS[:n]) + state.at.energies
        return state, per_bead.reshape(-1, 3).sum(1)

    start = pair.init(KEY, jnp.tile(BENT, (REPLICAS, 1)), CHAIN)
    steps = round(duration / dt)
    return np.asarray(jax.lax.scan(body, start, None, steps)[1])[steps // 5 :]


def slopes(total, dt):
    """Least-squares slope of the energy of each replica (r,), kcal/mol a time unit."""
    time = dt * np.arange(len(total))
    centred = time - time.mean()
    return centred @ total / np.sum(centred**2)


STEP = 0.3


def orders(coarse, fine):
    """log2 of the ratio of the energy's spreads, and of its apparent slopes, at STEP and at half of it."""
    spreads = [np.mean(total.std(0)) for total in (coarse, fine)]
    steepest = [np.std(slopes(total, dt)) for total, dt in ((coarse, STEP), (fine, STEP / 2))]
    return math.log2(spreads[0] / spreads[1]), math.log2(steepest[0] / steepest[1])


def test_energy_of_a_chain_does_not_drift_and_its_error_is_of_second_order():
    """Fluctuations and apparent slopes fall as dt²; the mean slope is zero within 3 standard errors."""
    coarse, fine = energies(STEP), energies(STEP / 2)
    np.testing.assert_allclose(orders(coarse, fine), 2.0, atol=0.2)
    assert abs(deviations(slopes(coarse, STEP), 0.0)) < 3.0
    assert abs(deviations(slopes(fine, STEP / 2), 0.0)) < 3.0


def test_a_leak_and_twice_the_mass_are_found_at_constant_energy():
    """Of a loss of 1e-5 of the momenta a time unit the slope is twice as much of the kinetic energy."""
    leaking = slopes(energies(STEP / 2, loss=1e-5), STEP / 2)
    assert deviations(leaking, 0.0) < -5.0
    assert max(orders(energies(STEP, mass=2.0), energies(STEP / 2, mass=2.0))) < 1.0
