"""Many replicas of MD as one packed graph: a jitted scan on the device, given out in chunks of frames.

Neighbours are rebuilt at each step from all pairs within each graph (no skin). When a list does not
fit its buffer the chunk is thrown away and run again with a larger one, so no edge is ever dropped.
A replica that fails is frozen at its last good state; from then on the energy sees that state in its
place, so nothing that it became can reach the other replicas. What it had become is kept beside, once.
Each chunk carries a snapshot, from which the run goes on bit for bit (on the same kind of machine).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cgrefine import checkpoint, energy, neighbors, units
from cgrefine.compiling import ONCE
from cgrefine.energy import BeadEnergies
from cgrefine.geometry import AnyArray
from cgrefine.neighbors import Candidates
from cgrefine.sim.langevin import Evaluate, Evaluation, Graphs, Integrator, State, packed_graphs
from cgrefine.sim.stability import Checks, Motion, first_failure
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
    neighbours. headroom: edges of the first buffer relative to those of the starting frame.
    check_every: steps from one look at the failure criteria to the next; above 1 with fast forces only.
    """

    n_frames: int
    stride: int
    chunk_frames: int
    cutoff_A: float
    headroom: float = 1.5
    check_every: int = 1

    def __post_init__(self) -> None:
        if self.stride % self.check_every:
            raise ValueError(f"a stride of {self.stride} steps is not a multiple of {self.check_every}")
        if self.n_frames % self.chunk_frames:
            raise ValueError(f"{self.n_frames} frames are not whole chunks of {self.chunk_frames}")


class Failed(NamedTuple):
    """Each graph in the state that failed, as proposed and before it was frozen; zero while it is alive.

    positions, momenta, forces (n, 3); energies (n,); internal units. Not finite where that was the failure.
    """

    positions: AnyArray
    momenta: AnyArray
    forces: AnyArray
    energies: AnyArray


class Progress(NamedTuple):
    """What a run carries on: state; status, fail_step (g,) int32, fail_step -1 while alive; step () int32;
    failed: the states that failed."""

    state: State
    status: Array
    fail_step: Array
    step: Array
    failed: Failed


class Snapshot(NamedTuple):
    """A run after a whole chunk, on the host. frames (): given so far; capacity (): of the edge buffer;
    regrown (): times that it was enlarged. Goes to disk as `checkpoint.named_leaves` of it."""

    progress: Progress
    frames: np.ndarray
    capacity: np.ndarray
    regrown: np.ndarray


class Fast(NamedTuple):
    """A faster way to the forces of an energy, for replicas of one chain: see `cgrefine.dense`.

    forces(chain, x (3, R, L)) -> (3, R, L), hashable; chain: a tree of arrays.
    """

    forces: Callable[[Any, Array], Array]
    chain: Any


class Frames(NamedTuple):
    """Saved frames on the device: positions (s, n, 3) Å; potential, kinetic (s, g) kcal/mol;
    temperature_K (s, g) mean over the stride; alive (s, g) bool; overflow () bool."""

    positions: Array
    potential: Array
    kinetic: Array
    temperature_K: Array
    alive: Array
    overflow: Array


class Chunk(NamedTuple):
    """s frames of g graphs on the host.

    positions (s, n, 3) float32 Å; time_ps (s,); potential, kinetic (s, g) kcal/mol; temperature_K (s, g)
    kinetic, mean over the steps since the frame before; alive (s, g): False on frames that only repeat
    the last good state; status, fail_step (g,) at the end of the chunk (fail_step -1: none);
    regrown: times that the neighbour buffer was enlarged so far; edge_capacity: its size; snapshot: of the
    run after this chunk.
    """

    positions: np.ndarray
    time_ps: np.ndarray
    potential: np.ndarray
    kinetic: np.ndarray
    temperature_K: np.ndarray
    alive: np.ndarray
    status: np.ndarray
    fail_step: np.ndarray
    regrown: int
    edge_capacity: int
    snapshot: Snapshot


class Ended(NamedTuple):
    """What a run has come to: frames given; regrown; status, fail_step (g,), see Chunk; positions (n, 3) Å,
    the last good ones; failed: the states that failed."""

    frames: int
    regrown: int
    status: np.ndarray
    fail_step: np.ndarray
    positions: np.ndarray
    failed: Failed


def ended(named: Mapping[str, np.ndarray]) -> Ended:
    """The state of a run by the named leaves of a snapshot, whatever integrator it had."""
    return Ended(
        frames=int(named["frames"]),
        regrown=int(named["regrown"]),
        status=named["progress/status"],
        fail_step=named["progress/fail_step"],
        positions=named["progress/state/positions"],
        failed=Failed(*(named[f"progress/failed/{name}"] for name in Failed._fields)),
    )


