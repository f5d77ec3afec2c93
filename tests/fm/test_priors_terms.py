"""Laws that each prior term obeys as an energy of beads: forces, symmetries, padding."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy, geometry, neighbors, system
from cgrefine.fm.priors.classes import KINDS, labels, rows
from cgrefine.fm.priors.terms import prior_terms, term
from cgrefine.residues import species_from_sequence
from tests.chains import chain_from_internal, random_topology
from tests.fm import prior_facts

N = 24
NAMES = tuple(prior_facts.ALL_FORMS)
TERMS = {name: term({**entry, "name": name}) for name, entry in prior_facts.ALL_FORMS.items()}
MODEL = energy.SumOfTerms(tuple(TERMS.values()))
PARAMS = {name: prior_facts.params(entry, 7) for name, entry in prior_facts.ALL_FORMS.items()}
evaluate = jax.jit(partial(energy.by_term, MODEL))


def by_form(x, packed):
    """Energies and forces of every form, compiled together; a list of all pairs, so that shapes repeat."""
    found = evaluate(PARAMS, jnp.asarray(x), packed, every_pair(packed))
    return {name: (np.asarray(e), np.asarray(f)) for name, (e, f) in found.items()}


def every_pair(packed):
    pairs = neighbors.candidates(packed)
    count = len(pairs.senders)
    return neighbors.Neighbors(pairs.senders, pairs.receivers, np.ones(count, bool), np.asarray(False))


@pytest.fixture(scope="module")
def chain():
    """A random chain with a cis bond and a few angles near straight, and no crossing."""
    rng = np.random.default_rng(16)
    bonds, angles = rng.normal(3.8, 0.05, N - 1), rng.uniform(1.5, 2.45, N - 2)
    bonds[6], angles[[3, 4, 12]] = 2.95, [2.75, 2.95, 3.05]
    x = chain_from_internal(bonds, angles, rng.uniform(-np.pi, np.pi, N - 3))
    return x, random_topology(N, 3).with_cis([7])


@pytest.fixture(scope="module")
def packed(chain):
    return system.pack([chain[1]])


@pytest.fixture(scope="module")
def plain(chain, packed):
    return by_form(chain[0], packed)


def test_the_chain_exercises_every_kind_of_tuple(chain):
    """All classes, cis and trans, damped and free dihedrals, charges; no pair so close that it hides all."""
    x, t = chain
    for kind in KINDS:
        assert len(set(rows(kind, "class")[getattr(t, f"{kind}_types")])) == len(labels(kind, "class"))
    theta = np.asarray(geometry.bond_angles(jnp.asarray(x), t.angles))
    assert 0 < (theta > prior_facts.DAMPING[0]).sum() < len(theta) / 2
    distances = np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(N, 3)]
    assert 3.0 < distances.min() < 5.0
    assert {-1.0, 1.0} <= set(prior_facts.charges()[t.species])


@pytest.fixture(scope="module")
def differences(chain, packed):
    """Directions, and the central difference of the energy along each by form; steps of 1e-4 Å."""
    x, rng, h = chain[0], np.random.default_rng(2), 1e-4
    directions = [d / np.linalg.norm(d) for d in rng.normal(size=(20, *x.shape))]
    ends = [[by_form(x + s * h * d, packed) for s in (1, -1)] for d in directions]
    return directions, {
        name: [(ahead[name][0].sum() - behind[name][0].sum()) / (2 * h) for ahead, behind in ends]
        for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_force_is_minus_the_gradient(name, plain, differences):
    """In float64: error of a central difference ~1e-8 of the curvature scale."""
    force, (directions, slopes) = plain[name][1], differences
    assert np.abs(force).max() > 0.01
    along = [-np.sum(force * d) for d in directions]
    assert along == pytest.approx(slopes[name], rel=1e-6, abs=1e-6 * np.abs(force).max())


@pytest.fixture(scope="module")
def turned(chain, packed):
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    return rotation, by_form(chain[0] @ rotation.T + np.array([3.0, -50.0, 8.0]), packed)


@pytest.mark.parametrize("name", NAMES)
def test_rotation_and_translation(name, plain, turned):
    (before, force), (rotation, after) = plain[name], turned
    assert np.allclose(after[name][0], before, rtol=1e-10, atol=1e-10)
    assert np.allclose(after[name][1], force @ rotation.T, rtol=1e-9, atol=1e-9)
    assert np.abs(force.sum(axis=0)).max() < 1e-9


def test_only_the_dihedral_knows_its_mirror_image(chain, packed, plain):
    mirrored = by_form(chain[0] * np.array([1.0, 1.0, -1.0]), packed)
    for name in NAMES:
        gap = abs(mirrored[name][0].sum() - plain[name][0].sum())
        assert gap > 0.1 if name.startswith("dihedral") else gap < 1e-9


def test_bead_permutation(chain, plain):
    """Beads in another order, their tuples renamed: energies and forces follow the beads."""
    x, t = chain
    order = np.random.default_rng(5).permutation(N)
    place = np.argsort(order).astype(np.int32)
    shuffled = replace(
        t,
        species=t.species[order],
        sequence=t.sequence[order],
        bonds=place[t.bonds],
        angles=place[t.angles],
        dihedrals=place[t.dihedrals],
        resid=t.resid[order],
    )
    found = by_form(x[order], system.pack([shuffled]))
    for name in NAMES:
        for a, b in zip(plain[name], found[name], strict=True):
            assert np.allclose(b, a[order], rtol=1e-10, atol=1e-10)


def test_padding_and_nan_in_it(chain, plain):
    """Energies and forces are those without padding; the gradients to the parameters are finite too."""
    x, topology = chain
    padded = system.pack([topology], system.Capacity(N + 6, 2, N + 3, N + 3, N + 3))
    filled = np.full((N + 6, 3), np.nan)
    filled[:N] = x
    names = ("bond harmonic", "angle spline", "dihedral fourier", "pair power", "pair debye_huckel")
    model = MODEL.only(names)

    def total(y, p, graph, listed):
        per_bead = model(p, y, graph, listed)
        return per_bead.sum(), per_bead

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    params = {name: PARAMS[name] for name in names}
    (_, per_bead), (dx, dp) = both(jnp.asarray(filled), params, padded, every_pair(padded))
    energies, forces = (sum(plain[name][i] for name in names) for i in (0, 1))
    for a, b in ((energies, per_bead), (forces, -dx)):
        assert np.allclose(b[:N], a, rtol=1e-10, atol=1e-10)
        assert np.all(b[N:] == 0.0)
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in jax.tree.leaves(dp))


def test_windows_of_pair_terms():
    """Three beads on one spot: no pair is three apart, one is two apart and feels the excluded volume."""
    three = system.pack([system.topology_from_species([0, 0, 0])])

    @partial(jax.jit, static_argnums=0)
    def energies(name, x):
        return TERMS[name](PARAMS[name], x, three, every_pair(three))

    far, near = (energies(name, np.zeros((3, 3))) for name in ("pair power", "pair power excluded volume"))
    assert np.all(far == 0.0)
    assert near[0] == near[2] > 100.0 and near[1] == 0.0


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("pair")])
def test_each_tuple_reads_its_own_row(name, chain):
    """A change of one row changes the energy of the tuples of this row, and of no others."""
    entry = prior_facts.ALL_FORMS[name]
    types = getattr(chain[1], f"{entry['kind']}_types")
    row = rows(entry["kind"], entry["classes"])[types]
    factor = np.where(np.arange(len(labels(entry["kind"], entry["classes"]))) == row[2], 1.1, 1.0)
    changed = {k: (factor * v.T).T for k, v in PARAMS[name].items()}
    scalar: Any = jax.jit(TERMS[name].scalar)
    before, after = (np.asarray(scalar(p, np.full(len(types), 1.9), types)) for p in (PARAMS[name], changed))
    assert np.array_equal(before != after, row == row[2])


def test_each_pair_reads_its_own_size_and_charges():
    """Lys and Asp at 4 Å: σ of this pair, and a charge product of -1; the same in either order."""
    lysine, aspartate = species_from_sequence("KD")
    r, sigma = jnp.asarray([4.0]), PARAMS["pair power"]["sigma"][lysine, aspartate]
    u = 1.0 - (4.0 / 9.0) ** 2
    bare = (sigma / 4.0) ** 12 - (sigma / 9.0) ** 12 * (1.0 + 6.0 * u + 21.0 * u**2)
    far = np.exp(-3.0) / 24.0
    screened = np.exp(-0.5) / 4.0 - far * (1.0 + (1.0 / 24.0 + 1.0 / 8.0) * 20.0)
    for name, expected in (("pair power", bare), ("pair debye_huckel", -332.0637 / 78.5 * screened)):
        scalar: Any = jax.jit(TERMS[name].scalar)
        for i, j in ((lysine, aspartate), (aspartate, lysine)):
            found = scalar(PARAMS[name], r, jnp.asarray([i]), jnp.asarray([j]))
            assert float(found[0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_equal_facts_make_equal_terms(name):
    """Facts that were written and read again make equal, equally hashed terms."""
    entry = {**prior_facts.ALL_FORMS[name], "name": name}
    again = term(json.loads(json.dumps(entry)))
    assert again == TERMS[name] and hash(again) == hash(TERMS[name])


def test_equal_facts_share_a_compilation(chain, packed):
    """Two force fields read from the same facts are traced once."""
    traces = []

    @partial(jax.jit, static_argnums=0)
    def traced(model, params, x):
        traces.append(model)
        return energy.total(model, params, x, packed, every_pair(packed))

    for facts in (prior_facts.FULL, json.loads(json.dumps(prior_facts.FULL))):
        traced(energy.SumOfTerms(prior_terms(facts)), prior_facts.all_params(facts), chain[0])
    assert len(traces) == 1


def test_terms_of_different_facts_differ():
    every = [term({**entry, "name": "same"}) for entry in prior_facts.ALL_FORMS.values()]
    assert len(set(every)) == len(every)
    assert term({**prior_facts.ANGLE, "wall_k": 50.0}) != term(prior_facts.ANGLE)


def test_terms_keep_the_order_of_their_facts():
    names = [t.name for t in prior_terms(prior_facts.FULL)]
    assert names == ["bond", "angle", "dihedral", "repulsion", "excluded_volume", "electrostatics"]


def test_an_unknown_form_and_an_empty_range_are_refused():
    with pytest.raises(ValueError, match=r"'bond' has the form bond morse; known are bond harmonic, "):
        term({**prior_facts.BOND, "form": "morse"})
    with pytest.raises(ValueError, match=r"'angle' has the empty range 2.0 to 2.0"):
        term({**prior_facts.ANGLE, "low": 2.0, "high": 2.0})


@pytest.mark.parametrize(
    ("entry", "missing", "words"),
    [
        (prior_facts.ANGLE, "wall_ramp", "'angle' has walls of an older version"),
        (prior_facts.REPULSION, "shift_order", "'repulsion' has shift_order none, of an older version"),
    ],
)
def test_facts_of_an_older_form_are_refused(entry, missing, words):
    """They would be read as other energies than those that were fitted."""
    older = {key: value for key, value in entry.items() if key != missing}
    with pytest.raises(ValueError, match=words):
        term(older)
