"""One molecule with a force field, for engines that hold the positions themselves and ask for forces.

    molecule = Molecule(opened(Path("runs/quickstart/train")), chain("GYDPETGTWG").topology)
    energy, forces = molecule(positions)

Positions go in as (n, 3) Å of the Cα beads in the order of the sequence, kcal/mol and kcal/mol/Å come out.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import neighbors
from cgrefine.data.molecule import CIS_MAX_A
from cgrefine.data.topology import bonds_from_geometry, map_to_beads
from cgrefine.data.trajectory_topology import pdb_chains, pdb_positions, read_topology
from cgrefine.energy import SumOfTerms, bead_energies_and_forces
from cgrefine.errors import InputError
from cgrefine.export.program import cast_params
from cgrefine.fm import forcefield
from cgrefine.fm.forcefield import ForceField
from cgrefine.interop.opened import Modelled
from cgrefine.neighbors import Candidates
from cgrefine.residues import species_from_sequence
from cgrefine.system import System, Topology, pack, topology_from_species

HEADROOM = 1.5
"""Edges that there is room for, relative to those of the frame that did not fit."""
EDGE_ROUNDING = 64


class Chain(NamedTuple):
    """A molecule as a person names it. positions: (n, 3) Å of its beads; None where they are not known."""

    topology: Topology
    positions: np.ndarray | None


def chain(source: Any) -> Chain:
    """The molecule of a sequence in one-letter codes, a PDB file, a domain of a data set, or a Topology.

    A string that ends in .pdb, or a Path, is a file: of all atoms, or of Cα alone. Its chains (TER, chain
    ids, gaps) and cis bonds are those of its first model; a sequence is one chain without cis bonds. Raises
    InputError on anything else.
    """
    if isinstance(source, Topology):
        return Chain(source, None)
    if isinstance(source, Path) or (isinstance(source, str) and source.lower().endswith(".pdb")):
        return _of_pdb(Path(source))
    if isinstance(source, str):
        try:
            return Chain(topology_from_species(species_from_sequence(source)), None)
        except ValueError as error:
            raise InputError(f"topology {source!r}: neither a sequence nor a .pdb file ({error})") from error
    found = getattr(source, "topology", None)
    if isinstance(found, Topology):
        return Chain(found, None)
    raise InputError(
        f"topology of type {type(source).__name__}: give a sequence, a .pdb file, a domain of a data set, or "
        "a Topology"
    )


def at_temperature(force_field: Modelled, temperature_K: float | None) -> Modelled:
    """The force field, with a network that is conditioned on temperature fixed at one.

    Raises InputError when it is and none is given. Others are what they are at every temperature.
    """
    if not isinstance(force_field, ForceField):
        return force_field
    trained = forcefield.conditioned_range(force_field)
    if trained is not None and temperature_K is None:
        raise InputError(
            "the network is conditioned on temperature: give temperature_K, between "
            f"{trained[0]:g} and {trained[1]:g} K as in its training"
        )
    return force_field if temperature_K is None else forcefield.at_temperature(force_field, temperature_K)


class Molecule:
    """Energy and forces of one molecule, compiled at the first call and again where edges do not fit.

    dtype: of the computation; the network of a bundle computes in float32 whatever it is. Neighbours are
    listed at each call from all pairs of beads. A list that does not fit is never used: it is made again with
    more room.
    """

    def __init__(self, force_field: Modelled, topology: Topology, dtype: Any = np.float64) -> None:
        self.topology = topology
        self._model = force_field.model
        self._dtype = np.dtype(dtype)
        self._capacity = 0
        system = pack([topology])
        with self._precision():
            self._fixed = cast_params((force_field.params, system, neighbors.candidates(system)), self._dtype)

    def __call__(self, positions: Float[np.ndarray, "beads 3"]) -> tuple[float, Float[np.ndarray, "beads 3"]]:
        """Energy, kcal/mol, and forces, kcal/mol/Å, float64.

        InputError on another number of beads, and on positions that are not finite.
        """
        n = self.topology.n_beads
        if len(positions) != n:
            raise InputError(f"{len(positions)} positions: the molecule has {n} beads")
        if not (finite := np.isfinite(positions).all(axis=1)).all():
            bead = int(np.argmin(finite))
            raise InputError(f"the position of bead {bead + 1} is {positions[bead]}: it must be finite")
        # centred in float64, so that a molecule far from the origin loses no digits
        x = (positions - positions.mean(axis=0)).astype(self._dtype)
        if self._capacity == 0:
            self._capacity = self._room(x)
        while True:
            with self._precision():
                energy, forces, overflow = _evaluate(self._model, self._capacity, x, *self._fixed)
                if not overflow:
                    return float(energy), np.asarray(forces, np.float64)
            self._capacity = self._room(x)

    def _precision(self) -> Any:
        return jax.enable_x64(self._dtype == np.float64)

    def _room(self, x: np.ndarray) -> int:
        """Edges to make room for at these positions: more than now."""
        n = self.topology.n_beads
        most = HEADROOM * max(len(neighbors.frame_edges(x, self._model.cutoff_A)[0]), self._capacity)
        return min(EDGE_ROUNDING * int(np.ceil(most / EDGE_ROUNDING)), n * (n - 1))


@partial(jax.jit, static_argnums=(0, 1))
def _evaluate(
    model: SumOfTerms, capacity: int, x: Any, params: Any, system: System, pairs: Candidates
) -> tuple[Array, Array, Array]:
    edges = neighbors.update(x, pairs, model.cutoff_A, capacity)
    per_bead, forces = bead_energies_and_forces(model, params, x, system, edges)
    return jnp.sum(per_bead), forces, jnp.asarray(edges.overflow)


def _of_pdb(path: Path) -> Chain:
    """Topology and Cα positions of the first model of a PDB file."""
    source = str(path)
    if path.suffix.lower() != ".pdb":
        raise InputError(f"{source}: suffix {path.suffix!r} is no .pdb")
    solute = read_topology(path, source)
    text = path.read_text(encoding="utf-8", errors="replace")
    frame = pdb_positions(text, source)[solute.rows]
    mapping = map_to_beads(solute.atoms, bonds_from_geometry(solute.atoms, frame), frame)
    positions = frame[mapping.ca]
    # chains that touch are told apart by the file alone
    ends = np.flatnonzero(np.diff(pdb_chains(text, source)[solute.rows][mapping.ca])) + 1
    breaks = sorted({*mapping.breaks, *ends.tolist()})
    found = topology_from_species(mapping.topology.species, breaks, mapping.topology.resid)
    length = np.linalg.norm(positions[found.bonds[:, 1]] - positions[found.bonds[:, 0]], axis=1)
    return Chain(found.with_cis(found.bonds[length < CIS_MAX_A, 1].tolist()), positions)
