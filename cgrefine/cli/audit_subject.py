"""What is audited: a force field, the reference, and a simulation with its trajectories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cgrefine import units
from cgrefine.cli.audit_verdict import Finding
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import integrator
from cgrefine.cli.failures import Told, read_failures
from cgrefine.cli.observe import reference_groups
from cgrefine.cli.replicas import Outcome, Replica
from cgrefine.cli.simulate_packs import packed
from cgrefine.config.running import Observables, Sim
from cgrefine.data.store import Dataset, Domain
from cgrefine.errors import InputError
from cgrefine.interop.opened import Modelled
from cgrefine.report.page import Section
from cgrefine.residues import RESIDUES
from cgrefine.sim.evaluation import room
from cgrefine.sim.rollout import rollout, short_settings
from cgrefine.sim.rooms import Room
from cgrefine.sim.trajectory import read_frames
from cgrefine.sim.trial import Trial, trial

ROOM_FRAMES = 50
"""Reference frames of a domain whose edges tell how many there is to be room for."""


@dataclass(frozen=True)
class Subject:
    """folder: what `simulate` wrote of `found`. sim: how they were run, with the criteria used.

    members: of the ensemble that the force field is the best of, a folder each; None where none were kept.
    """

    force_field: Modelled
    dataset: Dataset
    sim: Sim
    folder: Path
    found: Sequence[Outcome]
    duration_ps: float
    members: Path | None = None
    observables: Observables = field(default_factory=Observables)

    def frames(self, outcome: Outcome) -> np.ndarray:
        """Saved frames (f, n, 3) Å of one replica, the start first."""
        return read_frames(
            self.folder / outcome.trajectory, self.folder / "topology" / f"{outcome.domain}.pdb"
        )

    def domains(self) -> list[Domain]:
        """The domains that were simulated."""
        return [self.dataset.domain(name) for name in dict.fromkeys(o.domain for o in self.found)]

    def reference(self, domain: Domain, count: int) -> np.ndarray:
        """Up to `count` reference frames at the nearest temperature, evenly spread, (f, n, 3) Å."""
        x = np.concatenate(reference_groups(domain, self.sim.temperature_K)[1])
        return spread(x, count)

    @cached_property
    def room(self) -> Room:
        """One room for the frames of all domains, so that their evaluations share a compilation."""
        known = [(d.topology, self.reference(d, ROOM_FRAMES)) for d in self.domains()]
        return room(known, self.force_field.model.cutoff_A)

    def starts(self, count: int) -> list[Replica]:
        """Starts of short runs, going round the domains: last frames, first ones of replicas that failed."""
        return [self._start(o) for o in _in_turn(self.found)[:count]]

    def thermal(self, count: int) -> list[Replica]:
        """The same, replicas that did not fail first: those of `starts` when none did."""
        ranked = sorted(_in_turn(self.found), key=lambda o: not o.stable)
        return [self._start(o) for o in ranked[:count]]

    def _start(self, outcome: Outcome) -> Replica:
        frames = self.frames(outcome)
        start = frames[-1] if outcome.stable else frames[0]
        return Replica(self.dataset.domain(outcome.domain), outcome.replica, start)

    def lived(
        self,
        replicas: Sequence[Replica],
        temperature_K: float,
        timestep_fs: float,
        duration_ps: float,
        console: Console,
        label: str,
    ) -> Trial:
        """A short run, the noise being that of `simulate`.

        In float64 and in chunks of one size: all short runs of as many replicas are one compiled program.
        """
        model, sim = self.force_field.model, self.sim
        system, limits = packed(replicas, sim)
        dt, length = units.from_fs(timestep_fs), units.from_fs(1000.0 * duration_ps)
        run = short_settings(length, dt, model.cutoff_A)
        with jax.enable_x64(True):
            chunks = rollout(
                model,
                self.force_field.params,
                system,
                np.concatenate([r.start for r in replicas]).astype(np.float64),
                np.full(len(replicas), units.thermal_energy(temperature_K)),
                jax.random.fold_in(jax.random.key(sim.seed), 0),
                integrator(sim.model_copy(update={"timestep_fs": timestep_fs})),
                run,
                limits,
            )
            tracked = console.track(chunks, total=run.n_frames // run.chunk_frames, label=label)
            return trial(tracked, run.n_frames * run.stride * timestep_fs / 1000.0, timestep_fs / 1000.0)

    @cached_property
    def failures(self) -> dict[tuple[str, int], Told]:
        """Each failure by domain and replica. Raises InputError when one was not written down."""
        told = read_failures(self.folder)
        for o in self.found:
            if not o.stable and (o.domain, o.replica) not in told:
                raise InputError(
                    f"{self.folder}: replica {o.replica} of {o.domain} failed, and failures/failures.csv "
                    "does not say how; run `cgrefine simulate` again, with --force"
                )
        return told


@dataclass(frozen=True)
class Part:
    """What one check gives: findings, its entry in audit.json, and sections of the page."""

    findings: Sequence[Finding]
    content: Mapping[str, Any]
    sections: Sequence[Section]


def _in_turn(found: Sequence[Outcome]) -> list[Outcome]:
    """The first replica of each domain, then the second of each, and so on."""
    turn: dict[str, int] = {}
    ranked = []
    for o in found:
        turn[o.domain] = turn.get(o.domain, -1) + 1
        ranked.append((turn[o.domain], o))
    return [o for _, o in sorted(ranked, key=lambda r: r[0])]


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` of the rows, evenly spread, the first and last among them."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, count).astype(int))]


def bead_name(domain: Domain, bead: int) -> str:
    """A bead as people call it: residue and number, e.g. GLY7."""
    chain = domain.topology
    return f"{RESIDUES[chain.species[bead]]}{chain.resid[bead]}"


def place_name(domain: Domain, beads: Sequence[int]) -> str:
    """Beads of one molecule by residue, e.g. GLY7-TRP8."""
    return "-".join(bead_name(domain, b) for b in beads)
