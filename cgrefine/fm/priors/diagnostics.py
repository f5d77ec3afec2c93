"""How good the priors are: implied against counted marginals, largest force, handedness; and figures."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cgrefine import energy, geometry, neighbors, residues
from cgrefine.compiling import ONCE
from cgrefine.energy import BondedTerm, SumOfTerms
from cgrefine.fm.priors import classes, marginals
from cgrefine.fm.priors.classes import Scheme
from cgrefine.fm.priors.marginals import Histogram, Marginals
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.neighbors import Neighbors
from cgrefine.system import System, Topology, pack, topology_from_species
from cgrefine.units import thermal_energy

COARSE = {"bond": 4, "angle": 5, "dihedral": 5}
"""Fine bins in a bin of the comparisons: 0.02 Å, 2.5° and 5°."""

MAX_PANELS = 12
"""Rows of a term that a figure shows, those with the most data."""

_JACOBIAN = {"bond": np.square, "angle": np.sin, "dihedral": np.ones_like}
_AXIS = {
    "bond": ("Cα-Cα distance, Å", 1.0, (3.5, 4.1)),
    "angle": ("angle, degrees", 180.0 / np.pi, (60.0, 180.0)),
    "dihedral": ("dihedral, degrees", 180.0 / np.pi, (-180.0, 180.0)),
}


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


def figure_of(
    name: str,
    facts: Mapping[str, Any],
    params: Mapping[str, Any],
    reference: Marginals,
    simulated: Marginals | None,
    kT: float,
    band: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """The rows of a bonded term with the most data, at most MAX_PANELS: two panels each.

    Above: counted, implied and simulated density. Below: energy in kT with its standard error, band = (x,
    (rows, points) kcal/mol) of `FittedPriors.bands`, and the force on the coordinate in kT per Å or rad.
    """
    term = bonded_terms(facts)[name]
    scheme, factor = scheme_of(term), COARSE[term.kind]
    fine = marginals.grouped(getattr(reference, term.kind), term.kind, scheme)
    moving = None
    if simulated is not None:
        moving = marginals.coarser(
            marginals.grouped(getattr(simulated, term.kind), term.kind, scheme), factor
        )
    counted, names = marginals.coarser(fine, factor), classes.labels(term.kind, scheme)
    n = counted.counts.sum(axis=1)
    shown = [row for row in np.argsort(-n, kind="stable")[:MAX_PANELS].tolist() if n[row] > 0]
    p = implied(term, params[name], kT, fine.edges)
    u = term_energies(term, params[name], fine.centres) / kT
    columns = max(1, min(4, len(shown)))
    lines = max(1, -(-len(shown) // columns))
    # fixed margins, because a constrained layout takes longer than all the drawing
    width, height = 3.2 * columns, 4.6 * lines
    fig = Figure(figsize=(width, height))
    margins = {"left": 0.35 / width, "right": 1.0 - 0.45 / width, "bottom": 0.5 / height}
    fig.subplots_adjust(**margins, top=1.0 - 0.3 / height, wspace=0.35, hspace=0.25)
    axes = fig.subplots(2 * lines, columns, squeeze=False)
    for unused in range(len(shown), lines * columns):
        for below in (0, 1):
            axes[2 * (unused // columns) + below, unused % columns].set_axis_off()
    for place, row in enumerate(shown):
        above, below = axes[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        _densities(above, term.kind, counted, moving, row, fine.centres, p[row])
        above.set_title(f"{names[row]}, n = {n[row]:.0f}", fontsize=9)
        spread = None if band is None else (band[0], band[1][row] / kT)
        twin = _energy_and_force(below, term.kind, fine, row, u[row], spread)
        if place == 0:
            above.legend(frameon=False, fontsize=7)
            handles = [*below.get_legend_handles_labels()[0], *twin.get_legend_handles_labels()[0]]
            below.legend(handles=handles, frameon=False, fontsize=7)
    return fig


def _densities(
    axes: Axes,
    kind: str,
    counted: Histogram,
    moving: Histogram | None,
    row: int,
    x: np.ndarray,
    p: np.ndarray,
) -> None:
    unit, edges = _AXIS[kind][1], counted.edges * _AXIS[kind][1]
    axes.stairs(_density(counted, row, unit), edges, fill=True, alpha=0.35, label="reference")
    if moving is not None and moving.counts[row].sum() > 0:
        axes.stairs(_density(moving, row, unit), edges, color="C2", label="priors alone, MD")
    axes.plot(x * unit, p / ((x[1] - x[0]) * unit), "C0", label="implied by the term")
    axes.set(xlim=_limits(kind, counted, row), yticks=[])
    axes.tick_params(labelbottom=False)


def _energy_and_force(
    axes: Axes,
    kind: str,
    fine: Histogram,
    row: int,
    u: np.ndarray,
    spread: tuple[np.ndarray, np.ndarray] | None,
) -> Axes:
    """u (bins,) kT of one row, and minus its slope on a second axis, which is returned."""
    label, unit, _ = _AXIS[kind]
    x, visible = fine.centres * unit, _limits(kind, fine, row)
    shown = (x > visible[0]) & (x < visible[1])
    zero = u[shown].min()
    axes.plot(x, u - zero, "C3", label="energy, kT")
    if spread is not None:
        middle = np.interp(spread[0], fine.centres, u) - zero
        low, high = middle - spread[1], middle + spread[1]
        axes.fill_between(spread[0] * unit, low, high, color="C3", alpha=0.25, lw=0, label="± standard error")
    axes.set(xlabel=label, xlim=visible, ylim=(-0.5, 10.0))
    force = -np.gradient(u, fine.centres)
    twin = axes.twinx()
    twin.plot(x, force, "C1:", label=f"force, kT/{'Å' if kind == 'bond' else 'rad'}")
    inner = shown & (u - zero < 10.0)
    size = float(np.abs(force[inner]).max()) if inner.any() else 1.0
    twin.set_ylim(-1.1 * max(size, 1e-3), 1.1 * max(size, 1e-3))
    twin.tick_params(labelsize=7, labelcolor="C1")
    return twin


def _limits(kind: str, histogram: Histogram, row: int) -> tuple[float, float]:
    """What is shown of the coordinate: the usual range, or around 2.95 Å for a row of cis bonds."""
    limits = _AXIS[kind][2]
    if kind == "bond" and row == len(histogram.counts) - 1:
        return limits[0] - 0.85, limits[1] - 0.85
    return limits


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


def _density(histogram: Histogram, row: int, unit: float) -> np.ndarray:
    return histogram.counts[row] / histogram.counts[row].sum() / np.diff(histogram.edges) / unit
