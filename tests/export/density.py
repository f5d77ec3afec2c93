"""Small many-body networks for domains: a density of neighbours, seen over one hop or two.

E_i = a_s + ½ |Σ_j w_ij b_j r_ij|² + ½ (Σ_j w_ij b_j)²,   w = (1 - r²/rc²)³,

b a number of the species of j, over two hops times 1 + Σ_k w_jk. A bead alone has the energy a_s of its
species, so that one bead too many is seen.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cgrefine.energy import NetworkTerm

CUTOFF_A = 5.0


def network(hops: int, cutoff_A: float = CUTOFF_A) -> NetworkTerm:
    """The term of one hop or two."""

    def edge_energy(params, vectors, species, senders, receivers, edge_mask):
        n = species.shape[0]
        squared = jnp.sum(vectors * vectors, axis=-1)
        inside = edge_mask & (squared < cutoff_A**2)
        w = jnp.where(inside, (1.0 - squared / cutoff_A**2) ** 3, 0.0)
        b = params["b"][species]
        if hops == 2:
            b = b * (1.0 + jax.ops.segment_sum(w, senders, n))
        weight = w * b[receivers]
        density = jax.ops.segment_sum(weight, senders, n)
        directed = jax.ops.segment_sum(weight[:, None] * vectors, senders, n)
        return params["a"][species] + 0.5 * jnp.sum(directed**2, axis=-1) + 0.5 * density**2

    return NetworkTerm("network", cutoff_A, hops, lambda key: params(), edge_energy)


def params() -> dict:
    """Different numbers for each of the twenty species."""
    return {"a": np.linspace(-3.0, 2.0, 20), "b": np.linspace(1.0, 4.0, 20)}


def scattered(box_A: tuple[float, float, float], seed: int, apart_A: float) -> np.ndarray:
    """Positions (n, 3) Å at random in a periodic box, as many as fit, none closer than apart_A."""
    rng, box = np.random.default_rng(seed), np.asarray(box_A)
    found = np.zeros((0, 3))
    for x in rng.uniform(size=(400, 3)) * box:
        d = found - x
        if (np.linalg.norm(d - np.round(d / box) * box, axis=1) > apart_A).all():
            found = np.vstack([found, x])
    return found


def reference(
    term: NetworkTerm, params: dict, positions: np.ndarray, species: np.ndarray, box_A: np.ndarray | None
) -> tuple[float, np.ndarray]:
    """Energy and forces in float64 with every image of every bead, without lists, domains or ghosts."""
    if box_A is not None:
        positions = positions - np.floor(positions / box_A) * box_A
    reach = 0 if box_A is None else int(np.ceil(term.cutoff_A / np.min(box_A)))
    steps = np.arange(-reach, reach + 1)
    shifts = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3) * (1.0 if box_A is None else box_A)
    found = [[], [], []]
    for shift in shifts:
        distance = np.linalg.norm(positions[None] + shift - positions[:, None], axis=-1)
        i, j = np.nonzero((distance < term.cutoff_A) & (distance > 1e-9))
        for part, values in zip(found, (i, j, np.broadcast_to(shift, (len(i), 3))), strict=True):
            part.append(values)
    i, j, offsets = (np.concatenate(part) for part in found)

    def energy(x):
        vectors = x[j] + offsets - x[i]
        return jnp.sum(term.edge_energy(params, vectors, species, i, j, np.ones(len(i), bool)))

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(energy))(jnp.asarray(positions, jnp.float64))
        return float(value), -np.asarray(gradient)
