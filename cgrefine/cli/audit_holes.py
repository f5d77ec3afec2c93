"""The audit's search for holes: reference frames perturbed along bonds, angles and pairs, and at random."""

import numpy as np

from cgrefine import units
from cgrefine.cli.audit_subject import Part, Subject, place_name
from cgrefine.cli.audit_verdict import Finding
from cgrefine.cli.console import Console
from cgrefine.cli.observe import reference_groups
from cgrefine.config.running import Audit
from cgrefine.data.store import Domain
from cgrefine.report.page import Section, Table
from cgrefine.sim import evaluation
from cgrefine.sim.holes import (
    Hole,
    Limits,
    displaced,
    hole_of_displacement,
    hole_of_path,
    merged,
    paths,
)
from cgrefine.sim.stability import reference_bond_lengths

REFERENCE_FRAMES = 64
"""Reference frames whose energies are the range that displaced ones are held against."""

SHOWN = 20
"""Holes in the table, the easiest to reach first; audit.json has all."""


def holes(subject: Subject, cfg: Audit, console: Console) -> Part:
    """Number of places that do not push back, by protein and bead."""
    domains = subject.domains()[: cfg.hole_domains]
    found: list[tuple[Domain, Hole]] = []
    tried = 0
    for domain in console.track(domains, total=len(domains), label="holes"):
        own, count = searched(subject, domain, cfg)
        found += [(domain, hole) for hole in own]
        tried += count
    found.sort(key=lambda f: f[1].barrier_kT)
    says = (
        f"none of {tried} paths and displacements leads to one"
        if not found
        else f"the nearest: {described(*found[0])}"
    )
    finding = Finding("holes", len(found), None, 0, "", not found, says)
    entries = [{"domain": d.name, "place": place_name(d, h.beads), **h._asdict()} for d, h in found]
    columns = ("domain", "kind", "where", "from, Å", "barrier, kT", "depth, kT", "frames")
    rows = [
        (d.name, h.kind, place_name(d, h.beads), h.at_A, h.barrier_kT, h.depth_kT, h.frames)
        for d, h in found[:SHOWN]
    ]
    text = (
        f"{len(found)} places in {len(domains)} proteins where the energy does not push back: {says}. Bonds, "
        "angles and close pairs of reference frames are moved past what is healthy, and whole frames at "
        f"random; barriers up to {cfg.hole_barrier_kT:g} kT count."
    )
    section = Section("Holes", text, Table(columns, rows) if rows else None)
    return Part([finding], {"found": entries, "tried": tried}, [section])


def described(domain: Domain, hole: Hole) -> str:
    """A hole in words."""
    where = place_name(domain, hole.beads)
    depth = "to no finite energy" if np.isinf(hole.depth_kT) else f"{hole.depth_kT:.3g} kT deep"
    if hole.kind == "random":
        return f"{domain.name}, displaced by {hole.at_A:g} Å, {depth}, most at {where}"
    return (
        f"{domain.name}, {hole.kind} {where} at {hole.at_A:.2f} Å, {depth}, behind {hole.barrier_kT:.3g} kT"
    )


def searched(subject: Subject, domain: Domain, cfg: Audit) -> tuple[list[Hole], int]:
    """Holes of one protein, and the number of paths and displacements tried."""
    kT, force_field, chain = (
        units.thermal_energy(subject.sim.temperature_K),
        subject.force_field,
        domain.topology,
    )
    every = np.concatenate(reference_groups(domain, subject.sim.temperature_K)[1])
    r0 = reference_bond_lengths(every, chain.bonds)
    reference = subject.reference(domain, REFERENCE_FRAMES).astype(np.float64)
    limits = search_limits(subject, cfg)

    def energies(frames: np.ndarray) -> np.ndarray:
        return evaluation.energies(
            force_field.model, force_field.params, chain, frames, force_field.model.cutoff_A, subject.room
        )

    known = energies(reference)
    chosen = np.unique(np.linspace(0, len(reference) - 1, cfg.hole_frames).astype(int))
    found, tried = [], 0
    rng = np.random.default_rng(subject.sim.seed)
    for f in chosen:
        every_path = paths(chain, reference[f], r0, limits)
        some = rng.permutation(len(every_path))[: cfg.hole_paths]
        followed = [every_path[k] for k in sorted(some)]
        noisy = displaced(reference[f], int(f))
        u = energies(np.concatenate([*(p.structures for p in followed), noisy]))
        ends = np.cumsum([len(p.distance_A) for p in followed])
        *along, last = np.split(u, ends)
        own = [hole_of_path(p, rows.sum(axis=1), kT, limits) for p, rows in zip(followed, along, strict=True)]
        found += [h for h in (*own, hole_of_displacement(last, known, int(f), kT, limits)) if h is not None]
        tried += len(followed) + len(noisy)
    return merged(found), tried


def search_limits(subject: Subject, cfg: Audit) -> Limits:
    """Bonds are watched from half of the deviation that fails a replica on, distances from the limit on."""
    criteria = subject.sim.criteria
    return Limits(
        bond_A=0.5 * criteria.bond_deviation_A,
        second_A=criteria.second_neighbor_min_A,
        overlap_A=criteria.overlap_min_A,
        overlap_separation=criteria.overlap_separation,
        barrier_kT=cfg.hole_barrier_kT,
        margin_kT=cfg.hole_margin_kT,
    )
