"""The gate: what priors must satisfy alone before a network is trained on top of them.

On data a network corrects the priors; off data only they act, so they are judged by a simulation of
themselves and by their extrapolation, not by their fit. Numbers come in as `Evidence`; the limits are the
section `priors.gate`. Every check that can be made is made: one that fails says what is wrong.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from cgrefine import residues
from cgrefine.config.priors import Gate
from cgrefine.energy import BondedTerm, PairTerm
from cgrefine.fm.priors import diagnostics, marginals
from cgrefine.fm.priors.classes import labels
from cgrefine.fm.priors.marginals import Marginals
from cgrefine.fm.priors.terms import prior_terms

FORMAT = 1
FOLDED_DEG = 65.0
"""An angle below this is a chain folded back on itself: i and i+2 closer than 4.1 Å."""

STRETCH_A = 0.35
WALLS = {"bond": 0.6, "angle": np.radians([50.0, 180.0])}
"""Where walls are measured: bonds this far from their rest length, Å, and angles, rad."""

CONTACT_A, TAIL_A = 3.0, 5.5
HELICAL_DEG = (30.0, 80.0)
"""Dihedrals of right-handed helices."""


class Evidence(NamedTuple):
    """What the gate judges.

    reference, simulated: marginals of the simulated domains, of their training frames and of the priors
    alone. stable, replicas: how many of how many ended well. drift_kT_ns: of the energy at constant energy,
    per degree of freedom. largest_force: on training frames, kcal/mol/Å. sizes (species, species): True for
    pairs that the domains have, where repulsion must hold. helix_share: see `helix_share`.
    """

    reference: Marginals
    simulated: Marginals
    stable: int
    replicas: int
    drift_kT_ns: float
    largest_force: float
    sizes: np.ndarray
    helix_share: float


class Check(NamedTuple):
    """passed: value at or below the limit, or at or above it where `least`. NaN fails."""

    value: float
    limit: float
    least: bool
    meaning: str

    @property
    def passed(self) -> bool:
        """Whether the value is on the right side of the limit."""
        return self.value >= self.limit if self.least else self.value <= self.limit


def checks(
    facts: Mapping[str, Any], params: Mapping[str, Any], kT: float, found: Evidence, limits: Gate
) -> dict[str, Check]:
    """All checks by name, in the order in which they are shown. kT: kcal/mol, of the inversion.

    Handedness is judged where the data show it: the ideal helix when they have helices, the mirrored
    dihedrals of the data when any are helical.
    """
    temperature_K = kT / diagnostics.thermal_energy(1.0)
    kl = {"bond": math.nan, "angle": math.nan, "dihedral": math.nan}
    counted = {k for k in kl if getattr(found.reference, k).counts.sum() > 0}
    if found.simulated.bond.counts.sum() > 0:
        kl |= diagnostics.between(found.reference, found.simulated)
    near = contact_energies(facts, params, found.sizes, CONTACT_A) / kT
    far = contact_energies(facts, params, found.sizes, TAIL_A) / kT
    made = {
        "stable_fraction": Check(
            found.stable / found.replicas, limits.min_stable_fraction, True, "replicas without a failure"
        ),
        **{
            f"kl_{kind}": Check(
                kl[kind],
                getattr(limits, f"max_kl_{kind}"),
                False,
                f"divergence of {kind}s from the data, nats",
            )
            for kind in kl
            if kind in counted
        },
        "bond_variance_error": Check(
            abs(bond_variance_ratio(found.reference, found.simulated) - 1.0),
            limits.max_bond_variance_error,
            False,
            "variance of bonds against the data at this temperature, relative",
        ),
        "angle_below_65": Check(
            below(found.simulated, np.radians(FOLDED_DEG)),
            limits.max_folded_fraction,
            False,
            "share of angles below 65 degrees",
        ),
        "stretched_bonds": Check(
            stretched(facts, params, found.simulated),
            limits.max_stretched_fraction,
            False,
            "share of bonds more than 0.35 Å from their rest length",
        ),
        "smallest_distance_A": Check(
            smallest(found.simulated), limits.min_distance_A, True, "closest beads, three or more apart, Å"
        ),
        "nve_drift_kT_ns": Check(
            abs(found.drift_kT_ns),
            limits.max_nve_drift_kT_ns,
            False,
            "energy drift per degree of freedom, kT/ns",
        ),
        "largest_reference_force": Check(
            found.largest_force,
            limits.max_reference_force,
            False,
            "largest force on training frames, kcal/mol/Å",
        ),
        "walls_kT": Check(
            wall_height(facts, params, found.reference) / kT,
            limits.min_wall_kT,
            True,
            "lowest wall: bonds 0.6 Å from rest, angles at 50 and 180 degrees, kT",
        ),
        "contact_kT": Check(float(near.min()), limits.min_contact_kT, True, "weakest repulsion at 3.0 Å, kT"),
        "tail_kT": Check(float(far.max()), limits.max_tail_kT, False, "strongest repulsion at 5.5 Å, kT"),
    }
    if found.helix_share >= limits.min_helix_share:
        made["helix_mirror_gap_kT"] = Check(
            diagnostics.mirror_gap_kT(facts, params, temperature_K),
            limits.min_mirror_gap_kT,
            True,
            "left-handed above right-handed ideal helix, kT per dihedral",
        )
    gap = reference_mirror_gap(facts, params, found.reference)
    if gap is not None:
        made["reference_mirror_gap_kT"] = Check(
            gap / kT,
            0.5 * limits.min_mirror_gap_kT,
            True,
            "mirrored above true helical dihedrals of the data, kT",
        )
    return made


def verdict(made: Mapping[str, Check], digest: str, simulation: Mapping[str, Any]) -> dict[str, Any]:
    """The content of gate.json. digest: hash of the parameters that were judged."""
    return {
        "format": FORMAT,
        "passed": all(check.passed for check in made.values()),
        "parameters": digest,
        "checks": {
            name: {
                "passed": check.passed,
                "value": check.value if math.isfinite(check.value) else None,
                "limit": check.limit,
                "sense": "at least" if check.least else "at most",
                "meaning": check.meaning,
            }
            for name, check in made.items()
        },
        "simulation": dict(simulation),
    }


def bond_variance_ratio(reference: Marginals, simulated: Marginals) -> float:
    """Variance of bonds within their class, simulation over reference, over the classes that both have.

    Its error is the error of the temperature: priors of pooled temperatures are too soft by T_mean/T.
    """
    parts = []
    for counts in (marginals.grouped(m.bond, "bond", "class").counts for m in (reference, simulated)):
        n = np.maximum(counts.sum(axis=1), 1.0)
        r = reference.bond.centres
        mean = counts @ r / n
        parts.append((counts @ r**2 / n - mean**2, counts.sum(axis=1)))
    (own, weight), (other, seen) = parts
    used = (weight > 1) & (seen > 1) & (own > 0)
    if not used.any():
        return math.nan
    return float(np.average(other[used] / own[used], weights=weight[used]))


def below(counts: Marginals, x: float) -> float:
    """Share of the angles in bins below x, rad; NaN without any."""
    total = counts.angle.pooled.sum()
    return float(counts.angle.pooled[counts.angle.centres < x].sum() / total) if total else math.nan


def stretched(facts: Mapping[str, Any], params: Mapping[str, Any], counts: Marginals) -> float:
    """Share of bonds further than STRETCH_A from the lowest energy of their row; NaN without any."""
    term = _of_kind(facts, "bond")
    if term is None or counts.bond.counts.sum() == 0:
        return math.nan
    own = marginals.grouped(counts.bond, "bond", diagnostics.scheme_of(term))
    rest = own.centres[diagnostics.term_energies(term, params[term.name], own.centres).argmin(axis=1)]
    far = np.abs(own.centres - rest[:, None]) > STRETCH_A
    outside = own.outside.sum()
    return float(((own.counts * far).sum() + outside) / (own.counts.sum() + outside))


def smallest(counts: Marginals) -> float:
    """Lower edge of the first occupied bin of the distances (0.02 Å wide), Å; NaN when there is none."""
    seen = np.flatnonzero(counts.distance.pooled)
    return float(counts.distance.edges[seen[0]]) if len(seen) else math.nan


def wall_height(facts: Mapping[str, Any], params: Mapping[str, Any], reference: Marginals) -> float:
    """Lowest wall of any row with data above its lowest point within the data, kcal/mol."""
    lowest = math.inf
    for kind in ("bond", "angle"):
        term = _of_kind(facts, kind)
        if term is None:
            return 0.0
        scheme = diagnostics.scheme_of(term)
        own = marginals.grouped(getattr(reference, kind), kind, scheme)
        within = diagnostics.term_energies(term, params[term.name], own.centres)
        for row in np.flatnonzero(own.counts.sum(axis=1)):
            seen = own.centres[own.counts[row] > 0]
            u = within[row][own.counts[row] > 0]
            rest = seen[u.argmin()]
            ends = rest + np.array([-1, 1]) * WALLS["bond"] if kind == "bond" else WALLS["angle"]
            high = diagnostics.term_energies(term, params[term.name], np.asarray(ends, float))[row]
            lowest = min(lowest, float(high.min() - u.min()))
    return lowest


def contact_energies(
    facts: Mapping[str, Any], params: Mapping[str, Any], sizes: np.ndarray, r_A: float
) -> np.ndarray:
    """Energy at r of the repulsion of the pairs of species in `sizes`, kcal/mol; [0] without repulsion."""
    terms = [t for t in prior_terms(facts) if isinstance(t, PairTerm) and t.name == "repulsion"]
    a, b = np.nonzero(sizes)
    if not terms or not len(a):
        return np.zeros(1)
    r = jnp.full(len(a), r_A)
    energies = terms[0].scalar(params["repulsion"], r, jnp.asarray(a), jnp.asarray(b))
    return np.where(r_A < terms[0].cutoff_A, np.asarray(energies, np.float64), 0.0)


def reference_mirror_gap(
    facts: Mapping[str, Any], params: Mapping[str, Any], reference: Marginals
) -> float | None:
    """Mean of U(-φ) - U(φ) over the helical dihedrals of the data, kcal/mol; None where there are none."""
    term = _of_kind(facts, "dihedral")
    own = reference.dihedral
    low, high = np.radians(HELICAL_DEG)
    helical = (own.centres > low) & (own.centres < high)
    if term is None or own.counts[:, helical].sum() < 1:
        return None
    counts = marginals.grouped(own, "dihedral", diagnostics.scheme_of(term)).counts[:, helical]
    phi = own.centres[helical]
    gaps = diagnostics.term_energies(term, params[term.name], np.concatenate([-phi, phi]))
    return float(np.average(gaps[:, : len(phi)] - gaps[:, len(phi) :], weights=counts))


def helix_share(dihedrals: Float[np.ndarray, "frames tuples"], tuples: Int[np.ndarray, "tuples 4"]) -> float:
    """Share of dihedrals (rad) in a run of at least three helical ones along a chain: one turn of a helix.

    Single ones of that size are in turns, of hairpins for instance. 0 where no chain is long enough.
    """
    low, high = np.radians(HELICAL_DEG)
    helical = (dihedrals > low) & (dihedrals < high)
    row = helical[:, :-2] & helical[:, 1:-1] & helical[:, 2:] & (tuples[2:, 0] == tuples[:-2, 0] + 2)
    turn = np.zeros(helical.shape, bool)
    for k in range(3):
        turn[:, k : k + row.shape[1]] |= row
    return float(turn.mean()) if turn.size else 0.0


def species_pairs(species: list[np.ndarray]) -> np.ndarray:
    """Pairs of species that occur together in a molecule: (20, 20) bool. species: (n,) of each molecule."""
    found = np.zeros((residues.N_SPECIES, residues.N_SPECIES), bool)
    for kinds in species:
        present = np.unique(kinds)
        found[np.ix_(present, present)] = True
    return found


def _of_kind(facts: Mapping[str, Any], kind: str) -> BondedTerm | None:
    """The bonded term of a kind (the first, if there are several); None without one."""
    for term in diagnostics.bonded_terms(facts).values():
        if term.kind == kind and labels(term.kind, diagnostics.scheme_of(term)):
            return term
    return None
