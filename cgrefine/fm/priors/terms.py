"""Prior terms from JSON-able facts: one entry a term, in order; their parameters are arrays by term name.

    facts = {"terms": [{"name": "bond", "kind": "bond", "form": "harmonic", "classes": "class"}, ...]}

Each entry has `name` (the key of its parameters), `kind` (bond, angle, dihedral, pair), `form`, and what
this form needs besides. Bonded entries have `classes`, the scheme of `classes.rows`: the rows of their
parameters. Dihedrals have `damping`, (θ₁, θ₂) rad or None. Pair entries have `cutoff_A`,
`min_separation` and `max_separation` (None: no end).

Scalars are frozen dataclasses: equal facts give equal, equally hashed terms, which share compilations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from cgrefine.energy import BondedTerm, PairTerm
from cgrefine.fm.priors import forms
from cgrefine.fm.priors.classes import Kind, Scheme, rows

PriorTerm = BondedTerm | PairTerm


def prior_terms(facts: Mapping[str, Any]) -> tuple[PriorTerm, ...]:
    """The terms of facts["terms"], in their order. Raises ValueError on a form that is not known."""
    return tuple(term(entry) for entry in facts["terms"])


def term(entry: Mapping[str, Any]) -> PriorTerm:
    """One term from its facts."""
    kind, form = entry["kind"], entry["form"]
    if (kind, form) not in FORMS:
        known = ", ".join(f"{k} {f}" for k, f in FORMS)
        raise ValueError(f"prior term {entry['name']!r} has the form {kind} {form}; known are {known}")
    scalar = FORMS[kind, form](entry)
    if kind == "pair":
        end = entry["max_separation"]
        return PairTerm(
            entry["name"],
            float(entry["cutoff_A"]),
            int(entry["min_separation"]),
            scalar,
            None if end is None else int(end),
        )
    damping = entry.get("damping")
    return BondedTerm(entry["name"], kind, scalar, None if damping is None else tuple(map(float, damping)))


@dataclass(frozen=True)
class Harmonic:
    """½ k (x - x0)² with parameters k, x0 (rows,), see `forms.harmonic`."""

    kind: Kind
    classes: Scheme

    def __call__(self, params, x, types):
        """Energy, kcal/mol."""
        row = jnp.asarray(rows(self.kind, self.classes))[types]
        return forms.harmonic(x, jnp.asarray(params["k"])[row], jnp.asarray(params["x0"])[row])


@dataclass(frozen=True)
class WalledSpline:
    """Cubic B-spline of an angle with walls, parameter coefficients (rows, knots), see `forms.walled_spline`."""

    kind: Kind
    classes: Scheme
    low: float
    high: float
    wall_k: float

    def __call__(self, params, x, types):
        """Energy, kcal/mol."""
        row = jnp.asarray(rows(self.kind, self.classes))[types]
        coefficients = jnp.asarray(params["coefficients"])
        return forms.walled_spline(x, row, coefficients, self.low, self.high, self.wall_k)


@dataclass(frozen=True)
class Fourier:
    """Σ a_n cos nφ + b_n sin nφ, parameters cos, sin (rows, harmonics), see `forms.fourier`."""

    kind: Kind
    classes: Scheme

    def __call__(self, params, x, types):
        """Energy, kcal/mol."""
        row = jnp.asarray(rows(self.kind, self.classes))[types]
        return forms.fourier(x, jnp.asarray(params["cos"])[row], jnp.asarray(params["sin"])[row])


@dataclass(frozen=True)
class Power:
    """Shifted ε (σ/r)ⁿ, parameter sigma (species, species) Å, see `forms.shifted_repulsion`."""

    epsilon: float
    exponent: int
    cutoff_A: float

    def __call__(self, params, r, species_i, species_j):
        """Energy, kcal/mol."""
        sigma = jnp.asarray(params["sigma"])[species_i, species_j]
        return forms.shifted_repulsion(r, sigma, self.epsilon, self.exponent, self.cutoff_A)


FORMS = {
    ("bond", "harmonic"): lambda f: Harmonic("bond", f["classes"]),
    ("angle", "spline"): lambda f: WalledSpline(
        "angle", f["classes"], float(f["low"]), float(f["high"]), float(f["wall_k"])
    ),
    ("dihedral", "fourier"): lambda f: Fourier("dihedral", f["classes"]),
    ("pair", "power"): lambda f: Power(float(f["epsilon"]), int(f["exponent"]), float(f["cutoff_A"])),
}
"""(kind, form) → scalar of its facts."""
