"""Force errors of a force field on held-out frames: in all, by kind of bead and of component, and by term.

Squared errors are means over force components, (kcal/mol/Å)². The explained variance is 1 - MSE/⟨F²⟩:
against the zero model. Noise in the reference forces bounds it below 1: see `noise_floor`. Against the priors
it is 1 - MSE/MSE of the priors. Standard errors are by bootstrap over blocks of consecutive frames of one
trajectory.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cgrefine import energy
from cgrefine.config.data import Loader
from cgrefine.data.frames import FrameSet
from cgrefine.energy import SumOfTerms
from cgrefine.fm import noise_floor
from cgrefine.fm.blocks import Blocks, Estimate, drawings, drawn, estimate, frame_blocks
from cgrefine.fm.force_products import Histograms, Products, Sums, accumulate, square
from cgrefine.fm.local_frames import AXES, POSITIONS
from cgrefine.residues import RESIDUES

Draws = Float[np.ndarray, " draws"]


class Row(NamedTuple):
    """Errors on one kind of bead, or of force component. components: of force, summed over frames.

    rmse and reference_rms in kcal/mol/Å, mse in (kcal/mol/Å)². Explained variances: of the whole force field
    against zero and against the priors, of the priors alone and of the network alone against zero.
    """

    group: str
    components: int
    rmse: Estimate
    mse: Estimate
    reference_rms: Estimate
    explained_variance: Estimate
    explained_variance_over_prior: Estimate
    explained_variance_prior: Estimate
    explained_variance_network: Estimate


class TermRow(NamedTuple):
    """One term: RMS of its force component; errors of this term alone, and of it with all terms above it."""

    term: str
    rms_force: float
    alone_rmse: float
    alone_mse: float
    alone_explained_variance: float
    cumulative_rmse: float
    cumulative_mse: float
    cumulative_explained_variance: float


class Neighbours(NamedTuple):
    """The noise floor from near neighbours, on a sample of the beads; see `noise_floor`.

    beads: bead-frames that it is from. mse: of the force field on these. unexplained: what a function of the
    surroundings could still explain; floor = mse - unexplained. at_most: bound without extrapolation.
    distance_A, covariance (k,): of the p-th neighbour, root mean square and mean product of residuals.
    """

    beads: int
    mse: Estimate
    unexplained: Estimate
    floor: Estimate
    floor_rmse: Estimate
    explainable_variance: Estimate
    at_most: Estimate
    distance_A: tuple[float, ...]
    covariance: tuple[Estimate, ...]


class Evaluation(NamedTuple):
    """metrics by name; breakdowns: what the beads are divided by → rows; terms in order of the model.

    floor_at_most: bound of the noise floor from the best scaling of priors and network, all beads.
    neighbours: None where no frame has enough others to be compared with.
    """

    metrics: dict[str, Estimate]
    breakdowns: dict[str, tuple[Row, ...]]
    terms: tuple[TermRow, ...]
    floor_at_most: Estimate
    neighbours: Neighbours | None
    histograms: Histograms
    frames: int
    beads: int


def evaluate(
    model: SumOfTerms,
    params: Mapping[str, energy.Params],
    frames: FrameSet,
    batch_beads: int,
    loader: Loader,
    seed: int = 0,
) -> Evaluation:
    """Errors of the model on all frames, in float32; its terms in order, the network (if any) last.

    The edges of `frames` reach as far as the longest cutoff. Raises InputError when there is no frame.
    """
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    names = [term.name for term in model.terms]
    blocks, chosen = frame_blocks(frames), noise_floor.groups(frames, seed)
    keep = frozenset(int(row) for group in chosen for row in group.rows)
    sums = accumulate(model, params, frames, batch_beads, loader, blocks, keep)
    counts = drawings(len(blocks), np.random.default_rng(seed))
    whole = _whole(sums.terms, [name == "network" for name in names])
    p, n = drawn(counts, whole.p), drawn(counts, whole.components)
    near = noise_floor.neighbourhood(frames, chosen, sums.kept, blocks)
    return Evaluation(
        metrics={name: estimate(values) for name, values in _metrics(p, n).items()},
        breakdowns=_breakdowns(frames, blocks, sums, whole, counts),
        terms=_term_rows(sums.terms, names),
        floor_at_most=estimate((p[:, 0, 0] - noise_floor.explainable(p)) / n),
        neighbours=_neighbours(near, counts),
        histograms=sums.histograms,
        frames=len(frames),
        beads=int(whole.components.sum()) // 3,
    )


def squares(p: Float[np.ndarray, "draws 3 3"]) -> dict[str, Draws]:
    """Sums of squared errors of no model, priors, network alone and both, from products (see Sums.kinds)."""
    subtracted = {"zero": (0.0, 0.0), "prior": (1.0, 0.0), "network": (0.0, 1.0), "model": (1.0, 1.0)}
    return {name: square(p, np.array([1.0, -a, -b])) for name, (a, b) in subtracted.items()}


def _metrics(p: Float[np.ndarray, "draws 3 3"], n: Draws) -> dict[str, Draws]:
    """Every metric in each drawing; n: components."""
    found = squares(p)
    zero, prior, network, model = (found[name] for name in ("zero", "prior", "network", "model"))
    return {
        "force_rmse_kcal_mol_A": np.sqrt(model / n),
        "force_mse": model / n,
        "force_rmse_prior_kcal_mol_A": np.sqrt(prior / n),
        "force_mse_prior": prior / n,
        "force_rmse_zero_kcal_mol_A": np.sqrt(zero / n),
        "force_mse_zero": zero / n,
        "force_rmse_network_kcal_mol_A": np.sqrt(network / n),
        "force_mse_network": network / n,
        "explained_variance": _explained(model, zero),
        "explained_variance_prior": _explained(prior, zero),
        "explained_variance_network": _explained(network, zero),
        "explained_variance_gain": _explained(model, zero) - _explained(prior, zero),
        "explained_variance_over_prior": _explained(model, prior),
    }


def _explained(left: Draws, before: Draws) -> Draws:
    """1 - left/before; NaN where there was nothing to explain."""
    return 1.0 - np.divide(left, before, out=np.full(len(left), np.nan), where=before > 0.0)


def _whole(terms: Products, is_network: Sequence[bool]) -> Products:
    """Products of the reference, the sum of the priors and the network, from those of every term."""
    part = np.zeros((3, len(is_network) + 1))
    part[0, 0] = 1.0
    for column, network in enumerate(is_network, start=1):
        part[2 if network else 1, column] = 1.0
    return Products(np.einsum("ik,bkl,jl->bij", part, terms.p, part), terms.components)


def _breakdowns(
    frames: FrameSet, blocks: Blocks, sums: Sums, whole: Products, counts: Float[np.ndarray, "draws blocks"]
) -> dict[str, tuple[Row, ...]]:
    found: dict[str, tuple[Row, ...]] = {}
    for title, labels, kind in (
        ("chain position", POSITIONS, "position"),
        ("residue type", RESIDUES, "residue"),
        ("component", ("x", "y", "z"), "component"),
        ("local axis", AXES, "axis"),
    ):
        p, n = sums.kinds[kind]
        chosen = [(label, n[:, k] > 0, p[:, k], n[:, k]) for k, label in enumerate(labels)]
        found[title] = _rows(chosen, counts)
    for title, key, name in (
        ("temperature", blocks.temperature_K, lambda value: f"{value:g} K"),
        ("protein", blocks.domain, lambda value: frames.domains[int(value)].name),
    ):
        chosen = [(name(value), key == value, whole.p, whole.components) for value in np.unique(key)]
        found[title] = _rows(chosen, counts)
    return found


def _rows(
    chosen: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
    counts: Float[np.ndarray, "draws blocks"],
) -> tuple[Row, ...]:
    """A row of each (name, blocks that count (b,) bool, products (b, 3, 3), components (b,)) with some."""
    return tuple(
        _row(name, p[mask], n[mask], counts[:, mask]) for name, mask, p, n in chosen if n[mask].any()
    )


def _row(
    group: str,
    p: Float[np.ndarray, "blocks 3 3"],
    n: Float[np.ndarray, " blocks"],
    counts: Float[np.ndarray, "draws blocks"],
) -> Row:
    """Without standard errors where all is in one block, which every drawing has in whole or not at all."""
    counts = counts[:1] if len(n) < 2 else counts
    total = drawn(counts, n)
    total[total == 0.0] = np.nan
    found = {name: estimate(values) for name, values in _metrics(drawn(counts, p), total).items()}
    return Row(
        group=group,
        components=int(n.sum()),
        rmse=found["force_rmse_kcal_mol_A"],
        mse=found["force_mse"],
        reference_rms=found["force_rmse_zero_kcal_mol_A"],
        **{name: found[name] for name in Row._fields if name.startswith("explained_variance")},
    )


def _term_rows(terms: Products, names: Sequence[str]) -> tuple[TermRow, ...]:
    total, n = terms.p.sum(0), float(terms.components.sum())
    unit = np.eye(len(names) + 1)

    def mse(coefficients: np.ndarray) -> float:
        return float(square(total, coefficients)) / n

    zero, rows = mse(unit[0]), []
    for k, name in enumerate(names, start=1):
        alone, cumulative = mse(unit[0] - unit[k]), mse(unit[0] - unit[1 : k + 1].sum(0))
        rows.append(
            TermRow(
                term=name,
                rms_force=math.sqrt(mse(unit[k])),
                alone_rmse=math.sqrt(alone),
                alone_mse=alone,
                alone_explained_variance=1.0 - alone / zero,
                cumulative_rmse=math.sqrt(cumulative),
                cumulative_mse=cumulative,
                cumulative_explained_variance=1.0 - cumulative / zero,
            )
        )
    return tuple(rows)


def _neighbours(
    near: noise_floor.Neighbourhood, counts: Float[np.ndarray, "draws blocks"]
) -> Neighbours | None:
    if not near.beads.any():
        return None
    n = 3.0 * drawn(counts, near.beads)
    n[n == 0.0] = np.nan
    delta, covariance = (drawn(counts, part) / n[:, None] for part in (3.0 * near.delta, near.covariance))
    p = drawn(counts, near.products)
    found = squares(p[:, :3, :3])
    unexplained, _ = noise_floor.extrapolated(delta, covariance)
    floor = found["model"] / n - unexplained
    return Neighbours(
        beads=int(near.beads.sum()),
        mse=estimate(found["model"] / n),
        unexplained=estimate(unexplained),
        floor=estimate(floor),
        floor_rmse=estimate(np.sqrt(np.where(floor > 0.0, floor, np.nan))),
        explainable_variance=estimate(1.0 - floor * n / found["zero"]),
        at_most=estimate((p[:, 0, 0] - noise_floor.explainable(p)) / n),
        distance_A=tuple(np.sqrt(delta[0]).tolist()),
        covariance=tuple(estimate(column) for column in covariance.T),
    )
