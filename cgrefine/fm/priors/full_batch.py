"""All frames of a fit on the devices at once: packed batches of one size, shared out evenly.

Each process reads and packs its share of the frames; each device holds as many batches as any other, the
last ones empty, and scans over them; sums are joined over all devices of all processes. The result does not
depend on the number of devices, but for rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt32

from cgrefine import energy
from cgrefine.data.frames import FrameSet
from cgrefine.data.loader import Reading, each, sweep
from cgrefine.data.packing import Batch, budget_for, real_beads, slim
from cgrefine.energy import Params, SumOfTerms
from cgrefine.fm import loss
from cgrefine.fm.devices import AXIS, EVERYWHERE, SHARED, on_all, shared_out
from cgrefine.neighbors import Neighbors

BATCH_BEADS = 8192
"""Beads of a batch at most, unless one chain is longer."""

EDGE_HEADROOM = 1.05
PROBES = 8
"""Draws for the curvature; 16 made LBFGS no faster on the embedded sample, and 4 cost it a fifth."""

READS = (EVERYWHERE, SHARED)
"""Parameters, and the batches of a device."""

READING = Reading(buffer_frames=256, prefetch=4, workers=0)


class FullBatch(NamedTuple):
    """Batches stacked along a first axis that the devices share; target_forces hold what is to be matched.

    squares (): Σ |F|² of the forces before anything was subtracted; components (): their number.
    """

    batches: Batch
    squares: Array
    components: Array


def gathered(frames: FrameSet, fixed: SumOfTerms, fixed_params: Params, edges: bool, mesh: Mesh) -> FullBatch:
    """The frames on the devices, with the forces of the fixed terms subtracted from their target forces.

    edges: whether pairs are kept for the terms that are fitted; bonded terms need none. Raises InputError
    when there is no frame, and on forces that are not finite.
    """
    longest = max((d.n_beads for d in frames.domains), default=0)
    beads = max(longest, min(BATCH_BEADS, -(-frames.total_beads // mesh.size)))
    budget = budget_for([frames], beads, EDGE_HEADROOM)
    mine = READING._replace(share=(jax.process_index(), jax.process_count()))
    batches = [slim(batch) for _, batch in each(sweep(frames, budget, mine))]

    for batch in batches:
        real_beads(batch)
    stacked = _shared_out(batches, mesh)
    left, squares, components = _residual(fixed, mesh, fixed_params, stacked)
    listed = stacked.neighbors if edges else jax.jit(_no_edges)(stacked.neighbors)
    return FullBatch(stacked._replace(target_forces=left, neighbors=listed), squares, components)


@partial(jax.jit, static_argnums=(0, 1))
def _residual(fixed: SumOfTerms, mesh: Mesh, params: Params, batches: Batch) -> tuple[Array, Array, Array]:
    """Target forces less those of the fixed terms; the sum of squares before, and how many components."""

    def on_device(params: Params, batches: Batch) -> tuple[Array, Array, Array]:
        def body(sums: Array, batch: Batch) -> tuple[Array, Array]:
            x = jnp.asarray(batch.positions).astype(sums.dtype)
            target = jnp.asarray(batch.target_forces).astype(sums.dtype)
            forces = energy.forces(fixed, params, x, batch.system, batch.neighbors)
            squares = loss.force_squares(jnp.zeros_like(target), target, batch.weight)
            count = 3.0 * jnp.sum(batch.weight.astype(sums.dtype))
            return sums + jnp.stack([squares, count]), (target - forces).astype(jnp.float32)

        sums, left = jax.lax.scan(body, jnp.zeros(2), batches)
        squares, components = jax.lax.psum(sums, AXIS)
        return left, squares, components

    return on_all(on_device, mesh, READS, (SHARED, EVERYWHERE, EVERYWHERE))(params, batches)


def _no_edges(listed: Neighbors) -> Neighbors:
    return Neighbors(*(leaf[:, :0] for leaf in listed[:3]), overflow=listed.overflow)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def misfit(model: SumOfTerms, mesh: Mesh, params: Params, full: FullBatch) -> Array:
    """Σ |F - F_model|² / Σ |F_all|², (): 1 for forces of zero when no term is fixed.

    Its gradient by params is computed along with the value, batch by batch, so that the memory of one batch
    is enough. There are no derivatives by the frames, and no second ones.
    """
    return _misfit_and_gradient(model, mesh, params, full)[0]


def _misfit_and_gradient(
    model: SumOfTerms, mesh: Mesh, params: Params, full: FullBatch
) -> tuple[Array, Params]:
    dtype = jax.tree.leaves(params)[0].dtype

    def squares_of(params: Params, batch: Batch) -> Array:
        x = jnp.asarray(batch.positions).astype(dtype)
        forces = energy.forces(model, params, x, batch.system, batch.neighbors)
        return loss.force_squares(forces, batch.target_forces.astype(dtype), batch.weight)

    def on_device(params: Params, batches: Batch) -> tuple[Array, Params]:
        def body(sums: Any, batch: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, jax.value_and_grad(squares_of)(params, batch)), None

        zero = (jnp.zeros((), dtype), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.psum(jax.lax.scan(body, zero, batches)[0], AXIS)

    sums = on_all(on_device, mesh, READS, EVERYWHERE)(params, full.batches)
    return jax.tree.map(lambda leaf: leaf / full.squares, sums)


def _backward(model: SumOfTerms, mesh: Mesh, gradient: Params, cotangent: Array) -> tuple[Params, None]:
    del model, mesh
    return jax.tree.map(lambda leaf: cotangent * leaf, gradient), None


misfit.defvjp(_misfit_and_gradient, _backward)


def curvature(
    model: SumOfTerms, mesh: Mesh, to_params: Callable[[Params], Params], z: Params, full: FullBatch
) -> Params:
    """Half the diagonal, by z, of the Gauss-Newton Hessian of `misfit` at to_params(z): an estimate.

    With v of random signs for each force component, E[(Jᵀv)²] is the diagonal of JᵀJ (Bekas et al., Appl.
    Numer. Math. 57, 1214 (2007)): J are the derivatives of all force components by z, v from PROBES draws.
    The signs are a hash of the positions, so that they do not depend on how frames are packed.
    """
    dtype = jax.tree.leaves(z)[0].dtype

    def on_device(z: Params, batches: Batch) -> Params:
        def body(sums: Params, batch: Batch) -> tuple[Params, None]:
            x = jnp.asarray(batch.positions).astype(dtype)

            def weighted(z: Params) -> Array:
                forces = energy.forces(model, to_params(z), x, batch.system, batch.neighbors)
                return jnp.where(batch.weight[:, None] > 0, jnp.sqrt(batch.weight)[:, None] * forces, 0.0)

            pull = jax.vjp(weighted, z)[1]
            drawn = jax.lax.map(
                lambda k: pull(random_signs(batch.positions, k).astype(dtype))[0],
                jnp.arange(PROBES, dtype=jnp.uint32),
            )
            return jax.tree.map(lambda total, d: total + jnp.mean(d**2, axis=0), sums, drawn), None

        return jax.lax.psum(jax.lax.scan(body, jax.tree.map(jnp.zeros_like, z), batches)[0], AXIS)

    sums = on_all(on_device, mesh, READS, EVERYWHERE)(z, full.batches)
    return jax.tree.map(lambda leaf: leaf / full.squares, sums)


def random_signs(positions: Float[Array | np.ndarray, "beads 3"], draw: Any) -> Float[Array, "beads 3"]:
    """±1 for each component, from the bits of the bead's float32 coordinates and the number of the draw."""
    bits = jax.lax.bitcast_convert_type(jnp.asarray(positions, jnp.float32), jnp.uint32)
    mixed = jnp.zeros(bits.shape[0], jnp.uint32) + draw
    for column in (0, 1, 2):
        mixed = _mixed(mixed ^ bits[:, column])
    each_component = _mixed(mixed[:, None] + jnp.arange(3, dtype=jnp.uint32))
    return 1.0 - 2.0 * (each_component & 1).astype(jnp.float32)


def _mixed(bits: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A good scrambling of 32 bits (the finaliser of MurmurHash3, A. Appleby, public domain)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def _shared_out(batches: list[Batch], mesh: Mesh) -> Batch:
    """All batches of all processes as arrays over the mesh; empty batches make their number even."""
    local, processes = len(mesh.local_devices), jax.process_count()
    count = len(batches)
    if processes > 1:
        count = int(np.max(multihost_utils.process_allgather(np.asarray(count))))
    count = local * -(-count // local)
    if not batches:
        raise ValueError(f"process {jax.process_index()} has no frame: there are fewer than {processes}")
    empty = jax.tree.map(np.zeros_like, batches[0])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches, *[empty] * (count - len(batches)))
    return shared_out(stacked, mesh)
