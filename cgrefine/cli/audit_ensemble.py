"""What the members of an ensemble say of the frames that were simulated with the best of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cgrefine.artifacts import read_json
from cgrefine.cli.audit_subject import Part, Subject, spread
from cgrefine.cli.audit_verdict import Finding
from cgrefine.cli.console import Console
from cgrefine.config.data import Loader
from cgrefine.config.running import Audit
from cgrefine.data.frames import frame_set
from cgrefine.data.store import Domain, in_memory
from cgrefine.fm import ensemble, forcefield
from cgrefine.fm.ensemble import Disagreement
from cgrefine.report.page import Section, Table

FRAMES_A_REPLICA = 20


class Doubt(NamedTuple):
    """Disagreement on validation frames and on simulated ones, kcal/mol/Å; ratio of the root mean squares."""

    validation: Disagreement
    simulated: Disagreement
    frames: int

    @property
    def ratio(self) -> float:
        """Simulated over validation: well above 1 where the simulation has left what the members know."""
        return self.simulated.rms / self.validation.rms


def doubt(subject: Subject) -> Doubt | None:
    """From the members that were kept with the simulated model, and its frames; None without members."""
    folder = subject.members
    if folder is None:
        return None
    fields = [forcefield.load(path / "forcefield") for path in sorted(folder.iterdir())]
    known = read_json(folder.parent / "ensemble.json")["disagreement_kcal_mol_A"]
    domains = simulated(subject)
    frames = frame_set(domains, False, fields[0].model.cutoff_A)
    beads = max(max(d.n_beads for d in domains), 1000)
    return Doubt(Disagreement(**known), ensemble.disagreement(fields, frames, beads, Loader()), len(frames))


def simulated(subject: Subject) -> list[Domain]:
    """Evenly spaced frames of every replica, the last good one included, without forces."""
    domains = []
    for outcome in subject.found:
        chosen = spread(subject.frames(outcome), FRAMES_A_REPLICA)
        count = len(chosen)
        arrays = {
            "positions": np.asarray(chosen, np.float32),
            "forces": np.zeros(chosen.shape),
            "temperature_K": np.full(count, subject.sim.temperature_K),
            "replica": np.zeros(count, int),
            "frame": np.arange(count),
            "validation": np.zeros(count, bool),
        }
        name = f"{outcome.domain}-{outcome.replica}"
        domains.append(in_memory(name, subject.dataset.domain(outcome.domain).topology, arrays))
    return domains


def disagreement(subject: Subject, cfg: Audit, console: Console) -> Part:
    """Whether the simulation stayed where the members of the ensemble agree; a warning where it did not."""
    del console
    found, name, limit = doubt(subject), "disagreement_ratio", cfg.max_disagreement_ratio
    if found is None:
        says = "no members of an ensemble were kept with the simulated model"
        return Part([Finding(name, None, None, limit, "", None, says)], {}, [])
    far = found.ratio > limit
    says = (
        f"members disagree about forces {found.ratio:.2f} times as much on simulated frames as on validation "
        f"frames; up to {limit:g} is usual. "
        + (
            "The simulation has gone where they know little: look at it before it is believed"
            if far
            else "The simulation stayed where they agree"
        )
    )
    content = {
        "ratio": found.ratio,
        "frames": found.frames,
        "validation_kcal_mol_A": found.validation._asdict(),
        "simulated_kcal_mol_A": found.simulated._asdict(),
    }
    columns: Sequence[str] = ("frames", "RMS, kcal/mol/Å", "median", "95th percentile", "largest")
    rows = [("validation", *found.validation), (f"{found.frames} simulated", *found.simulated)]
    section = Section("Ensemble", f"{says[0].upper()}{says[1:]}.", Table(columns, rows))
    return Part([Finding(name, found.ratio, None, limit, "", None, says, warning=far)], content, [section])
