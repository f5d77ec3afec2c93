"""Force errors of a force field on held-out frames: in all, by residue type, and by energy term.

Squared errors are means over force components, (kcal/mol/Å)². The explained variance is
1 - MSE/⟨F²⟩: against the zero model, because noise in the reference forces bounds it far below 1.
Standard errors are by bootstrap over blocks of consecutive frames of one trajectory.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgrefine import energy
from cgrefine.config.schema import Loader
from cgrefine.data.frames import FrameSet
from cgrefine.data.loader import Reading, each, sweep
from cgrefine.data.packing import Batch, budget_for
from cgrefine.energy import SumOfTerms
from cgrefine.residues import N_SPECIES, RESIDUES

BLOCK_FRAMES = 10
"""Consecutive saved frames of one trajectory that are drawn together in the bootstrap."""

RESAMPLES = 500


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    stderr: float


class ResidueRow(NamedTuple):
    """Errors on one residue type: beads counted over frames, RMSE and reference RMS in kcal/mol/Å."""

    residue: str
    beads: int
    rmse: float
    reference_rms: float
    explained_variance: float
    explained_variance_prior: float


class TermRow(NamedTuple):
    """One term: RMS of its force component, and the error when it is added to all terms above it."""

    term: str
    rms_force: float
    cumulative_mse: float
    cumulative_explained_variance: float


class Evaluation(NamedTuple):
    """metrics by name; rows for each residue type that occurs, and for each term."""

    metrics: dict[str, Estimate]
    residues: tuple[ResidueRow, ...]
    terms: tuple[TermRow, ...]
    frames: int
    beads: int


class Sums(NamedTuple):
    """Sums over force components. squares (frames, terms+1): of reference minus the first k terms.

    own (terms,): of each term's force alone. by_species (species, terms+1); count (frames,), and
    species_count (species,): beads.
    """

    squares: np.ndarray
    own: np.ndarray
    by_species: np.ndarray
    count: np.ndarray
    species_count: np.ndarray


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
    sums = accumulate(model, params, frames, batch_beads, loader)
    prior = len([name for name in names if name != "network"])
    return Evaluation(
        metrics=_metrics(sums, prior, _blocks(frames), np.random.default_rng(seed)),
        residues=_residue_rows(sums, prior),
        terms=_term_rows(sums, names),
        frames=len(frames),
        beads=int(sums.count.sum()),
    )


def accumulate(
    model: SumOfTerms,
    params: Mapping[str, energy.Params],
    frames: FrameSet,
    batch_beads: int,
    loader: Loader,
) -> Sums:
    """One pass over the frames in packed batches; sums in float64."""
    budget = budget_for([frames], batch_beads, loader.edge_headroom)
    reading = Reading(loader.buffer_frames, loader.prefetch, loader.workers)
    terms_forces = _forces_by_term(model)
    n = len(model.terms)
    sums = Sums(
        np.zeros((len(frames), n + 1)), np.zeros(n), np.zeros((N_SPECIES, n + 1)),
        np.zeros(len(frames)), np.zeros(N_SPECIES),
    )  # fmt: skip
    for rows, batch in each(sweep(frames, budget, reading)):
        # without weight: frames whose forces are not finite
        real = np.asarray(batch.weight) > 0
        per_term = np.asarray(terms_forces(params, batch), np.float64).reshape(n, -1, 3)[:, real]
        error = np.concatenate([np.zeros((1, *per_term.shape[1:])), np.cumsum(per_term, axis=0)])
        squares = ((batch.target_forces[real] - error) ** 2).sum(-1).T
        row = rows[batch.system.graph_id[real]]
        species = batch.system.species[real]
        np.add.at(sums.squares, row, squares)
        np.add.at(sums.by_species, species, squares)
        np.add.at(sums.count, row, 1.0)
        np.add.at(sums.species_count, species, 1.0)
        sums.own[:] += (per_term**2).sum((1, 2))
    return sums


def _forces_by_term(model: SumOfTerms) -> Callable[[Mapping[str, energy.Params], Batch], jax.Array]:
    @jax.jit
    def forces(params: Mapping[str, energy.Params], batch: Batch) -> jax.Array:
        x = jnp.asarray(batch.positions)
        parts = energy.by_term(model, params, x, batch.system, batch.neighbors)
        return jnp.stack([parts[term.name][1] for term in model.terms])

    return forces


def _metrics(sums: Sums, prior: int, blocks: np.ndarray, rng: np.random.Generator) -> dict[str, Estimate]:
    """Every metric from the block sums, with the spread of the same metric over resampled blocks."""
    n_blocks = int(blocks.max()) + 1
    columns = np.column_stack([sums.squares[:, [0, prior, -1]], 3.0 * sums.count])
    per_block = np.zeros((n_blocks, 4))
    np.add.at(per_block, blocks, columns)
    draws = rng.integers(0, n_blocks, (RESAMPLES, n_blocks))
    best = _formulas(per_block.sum(0)[:, None])
    spread = _formulas(per_block[draws].sum(1).T) if n_blocks > 1 else {k: np.full(1, np.nan) for k in best}
    return {name: Estimate(float(best[name][0]), float(np.std(spread[name]))) for name in best}


def _formulas(totals: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics (k,) from sums (4, k): squared errors of no model, prior and model, and the components."""
    zero, prior, model, count = totals
    return {
        "force_rmse_kcal_mol_A": np.sqrt(model / count),
        "force_mse": model / count,
        "force_mse_prior": prior / count,
        "force_mse_zero": zero / count,
        "explained_variance": 1.0 - model / zero,
        "explained_variance_prior": 1.0 - prior / zero,
        "explained_variance_gain": (prior - model) / zero,
    }


def _blocks(frames: FrameSet) -> np.ndarray:
    """(f,) block of each frame: up to BLOCK_FRAMES consecutive rows of one domain, temperature, replica."""
    pieces = frames.pieces
    keys = np.column_stack([pieces.domain, pieces.temperature_K, pieces.replica])
    run = np.repeat(np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1), pieces.count)
    length = np.bincount(run)
    order = np.argsort(run, kind="stable")
    place = np.empty(len(run), np.int64)
    place[order] = np.arange(len(run)) - np.repeat(np.cumsum(length) - length, length)
    n_blocks = -(-length // BLOCK_FRAMES)
    return (np.cumsum(n_blocks) - n_blocks)[run] + place // BLOCK_FRAMES


def _residue_rows(sums: Sums, prior: int) -> tuple[ResidueRow, ...]:
    rows = []
    for species in np.flatnonzero(sums.species_count):
        zero, before, model = sums.by_species[species, [0, prior, -1]]
        beads = int(sums.species_count[species])
        rows.append(
            ResidueRow(
                residue=RESIDUES[species],
                beads=beads,
                rmse=float(np.sqrt(model / (3 * beads))),
                reference_rms=float(np.sqrt(zero / (3 * beads))),
                explained_variance=float(1.0 - model / zero),
                explained_variance_prior=float(1.0 - before / zero),
            )
        )
    return tuple(rows)


def _term_rows(sums: Sums, names: list[str]) -> tuple[TermRow, ...]:
    components = 3.0 * sums.count.sum()
    mse = sums.squares.sum(0) / components
    rms = np.sqrt(sums.own / components)
    return tuple(
        TermRow(name, float(rms[k]), float(mse[k + 1]), float(1.0 - mse[k + 1] / mse[0]))
        for k, name in enumerate(names)
    )
