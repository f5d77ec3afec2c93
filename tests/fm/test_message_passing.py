"""PaiNN and SchNet against their equations, written bead by bead in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import neighbors, system
from cgrefine.fm.models.registry import network_term
from tests.fm.by_hand import CUTOFF, TOPOLOGY, Weights, X, near, radial

HIDDEN, AVG = 4, 5.0
FACTS = {
    "cutoff_A": CUTOFF, "hidden": HIDDEN, "layers": 2, "n_bessel": 5, "envelope_p": 6, "avg_neighbors": AVG,
}  # fmt: skip


def painn(w, species, connected):
    s = w.params["~"]["embedding"][species]
    v = np.zeros((len(s), HIDDEN, 3))
    for layer in range(2):
        phi = w.mlp(f"message_{layer}", s)
        new_s, new_v = s.copy(), v.copy()
        for i in range(len(s)):
            for j, r, unit in near(i) if connected else ():
                basis, u = radial(r)
                scalar, vector, direction = np.split(phi[j] * w.linear(f"filter_{layer}", basis) * u, 3)
                new_s[i] += scalar / np.sqrt(AVG)
                new_v[i] += (vector[:, None] * v[j] + direction[:, None] * unit) / np.sqrt(AVG)
        mixed = np.einsum("icx,cd->idx", new_v, w.params[f"vector_mix_{layer}"]["w"])
        uv, vv = mixed[:, :HIDDEN], mixed[:, HIDDEN:]
        length = np.sqrt((vv**2).sum(-1) + 1e-8)
        gates = w.mlp(f"update_{layer}", np.concatenate([new_s, length], axis=1))
        a_v, a_s, a_m = np.split(gates, 3, axis=1)
        s = (new_s + a_s + a_m * (uv * vv).sum(-1) / np.sqrt(HIDDEN)) * np.sqrt(0.5)
        v = new_v + a_v[..., None] * uv
    return w.mlp("energy", s)[:, 0]


def schnet(w, species, connected):
    s = w.params["~"]["embedding"][species]
    for layer in range(2):
        heard = np.zeros_like(s)
        for i in range(len(s)):
            for j, r, _ in near(i) if connected else ():
                basis, u = radial(r)
                heard[i] += (
                    w.linear(f"message_{layer}", s[j]) * w.mlp(f"filter_{layer}", basis) * u / np.sqrt(AVG)
                )
        s = (s + w.mlp(f"update_{layer}", heard)) * np.sqrt(0.5)
    return w.mlp("energy", s)[:, 0]


@pytest.mark.parametrize(("name", "by_hand"), [("painn", painn), ("schnet", schnet)])
def test_energies_are_those_of_the_equations(name, by_hand):
    """The energy of a bead is what its neighbours change; biases and noise on all weights included."""
    term = network_term({"name": name, **FACTS})
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.3 * rng.normal(size=leaf.shape), term.init(jax.random.key(0))
    )
    packed = system.pack([TOPOLOGY])
    listed = neighbors.exact(packed, X, CUTOFF)
    found = np.asarray(term(jax.tree.map(jnp.asarray, params), jnp.asarray(X), packed, listed))
    w, species = Weights(params), TOPOLOGY.species
    expected = by_hand(w, species, True) - by_hand(w, species, False)
    assert np.allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
