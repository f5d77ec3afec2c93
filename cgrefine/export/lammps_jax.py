"""The network as a bundle of lammps-jax (0.2.1), for `pair_style jax/kk` of a Kokkos LAMMPS: one JSON file.

The library writes it; what is written is read back here and called as its pair style does. Rooms for beads
(with ghosts) and edges are fixed: LAMMPS ends where they do not suffice. Types are residues, units real.

The scheme is that of ghosts: each domain has all edges of its own beads and of ghosts within n_hops cutoffs,
each in both directions; the energy is that of its own beads, and forces on ghosts go back to their owners
(newton on). It takes two hops also for a network of one: with one, the pair style has each pair in a single
domain, which is enough for pair potentials alone. It demands `special_bonds lj/coul 1 1 1`.
"""

import base64
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cgrefine import geometry
from cgrefine.energy import NetworkTerm
from cgrefine.errors import InputError
from cgrefine.export import domains
from cgrefine.export.deploy import NEIGHBOR_MASK, DomainValues
from cgrefine.export.deploy_files import TOLERANCE
from cgrefine.export.portable import PLATFORM, exported, read_artifact, unreadable
from cgrefine.export.program import cast_params
from cgrefine.export.ptb import Container
from cgrefine.export.verify import TermValues, force_error
from cgrefine.neighbors import frame_edges
from cgrefine.residues import RESIDUES
from cgrefine.system import Topology

FILE = "network.lammps-jax.json"
FORMAT = "lammps-jax-json-distributed"
LEAST_HOPS = 2
GHOST_ROOM, EDGE_ROOM = 2.0, 2.0
"""Beads with ghosts over beads; edges of a bead over those in the densest reference frame."""


class Rooms(NamedTuple):
    """Beads of a domain with its ghosts, and edges among them in both directions."""

    beads: int
    edges: int


class LammpsJaxCheck(NamedTuple):
    """The file against the network in float64, over two domains, beads in another order: largest force
    difference over the rms force, and of the energy, kcal/mol per bead."""

    force: float
    energy: float
    n_frames: int

    @property
    def passed(self) -> bool:
        """Whether both are numbers within the tolerance."""
        return bool(np.all(np.asarray(self[:2]) <= TOLERANCE))


def rooms_for(
    positions: Float[np.ndarray, "frames beads 3"],
    cutoff_A: float,
    beads: int | None = None,
    edges: int | None = None,
) -> Rooms:
    """The given rooms, else those for a molecule like this one with as many ghosts as it has beads.

    positions: Å; the list of LAMMPS is longer than the cutoff by a skin of 2 Å.
    """
    most = max(len(frame_edges(frame, cutoff_A + domains.Host.skin_A)[0]) for frame in positions)
    beads = beads or ceil(GHOST_ROOM * positions.shape[1])
    return Rooms(beads, edges or max(1, ceil(EDGE_ROOM * most * beads / positions.shape[1])))


def write_lammps_jax(
    path: Path,
    term: NetworkTerm,
    params: Any,
    topology: Topology,
    positions: Float[np.ndarray, "frames beads 3"],
    exact: TermValues,
    platform: Literal["cpu", "cuda"],
    rooms: Rooms | None = None,
) -> LammpsJaxCheck:
    """Write the network for one platform, and check what was written at the positions (Å).

    exact: of the network there, float64. rooms: default `rooms_for` the positions. Raises
    InputError without the package lammps-jax, ValueError when the network cannot leave or the file is not
    the network: it is then gone.
    """
    if term.reference_K is not None:
        raise ValueError(
            f"network {term.name!r} is conditioned on temperature: fix one before it is exported"
        )
    rooms = rooms or rooms_for(positions, term.cutoff_A)
    library = _library()
    try:
        with jax.enable_x64(False):
            library.export_model(
                energy_fn=_energies(term, params),
                path=path,
                max_atoms=rooms.beads,
                max_edges=rooms.edges,
                cutoff=term.cutoff_A,
                unit_style="real",
                newton="on",
                n_hops=max(LEAST_HOPS, term.hops),
                n_species=len(RESIDUES),
                platform=platform,
            )
        found = check(path, topology, positions, exact)
        if not found.passed:
            raise ValueError(f"{FILE} is not the network: {found} is not within {TOLERANCE:g}")
    except (ValueError, InputError):
        path.unlink(missing_ok=True)
        raise
    return found


def check(
    path: Path, topology: Topology, positions: Float[np.ndarray, "frames beads 3"], exact: TermValues
) -> LammpsJaxCheck:
    """Read the file, call it as its pair style does in two domains, and compare with the network in float64.

    Raises InputError when it is no such file, or when a domain does not fit into its rooms.
    """
    program = load(path)
    forces, energies = [], []
    for index, frame in enumerate(np.asarray(positions, np.float64)):
        host = domains.Host(newton=True, seed=index + 1)
        values = domains.run(program, frame - frame.mean(axis=0), topology.species, host)
        forces.append(force_error(values.forces, exact.forces[index]).relative)
        energies.append(abs(values.energy - exact.energy[index]) / len(frame))
    return LammpsJaxCheck(max(forces), max(energies), len(positions))


