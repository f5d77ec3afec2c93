"""How much the members of an ensemble disagree about forces: where they do, they know too little."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import energy
from cgrefine.config.data import Loader
from cgrefine.data.frames import FrameSet
from cgrefine.data.loader import Reading, each, sweep
from cgrefine.data.packing import Batch, budget_for, real_beads, slim
from cgrefine.fm.forcefield import ForceField


class Disagreement(NamedTuple):
    """Standard deviation of a force component over members, kcal/mol/Å: root mean square over beads, and
    the median, 95th percentile and maximum of that of a bead."""

    rms: float
    median: float
    percentile_95: float
    largest: float


def force_variance(forces: Float[Array | np.ndarray, "members beads 3"]) -> Float[Array, " beads"]:
    """Variance of a force component over members, unbiased and averaged over x, y and z, (kcal/mol/Å)².

    Raises ValueError on fewer than two members.
    """
    members = forces.shape[0]
    if members < 2:
        raise ValueError(f"{members} member cannot disagree: two or more are needed")
    apart = forces - jnp.mean(forces, axis=0)
    return jnp.sum(apart**2, axis=(0, 2)) / (3.0 * (members - 1))


def disagreement(
    members: Sequence[ForceField], frames: FrameSet, batch_beads: int, loader: Loader | None = None
) -> Disagreement:
    """Over all frames, whose edges reach as far as the longest cutoff; members differ in parameters alone."""
    loader = Loader() if loader is None else loader
    model = members[0].model
    params = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), m.params) for m in members]

    @jax.jit
    def forces(params: energy.Params, batch: Batch) -> Array:
        return energy.forces(model, params, jnp.asarray(batch.positions), batch.system, batch.neighbors)

    budget = budget_for([frames], batch_beads, loader.edge_headroom)
    reading = Reading(loader.buffer_frames, loader.prefetch, loader.workers)
    found = []
    for _, batch in each(sweep(frames, budget, reading)):
        batch = slim(batch)
        variance = force_variance(np.stack([np.asarray(forces(p, batch)) for p in params]))
        found.append(np.asarray(variance)[real_beads(batch)])
    deviation = np.sqrt(np.concatenate(found).astype(np.float64))
    return Disagreement(
        rms=float(np.sqrt(np.mean(deviation**2))),
        median=float(np.median(deviation)),
        percentile_95=float(np.percentile(deviation, 95)),
        largest=float(deviation.max()),
    )
