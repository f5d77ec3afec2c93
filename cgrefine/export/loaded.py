"""A bundle as a model again: native prior terms, and the network by its exported program.

The program is of one number of beads and has room for a fixed number of edges. So the model is of molecules
of that many beads, whatever their residues; replicas are evaluated one after another, since a program cannot
be batched. Where a molecule has more edges than there is room for, its energy and forces are NaN.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import Exported

from cgrefine import neighbors
from cgrefine.checkpoint import load_params
from cgrefine.energy import ProgramTerm, SumOfTerms, Term
from cgrefine.errors import InputError
from cgrefine.export import program
from cgrefine.export.bundle import META, PRIORS, STABLEHLO, Bundle, load_bundle
from cgrefine.system import pack, topology_from_species

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

    @property
    def n_beads(self) -> int | None:
        """Beads of the molecules that it is of; None without a network, when every molecule will do."""
        return None if self.bundle.network is None else self.bundle.topology.n_beads


def load_model(folder: Path, prior_terms: PriorTerms) -> Loaded:
    """Read, check and self-test a bundle (`load_bundle`), and make its energy.

    prior_terms: what makes terms of the facts in meta.json. Raises InputError as load_bundle does, and on a
    bundle without these facts.
    """
    bundle = load_bundle(folder)
    facts, described = bundle.meta.get("priors"), bundle.meta["network"]
    if facts is None:
        raise InputError(
            f"{folder / META}: the facts of the prior terms are not in this bundle, so that only LAMMPS can "
            "run it; export it again"
        )
    terms, params = tuple(prior_terms(facts)), load_params(folder / PRIORS)
    if described is not None:
        artifact = (folder / STABLEHLO).read_bytes()
        identity = bundle.meta["sha256"][STABLEHLO]
        terms += (_program_term(described, bundle.topology.n_beads, artifact, identity),)
        params[described["name"]] = {}
    return Loaded(bundle, SumOfTerms(terms), params)


def _program_term(described: Mapping[str, Any], n_beads: int, artifact: bytes, identity: str) -> ProgramTerm:
    """The exported network on the device that jax computes on."""
    platform = jax.devices()[0].platform
    n_edges, cutoff_A = described["n_edges"], described["cutoff_A"]
    called = program.traceable(artifact, n_beads, n_edges, "cuda" if platform == "gpu" else platform)
    pairs = neighbors.candidates(pack([topology_from_species(np.zeros(n_beads, np.int32))]))
    evaluate = _evaluation(called, pairs, cutoff_A, n_edges)
    return ProgramTerm(described["name"], cutoff_A, n_beads, f"{identity} {platform}", evaluate)


def _evaluation(
    called: Exported, pairs: neighbors.Candidates, cutoff_A: float, n_edges: int
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    def evaluate(positions, species):
        # centred before they become float32, as in `NetworkProgram`
        x = (positions - positions.mean(axis=0)).astype(jnp.float32)
        edges = neighbors.update(x, pairs, cutoff_A, n_edges)
        senders, receivers = (jnp.asarray(index, jnp.int32) for index in (edges.senders, edges.receivers))
        energy, forces, _ = called.call(x, species.astype(jnp.int32), senders, receivers, edges.edge_mask)
        wrong = edges.overflow | ~jnp.all(jnp.isfinite(x))
        energy, forces = (jnp.where(wrong, jnp.nan, value) for value in (energy, forces))
        return energy.astype(positions.dtype), forces.astype(positions.dtype)

    return evaluate
