"""Allegro: couplings against e3nn-jax, radial functions by hand, energies against the equations in numpy."""

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import neighbors, system
from cgrefine.config.training import Model
from cgrefine.fm.models import layers
from cgrefine.fm.models import tensor_product as tp
from cgrefine.fm.models.registry import network_term
from tests.fm.by_hand import CUTOFF, TOPOLOGY, N, Weights, X, near, radial, silu


def unit_vectors(n=7):
    v = np.random.default_rng(0).normal(size=(n, 3))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def joined(features):
    return np.concatenate([np.asarray(c) for tensor in features for c in tensor], axis=1)


def test_spherical_harmonics_are_those_of_e3nn():
    """Same order, sign and norm; e3nn-jax works in float64 here, its constants to about 1e-7."""
    v = unit_vectors()
    expected = e3nn_jax.spherical_harmonics(
        e3nn_jax.Irreps("0e + 1o + 2e + 3o"), jnp.asarray(v), True, "component"
    ).array
    assert np.allclose(joined(tp.spherical_harmonics(jnp.asarray(v), 3)), expected, atol=2e-6)


@pytest.mark.parametrize("parity, count", [("o3", 11), ("so3", 15)])
def test_number_of_paths(parity, count):
    assert len(tp.paths(2, parity)) == count
    assert len(tp.paths(2, parity, l_out=0)) == 3


@pytest.mark.parametrize("path", tp.paths(3, "so3"), ids=str)
def test_product_commutes_with_rotation(path):
    """D3 (a ⊗ b) = (D1 a) ⊗ (D2 b) with Wigner matrices of e3nn-jax."""
    rng = np.random.default_rng(1)
    alpha, beta, gamma = (jnp.asarray(angle) for angle in (0.3, 1.1, -0.7))

    def turned(ell, rows):
        matrix = e3nn_jax.Irreps([(1, (ell, 1))]).D_from_angles(alpha, beta, gamma)
        return np.asarray(matrix) @ rows

    a, b = rng.normal(size=(2 * path.l1 + 1, 4)), rng.normal(size=(2 * path.l2 + 1, 4))
    first = turned(path.l3, np.stack(tp.product(path, list(jnp.asarray(a)), list(jnp.asarray(b)))))
    rotated = (list(jnp.asarray(turned(ell, rows))) for ell, rows in ((path.l1, a), (path.l2, b)))
    second = np.stack(tp.product(path, *rotated))
    assert np.allclose(first, second, atol=1e-5 * np.abs(first).max())


def test_product_is_that_of_e3nn():
    path = tp.Path(1, 2, 2)
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    cg = np.asarray(e3nn_jax.clebsch_gordan(1, 2, 2)) * np.sqrt(5)
    expected = np.einsum("abc,ae,be->ce", cg, a, b)
    assert np.allclose(np.stack(tp.product(path, list(jnp.asarray(a)), list(jnp.asarray(b)))), expected)


def test_envelope_by_hand():
    """p = 2: 1 - 6x² + 8x³ - 3x⁴, which is 5/16 at 1/2; value, slope and curvature vanish at 1."""

    def u(x):
        return layers.envelope(x[None], 2)[0]

    assert float(u(jnp.asarray(0.5))) == pytest.approx(1 - 6 / 4 + 8 / 8 - 3 / 16)
    edge = jnp.asarray(1.0 - 1e-9)
    for order, derivative in enumerate((u, jax.jit(jax.grad(u)), jax.jit(jax.grad(jax.grad(u))))):
        assert abs(float(derivative(edge))) < 1e-7, order
    assert float(u(jnp.asarray(1.2))) == 0.0 and float(u(jnp.asarray(0.0))) == 1.0


def test_bessel_by_hand():
    """At r = rc/2: sin(nπ/2) · 2/√2 = √2, 0, -√2."""
    found = layers.bessel(jnp.asarray([6.0]), 12.0, 3)
    assert np.allclose(found, [[np.sqrt(2), 0, -np.sqrt(2)]], atol=1e-12)


AVG, CHANNELS, L_MAX = 5.0, 3, 2
FACTS = {
    "name": "allegro", "cutoff_A": CUTOFF, "channels": CHANNELS, "hidden": 4, "layers": 2, "l_max": L_MAX,
    "n_bessel": 5, "envelope_p": 6, "avg_neighbors": AVG,
}  # fmt: skip


def harmonics(x, y, z):
    """Y_0, Y_1, Y_2 of a unit vector, whose squares add up to 2l+1; order and axes of e3nn."""
    second = [x * z, x * y, (2 * y * y - x * x - z * z) / np.sqrt(12), y * z, (z * z - x * x) / 2]
    return [np.ones(1), np.sqrt(3) * np.array([x, y, z]), np.sqrt(15) * np.array(second)]


