"""Prior parameters as deviations z from their fit, in units in which one is a large change.

    θ = θ₀ exp(s z)   parameters that must stay positive: force constants of bonds and angles, σ
    θ = θ₀ + s z      places (x0, γ) and coefficients of energies

with s of `LOG_SCALES` and `SHIFT_SCALES`, or kT for what is an energy. z = 0 is the fit, and a Gaussian of
unit width in every z is the prior that the penalties mean z² of `refit` and of training stand for.
Parameters that are facts of physics (charges) are not moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Terms = Mapping[str, Mapping[str, Any]]
"""Parameters of terms: arrays by term name and parameter name."""

LOG_SCALES = {"bond k": 0.3, "angle k": 0.3, "pair sigma": 0.05}
"""Relative changes that count as one: 30 % of a force constant, 5 % of a diameter (0.2 Å)."""

SHIFT_SCALES = {"bond x0": 0.05, "angle x0": 0.05, "dihedral gamma": 0.2}
"""Å for bonds, rad for angles and phases."""

ENERGIES = ("angle coefficients", "angle cos", "angle sin", "dihedral coefficients", "dihedral cos",
            "dihedral sin", "dihedral k")  # fmt: skip
"""Shifted in units of kT."""

FIXED = ("pair charge",)


class Rule(NamedTuple):
    """How one parameter array of one term is moved."""

    term: str
    name: str
    move: Literal["log", "shift"]
    scale: float


@dataclass(frozen=True)
class Scaling:
    """The transformation between parameters and z, for some terms. Hashable; holds no parameter."""

    rules: tuple[Rule, ...]

    def zeros(self, params: Terms, dtype: Any) -> dict[str, dict[str, Array]]:
        """z of the fit: zeros of the shapes of the parameters that are moved."""
        z: dict[str, dict[str, Array]] = {}
        for rule in self.rules:
            z.setdefault(rule.term, {})[rule.name] = jnp.zeros(np.shape(params[rule.term][rule.name]), dtype)
        return z

    def params(self, fitted: Terms, z: Terms) -> dict[str, dict[str, Any]]:
        """All parameters of `fitted`, with those of the rules moved by z.

        σ of a pair of species is symmetric whatever z. Harmonics that the fit left out (both coefficients,
        or k, exactly zero) stay out.
        """
        moved = {term: dict(leaves) for term, leaves in fitted.items()}
        for rule in self.rules:
            start, by = fitted[rule.term][rule.name], z[rule.term][rule.name]
            if rule.move == "log":
                symmetric = 0.5 * (by + by.T) if rule.name == "sigma" else by
                moved[rule.term][rule.name] = start * jnp.exp(rule.scale * symmetric)
            else:
                kept = _in_the_fit(fitted[rule.term], rule.name)
                moved[rule.term][rule.name] = start + jnp.where(kept, rule.scale * by, 0.0)
        return moved


def scaling(facts: Mapping[str, Any], params: Terms, kT: float) -> Scaling:
    """The transformation of all terms of `facts` (see terms.prior_terms); kT in kcal/mol.

    Raises ValueError on a parameter that no rule knows, or one to be moved by its logarithm and not positive.
    """
    rules = []
    for entry in facts["terms"]:
        for name, value in params[entry["name"]].items():
            what = f"{entry['kind']} {name}"
            if what in LOG_SCALES:
                if not np.all(np.asarray(value) > 0):
                    raise ValueError(
                        f"prior parameter {entry['name']}.{name} has the value "
                        f"{np.asarray(value).min():g}: it must be above 0 to be refitted or trained"
                    )
                rules.append(Rule(entry["name"], name, "log", LOG_SCALES[what]))
            elif what in SHIFT_SCALES:
                rules.append(Rule(entry["name"], name, "shift", SHIFT_SCALES[what]))
            elif what in ENERGIES:
                rules.append(Rule(entry["name"], name, "shift", float(kT)))
            elif what not in FIXED:
                raise ValueError(f"prior parameter {entry['name']}.{name}: no rule for {what}")
    return Scaling(tuple(rules))


def mean_square(z: Terms) -> Float[Array, ""]:
    """Mean of z² over all moved parameters; 0 when there is none."""
    leaves = jax.tree.leaves(z)
    if not leaves:
        return jnp.zeros(())
    return jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in leaves])) / sum(leaf.size for leaf in leaves)


def _in_the_fit(leaves: Mapping[str, Any], name: str) -> Any:
    if name in ("cos", "sin"):
        return (leaves["cos"] != 0) | (leaves["sin"] != 0)
    if "gamma" in leaves and name in ("k", "gamma"):
        return leaves["k"] != 0
    return True
