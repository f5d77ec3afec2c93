"""Force errors of a force field on frames that it did not see, per residue type and per term.

Mean squares are per Cartesian component, (kcal/mol/Å)². The reference forces are instantaneous mapped
forces: their noise bounds the explained variance well below one, whatever the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cgrefine import energy, neighbors
from cgrefine.data.store import Domain
from cgrefine.energy import SumOfTerms
from cgrefine.fm.forcefield import ForceField
from cgrefine.residues import N_SPECIES, RESIDUES
from cgrefine.system import Topology, pack

BLOCKS = 20
"""Frames are cut into about this many consecutive blocks; their spread gives the standard errors."""


def term_forces(
    force_field: ForceField, topology: Topology, positions: Float[np.ndarray, "frames beads 3"], beads: int
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Forces of each term on frames of one protein, float32, about `beads` beads at a time.

    Yields (slice of frames, {term: (f, n, 3) kcal/mol/Å}). One compilation a protein; the edge buffer is
    sized from the frames themselves, so no edge is dropped.
    """
    n_frames, n_beads = positions.shape[:2]
    copies = max(1, min(n_frames, beads // n_beads))
    system = pack([topology] * copies)
    cutoff = force_field.model.cutoff_A
    most = max(len(neighbors.frame_edges(x, cutoff)[0]) for x in positions)
    evaluate = partial(
        _forces_by_term, force_field.model, system=system, cutoff_A=cutoff, capacity=copies * max(most, 1)
    )
    jitted = jax.jit(evaluate)
    params = force_field.cast(jnp.float32)
    for start in range(0, n_frames, copies):
        rows = np.arange(start, start + copies)
        x = positions[np.minimum(rows, n_frames - 1)].reshape(-1, 3)
        found = jitted(params, jnp.asarray(x, jnp.float32))
        stop = min(start + copies, n_frames)
        yield (
            slice(start, stop),
            {k: np.asarray(v).reshape(copies, n_beads, 3)[: stop - start] for k, v in found.items()},
        )


def _forces_by_term(model: SumOfTerms, params, positions, *, system, cutoff_A, capacity):
    listed = neighbors.update(positions, neighbors.candidates(system), cutoff_A, capacity)
    return {name: f for name, (_, f) in energy.by_term(model, params, positions, system, listed).items()}


@dataclass
class Sums:
    """Running sums over beads: squared residual after each cumulative term, by species.

    squared: (k + 1, species) Σ|F_ref − Σ_{terms ≤ i} F|²; row 0 is the zero model. own: (k,) Σ|F_term|².
    count: (species,) beads. frames: list of (k + 1, f) per-frame mean squares.
    """

    terms: tuple[str, ...]
    squared: np.ndarray
    own: np.ndarray
    count: np.ndarray
    frames: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """Force errors. mse: (k + 1,) after 0, 1, ... terms; stderr likewise, from blocks of frames.

    own_rms: (k,) RMS force of each term. by_species: (k + 1, 20) mean squares (NaN where no bead);
    count: (20,) beads of each species.
    """

    terms: tuple[str, ...]
    mse: np.ndarray
    mse_stderr: np.ndarray
    explained: float
    explained_stderr: float
    explained_prior: float
    own_rms: np.ndarray
    by_species: np.ndarray
    count: np.ndarray

    @property
    def prior_index(self) -> int:
        """Row of `mse` after the last prior term."""
        return len([t for t in self.terms if t != "network"])


def evaluate(
    force_field: ForceField, domains: Sequence[Domain], *, batch_beads: int = 400, validation: bool = True
) -> Evaluation:
    """Compare model forces with the mapped forces on validation (or training) frames of all domains.

    Terms are added in the order of the model, so that row i says what i terms leave unexplained. Raises
    ValueError when there is no such frame.
    """
    terms = tuple(t.name for t in force_field.model.terms)
    rows = len(terms) + 1
    sums = Sums(terms, np.zeros((rows, N_SPECIES)), np.zeros(len(terms)), np.zeros(N_SPECIES))
    for domain in domains:
        chosen = np.flatnonzero(domain.validation == validation)
        if len(chosen):
            _add_domain(sums, force_field, domain, chosen, batch_beads)
    if not sums.frames:
        raise ValueError("no validation frames to evaluate: the data set's split left none")
    return _finish(sums)


def _add_domain(sums: Sums, force_field: ForceField, domain: Domain, chosen: np.ndarray, beads: int) -> None:
    species = domain.topology.species
    positions, reference = np.asarray(domain.positions[chosen]), np.asarray(domain.forces[chosen])
    for part, forces in term_forces(force_field, domain.topology, positions, beads):
        residual = reference[part].astype(np.float64)
        squares = [(residual**2).sum(-1)]
        for index, name in enumerate(sums.terms):
            residual = residual - forces[name]
            squares.append((residual**2).sum(-1))
            sums.own[index] += float((forces[name].astype(np.float64) ** 2).sum())
        table = np.stack(squares)
        for row, square in enumerate(table):
            sums.squared[row] += np.bincount(species, weights=square.sum(0), minlength=N_SPECIES)
        sums.count += np.bincount(species, minlength=N_SPECIES) * table.shape[1]
        sums.frames.append(table.mean(-1) / 3.0)


def _finish(sums: Sums) -> Evaluation:
    beads = 3.0 * sums.count.sum()
    mse = sums.squared.sum(1) / beads
    blocks = np.stack([b.mean(1) for b in np.array_split(np.concatenate(sums.frames, 1), BLOCKS, axis=1)])
    scale = np.sqrt(len(blocks))
    ratio = 1.0 - blocks[:, -1] / blocks[:, 0]
    prior = len([t for t in sums.terms if t != "network"])
    with np.errstate(invalid="ignore"):
        by_species = sums.squared / (3.0 * sums.count)
    return Evaluation(
        terms=sums.terms,
        mse=mse,
        mse_stderr=blocks.std(0, ddof=1) / scale,
        explained=float(1.0 - mse[-1] / mse[0]),
        explained_stderr=float(ratio.std(ddof=1) / scale),
        explained_prior=float(1.0 - mse[prior] / mse[0]),
        own_rms=np.sqrt(sums.own / beads),
        by_species=by_species,
        count=sums.count,
    )


def species_rows(result: Evaluation) -> list[tuple[str, int, float, float, float]]:
    """Per residue type: name, beads, RMSE (kcal/mol/Å), explained variance, the same of the prior."""
    rows = []
    for index, name in enumerate(RESIDUES):
        if result.count[index]:
            zero, prior, full = result.by_species[[0, result.prior_index, -1], index]
            rows.append(
                (name, int(result.count[index]), float(np.sqrt(full)), 1.0 - full / zero, 1.0 - prior / zero)
            )
    return rows


def term_rows(result: Evaluation) -> list[tuple[str, float, float, float]]:
    """Per term: name, RMS of its own force, MSE left after it and all before it, explained variance so far."""
    return [
        (
            name,
            float(result.own_rms[i]),
            float(result.mse[i + 1]),
            float(1.0 - result.mse[i + 1] / result.mse[0]),
        )
        for i, name in enumerate(result.terms)
    ]
