"""The default prior where geometry is singular: finite in single and double precision, wherever beads are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy, neighbors, system
from cgrefine.energy import SumOfTerms
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.residues import species_from_sequence
from tests.chains import chain_from_internal
from tests.fm import prior_facts

BEADS = 5
ROOM = 6
FACTS = prior_facts.FULL
MODEL = SumOfTerms(prior_terms(FACTS))
PARAMS = prior_facts.all_params(FACTS)
TOPOLOGY = system.topology_from_species(species_from_sequence("KGPED"))
LINE = np.arange(BEADS)[:, None] * np.array([3.8, 0.0, 0.0])
ZIGZAG = chain_from_internal(np.full(4, 3.8), np.full(3, 1.8), np.full(2, 0.9))


def packed(graphs, room=ROOM):
    """Chains of five beads, each with tuples of its own; the last bead of a graph of six is padding."""
    return system.pack(
        [TOPOLOGY] * graphs, system.Capacity(graphs * BEADS + room - BEADS, graphs, *[graphs * 5] * 3)
    )


def every_pair(graph):
    pairs = neighbors.candidates(graph)
    count = len(pairs.senders)
    return neighbors.Neighbors(pairs.senders, pairs.receivers, np.ones(count, bool), np.asarray(False))


def moved(chain, **beads):
    """The chain with some beads elsewhere: b2=(x, y, z) or b2=0, the place of another bead."""
    x = np.array(chain)
    for name, place in beads.items():
        x[int(name[1:])] = x[place] if isinstance(place, int) else place
    return x


SINGULAR = {
    "straight chain": LINE,
    "one straight angle": np.concatenate([LINE[:3], LINE[2] + ZIGZAG[3:] - ZIGZAG[2]]),
    "folded back, first and third bead on one spot": moved(ZIGZAG, b2=0),
    "bonded beads on one spot": moved(ZIGZAG, b1=0),
    "four beads on one line, folded": LINE[[0, 1, 0, 1, 2]],
    "overlapping beads that are not bonded": moved(ZIGZAG, b4=0),
    "all on one spot": np.zeros((BEADS, 3)),
    "nearly on one spot": 1e-7 * ZIGZAG,
    "far too close to square": 1e-18 * ZIGZAG,
    "torn apart": 1e6 * ZIGZAG,
}


@partial(jax.jit, static_argnums=0)
def evaluate(model, params, x, graph, listed):
    per_bead, force = energy.bead_energies_and_forces(model, params, x, graph, listed)
    return per_bead, force


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", SINGULAR)
def test_finite_at_singular_points(name, dtype):
    """With a padded bead on the first one; padding has exactly no energy and no force."""
    graph = packed(1)
    x = np.concatenate([SINGULAR[name], SINGULAR[name][:1]])
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), PARAMS)
    per_bead, force = evaluate(MODEL, params, jnp.asarray(x, dtype), graph, every_pair(graph))
    assert per_bead.dtype == force.dtype == dtype
    assert np.all(np.isfinite(per_bead)) and np.all(np.isfinite(force))
    assert per_bead[BEADS] == 0.0 and np.all(force[BEADS] == 0.0)


def conformations(key, count):
    """Gaussian chains (count, beads, 3) Å float32 at scales from 1e-3 to 1e3 Å, most 0.1 to 30; of them a
    quarter with one or two beads copied onto others, a quarter with three to five beads on one line, exactly
    or nearly so."""
    keys, single = jax.random.split(key, 8), jnp.float32
    scale = jnp.where(
        jax.random.bernoulli(keys[0], 0.9, (count, 1, 1)),
        jax.random.uniform(keys[1], (count, 1, 1), single, maxval=30.0),
        10.0 ** jax.random.uniform(keys[2], (count, 1, 1), single, minval=-3.0, maxval=3.0),
    )
    x = scale * jax.random.normal(keys[3], (count, BEADS, 3), single)
    source = jax.random.randint(keys[4], (count, 2), 0, BEADS)
    rows = jnp.arange(count)
    copied = x.at[rows, source[:, 0]].set(x[rows, source[:, 1]])
    place = jnp.round(4.0 * jax.random.normal(keys[5], (count, BEADS, 1), single))
    off = jnp.where(jax.random.bernoulli(keys[6], 0.5, (count, 1, 1)), single(0.0), single(1e-4))
    line = x[:, :1] + place * (x[:, 1:2] - x[:, :1]) / 3.0 + off * x
    lined = jnp.where(
        jnp.arange(BEADS)[:, None] < 3 + jax.random.randint(keys[7], (count, 1, 1), 0, 3), line, x
    )
    kind = (rows % 4)[:, None, None]
    return jnp.where(kind == 0, copied, jnp.where(kind == 1, lined, x))


@pytest.mark.parametrize(
    ("chunks", "chunk"), [(1, 5_000), pytest.param(50, 20_000, marks=pytest.mark.slow, id="a million")]
)
def test_random_conformations_are_finite(chunks, chunk):
    """Energies and forces in float32, in packed graphs of `chunk` chains; the seed is fixed.

    Each pair is listed once, so that it counts half; bonded ones, on which no pair term acts, are not.
    """
    graph = packed(chunk, room=BEADS)
    first, second = np.triu_indices(BEADS, 2)
    offset = BEADS * np.arange(chunk, dtype=np.int32)[:, None]
    i, j = ((offset + beads.astype(np.int32)).reshape(-1) for beads in (first, second))
    listed = neighbors.Neighbors(i, j, np.ones(len(i), bool), np.asarray(False))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)

    @jax.jit
    def finite(key, graph, listed):
        x = conformations(key, chunk)
        per_bead, force = energy.bead_energies_and_forces(MODEL, params, x.reshape(-1, 3), graph, listed)
        fine = jnp.isfinite(per_bead) & jnp.isfinite(force).all(axis=1)
        return fine.reshape(chunk, BEADS).all(axis=1).sum(), force

    total = 0
    for key in jax.random.split(jax.random.key(3), chunks):
        count, force = finite(key, graph, listed)
        total += int(count)
        assert force.dtype == jnp.float32
    assert total == chunk * chunks


def near_straight(model, delta):
    """Largest force on four beads whose first angle is π - delta, at a torsion of 50°."""
    four = system.pack([system.topology_from_species([0, 1, 2, 3])])
    x = chain_from_internal(np.full(3, 3.8), np.array([np.pi - delta, 1.8]), np.array([np.deg2rad(50.0)]))
    force = evaluate(model, PARAMS, jnp.asarray(x), four, every_pair(four))[1]
    return float(np.abs(force).max())


def test_a_damped_dihedral_is_harmless_near_straight_angles_and_a_free_one_is_not():
    """π - θ from 10° to 1e-6 rad: a free torsion's force grows as 1/(π - θ), a damped one's stays bounded
    (|U| 2/(θ₂ - θ₁) + |U'| 2/(θ₂ - θ₁), over the bond length); and its torque dU/dφ falls with π - θ."""
    damped, free = (
        SumOfTerms(prior_terms({"terms": [{**prior_facts.DIHEDRAL, "damping": damping}]}))
        for damping in (prior_facts.DAMPING, None)
    )
    deltas = np.array([0.17, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
    wild = np.array([near_straight(free, d) for d in deltas])
    tame = np.array([near_straight(damped, d) for d in deltas])
    assert wild[-1] > 1e5 and wild[2:] * deltas[2:] == pytest.approx(wild[-1] * deltas[-1], rel=0.01)
    row = {name: np.asarray(value[0]) for name, value in PARAMS["dihedral"].items()}
    bound = sum(np.abs(n).sum() for n in row.values()) * 2.0 / (np.pi / 6.0) * 4.0 / 3.8
    assert tame.max() < bound and tame[2:] == pytest.approx(tame[-1], rel=0.01)


def test_the_torque_of_a_damped_dihedral_vanishes_continuously():
    """Change of energy when the last bead is turned about the axis, against the distance from straight."""
    model = SumOfTerms(prior_terms({"terms": [prior_facts.DIHEDRAL]}))
    four = system.pack([system.topology_from_species([0, 1, 2, 3])])

    @jax.jit
    def total(x):
        return energy.total(model, PARAMS, x, four, every_pair(four))

    def torque(delta, h=1e-5):
        first, second = (
            total(
                jnp.asarray(
                    chain_from_internal(
                        np.full(3, 3.8), np.array([np.pi - delta, 1.8]), np.array([0.9 + s * h])
                    )
                )
            )
            for s in (-1, 1)
        )
        return abs(float(second - first)) / (2 * h)

    torques = np.array([torque(d) for d in (0.1, 0.01, 0.001)])
    assert torques[0] > 0.1
    assert torques[1:] / torques[:-1] == pytest.approx(0.1, rel=0.1)
    assert torque(1e-6) < 1e-4
