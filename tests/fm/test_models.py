"""Laws that every network obeys: one row a network in NETWORKS."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy, neighbors, system
from cgrefine.config.training import Model
from cgrefine.fm.models.registry import network_term
from tests.chains import random_chain, random_topology

CUTOFF = 9.0
ALLEGRO = {
    "name": "allegro", "cutoff_A": CUTOFF, "channels": 3, "hidden": 8, "layers": 2, "l_max": 2, "n_bessel": 6,
    "envelope_p": 6, "parity": "so3", "products": "channelwise", "species_pair": True, "avg_neighbors": 8.0,
}  # fmt: skip
MACE = {**ALLEGRO, "name": "mace", "l_hidden": 1, "correlation": 3}
PASSING = {"cutoff_A": CUTOFF, "hidden": 8, "layers": 2, "n_bessel": 6, "envelope_p": 6, "avg_neighbors": 8.0}
NETWORKS = {
    "allegro-so3": ALLEGRO,
    "allegro-o3": {**ALLEGRO, "parity": "o3", "l_max": 1},
    "mace-so3": MACE,
    "mace-o3": {**MACE, "parity": "o3", "l_max": 1, "correlation": 2},
    "allegro-concatenated": {**ALLEGRO, "products": "concatenated", "species_pair": False, "l_max": 1},
    "painn": {"name": "painn", **PASSING},
    "schnet": {"name": "schnet", **PASSING},
}
N, BEADS, EDGES = 12, 16, 160
TOPOLOGY = random_topology(N, seed=5)


class Subject:
    """A network with parameters away from their small initial values, and its compiled forces."""

    def __init__(self, facts):
        self.term = network_term(facts)
        fresh = jax.jit(self.term.init)(jax.random.key(3))
        self.fresh = fresh
        leaves, tree = jax.tree.flatten(fresh)
        rng = np.random.default_rng(4)
        noisy = [leaf + (0.3 * rng.normal(size=leaf.shape)) for leaf in map(np.asarray, leaves)]
        self.params = jax.tree.unflatten(tree, noisy)
        self.jitted = jax.jit(self._compute)

    def _compute(self, params, x, packed, listed):
        return energy.bead_energies_and_forces(self.term, params, x, packed, listed)

    def padded(self, x, topology=TOPOLOGY, reach_A=CUTOFF, params=None, fill=0.0):
        """Bead energies and forces in a buffer of BEADS and EDGES (one compilation for all tests)."""
        packed = system.pack([topology], system.Capacity(BEADS, 1, BEADS, BEADS, BEADS))
        wide = np.full((BEADS, 3), fill)
        wide[: len(x)] = x
        exact = neighbors.exact(packed, wide, reach_A)
        listed = neighbors.padded(np.asarray(exact.senders), np.asarray(exact.receivers), EDGES)
        found = self.jitted(self.params if params is None else params, jnp.asarray(wide), packed, listed)
        return np.asarray(found[0]), np.asarray(found[1])

    def __call__(self, x, *arguments, **named):
        bead, forces = self.padded(x, *arguments, **named)
        return bead[: len(x)], forces[: len(x)]


@cache
def subject_of(name):
    return Subject(NETWORKS[name])


@pytest.fixture(params=list(NETWORKS))
def subject(request):
    return subject_of(request.param)


@pytest.fixture(scope="module")
def chain():
    return random_chain(N, seed=1)


def rotation(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def test_parameters_follow_the_default_float_type(subject):
    assert {leaf.dtype for leaf in jax.tree.leaves(subject.fresh)} == {np.dtype("float64")}


def test_force_is_minus_the_gradient(subject, chain):
    """Central differences of step h: error h²/6 · third derivative + rounding ε|E|/h, below 1e-7 here."""
    _, forces = subject(chain)
    rng, h = np.random.default_rng(0), 2e-5
    for _ in range(4):
        direction = rng.normal(size=chain.shape)
        ahead, behind = (subject(chain + s * h * direction)[0].sum() for s in (1, -1))
        expected = np.sum(forces * direction)
        assert abs(-(ahead - behind) / (2 * h) - expected) < 1e-6 * np.linalg.norm(forces)


def test_rotation_and_translation(subject, chain):
    turn = rotation(2)
    bead, forces = subject(chain)
    moved, turned = subject(chain @ turn.T + np.array([3.0, -40.0, 7.0]))
    assert np.allclose(moved, bead, rtol=1e-10, atol=1e-10 * np.abs(bead).max())
    assert np.allclose(turned, forces @ turn.T, rtol=0, atol=1e-10 * np.abs(forces).max())


def test_no_net_force_and_no_torque(subject, chain):
    _, forces = subject(chain)
    scale = np.abs(forces).max()
    assert np.abs(forces.sum(0)).max() < 1e-11 * scale
    assert np.abs(np.cross(chain, forces).sum(0)).max() < 1e-10 * scale


def test_bead_order_is_no_information(subject, chain):
    order = np.random.default_rng(3).permutation(N)
    shuffled = system.topology_from_species(TOPOLOGY.species[order])
    bead, forces = subject(chain)
    moved, moved_forces = subject(chain[order], shuffled)
    assert np.allclose(moved, bead[order], rtol=1e-10, atol=1e-10 * np.abs(bead).max())
    assert np.allclose(moved_forces, forces[order], rtol=0, atol=1e-10 * np.abs(forces).max())


def test_padding_beads_and_edges_even_of_nan(subject, chain):
    bead, forces = subject(chain)
    packed_bead, packed_forces = subject.padded(chain, fill=np.nan)
    assert np.array_equal(packed_bead[:N], bead) and np.array_equal(packed_forces[:N], forces)
    assert np.all(packed_bead[N:] == 0.0) and np.all(packed_forces[N:] == 0.0)
    tight = system.pack([TOPOLOGY])
    listed = neighbors.exact(tight, chain, CUTOFF)
    assert len(listed.senders) < EDGES
    unpadded = jax.jit(subject.term)(subject.params, jnp.asarray(chain), tight, listed)
    assert np.allclose(unpadded, bead, rtol=1e-10, atol=1e-10 * np.abs(bead).max())


def test_edges_beyond_the_cutoff_change_nothing(subject, chain):
    count = [len(neighbors.frame_edges(chain, reach)[0]) for reach in (CUTOFF, 3.0 * CUTOFF)]
    assert count[1] > count[0]
    for got, want in zip(subject(chain, reach_A=3.0 * CUTOFF), subject(chain), strict=True):
        assert np.allclose(got, want, rtol=1e-10, atol=1e-10 * np.abs(want).max())


def test_energy_and_force_go_to_zero_at_the_cutoff(subject):
    """A dimer: E ∝ (1 - r/rc)³ or faster, so E falls by 8 and force by 4 when the gap is halved."""
    pair = system.topology_from_species([0, 5])
    for kept in (2e-3, 1e-3):
        x = np.array([[0.0, 0, 0], [CUTOFF * (1 - kept), 0, 0]])
        bead, forces = subject(x, pair)
        if kept == 2e-3:
            before = np.abs(bead).max(), np.abs(forces).max()
    assert before[0] > 0 and np.abs(bead).max() < before[0] / 7
    assert np.abs(forces).max() < before[1] / 3.5
    beyond = np.array([[0.0, 0, 0], [CUTOFF * 1.001, 0, 0]])
    assert all(np.all(found == 0.0) for found in subject(beyond, pair, reach_A=2 * CUTOFF))


def test_a_bead_that_leaves_is_forgotten_smoothly(subject, chain):
    """Forces on all beads are continuous while one bead crosses the cutoff of many others."""
    others = chain[:-1]
    away = (others - others.mean(0))[np.argmax(np.linalg.norm(others - others.mean(0), axis=1))]
    away = away / np.linalg.norm(away)
    tip = others[np.argmax(others @ away)] + CUTOFF * away

    def forces(shift):
        return subject(np.vstack([others, tip + shift * away]))[1]

    step = 1e-5
    change = np.abs(forces(step) - forces(-step)).max()
    assert change < 10.0 * step * np.abs(forces(-0.5)).max()


def test_locality(subject):
    """A bead's energy depends on beads up to `hops` edges away, and on none further."""
    count = subject.term.hops + 2
    far = np.zeros((count, 3))
    far[:, 0] = 0.6 * CUTOFF * np.arange(count)
    line = system.topology_from_species(np.arange(count) + 1)
    moved = far.copy()
    moved[-1] += [0.3, 0.5, 0.0]
    before, after = subject(far, line)[0], subject(moved, line)[0]
    assert before[0] == pytest.approx(after[0], rel=1e-12)
    assert abs(before[1] - after[1]) > 1e-8 * abs(before[1])


