"""The network as a program: one portable StableHLO module that needs no code of ours to run.

    positions f32 (n, 3), remainders f32 (n, 3), species i32 (n,),
    senders i32 (e,), receivers i32 (e,), edge_mask i1 (e,)
        -> energies f32 (n,), forces f32 (n, 3), virial f32 (6,)

Å, kcal/mol. Remainders are what float32 leaves of positions in float64: a bead is at the sum of both, so that
differences keep digits that they would lose in a large molecule; zeros will do. The numbers of beads n and
edges e are symbols: whoever runs the module puts sizes in, and compiles it for them (`jax.jit` does). An edge
goes from a bead to its neighbour, both directions are present; masked edges count for nothing. Beads of
several molecules may stand behind one another: edges are what joins them. The virial is -dE/dstrain =
Σ_i x_i F_i, in kcal/mol and in the order xx yy zz xy xz yz: LAMMPS adds it to the pressure as
(xx + yy + zz) / 3V.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cgrefine import geometry
from cgrefine.energy import NetworkTerm
from cgrefine.export.portable import artifact_of, exported, text_of

VIRIAL = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Components of a virial, in the order of LAMMPS."""

_CONSTRAINTS = ("n >= 1", "e >= 1")


class Portable(NamedTuple):
    """One program in its two forms: portable StableHLO bytes, and text without debug locations."""

    artifact: bytes
    text: str


def signature() -> dict[str, list[dict[str, Any]]]:
    """Names, dtypes and shapes of the program's arguments and results, as `meta.json` records them.

    A size that is a letter is a symbol, the same number wherever it stands.
    """

    def entry(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "shape": list(shape)}

    return {
        "arguments": [
            entry("positions", "float32", "n", 3),
            entry("remainders", "float32", "n", 3),
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


def build(term: NetworkTerm, params: Any, target: str) -> Portable:
    """Trace the network with its parameters as float32 constants, and serialise it for StableHLO `target`.

    Raises ValueError when the network uses an operation that other consumers of StableHLO cannot read.
    """

    def program(positions, remainders, species, senders, receivers, edge_mask):
        def total(x):
            vectors = geometry.displacements(x, senders, receivers, edge_mask)
            vectors += remainders[receivers] - remainders[senders]
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


def shapes_of(n_beads: int, n_edges: int) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the program's arguments."""
    sizes = {"n": n_beads, "e": n_edges}
    return [
        jax.ShapeDtypeStruct(tuple(sizes.get(s, s) for s in a["shape"]), np.dtype(a["dtype"]))
        for a in signature()["arguments"]
    ]


def traceable(artifact: bytes, platform: str) -> export.Exported:
    """StableHLO bytes as a function that may be called within other traced functions, on one platform.

    jax runs them inside an `Exported` of a stand-in with the same signature: unlike the files of
    jax.export, portable StableHLO stays readable over jax versions.
    """

    def stand_in(positions, remainders, species, senders, receivers, edge_mask):
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
