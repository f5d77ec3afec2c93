"""What the device does in a run of packed replicas: the start, a step, a look at criteria, a frame, a chunk.

A replica that fails is frozen at its last good state; from then on the energy sees that state in its
place, so nothing that it became can reach the other replicas. What it had become is kept beside, once.
It keeps its temperature: in a run with exchange its neighbours on the ladder have one partner less.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cgrefine import energy, units
from cgrefine.compiling import ONCE
from cgrefine.energy import BeadEnergies
from cgrefine.geometry import AnyArray
from cgrefine.neighbors import Candidates
from cgrefine.sim.exchange import Ladders, rescaled, swapped
from cgrefine.sim.forces import edges_at, evaluation
from cgrefine.sim.langevin import Evaluate, Evaluation, Graphs, Integrator, State, packed_graphs
from cgrefine.sim.stability import Checks, Motion, first_failure
from cgrefine.status import Status
from cgrefine.system import System


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
    failed: the states that failed; rung (g,) int32 on the ladder of temperatures, 0 without one."""

    state: State
    status: Array
    fail_step: Array
    step: Array
    failed: Failed
    rung: Array


class Fast(NamedTuple):
    """A faster way to the forces of an energy, for replicas of one chain: see `cgrefine.dense`.

    forces(chain, x (3, R, L)) -> (3, R, L), hashable; chain: a tree of arrays.
    """

    forces: Callable[[Any, Array], Array]
    chain: Any


class Frames(NamedTuple):
    """Saved frames on the device: positions (s, n, 3) Å; potential, kinetic (s, g) kcal/mol;
    temperature_K (s, g) mean over the last round; alive (s, g) bool; rung (s, m, g) int32 in each of the m
    rounds of a frame; overflow () bool."""

    positions: Array
    potential: Array
    kinetic: Array
    temperature_K: Array
    alive: Array
    rung: Array
    overflow: Array


@dataclass(frozen=True)
class Program:
    """What a run is compiled for. cutoff_A = 0: the energy needs no neighbours; capacity: of the edge buffer;
    forces: the fast ones, see `Fast`, or None."""

    bead_energies: BeadEnergies
    forces: Callable[[Any, Array], Array] | None
    cutoff_A: float
    capacity: int


class Lengths(NamedTuple):
    """Of a chunk: frames, rounds a frame, looks at the criteria a round, and steps a look.

    Temperatures are exchanged at the beginning of a round.
    """

    chunk_frames: int
    rounds: int
    looks: int
    check_every: int


class Given(NamedTuple):
    """What a run is handed and does not change: params, system, all pairs, kT (n,) kcal/mol of each bead,
    limits, the tree of fast forces, the integrator, and the ladders of temperatures if there are any: kT is
    then that of the rungs at the start."""

    params: Any
    system: System
    pairs: Candidates
    kT: Array
    limits: Checks
    chain: Any
    integrator: Integrator
    ladders: Ladders | None = None


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def start(
    program: Program,
    given: Given,
    key: Array,
    x: Float[Array, "beads 3"],
    rung: Int[AnyArray, " graphs"],
) -> Progress:
    """The state at these positions with Maxwell momenta; what breaks a criterion there fails at step 0."""
    system, kT = given.system, given.kT
    n_graphs = system.graph_mask.shape[0]
    graphs = packed_graphs(jnp.asarray(system.graph_id), n_graphs)
    evaluate = _evaluator(program, given, program.forces)
    pair = given.integrator.pair(evaluate, jnp.asarray(system.mass)[:, None], kT[:, None], graphs)
    state = pair.init(key, x, given.params)
    alive = jnp.full(n_graphs, int(Status.OK), jnp.int32)
    status = first_failure(given.limits, _motion(state, system, kT), system, alive)
    fail_step = jnp.where(status == Status.OK, -1, 0).astype(jnp.int32)
    none = jax.tree.map(jnp.zeros_like, _failed(state))
    failed = _where((status != Status.OK)[system.graph_id], _failed(state), none)
    return Progress(state, status, fail_step, jnp.asarray(0, jnp.int32), failed, jnp.asarray(rung))


