"""A pooled force map as a value and as a file: JSON with a format number and a checksum of its content."""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from cgrefine import residues
from cgrefine.errors import InputError

MAP_FORMAT = 1
KIND = "cgrefine pooled force map"

KEY = re.compile(r"[+-]\d{1,2} (first|inner|last|only|Gly|Pro|cap|other) \S{1,8}\.\d")
"""A key of `force_pooled`: offset, class, heavy atom and number of its hydrogens."""


@dataclass(frozen=True)
class PooledMap:
    """coefficients: residue type → key → coefficient of a free group. k: reach; ridge: as fitted with."""

    k: int
    ridge: float
    coefficients: dict[str, dict[str, float]]

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return _digest(_content(self))

    def save(self, path: Path) -> None:
        """Write the map, under a temporary name and renamed. Numbers are read back exactly."""
        content = {**_content(self), "sha256": self.digest}
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n", "utf-8")
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> "PooledMap":
        """Read a map. Raises InputError when it is missing, damaged, of another kind or format."""
        try:
            content = json.loads(path.read_bytes().decode("utf-8"))
        except OSError as error:
            raise InputError(f"{path}: the pooled force map cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: the pooled force map is not JSON ({error})") from error
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise InputError(f"{path}: is not a pooled force map (kind must be {KIND!r})")
        if content.get("format") != MAP_FORMAT:
            raise InputError(
                f"{path}: pooled force map has format {content.get('format')!r}, {MAP_FORMAT} can be read"
            )
        if content.pop("sha256", None) != _digest(content):
            raise InputError(
                f"{path}: pooled force map does not match its checksum: it was damaged or edited"
            )
        fault = _fault(content)
        if fault:
            raise InputError(f"{path}: pooled force map: {fault}")
        return PooledMap(content["window"], float(content["ridge"]), content["coefficients"])


def _content(pooled: PooledMap) -> dict[str, Any]:
    return {
        "format": MAP_FORMAT,
        "kind": KIND,
        "window": pooled.k,
        "ridge": pooled.ridge,
        "coefficients": pooled.coefficients,
    }


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fault(content: dict[str, Any]) -> str | None:
    """What is wrong with the values, None if nothing."""
    k, ridge, table = (content.get(name) for name in ("window", "ridge", "coefficients"))
    if type(k) is not int or not 0 <= k <= 20:
        return f"window {k!r} must be 0 to 20"
    if not _number(ridge) or ridge < 0:
        return f"ridge {ridge!r} must be 0 or above"
    if not isinstance(table, dict):
        return "coefficients must be a table of residue types"
    for name, row in table.items():
        if name not in residues.RESIDUES or not isinstance(row, dict):
            return f"coefficients of {name!r}: must be a table of one of the 20 residue types"
        for key, value in row.items():
            if not KEY.fullmatch(key) or abs(int(key.split()[0])) > k:
                return f"coefficients of {name}: key {key!r} is not `offset class atom` within ±{k} residues"
            if not _number(value):
                return f"coefficients of {name}: {key!r} is {value!r}, must be a finite number"
    return None


def _number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
