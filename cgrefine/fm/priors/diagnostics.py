"""How good the priors are: implied against counted marginals, largest force, handedness; and figures."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from cgrefine import energy, geometry, neighbors, residues
from cgrefine.energy import BondedTerm, SumOfTerms
from cgrefine.fm.priors import marginals
from cgrefine.fm.priors.marginals import CLASSES, Histogram, Marginals
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.neighbors import Neighbors
from cgrefine.system import System, Topology, pack, topology_from_species
from cgrefine.units import thermal_energy

COARSE = {"bond": 4, "angle": 5, "dihedral": 5}
"""Fine bins in a bin of the comparisons: 0.02 Å, 2.5° and 5°."""

_JACOBIAN = {"bond": np.square, "angle": np.sin, "dihedral": np.ones_like}
_AXIS = {
    "bond": ("Cα-Cα distance, Å", 1.0, (3.5, 4.1)),
    "angle": ("angle, degrees", 180.0 / np.pi, (60.0, 180.0)),
    "dihedral": ("dihedral, degrees", 180.0 / np.pi, (-180.0, 180.0)),
}


class Agreement(NamedTuple):
    """One class against its own histogram. n: observations; kl: nats; kl_noise: (bins - 1)/2n, the
    divergence to be expected from n independent observations alone."""

    n: int
    kl: float
    kl_noise: float


def bonded_terms(facts: Mapping[str, Any]) -> dict[str, BondedTerm]:
    """The bonded prior terms by name."""
    return {t.name: t for t in prior_terms(facts) if isinstance(t, BondedTerm)}


def term_energies(term: BondedTerm, params: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """Energy of every class of a term at each x (Å or rad), (classes, len(x)) kcal/mol."""
    kinds = np.arange(len(CLASSES[term.kind]), dtype=np.int32)
    return np.asarray(_table(term.scalar, dict(params), jnp.asarray(x), jnp.asarray(kinds)), np.float64)


def implied(term: BondedTerm, params: Mapping[str, Any], kT: float, edges: np.ndarray) -> np.ndarray:
    """Probability of each bin under the term alone, J exp(-U/kT) over its sum: (classes, bins)."""
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
    """Divergence of the counted from the implied distribution, by term and class (classes with data)."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, term in bonded_terms(facts).items():
        histogram = marginals.coarser(getattr(counts, name), COARSE[name])
        fine = getattr(counts, name).edges
        fine_p = implied(term, params[name], kT, fine)
        found[name] = {}
        for kind, label in enumerate(CLASSES[name]):
            n = int(histogram.counts[kind].sum())
            if n == 0:
                continue
            kl = divergence(histogram.counts[kind], fine_p[kind].reshape(-1, COARSE[name]).sum(axis=1))
            noise = (int((histogram.counts[kind] > 0).sum()) - 1) / (2 * n)
            found[name][label] = Agreement(n, kl, noise)._asdict()
    return found


def between(reference: Marginals, other: Marginals) -> dict[str, float]:
    """Divergence Σ f ln(f/g) of pooled marginals in nats, by term: f the reference, g the other.

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
    dihedrals and in nothing else that the priors see.
    """
    topology = topology_from_species([0] * n)
    helices = np.stack([alpha_helix(n, -1), alpha_helix(n, 1)])
    phi = marginals.measured(geometry.dihedrals, helices, topology.dihedrals)
    term = bonded_terms(facts)["dihedral"]
    per_class = term_energies(term, params["dihedral"], phi.ravel())
    u = per_class[np.tile(topology.dihedral_types, 2), np.arange(phi.size)].reshape(phi.shape)
    return float((u[0] - u[1]).mean() / thermal_energy(temperature_K))


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


@partial(jax.jit, static_argnums=0)
def _forces(model: SumOfTerms, params: Any, frames: Any, system: System, edges: Neighbors):
    return jax.lax.map(lambda x: energy.forces(model, params, x, system, edges), frames)


@partial(jax.jit, static_argnums=0)
def _table(scalar: Any, params: Any, x: Any, kinds: Any):
    return jax.vmap(lambda kind: scalar(params, x, jnp.full(x.shape, kind)))(kinds)


def figure_of(
    name: str,
    facts: Mapping[str, Any],
    params: Mapping[str, Any],
    reference: Marginals,
    simulated: Marginals | None,
    kT: float,
) -> Figure:
    """One panel a class of a bonded term: counted, implied and simulated density, and the energy in kT."""
    term = bonded_terms(facts)[name]
    counted = getattr(reference, name)
    shown = [kind for kind in range(len(CLASSES[name])) if counted.counts[kind].sum() > 0]
    fig = Figure(figsize=(3.6 * max(len(shown), 1), 3.2), layout="constrained")
    label, unit, limits = _AXIS[name]
    x, edges = counted.centres, marginals.coarser(counted, COARSE[name]).edges * unit
    p = implied(term, params[name], kT, counted.edges) / np.diff(counted.edges) / unit
    u = term_energies(term, params[name], x) / kT
    for kind, axes in zip(shown, fig.subplots(1, max(len(shown), 1), squeeze=False)[0], strict=False):
        axes.stairs(_density(counted, kind, name, unit), edges, fill=True, alpha=0.35, label="reference")
        if simulated is not None and getattr(simulated, name).counts[kind].sum() > 0:
            density = _density(getattr(simulated, name), kind, name, unit)
            axes.stairs(density, edges, color="C2", label="priors alone, MD")
        axes.plot(x * unit, p[kind], "C0", label="implied by the term")
        n = counted.counts[kind].sum()
        axes.set(xlabel=label, xlim=limits, yticks=[], title=f"{CLASSES[name][kind]}, n = {n:.0f}")
        right = axes.twinx()
        right.plot(x * unit, u[kind] - u[kind].min(), "C3:", label="energy, kT")
        right.set_ylim(0.0, 10.0)
        right.tick_params(labelcolor="C3")
        if kind == shown[0]:
            lines = [axes.get_legend_handles_labels(), right.get_legend_handles_labels()]
            axes.legend(lines[0][0] + lines[1][0], lines[0][1] + lines[1][1], frameon=False, fontsize=7)
    return fig


def sigma_figure(sigma: np.ndarray) -> Figure:
    """The size of each pair of species, Å."""
    fig = Figure(figsize=(4.4, 3.8), layout="constrained")
    axes = fig.subplots()
    image = axes.imshow(sigma, cmap="viridis")
    ticks = range(residues.N_SPECIES)
    axes.set_xticks(ticks, list(residues.ONE_LETTER), fontsize=7)
    axes.set_yticks(ticks, list(residues.ONE_LETTER), fontsize=7)
    fig.colorbar(image, ax=axes, label="σ, Å")
    return fig


def _density(histogram: Histogram, kind: int, name: str, unit: float) -> np.ndarray:
    coarse = marginals.coarser(histogram, COARSE[name])
    return coarse.counts[kind] / coarse.counts[kind].sum() / np.diff(coarse.edges) / unit
