"""The network as a program: one portable StableHLO module that needs no code of ours to run.

    positions f32 (n, 3), species i32 (n,), senders i32 (e,), receivers i32 (e,), edge_mask i1 (e,)
        -> energies f32 (n,), forces f32 (n, 3), virial f32 (6,)

Å, kcal/mol. The numbers of beads n and edges e are symbols: whoever runs the module puts sizes in, and
compiles it for them (`jax.jit` does). An edge goes from a bead to its neighbour, both directions are present;
masked edges count for nothing. Beads of several molecules may stand behind one another: edges are what joins
them. The virial is -dE/dstrain = Σ_i x_i F_i, in kcal/mol and in the order xx yy zz xy xz yz: LAMMPS adds it
to the pressure as (xx + yy + zz) / 3V.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Float

from cgrefine import geometry
from cgrefine.energy import NetworkTerm
from cgrefine.errors import InputError
from cgrefine.export.portable import PLATFORM, artifact_of, exported, first_line, text_of
from cgrefine.neighbors import frame_edges, padded

VIRIAL = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Components of a virial, in the order of LAMMPS."""

EDGE_HEADROOM = 1.25
"""Edges that there is room for, relative to those that did not fit."""
EDGE_ROUNDING = 64
SKIN_A = 2.0
"""Widest skin of a list of edges."""
_CONSTRAINTS = ("n >= 1", "e >= 1")

logger = logging.getLogger(__name__)


class Portable(NamedTuple):
    """One program in its two forms: portable StableHLO bytes, and text without debug locations."""

    artifact: bytes
    text: str


