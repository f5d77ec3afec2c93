"""How much of the instantaneous forces no function of the bead positions can explain: bounds and an estimate.

F = F̄(R) + ε, where F̄ = E[F | R] is the mean force at the bead positions R and ε the noise, of mean zero at
every R. The error of any model f(R) on frames that it was not trained on is

    E|F − f|² = E|F̄ − f|² + σ²,   σ² = E|ε|²: the noise floor, also E|F|² − E|F̄|².

σ² is what nothing at this resolution gets below; 1 − σ²/E|F|² is the largest explained variance there can be.

At most (held-out forces): for functions f_1 … f_k of R that were not trained on these frames, E[F·f] is
E[F̄·f], so that by Cauchy-Schwarz in their span  E|F̄|² ≥ bᵀ G⁻¹ b,  b_m = E[F·f_m], G_mn = E[f_m·f_n].
Estimate (near neighbours): for two frames i, j of independent noise and residuals r = F − f,
E[r_i·r_j] = r̄_i·r̄_j, r̄ = F̄ − f, which tends to |r̄|² as R_j tends to R_i: what a better model could still
explain; σ² = E|r|² − E|r̄|². It is extrapolated to equal R as in the Gamma test (Evans & Jones, Proc. R. Soc.
A 458, 2759 (2002), eqs 1.5-1.8): by regression of the mean product c(p) with the p-th nearest neighbour on
its mean square distance δ(p), p = 1 … k. Products, not the test's half square differences: near neighbours
are drawn from the dense regions, whose noise is not that of all frames, and products are free of it.
R is the piece of chain around the bead: what the rest of the protein does to the mean force counts as noise,
which can only raise σ².
At least (force maps): every valid map has the same F̄, so that E|F̄|² ≤ E|F'|² for the forces F' of any map,
held out, and σ² ≥ E|F|² − E|F'|² on the same frames.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cgrefine.data.frames import FrameSet
from cgrefine.fm.blocks import BLOCK_FRAMES, Blocks, add_rows
from cgrefine.fm.force_products import Kept
from cgrefine.fm.local_frames import chain_ends, local_axes, surroundings, triads

NEIGHBOURS = 10
"""k: nearest neighbours of each frame that the extrapolation is fitted to."""

WINDOW = 2
"""Residues on each side of a bead that make its surroundings."""

GAP_FRAMES = BLOCK_FRAMES
"""Frames of one run that are nearer in time than this are no neighbours: their noise may be correlated."""

GROUP_FRAMES = 600
MOST_KEPT = 200_000
"""Frames of one domain at one temperature, and bead-frames in all, that neighbours are looked for among."""

SINGULAR = 1e-10
"""Directions in the span of predictions below this share of the largest are left out: they are copies."""


class Neighbourhood(NamedTuple):
    """Sums by block over the beads that were looked at.

    delta, covariance (blocks, k): squared distance of the p-th nearest neighbour, Å², and the product of its
    residual with that of the bead, (kcal/mol/Å)². products (blocks, 4, 4): of the reference, prior and
    network force, and the mean residual of the k neighbours. beads (blocks,).
    """

    delta: np.ndarray
    covariance: np.ndarray
    products: np.ndarray
    beads: np.ndarray


def explainable(p: Float[np.ndarray, "... k k"]) -> Float[np.ndarray, "..."]:
    """bᵀ G⁺ b: of Σ|F|², at least so much is a function of R. p: products, the reference in row 0.

    The k - 1 coefficients are fitted to these sums, which raises it by about σ²(k - 1)/3 in a sum over all
    beads and components: nothing beside its standard error.
    """
    b, g = p[..., 0, 1:], p[..., 1:, 1:]
    usable = np.asarray(np.isfinite(p).all((-2, -1)))
    inverse = np.linalg.pinv(np.where(usable[..., None, None], g, 0.0), rcond=SINGULAR, hermitian=True)
    return np.where(usable, np.einsum("...m,...mn,...n->...", b, inverse, b), np.nan)


def extrapolated(
    delta: Float[np.ndarray, "... k"], values: Float[np.ndarray, "... k"]
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Value at δ = 0 and slope of the least-squares line through values(δ)."""
    d = delta - delta.mean(-1, keepdims=True)
    spread = (d * d).sum(-1)
    slope = (d * values).sum(-1) / np.where(spread > 0.0, spread, np.inf)
    return values.mean(-1) - slope * delta.mean(-1), slope


def nearest(
    features: Float[np.ndarray, "frames n"], forbidden: Bool[np.ndarray, "frames frames"], k: int
) -> tuple[Int[np.ndarray, "frames k"], Float[np.ndarray, "frames k"]]:
    """The k nearest allowed frames of each one, nearest first, and squared distances (inf: there is none)."""
    square = (features**2).sum(-1)
    distance = np.maximum(square[:, None] + square - 2.0 * features @ features.T, 0.0)
    distance[forbidden] = np.inf
    found = np.argpartition(distance, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(distance, found, 1), axis=1, kind="stable")
    found = np.take_along_axis(found, order, 1)
    return found, np.take_along_axis(distance, found, 1)