def settings(
    duration: float,
    interval: float,
    dt: float,
    cutoff_A: float,
    max_chunk_frames: int = 10,
    check_every: int = 1,
) -> Settings:
    """Settings of a run of given duration and saving interval, both in the unit of dt.

    The interval is rounded to whole steps and the duration to whole intervals; a chunk is the largest
    divisor of the number of frames that is not above max_chunk_frames (one compilation serves all), and
    criteria are looked at every so many steps as is the largest divisor of a stride up to check_every.
    """
    stride = max(1, round(interval / dt))
    n_frames = max(1, round(duration / (stride * dt)))
    chunk = _largest_divisor(n_frames, max_chunk_frames)
    look = _largest_divisor(stride, check_every)
    return Settings(n_frames, stride, chunk, cutoff_A, check_every=look)


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

    kT: thermal energy of each graph, kcal/mol. The computation is in the dtype of `positions`: parameters,
    masses and limits are brought to it.
    The same bead_energies, kind of integrator, stride and chunk compile once, whatever the parameters, kT and
    the integrator's numbers.
    fast: forces of the same energy, used between frames; each frame's own energy is that of bead_energies.
    With it a failure is seen, and its replica frozen, every run.check_every steps.
    resume: the named leaves of a snapshot of the same run, which goes on with the chunk after it.
    Ends early when every replica has failed. Raises ValueError on starting positions that are not
    finite (the status of a replica speaks of dynamics, not of input), on check_every without `fast`, and
    on a snapshot of another run.
    """
    if fast is None and run.check_every > 1:
        raise ValueError(f"criteria every {run.check_every} steps need fast forces, which were not given")
    if not np.isfinite(np.asarray(positions)[system.bead_mask]).all():
        raise ValueError("starting positions hold values that are not finite")
    x = jnp.asarray(positions)
    packed, limits, params = (in_dtype(tree, x.dtype) for tree in (system, limits, params))
    pairs = _pairs(system, run.cutoff_A)
    capacity = _rounded(run.headroom * _edge_count(np.asarray(positions), pairs, run.cutoff_A), pairs)
    kT_bead = jnp.where(system.bead_mask, jnp.asarray(kT, x.dtype)[system.graph_id], 0.0)
    start_key, step_key = jax.random.split(key)
    leaves, kind = jax.tree.flatten(integrator)
    numbers = [jnp.asarray(leaf, x.dtype) for leaf in leaves]
    fixed = (bead_energies, kind, run.cutoff_A)
    lengths = (run.stride // run.check_every, run.chunk_frames, run.check_every)
    forces, chain = (None, ()) if fast is None else (fast.forces, in_dtype(fast.chain, x.dtype))
    begin = (forces, numbers, params, start_key, x, packed, pairs, kT_bead, limits, chain)
    if resume is None:
        progress, regrown, done = _start(*fixed, capacity, *begin), 0, 0
        while bool(progress.state.at.overflow):
            capacity, regrown = _rounded(1.5 * capacity, pairs), regrown + 1
            progress = _start(*fixed, capacity, *begin)
    else:
        progress, done, capacity, regrown = _resumed(resume, _start.eval_shape(*fixed, capacity, *begin))
    while done < run.n_frames and (done == 0 or _any_alive(progress, packed)):
        after, frames = _advance(
            *fixed,
            capacity,
            *lengths,
            forces,
            numbers,
            params,
            step_key,
            progress,
            packed,
            pairs,
            kT_bead,
            limits,
            chain,
        )
        if bool(frames.overflow):
            capacity, regrown = _rounded(1.5 * capacity, pairs), regrown + 1
            continue
        progress, done = after, done + run.chunk_frames
        yield _to_host(progress, frames, done, run, float(integrator.dt), regrown, capacity)


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


def in_dtype(tree: Any, dtype: Any) -> Any:
    """The tree with its floating-point arrays in one dtype, all as device arrays."""

    def leaf(value):
        floating = jnp.issubdtype(jnp.result_type(value), jnp.floating)
        return jnp.asarray(value, dtype) if floating else jnp.asarray(value)

    return jax.tree.map(leaf, tree)


def graph_temperatures(kinetic: Float[Array, " graphs"], system: System) -> Float[Array, " graphs"]:
    """Kinetic temperature of each graph, K, from its kinetic energy (kcal/mol) and 3n degrees of freedom."""
    beads = jnp.asarray(system.bead_mask).astype(kinetic.dtype)
    count = jax.ops.segment_sum(beads, jnp.asarray(system.graph_id), kinetic.shape[0])
    return 2.0 * kinetic / (3.0 * jnp.maximum(count, 1.0) * units.KB)


def _edges(cutoff_A: float, capacity: int, pairs: Candidates, x: Array) -> neighbors.Neighbors:
    if cutoff_A > 0.0:
        return neighbors.update(x, pairs, cutoff_A, capacity)
    none = np.zeros(0, np.int32)
    return neighbors.padded(none, none, 0)


def _evaluator(
    bead_energies, cutoff_A: float, capacity: int, system: System, pairs: Candidates, forces, chain
) -> Evaluate:
    """Energies of bead_energies, and its forces: by differentiation, or the fast ones if they are given."""

    def evaluate(params, x):
        edges = _edges(cutoff_A, capacity, pairs, x)
        overflow = jnp.asarray(edges.overflow)
        if forces is None:
            per_bead, force = energy.bead_energies_and_forces(bead_energies, params, x, system, edges)
            return Evaluation(per_bead, force, overflow)
        columns = _columns(x, system)
        force = _rows(forces(chain, columns - columns[:, :, :1]))
        return Evaluation(bead_energies(params, x, system, edges), force, overflow)

    return evaluate


def _columns(rows: Array, system: System) -> Array:
    """Values of beads (n, ...) as (..., R, L), components first, of R replicas of one chain."""
    replicas = system.graph_mask.shape[0]
    return jnp.moveaxis(rows.reshape(replicas, -1, *rows.shape[1:]), (0, 1), (-2, -1))


def _rows(columns: Array) -> Array:
    """The inverse of `_columns` for vectors: (3, R, L) to (n, 3)."""
    return jnp.moveaxis(columns, 0, -1).reshape(-1, 3)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), compiler_options=ONCE)
def _start(
    bead_energies,
    kind,
    cutoff_A,
    capacity,
    forces,
    numbers,
    params,
    key,
    x,
    system,
    pairs,
    kT,
    limits,
    chain,
) -> Progress:
    integrator = jax.tree.unflatten(kind, numbers)
    evaluate = _evaluator(bead_energies, cutoff_A, capacity, system, pairs, forces, chain)
    n_graphs = system.graph_mask.shape[0]
    graphs = packed_graphs(jnp.asarray(system.graph_id), n_graphs)
    pair = integrator.pair(evaluate, jnp.asarray(system.mass)[:, None], kT[:, None], graphs)
    state = pair.init(key, x, params)
    alive = jnp.full(n_graphs, int(Status.OK), jnp.int32)
    status = first_failure(limits, _motion(state, system, kT), system, alive)
    fail_step = jnp.where(status == Status.OK, -1, 0).astype(jnp.int32)
    none = jax.tree.map(jnp.zeros_like, _failed(state))
    failed = _where((status != Status.OK)[system.graph_id], _failed(state), none)
    return Progress(state, status, fail_step, jnp.asarray(0, jnp.int32), failed)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5, 6, 7))
def _advance(
    bead_energies,
    kind,
    cutoff_A,
    capacity,
    looks,
    chunk_frames,
    check_every,
    forces,
    numbers,
    params,
    key,
    progress,
    system,
    pairs,
    kT,
    limits,
    chain,
) -> tuple[Progress, Frames]:
    """One chunk: frames of so many looks at the criteria, of check_every steps each.

    The key of a step is fold_in(key, step), so a chunk run again repeats its noise.
    """
    integrator = jax.tree.unflatten(kind, numbers)
    evaluate = _evaluator(bead_energies, cutoff_A, capacity, system, pairs, None, chain)

    def edge_step(before: Progress) -> State:
        """The integrator, its energy shown the last good state wherever the new one must not be seen."""
        alive = (before.status == Status.OK)[system.graph_id]

        def guarded(params, x):
            usable = alive & jnp.all(jnp.isfinite(x), axis=1)
            return evaluate(params, jnp.where(usable[:, None], x, before.state.positions))

        graphs = packed_graphs(system.graph_id, before.status.shape[0])
        pair = integrator.pair(guarded, system.mass[:, None], kT[:, None], graphs)
        return pair.step(jax.random.fold_in(key, before.step + 1), before.state, params)

    def propose(before: Progress) -> State:
        if forces is None:
            return edge_step(before)
        return _fast_steps(integrator, forces, chain, check_every, key, before, system, kT)

    def one_look(carry, _):
        before, overflow, heat = carry
        step = before.step + check_every
        proposal = propose(before)
        status = first_failure(limits, _motion(proposal, system, kT), system, before.status)
        alive = status == Status.OK
        state = _chosen(alive, system, proposal, before.state)
        newly = status != before.status
        fail_step = jnp.where(newly, step, before.fail_step)
        failed = _where(newly[system.graph_id], _failed(proposal), before.failed)
        heat = heat + graph_temperatures(_kinetic(state, system), system)
        after = Progress(state, status, fail_step, step, failed)
        return (after, overflow | proposal.at.overflow, heat), None

    def one_frame(carry, _):
        before, overflow = carry
        heat = jnp.zeros(system.graph_mask.shape[0], before.state.positions.dtype)
        (after, overflow, heat), _ = jax.lax.scan(one_look, (before, overflow, heat), None, looks)
        if forces is not None:
            x, at = after.state.positions, after.state.at
            edges = _edges(cutoff_A, capacity, pairs, x)
            at = at._replace(energies=bead_energies(params, x, system, edges))
            after = after._replace(state=after.state._replace(at=at))
            overflow = overflow | jnp.asarray(edges.overflow)
        potential = energy.graph_energies(after.state.at.energies, system.graph_id, heat.shape[0])
        frame = (
            after.state.positions,
            potential,
            _kinetic(after.state, system),
            heat / looks,
            after.status == Status.OK,
        )
        return (after, overflow), frame

    none = jnp.asarray(False)
    (progress, overflow), frames = jax.lax.scan(one_frame, (progress, none), None, chunk_frames)
    return progress, Frames(*frames, overflow=overflow)


def _fast_steps(
    integrator, forces, chain, steps: int, key: Array, before: Progress, system: System, kT
) -> State:
    """`steps` steps of replicas of one chain with components first, each about its own first bead.

    Replicas do not touch each other here, so what becomes of a failed one needs no guard. The energies
    of the state are left as they were.
    """

    def evaluate(params, x):
        return Evaluation(jnp.zeros((), x.dtype), forces(params, x), jnp.asarray(False))

    graphs = Graphs(lambda values: values.sum((0, 2)), lambda values: values[:, None])
    mass = _columns(jnp.asarray(system.mass), system)
    pair = integrator.pair(evaluate, mass, _columns(kT, system), graphs)
    known = before.state.at
    x, p, f = (_columns(values, system) for values in (*before.state[:2], known.forces))
    origin, none = x[:, :, :1], jnp.zeros((), x.dtype)
    state = State(x - origin, p, Evaluation(none, f, jnp.asarray(False)), before.state.extra)

    def step(state, index):
        return pair.step(jax.random.fold_in(key, index), state, chain), None

    state, _ = jax.lax.scan(step, state, before.step + 1 + jnp.arange(steps, dtype=jnp.int32))
    known = known._replace(forces=_rows(state.at.forces))
    return State(_rows(state.positions + origin), _rows(state.momenta), known, state.extra)


def _where(here: Bool[Array, " rows"], yes: Any, no: Any) -> Any:
    """Trees of arrays (n, ...), row by row."""

    def pick(a, b):
        return jnp.where(here.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, yes, no)


def _failed(state: State) -> Failed:
    return Failed(state.positions, state.momenta, state.at.forces, state.at.energies)


def _chosen(alive: Bool[Array, " graphs"], system: System, new: State, old: State) -> State:
    """The new state of graphs that are alive, the old one of the others."""
    pick = partial(_where, alive[system.graph_id])
    at = Evaluation(
        pick(new.at.energies, old.at.energies), pick(new.at.forces, old.at.forces), new.at.overflow
    )
    positions, momenta = pick(new.positions, old.positions), pick(new.momenta, old.momenta)
    return State(positions, momenta, at, _where(alive, new.extra, old.extra))


def _motion(state: State, system: System, kT: Float[Array, " beads"]) -> Motion:
    mass = jnp.asarray(system.mass)
    return Motion(state.positions, state.momenta, state.at.forces, state.at.energies, mass, kT)


def _kinetic(state: State, system: System) -> Float[Array, " graphs"]:
    per_bead = jnp.sum(state.momenta**2, axis=1) / (2.0 * jnp.asarray(system.mass))
    return energy.graph_energies(per_bead, jnp.asarray(system.graph_id), system.graph_mask.shape[0])


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
        status=np.asarray(progress.status),
        fail_step=np.asarray(progress.fail_step),
        regrown=regrown,
        edge_capacity=capacity,
        snapshot=Snapshot(
            jax.tree.map(np.asarray, progress), *(np.asarray(v, np.int64) for v in (done, capacity, regrown))
        ),
    )
