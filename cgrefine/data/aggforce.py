"""Exchange of force maps with aggforce (github.com/noegroup/aggforce), without depending on it.

Its LinearMap holds `standard_matrix`, (beads, atoms); its trajectory maps hold one as `force_map`, beside the
configuration map `coord_map`. Objects are known by these attributes. A map that depends on the configuration
(CLAMap) is not one matrix and is refused.
"""

import importlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cgrefine.data.force_map import identity_residual
from cgrefine.errors import InputError

INSTALL = "pip install git+https://github.com/noegroup/aggforce"

IDENTITY_LIMIT = 1e-6
"""Largest violation of W Mᵀ = I in a map that is taken over: aggforce's solver stops at 1e-7."""


def import_map(found: Any, n_atoms: int, ca: Int[np.ndarray, " beads"]) -> Float[np.ndarray, "beads atoms"]:
    """W of an aggforce map object, a copy in float64.

    Raises InputError when it is no linear map, has another shape, maps other configurations than slices at
    these Cα, or breaks W Mᵀ = I, without which mapped forces are wrong.
    """
    kind = type(found).__name__
    linear = getattr(found, "force_map", found)
    weights = _matrix(linear, f"aggforce map of type {kind}", (len(ca), n_atoms))
    coordinates = getattr(found, "coord_map", None)
    if coordinates is not None:
        given = _matrix(coordinates, f"coord_map of {kind}", (len(ca), n_atoms))
        if not np.array_equal(given, slice_map(n_atoms, ca)):
            raise InputError(
                f"coord_map of {kind} does not place the {len(ca)} beads at the Cα atoms of this molecule"
            )
    residual = identity_residual(weights, ca)
    if residual > IDENTITY_LIMIT:
        raise InputError(
            f"aggforce map of type {kind}: |W Mᵀ − I| is {residual:.2g}, at most {IDENTITY_LIMIT:g} allowed: it "
            "was made for other beads or another order of atoms"
        )
    return weights


def export_map(weights: Float[np.ndarray, "beads atoms"]) -> Any:
    """An aggforce.LinearMap of W; calling it maps forces (frames, atoms, 3) to beads.

    Raises InputError when aggforce is not installed.
    """
    try:
        package = importlib.import_module("aggforce")
    except ImportError as error:
        raise InputError(
            f"aggforce is not installed, which exporting a map to it needs: {INSTALL}"
        ) from error
    return package.LinearMap(np.array(weights, dtype=np.float64))


def slice_map(n_atoms: int, ca: Int[np.ndarray, " beads"]) -> Float[np.ndarray, "beads atoms"]:
    """The configuration map M of beads at Cα atoms."""
    matrix = np.zeros((len(ca), n_atoms))
    matrix[np.arange(len(ca)), ca] = 1.0
    return matrix


def _matrix(linear: Any, what: str, shape: tuple[int, int]) -> np.ndarray:
    matrix = getattr(linear, "standard_matrix", None)
    if matrix is None:
        raise InputError(
            f"{what} has no standard_matrix: only linear maps that do not depend on the configuration can be used"
        )
    values = np.array(matrix, dtype=np.float64)
    if values.shape != shape or not np.isfinite(values).all():
        raise InputError(
            f"{what} has a matrix of shape {values.shape}, must be finite and (beads, atoms) = {shape}"
        )
    return values