@dataclass(frozen=True)
class JaxDomain:
    """A bundle that was read, called for one domain, see `domains.Domain`."""

    container: Container
    rooms: Rooms
    call: Callable[..., Any]

    def __call__(
        self,
        positions: np.ndarray,
        species: np.ndarray,
        n_local: int,
        n_ghost: int,
        newton: bool,
        senders: np.ndarray,
        receivers: np.ndarray,
        max_edges: int,
    ) -> DomainValues:
        """Values of one domain. InputError where it does not fit into the rooms: LAMMPS would end."""
        n = n_local + n_ghost
        i, j = senders & NEIGHBOR_MASK, receivers & NEIGHBOR_MASK
        listed = (i < n) & (j < n)
        needed = int(listed.sum())
        for what, found, room in (("beads", n, self.rooms.beads), ("edges", needed, self.rooms.edges)):
            if found > room:
                raise InputError(f"a domain has {found} {what}, the bundle of lammps-jax has room for {room}")
        x, kinds = np.zeros((self.rooms.beads, 3), np.float32), np.zeros(self.rooms.beads, np.int32)
        x[:n], kinds[:n] = positions[:n], species[:n]
        ends = np.full((2, self.rooms.edges), self.rooms.beads, np.int32)
        ends[:, :needed] = i[listed], j[listed]
        mask = np.arange(self.rooms.edges) < needed
        with jax.enable_x64(False), jax.default_device(jax.devices(PLATFORM)[0]):
            energy, forces = self.call(x, kinds, np.int32(n_local), np.int32(n_ghost), *ends, mask)
        padded = np.zeros((len(positions), 3), np.float32)
        padded[:n] = np.asarray(forces)[:n]
        return DomainValues(padded, np.asarray(energy), np.asarray(0), np.asarray(needed))


def load(path: Path) -> JaxDomain:
    """Read a bundle that `write_lammps_jax` wrote, for any platform; it is run on the CPU here.

    Raises InputError when it is none, or uses what is no StableHLO.
    """
    try:
        found = json.loads(path.read_text())
        contract = found["contract"]
        given = found["format"], contract["input_layout"], contract["precision"], contract["newton"]
        rooms = Rooms(contract["max_atoms"], contract["max_edges"])
        artifact = base64.b64decode(found["programs"]["energy_and_forces_mlir_b64"], validate=True)
        cutoff_A, hops = float(contract["cutoff"]), int(contract["n_hops"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no bundle of lammps-jax ({type(error).__name__}: {error})") from error
    if given != (allowed := (FORMAT, "sparse-edge", "float32", "on")):
        raise InputError(f"{path}: format, layout, precision and newton are {given}, allowed is {allowed}")
    text = read_artifact(artifact)
    if others := unreadable(text):
        raise InputError(f"{path}: the network cannot leave, it uses {', '.join(others)}")
    program = replace(exported(_stand_in, _arguments(rooms)), mlir_module_serialized=artifact)
    return JaxDomain(Container(text, cutoff_A, (hops, hops)), rooms, jax.jit(program.call))


def _library() -> Any:
    try:
        return importlib.import_module("lammps_jax.export")
    except ImportError as error:
        raise InputError(
            f'lammps-jax is not installed ({error}): install it with pip install "cgrefine[lammps-jax]"'
        ) from error


def _energies(term: NetworkTerm, params: Any) -> Callable[[jax.Array, jax.Array, Any], jax.Array]:
    """Energies of all rows (beads,), of which the library counts those of local ones."""

    def energies(positions: jax.Array, species: jax.Array, graph: Any) -> jax.Array:
        present = graph.edge_mask
        i, j = (jnp.where(present, ends, 0) for ends in (graph.senders, graph.receivers))
        vectors = geometry.displacements(positions, i, j, present)
        within = present & (jnp.sum(vectors * vectors, axis=-1) < term.cutoff_A**2)
        return term.edge_energy(cast_params(params, jnp.float32), vectors, species, i, j, within)

    return energies


def _stand_in(positions, species, n_local, n_ghost, senders, receivers, edge_mask):
    return jnp.float32(0.0), positions


def _arguments(rooms: Rooms) -> list[jax.ShapeDtypeStruct]:
    """positions, species, n_local, n_ghost, senders, receivers, edge_mask."""
    n, m = rooms
    shapes = [
        ((n, 3), np.float32), ((n,), np.int32), ((), np.int32), ((), np.int32),
        ((m,), np.int32), ((m,), np.int32), ((m,), np.bool_),
    ]  # fmt: skip
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
