"""A bundle as a model again: native prior terms, and the network by its exported program.

The model is of proteins of any size, and of many replicas or proteins in one packed graph, which the program
evaluates at once: its symbols are then the beads and edges of the whole graph. Edges are listed by who uses
the model, as for any network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.export import Exported

from cgrefine.checkpoint import load_params
from cgrefine.energy import ProgramTerm, SumOfTerms, Term
from cgrefine.errors import InputError
from cgrefine.export import program
from cgrefine.export.bundle import META, PRIORS, STABLEHLO, Bundle, load_bundle
from cgrefine.export.sealed import check_seal

PriorTerms = Callable[[Mapping[str, Any]], tuple[Term, ...]]


@dataclass(frozen=True)
class Loaded:
    """A bundle that was checked, and its energy: params is a dict by term name."""

    bundle: Bundle
    model: SumOfTerms
    params: dict[str, Any]

    @property
    def temperature_K(self) -> float:
        """Temperature of the model."""
        return float(self.bundle.meta["temperature_K"])


def load_model(path: Path, prior_terms: PriorTerms, digest: str | None = None) -> Loaded:
    """Read, check and self-test a bundle (`load_bundle`), and make its energy.

    prior_terms: what makes terms of the facts in meta.json. Raises InputError as load_bundle does, and on a
    bundle without these facts, or with facts of which this version makes no terms.
    """
    bundle = load_bundle(path, digest)
    facts, described = bundle.meta["priors"], bundle.meta["network"]
    if facts is None:
        raise InputError(
            f"{path}: the facts of the prior terms are not in its {META}, so that only LAMMPS can run it; "
            "export it again"
        )
    try:
        terms = tuple(prior_terms(facts))
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: this version makes no terms of the prior facts ({error!r})") from error
    params = load_params(bundle.folder / PRIORS)
    if described is not None:
        artifact = (bundle.folder / STABLEHLO).read_bytes()
        identity = check_seal(bundle.folder)[STABLEHLO]
        terms += (_program_term(described, artifact, identity),)
        params[described["name"]] = {}
    return Loaded(bundle, SumOfTerms(terms), params)


def _program_term(described: Mapping[str, Any], artifact: bytes, identity: str) -> ProgramTerm:
    """The exported network on the device that jax computes on."""
    platform = jax.devices()[0].platform
    called = program.traceable(artifact, "cuda" if platform == "gpu" else platform)
    return ProgramTerm(
        described["name"], described["cutoff_A"], f"{identity} {platform}", _evaluation(called)
    )


def _evaluation(called: Exported) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def evaluate(positions, species, senders, receivers, edge_mask):
        integers = (jnp.asarray(index, jnp.int32) for index in (species, senders, receivers))
        x = jnp.asarray(positions, jnp.float32)
        rest = jnp.asarray(positions - x, jnp.float32)
        energies, forces, _ = called.call(x, rest, *integers, edge_mask)
        return energies.astype(positions.dtype), forces.astype(positions.dtype)

    return evaluate