class NetworkValues(NamedTuple):
    """energy: kcal/mol; forces (n, 3) float64, kcal/mol/Å; virial (6,) float64, kcal/mol."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray


def signature() -> dict[str, list[dict[str, Any]]]:
    """Names, dtypes and shapes of the program's arguments and results, as `meta.json` records them.

    A size that is a letter is a symbol, the same number wherever it stands.
    """

    def entry(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "shape": list(shape)}

    return {
        "arguments": [
            entry("positions", "float32", "n", 3),
            entry("species", "int32", "n"),
            entry("senders", "int32", "e"),
            entry("receivers", "int32", "e"),
            entry("edge_mask", "bool", "e"),
        ],
        "results": [
            entry("energies", "float32", "n"),
            entry("forces", "float32", "n", 3),
            entry("virial", "float32", 6),
        ],
    }


def edge_room(n_beads: int, n_edges: int) -> int:
    """Edges to make room for where there are n_edges of n_beads: some more, at most n(n-1)."""
    some_more = EDGE_ROUNDING * int(np.ceil(EDGE_HEADROOM * n_edges / EDGE_ROUNDING))
    return max(1, min(some_more, n_beads * (n_beads - 1)))


def build(term: NetworkTerm, params: Any, target: str) -> Portable:
    """Trace the network with its parameters as float32 constants, and serialise it for StableHLO `target`.

    Raises ValueError when the network uses an operation that other consumers of StableHLO cannot read.
    """

    def program(positions, species, senders, receivers, edge_mask):
        def total(x):
            vectors = geometry.displacements(x, senders, receivers, edge_mask)
            constants = cast_params(params, jnp.float32)
            per_bead = term.edge_energy(constants, vectors, species, senders, receivers, edge_mask)
            return jnp.sum(per_bead), per_bead

        gradient, energies = jax.grad(total, has_aux=True)(positions)
        moments = -positions.T @ gradient
        virial = jnp.stack([0.5 * (moments[a, b] + moments[b, a]) for a, b in VIRIAL])
        return energies, -gradient, virial

    try:
        text = text_of(exported(program, _arguments()))
    except ValueError as error:
        raise ValueError(f"network {term.name!r}: {error}") from error
    return Portable(artifact_of(text, target), text)


class NetworkProgram:
    """The program for one molecule, called with positions (n, 3) in Å, float64, in bead order (unwrapped).

    It is compiled for this machine's CPU at the first call, with room for the edges that are there then, and
    again where a frame has more: `compiled` is what was made last, with room for `n_edges`; `compilations` is
    how often it was made. Edges are found with a skin, as wide as the room allows, and serve until a bead has
    moved by half of it: those beyond the cutoff do not act (`energy.NetworkTerm`). `lists` counts them.
    """

    def __init__(self, artifact: bytes, species: np.ndarray, cutoff_A: float) -> None:
        self.cutoff_A = cutoff_A
        self.species = np.asarray(species, np.int32)
        self.n_edges = 0
        self.compilations = 0
        self.lists = 0
        self._artifact = artifact
        self.compiled: Callable[..., Any] | None = None
        self._listed_at = np.full((len(self.species), 3), np.nan)
        self._half_skin2 = -1.0
        self._centre = np.zeros(3)
        self._centred = np.zeros((len(self.species), 3), np.float32)
        self._constant: tuple[jax.Array, ...] = ()

    def of(self, species: np.ndarray) -> "NetworkProgram":
        """The program for a molecule of other residues, or of more or fewer."""
        return NetworkProgram(self._artifact, species, self.cutoff_A)

    def __call__(self, positions: Float[np.ndarray, "beads 3"]) -> NetworkValues:
        """Energy, forces and virial. InputError when the program does not compile.

        Edges are found in float64; positions are centred (on where the molecule was when they were found)
        before they become float32, so that a molecule far from the origin loses no digits.
        """
        moved = positions - self._listed_at
        # Not `>`: positions that are not finite must be listed anew, which says so.
        if not np.einsum("ij,ij->i", moved, moved).max(initial=0.0) <= self._half_skin2:
            self._list(positions)
        assert self.compiled is not None
        np.subtract(positions, self._centre, out=self._centred, dtype=np.float64, casting="same_kind")
        energies, forces, virial = self.compiled(self._centred, *self._constant)
        # summed in float64: the energies of 500 beads in float32 would lose a digit
        return NetworkValues(
            float(np.asarray(energies).sum(dtype=np.float64)),
            np.asarray(forces, dtype=np.float64),
            np.asarray(virial, dtype=np.float64),
        )

    def _list(self, positions: Float[np.ndarray, "beads 3"]) -> None:
        """Edges within the cutoff and a skin; room is made first, if those within the cutoff need more."""
        senders, receivers = frame_edges(positions, self.cutoff_A + SKIN_A)
        lengths = np.linalg.norm(positions[receivers] - positions[senders], axis=1)
        needed = int(np.count_nonzero(lengths < self.cutoff_A))
        if needed > self.n_edges or self.compiled is None:
            self._compile(needed)
        reach_A = self.cutoff_A + SKIN_A
        if len(lengths) > self.n_edges:
            reach_A = max(self.cutoff_A, float(np.partition(lengths, self.n_edges)[self.n_edges]))
            near = lengths < reach_A
            senders, receivers = senders[near], receivers[near]
        edges = padded(senders, receivers, self.n_edges)
        device = jax.devices(PLATFORM)[0]
        self._constant = tuple(
            jax.device_put(v, device) for v in (self.species, edges.senders, edges.receivers, edges.edge_mask)
        )
        self._listed_at = np.array(positions, np.float64)
        self._centre = self._listed_at.mean(axis=0)
        self._half_skin2 = (0.5 * (reach_A - self.cutoff_A)) ** 2
        self.lists += 1

    def _compile(self, n_edges: int) -> None:
        n_beads, room = len(self.species), edge_room(len(self.species), n_edges)
        if self.compiled is not None:
            logger.warning(
                "%d edges within %g Å and room for %d: the network is compiled again with room for %d",
                n_edges, self.cutoff_A, self.n_edges, room,
            )  # fmt: skip
        sizes = {"n": n_beads, "e": room}
        shapes = [
            jax.ShapeDtypeStruct(tuple(sizes.get(s, s) for s in a["shape"]), np.dtype(a["dtype"]))
            for a in signature()["arguments"]
        ]
        with jax.enable_x64(False), jax.default_device(jax.devices(PLATFORM)[0]):
            call = traceable(self._artifact, PLATFORM).call
            try:
                self.compiled = jax.jit(call).lower(*shapes).compile()
            except (ValueError, RuntimeError) as error:
                raise InputError(f"the exported network does not compile: {first_line(error)}") from error
        self.n_edges, self.compilations = room, self.compilations + 1


def traceable(artifact: bytes, platform: str) -> export.Exported:
    """StableHLO bytes as a function that may be called within other traced functions, on one platform.

    jax runs them inside an `Exported` of a stand-in with the same signature: unlike the files of
    jax.export, portable StableHLO stays readable over jax versions.
    """

    def stand_in(positions, species, senders, receivers, edge_mask):
        return positions[:, 0], positions, jnp.zeros(6, jnp.float32)

    return replace(exported(stand_in, _arguments(), platform), mlir_module_serialized=artifact)


def _arguments() -> list[jax.ShapeDtypeStruct]:
    """The arguments of the signature, with symbols for sizes."""
    scope = export.SymbolicScope(_CONSTRAINTS)
    return [
        jax.ShapeDtypeStruct(
            export.symbolic_shape(", ".join(map(str, a["shape"])), scope=scope), np.dtype(a["dtype"])
        )
        for a in signature()["arguments"]
    ]


def cast_params(params: Any, dtype: Any) -> Any:
    """The parameter tree as jax arrays, floating-point leaves in the given precision."""

    def cast(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        return jnp.asarray(array, dtype if np.issubdtype(array.dtype, np.floating) else array.dtype)

    return jax.tree.map(cast, params)
