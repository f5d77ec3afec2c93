"""How good the priors are: implied against counted marginals, largest force, handedness."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgrefine import energy, geometry, neighbors
from cgrefine.compiling import ONCE
from cgrefine.energy import BondedTerm, SumOfTerms
from cgrefine.fm.priors import classes, marginals
from cgrefine.fm.priors.classes import Scheme
from cgrefine.fm.priors.marginals import Marginals
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.neighbors import Neighbors
from cgrefine.system import System, Topology, pack, topology_from_species
from cgrefine.units import thermal_energy

COARSE = {"bond": 4, "angle": 5, "dihedral": 5}
"""Fine bins in a bin of the comparisons: 0.02 Å, 2.5° and 5°."""

_JACOBIAN = {"bond": np.square, "angle": np.sin, "dihedral": np.ones_like}


class Agreement(NamedTuple):
    """One row of a term against its own histogram. n: observations; kl: nats; kl_noise: (bins - 1)/2n, the
    divergence to be expected from n independent observations alone."""

    n: int
    kl: float
    kl_noise: float


def bonded_terms(facts: Mapping[str, Any]) -> dict[str, BondedTerm]:
    """The bonded prior terms by name."""
    return {t.name: t for t in prior_terms(facts) if isinstance(t, BondedTerm)}


def scheme_of(term: BondedTerm) -> Scheme:
    """The classes that the rows of a bonded prior term's parameters are."""
    return getattr(term.scalar, "classes")  # noqa: B009 (a callable by its type)


def term_energies(term: BondedTerm, params: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """Energy of every row of a term at each x (Å or rad), (rows, len(x)) kcal/mol, without damping."""
    _, codes = np.unique(classes.rows(term.kind, scheme_of(term)), return_index=True)
    table = _table(term.scalar, dict(params), jnp.asarray(x), jnp.asarray(codes.astype(np.int32)))
    return np.asarray(table, np.float64)


def implied(term: BondedTerm, params: Mapping[str, Any], kT: float, edges: np.ndarray) -> np.ndarray:
    """Probability of each bin under the term alone, J exp(-U/kT) over its sum: (rows, bins)."""
    x = 0.5 * (edges[1:] + edges[:-1])
    log_p = np.log(_JACOBIAN[term.kind](x)) - term_energies(term, params, x) / kT
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def divergence(counts: np.ndarray, p: np.ndarray) -> float:
    """Σ f ln(f/p), nats, f the normalised counts: zero only when equal; infinite where p = 0 < f."""
    f = counts / counts.sum()
    seen = f > 0
    with np.errstate(divide="ignore"):
        return float(np.sum(f[seen] * np.log(f[seen] / p[seen])))


def agreement(
    facts: Mapping[str, Any], params: Mapping[str, Any], counts: Marginals, kT: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """Divergence of the counted from the implied distribution, by term and row (rows with data)."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, term in bonded_terms(facts).items():
        factor, scheme = COARSE[term.kind], scheme_of(term)
        fine = marginals.grouped(getattr(counts, term.kind), term.kind, scheme)
        histogram = marginals.coarser(fine, factor)
        p = implied(term, params[name], kT, fine.edges)
        found[name] = {}
        for row, label in enumerate(classes.labels(term.kind, scheme)):
            n = int(histogram.counts[row].sum())
            if n == 0:
                continue
            kl = divergence(histogram.counts[row], p[row].reshape(-1, factor).sum(axis=1))
            noise = (int((histogram.counts[row] > 0).sum()) - 1) / (2 * n)
            found[name][label] = Agreement(n, kl, noise)._asdict()
    return found


def between(reference: Marginals, other: Marginals) -> dict[str, float]:
    """Divergence Σ f ln(f/g) of pooled marginals in nats, by kind: f the reference, g the other.

    Half a count is added to each bin of g that f visits, so that a bin not yet seen is not infinite.
    """
    found = {}
    for name, factor in COARSE.items():
        f = marginals.coarser(getattr(reference, name), factor).pooled
        g = marginals.coarser(getattr(other, name), factor).pooled + 0.5 * (f > 0)
        if f.sum() > 0:
            found[name] = divergence(f, g / g.sum())
    return found


def alpha_helix(n: int, handedness: int = 1) -> np.ndarray:
    """Ideal α-helix of n Cα, (n, 3) Å: rise 1.5 Å, 100° a residue, radius 2.3 Å; -1: left-handed."""
    turn = np.radians(100.0) * np.arange(n) * handedness
    return np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(n)], axis=1)


def mirror_gap_kT(
    facts: Mapping[str, Any], params: Mapping[str, Any], temperature_K: float, n: int = 20
) -> float:
    """Energy of the left-handed minus the right-handed ideal α-helix of n alanines, kT per dihedral.

    Positive when the priors know the handedness of proteins. Mirror images differ in the sign of their
    dihedrals and in nothing else that the priors see; angles of 90° are below any damping.
    """
    topology = topology_from_species([0] * n)
    helices = np.stack([alpha_helix(n, -1), alpha_helix(n, 1)])
    phi = marginals.measured(geometry.dihedrals, helices, topology.dihedrals)
    gap = 0.0
    for name, term in bonded_terms(facts).items():
        if term.kind != "dihedral":
            continue
        rows = classes.rows("dihedral", scheme_of(term))[topology.dihedral_types]
        per_row = term_energies(term, params[name], phi.ravel())
        u = per_row[np.tile(rows, 2), np.arange(phi.size)].reshape(phi.shape)
        gap += float((u[0] - u[1]).mean()) / thermal_energy(temperature_K)
    return gap


def largest_force(
    facts: Mapping[str, Any],
    params: Mapping[str, Any],
    topologies: Sequence[Topology],
    frames: Sequence[np.ndarray],
) -> float:
    """Largest norm of the prior force on any bead of any frame, kcal/mol/Å.

    frames: for each molecule (f, n, 3) Å, with f the same for all; frames of one index are packed together.
    """
    system = pack(topologies)
    pairs = neighbors.candidates(system)
    everyone = Neighbors(pairs.senders, pairs.receivers, np.ones(len(pairs.senders), bool), np.asarray(False))
    x = jnp.asarray(np.concatenate(frames, axis=1))
    cast = jax.tree.map(lambda p: jnp.asarray(p, x.dtype), dict(params))
    force = _forces(SumOfTerms(prior_terms(facts)), cast, x, system, everyone)
    return float(np.linalg.norm(np.asarray(force), axis=-1).max())


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def _forces(model: SumOfTerms, params: Any, frames: Any, system: System, edges: Neighbors):
    return jax.lax.map(lambda x: energy.forces(model, params, x, system, edges), frames)


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def _table(scalar: Any, params: Any, x: Any, codes: Any):
    return jax.vmap(lambda code: scalar(params, x, jnp.full(x.shape, code)))(codes)
