"""Laws that each prior term obeys as an energy of beads: forces, symmetries, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy, neighbors, system
from cgrefine.fm.priors.terms import NAMES, prior_facts, prior_terms
from cgrefine.residues import ANGLE_CLASSES, BOND_CLASSES, DIHEDRAL_CLASSES, N_SPECIES
from tests.chains import random_chain, random_topology

N = 24
FACTS = prior_facts(
    angle_low=1.4,
    angle_high=2.3,
    wall_k=100.0,
    n_knots=12,
    n_harmonics=3,
    epsilon=1.0,
    exponent=12,
    cutoff_A=9.0,
    min_separation=3,
)
TERMS = {t.name: t for t in prior_terms(FACTS)}


def parameters():
    """Different values in every class and pair, so that a wrong type or a lost pair is seen."""
    rng = np.random.default_rng(1)
    sigma = rng.uniform(4.5, 5.5, (N_SPECIES, N_SPECIES))
    return {
        "bond": {"k": rng.uniform(100, 200, len(BOND_CLASSES)), "r0": rng.uniform(3.7, 3.9, 2)},
        "angle": {"coefficients": rng.normal(size=(len(ANGLE_CLASSES), 12))},
        "dihedral": {
            "cos": rng.normal(size=(len(DIHEDRAL_CLASSES), 3)),
            "sin": rng.normal(size=(len(DIHEDRAL_CLASSES), 3)),
        },
        "repulsion": {"sigma": 0.5 * (sigma + sigma.T)},
    }


PARAMS = parameters()
evaluate = jax.jit(energy.bead_energies_and_forces, static_argnums=0)


def of(name, x, packed):
    listed = neighbors.exact(packed, np.where(packed.bead_mask[:, None], x, 0.0), 9.0)
    per_bead, force = evaluate(TERMS[name], PARAMS[name], jnp.asarray(x), packed, listed)
    return np.asarray(per_bead), np.asarray(force)


@pytest.fixture(scope="module")
def chain():
    return random_chain(N, 3), random_topology(N, 3)


def test_names_and_order():
    assert tuple(TERMS) == NAMES


def test_every_class_turns_up(chain):
    """The random chain exercises Gly, Pro and other; a law checked on one class would prove little."""
    _, topology = chain
    assert set(topology.dihedral_types) == {0, 1, 2} and len(set(topology.angle_types)) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_force_is_minus_the_gradient(name, chain):
    """Central differences of 1e-4 Å in float64 along 20 directions: error ~1e-8 of the curvature scale."""
    x, topology = chain
    packed = system.pack([topology])
    _, force = of(name, x, packed)
    assert np.abs(force).max() > 0.1
    rng, h = np.random.default_rng(2), 1e-4
    for _ in range(20):
        direction = rng.normal(size=x.shape)
        direction /= np.linalg.norm(direction)
        ahead, behind = (of(name, x + s * h * direction, packed)[0].sum() for s in (1, -1))
        slope = (ahead - behind) / (2 * h)
        assert -np.sum(force * direction) == pytest.approx(slope, rel=1e-6, abs=1e-6 * np.abs(force).max())


@pytest.mark.parametrize("name", NAMES)
def test_rotation_and_translation(name, chain):
    x, topology = chain
    packed = system.pack([topology])
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    before, force = of(name, x, packed)
    after, turned = of(name, x @ rotation.T + np.array([3.0, -50.0, 8.0]), packed)
    assert np.allclose(after, before, rtol=1e-10, atol=1e-10)
    assert np.allclose(turned, force @ rotation.T, rtol=1e-9, atol=1e-9)
    assert np.abs(force.sum(axis=0)).max() < 1e-9


def test_only_the_dihedral_knows_its_mirror_image(chain):
    x, topology = chain
    packed = system.pack([topology])
    mirror = x * np.array([1.0, 1.0, -1.0])
    for name in NAMES:
        gap = abs(of(name, mirror, packed)[0].sum() - of(name, x, packed)[0].sum())
        assert gap > 0.1 if name == "dihedral" else gap < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_bead_permutation(name, chain):
    """Beads in another order, their tuples renamed: energies and forces follow the beads."""
    x, t = chain
    order = np.random.default_rng(5).permutation(N)
    place = np.argsort(order).astype(np.int32)
    shuffled = system.Topology(
        species=t.species[order],
        sequence=t.sequence[order],
        bonds=place[t.bonds],
        bond_types=t.bond_types,
        angles=place[t.angles],
        angle_types=t.angle_types,
        dihedrals=place[t.dihedrals],
        dihedral_types=t.dihedral_types,
        resid=t.resid[order],
    )
    before, after = of(name, x, system.pack([t])), of(name, x[order], system.pack([shuffled]))
    for a, b in zip(before, after, strict=True):
        assert np.allclose(b, a[order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_nan_in_it(name, chain):
    """Energies and forces are those without padding; the gradient to the parameters is finite too."""
    x, topology = chain
    padded = system.pack([topology], system.Capacity(N + 6, 2, N + 3, N + 3, N + 3))
    filled = np.full((N + 6, 3), np.nan)
    filled[:N] = x
    listed = neighbors.exact(padded, np.where(padded.bead_mask[:, None], filled, 0.0), 9.0)

    def total(y, p):
        per_bead = TERMS[name](p, y, padded, listed)
        return per_bead.sum(), per_bead

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, per_bead), (dx, dp) = both(jnp.asarray(filled), jax.tree.map(jnp.asarray, PARAMS[name]))
    for a, b in zip(of(name, x, system.pack([topology])), (per_bead, -dx), strict=True):
        assert np.allclose(b[:N], a, rtol=1e-10, atol=1e-10)
        assert np.all(b[N:] == 0.0)
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in jax.tree.leaves(dp))


def test_repulsion_leaves_out_near_neighbours():
    """Three beads on one spot, two bonds: no pair is three apart, so there is no energy."""
    packed = system.pack([system.topology_from_species([0, 0, 0])])
    assert np.all(of("repulsion", np.zeros((3, 3)), packed)[0] == 0.0)


def test_empty_angle_range_is_refused():
    with pytest.raises(ValueError, match="angle range"):
        prior_facts(2.0, 2.0, 100.0, 12, 3, 1.0, 12, 6.5, 3)
