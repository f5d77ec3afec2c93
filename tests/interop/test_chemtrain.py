"""The template of chemtrain against the package's own energies, with real jax-md neighbour lists."""

import warnings
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy, neighbors, system
from cgrefine.fm.forcefield import prior_only, with_network
from cgrefine.fm.models.registry import network_term
from cgrefine.interop.chemtrain import bead_arrays, energy_fn_template
from cgrefine.system import topology_from_species
from tests.chains import random_chain
from tests.fm.prior_facts import ANGLE, BOND, DIHEDRAL, REPULSION, all_params
from tests.fm.test_models import ALLEGRO

with warnings.catch_warnings():
    # deprecated calls in imports of jax-md are not this package's
    warnings.simplefilter("ignore")
    from jax_md import partition, space

pytestmark = pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")
"""In jax-md's making of a list, with 64-bit integers."""

SMALL = {**ALLEGRO, "channels": 2, "hidden": 4, "layers": 1, "l_max": 1, "n_bessel": 4}
PRIORS = {"terms": [BOND, {**ANGLE, "form": "harmonic", "classes": "type"}, DIHEDRAL, REPULSION]}
N, ROOM = 14, 18
KINDS = np.random.default_rng(3).integers(0, 20, N)
TOPOLOGY = topology_from_species(KINDS, breaks=(6,), cis=(9,))


def chain(seed=2):
    """N beads, the second piece moved off: the bond across the break would be long."""
    x = random_chain(N, seed)
    x[6:] += [2.0, 1.0, 0.5]
    return x


X = chain()


@pytest.fixture(scope="module")
def force_field():
    """Bonded and pair priors, and an Allegro with parameters away from their small initial values."""
    prior = prior_only(PRIORS, all_params(PRIORS), 320.0)
    fresh = network_term(SMALL).init(jax.random.key(1))
    rng = np.random.default_rng(8)
    moved = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.3 * rng.normal(size=leaf.shape), fresh)
    return with_network(prior, SMALL, moved)


def own(model, params, x=X, topology=TOPOLOGY):
    """Energy and forces by the package: packed topology, exact edges."""
    packed = system.pack([topology])
    listed = neighbors.exact(packed, x, model.cutoff_A)
    bead, force = OWN(model, params, jnp.asarray(x), packed, listed)
    return float(bead.sum()), np.asarray(force)


OWN = jax.jit(energy.bead_energies_and_forces, static_argnums=0)


@cache
def lists(cutoff, form, capacity):
    """jax-md's lists in free space; as long as can be (few compilations) unless a capacity is given."""
    displacement, _ = space.free()
    return partition.neighbor_list(
        displacement, jnp.ones(3), cutoff, 0.1 * cutoff, capacity,
        disable_cell_list=True, format=getattr(partition.NeighborListFormat, form),
    )  # fmt: skip


def listed(x, cutoff, form="Dense", capacity=100.0):
    return lists(cutoff, form, capacity).allocate(jnp.asarray(x))


def padded(x, fill=3.0):
    """Rows of `fill` up to ROOM: near the molecule, so that padding that is not masked would be felt."""
    wide = np.full((ROOM, 3), fill)
    wide[: len(x)] = x
    return wide


def energy_and_forces(energy_fn, x, nbrs, **arrays):
    value, gradient = jax.jit(jax.value_and_grad(lambda p: energy_fn(p, neighbor=nbrs, **arrays)))(x)
    return float(value), -np.asarray(gradient)


@pytest.mark.parametrize("terms", [("bond", "repulsion"), ("network",)])
def test_energy_and_forces_are_the_packages_own(force_field, terms):
    """One molecule, whose topology the template has: a break and a cis bond."""
    model = force_field.model.only(terms)
    expected, forces = own(model, force_field.params)
    energy_fn = energy_fn_template(model, TOPOLOGY)(force_field.params)
    found = energy_and_forces(energy_fn, X, listed(X, model.cutoff_A))
    assert abs(expected) > 0.1 and np.abs(forces).max() > 0.1
    assert found[0] == pytest.approx(expected, rel=1e-12, abs=1e-10)
    assert np.abs(found[1] - forces).max() < 1e-10


@pytest.mark.parametrize(
    ("form", "terms"),
    [
        ("Dense", ("angle", "dihedral", "network")),
        ("Sparse", ("bond", "repulsion")),
        ("OrderedSparse", ("bond", "repulsion")),
    ],
)
def test_padding_and_arrays_of_the_data_set(force_field, form, terms):
    """Species, mask, breaks and cis bonds with each call, wide arrays, float masks as in the peer's files."""
    model = force_field.model.only(terms)
    expected, forces = own(model, force_field.params)
    x = padded(X)
    arrays = bead_arrays(TOPOLOGY, ROOM)
    arrays["mask"] = arrays["mask"].astype(np.float32)
    found = energy_and_forces(
        energy_fn_template(model)(force_field.params), x, listed(x, model.cutoff_A, form), kT=0.6, **arrays
    )
    assert found[0] == pytest.approx(expected, rel=1e-12)
    assert np.abs(found[1][:N] - forces).max() < 1e-10 and not found[1][N:].any()