@partial(jax.jit, static_argnums=(0, 1))
def advance(
    program: Program, lengths: Lengths, given: Given, keys: Array, progress: Progress
) -> tuple[Progress, Frames]:
    """One chunk of frames. keys (2,): of steps and of exchanges.

    The key of a step is fold_in(key, step), so a chunk run again repeats its noise.
    """
    system = given.system
    step_key, exchange_key = keys

    def one_round(carry, _):
        before, overflow = carry
        if given.ladders is not None:
            before = _exchanged(given, given.ladders, lengths, exchange_key, before)
        here = _at_rungs(given, before.rung)
        heat = jnp.zeros(system.graph_mask.shape[0], before.state.positions.dtype)
        one_look = partial(_one_look, program, lengths, here, step_key)
        (after, overflow, heat), _ = jax.lax.scan(one_look, (before, overflow, heat), None, lengths.looks)
        if program.forces is not None:
            after, full = _with_energies(program, given, after)
            overflow = overflow | full
        return (after, overflow), (heat / lengths.looks, after.rung)

    def one_frame(carry, _):
        (after, overflow), (heat, rung) = jax.lax.scan(one_round, carry, None, lengths.rounds)
        frame = (
            after.state.positions,
            _potential(after.state, system),
            _kinetic(after.state, system),
            heat[-1],
            after.status == Status.OK,
            rung,
        )
        return (after, overflow), frame

    none = jnp.asarray(False)
    (progress, overflow), frames = jax.lax.scan(one_frame, (progress, none), None, lengths.chunk_frames)
    return progress, Frames(*frames, overflow=overflow)


def _one_look(program: Program, lengths: Lengths, given: Given, key: Array, carry, _):
    """Some steps, and the criteria: carry is (Progress, overflow so far, sum of kinetic temperatures)."""
    before, overflow, heat = carry
    system, step = given.system, before.step + lengths.check_every
    if program.forces is None:
        proposal = _edge_step(program, given, key, before)
    else:
        proposal = _fast_steps(program, lengths, given, key, before)
    status = first_failure(given.limits, _motion(proposal, system, given.kT), system, before.status)
    state = _chosen(status == Status.OK, system, proposal, before.state)
    newly = status != before.status
    after = before._replace(
        state=state,
        status=status,
        fail_step=jnp.where(newly, step, before.fail_step),
        step=step,
        failed=_where(newly[system.graph_id], _failed(proposal), before.failed),
    )
    heat = heat + graph_temperatures(_kinetic(state, system), system)
    return (after, overflow | proposal.at.overflow, heat), None


def _exchanged(given: Given, ladders: Ladders, lengths: Lengths, key: Array, before: Progress) -> Progress:
    """One round of swaps among the living, and the momenta of the new temperatures."""
    system, step = given.system, before.step
    alive = (before.status == Status.OK) & system.graph_mask
    number = step // (lengths.looks * lengths.check_every)
    potential = _potential(before.state, system)
    rung = swapped(jax.random.fold_in(key, step), ladders, before.rung, potential, alive, number)
    graphs = packed_graphs(jnp.asarray(system.graph_id), rung.shape[0])
    state = rescaled(before.state, ladders.kT[rung] / ladders.kT[before.rung], graphs)
    return before._replace(state=state, rung=rung)


def _at_rungs(given: Given, rung: Int[Array, " graphs"]) -> Given:
    """With the thermal energy of each bead at the rung of its graph."""
    if given.ladders is None:
        return given
    kT = given.ladders.kT[rung][given.system.graph_id]
    return given._replace(kT=jnp.where(given.system.bead_mask, kT, 0.0))


def _with_energies(program: Program, given: Given, after: Progress) -> tuple[Progress, Array]:
    """With the energies of its positions, which fast steps do not know; and whether the edges did not fit."""
    x, at = after.state.positions, after.state.at
    edges = edges_at(x, given.pairs, program.cutoff_A, program.capacity)
    at = at._replace(energies=program.bead_energies(given.params, x, given.system, edges))
    return after._replace(state=after.state._replace(at=at)), jnp.asarray(edges.overflow)


