"""The audit's look at the saved frames: what is unusual in them, and their energy a bead."""

import csv
import math
from collections.abc import Sequence

import numpy as np

from cgrefine.cli.audit_subject import Part, Subject, spread
from cgrefine.cli.audit_verdict import NO_KINETIC, Finding
from cgrefine.cli.console import Console
from cgrefine.cli.observe import reference_groups
from cgrefine.cli.simulate_results import LOG
from cgrefine.config.running import Audit
from cgrefine.data.store import Domain
from cgrefine.report.page import Section, Table
from cgrefine.sim import evaluation
from cgrefine.sim.stability import reference_bond_lengths
from cgrefine.sim.unusual import beyond, helical_torsions, limits, mirrored, worst

REFERENCE_FRAMES = 200
"""Reference frames of a domain whose energies and forces are evaluated."""

WORDS = {
    "bond": "a bond is far from its usual length",
    "second_neighbor": "beads i, i+2 are close",
    "overlap": "two other beads are close",
    "size": "the radius of gyration is outside the range of the reference",
    "helix_handedness": "helices of the reference are left-handed",
    "force": "the force on a bead is large",
    "temperature": "the kinetic temperature of a saved interval is high",
}


def unusual(subject: Subject, cfg: Audit, console: Console) -> Part:
    """Share of frames beyond each threshold of `audit.unusual`, and the furthest energy a bead."""
    del console
    marks: dict[str, list[np.ndarray]] = {name: [] for name in WORDS}
    energies: list[np.ndarray] = []
    for domain in subject.domains():
        for name, found in _geometry(subject, domain, cfg).items():
            marks[name].append(found)
        sigmas, forces = _energies(subject, domain, cfg)
        energies.append(sigmas)
        marks["force"].append(forces)
    marks["temperature"].append(_hot(subject, cfg))
    findings = [_share(name, np.concatenate(found), cfg) for name, found in marks.items()]
    findings.append(energy_finding(np.concatenate(energies), cfg))
    rows = [(f.name, "–" if f.value is None else float(f.value), f.unit, f.says) for f in findings]
    text = (
        "Saved frames against thresholds that are tighter than those that fail a replica, none tighter than "
        "the reference itself. Energies and forces are those of the model, of up to "
        f"{cfg.unusual.frames} frames a replica."
    )
    content = {f.name: {"value": f.value, "warning": f.warning} for f in findings}
    return Part(
        findings,
        content,
        [Section("Unusual frames", text, Table(("what", "value", "unit", "in words"), rows))],
    )


def energy_finding(sigmas: np.ndarray, cfg: Audit) -> Finding:
    """The furthest of frames (f,), in standard deviations of the energy a bead in the reference frames."""
    given = cfg.unusual
    limit, name = given.fatal_energy_sigmas, "energy_per_bead_sigmas"
    if not len(sigmas):
        return Finding(name, None, None, limit, "σ", None, "the reference has no spread of the energy a bead")
    value = float(np.max(sigmas))
    says = (
        f"energy a bead up to {value:.3g} standard deviations from its mean over reference frames; from "
        f"{given.energy_sigmas:g} on a warning"
    )
    warning = given.energy_sigmas < value <= limit
    return Finding(name, value, None, limit, "σ", value <= limit, says, warning)


def _share(name: str, found: np.ndarray, cfg: Audit) -> Finding:
    limit = cfg.unusual.max_fraction
    if not len(found):
        return Finding(f"unusual_{name}", None, None, limit, "", None, f"{WORDS[name]}: not measured")
    value = float(found.mean())
    says = f"{WORDS[name]} in {int(found.sum())} of {len(found)} frames"
    return Finding(f"unusual_{name}", value, None, limit, "", None, says, warning=value > limit)


def _geometry(subject: Subject, domain: Domain, cfg: Audit) -> dict[str, np.ndarray]:
    chain, separation = domain.topology, subject.sim.criteria.overlap_separation
    reference = np.concatenate(reference_groups(domain, subject.sim.temperature_K)[1])
    r0 = reference_bond_lengths(reference, chain.bonds)
    frames = np.concatenate([subject.frames(o) for o in subject.found if o.domain == domain.name])
    allowed = limits(worst(chain, r0, reference, separation), cfg.unusual, chain.n_beads)
    found = beyond(worst(chain, r0, frames, separation), allowed)
    return found | {"helix_handedness": mirrored(helical_torsions(chain, reference), frames)}


def _energies(subject: Subject, domain: Domain, cfg: Audit) -> tuple[np.ndarray, np.ndarray]:
    """Deviations of the energy a bead (f,), in standard deviations, and whether a force is large (f,)."""
    field = subject.force_field
    reference = subject.reference(domain, REFERENCE_FRAMES)
    own = [o for o in subject.found if o.domain == domain.name]
    frames = np.concatenate([spread(subject.frames(o), cfg.unusual.frames) for o in own])
    u, f = evaluation.energies_and_forces(
        field.model, field.params, domain.topology, np.concatenate([reference, frames]), field.model.cutoff_A,
        subject.room,
    )  # fmt: skip
    per_bead, force = u.mean(axis=1), np.linalg.norm(f, axis=-1)
    known, found = np.split(per_bead, [len(reference)])
    of_found = force[len(reference) :]
    usual = cfg.unusual.force_ratio * np.quantile(force[: len(reference)], 0.9999)
    width = known.std(ddof=1) if len(known) > 1 else 0.0
    lost = ~np.isfinite(found)
    large = (np.where(np.isfinite(of_found), of_found, np.inf) > usual).any(axis=1)
    if not width > 0.0:
        return np.zeros(0), large
    sigmas = np.abs(np.where(lost, np.inf, found) - known.mean()) / width
    return sigmas, large


def _hot(subject: Subject, cfg: Audit) -> np.ndarray:
    """Whether T > T₀ (1 + k √(2/3n)) at each saved frame; none where the kinetic temperature says nothing."""
    if subject.sim.integrator in NO_KINETIC:
        return np.zeros(0, bool)
    beads = {d.name: d.n_beads for d in subject.domains()}
    with (subject.folder / LOG).open(newline="") as handle:
        rows: Sequence[dict[str, str]] = list(csv.DictReader(handle))
    kelvin = np.array([float(row["temperature_K"]) for row in rows])
    noise = np.array([math.sqrt(2.0 / (3.0 * beads[row["domain"]])) for row in rows])
    return kelvin > subject.sim.temperature_K * (1.0 + cfg.unusual.temperature_errors * noise)
