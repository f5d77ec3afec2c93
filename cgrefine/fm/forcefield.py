"""A force field as facts and parameters: what every stage after `priors` loads.

On disk: forcefield.json (facts: format, species order, prior and network descriptions, temperature)
and params.npz (arrays by term name). No code is loaded, so a stranger's model is safe to open.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cgrefine import checkpoint
from cgrefine.artifacts import read_json, write_json
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm.models import layers
from cgrefine.fm.models.registry import network_term
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.residues import RESIDUES

FORMAT = 2


@dataclass(frozen=True)
class ForceField:
    """facts: JSON-able description; params: nested dict of arrays, one entry a term."""

    facts: dict[str, Any]
    params: dict[str, Any]

    @cached_property
    def model(self) -> SumOfTerms:
        """The energy: prior terms, then the network if there is one."""
        network = self.facts["network"]
        terms = prior_terms(self.facts["priors"])
        return SumOfTerms(terms if network is None else (*terms, network_term(network)))

    @property
    def priors(self) -> SumOfTerms:
        """The energy without the network."""
        return self.model.only(tuple(t.name for t in self.model.terms if t.name != "network"))

    def cast(self, dtype: Any) -> dict[str, Any]:
        """Parameters as jax arrays of the given floating dtype."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self.params)


def prior_only(facts: Mapping[str, Any], params: Mapping[str, Any], temperature_K: float) -> ForceField:
    """A force field of priors alone; `facts` describes the prior terms, fitted at temperature_K."""
    return ForceField(
        facts={
            "format": FORMAT,
            "species": list(RESIDUES),
            "priors": dict(facts),
            "network": None,
            "temperature_K": float(temperature_K),
        },
        params=dict(params),
    )


def with_network(prior: ForceField, network: Mapping[str, Any], params: Any) -> ForceField:
    """The prior plus a network; `network` is the facts that registry.network_term takes."""
    return ForceField({**prior.facts, "network": dict(network)}, {**prior.params, "network": params})


def without_priors(prior: ForceField) -> ForceField:
    """The same facts without any prior term: what a network alone is added to."""
    return ForceField({**prior.facts, "priors": {"terms": []}}, {})


def at_temperature(force_field: ForceField, temperature_K: float) -> ForceField:
    """The force field at one temperature: a network that is conditioned becomes one that is not.

    Exact, see `layers.at_excess`; a force field without conditioning comes back as it is. The priors are
    those of the temperature that they were fitted at.
    """
    if conditioned_range(force_field) is None:
        return force_field
    kelvin, network = float(temperature_K), force_field.facts["network"]
    params = layers.at_excess(force_field.params["network"], kelvin / float(network["reference_K"]) - 1.0)
    fixed = {**network, "entropy": False, "reference_K": None}
    facts = {**force_field.facts, "network": fixed, "temperature_K": kelvin}
    return ForceField(facts, {**force_field.params, "network": params})


def conditioned_range(force_field: ForceField) -> tuple[float, float] | None:
    """Lowest and highest temperature (K) that a conditioned network was trained at; None without one."""
    network = force_field.facts["network"]
    if network is None or network.get("reference_K") is None:
        return None
    low, high = network["temperature_range_K"]
    return float(low), float(high)


def save(folder: Path, force_field: ForceField) -> None:
    """Write forcefield.json and params.npz into a new or existing folder."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save_params(folder / "params.npz", force_field.params)
    write_json(folder / "forcefield.json", force_field.facts)


def load(folder: Path) -> ForceField:
    """Read what `save` wrote. InputError on a missing, damaged or foreign folder."""
    facts = read_json(folder / "forcefield.json")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        raise InputError(f"{folder}/forcefield.json: force-field format {found}, this version reads {FORMAT}")
    if facts.get("species") != list(RESIDUES):
        raise InputError(f"{folder}/forcefield.json: its species table is not this version's residue table")
    force_field = ForceField(facts, checkpoint.load_params(folder / "params.npz"))
    try:
        terms = force_field.model.terms
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{folder}/forcefield.json: this version cannot make the energy of its facts ({error!r}): "
            "another version wrote them; make the force field once more with this one"
        ) from error
    missing = [t.name for t in terms if t.name not in force_field.params]
    if missing:
        raise InputError(f"{folder}/params.npz: no parameters for {missing}")
    return force_field
