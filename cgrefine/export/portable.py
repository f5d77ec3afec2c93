"""StableHLO programs that others read: text without debug locations, one lint of operations, portable bytes.

Debug locations are stripped: old consumers fail on them, and they hold file names of this machine. So are the
checks by which jax looks at run time at what `Exported.call` has checked before: they are custom calls.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import export
from jax.interpreters.mlir import make_ir_context
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo
from jaxlib.mlir.passmanager import PassManager

from cgrefine.errors import InputError

PLATFORM = "cpu"
_CUSTOM_CALL, _SHAPE_CHECK = "stablehlo.custom_call", "shape_assertion"
_OPERATION = re.compile(r"^\s*(?:%[^=]+=\s*)?\"?([a-z_]+\.[a-z_0-9.]+)\"?", re.MULTILINE)
_TARGET = re.compile(rf"{re.escape(_CUSTOM_CALL)}\"?\s*@\"?([\w.]+)")
_READABLE = re.compile(r"(builtin|func|stablehlo)\.")
_LOCATION = re.compile(r"\bloc\(")


def exported(
    function: Callable[..., Any], arguments: Sequence[jax.ShapeDtypeStruct], platform: str = PLATFORM
) -> export.Exported:
    """Trace a function for arguments whose sizes may be symbols, for one platform, in float32."""
    with jax.enable_x64(False):
        # keep_unused: an argument that the network ignores must stay in the signature.
        return export.export(jax.jit(function, keep_unused=True), platforms=[platform])(*arguments)


def text_of(program: export.Exported) -> str:
    """The module as text. Raises ValueError when it uses what consumers of StableHLO cannot read."""
    with make_ir_context():
        module = ir.Module.parse(program.mlir_module())
        for check in _shape_checks(module):
            check.erase()
        PassManager.parse("builtin.module(strip-debuginfo,cse)").run(module.operation)
        text = str(module.operation.get_asm(enable_debug_info=False))
    if found := unreadable(text):
        raise ValueError(f"it cannot leave as portable StableHLO: it uses {', '.join(found)}")
    return text


def unreadable(text: str) -> list[str]:
    """What in a module's text other consumers of StableHLO do not read, sorted.

    Operations of other dialects; composites and custom calls, which stand for functions that a consumer may
    not have; debug locations.
    """
    names = set(_OPERATION.findall(text))
    bad = {n for n in names if not _READABLE.match(n) or n == "stablehlo.composite"}
    calls = {f"{_CUSTOM_CALL} @{n}" for n in _TARGET.findall(text)}
    return sorted(bad | calls | set(_LOCATION.findall(text)))


def artifact_of(text: str, target: str) -> bytes:
    """Portable bytes of StableHLO `target`. ValueError on what is none, or what that version lacks."""
    with make_ir_context():
        try:
            return stablehlo.serialize_portable_artifact_str(text, target)
        except Exception as error:  # jaxlib raises its own class of errors, which has no public name
            raise ValueError(f"no program of StableHLO {target}: {first_line(error)}") from error


def read_artifact(artifact: bytes) -> str:
    """Text of portable bytes, as `text_of` writes it. Raises InputError on bytes that are none."""
    with make_ir_context() as context:
        try:
            module = stablehlo.deserialize_portable_artifact(context, artifact)
        except (ValueError, RuntimeError, ir.MLIRError) as error:
            raise InputError(f"the exported network is no portable StableHLO: {first_line(error)}") from error
        return str(module.operation.get_asm(enable_debug_info=False))


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _shape_checks(module: ir.Module) -> list[Any]:
    found = []

    def visit(operation: Any) -> Any:
        name = operation.name
        if name == _CUSTOM_CALL and _SHAPE_CHECK in str(operation.attributes["call_target_name"]):
            found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found
