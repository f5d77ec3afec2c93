"""What the members of an ensemble say of the frames that were simulated with the best of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgrefine.artifacts import read_json
from cgrefine.cli.replicas import Outcome
from cgrefine.config.data import Loader
from cgrefine.data.frames import frame_set
from cgrefine.data.store import Dataset, Domain, in_memory, open_dataset
from cgrefine.fm import ensemble, forcefield
from cgrefine.fm.ensemble import Disagreement
from cgrefine.sim.trajectory import read_frames

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


def doubt(root: Path, found: Sequence[Outcome], temperature_K: float) -> Doubt | None:
    """From train/members/ and the trajectories of simulate/ at that temperature; None when all members were
    not kept."""
    folder = root / "train" / "members"
    if not folder.is_dir():
        return None
    fields = [forcefield.load(path / "forcefield") for path in sorted(folder.iterdir())]
    known = read_json(root / "train" / "ensemble.json")["disagreement_kcal_mol_A"]
    domains = simulated(open_dataset(root / "prepare"), root, found, temperature_K)
    frames = frame_set(domains, False, fields[0].model.cutoff_A)
    beads = max(max(d.n_beads for d in domains), 1000)
    return Doubt(Disagreement(**known), ensemble.disagreement(fields, frames, beads, Loader()), len(frames))


def simulated(dataset: Dataset, root: Path, found: Sequence[Outcome], temperature_K: float) -> list[Domain]:
    """Evenly spaced frames of every replica, the last good one included, without forces."""
    domains = []
    for outcome in found:
        pdb = root / "simulate" / "topology" / f"{outcome.domain}.pdb"
        every = read_frames(root / "simulate" / outcome.trajectory, pdb)
        chosen = every[np.unique(np.linspace(0, len(every) - 1, FRAMES_A_REPLICA).astype(int))]
        count = len(chosen)
        arrays = {
            "positions": np.asarray(chosen, np.float32),
            "forces": np.zeros(chosen.shape),
            "temperature_K": np.full(count, temperature_K),
            "replica": np.zeros(count, int),
            "frame": np.arange(count),
            "validation": np.zeros(count, bool),
        }
        name = f"{outcome.domain}-{outcome.replica}"
        domains.append(in_memory(name, dataset.domain(outcome.domain).topology, arrays))
    return domains
