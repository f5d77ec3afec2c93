"""The four prior terms, built from JSON-able facts; their parameters are plain arrays by term name.

params = {
    "bond": {"k": (bond classes,) kcal/mol/Å², "r0": (bond classes,) Å},
    "angle": {"coefficients": (angle classes, knots) kcal/mol},
    "dihedral": {"cos": (dihedral classes, harmonics), "sin": the same} kcal/mol,
    "repulsion": {"sigma": (species, species) Å, symmetric},
}
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from cgrefine.energy import BondedTerm, PairTerm
from cgrefine.fm.priors import forms

NAMES = ("bond", "angle", "dihedral", "repulsion")


def prior_facts(
    angle_low: float,
    angle_high: float,
    wall_k: float,
    n_knots: int,
    n_harmonics: int,
    epsilon: float,
    exponent: int,
    cutoff_A: float,
    min_separation: int,
) -> dict[str, Any]:
    """The static facts of the priors: knot range in rad, wall_k in kcal/mol/rad² (½k form), epsilon in
    kcal/mol. Raises ValueError when the knot range is empty."""
    if not angle_low < angle_high:
        raise ValueError(f"angle range from {angle_low:.4f} to {angle_high:.4f} rad is empty")
    return {
        "angle": {"low": angle_low, "high": angle_high, "wall_k": wall_k, "knots": n_knots},
        "dihedral": {"harmonics": n_harmonics},
        "repulsion": {
            "epsilon": epsilon,
            "exponent": exponent,
            "cutoff_A": cutoff_A,
            "min_separation": min_separation,
        },
    }


def prior_terms(facts: Mapping[str, Any]) -> tuple[BondedTerm | PairTerm, ...]:
    """Bond, angle, dihedral and repulsion, in this order, from the facts of `prior_facts`."""
    return bond_term(), angle_term(facts["angle"]), dihedral_term(), repulsion_term(facts["repulsion"])


def bond_term() -> BondedTerm:
    """Harmonic Cα-Cα bonds, see `forms.harmonic`."""

    def scalar(params, r, kind):
        return forms.harmonic(r, jnp.asarray(params["k"])[kind], jnp.asarray(params["r0"])[kind])

    return BondedTerm("bond", "bond", scalar)


def angle_term(facts: Mapping[str, Any]) -> BondedTerm:
    """Spline angles with walls, see `forms.walled_spline`."""
    low, high, wall_k = float(facts["low"]), float(facts["high"]), float(facts["wall_k"])

    def scalar(params, theta, kind):
        coefficients = jnp.asarray(params["coefficients"])
        return forms.walled_spline(theta, kind, coefficients, low, high, wall_k)

    return BondedTerm("angle", "angle", scalar)


def dihedral_term() -> BondedTerm:
    """Fourier dihedrals, see `forms.fourier`. The angle walls keep their torques off straight angles."""

    def scalar(params, phi, kind):
        return forms.fourier(phi, jnp.asarray(params["cos"])[kind], jnp.asarray(params["sin"])[kind])

    return BondedTerm("dihedral", "dihedral", scalar)


def repulsion_term(facts: Mapping[str, Any]) -> PairTerm:
    """Shifted repulsion of beads min_separation or more apart, see `forms.shifted_repulsion`."""
    epsilon, exponent, cutoff_A = float(facts["epsilon"]), int(facts["exponent"]), float(facts["cutoff_A"])

    def scalar(params, r, species_i, species_j):
        sigma = jnp.asarray(params["sigma"])[species_i, species_j]
        return forms.shifted_repulsion(r, sigma, epsilon, exponent, cutoff_A)

    return PairTerm("repulsion", cutoff_A, int(facts["min_separation"]), scalar)
