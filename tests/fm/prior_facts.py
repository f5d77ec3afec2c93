"""Facts and parameters of prior terms for tests: every form, values that differ in every row."""

from typing import Any

import numpy as np

from cgrefine.fm.priors.classes import labels
from cgrefine.residues import N_SPECIES, species_from_sequence

WALLS = {"low": 1.4, "high": 2.3, "wall_k": 100.0, "wall_ramp": 0.035}
DAMPING = (float(np.deg2rad(150.0)), float(np.pi))
CUTOFF_A = 9.0

BOND = {"name": "bond", "kind": "bond", "form": "harmonic", "classes": "class"}
ANGLE = {"name": "angle", "kind": "angle", "form": "spline", "classes": "class", **WALLS}
DIHEDRAL = {"name": "dihedral", "kind": "dihedral", "form": "fourier", "classes": "class", "damping": DAMPING}
REPULSION = {
    "name": "repulsion", "kind": "pair", "form": "power", "epsilon": 1.0, "exponent": 12,
    "shift_order": 2, "cutoff_A": CUTOFF_A, "min_separation": 3, "max_separation": None,
}  # fmt: skip
EXCLUDED_VOLUME = {**REPULSION, "name": "excluded_volume", "min_separation": 2, "max_separation": 5}
ELECTROSTATICS = {
    "name": "electrostatics", "kind": "pair", "form": "debye_huckel", "dielectric": 78.5,
    "debye_length_A": 8.0, "cutoff_A": 24.0, "min_separation": 3, "max_separation": None,
}  # fmt: skip

DEFAULT = {"terms": [BOND, ANGLE, DIHEDRAL, REPULSION]}
"""The terms of the default prior."""
FULL = {"terms": [*DEFAULT["terms"], EXCLUDED_VOLUME, ELECTROSTATICS]}
"""With the optional terms."""

ALL_FORMS: dict[str, dict[str, Any]] = {
    "bond harmonic": BOND,
    "angle harmonic": {**ANGLE, "form": "harmonic", "classes": "type"},
    "angle spline": ANGLE,
    "angle polynomial": {**ANGLE, "form": "polynomial"},
    "angle fourier": {**ANGLE, "form": "fourier"},
    "dihedral fourier": DIHEDRAL,
    "dihedral periodic_sum": {**DIHEDRAL, "form": "periodic_sum", "classes": "type", "damping": None},
    "dihedral spline": {**DIHEDRAL, "form": "spline", "damping": None},
    "pair power": REPULSION,
    "pair power excluded volume": EXCLUDED_VOLUME,
    "pair wca": {**REPULSION, "form": "wca", "cutoff_A": 2.0 ** (1.0 / 6.0) * 5.5},
    "pair debye_huckel": ELECTROSTATICS,
}
"""One entry for each form, by "kind form"."""


def charges() -> np.ndarray:
    """Elementary charge of each species: Asp, Glu -1; Lys, Arg +1; a half on His."""
    charge = np.zeros(N_SPECIES)
    charge[species_from_sequence("DEKRH")] = [-1.0, -1.0, 1.0, 1.0, 0.5]
    return charge


def params(entry: dict[str, Any], seed: int = 1) -> dict[str, np.ndarray]:
    """Plausible random parameters of one entry, different in every row."""
    rng = np.random.default_rng(seed)
    kind, form = entry["kind"], entry["form"]
    if kind == "pair":
        sigma = rng.uniform(4.5, 5.5, (N_SPECIES, N_SPECIES))
        return {"charge": charges()} if form == "debye_huckel" else {"sigma": 0.5 * (sigma + sigma.T)}
    rows = len(labels(kind, entry["classes"]))
    if form == "harmonic":
        low, high = {"bond": (3.7, 3.9), "angle": (1.5, 2.3)}[kind]
        return {"k": rng.uniform(100, 200, rows), "x0": rng.uniform(low, high, rows)}
    if form == "periodic_sum":
        return {"k": rng.normal(size=(rows, 3)), "gamma": rng.uniform(-np.pi, np.pi, (rows, 3))}
    if form == "fourier":
        return {"cos": rng.normal(size=(rows, 3)), "sin": rng.normal(size=(rows, 3))}
    return {"coefficients": rng.normal(size=(rows, {"spline": 12, "polynomial": 5}[form]))}


def all_params(facts: dict[str, Any], seed: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """Parameters of every term, by name."""
    return {entry["name"]: params(entry, seed + i) for i, entry in enumerate(facts["terms"])}
