"""Symmetric products of one set of tensors: the many-body basis of the atomic cluster expansion.

Drautz, Phys. Rev. B 99, 014104 (2019). Tensors A_l, l = 0..l_max, give equivariant polynomials of order ν,

    B_LM = Σ C A_{l1 m1} A_{l2 m2} … A_{lν mν},        C a chain of Clebsch-Gordan coefficients,

by coupling one A after the other: ((A_l1 ⊗ A_l2) → l12 ⊗ A_l3) → L. The factors are the same tensors, so many
chains are equal, proportional or zero. A basis is chosen among them once, in numpy, by the rank of their
values at random A; the cheapest chains are taken first.

Chains are kept rather than the monomials A_a A_b A_c that they expand into: a chain shares what it has in
common with others ((A_1 ⊗ A_1) → 0 is part of three). For l_max 2, order 3, L = 0 and 1 they have 79 terms
of two factors ("so3"), the monomials 132 terms of up to three; for l_max 3, 318 and 684.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cgrefine.fm.models import tensor_product as tp
from cgrefine.fm.models.tensor_product import Path

_POINTS = 48
_INDEPENDENT = 1.0e-3
"""Values of B at random A of unit variance are of order one; Clebsch-Gordan coefficients are good to 1e-7."""


class Chain(NamedTuple):
    """Couplings of A_first with one A after the other: each path takes the degree so far and that of the
    next A to the degree made. Without paths it is A_first itself."""

    first: int
    paths: tuple[Path, ...] = ()

    @property
    def degrees(self) -> tuple[int, ...]:
        """Degrees of its factors A."""
        return (self.first, *(path.l2 for path in self.paths))

    @property
    def inner(self) -> "Chain":
        """The chain before its last coupling."""
        return Chain(self.first, self.paths[:-1])


@lru_cache(maxsize=64)
def product_basis(l_max: int, degree: int, order: int, parity: tp.Parity) -> tuple[Chain, ...]:
    """A basis of the products of 1 to `order` tensors of degrees up to l_max into one of `degree`.

    "o3": tensors have the parity (-1)^l, products as well. "so3": all of them.
    """
    chosen: list[Chain] = []
    values: dict[tuple[int, ...], np.ndarray] = {}
    for n in range(1, order + 1):
        allowed = (
            chain
            for chain in _chains(l_max, degree, n)
            if parity == "so3" or (sum(chain.degrees) + degree) % 2 == 0
        )
        for chain in sorted(allowed, key=_cost):
            kind = tuple(sorted(chain.degrees))
            known = values.get(kind, np.zeros((0, _POINTS * (2 * degree + 1))))
            extended = np.vstack([known, _values(chain, l_max).reshape(1, -1)])
            if np.linalg.matrix_rank(extended, tol=_INDEPENDENT) > len(known):
                values[kind] = extended
                chosen.append(chain)
    return tuple(chosen)


def products(
    chains: tuple[Chain, ...], around: Mapping[int, tp.Tensor], made: dict[Chain, tp.Tensor]
) -> list[tp.Tensor]:
    """B of each chain, elementwise over the components A (beads, channels) of `around`, by degree.

    made: what earlier calls for the same A made; parts of chains are looked up and added there.
    """

    def value(chain: Chain) -> tp.Tensor:
        if not chain.paths:
            return around[chain.first]
        if chain not in made:
            path = chain.paths[-1]
            made[chain] = (
                tp.square(path, around[path.l2])
                if chain.inner == Chain(path.l2)
                else tp.product(path, value(chain.inner), around[path.l2])
            )
        return made[chain]

    return [value(chain) for chain in chains]


def _chains(l_max: int, degree: int, order: int) -> Iterator[Chain]:
    """All chains of `order` factors into `degree`; of the first two factors the lower degree stands first."""
    if order == 1:
        yield from [Chain(degree)] if degree <= l_max else []
        return
    for ell in range(l_max + 1):
        for inner_degree in range(abs(degree - ell), degree + ell + 1):
            for inner in _chains(l_max, inner_degree, order - 1):
                if inner.paths or inner.first <= ell:
                    yield Chain(inner.first, (*inner.paths, Path(inner_degree, ell, degree)))


def _cost(chain: Chain) -> int:
    """Terms of all its couplings."""
    return sum(len(row) for path in chain.paths for row in tp.coupling(path))


@lru_cache(maxsize=1024)
def _values(chain: Chain, l_max: int) -> np.ndarray:
    """B at _POINTS random A, (2L+1, points)."""
    factors = _random_tensors(l_max)
    if not chain.paths:
        return factors[chain.first]
    path = chain.paths[-1]
    first, second = _values(chain.inner, l_max), factors[path.l2]
    return np.stack([sum(c * first[a] * second[b] for a, b, c in row) for row in tp.coupling(path)])


@lru_cache(maxsize=4)
def _random_tensors(l_max: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(2 * ell + 1, _POINTS)) for ell in range(l_max + 1))
