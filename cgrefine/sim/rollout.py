"""Many replicas of MD as one packed graph: chunks of frames from the device (`kernels`), driven by the host.

Neighbours are rebuilt at each step from all pairs within each graph (no skin). When a list does not
fit its buffer the chunk is thrown away and run again with a larger one, so no edge is ever dropped.
Each chunk carries a snapshot, from which the run goes on bit for bit (on the same kind of machine).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import checkpoint, neighbors, units
from cgrefine.energy import BeadEnergies
from cgrefine.neighbors import Candidates
from cgrefine.sim.exchange import ladders_of
from cgrefine.sim.kernels import (
    Failed,
    Fast,
    Frames,
    Given,
    Lengths,
    Program,
    Progress,
    advance,
    in_dtype,
    start,
)
from cgrefine.sim.langevin import Integrator, Langevin
from cgrefine.sim.stability import Checks
from cgrefine.status import Status
from cgrefine.system import System

CAPACITY_STEP = 256
"""Edge buffers are multiples of this, so that similar runs share one compilation."""

SHORT_STRIDE, SHORT_CHUNK = 10, 10
"""Steps of a frame and frames of a chunk of short runs."""


@dataclass(frozen=True)
class Settings:
    """Lengths of a run. One frame is given every `stride` steps, `chunk_frames` frames at a time.

    n_frames is rounded to whole chunks by `settings`, never here. cutoff_A = 0: the energy needs no
    neighbours. headroom: edges of the first buffer relative to those of the starting frame; min_edges: no
    smaller buffer, so that runs from other frames share a compilation.
    check_every: steps from one look at the failure criteria to the next; above 1 with fast forces only.
    rungs: replicas of a ladder that exchange their temperatures, 1: none do; rounds: of exchange a frame.
    """

    n_frames: int
    stride: int
    chunk_frames: int
    cutoff_A: float
    headroom: float = 1.5
    check_every: int = 1
    rungs: int = 1
    rounds: int = 1
    min_edges: int = 0

    def __post_init__(self) -> None:
        if self.stride % (self.rounds * self.check_every):
            told = f" times {self.rounds} rounds" if self.rounds > 1 else ""
            raise ValueError(f"a stride of {self.stride} steps is not a multiple of {self.check_every}{told}")
        if self.n_frames % self.chunk_frames:
            raise ValueError(f"{self.n_frames} frames are not whole chunks of {self.chunk_frames}")


class Snapshot(NamedTuple):
    """A run after a whole chunk, on the host. frames (): given so far; capacity (): of the edge buffer;
    regrown (): times that it was enlarged. Goes to disk as `checkpoint.named_leaves` of it."""

    progress: Progress
    frames: np.ndarray
    capacity: np.ndarray
    regrown: np.ndarray


class Chunk(NamedTuple):
    """s frames of g graphs on the host.

    positions (s, n, 3) float32 Å; time_ps (s,); potential, kinetic (s, g) kcal/mol; temperature_K (s, g)
    kinetic, mean over the steps since the frame before, or since the last exchange; alive (s, g): False on
    frames that only repeat the last good state; rung (s, m, g) in each of the m rounds of a frame, the last
    being that of the frame (0 without exchange); status, fail_step (g,) at the end of the chunk (-1: none);
    regrown: times that the neighbour buffer was enlarged so far; edge_capacity: its size; snapshot: of the
    run after this chunk.
    """

    positions: np.ndarray
    time_ps: np.ndarray
    potential: np.ndarray
    kinetic: np.ndarray
    temperature_K: np.ndarray
    alive: np.ndarray
    rung: np.ndarray
    status: np.ndarray
    fail_step: np.ndarray
    regrown: int
    edge_capacity: int
    snapshot: Snapshot


class Ended(NamedTuple):
    """What a run has come to: frames given; regrown; status, fail_step (g,), see Chunk; positions (n, 3) Å,
    the last good ones; failed: the states that failed; rung (g,)."""

    frames: int
    regrown: int
    status: np.ndarray
    fail_step: np.ndarray
    positions: np.ndarray
    failed: Failed
    rung: np.ndarray


def ended(named: Mapping[str, np.ndarray]) -> Ended:
    """The state of a run by the named leaves of a snapshot, whatever integrator it had."""
    return Ended(
        frames=int(named["frames"]),
        regrown=int(named["regrown"]),
        status=named["progress/status"],
        fail_step=named["progress/fail_step"],
        positions=named["progress/state/positions"],
        failed=Failed(*(named[f"progress/failed/{name}"] for name in Failed._fields)),
        rung=named["progress/rung"],
    )


def settings(
    duration: float,
    interval: float,
    dt: float,
    cutoff_A: float,
    max_chunk_frames: int = 10,
    check_every: int = 1,
    rungs: int = 1,
    exchange_interval: float | None = None,
) -> Settings:
    """Settings of a run of given duration and saving interval, both in the unit of dt.

    The interval is rounded to whole steps and the duration to whole intervals; a chunk is the largest
    divisor of the number of frames that is not above max_chunk_frames (one compilation serves all), and
    criteria are looked at every so many steps as is the largest divisor of a stride up to check_every.
    rungs: of ladders of temperatures, exchanged as often as divides a frame into equal rounds not longer
    than exchange_interval (default: once a frame).
    """
    stride = max(1, round(interval / dt))
    n_frames = max(1, round(duration / (stride * dt)))
    chunk = _largest_divisor(n_frames, max_chunk_frames)
    every = stride if exchange_interval is None else max(1, round(exchange_interval / dt))
    steps = _largest_divisor(stride, every)
    look = _largest_divisor(steps, check_every)
    return Settings(n_frames, stride, chunk, cutoff_A, check_every=look, rungs=rungs, rounds=stride // steps)


def short_settings(duration: float, dt: float, cutoff_A: float) -> Settings:
    """At least that long, both in one unit, in chunks that are the same for all: they share a compilation."""
    chunks = math.ceil(duration / (SHORT_STRIDE * SHORT_CHUNK * dt) - 1e-9)
    return Settings(max(1, chunks) * SHORT_CHUNK, SHORT_STRIDE, SHORT_CHUNK, cutoff_A)


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, min(limit, number) + 1) if number % d == 0)


def rollout(
    bead_energies: BeadEnergies,
    params: Any,
    system: System,
    positions: Float[Array | np.ndarray, "beads 3"],
    kT: Float[Array | np.ndarray, " graphs"],
    key: Array,
    integrator: Integrator,
    run: Settings,
    limits: Checks,
    fast: Fast | None = None,
    resume: Mapping[str, np.ndarray] | None = None,
) -> Iterator[Chunk]:
    """Run all graphs from the given positions, with Maxwell momenta, and yield chunks in order.

    kT: thermal energy of each graph, kcal/mol. With run.rungs every so many consecutive graphs are a ladder:
    they start at the same, rising thermal energies, and exchange them (see `exchange`).
    The computation is in the dtype of `positions`: parameters, masses and limits are brought to it.
    The same bead_energies, kind of integrator, stride and chunk compile once, whatever the parameters, kT and
    the integrator's numbers.
    fast: forces of the same energy, used between frames; each frame's own energy is that of bead_energies.
    With it a failure is seen, and its replica frozen, every run.check_every steps.
    resume: the named leaves of a snapshot of the same run, which goes on with the chunk after it.
    Ends early when every replica has failed. Raises ValueError on starting positions that are not
    finite (the status of a replica speaks of dynamics, not of input), on check_every without `fast`, and
    on a snapshot of another run; and on ladders of different molecules or thermal energies, or of another
    integrator than Langevin, whose momenta are not those of its temperature alone.
    """
    if fast is None and run.check_every > 1:
        raise ValueError(f"criteria every {run.check_every} steps need fast forces, which were not given")
    if not np.isfinite(np.asarray(positions)[system.bead_mask]).all():
        raise ValueError("starting positions hold values that are not finite")
    if run.rungs > 1 and not isinstance(integrator, Langevin):
        raise ValueError(f"replica exchange needs the integrator Langevin, found {type(integrator).__name__}")
    sets, rung = ladders_of(np.asarray(kT), system, run.rungs)
    x = jnp.asarray(positions)
    pairs = _pairs(system, run.cutoff_A)
    edges = run.headroom * _edge_count(np.asarray(positions), pairs, run.cutoff_A)
    capacity = _rounded(float(max(edges, run.min_edges)), pairs)
    start_key, *keys = jax.random.split(key, 3)
    keys = jnp.stack(keys)
    program = Program(bead_energies, None if fast is None else fast.forces, run.cutoff_A, capacity)
    lengths = Lengths(
        run.chunk_frames, run.rounds, run.stride // run.rounds // run.check_every, run.check_every
    )
    packed = in_dtype(system, x.dtype)
    given = Given(
        params=in_dtype(params, x.dtype),
        system=packed,
        pairs=pairs,
        kT=jnp.where(system.bead_mask, jnp.asarray(kT, x.dtype)[system.graph_id], 0.0),
        limits=in_dtype(limits, x.dtype),
        chain=() if fast is None else in_dtype(fast.chain, x.dtype),
        integrator=in_dtype(integrator, x.dtype),
        ladders=None if run.rungs == 1 else in_dtype(sets, x.dtype),
    )
    regrown = done = 0
    if resume is None:
        progress = start(program, given, start_key, x, rung)
        while bool(progress.state.at.overflow):
            program, regrown = _grown(program, pairs), regrown + 1
            progress = start(program, given, start_key, x, rung)
    else:
        like = start.eval_shape(program, given, start_key, x, rung)
        progress, done, capacity, regrown = _resumed(resume, like)
        program = replace(program, capacity=capacity)
    while done < run.n_frames and (done == 0 or _any_alive(progress, packed)):
        after, frames = advance(program, lengths, given, keys, progress)
        if bool(frames.overflow):
            program, regrown = _grown(program, pairs), regrown + 1
            continue
        progress, done = after, done + run.chunk_frames
        yield _to_host(progress, frames, done, run, float(integrator.dt), regrown, program.capacity)


def _grown(program: Program, pairs: Candidates) -> Program:
    """With room for half as many edges again."""
    return replace(program, capacity=_rounded(1.5 * program.capacity, pairs))


def _resumed(resume: Mapping[str, np.ndarray], progress: Any) -> tuple[Progress, int, int, int]:
    """Progress on the device, frames done, capacity and times regrown, from the named leaves of a snapshot.

    progress: the structure, shapes and dtypes of it.
    """
    count = np.asarray(0, np.int64)
    like = Snapshot(progress, count, count, count)
    progress, done, capacity, regrown = checkpoint.refilled(like, resume)
    return jax.tree.map(jnp.asarray, progress), int(done), int(capacity), int(regrown)


def _any_alive(progress: Progress, system: System) -> bool:
    return bool(jnp.any((progress.status == Status.OK) & system.graph_mask))


def _pairs(system: System, cutoff_A: float) -> Candidates:
    none = np.zeros(0, np.int32)
    return neighbors.candidates(system) if cutoff_A > 0.0 else Candidates(none, none)


def _edge_count(positions: np.ndarray, pairs: Candidates, cutoff_A: float) -> int:
    vectors = positions[pairs.receivers] - positions[pairs.senders]
    return int(((vectors**2).sum(-1) < cutoff_A**2).sum())


def _rounded(edges: float, pairs: Candidates) -> int:
    return min(CAPACITY_STEP * max(1, math.ceil(edges / CAPACITY_STEP)), len(pairs.senders))


def _to_host(
    progress: Progress,
    frames: Frames,
    done: int,
    run: Settings,
    dt: float,
    regrown: int,
    capacity: int,
) -> Chunk:
    index = np.arange(done - run.chunk_frames, done) + 1
    return Chunk(
        positions=np.asarray(frames.positions, np.float32),
        time_ps=index * run.stride * units.to_fs(dt) / 1000.0,
        potential=np.asarray(frames.potential),
        kinetic=np.asarray(frames.kinetic),
        temperature_K=np.asarray(frames.temperature_K),
        alive=np.asarray(frames.alive),
        rung=np.asarray(frames.rung),
        status=np.asarray(progress.status),
        fail_step=np.asarray(progress.fail_step),
        regrown=regrown,
        edge_capacity=capacity,
        snapshot=Snapshot(
            jax.tree.map(np.asarray, progress), *(np.asarray(v, np.int64) for v in (done, capacity, regrown))
        ),
    )
