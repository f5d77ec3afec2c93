"""MACE against its equations written in numpy with dense couplings, its body order, and its product basis."""

import itertools
from collections import Counter
from functools import cache

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import neighbors, system
from cgrefine.fm.models import tensor_product as tp
from cgrefine.fm.models.layers import SILU_GAIN
from cgrefine.fm.models.product_basis import Chain, product_basis
from cgrefine.fm.models.registry import network_term
from tests.chains import random_chain, random_topology

N, CUTOFF, CHANNELS, AVG = 6, 9.0, 3, 5.0
FACTS = {
    "name": "mace", "cutoff_A": CUTOFF, "channels": CHANNELS, "hidden": 4, "layers": 2, "l_max": 2,
    "l_hidden": 1, "correlation": 3, "n_bessel": 5, "envelope_p": 6, "parity": "so3", "avg_neighbors": AVG,
}  # fmt: skip
TOPOLOGY, X = random_topology(N, seed=2), random_chain(N, seed=4)


def noisy(term):
    """Parameters of the term with noise on all of them, biases included."""
    rng = np.random.default_rng(0)
    fresh = jax.jit(term.init)(jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.1 * rng.normal(size=leaf.shape)), fresh)


@cache
def cg(l1, l2, l3):
    return np.asarray(e3nn_jax.clebsch_gordan(l1, l2, l3)) * np.sqrt(2 * l3 + 1)


def harmonics(unit):
    """Y_0 = 1, Y_1 = √3 n, Y_2 the degree-2 part of n n with Σ Y² = 5; (2l+1,) each."""
    second = np.einsum("abc,a,b->c", cg(1, 1, 2), unit, unit)
    return [np.ones(1), np.sqrt(3.0) * unit, np.sqrt(5.0 / (second @ second)) * second]


def silu(x):
    return SILU_GAIN * x / (1.0 + np.exp(-x))


def mlp(params, name, x):
    depth = sum(key.startswith(f"{name}_") for key in params)
    for n in range(depth):
        x = x @ params[f"{name}_{n}"]["w"] + params[f"{name}_{n}"].get("b", 0.0)
        x = silu(x) if n < depth - 1 else x
    return x


def radial(r):
    """Bessel functions n = 1..5 and the polynomial envelope of exponent 6."""
    basis = np.sin(np.arange(1, 6) * np.pi * r / CUTOFF) * CUTOFF / (np.sqrt(2.0) * r)
    y = r / CUTOFF
    return basis, 1.0 - 28.0 * y**6 + 48.0 * y**7 - 21.0 * y**8


def neighbourhood(params, name, h, connected, paths):
    """A by degree, (beads, channels, 2l+1), from features h of the same form, mixed over channels."""
    around = {degree: np.zeros((N, CHANNELS, 2 * degree + 1)) for degree in {path.l3 for path in paths}}
    parts = Counter(path.l3 for path in paths)
    table = params["~"]
    for i, j in itertools.permutations(range(N), 2) if connected else ():
        d = X[j] - X[i]
        r = np.linalg.norm(d)
        if r >= CUTOFF:
            continue
        basis, u = radial(r)
        weights = np.split(mlp(params, f"{name}_radial", basis) * u, len(paths))
        for path, weight in zip(paths, weights, strict=True):
            sender = h[path.l1][j].T @ table[f"{name}_sender_{path.l1}"] / np.sqrt(CHANNELS)
            made = np.einsum("abc,ak,b->kc", cg(*path), sender, harmonics(d / r)[path.l2])
            around[path.l3][i] += weight[:, None] * made / np.sqrt(AVG * parts[path.l3])
    return {
        degree: np.einsum("ikm,kq->iqm", a, table[f"{name}_mix_{degree}"] / np.sqrt(CHANNELS))
        for degree, a in around.items()
    }


def coupled(chain, around):
    """B of a chain, (beads, channels, 2L+1), by dense Clebsch-Gordan matrices."""
    made = around[chain.first]
    for path in chain.paths:
        made = np.einsum("abc,ika,ikb->ikc", cg(*path), made, around[path.l2])
    return made