class Group(NamedTuple):
    """Frames of one domain at one temperature: rows, run and place among the rows of that run, (f,)."""

    domain: int
    rows: np.ndarray
    run: np.ndarray
    place: np.ndarray


def groups(frames: FrameSet, seed: int = 0) -> list[Group]:
    """Domains and temperatures in random order until MOST_KEPT bead-frames are chosen, at least one.

    Of each, GROUP_FRAMES even frames at most; those with too few to have neighbours are left out.
    """
    pieces = frames.pieces
    first = np.cumsum(pieces.count) - pieces.count
    keys, of = np.unique(np.column_stack([pieces.domain, pieces.temperature_K]), axis=0, return_inverse=True)
    found, room = [], MOST_KEPT
    for index in np.random.default_rng(seed).permutation(len(keys)).tolist():
        mine = np.flatnonzero(of.reshape(-1) == index)
        rows = np.concatenate([first[p] + np.arange(pieces.count[p]) for p in mine])
        run = np.repeat(pieces.replica[mine], pieces.count[mine])
        place = _place(run)
        kept = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), GROUP_FRAMES)).astype(int))
        domain = int(keys[index, 0])
        cost = len(kept) * frames.domains[domain].n_beads
        if len(kept) > NEIGHBOURS + 2 * GAP_FRAMES and (not found or cost <= room):
            found.append(Group(domain, rows[kept], run[kept], place[kept]))
            room -= cost
    return found


def _place(run: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How many rows of the same run come before each one."""
    place, order = np.empty(len(run), np.int64), np.argsort(run, kind="stable")
    place[order] = np.arange(len(run)) - np.searchsorted(run[order], run[order])
    return place


def neighbourhood(
    frames: FrameSet, chosen: list[Group], kept: Mapping[int, Kept], blocks: Blocks
) -> Neighbourhood:
    """Sums over the beads of the groups. kept: every row of them."""
    b, k = len(blocks), NEIGHBOURS
    sums = Neighbourhood(np.zeros((b, k)), np.zeros((b, k)), np.zeros((b, 4, 4)), np.zeros(b))
    for group in chosen:
        domain = frames.domains[group.domain]
        _add_group(sums, domain.n_beads, domain.breaks, group, [kept[int(r)] for r in group.rows], blocks)
    return sums


def _add_group(
    sums: Neighbourhood, n_beads: int, breaks: tuple[int, ...], group: Group, kept: list[Kept], blocks: Blocks
) -> None:
    x, reference, prior, model = (np.stack(part).astype(np.float64) for part in zip(*kept, strict=True))
    triad = triads(n_beads, breaks)
    axes, known = local_axes(x, triad)
    ends = chain_ends(n_beads, breaks)
    same_run = group.run[:, None] == group.run
    forbidden = same_run & (np.abs(group.place[:, None] - group.place) < GAP_FRAMES)
    block = blocks.of[group.rows]
    for bead in np.flatnonzero(triad[:, 0] >= 0).tolist():
        near = [j for j in range(bead - WINDOW, bead + WINDOW + 1) if ends[bead, 0] <= j < ends[bead, 1]]
        shape = surroundings(x, axes[:, bead], bead, near)
        unusable = forbidden | ~known[:, bead] | ~known[:, bead, None]
        found, delta = nearest(shape, unusable, NEIGHBOURS)
        usable = np.isfinite(delta[:, -1])
        turned = np.einsum(
            "fac,kfc->kfa", axes[:, bead], np.stack([f[:, bead] for f in (reference, prior, model - prior)])
        )
        residual = turned[0] - turned[1] - turned[2]
        covariance = (residual[:, None] * residual[found]).sum(-1)
        vectors = np.concatenate([turned, residual[found].mean(1)[None]])[:, usable]
        add_rows(sums.delta, block[usable], delta[usable])
        add_rows(sums.covariance, block[usable], covariance[usable])
        add_rows(sums.products, block[usable], np.einsum("kna,lna->nkl", vectors, vectors))
        add_rows(sums.beads, block[usable], np.ones(int(usable.sum())))


class MapBound(NamedTuple):
    """One molecule of noise.json. used, least: held-out ⟨F²⟩ per component of the map in use, and of the map
    that has least of it, (kcal/mol/Å)²; best: name of that map."""

    molecule: str
    used: float
    best: str
    least: float

    @property
    def noise_at_least(self) -> float:
        """Mean square noise of the map in use, (kcal/mol/Å)²."""
        return self.used - self.least


def map_bounds(noise: list[Mapping[str, Any]], used: str) -> list[MapBound]:
    """Bounds from the comparison of maps that `prepare` wrote; used: the beginning of a map's name there.

    A map counts by its held-out numbers. Molecules that failed or have no such number are left out.
    """
    found = []
    for entry in noise:
        held = {name: m["held_out"] for name, m in entry.get("maps", {}).items() if m["held_out"] is not None}
        mine = [value for name, value in held.items() if name.startswith(used)]
        if mine:
            best = min(held, key=held.__getitem__)
            found.append(MapBound(entry["name"], mine[0], best, held[best]))
    return found
