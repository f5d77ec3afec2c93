"""The forces of a model on replicas of one chain, and where they may be used."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from cgrefine.dense.bonded import bonded_forces
from cgrefine.dense.chain import Chain
from cgrefine.dense.pairs import pair_constants, pair_forces
from cgrefine.dense.series import series_of
from cgrefine.dense.tables import curves_of
from cgrefine.energy import BondedTerm, PairTerm, Params, SumOfTerms
from cgrefine.system import System, Topology


@dataclass(frozen=True)
class DenseForces:
    """Forces of the terms of a model for replicas of one chain: forces(chain, x) with x (3, R, L) Å."""

    pair_terms: tuple[PairTerm, ...]
    damping: tuple[float, float] | None

    def __call__(self, chain: Chain, x: Float[Array, "3 replicas beads"]) -> Float[Array, "3 replicas beads"]:
        """Minus the gradient of the energy, (3, R, L) kcal/mol/Å."""
        return bonded_forces(chain, x, self.damping) + pair_forces(self.pair_terms, chain, x)


def applies(model: Any, system: System) -> bool:
    """Whether `model` has bonded and pair terms only, and the system is unpadded replicas of one chain."""
    if not isinstance(model, SumOfTerms) or not all(
        isinstance(t, BondedTerm | PairTerm) for t in model.terms
    ):
        return False
    damped = {t.damping for t in model.terms if isinstance(t, BondedTerm) and t.kind == "dihedral"}
    return len(damped) <= 1 and replicas_of(system) > 0


def replicas_of(system: System) -> int:
    """Number of replicas when the packed system is unpadded copies of one chain; else 0."""
    g = len(system.graph_mask)
    whole = [system.bead_mask, system.graph_mask, system.bond_mask, system.angle_mask, system.dihedral_mask]
    if not all(mask.all() for mask in whole) or len(system.species) % g:
        return 0
    beads = len(system.species) // g
    copied = [system.species, system.sequence, system.bond_types, system.angle_types, system.dihedral_types]
    for values in copied:
        if len(values) % g or not (values.reshape(g, -1) == values[: len(values) // g]).all():
            return 0
    for tuples in (system.bonds, system.angles, system.dihedrals):
        shifted = tuples.reshape(g, -1, tuples.shape[1]) - beads * np.arange(g)[:, None, None]
        if not (shifted == shifted[:1]).all() or (np.diff(tuples, axis=1) != 1).any():
            return 0
    return g


def dense(model: SumOfTerms, params: Params, topology: Topology, dtype: Any) -> tuple[DenseForces, Chain]:
    """The forces of a model on one chain as a hashable function, and what it reads (arrays of dtype)."""
    bonded_terms = [t for t in model.terms if isinstance(t, BondedTerm)]
    pairs = tuple(t for t in model.terms if isinstance(t, PairTerm))
    bonded = {
        kind: curves_of(terms, params, topology, kind, dtype)
        for kind in ("bond", "angle")
        if (terms := [t for t in bonded_terms if t.kind == kind]) and len(getattr(topology, f"{kind}s"))
    }
    torsions, dihedral = [t for t in bonded_terms if t.kind == "dihedral"], None
    if torsions and len(topology.dihedrals):
        dihedral = series_of(torsions, params, topology, dtype)
        if dihedral is None:
            bonded["dihedral"] = curves_of(torsions, params, topology, "dihedral", dtype)
    apart = np.abs(topology.sequence[:, None] - topology.sequence[None])
    acts = tuple((t.acts_at(apart) & (apart > 0)).astype(dtype) for t in pairs)
    return (
        DenseForces(pairs, torsions[0].damping if torsions else None),
        Chain(
            bonded,
            dihedral,
            tuple(
                pair_constants(t, params[t.name], topology, a, dtype)
                for t, a in zip(pairs, acts, strict=True)
            ),
            acts,
            topology.species,
        ),
    )