def weighted(w, name, x, y):
    """w_l(x) Y_l for each degree l, (channels, 2l+1)."""
    weights = w.linear(name, x).reshape(L_MAX + 1, CHANNELS)
    return [np.outer(weights[degree], y[degree]) for degree in range(L_MAX + 1)]


def coupled(v, a, parity):
    """The products of v and a by dense Clebsch-Gordan tensors: for each degree, a list over paths."""
    found = [[] for _ in range(L_MAX + 1)]
    for l1, l2, l3 in np.ndindex(L_MAX + 1, L_MAX + 1, L_MAX + 1):
        if abs(l1 - l2) <= l3 <= l1 + l2 and (parity == "so3" or (l1 + l2 + l3) % 2 == 0):
            cg = np.asarray(e3nn_jax.clebsch_gordan(l1, l2, l3)) * np.sqrt(2 * l3 + 1)
            found[l3].append(np.einsum("abm,ca,cb->cm", cg, v[l1], a[l2]))
    return found


def mixed(products, matrix, parts):
    if products == "concatenated":
        matrix = matrix.reshape(len(parts), CHANNELS, CHANNELS)
        total = np.einsum("pcm,pcd->dm", np.asarray(parts), matrix)
    else:
        total = np.einsum("pcm,cd->dm", np.asarray(parts), matrix)
    return total / np.sqrt(len(parts) * CHANNELS)


def allegro(w, species, facts):
    """Energy of each bead, over all pairs and with every factor written out."""
    tables = w.params["~"]
    edges = {(i, j): (r, unit) for i in range(N) for j, r, unit in near(i)}
    x, v, y, u = {}, {}, {}, {}
    for (i, j), (r, unit) in edges.items():
        basis, u[i, j] = radial(r)
        y[i, j] = harmonics(*unit)
        ends = tables["centre_embedding"][species[i]] + tables["neighbour_embedding"][species[j]]
        first = silu((w.linear("radial", basis) + ends) / np.sqrt(3.0))
        x[i, j] = u[i, j] * w.mlp("two_body", first)
        v[i, j] = weighted(w, "tensor", x[i, j], y[i, j])
    for layer in range(2):
        around = [[np.zeros((CHANNELS, 2 * degree + 1)) for degree in range(L_MAX + 1)] for _ in range(N)]
        for i, j in edges:
            for total, part in zip(
                around[i], weighted(w, f"environment_{layer}", x[i, j], y[i, j]), strict=True
            ):
                total += part / np.sqrt(AVG)
        for i, j in edges:
            parts = coupled(v[i, j], around[i], facts["parity"])
            scalars = np.concatenate([part[:, 0] for part in parts[0]])
            latent = w.mlp(f"latent_{layer}", np.concatenate([x[i, j], scalars]))
            x[i, j] = (x[i, j] + u[i, j] * latent) * np.sqrt(0.5)
            if layer == 0:
                v[i, j] = [
                    mixed(facts["products"], tables[f"product_0_mix_{degree}"], parts[degree])
                    for degree in range(L_MAX + 1)
                ]
    energy = np.zeros(N)
    for i, j in edges:
        scale = 1.0 + tables["pair_scale"][species[i], species[j]] if facts["species_pair"] else 1.0
        energy[i] += scale * u[i, j] * w.mlp("energy", x[i, j])[0] / np.sqrt(AVG)
    return energy


@pytest.mark.parametrize(
    "products, parity, species_pair", [("channelwise", "so3", True), ("concatenated", "o3", False)]
)
def test_energies_are_those_of_the_equations(products, parity, species_pair):
    """Noise on all weights. The tables of e3nn-jax are good to 1e-7, which is the tolerance's reason."""
    facts = {**FACTS, "products": products, "parity": parity, "species_pair": species_pair}
    term = network_term(facts)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.5 * rng.normal(size=leaf.shape), term.init(jax.random.key(0))
    )
    packed = system.pack([TOPOLOGY])
    found = np.asarray(
        jax.jit(term)(
            jax.tree.map(jnp.asarray, params), jnp.asarray(X), packed, neighbors.exact(packed, X, CUTOFF)
        )
    )
    expected = allegro(Weights(params), TOPOLOGY.species, facts)
    assert ("pair_scale" in params["~"]) == species_pair
    assert np.allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "size, low, high", [("small", 10e3, 13e3), ("default", 60e3, 70e3), ("large", 700e3, 830e3)]
)
def test_parameters_of_each_size(size, low, high):
    section = Model.model_validate({"name": "allegro", "cutoff_A": 10.0, "size": size})
    term = network_term({**section.model_dump(), "avg_neighbors": 12.0})
    shapes = jax.eval_shape(term.init, jax.random.key(0))
    assert low < sum(leaf.size for leaf in jax.tree.leaves(shapes)) < high
