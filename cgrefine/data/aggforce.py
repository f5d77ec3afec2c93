"""Exchange of force maps with aggforce (github.com/noegroup/aggforce), without depending on it.

Its LinearMap holds `standard_matrix`, (beads, atoms); its trajectory maps hold one as `force_map`, beside the
configuration map `coord_map`. Objects are known by these attributes. A map that depends on the configuration
(CLAMap) is not one matrix and is refused.
"""

import importlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cgrefine.data.force_map import constraint_residual, identity_residual
from cgrefine.errors import InputError

INSTALL = "pip install git+https://github.com/noegroup/aggforce"

RESIDUAL_LIMIT = 1e-6
"""Largest violation of the conditions in a map that is taken over: aggforce's solver stops at 1e-7."""


def import_map(
    found: Any, groups: Int[np.ndarray, " atoms"], ca: Int[np.ndarray, " beads"]
) -> Float[np.ndarray, "beads atoms"]:
    """W of an aggforce map object, a copy in float64. groups: rigid group of each atom.

    Raises InputError when it is no linear map, has another shape, maps other configurations than slices at
    these Cα, or breaks condition (a) or (b) of `force_map`, without which mapped forces are wrong.
    """
    kind = f"aggforce map of type {type(found).__name__}"
    shape = (len(ca), len(groups))
    weights = _matrix(getattr(found, "force_map", found), kind, shape)
    coordinates = getattr(found, "coord_map", None)
    if coordinates is not None:
        given = _matrix(coordinates, f"coord_map of {kind}", shape)
        if not np.array_equal(given, slice_map(len(groups), ca)):
            raise InputError(f"coord_map of {kind} does not place the {len(ca)} beads at the Cα atoms given")
    for condition, residual in (
        ("|W Mᵀ − I|", identity_residual(weights, ca)),
        ("difference of coefficients in a rigid group", constraint_residual(weights, groups)),
    ):
        if residual > RESIDUAL_LIMIT:
            raise InputError(
                f"{kind}: {condition} is {residual:.2g}, at most {RESIDUAL_LIMIT:g} allowed: it was made for "
                "other beads, constraints or order of atoms"
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
            f"{what} has no standard_matrix: only linear maps, which do not depend on the configuration, "
            "can be taken over"
        )
    values = np.array(matrix, dtype=np.float64)
    if values.shape != shape or not np.isfinite(values).all():
        raise InputError(
            f"{what} has a matrix of shape {values.shape}, must be finite and (beads, atoms) = {shape}"
        )
    return values