def by_hand(params, facts, species, connected):
    """Energy of each bead, with that of a bead alone in it."""
    l_max, parity, table = facts["l_max"], facts["parity"], params["~"]
    h, energy = {0: table["embedding"][species][:, :, None]}, np.zeros(N)
    for layer in range(facts["layers"]):
        last = layer == facts["layers"] - 1
        paths = [path for path in tp.paths(l_max, parity) if path.l1 in h]
        around = neighbourhood(params, f"around_{layer}", h, connected, paths)
        new = {}
        for degree in range(1 if last else min(facts["l_hidden"], l_max) + 1):
            basis = product_basis(l_max, degree, facts["correlation"], parity)
            weights = table[f"product_{layer}_{degree}"][species].reshape(N, len(basis), CHANNELS)
            message = sum(weights[:, n, :, None] * coupled(chain, around) for n, chain in enumerate(basis))
            new[degree] = np.einsum("ikm,kq->iqm", message, table[f"update_{layer}_{degree}"])
            if degree in h:
                own = table[f"update_{layer}_self_{degree}"][species]
                new[degree] = new[degree] + np.einsum("ikm,ikq->iqm", h[degree], own)
            new[degree] = new[degree] / np.sqrt(CHANNELS)
        h = new
        scalars = h[0][:, :, 0]
        read = mlp(params, "energy", scalars) if last else scalars @ params[f"readout_{layer}"]["w"]
        energy = energy + read[:, 0]
    return energy


@pytest.mark.parametrize(
    "change", [{}, {"parity": "o3", "correlation": 2, "l_max": 1, "l_hidden": 2}], ids=str
)
def test_energies_are_those_of_the_equations(change):
    """Two layers with noise on all weights; a bead alone is computed here as the others, and subtracted."""
    facts = {**FACTS, **change}
    term = network_term(facts)
    params = noisy(term)
    packed = system.pack([TOPOLOGY])
    listed = neighbors.exact(packed, X, CUTOFF)
    found = jax.jit(term)(params, jnp.asarray(X), packed, listed)
    params, species = jax.tree.map(np.asarray, params), TOPOLOGY.species
    expected = by_hand(params, facts, species, True) - by_hand(params, facts, species, False)
    assert np.allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("correlation", [1, 2, 3])
def test_body_order(correlation):
    """Of products of ν factors, a bead with linear readout feels ν neighbours at once and no more.

    The sum over subsets S of n neighbours, of (-1)^(n-|S|) E(S), is what all of them do together: zero for
    n = ν + 1 (for ν = 1, energies of neighbours add up), not for n = ν. The MLP of the second layer is off.
    """
    term = network_term({**FACTS, "correlation": correlation, "l_max": 1, "l_hidden": 0})
    params = noisy(term)
    params["energy_1"]["w"] = jnp.zeros_like(params["energy_1"]["w"])
    x = np.array([[0.0, 0, 0], [4.0, 1.0, 0.5], [-1.0, 4.5, 1.0], [-2.0, -3.0, 3.0], [1.5, -1.0, -4.0]])
    x = x[: correlation + 2]
    count = len(x)
    i, j = np.array(list(itertools.permutations(range(count), 2))).T
    vectors, species = jnp.asarray(x[j] - x[i]), jnp.arange(count)
    compute = jax.jit(lambda mask: term.edge_energy(params, vectors, species, i, j, mask)[0])

    def together(n):
        total, largest = 0.0, 0.0
        for present in itertools.product([0, 1], repeat=n):
            member = np.array([1, *present] + [0] * (count - 1 - n), bool)
            value = float(compute(jnp.asarray(member[i] & member[j])))
            total, largest = total + (-1) ** (n - sum(present)) * value, max(largest, abs(value))
        return abs(total) / largest

    assert together(correlation + 1) < 1e-12
    assert together(correlation) > 1e-4


