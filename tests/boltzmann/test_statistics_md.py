"""The estimator on frames of MD: correlated, with the time-step error of the integrator.

Errors are those of the spread between groups of independent replicas, with fixed keys; within three of them
(false alarm 0.3 % a number), or within what a test states. A planted error must be further away than five.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.boltzmann.gradient import coefficients, effective_sizes, projected
from cgrefine.boltzmann.weights import uniform_weights
from cgrefine.config.running import Criteria
from cgrefine.sim.langevin import Langevin, Pair, State, maxwell_momenta
from cgrefine.sim.rollout import Settings, rollout
from cgrefine.sim.stability import checks
from cgrefine.system import pack, topology_from_species
from tests import analytic
from tests.analytic import BOND, DIMER
from tests.dynamics import KEY, averages, deviations, evaluate_with, frames

pytestmark = pytest.mark.stages
KCAL_IN_KJ = 4.184
WALL = 50.0
LJ = {"eps": 2.0, "sig": 1.0}


def itself(r):
    return r


def walled(params, r):
    """Lennard-Jones, and from 3 Å on a wall: frames below 3 Å have the distribution of `analytic.DIMER`."""
    return analytic.lennard_jones(params, r) + 0.5 * WALL * jnp.maximum(r - DIMER.high, 0.0) ** 2


@pytest.fixture(scope="module")
def dimers():
    """Distances (frames, replicas) of a run of the engine, kT = 1; from exact samples, without relaxation."""
    replicas, rng = 1100, np.random.default_rng(3)
    system = pack([topology_from_species([0, 0])] * replicas)
    free = Criteria(
        bond_deviation_A=1e3,
        max_force_kcal_mol_A=1e9,
        max_kinetic_kT=1e3,
        overlap_min_A=0.01,
        size_limits=False,
    )
    x = analytic.pairs_at(DIMER.sample(LJ, 1.0, replicas, rng), rng).reshape(-1, 3)
    run = rollout(
        analytic.OfPairs(walled), LJ, system, x, np.ones(replicas), KEY, Langevin(0.15, 0.08),
        Settings(600, 6, 50, 0.0), checks(system, np.full(replicas, 1.0), free),
    )  # fmt: skip
    ends = np.concatenate([c.positions for c in run]).astype(np.float64).reshape(-1, replicas, 2, 3)
    return np.linalg.norm(ends[:, :, 1] - ends[:, :, 0], axis=-1)


def of_groups(r, beta=1.0, slope=1.0, groups=20):
    """⟨r⟩ and its derivatives by ε and σ, frames beyond the wall masked, of each group of replicas."""
    found = []
    for part in np.split(r, groups, axis=1):
        x = part.ravel()
        p = uniform_weights(x < DIMER.high)
        a = coefficients(x[:, None], p, np.full(1, slope), beta)
        by_name = jax.jacfwd(analytic.lennard_jones)(LJ, x)
        found.append([p @ x, *(np.sum(a * by_name[name]) for name in LJ)])
    return np.array(found).T


def test_a_dimer_of_md(dimers):
    """⟨r⟩ and d⟨r⟩/dε within 2 %, which is three standard errors; d⟨r⟩/dσ within three of its own.

    Its relative error is 46/√N (`Coordinate.spread`): for 2 % of it 5·10⁶ independent frames were needed.
    """
    mean, eps, sig = of_groups(dimers)
    truth = {name: DIMER.derivative(LJ, 1.0, itself, name) for name in LJ}
    for values, exact in ((mean, DIMER.mean(LJ, 1.0, itself)), (eps, truth["eps"])):
        assert values.mean() == pytest.approx(exact, rel=0.02)
        assert 3.0 * values.std(ddof=1) / math.sqrt(len(values)) < 0.02 * abs(exact)
    assert abs(deviations(sig, truth["sig"])) < 3.0
    assert deviations(sig, 0.0) < -10.0


@pytest.mark.parametrize("planted", [{"slope": -1.0}, {"beta": KCAL_IN_KJ}], ids=["sign", "kJ for kcal"])
def test_an_error_of_sign_or_of_kT_is_found_in_a_dimer(dimers, planted):
    _, eps, sig = of_groups(dimers, **planted)
    for values, name in ((eps, "eps"), (sig, "sig")):
        assert abs(deviations(values, DIMER.derivative(LJ, 1.0, itself, name))) > 5.0


CA, CA_KT, REDUCED = {"k": 120.0, "r0": 3.8}, 0.6, 55.0
FREQUENCY = math.sqrt(CA["k"] / REDUCED)
"""Of a bond of two beads of 110 g/mol: time steps are stable up to 2/FREQUENCY, 66 fs."""


class Obabo(Langevin):
    """The same with the bath at both ends and a full step of the positions between."""

    def pair(self, evaluate, mass, kT, graphs=None) -> Pair:
        """Half a bath, a step of velocity Verlet, half a bath: positions of a well have an error of h²."""
        h, c = self.dt, jnp.exp(-0.5 * self.friction * self.dt)

        def bath(key, p):
            return c * p + jnp.sqrt(1.0 - c * c) * maxwell_momenta(key, p, mass, kT)

        def step(key, state, params):
            one, two = jax.random.split(key)
            p = bath(one, state.momenta) + 0.5 * h * state.at.forces
            x = state.positions + h * p / mass
            at = evaluate(params, x)
            return State(x, bath(two, p + 0.5 * h * at.forces), at)

        return super().pair(evaluate, mass, kT, graphs)._replace(step=step)


def bond_at(make, reduced_step, beads=2000, steps=600):
    """⟨r⟩, Var r and the estimate of d⟨r⟩/dr0 of each of the bonds, at a time step of so much/FREQUENCY."""
    rng = np.random.default_rng(4)
    exact = BOND.mean(CA, CA_KT, itself)
    ends = analytic.pairs_at(BOND.sample(CA, CA_KT, beads, rng), rng)
    x0, dt = jnp.asarray(ends[:, 1] - ends[:, 0]), reduced_step / FREQUENCY

    def measure(state):
        r = jnp.linalg.norm(state.positions, axis=1)
        return r - exact, (r - exact) ** 2

    first, second = averages(
        make(dt, 0.5 * FREQUENCY), evaluate_with(analytic.AboutTheOrigin(analytic.spring)), CA, x0,
        jnp.full(beads, REDUCED), jnp.full(beads, CA_KT), relax=50, steps=steps, measure=measure,
    )  # fmt: skip
    variance = second - first.mean() ** 2
    # -β Cov(r, ∂U/∂r0) of ∂U/∂r0 = -k (r - r0)
    return exact + first, variance, CA["k"] / CA_KT * variance


def of_bond(power):
    """⟨(r - ⟨r⟩)^power⟩ by quadrature."""
    mean = BOND.mean(CA, CA_KT, itself)
    return BOND.mean(CA, CA_KT, lambda r: (r - mean) ** power)


@pytest.mark.parametrize("reduced_step", [0.6, 1.2, 1.8])
def test_a_virtual_bond_has_no_time_step_error_to_speak_of(reduced_step):
    """BAOAB at 20, 40 and 60 fs, where 66 fs are unstable: ⟨r⟩ to 3·10⁻⁴ Å, Var r and d⟨r⟩/dr0 to 1 %.

    In one dimension the positions of a harmonic well have no error at any time step; what is left comes of
    the bond's turning in space, a few tenths of a percent of the variance at 60 fs. The error of second order
    of anharmonic wells is measured in `tests/sim/test_step_bias.py`.
    """
    mean, variance, slope = bond_at(Langevin, reduced_step)
    assert abs(deviations(mean, BOND.mean(CA, CA_KT, itself))) < 3.0
    assert 3.0 * mean.std() / math.sqrt(len(mean)) < 3e-4
    assert variance.mean() == pytest.approx(of_bond(2), rel=0.01)
    assert slope.mean() == pytest.approx(BOND.derivative(CA, CA_KT, itself, "r0"), rel=0.01)


@pytest.mark.parametrize("reduced_step", [0.6, 1.2])
def test_an_error_of_second_order_is_seen_in_a_virtual_bond(reduced_step):
    """With the bath at the ends of the step Var r is too large by 1/(1 - (ωh)²/4): 10 % and 56 %."""
    _, variance, _ = bond_at(Obabo, reduced_step, beads=1000)
    assert variance.mean() / of_bond(2) == pytest.approx(1.0 / (1.0 - 0.25 * reduced_step**2), rel=0.02)


BEADS_KT = 0.6
THREE = {"k": 30.0, "r0": 1.5, "c": 4.0, "u": -0.3}
STEP = {"k": -1.5, "r0": 0.015, "c": -0.3, "u": -0.03}
"""A step of all parameters, whose effects add up."""
CHAINS, LOOKS = 2000, 1000


def stepped(length):
    return {name: value + length * STEP[name] for name, value in THREE.items()}


def fast(function):
    """Compiled with optimisation, which the suite does without: it runs longer than it compiles."""
    return jax.jit(function, compiler_options=OPTIMISED)


OPTIMISED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}


def chains(params, keep):
    """What `keep` makes of 2·10⁶ frames of three beads, 3 steps apart."""
    bent = jnp.array([[1.5, 0.0, 0.0], [0.0, 0.0, 0.0], [-0.45, 1.43, 0.0]], jnp.float32)
    x0 = jnp.tile(bent, (CHAINS, 1))
    of_bead = jnp.ones(len(x0), x0.dtype)
    return frames(
        Langevin(0.15, 0.7), evaluate_with(analytic.three_beads), params, x0, 20.0 * of_bead,
        BEADS_KT * of_bead, relax=150, count=LOOKS, every=3, keep=keep, beads=3,
    )  # fmt: skip


def span(x):
    """Squared distance of the ends of each chain."""
    x = x.reshape(-1, 3, 3)
    return jnp.sum((x[:, 0] - x[:, 2]) ** 2, axis=-1)


@pytest.fixture(scope="module")
def run():
    """span (frames, chains), and by name ∂U/∂θ of the same shape."""

    def keep(x):
        def energies(params):
            return analytic.three_beads(params, x, None, None).reshape(-1, 3).sum(1)

        return span(x), jax.jacfwd(energies)(THREE)

    return jax.tree.map(lambda a: np.asarray(a, np.float64), fast(lambda p: chains(p, keep))(THREE))


def estimates(g, by_name, beta=1.0 / BEADS_KT, slope=1.0):
    """d⟨g⟩/dθ by name of frames in any order."""
    p = np.full(g.size, 1.0 / g.size)
    a = coefficients(g.reshape(-1, 1), p, np.full(1, slope), beta)
    return {name: float(a @ by_name[name].ravel()) for name in by_name}


def together(*samples):
    """The standard error of each mean, and of their difference."""
    each = [x.std(ddof=1) / math.sqrt(len(x)) for x in samples]
    return each, math.hypot(*each)


def along_the_step(run, **planted):
    """d⟨span⟩ a step, of each of 20 groups of chains."""
    g, by_name = run
    groups = np.array_split(np.arange(CHAINS), 20)
    found = [estimates(g[:, c], {n: u[:, c] for n, u in by_name.items()}, **planted) for c in groups]
    return np.array([sum(STEP[name] * f[name] for name in STEP) for f in found])


@pytest.fixture(scope="module")
def difference():
    """(⟨span⟩(θ + h) - ⟨span⟩(θ - h))/2h of each chain, both with the same noise."""
    lengths = jnp.array([-1.0, 1.0], jnp.float32)
    ends = np.asarray(fast(jax.vmap(lambda length: chains(stepped(length), span)))(lengths), np.float64)
    return (ends[1] - ends[0]).mean(0) / 2.0


def test_the_estimate_is_the_finite_difference_of_two_runs(run, difference):
    """Within three standard errors of both together, each less than half a percent of the value."""
    found = along_the_step(run)
    errors, both = together(found, difference)
    assert abs(found.mean() - difference.mean()) < 3.0 * both
    assert max(errors) < 0.005 * difference.mean()


@pytest.mark.parametrize("planted", [{"slope": -1.0}, {"beta": 1.0}], ids=["sign", "no β"])
def test_an_error_is_found_by_the_finite_difference(run, difference, planted):
    found = along_the_step(run, **planted)
    _, both = together(found, difference)
    assert abs(found.mean() - difference.mean()) > 5.0 * both


SEEDS = 200


def z_scores(run, corrected=True):
    """Of the gradient of each tenth of a hundred chains, by parameter: (seeds,), with its own standard error.

    Chains are blocks with their own mean. The estimate is a mean over frames of y = -β v (u - ⟨u⟩), so its
    error is the spread of y over the root of the number of independent ones, N/(2τ), or of all of them where
    that is not corrected.
    """
    g, by_name = run
    count = CHAINS // SEEDS
    blocks = np.repeat(np.arange(count), LOOKS)
    p = np.full(count * LOOKS, 1.0 / (count * LOOKS))
    truth = {name: derivative(name) for name in by_name}
    found = {name: np.zeros(SEEDS) for name in by_name}
    for seed in range(SEEDS):
        mine = slice(seed * count, (seed + 1) * count)
        values = g[:, mine].T.reshape(-1, 1)
        v = projected(values, p, np.ones(1), blocks)
        a = coefficients(
            values,
            p,
            np.ones(1),
            1.0 / BEADS_KT,
            blocks,
            effective_sizes(v, p, blocks) if corrected else None,
        )
        for name, u in by_name.items():
            y = len(p) * a * (u[:, mine] - u[:, mine].mean(0)).T.ravel()
            size = effective_sizes(y, p, blocks).sum() if corrected else len(p)
            found[name][seed] = (y.mean() - truth[name]) / (y.std() / math.sqrt(size))
    return found


def derivative(name, step=1e-4):
    """d⟨span⟩/dθ by a difference of quadratures."""
    sides = [analytic.three_beads_span({**THREE, name: THREE[name] + h}, BEADS_KT) for h in (step, -step)]
    return (sides[0] - sides[1]) / (2.0 * step)


def test_intervals_cover(run):
    """z of 200 seeds has mean 0 ± 0.2, 2.8 standard errors, and a spread of 0.8 to 1.2, 4 of its own."""
    for z in z_scores(run).values():
        assert abs(z.mean()) < 0.2
        assert 0.8 < z.std(ddof=1) < 1.2


def test_intervals_of_correlated_frames_taken_as_independent_do_not_cover(run):
    """Angles are correlated over some frames: without 2τ the z of their parameters spread over 2 and more."""
    found = z_scores(run, corrected=False)
    assert all(found[name].std(ddof=1) > 1.5 for name in ("c", "u"))
