"""One pass over frames: products of forces, summed by block and by kind of bead.

Of the reference force F and k predicted ones f₁ … f_k only the matrix of products Σ u·v over
u, v ∈ {F, f₁, …, f_k} is kept. With it the squared error of any sum of predictions is a quadratic form,
Σ|F − Σ c_m f_m|² = cᵀ P c for c = (1, −c₁, …, −c_k), and a table costs no second pass.
Memory does not grow with the number of frames: see `blocks.MOST_BLOCKS`, `noise_floor.MOST_KEPT`.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from cgrefine import energy
from cgrefine.config.data import Loader
from cgrefine.data.frames import FrameSet
from cgrefine.data.loader import Reading, each, sweep
from cgrefine.data.packing import Batch, budget_for, real_beads
from cgrefine.energy import SumOfTerms
from cgrefine.fm.blocks import Blocks, add_rows
from cgrefine.fm.local_frames import AXES, POSITIONS, chain_positions, local_axes, triads
from cgrefine.residues import N_SPECIES

ALL, PRIOR, NETWORK = 0, 1, 2
"""Rows of the products of kinds of beads: the reference force, that of the priors, that of the network."""

BINS = 160
RANGE_QUANTILE = 0.999
RANGE_FRAMES = 100
"""Histograms span this share of the reference components of that many even frames."""


class Products(NamedTuple):
    """p (blocks, ..., k, k): Σ u·v, (kcal/mol/Å)². components (blocks, ...): of force, that were summed."""

    p: np.ndarray
    components: np.ndarray


def square(p: Float[np.ndarray, "... k k"], c: Float[np.ndarray, " k"]) -> Float[np.ndarray, "..."]:
    """Σ|Σ_m c_m u_m|² = cᵀ P c; negative coefficients subtract predictions."""
    return np.asarray(np.einsum("k,...kl,l->...", c, p, c))


class Histograms(NamedTuple):
    """Force components, kcal/mol/Å. edges (BINS + 1,); counts by name (BINS,); joint (BINS, BINS): reference
    by prediction. outside: components of the reference beyond the edges, which are counted nowhere else.
    """

    edges: np.ndarray
    counts: dict[str, np.ndarray]
    joint: np.ndarray
    outside: int


class Kept(NamedTuple):
    """One frame in full: positions (n, 3) Å; reference, prior and whole forces (n, 3), float32."""

    positions: np.ndarray
    reference: np.ndarray
    prior: np.ndarray
    model: np.ndarray


class Sums(NamedTuple):
    """terms: products of the reference and each term, (blocks, terms+1, terms+1).

    kinds: division of the beads → products of reference, priors and network, (blocks, labels, 3, 3).
    kept: row → Kept of the rows that were asked for.
    """

    terms: Products
    kinds: dict[str, Products]
    histograms: Histograms
    kept: dict[int, Kept]


KINDS = {
    "residue": N_SPECIES,
    "position": len(POSITIONS),
    "component": 3,
    "axis": len(AXES),
}
"""Divisions of the beads (residue, position), or of the components of their forces, and their labels."""


def accumulate(
    model: SumOfTerms,
    params: Mapping[str, energy.Params],
    frames: FrameSet,
    batch_beads: int,
    loader: Loader,
    blocks: Blocks,
    keep: frozenset[int] = frozenset(),
) -> Sums:
    """Sums over all frames in packed batches, in float64; the network, if any, is the last term."""
    budget = budget_for([frames], batch_beads, loader.edge_headroom)
    reading = Reading(loader.buffer_frames, loader.prefetch, loader.workers)
    n = len(model.terms)
    prior = len([term for term in model.terms if term.name != "network"])
    b = len(blocks)
    sums = Sums(
        Products(np.zeros((b, n + 1, n + 1)), np.zeros(b)),
        {name: Products(np.zeros((b, k, 3, 3)), np.zeros((b, k))) for name, k in KINDS.items()},
        _no_counts(frames),
        {},
    )
    facts = _Facts(frames)
    for rows, batch in each(sweep(frames, budget, reading)):
        real = real_beads(batch)
        forces = np.asarray(_forces_by_term(model, params, batch), np.float64).reshape(n, -1, 3)[:, real]
        reference = batch.target_forces[real].astype(np.float64)
        beads = facts.of(rows, batch, real)
        block = blocks.of[beads.row]
        add_products(sums.terms, block, np.concatenate([reference[None], forces]))
        three = np.stack([reference, forces[:prior].sum(0), forces[prior:].sum(0)])
        _add_kinds(sums.kinds, block, beads, three)
        _add_counts(sums.histograms, three)
        for row in keep.intersection(rows.tolist()):
            own = beads.row == row
            parts = (beads.x[own], *three[:2, own], three[1:, own].sum(0))
            sums.kept[row] = Kept(*(part.astype(np.float32) for part in parts))
    outside = int(sums.terms.components.sum() - sums.histograms.counts["reference"].sum())
    return sums._replace(histograms=sums.histograms._replace(outside=outside))


@partial(jax.jit, static_argnums=0)
def _forces_by_term(model: SumOfTerms, params: Mapping[str, energy.Params], batch: Batch) -> jax.Array:
    """(terms, n, 3) kcal/mol/Å; equal models share one compilation."""
    parts = energy.by_term(model, params, jnp.asarray(batch.positions), batch.system, batch.neighbors)
    return jnp.stack([parts[term.name][1] for term in model.terms])


class _Beads(NamedTuple):
    """The n real beads of a batch. row, species, position (n,); triad (n, 3) indices among them; x (n, 3)."""

    row: np.ndarray
    species: np.ndarray
    position: np.ndarray
    triad: np.ndarray
    x: np.ndarray


class _Facts:
    """What is known of the beads of each domain, made when a frame of it comes first."""

    def __init__(self, frames: FrameSet) -> None:
        self.frames = frames
        self.known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def of_domain(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Chain positions and triads."""
        if index not in self.known:
            domain = self.frames.domains[index]
            chain = (domain.n_beads, domain.breaks)
            self.known[index] = (chain_positions(*chain), triads(*chain))
        return self.known[index]

    def of(self, rows: np.ndarray, batch: Batch, real: np.ndarray) -> _Beads:
        """Frames stand one after another in a batch, padding last."""
        graph = batch.system.graph_id[real]
        where = self.frames.each_once.where
        found = [self.of_domain(where(int(row))[0]) for row in rows[: graph[-1] + 1]]
        first = np.flatnonzero(np.diff(graph, prepend=-1))
        triad = np.concatenate(
            [np.where(t >= 0, t + start, -1) for (_, t), start in zip(found, first, strict=True)]
        )
        position = np.concatenate([p for p, _ in found])
        return _Beads(rows[graph], batch.system.species[real], position, triad, batch.positions[real])


