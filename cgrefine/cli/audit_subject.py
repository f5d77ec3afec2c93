"""What is audited: a force field, the reference, and a simulation with its trajectories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from cgrefine.cli.simulate import packed
from cgrefine.config.running import Sim
from cgrefine.data.store import Dataset, Domain
from cgrefine.errors import InputError
from cgrefine.interop.opened import Modelled
from cgrefine.report.page import Section
from cgrefine.residues import RESIDUES
from cgrefine.sim.rollout import rollout, settings
from cgrefine.sim.trajectory import read_frames
from cgrefine.sim.trial import Trial, trial

TRIAL_FRAMES = 20
"""Frames of a short run."""


@dataclass(frozen=True)
class Subject:
    """folder: what `simulate` wrote of `found`. sim: how they were run, with the criteria used."""

    force_field: Modelled
    dataset: Dataset
    sim: Sim
    folder: Path
    found: Sequence[Outcome]
    duration_ps: float

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

    def starts(self, count: int) -> list[Replica]:
        """The starts of `count` replicas, going round the domains (fewer when there are fewer)."""
        turn: dict[str, int] = {}
        ranked = []
        for order, o in enumerate(self.found):
            turn[o.domain] = turn.get(o.domain, -1) + 1
            ranked.append((turn[o.domain], order, o))
        chosen = [o for _, _, o in sorted(ranked, key=lambda r: r[:2])[:count]]
        return [Replica(self.dataset.domain(o.domain), o.replica, self.frames(o)[0]) for o in chosen]

    def lived(
        self,
        replicas: Sequence[Replica],
        temperatures_K: np.ndarray,
        timestep_fs: float,
        duration_ps: float,
        console: Console,
        label: str,
    ) -> Trial:
        """A short run of replicas at a temperature each; the noise is that of `simulate`."""
        model, sim = self.force_field.model, self.sim
        system, limits = packed(replicas, sim)
        interval = max(duration_ps / TRIAL_FRAMES, timestep_fs / 1000.0)
        dt, length = units.from_fs(timestep_fs), units.from_fs(1000.0 * duration_ps)
        run = settings(length, units.from_fs(1000.0 * interval), dt, model.cutoff_A)
        chunks = rollout(
            model,
            self.force_field.params,
            system,
            np.concatenate([r.start for r in replicas]).astype(np.float32),
            (units.KB * temperatures_K).astype(np.float32),
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
