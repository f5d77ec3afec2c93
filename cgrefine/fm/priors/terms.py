"""Prior terms from JSON-able facts: one entry a term, in order; their parameters are arrays by term name.

    facts = {"terms": [{"name": "bond", "kind": "bond", "form": "harmonic", "classes": "class"}, ...]}

Each entry has `name` (the key of its parameters), `kind` (bond, angle, dihedral, pair), `form`, and what
this form needs besides. Bonded entries have `classes`, the scheme of `classes.rows`: the rows of their
parameters. Dihedrals have `damping`, (θ₁, θ₂) rad or None. Pair entries have `cutoff_A`,
`min_separation` and `max_separation` (None: no end).

  kind, form             facts                                   parameters
  bond harmonic                                                  k, x0 (rows,)
  angle harmonic                                                 k, x0 (rows,)
  angle spline           low, high, wall_ramp (rad), wall_k      coefficients (rows, knots)
  angle polynomial       low, high, wall_ramp, wall_k            coefficients (rows, degree)
  angle fourier          low, high, wall_ramp, wall_k            cos, sin (rows, harmonics)
  dihedral fourier                                               cos, sin (rows, harmonics)
  dihedral periodic_sum                                          k, gamma (rows, harmonics)
  dihedral spline                                                coefficients (rows, knots)
  pair power             epsilon, exponent, shift_order (2)      sigma (species, species)
  pair wca               epsilon                                 sigma (species, species)
  pair debye_huckel      dielectric, debye_length_A              charge (species,)

Scalars are frozen dataclasses: equal facts give equal, equally hashed terms, which share compilations.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine.energy import BondedTerm, PairTerm
from cgrefine.fm.priors import forms
from cgrefine.fm.priors.classes import Kind, Scheme, labels, rows

PriorTerm = BondedTerm | PairTerm

SHIFT_ORDER = 2
"""Derivatives of a power repulsion that vanish at its cutoff, see `forms.shifted_repulsion`."""


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
    if damping is not None:
        first, last = damping
        damping = (float(first), float(last))
    return BondedTerm(entry["name"], kind, scalar, damping)


@dataclass(frozen=True)
class Harmonic:
    """½ k (x - x0)² with parameters k, x0 (rows,), see `forms.harmonic`."""

    kind: Kind
    classes: Scheme

    def __call__(self, params, x, types):
        """Energy, kcal/mol."""
        row = _row(self, types)
        return forms.harmonic(x, jnp.asarray(params["k"])[row], jnp.asarray(params["x0"])[row])


@dataclass(frozen=True)
class Walled(ABC):
    """A form within [low, high], and walls beyond: see `forms.walled`. Range in rad (angles) or Å.

    wall_k: floor of the curvature outside, kcal/mol per rad² or Å², from wall_ramp (rad or Å) on.
    """

    kind: Kind
    classes: Scheme
    low: float
    high: float
    wall_k: float
    wall_ramp: float

    def __call__(self, params, x, types):
        """Energy, kcal/mol."""
        arrays = {name: jnp.asarray(value) for name, value in params.items()}
        n_rows = len(labels(self.kind, self.classes))

        def form(at, row):
            return self.within(arrays, at, row)

        row = _row(self, types)
        return forms.walled(form, x, row, n_rows, self.low, self.high, self.wall_k, self.wall_ramp)

    @abstractmethod
    def within(self, params, x, row) -> Array:
        """Energy of rows of the parameters at x inside the range, kcal/mol."""


@dataclass(frozen=True)
class WalledSpline(Walled):
    """Cubic B-spline, parameter coefficients (rows, knots), see `forms.spline`."""

    def within(self, params, x, row):
        """Energy, kcal/mol."""
        return forms.spline(x, row, params["coefficients"], self.low, self.high)


@dataclass(frozen=True)
class WalledPolynomial(Walled):
    """Polynomial in the cosine of an angle, parameter coefficients (rows, degree), see
    `forms.cosine_polynomial`."""

    def within(self, params, x, row):
        """Energy, kcal/mol."""
        return forms.cosine_polynomial(x, params["coefficients"][row])


@dataclass(frozen=True)
class WalledFourier(Walled):
    """Fourier series of an angle, parameters cos, sin (rows, harmonics), see `forms.fourier`."""

    def within(self, params, x, row):
        """Energy, kcal/mol."""
        return forms.fourier(x, params["cos"][row], params["sin"][row])


@dataclass(frozen=True)
class Fourier:
    """Σ a_n cos nφ + b_n sin nφ, parameters cos, sin (rows, harmonics), see `forms.fourier`."""

    kind: Kind
    classes: Scheme

    def __call__(self, params, x, types):
        """Energy, kcal/mol."""
        row = _row(self, types)
        return forms.fourier(x, jnp.asarray(params["cos"])[row], jnp.asarray(params["sin"])[row])


@dataclass(frozen=True)
class PeriodicSum:
    """Σ k_n (1 + cos(nφ - γ_n)), parameters k, gamma (rows, harmonics), see `forms.periodic_sum`."""

    kind: Kind
    classes: Scheme

    def __call__(self, params, x, types):
        """Energy, kcal/mol."""
        row = _row(self, types)
        return forms.periodic_sum(x, jnp.asarray(params["k"])[row], jnp.asarray(params["gamma"])[row])


@dataclass(frozen=True)
class PeriodicSpline:
    """Periodic cubic B-spline, parameter coefficients (rows, knots), see `forms.periodic_spline`."""

    kind: Kind
    classes: Scheme

    def __call__(self, params, x, types):
        """Energy, kcal/mol."""
        return forms.periodic_spline(x, _row(self, types), jnp.asarray(params["coefficients"]))


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

    def pair_constants(self, params, species_i, species_j, acts):
        """Of `dense.FastPair`: see `forms.shifted_repulsion_constants`."""
        sigma = jnp.asarray(params["sigma"])[species_i, species_j]
        fixed = forms.shifted_repulsion_constants(sigma, self.epsilon, self.exponent, self.cutoff_A)
        return acts * fixed[0], acts * fixed[1], fixed[2]

    def slope_over_r(self, constants, squared):
        """-U'(r)/r of r² in Å², kcal/mol/Å²."""
        steep, edge, core = constants
        held = jnp.clip(squared, core, self.cutoff_A**2)
        order = 0.5 * self.exponent + 1.0
        shift = edge * (1.0 + order - order / self.cutoff_A**2 * held)
        if self.exponent % 2 == 0:
            return steep * (1.0 / held) ** (self.exponent // 2 + 1) - shift
        return steep * jnp.sqrt(held) / held ** ((self.exponent + 3) // 2) - shift


@dataclass(frozen=True)
class Wca:
    """WCA repulsion, parameter sigma (species, species) Å, see `forms.wca`. Each pair ends at its own
    minimum: the term's cutoff must not lie below that of the largest σ."""

    epsilon: float

    def __call__(self, params, r, species_i, species_j):
        """Energy, kcal/mol."""
        return forms.wca(r, jnp.asarray(params["sigma"])[species_i, species_j], self.epsilon)

    def lennard_jones(self, params):
        """ε kcal/mol and σ (species, species) Å, for LAMMPS, which has this form as lj/cut."""
        return self.epsilon, np.asarray(params["sigma"], np.float64)


@dataclass(frozen=True)
class DebyeHueckel:
    """Screened charges, parameter charge (species,) in elementary charges, see `forms.debye_huckel`."""

    dielectric: float
    debye_length_A: float
    cutoff_A: float

    def __call__(self, params, r, species_i, species_j):
        """Energy, kcal/mol."""
        charge = jnp.asarray(params["charge"])
        product = charge[species_i] * charge[species_j]
        return forms.debye_huckel(r, product, self.dielectric, self.debye_length_A, self.cutoff_A)


def _row(scalar: Any, types: Any) -> Any:
    """Row of the parameters that each type code of a bonded scalar reads."""
    return jnp.asarray(rows(scalar.kind, scalar.classes))[types]


def _power(facts: Mapping[str, Any]) -> Power:
    """ValueError on facts of a version whose repulsion had another form."""
    if (order := facts.get("shift_order")) != SHIFT_ORDER:
        raise ValueError(
            f"prior term {facts['name']!r} has shift_order {order or 'none'}, of an older version whose "
            f"repulsion ended otherwise; this one has {SHIFT_ORDER}: fit the priors again"
        )
    return Power(float(facts["epsilon"]), int(facts["exponent"]), float(facts["cutoff_A"]))


def _walls(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Kind, classes, range and walls of a form. Raises ValueError on an empty range, and on facts of a
    version whose walls had another form."""
    low, high = float(facts["low"]), float(facts["high"])
    if not low < high:
        raise ValueError(f"prior term {facts['name']!r} has the empty range {low} to {high}")
    if "wall_ramp" not in facts:
        raise ValueError(
            f"prior term {facts['name']!r} has walls of an older version, whose curvature jumps (no "
            "wall_ramp): fit the priors again"
        )
    walls = {"low": low, "high": high, **{name: float(facts[name]) for name in ("wall_k", "wall_ramp")}}
    return {"kind": facts["kind"], "classes": facts["classes"], **walls}


FORMS = {
    ("bond", "harmonic"): lambda f: Harmonic("bond", f["classes"]),
    ("angle", "harmonic"): lambda f: Harmonic("angle", f["classes"]),
    ("angle", "spline"): lambda f: WalledSpline(**_walls(f)),
    ("angle", "polynomial"): lambda f: WalledPolynomial(**_walls(f)),
    ("angle", "fourier"): lambda f: WalledFourier(**_walls(f)),
    ("dihedral", "fourier"): lambda f: Fourier("dihedral", f["classes"]),
    ("dihedral", "periodic_sum"): lambda f: PeriodicSum("dihedral", f["classes"]),
    ("dihedral", "spline"): lambda f: PeriodicSpline("dihedral", f["classes"]),
    ("pair", "power"): _power,
    ("pair", "wca"): lambda f: Wca(float(f["epsilon"])),
    ("pair", "debye_huckel"): lambda f: DebyeHueckel(
        float(f["dielectric"]), float(f["debye_length_A"]), float(f["cutoff_A"])
    ),
}
"""(kind, form) → scalar of its facts."""
