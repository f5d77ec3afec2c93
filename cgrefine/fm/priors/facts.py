"""The terms that a configuration asks for, as the facts that `terms.prior_terms` reads; energy weights.

Weights multiply the energies after the fit, as older models had it. A term scaled by w is a term at T/w:
its marginal alone becomes p^w with the Jacobian kept, broader for w < 1, and the ensemble is no longer
that of the data.
"""

from typing import Any

import numpy as np

from cgrefine.config.priors import EnergyWeights, Priors
from cgrefine.fm.priors import forms
from cgrefine.fm.priors.terms import SHIFT_ORDER

Params = dict[str, dict[str, np.ndarray]]
"""Arrays by term name and parameter name."""


def facts_of(cfg: Priors, low: float, high: float) -> dict[str, Any]:
    """The terms as `terms.prior_terms` reads them; low, high: the angle range, rad."""
    return {"terms": [*_bonded(cfg, low, high), *_pairs(cfg)]}


def _bonded(cfg: Priors, low: float, high: float) -> list[dict[str, Any]]:
    kinds = {"bond": cfg.bond, "angle": cfg.angle, "dihedral": cfg.dihedral}
    terms: dict[str, dict[str, Any]] = {
        kind: {"name": kind, "kind": kind, "form": term.form, "classes": term.classes}
        for kind, term in kinds.items()
    }
    if cfg.angle.form != "harmonic":
        walls = {
            "wall_k": cfg.angle.walls.angle_k,
            "wall_ramp": float(np.radians(cfg.angle.walls.angle_ramp_deg)),
        }
        terms["angle"] |= {"low": low, "high": high, **walls}
    start = cfg.dihedral.damping_from_deg
    terms["dihedral"]["damping"] = None if start is None else [float(np.radians(start)), float(np.pi)]
    return list(terms.values())


def _pairs(cfg: Priors) -> list[dict[str, Any]]:
    repulsion, volume, charged = cfg.repulsion, cfg.excluded_volume, cfg.electrostatics
    if repulsion.form == "wca":
        shape: dict[str, Any] = {"cutoff_A": forms.WCA_CUTOFF * repulsion.sigma_max_A}
    else:
        shape = {"exponent": repulsion.exponent, "cutoff_A": repulsion.cutoff_A, "shift_order": SHIFT_ORDER}
    terms = [
        {
            **{"name": "repulsion", "kind": "pair", "form": repulsion.form, **shape},
            "epsilon": repulsion.epsilon_kcal_mol,
            "min_separation": repulsion.min_separation,
            "max_separation": None,
        }
    ]
    if volume is not None:
        window = volume.model_dump(include={"exponent", "cutoff_A", "min_separation", "max_separation"})
        common = {"name": "excluded_volume", "kind": "pair", "form": "power", "shift_order": SHIFT_ORDER}
        terms.append({**common, "epsilon": volume.epsilon_kcal_mol, **window})
    if charged is not None:
        range_A = charged.model_dump(include={"dielectric", "debye_length_A", "cutoff_A", "min_separation"})
        common = {"name": "electrostatics", "kind": "pair", "form": "debye_huckel"}
        terms.append({**common, **range_A, "max_separation": None})
    return terms


_SCALED_PARAMS = ("k", "coefficients", "cos", "sin")
_SCALED_FACTS = ("wall_k", "epsilon")


def weighted(facts: dict[str, Any], params: Params, weights: EnergyWeights) -> tuple[dict[str, Any], Params]:
    """Facts and parameters of the terms times their weights: what the energies are linear in is multiplied.

    A term scaled by w is a term at T/w. Terms that have no weight in `EnergyWeights` stay as they are.
    """
    factor = {entry["name"]: getattr(weights, entry["name"], 1.0) for entry in facts["terms"]}
    terms = [
        {key: value * factor[e["name"]] if key in _SCALED_FACTS else value for key, value in e.items()}
        for e in facts["terms"]
    ]
    scaled = {
        name: {key: leaf * factor[name] if key in _SCALED_PARAMS else leaf for key, leaf in group.items()}
        for name, group in params.items()
    }
    return {**facts, "terms": terms}, scaled
