"""Spherical harmonics and Clebsch-Gordan products, unrolled over components.

A tensor of degree l is a tuple of its 2l+1 real components, each an array (edges, channels) or
(edges, 1): components first, so that a product is a few fused elementwise passes over contiguous
arrays, with no dense Clebsch-Gordan contraction. Features are a tuple over l = 0..l_max of such
tensors. Basis, order and sign of components are those of e3nn-jax, whose Clebsch-Gordan
coefficients are the only constants here; everything is in "component" normalisation: a component has
unit mean square when its factors do.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import e3nn_jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Parity = Literal["o3", "so3"]
Tensor = tuple[Array, ...]
Features = tuple[Tensor, ...]
Rows = tuple[tuple[tuple[int, int, float], ...], ...]


class Path(NamedTuple):
    """Degrees of one Clebsch-Gordan product l1 ⊗ l2 → l3."""

    l1: int
    l2: int
    l3: int


def paths(l_max: int, parity: Parity, l_out: int | None = None) -> tuple[Path, ...]:
    """All products of degrees up to l_max into degrees up to l_out (default l_max), sorted by l3.

    "o3" keeps tensors whose parity is that of spherical harmonics, (-1)^l, so l1 + l2 + l3 is even and
    every scalar is unchanged by reflection. "so3" takes all of them: pseudoscalars and true scalars mix,
    and mirror images differ.
    """
    top = l_max if l_out is None else l_out
    return tuple(
        Path(l1, l2, l3)
        for l3 in range(top + 1)
        for l1 in range(l_max + 1)
        for l2 in range(l_max + 1)
        if abs(l1 - l2) <= l3 <= l1 + l2 and (parity == "so3" or (l1 + l2 + l3) % 2 == 0)
    )


@lru_cache(maxsize=512)
def coupling(path: Path) -> Rows:
    """For each output component, the (m1, m2, coefficient) of its non-zero products."""
    cg = np.asarray(e3nn_jax.clebsch_gordan(*path)) * np.sqrt(2 * path.l3 + 1)
    return tuple(
        tuple((int(a), int(b), float(cg[a, b, c])) for a, b in np.argwhere(np.abs(cg[:, :, c]) > 1e-9))
        for c in range(2 * path.l3 + 1)
    )


@lru_cache(maxsize=64)
def symmetric_coupling(path: Path) -> Rows:
    """`coupling` of a tensor with itself: x_a x_b and x_b x_a are one term, with a <= b."""
    rows = []
    for terms in coupling(path):
        joined: dict[tuple[int, int], float] = {}
        for a, b, c in terms:
            pair = (min(a, b), max(a, b))
            joined[pair] = joined.get(pair, 0.0) + c
        rows.append(tuple((a, b, c) for (a, b), c in joined.items() if abs(c) > 1e-6))
    return tuple(rows)


def product(path: Path, first: Sequence[Array], second: Sequence[Array]) -> Tensor:
    """Clebsch-Gordan product of a degree-l1 and a degree-l2 tensor, elementwise over edges and channels."""
    return _summed(path, coupling(path), first, second)


def square(path: Path, tensor: Sequence[Array]) -> Tensor:
    """`product` of a tensor with itself, l1 = l2, for even l3; it is zero for odd ones."""
    return _summed(path, symmetric_coupling(path), tensor, tensor)


def _summed(path: Path, rows: Rows, first: Sequence[Array], second: Sequence[Array]) -> Tensor:
    components = []
    for terms in rows:
        component = None
        for a, b, c in terms:
            term = c * (first[a] * second[b])
            component = term if component is None else component + term
        assert component is not None, f"no coupling into a component of {path}"
        components.append(component)
    return tuple(components)


@lru_cache(maxsize=8)
def _stretched_norm(degree: int) -> float:
    """Factor that makes (Y_{l-1} ⊗ Y_1) of a unit vector have mean-square component 1."""
    factor = 1.0
    value: Sequence[np.ndarray] = (np.ones(()),)
    vector = [np.asarray(c) for c in np.sqrt(3.0) * np.array([0.36, -0.48, 0.8])]
    for ell in range(1, degree + 1):
        terms = coupling(Path(ell - 1, 1, ell))
        raw = np.array([sum(c * value[a] * vector[b] for a, b, c in row) for row in terms])
        factor = float(np.sqrt((2 * ell + 1) / np.sum(raw**2)))
        value = list(factor * raw)
    return factor


def spherical_harmonics(unit: Float[Array, "edges 3"], l_max: int) -> Features:
    """Real spherical harmonics of unit vectors up to l_max, each component (edges, 1).

    Σ_m Y_lm² = 2l+1. Built by the stretched coupling Y_l ∝ Y_{l-1} ⊗ Y_1, so any rotation acts on the
    result exactly as it does on the coupling coefficients.
    """
    vector = tuple(math.sqrt(3.0) * unit[:, c : c + 1] for c in range(3))
    harmonics: list[Tensor] = [(jnp.ones_like(unit[:, :1]),)]
    for degree in range(1, l_max + 1):
        raw = product(Path(degree - 1, 1, degree), harmonics[-1], vector)
        factor = _stretched_norm(degree)
        harmonics.append(tuple(factor * component for component in raw))
    return tuple(harmonics)