def add_products(into: Products, index: Int[np.ndarray, " n"], vectors: Float[np.ndarray, "k n 3"]) -> None:
    """Products of the vectors of each bead, by block."""
    add_rows(into.p, index, np.einsum("kna,lna->nkl", vectors, vectors))
    add_rows(into.components, index, np.full(len(index), 3.0))


def _add_kinds(
    into: Mapping[str, Products],
    block: Int[np.ndarray, " n"],
    beads: _Beads,
    three: Float[np.ndarray, "3 n 3"],
) -> None:
    for name, label in (("residue", beads.species), ("position", beads.position)):
        flat = Products(into[name].p.reshape(-1, 3, 3), into[name].components.reshape(-1))
        add_products(flat, block * KINDS[name] + label, three)
    axes, known = local_axes(beads.x.astype(np.float64), beads.triad)
    turned = np.einsum("nac,knc->kna", axes, three)
    for name, vectors, chosen in (("component", three, slice(None)), ("axis", turned, known)):
        v = vectors[:, chosen]
        add_rows(into[name].p, block[chosen], np.einsum("kna,lna->nakl", v, v))
        add_rows(into[name].components, block[chosen], np.ones((v.shape[1], 3)))


def _no_counts(frames: FrameSet) -> Histograms:
    """Empty histograms; their range is that of reference forces."""
    rows = np.unique(np.linspace(0, len(frames) - 1, RANGE_FRAMES).astype(int)) if len(frames) else []
    sizes = [np.abs(frames.forces(int(row))).ravel() for row in rows]
    top = float(np.quantile(np.concatenate(sizes), RANGE_QUANTILE)) if sizes else 1.0
    edges = np.linspace(-1.0, 1.0, BINS + 1) * (top or 1.0)
    names = ("reference", "priors", "full", "residual")
    return Histograms(edges, {name: np.zeros(BINS) for name in names}, np.zeros((BINS, BINS)), 0)


def _add_counts(into: Histograms, three: Float[np.ndarray, "3 n 3"]) -> None:
    reference, prior, full = three[ALL], three[PRIOR], three[PRIOR] + three[NETWORK]
    series = {"reference": reference, "priors": prior, "full": full, "residual": reference - full}
    for name, values in series.items():
        into.counts[name][:] += np.histogram(values, into.edges)[0]
    into.joint[:] += np.histogram2d(reference.ravel(), full.ravel(), (into.edges, into.edges))[0]