def test_two_proteins_in_one_batch(force_field):
    """vmap over frames of different chains, the list updated for each, as chemtrain's trainers do."""
    model, short = force_field.model.only(("bond", "repulsion")), topology_from_species(KINDS[:7])
    chains = [(X, TOPOLOGY), (random_chain(7, 5), short)]
    x = jnp.asarray(np.stack([padded(one) for one, _ in chains]))
    rows = [bead_arrays(topology, ROOM) for _, topology in chains]
    arrays = {key: jnp.asarray(np.stack([row[key] for row in rows])) for key in rows[0]}
    energy_fn = energy_fn_template(model)(force_field.params)
    nbrs = listed(x[0], model.cutoff_A)

    def forces_of(position, arrays):
        return -jax.grad(lambda p: energy_fn(p, neighbor=nbrs.update(position), **arrays))(position)

    found = np.asarray(jax.jit(jax.vmap(forces_of))(x, arrays))
    for k, (one, topology) in enumerate(chains):
        _, forces = own(model, force_field.params, one, topology)
        assert np.abs(found[k, : len(one)] - forces).max() < 1e-10 and not found[k, len(one) :].any()


def test_without_mask_negative_species_are_padding(force_field):
    topology = topology_from_species(KINDS)
    model = force_field.model.only(("bond", "repulsion"))
    expected, forces = own(model, force_field.params, X, topology)
    x = padded(X)
    energy_fn = energy_fn_template(model)(force_field.params)
    species = bead_arrays(topology, ROOM)["species"]
    assert (species[N:] == -1).all()
    found = energy_and_forces(energy_fn, x, listed(x, model.cutoff_A), species=species)
    assert found[0] == pytest.approx(expected, rel=1e-12) and np.abs(found[1][:N] - forces).max() < 1e-10


@pytest.mark.parametrize(("length", "unit"), [("A", "kJ/mol"), ("nm", "kcal/mol"), ("nm", "kJ/mol")])
def test_units(force_field, length, unit):
    """1 kcal = 4.184 kJ, 1 nm = 10 Å, and the force in kJ/mol/nm is 41.84 of those in kcal/mol/Å."""
    model = force_field.model.only(("bond", "repulsion"))
    expected, forces = own(model, force_field.params)
    per_A, per_kcal = {"A": 1.0, "nm": 0.1}[length], {"kcal/mol": 1.0, "kJ/mol": 4.184}[unit]
    template = energy_fn_template(model, TOPOLOGY, length, unit)
    x = X * per_A
    found = energy_and_forces(template(force_field.params), x, listed(x, model.cutoff_A * per_A))
    assert found[0] == pytest.approx(expected * per_kcal, rel=1e-12)
    assert np.allclose(found[1], forces * per_kcal / per_A, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_gradients_reach_every_parameter(force_field):
    """Against central differences along a random direction in the space of the parameters."""
    model = force_field.model.only(("bond", "network"))
    template, nbrs = energy_fn_template(model, TOPOLOGY), listed(X, model.cutoff_A)
    params = {term.name: force_field.cast(jnp.float64)[term.name] for term in model.terms}
    target = np.random.default_rng(2).normal(size=X.shape)

    @jax.jit
    def loss(p):
        forces = -jax.grad(lambda x: template(p)(x, neighbor=nbrs))(jnp.asarray(X))
        return jnp.mean((forces - target) ** 2)

    gradient = jax.jit(jax.grad(loss))(params)
    rng = np.random.default_rng(9)
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    expected = sum(
        float(jnp.vdot(g, d))
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    h = 1e-5

    def along(step):
        return float(loss(jax.tree.map(lambda leaf, d: leaf + step * d, params, direction)))

    assert (along(h) - along(-h)) / (2 * h) == pytest.approx(expected, rel=1e-5)
    for name, part in gradient.items():
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(part)) > 0, name


def test_an_overflowed_list_gives_nan_energy_and_forces(force_field):
    """chemtrain trains on whatever comes out: neighbours that are left out must not pass for a result."""
    model = force_field.model.only(("bond", "repulsion"))
    spread = X * 3.0
    nbrs = listed(spread, model.cutoff_A, capacity=1.0).update(jnp.asarray(X))
    assert nbrs.did_buffer_overflow
    found = energy_and_forces(energy_fn_template(model, TOPOLOGY)(force_field.params), X, nbrs)
    assert np.isnan(found[0]) and np.isnan(found[1]).all()


def test_misuse_is_told(force_field):
    model = force_field.priors
    nbrs = listed(X, model.cutoff_A)
    with pytest.raises(ValueError, match="length_unit = 'pm': choose from A, nm"):
        energy_fn_template(model, TOPOLOGY, "pm")
    with pytest.raises(ValueError, match="energy_unit = 'eV': choose from kcal/mol, kJ/mol"):
        energy_fn_template(model, TOPOLOGY, "A", "eV")
    fixed, free = (energy_fn_template(model, t)(force_field.params) for t in (TOPOLOGY, None))
    with pytest.raises(ValueError, match="species, mask, which the template's topology states already"):
        fixed(X, nbrs, species=KINDS, mask=np.ones(N))
    with pytest.raises(ValueError, match="has no species"):
        free(X, nbrs)
    with pytest.raises(ValueError, match="has a box"):
        fixed(X, nbrs, box=np.eye(3))
    with pytest.raises(ValueError, match="14 beads, there is room for 10"):
        fixed(X[:10], nbrs)
    other = SimpleNamespace(idx=nbrs.idx, error=nbrs.error, format=SimpleNamespace(name="Other"))
    with pytest.raises(ValueError, match="format Other"):
        fixed(X, other)
