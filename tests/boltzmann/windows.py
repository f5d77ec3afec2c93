"""Windows and replicas made by hand."""

import numpy as np

from cgrefine.boltzmann.windows import Molecule, Window
from cgrefine.status import Status
from cgrefine.system import topology_from_species

MARK = 10_000.0


def molecules(*sizes, temperature_K=300.0):
    """Of (beads, replicas) each, one after the other, in unbonded beads where there is one only."""
    found, replica, bead = [], 0, 0
    for k, (n, count) in enumerate(sizes):
        replicas, beads = slice(replica, replica + count), slice(bead, bead + count * n)
        found.append(Molecule(f"m{k}", topology_from_species(np.arange(n)), temperature_K, replicas, beads))
        replica, bead = replicas.stop, beads.stop
    return found


def marked(source, beads):
    """(…, beads, 3) float32: MARK times the source and the number of each bead, three times."""
    rows = MARK * np.asarray(source)[..., None] + np.arange(beads)
    return np.repeat(rows[..., None], 3, axis=-1).astype(np.float32)


def window(alive_frames, beads, frames, status=Status.BOND, ends=90, failed=80):
    """Frames 0, 1, ... of replicas that lived for so many each (all: OK), as `marked`."""
    alive = np.asarray(alive_frames)
    dead = alive < frames
    return Window(
        positions=marked(np.arange(frames), beads),
        alive=np.arange(frames)[:, None] < alive,
        status=np.where(dead, int(status), 0).astype(np.int32),
        fail_step=np.where(dead, 10 * alive + 1, -1).astype(np.int32),
        failed=marked(failed, beads),
        ends=marked(ends, beads),
    )