def test_coincident_beads_stay_finite(subject, chain):
    x = chain.copy()
    x[4] = x[3]
    bead, forces = subject(x)
    assert np.all(np.isfinite(bead)) and np.all(np.isfinite(forces))


def test_an_untrained_network_is_small(subject, chain):
    """Below a tenth of kT (0.06 kcal/mol) a bead, so that the priors rule before training."""
    bead, _ = subject(chain, params=subject.fresh)
    assert 0 < np.abs(bead).max() < 0.06


def test_mirror_images(chain):
    """so3 tells a chain from its mirror image; o3, PaiNN and SchNet cannot."""
    for name, differs in {name: facts.get("parity") == "so3" for name, facts in NETWORKS.items()}.items():
        one, other = (subject_of(name)(sign * chain)[0] for sign in (1.0, -1.0))
        gap = np.abs(one - other).max() / np.abs(one).max()
        assert gap > 1e-4 if differs else gap < 1e-10


def test_single_precision_smoke(chain):
    subject = subject_of("allegro-o3")
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), subject.fresh)
    packed = system.pack([TOPOLOGY])
    listed = neighbors.exact(packed, chain, CUTOFF)
    bead = jax.jit(subject.term)(params, jnp.asarray(chain, np.float32), packed, listed)
    wide, _ = subject(chain, params=subject.fresh)
    assert bead.dtype == np.float32
    assert np.allclose(bead, wide, atol=1e-5 * np.abs(wide).max())


def test_unknown_network_is_named():
    with pytest.raises(ValueError, match="no network 'alegro'; there are allegro"):
        network_term({**ALLEGRO, "name": "alegro"})


def test_equal_facts_give_one_term():
    """What is compiled for a model serves others of its form."""
    facts = {**Model(name="painn", cutoff_A=10.0).model_dump(), "avg_neighbors": 8.0}
    assert network_term(facts) is network_term(dict(facts))
    assert network_term(facts) is not network_term({**facts, "avg_neighbors": 9.0})
