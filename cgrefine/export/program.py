"""The network as a program: one portable StableHLO module that needs no code of ours to run.

    positions f32 (n, 3), species i32 (n,), senders i32 (e,), receivers i32 (e,), edge_mask i1 (e,)
        -> energy f32 (), forces f32 (n, 3), virial f32 (6,)

Å, kcal/mol. Shapes are those of one molecule. An edge goes from a bead to its neighbour, both
directions are present; masked edges count for nothing. The virial is -dE/dstrain = Σ_i x_i F_i, in
kcal/mol and in the order xx yy zz xy xz yz: LAMMPS adds it to the pressure as (xx + yy + zz) / 3V.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.interpreters.mlir import make_ir_context
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo
from jaxlib.mlir.passmanager import PassManager
from jaxtyping import Float

from cgrefine import geometry
from cgrefine.energy import NetworkTerm
from cgrefine.errors import InputError
from cgrefine.neighbors import frame_edges, padded

PLATFORM = "cpu"
VIRIAL = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Components of a virial, in the order of LAMMPS."""

_FORBIDDEN = re.compile(r"\b(stablehlo\.(?:composite|custom_call)|chlo\.\w+)")


class Portable(NamedTuple):
    """One program in its two forms: portable StableHLO bytes, and text without debug locations."""

    artifact: bytes
    text: str


class NetworkValues(NamedTuple):
    """energy: kcal/mol; forces (n, 3) float64, kcal/mol/Å; virial (6,) float64, kcal/mol."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray


def signature(n_beads: int, n_edges: int) -> dict[str, list[dict[str, Any]]]:
    """Names, dtypes and shapes of the program's arguments and results, as `meta.json` records them."""

    def entry(name: str, dtype: str, *shape: int) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "shape": list(shape)}

    return {
        "arguments": [
            entry("positions", "float32", n_beads, 3),
            entry("species", "int32", n_beads),
            entry("senders", "int32", n_edges),
            entry("receivers", "int32", n_edges),
            entry("edge_mask", "bool", n_edges),
        ],
        "results": [
            entry("energy", "float32"),
            entry("forces", "float32", n_beads, 3),
            entry("virial", "float32", 6),
        ],
    }


def edge_capacity(positions: np.ndarray, cutoff_A: float, headroom: float) -> int:
    """Edges to make room for: the most in any frame (f, n, 3) Å, times headroom, at most n(n-1)."""
    n_beads = positions.shape[1]
    most = max(len(frame_edges(frame, cutoff_A)[0]) for frame in positions)
    return max(1, min(int(np.ceil(headroom * most)), n_beads * (n_beads - 1)))


def build(term: NetworkTerm, params: Any, n_beads: int, n_edges: int, target: str) -> Portable:
    """Trace the network with its parameters as float32 constants, and serialise it for StableHLO `target`.

    Debug locations are stripped: old consumers fail on them, and they hold file names of this machine.
    Raises ValueError when the network uses an operation that other consumers of StableHLO cannot run.
    """

    def program(positions, species, senders, receivers, edge_mask):
        def total(x):
            vectors = geometry.displacements(x, senders, receivers, edge_mask)
            constants = cast_params(params, jnp.float32)
            return jnp.sum(term.edge_energy(constants, vectors, species, senders, receivers, edge_mask))

        energy, gradient = jax.value_and_grad(total)(positions)
        moments = -positions.T @ gradient
        virial = jnp.stack([0.5 * (moments[a, b] + moments[b, a]) for a, b in VIRIAL])
        return energy, -gradient, virial

    with jax.enable_x64(False):
        exported = _export(program, n_beads, n_edges)
    with make_ir_context():
        module = ir.Module.parse(exported.mlir_module())
        PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
        text = str(module.operation.get_asm(enable_debug_info=False))
        if found := sorted(set(_FORBIDDEN.findall(text))):
            raise ValueError(f"network {term.name!r} cannot leave as portable StableHLO: it uses {found}")
        return Portable(stablehlo.serialize_portable_artifact_str(text, target), text)


@dataclass(frozen=True)
class NetworkProgram:
    """A compiled program, called with positions (n, 3) in Å, float64, in bead order (unwrapped)."""

    cutoff_A: float
    n_edges: int
    species: np.ndarray
    compiled: Callable[..., Any]

    def __call__(self, positions: Float[np.ndarray, "beads 3"]) -> NetworkValues:
        """Energy, forces and virial. InputError when there are more edges than the program has room for.

        Edges are found in float64; positions are centred before they become float32, so that a
        molecule far from the origin loses no digits.
        """
        senders, receivers = frame_edges(positions, self.cutoff_A)
        if len(senders) > self.n_edges:
            raise InputError(
                f"{len(senders)} edges within {self.cutoff_A} Å, and the exported network has room for "
                f"{self.n_edges}: export again with a larger export.edge_headroom"
            )
        edges = padded(senders, receivers, self.n_edges)
        centred = (positions - positions.mean(axis=0)).astype(np.float32)
        energy, forces, virial = self.compiled(
            centred, self.species, edges.senders, edges.receivers, edges.edge_mask
        )
        return NetworkValues(
            float(energy), np.asarray(forces, dtype=np.float64), np.asarray(virial, dtype=np.float64)
        )


def load(artifact: bytes, species: np.ndarray, n_edges: int, cutoff_A: float) -> NetworkProgram:
    """Compile StableHLO bytes for this machine's CPU."""
    n_beads = len(species)
    with jax.enable_x64(False), jax.default_device(jax.devices(PLATFORM)[0]):
        exported = traceable(artifact, n_beads, n_edges, PLATFORM)
        try:
            compiled = jax.jit(exported.call).lower(*_shapes(n_beads, n_edges)).compile()
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"the exported network does not compile: {str(error).splitlines()[0]}"
            ) from error
    return NetworkProgram(cutoff_A, n_edges, np.asarray(species, np.int32), compiled)


def traceable(artifact: bytes, n_beads: int, n_edges: int, platform: str) -> export.Exported:
    """StableHLO bytes as a function that may be called within other traced functions, on one platform.

    jax runs them inside an `Exported` of a stand-in with the same signature: unlike the files of
    jax.export, portable StableHLO stays readable over jax versions.
    """

    def stand_in(positions, species, senders, receivers, edge_mask):
        return jnp.float32(0.0), positions, jnp.zeros(6, jnp.float32)

    with jax.enable_x64(False):
        return replace(_export(stand_in, n_beads, n_edges, platform), mlir_module_serialized=artifact)


def _shapes(n_beads: int, n_edges: int) -> list[jax.ShapeDtypeStruct]:
    return [
        jax.ShapeDtypeStruct(tuple(a["shape"]), np.dtype(a["dtype"]))
        for a in signature(n_beads, n_edges)["arguments"]
    ]


def _export(
    function: Callable[..., Any], n_beads: int, n_edges: int, platform: str = PLATFORM
) -> export.Exported:
    # keep_unused: an argument that the network ignores must stay in the signature.
    jitted = jax.jit(function, keep_unused=True)
    return export.export(jitted, platforms=[platform])(*_shapes(n_beads, n_edges))


def cast_params(params: Any, dtype: Any) -> Any:
    """The parameter tree as jax arrays, floating-point leaves in the given precision."""

    def cast(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        return jnp.asarray(array, dtype if np.issubdtype(array.dtype, np.floating) else array.dtype)

    return jax.tree.map(cast, params)