def test_one_layer_cannot_tell_mirror_images_apart():
    """Up to three factors A of parity (-1)^l have no pseudoscalar; two layers have (test_models)."""
    term = network_term({**FACTS, "layers": 1})
    packed = system.pack([TOPOLOGY])
    listed = neighbors.exact(packed, X, CUTOFF)
    params, compute = noisy(term), jax.jit(term)
    one, other = (compute(params, jnp.asarray(sign * X), packed, listed) for sign in (1.0, -1.0))
    assert np.abs(one).max() > 0.01
    assert np.allclose(one, other, rtol=0, atol=1e-10 * np.abs(one).max())


def character(l_max, theta, inverted):
    """Σ_l trace of a rotation by theta on degree l, which the inversion multiplies by (-1)^l."""
    m = {ell: np.arange(-ell, ell + 1) for ell in range(l_max + 1)}
    return sum((-1.0 if inverted and ell % 2 else 1.0) * np.cos(np.outer(m[ell], theta)).sum(0) for ell in m)


def multiplicity(l_max, degree, order, parity):
    """How often `degree` occurs in the symmetric products of 1 to `order` copies of ⊕ l, l = 0..l_max.

    Orthogonality of characters over the rotations, measure (1 - cos θ)/π on 0..π (a trapezium rule that is
    exact for trigonometric polynomials); over the improper ones as well when parity counts. Characters of
    symmetric powers: (χ(g)² + χ(g²))/2 and (χ(g)³ + 3 χ(g) χ(g²) + 2 χ(g³))/6.
    """
    theta = 2.0 * np.pi * np.arange(64) / 64
    total = []
    for inverted in (False, True) if parity == "o3" else (False,):
        one, two, three = (character(l_max, n * theta, inverted and n % 2 == 1) for n in (1, 2, 3))
        powers = [one, (one**2 + two) / 2, (one**3 + 3 * one * two + 2 * three) / 6][:order]
        wanted = character(degree, theta, inverted) - (
            character(degree - 1, theta, inverted) if degree else 0
        )
        total.append(np.mean((1.0 - np.cos(theta)) * wanted * sum(powers)))
    return np.mean(total)


@pytest.mark.parametrize("parity", ["o3", "so3"])
def test_product_basis_is_complete_and_independent(parity):
    """As many chains as symmetric couplings, by characters; their values at random A have full rank."""
    rng = np.random.default_rng(1)
    for l_max, degree, order in [
        (0, 0, 3),
        (1, 1, 3),
        (2, 0, 1),
        (2, 0, 3),
        (2, 1, 3),
        (2, 2, 3),
        (3, 1, 2),
        (3, 0, 3),
    ]:
        chains = product_basis(l_max, degree, order, parity)
        assert len(chains) == round(multiplicity(l_max, degree, order, parity))
        around = {ell: rng.normal(size=(40, 1, 2 * ell + 1)) for ell in range(l_max + 1)}
        values = np.stack([coupled(chain, around).ravel() for chain in chains])
        assert np.linalg.matrix_rank(values, tol=1e-2) == len(chains)


def test_a_product_that_vanishes_is_left_out():
    """A vector with itself couples to degrees 0 and 2, its cross product is zero; in o3 no axial vector."""
    assert Chain(1, (tp.Path(1, 1, 1),)) not in product_basis(1, 1, 2, "so3")
    axial = [chain for chain in product_basis(2, 1, 3, "so3") if sum(chain.degrees) % 2 == 0]
    assert len(axial) == 1
    assert not [chain for chain in product_basis(2, 1, 3, "o3") if sum(chain.degrees) % 2 == 0]


def test_square_is_the_product_with_itself():
    x = list(jnp.asarray(np.random.default_rng(2).normal(size=(5, 4))))
    for degree in (0, 2, 4):
        path = tp.Path(2, 2, degree)
        assert np.allclose(tp.square(path, x), tp.product(path, x, x), rtol=1e-6, atol=1e-6)
        assert sum(map(len, tp.symmetric_coupling(path))) <= sum(map(len, tp.coupling(path)))
