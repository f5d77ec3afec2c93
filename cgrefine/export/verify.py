"""The reference: the same model evaluated term by term in float64, and how far another run is from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cgrefine.energy import SumOfTerms, bead_energies_and_forces
from cgrefine.export.program import VIRIAL, cast_params
from cgrefine.neighbors import frame_edges, padded
from cgrefine.system import Topology, pack

EDGE_ROUNDING = 512

_evaluate = jax.jit(bead_energies_and_forces, static_argnums=0)


class TermValues(NamedTuple):
    """energy (f,) kcal/mol, forces (f, n, 3) kcal/mol/Å, virial (f, 6) kcal/mol; all float64."""

    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray


class ForceError(NamedTuple):
    """Largest component of the force difference and root mean square reference force, kcal/mol/Å."""

    max_error: float
    rms: float

    @property
    def relative(self) -> float:
        """Largest difference over the root mean square force."""
        return self.max_error / self.rms if self.rms > 0 else float("inf")


def force_limit(rms: float) -> float:
    """Difference that forces in float32 may have from float64: 1e-3 kcal/mol/Å, or 1e-4 of their rms."""
    return max(1.0e-3, 1.0e-4 * rms)


def term_values(
    model: SumOfTerms, params: Any, topology: Topology, positions: Float[np.ndarray, "frames beads 3"]
) -> dict[str, TermValues]:
    """Energy, forces and virial of each term in float64, for frames of one molecule (Å)."""
    frames = np.asarray(positions, np.float64)
    frames = frames - frames.mean(axis=1, keepdims=True)
    edges = [frame_edges(frame, model.cutoff_A) for frame in frames]
    # Rounded up, so that other frames of the molecule find a compiled function of the same shape.
    room = -(-max(1, *(len(senders) for senders, _ in edges)) // EDGE_ROUNDING) * EDGE_ROUNDING
    lists = [padded(senders, receivers, room) for senders, receivers in edges]
    system, values = pack([topology]), {}
    with jax.enable_x64(True):
        double = cast_params(params, jnp.float64)
        for term in model.terms:
            pairs = [
                _evaluate(term, double[term.name], x, system, e) for x, e in zip(frames, lists, strict=True)
            ]
            energy = np.asarray([np.sum(np.asarray(per_bead)) for per_bead, _ in pairs])
            forces = np.stack([np.asarray(f) for _, f in pairs])
            values[term.name] = TermValues(energy, forces, virials(frames, forces))
    return values


def virials(positions: np.ndarray, forces: np.ndarray) -> np.ndarray:
    """-dE/dstrain of frames (f, n, 3) that feel no force as a whole: Σ_i x_i F_i, (f, 6), see VIRIAL."""
    moments = np.einsum("fia,fib->fab", positions, forces)
    return np.stack([0.5 * (moments[:, a, b] + moments[:, b, a]) for a, b in VIRIAL], axis=-1)


def force_error(forces: np.ndarray, reference: np.ndarray) -> ForceError:
    """Distance of forces (..., 3) from reference forces of the same shape."""
    return ForceError(
        max_error=float(np.abs(forces - reference).max()), rms=float(np.sqrt(np.mean(reference**2)))
    )


def model_force_errors(
    model: SumOfTerms, params: Any, topology: Topology, positions: np.ndarray, forces: np.ndarray
) -> list[ForceError]:
    """For each frame (f, n, 3): how far the forces are from the sum of all terms in float64."""
    terms = term_values(model, params, topology, positions)
    reference = np.sum([values.forces for values in terms.values()], axis=0)
    return [force_error(f, r) for f, r in zip(forces, reference, strict=True)]