def _evaluator(program: Program, given: Given, forces: Callable[[Any, Array], Array] | None) -> Evaluate:
    """Energies of the program, and its forces: by differentiation, or the fast ones if they are given."""

    def evaluate(params, x):
        room = program.cutoff_A, program.capacity
        if forces is None:
            return evaluation(program.bead_energies, params, x, given.system, given.pairs, *room)
        edges, columns = edges_at(x, given.pairs, *room), _columns(x, given.system)
        per_bead = program.bead_energies(params, x, given.system, edges)
        force = _rows(forces(given.chain, columns - columns[:, :, :1]))
        return Evaluation(per_bead, force, jnp.asarray(edges.overflow))

    return evaluate


def _columns(rows: Array, system: System) -> Array:
    """Values of beads (n, ...) as (..., R, L), components first, of R replicas of one chain."""
    replicas = system.graph_mask.shape[0]
    return jnp.moveaxis(rows.reshape(replicas, -1, *rows.shape[1:]), (0, 1), (-2, -1))


def _rows(columns: Array) -> Array:
    """The inverse of `_columns` for vectors: (3, R, L) to (n, 3)."""
    return jnp.moveaxis(columns, 0, -1).reshape(-1, 3)


def _edge_step(program: Program, given: Given, key: Array, before: Progress) -> State:
    """The integrator, its energy shown the last good state wherever the new one must not be seen."""
    system, evaluate = given.system, _evaluator(program, given, None)
    alive = (before.status == Status.OK)[system.graph_id]

    def guarded(params, x):
        usable = alive & jnp.all(jnp.isfinite(x), axis=1)
        return evaluate(params, jnp.where(usable[:, None], x, before.state.positions))

    graphs = packed_graphs(jnp.asarray(system.graph_id), before.status.shape[0])
    pair = given.integrator.pair(guarded, jnp.asarray(system.mass)[:, None], given.kT[:, None], graphs)
    return pair.step(jax.random.fold_in(key, before.step + 1), before.state, given.params)


def _fast_steps(program: Program, lengths: Lengths, given: Given, key: Array, before: Progress) -> State:
    """The steps of one look of replicas of one chain, with components first, each about its own first bead.

    Replicas do not touch each other here, so what becomes of a failed one needs no guard. The energies
    of the state are left as they were.
    """

    system, forces = given.system, program.forces
    assert forces is not None

    def evaluate(params, x):
        return Evaluation(jnp.zeros((), x.dtype), forces(params, x), jnp.asarray(False))

    graphs = Graphs(lambda values: values.sum((0, 2)), lambda values: values[:, None])
    mass, kT = (_columns(jnp.asarray(values), system) for values in (system.mass, given.kT))
    pair = given.integrator.pair(evaluate, mass, kT, graphs)
    known = before.state.at
    x, p, f = (_columns(values, system) for values in (*before.state[:2], known.forces))
    origin, none = x[:, :, :1], jnp.zeros((), x.dtype)
    state = State(x - origin, p, Evaluation(none, f, jnp.asarray(False)), before.state.extra)

    def step(state, index):
        return pair.step(jax.random.fold_in(key, index), state, given.chain), None

    numbers = before.step + 1 + jnp.arange(lengths.check_every, dtype=jnp.int32)
    state, _ = jax.lax.scan(step, state, numbers)
    known = known._replace(forces=_rows(state.at.forces))
    return State(_rows(state.positions + origin), _rows(state.momenta), known, state.extra)


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


def _potential(state: State, system: System) -> Float[Array, " graphs"]:
    return energy.graph_energies(state.at.energies, jnp.asarray(system.graph_id), system.graph_mask.shape[0])


def _kinetic(state: State, system: System) -> Float[Array, " graphs"]:
    per_bead = jnp.sum(state.momenta**2, axis=1) / (2.0 * jnp.asarray(system.mass))
    return energy.graph_energies(per_bead, jnp.asarray(system.graph_id), system.graph_mask.shape[0])
