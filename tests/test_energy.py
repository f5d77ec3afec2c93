"""What holds for every energy term: forces, padding, NaN, names. The forms have their own tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy, neighbors, system
from tests.chains import chain_from_internal

SPECIES = [0, 7, 14, 3, 4, 5, 6]
BOND = energy.BondedTerm("bond", "bond", lambda p, r, kind: 0.5 * p * (r - 3.8) ** 2)
ANGLE = energy.BondedTerm("angle", "angle", lambda p, x, kind: p * jnp.cos(x))
DIHEDRAL = energy.BondedTerm("dihedral", "dihedral", lambda p, x, kind: p * jnp.sin(x + kind))
PAIR = energy.PairTerm("repulsion", 9.0, 3, lambda p, r, a, b: p * (1 - r / 9.0) ** 3)
MODEL = energy.SumOfTerms((BOND, ANGLE, DIHEDRAL, PAIR))
PARAMS = {"bond": 100.0, "angle": 2.0, "dihedral": 1.5, "repulsion": 7.0}


def chain(seed=0):
    return np.cumsum(np.random.default_rng(seed).normal(size=(len(SPECIES), 3)) * 2.2, axis=0)


ROOM = 96
computed = jax.jit(energy.bead_energies_and_forces, static_argnums=0)


def edges(packed, x, reach_A=9.0):
    """The edges, in room for any of them here, so that shapes repeat."""
    exact = neighbors.exact(packed, x, reach_A)
    return neighbors.padded(np.asarray(exact.senders), np.asarray(exact.receivers), ROOM)


def evaluate(term, params, x, packed):
    x = np.asarray(x)
    listed = edges(packed, np.where(packed.bead_mask[:, None], x, 0.0))
    return computed(term, params, jnp.asarray(x), packed, listed)


def test_pair_energy_of_a_dimer_by_hand():
    """Beads 0 and 3 at 6 Å, everything else out of reach: 7 (1 - 6/9)³, half on each bead."""
    packed = system.pack([system.topology_from_species([0, 0, 0, 0])])
    x = np.array([[0, 0, 0], [0, 50.0, 0], [0, 0, 50.0], [6.0, 0, 0]])
    per_bead, forces = evaluate(PAIR, 7.0, x, packed)
    assert per_bead == pytest.approx([7 / 54, 0, 0, 7 / 54])
    assert forces[3] == pytest.approx([7 * 3 * (1 / 9) / 9, 0, 0])


@pytest.mark.parametrize("padding", [0, 5])
def test_nan_in_padding_changes_nothing(padding):
    t = system.topology_from_species(SPECIES)
    plain = evaluate(MODEL, PARAMS, chain(), system.pack([t]))
    n = len(SPECIES)
    cap = system.Capacity(n + padding, 2, 9, 9, 9)
    x = np.full((n + padding, 3), np.nan)
    x[:n] = chain()
    padded = evaluate(MODEL, PARAMS, x, system.pack([t], cap))
    for got, want in zip(padded, plain, strict=True):
        assert np.allclose(got[:n], want, rtol=1e-12, atol=1e-12)
        assert np.all(np.asarray(got[n:]) == 0.0)


def test_two_graphs_are_two_molecules():
    t = system.topology_from_species(SPECIES)
    both = evaluate(MODEL, PARAMS, np.concatenate([chain(1), chain(2)]), system.pack([t, t]))
    one = evaluate(MODEL, PARAMS, chain(1), system.pack([t]))
    two = evaluate(MODEL, PARAMS, chain(2), system.pack([t]))
    assert np.allclose(both[0], np.concatenate([one[0], two[0]]), rtol=1e-12)
    assert np.allclose(both[1], np.concatenate([one[1], two[1]]), rtol=1e-10, atol=1e-10)


def test_forces_are_minus_the_gradient():
    packed = system.pack([system.topology_from_species(SPECIES)])
    x, h = chain(3), 1e-5
    listed = edges(packed, x, 20.0)

    total = jax.jit(lambda x: energy.total(MODEL, PARAMS, x, packed, listed))

    numeric = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[index] = h
        numeric[index] = -(total(x + step) - total(x - step)) / (2 * h)
    forces = computed(MODEL, PARAMS, jnp.asarray(x), packed, listed)[1]
    assert np.abs(forces - numeric).max() < 1e-6 * np.abs(numeric).max()


def test_terms_add_up_and_names_are_checked():
    packed = system.pack([system.topology_from_species(SPECIES)])
    x = jnp.asarray(chain())
    listed = edges(packed, chain())
    parts = jax.jit(energy.by_term, static_argnums=0)(MODEL, PARAMS, x, packed, listed)
    whole = computed(MODEL, PARAMS, x, packed, listed)
    assert np.allclose(sum(e for e, _ in parts.values()), whole[0], rtol=1e-12)
    assert np.allclose(sum(f for _, f in parts.values()), whole[1], rtol=1e-12)
    assert [t.name for t in MODEL.only(("bond", "repulsion")).terms] == ["bond", "repulsion"]
    with pytest.raises(ValueError, match="no energy term"):
        MODEL.only(("bnod",))


def test_separation_two_and_chain_breaks():
    """Repulsion leaves separations 1 and 2 alone, and acts at once across a chain break."""
    x = np.array([[0.0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0]])
    whole = system.pack([system.topology_from_species([0] * 4)])
    broken = system.pack([system.topology_from_species([0] * 4, breaks=[2])])
    assert np.count_nonzero(evaluate(PAIR, 1.0, x, whole)[0]) == 2
    assert np.count_nonzero(evaluate(PAIR, 1.0, x, broken)[0]) == 4


def test_switch_of_straight_angles_by_hand():
    """1 up to 150°, ¾ at 165°, 0 at 180° with slope -2/30°; no slope at 150°, and none in between jumps."""
    low, high = np.deg2rad(150.0), np.pi
    theta = jnp.asarray([0.0, 1.0, low, np.deg2rad(165.0), high])
    assert energy.straight_switch(theta, (low, high)) == pytest.approx([1.0, 1.0, 1.0, 0.75, 0.0])
    slope = jax.vmap(jax.grad(lambda t: energy.straight_switch(t, (low, high))))
    assert slope(jnp.asarray([low - 1e-9, low + 1e-9, high - 1e-9])) == pytest.approx(
        [0.0, 0.0, -2.0 / (high - low)], abs=1e-6
    )


def test_a_damped_dihedral_by_hand():
    """sin 50° times ¾ for an angle of 165°, times 1 for one of 100°; nothing for beads in line."""
    x = chain_from_internal(np.full(3, 3.8), np.deg2rad([165.0, 100.0]), np.deg2rad([50.0]))
    packed = system.pack([system.topology_from_species([0] * 4)])
    sine = energy.BondedTerm(
        "dihedral", "dihedral", lambda p, phi, kind: p * jnp.sin(phi), (np.deg2rad(150.0), np.pi)
    )
    per_bead, _ = evaluate(sine, 2.0, x, packed)
    assert per_bead == pytest.approx([0.75 * 2.0 * np.sin(np.deg2rad(50.0)) / 4] * 4)
    line = np.arange(4)[:, None] * np.array([3.8, 0.0, 0.0])
    assert all(np.all(np.asarray(value) == 0.0) for value in evaluate(sine, 2.0, line, packed))


@pytest.mark.parametrize(
    ("first", "last", "count"), [(1, 1, 3), (2, 2, 2), (2, 3, 3), (3, None, 1), (4, None, 0)]
)
def test_a_pair_term_acts_within_its_window(first, last, count):
    """Four beads at the corners of a tetrahedron of edge 6 Å: as many pairs as have the separation."""
    packed = system.pack([system.topology_from_species([0] * 4)])
    x = np.array([[0.0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) * 6.0 / np.sqrt(2.0)
    term = energy.PairTerm("pair", 9.0, first, PAIR.scalar, last)
    per_bead, _ = evaluate(term, 27.0, x, packed)
    assert float(per_bead.sum()) == pytest.approx(count)
