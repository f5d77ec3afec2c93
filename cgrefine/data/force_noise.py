"""Noise of each force map on one molecule, from dense Gram matrices by fold: no frame is read again.

The mean square force per component of a map is tr(W G Wᵀ) / (beads · weight of G). In-sample it is on the
frames that the map was fitted on, held-out on those it was not. A fit of p free coefficients on N = 3 ·
frames samples removes about p/N of everything in-sample, signal included: that share is what is wrong with
a small in-sample number, and cross-fitting is the remedy.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cgrefine.data import force_map
from cgrefine.data.force_map import GramState, basic_map, gram_total, optimal_map
from cgrefine.data.force_window import Band, LocalMap, local_map, make_band, solve_windows, to_dense


class MapNoise(NamedTuple):
    """One map. held_out, in_sample: mean square force per component, (kcal/mol/Å)², None where not defined.

    removed: p/N, mean over beads, of the frames a map was fitted on; 0 for a map that was not fitted here.
    identity, constraint: largest violations of conditions (a) and (b) of `force_map`.
    """

    name: str
    held_out: float | None
    in_sample: float | None
    removed: float
    identity: float
    constraint: float


class _Case(NamedTuple):
    """What every map of a molecule is judged by."""

    states: tuple[GramState, ...]
    total: GramState
    groups: np.ndarray
    ca: np.ndarray


def noise_report(
    states: Sequence[GramState],
    groups: Int[np.ndarray, " atoms"],
    ca: Int[np.ndarray, " beads"],
    residue: Int[np.ndarray, " atoms"],
    ridge: float,
    window: int,
    pooled: LocalMap | None = None,
) -> tuple[MapNoise, ...]:
    """Each map on one molecule: basic, optimal, windowed, the latter two also cross-fitted, and pooled.

    states: Gram matrices of the folds (see force_map.cross_fit), of which at least two have frames. residue:
    number of each atom's residue. The basic and pooled maps count as held-out: they were not fitted to these
    frames alone. Raises ValueError on fewer than two folds with frames, or a singular Gram matrix.
    """
    force_map.check_folds([state.n_frames for state in states])
    case = _Case(tuple(s for s in states if s.n_frames), gram_total(states), groups, ca)
    band = make_band(residue, groups, ca, window)
    windowed = [_windowed(band, case, s, ridge) for s in (None, *case.states)]
    dense = [optimal_map(case.total, groups, ca, ridge, without=s) for s in (None, *case.states)]
    n_free = float(len(np.setdiff1d(groups, groups[ca])))
    n_window = float(np.mean([len(band.window(bead)) for bead in range(len(ca))]))
    rows = [
        _given("basic", basic_map(groups, ca), case),
        *_fitted("optimal", dense, n_free, case),
        *_fitted(f"windowed ±{window}", windowed, n_window, case),
    ]
    if pooled is not None:
        rows.append(_given("pooled", to_dense(pooled), case))
    return tuple(rows)


def mean_square(weights: Float[np.ndarray, "beads atoms"], case: _Case, state: GramState) -> float:
    """tr(W G Wᵀ) / (beads · weight), the weighted mean square force per component."""
    _, first = np.unique(case.groups, return_index=True)
    by_group = weights[:, first]
    # G = L + Lᵀ − diagonal
    lower = np.einsum("ig,ig->", by_group @ state.gram, by_group)
    diagonal = np.einsum("ig,g,ig->", by_group, np.diag(state.gram), by_group, optimize=True)
    return float(2.0 * lower - diagonal) / (len(weights) * state.weight)


def _windowed(band: Band, case: _Case, without: GramState | None, ridge: float) -> np.ndarray:
    """The windowed map fitted on all folds, or all but one, as a matrix."""

    def gram(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        i, j = band.group[rows], band.group[columns]
        low, high = np.maximum(i, j), np.minimum(i, j)  # of the lower triangle
        found = case.total.gram[low, high]
        return found if without is None else found - without.gram[low, high]

    return to_dense(local_map(band, solve_windows(band, gram, ridge)))


def _given(name: str, weights: np.ndarray, case: _Case) -> MapNoise:
    """A map that was not fitted to these frames."""
    residuals = _residuals([weights], case)
    return MapNoise(name, mean_square(weights, case, case.total), None, 0.0, *residuals)


def _fitted(name: str, maps: Sequence[np.ndarray], n_free: float, case: _Case) -> tuple[MapNoise, MapNoise]:
    """The map fitted on all frames, and the cross-fitted ones: maps[0], maps[1:]."""
    total, n = case.total, case.total.n_frames
    once = MapNoise(
        name, None, mean_square(maps[0], case, total), n_free / (3 * n), *_residuals(maps[:1], case)
    )
    weight = [state.weight for state in case.states]
    held = [mean_square(w, case, s) for w, s in zip(maps[1:], case.states, strict=True)]
    every = [mean_square(w, case, total) for w in maps[1:]]
    # Σ over the folds that map r was fitted on = Σ over all − fold r
    inside = [
        (a * total.weight - h * w) / (total.weight - w) for a, h, w in zip(every, held, weight, strict=True)
    ]
    removed = float(np.mean([n_free / (3 * (n - state.n_frames)) for state in case.states]))
    crossed = MapNoise(
        f"{name}, cross-fitted",
        float(np.average(held, weights=weight)),
        float(np.average(inside, weights=weight)),
        removed,
        *_residuals(maps[1:], case),
    )
    return once, crossed


def _residuals(maps: Sequence[np.ndarray], case: _Case) -> tuple[float, float]:
    return (
        max(force_map.identity_residual(w, case.ca) for w in maps),
        max(force_map.constraint_residual(w, case.groups) for w in maps),
    )
