"""The Nosé-Hoover chain: what it conserves, its step against jax-md, and what a frozen replica leaves."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.config.running import Criteria
from cgrefine.sim.nose_hoover import SUZUKI_YOSHIDA, NoseHoover
from cgrefine.sim.rollout import Settings, rollout
from cgrefine.sim.stability import checks
from cgrefine.status import Status
from cgrefine.system import pack, topology_from_species
from tests import analytic
from tests.chains import ideal_helix
from tests.dynamics import KEY, evaluate_with, graphs_of

A, B, KT = 3.0, 0.6, 0.9


def invariants(mover: NoseHoover, duration: float) -> np.ndarray:
    """The conserved quantity (steps, 3) along a run of three graphs of four beads in tilted double wells."""
    n = 12
    mass, kT = jnp.linspace(20.0, 70.0, n)[:, None], jnp.full((n, 1), KT)
    graphs = graphs_of(n, 4)
    pair = mover.pair(evaluate_with(analytic.asymmetric), mass, kT, graphs)

    def body(state, _):
        state = pair.step(KEY, state, {"a": A, "b": B})
        energy = graphs.total(state.momenta**2 / (2.0 * mass)) + state.at.energies.reshape(3, 4).sum(1)
        return state, mover.invariant(state.extra, mover.bath(state.positions, kT, graphs), energy)

    first = pair.init(KEY, jnp.ones((n, 3)), {"a": A, "b": B})
    return np.asarray(jax.lax.scan(body, first, None, int(duration / mover.dt))[1])


@pytest.mark.parametrize("weights", [3, 5])
def test_the_invariant_is_conserved_to_second_order(weights):
    """Its spread falls by 4 with half the step, without drift, where U + K alone varies by several kT."""
    coarse, fine = (invariants(NoseHoover(h, 3.0, weights=weights), 100.0) for h in (0.1, 0.05))
    ratio = np.ptp(coarse, axis=0) / np.ptp(fine, axis=0)
    np.testing.assert_allclose(ratio, 4.0, rtol=0.25)
    half = len(fine) // 2
    assert (np.abs(fine[:half].mean(0) - fine[half:].mean(0)) < 0.35 * np.ptp(fine, axis=0)).all()
    assert np.ptp(fine, axis=0).max() < 0.05 * KT


@pytest.mark.slow
def test_a_step_is_that_of_jax_md():
    """Twenty steps of one graph to its single-precision constants; jax-md's three weights are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from jax_md import simulate, space

    k, m, dt, n = 2.5, 70.0, 0.4, 6
    rng = np.random.default_rng(0)
    x0, p0 = jnp.asarray(rng.normal(size=(n, 3))), jnp.asarray(4.0 * rng.normal(size=(n, 3)))
    pair = NoseHoover(dt, 8.0, weights=1).pair(
        evaluate_with(analytic.harmonic), jnp.full((n, 1), m), jnp.full((n, 1), KT), graphs_of(n, n)
    )
    ours = pair.init(KEY, x0, {"k": k})._replace(momenta=p0)
    init, apply = simulate.nvt_nose_hoover(
        lambda x, **_: 0.5 * k * jnp.sum(x**2), space.free()[1], dt, kT=KT, chain_length=3, chain_steps=1,
        sy_steps=1, tau=8.0,
    )  # fmt: skip
    theirs = init(KEY, x0, mass=m, momenta=p0)
    # jax-md counts 3n - 3 momenta and takes the centre of mass out; here 3n, as stated
    chain = theirs.chain
    chain = chain.set(degrees_of_freedom=3 * n, mass=chain.mass.at[0].set(3 * n * KT * 8.0**2))
    theirs = theirs.set(momentum=p0, chain=chain.set(kinetic_energy=jnp.sum(p0**2) / (2.0 * m)))
    for _ in range(20):
        ours, theirs = pair.step(KEY, ours, {"k": k}), apply(theirs)
    np.testing.assert_allclose(ours.positions, theirs.position, rtol=1e-5)
    np.testing.assert_allclose(ours.momenta, theirs.momentum, rtol=1e-5)
    np.testing.assert_allclose(ours.extra.momenta[0], theirs.chain.momentum, rtol=1e-4)


@pytest.mark.parametrize("count", [3, 5])
def test_the_weights_are_of_fourth_order(count):
    weights = np.array(SUZUKI_YOSHIDA[count])
    assert weights.sum() == pytest.approx(1.0) and abs((weights**3).sum()) < 1e-12


@pytest.mark.parametrize("arguments", [{"weights": 7}, {"length": 1}])
def test_an_unknown_scheme_is_refused(arguments):
    with pytest.raises(ValueError, match=r"choose from \[1, 3, 5\]|at least 2"):
        NoseHoover(0.1, 1.0, **arguments)


def test_a_frozen_replica_leaves_the_others_bitwise():
    """One chain a replica: one that fails at once keeps its state, and the others have their thermostats."""
    n = 9
    system = pack([topology_from_species([0] * n)] * 3)
    limits = checks(system, np.full(len(system.bond_mask), 3.8), Criteria(size_limits=False))

    def energy(params, positions, system, neighbors):
        bonds = jnp.asarray(system.bonds)
        r = jnp.linalg.norm(positions[bonds[:, 1]] - positions[bonds[:, 0]], axis=1)
        share = 0.25 * params["k"] * ((r - 3.8) ** 2)[:, None]
        return jnp.zeros(len(positions)).at[bonds].add(share)

    def first_chunk(x):
        chunks = rollout(
            energy, {"k": 80.0}, system, x, np.full(3, KT), KEY, NoseHoover(0.1, 5.0),
            Settings(n_frames=2, stride=10, chunk_frames=2, cutoff_A=0.0), limits,
        )  # fmt: skip
        return next(chunks)

    whole = np.concatenate([ideal_helix(n)] * 3)
    broken = whole.copy()
    broken[n + 8] *= 1e3
    a, b = first_chunk(whole), first_chunk(broken)
    assert list(a.status) == [Status.OK] * 3 and b.status[1] != Status.OK
    others = np.r_[0:n, 2 * n : 3 * n]
    assert np.array_equal(a.positions[:, others], b.positions[:, others])
    assert np.all(b.positions[:, n : 2 * n] == broken[n : 2 * n].astype(np.float32))
