"""Updates of the parameters from the frames of one window (or of the last few): init/step of a learn phase.

Each update reweights the frames to the parameters of the moment, estimates the gradient of all losses in one
reverse pass, joins it with that of a minibatch of forces, and is scaled down to what the frames can bear.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import optax

from cgrefine.boltzmann.combine import START, Balance, combined, cosine, norm, with_multiplier
from cgrefine.boltzmann.estimate import Estimated, Objective, Reference, estimated
from cgrefine.boltzmann.samples import Pooled, Sample, Worth, pooled, worth
from cgrefine.boltzmann.surrogate import CHUNK_BEADS, Ensemble, surrogate_gradient
from cgrefine.boltzmann.weights import NoOverlap, reduced_spread
from cgrefine.boltzmann.windows import Molecule
from cgrefine.config.refining import Refine
from cgrefine.energy import BeadEnergies, Params
from cgrefine.observables.structure import valuer
from cgrefine.sim import evaluation, rooms
from cgrefine.sim.rooms import Room

MOMENTUM = 0.9

TINY = float(np.finfo(np.float32).tiny)

VERIFIED = 1.5
"""Factor about the allowed spread, within which the share of a step needs no further look."""

LOOKS = 4
"""At the spread of a step, at most."""


@runtime_checkable
class Matched(Protocol):
    """A minibatch of forces. loss: (kcal/mol/Å)²; growth: relative to the start, on the same frames."""

    @property
    def loss(self) -> float: ...

    @property
    def growth(self) -> float: ...

    @property
    def gradient(self) -> Params: ...


@runtime_checkable
class Matching(Protocol):
    """Force matching, as it is handed to the loop."""

    def step(self, params: Params, number: int) -> Matched:
        """Loss and gradient, by all parameters, of minibatch `number`."""
        ...

    def held_out(self, params: Params) -> float:
        """Mean squared error on held-out frames, (kcal/mol/Å)²."""
        ...


class Frames(NamedTuple):
    """Frames of one molecule that bound a step. positions (f, n, 3) Å; weights (f,) sum to 1."""

    positions: np.ndarray
    weights: np.ndarray


class Arm(NamedTuple):
    """The control: what forces alone make of the same number of updates. balance: its running norm.

    Its steps are scaled down by the same rule, on reference frames: it has none of its own.
    """

    params: Params
    opt_state: Any
    balance: Balance


class Fit(NamedTuple):
    """What learning carries on. params: of all terms; opt_state: of the refined ones; rate (): factor of the
    learning rate; updates (): so far; control: None without."""

    params: Params
    opt_state: Any
    balance: Balance
    rate: np.ndarray
    updates: np.ndarray
    control: Arm | None


class Update(NamedTuple):
    """One update. losses: by molecule and target; signal: cosine between the gradients of half the replicas.

    own, forces: norms of both gradients, own being 0 where noise was left out; agreement: their cosine;
    force_loss, growth: see Matched; kish, entropy: the smallest of all molecules, over their frames; spread:
    the largest, since the window; step: by which the update was scaled; n_eff: the smallest; told: molecules
    whose covariance could be told.
    """

    losses: dict[str, dict[str, float]]
    signal: float
    own: float
    forces: float
    agreement: float
    force_loss: float
    growth: float
    kish: float
    entropy: float
    spread: float
    step: float
    n_eff: float
    told: int


@dataclass(frozen=True)
class Learner:
    """What stays the same. objectives, references (f, n, 3) Å: of each molecule; terms: that are refined;

    start: the parameters before, of the anchor; cutoff_A: of the model, 0 without neighbours.
    """

    model: BeadEnergies
    cutoff_A: float
    molecules: Sequence[Molecule]
    objectives: Sequence[Objective]
    references: Sequence[np.ndarray]
    matching: Matching
    terms: tuple[str, ...]
    start: Params
    cfg: Refine

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Of the refined terms; its updates are for a rate factor of 1."""
        cfg = self.cfg
        rules = {
            "adam": optax.scale_by_adam,
            "sgd": optax.identity,
            "momentum": lambda: optax.trace(MOMENTUM),
        }
        clip = optax.identity() if cfg.clip_norm is None else optax.clip_by_global_norm(cfg.clip_norm)
        return optax.chain(clip, rules[cfg.optimizer](), optax.scale(-cfg.learning_rate))

    def init(self) -> Fit:
        """Before the first update."""
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), self.start)
        state = self.begun(params)
        arm = Arm(params, state, START) if self.cfg.evaluation.control else None
        return Fit(params, state, START, np.ones(()), np.zeros((), np.int64), arm)

    def begun(self, params: Params) -> Any:
        """The optimiser's state without a memory."""
        return _host(self.optimizer.init(self.free(params)))

    def free(self, params: Params) -> Params:
        """The part that is refined."""
        return {name: params[name] for name in self.terms}

    def pooled(self, samples: Sequence[Sequence[Sample]], params: Sequence[Params]) -> list[Pooled]:
        """Frames of each molecule, from its samples of each window and the parameters of these.

        Of the newest window alone, where the windows do not overlap.
        """
        return [
            self._pooled(m, [of_window[m] for of_window in samples], params)
            for m in range(len(self.molecules))
        ]

    def _pooled(self, m: int, samples: Sequence[Sample], params: Sequence[Params]) -> Pooled:
        energies = [lambda x, theta=theta: self.reduced(m, theta, x) for theta in params]
        frames = pooled(samples, self._values[m], energies)
        try:
            if len(samples) > 1 and len(frames.sample.share):
                worth(frames, frames.reduced[-1])
        except NoOverlap:
            return self._pooled(m, samples[-1:], params[-1:])
        return frames

    def reduced(self, m: int, params: Params, frames: np.ndarray) -> np.ndarray:
        """U/kT of frames (f, n, 3) of a molecule, (f,) float64."""
        topology = self.molecules[m].topology
        u = evaluation.energies(self.model, params, topology, frames, self.cutoff_A, self._room)
        return self.objectives[m].beta * u.sum(axis=1)

    def learn(self, fit: Fit, frames: Sequence[Pooled], rng: np.random.Generator) -> tuple[Fit, list[Update]]:
        """Up to updates_per_window updates; molecules without a frame are left out. [] when none has any.

        An update with a number that is not finite changes nothing: step 0. Frames that cannot be weighted,
        because an energy is not finite, end the updates.
        """
        there = [m for m, f in enumerate(frames) if len(f.sample.share)]
        chosen = {m: self._reference(m, rng) for m in there}
        at_start = {m: self.reduced(m, self.start, x) for m, x in chosen.items()} if self.cfg.anchor else {}
        done: list[Update] = []
        at_first: dict[int, Worth] = {}
        now = {m: self.reduced(m, fit.params, frames[m].sample.positions) for m in there}
        while there and len(done) < self.cfg.updates_per_window:
            try:
                worths = {m: worth(frames[m], now[m]) for m in there}
            except ValueError:  # of the weights, see above: the next window begins anew
                break
            at_first = at_first or worths
            if min(w.kish / at_first[m].kish for m, w in worths.items()) < self.cfg.min_kish:
                break
            references = {
                m: Reference(x, self.reduced(m, fit.params, x) - at_start[m] if at_start else None)
                for m, x in chosen.items()
            }
            found = {
                m: estimated(
                    self.objectives[m], frames[m], worths[m].weights, references[m], 1.0 / len(there), rng
                )
                for m in there
            }
            fit, update, now = self._updated(fit, frames, worths, found, now)
            done.append(update)
        return fit, done

    def _updated(
        self,
        fit: Fit,
        frames: Sequence[Pooled],
        worths: dict[int, Worth],
        found: dict[int, Estimated],
        now: dict[int, np.ndarray],
    ) -> tuple[Fit, Update, dict[int, np.ndarray]]:
        cfg = self.cfg
        halves = [
            self._gradient([e for one in found.values() for e in one.halves[h]], fit.params) for h in (0, 1)
        ]
        own, signal = jax.tree.map(np.add, *halves), cosine(*halves)
        if cfg.min_signal is not None and signal < cfg.min_signal:
            own = jax.tree.map(np.zeros_like, own)
        matched = self.matching.step(fit.params, int(fit.updates))
        forces = self.free(matched.gradient)
        direction, balance = combined(cfg.forces.combine, own, forces, fit.balance, cfg.forces.weight)
        balance = with_multiplier(balance, matched.growth, cfg.forces.tolerance, cfg.forces.multiplier_rate)
        moves, opt_state = self.optimizer.update(direction, fit.opt_state, self.free(fit.params))
        moves = jax.tree.map(lambda leaf: np.asarray(fit.rate * leaf, np.float32), moves)
        params, after, step = fit.params, now, 0.0
        if _finite((moves, opt_state, balance)):
            own_frames = {m: Frames(frames[m].sample.positions, w.weights) for m, w in worths.items()}
            params, after, step = self._within(fit.params, moves, own_frames, now)
        else:  # neither does it stay in what is carried on
            opt_state, balance = fit.opt_state, fit.balance
        update = Update(
            losses={self.molecules[m].name: one.losses for m, one in found.items()},
            signal=signal,
            own=norm(own),
            forces=norm(forces),
            agreement=cosine(own, forces),
            force_loss=matched.loss,
            growth=matched.growth,
            kish=min(w.kish for w in worths.values()),
            entropy=min(w.entropy for w in worths.values()),
            spread=max(w.spread for w in worths.values()),
            step=step,
            n_eff=min(one.n_eff for one in found.values()),
            told=sum(one.told for one in found.values()),
        )
        control = self._controlled(fit.control, int(fit.updates))
        fit = Fit(params, _host(opt_state), balance, fit.rate, fit.updates + 1, control)
        return fit, update, after

    def _within(
        self,
        params: Params,
        moves: Params,
        frames: dict[int, Frames],
        now: dict[int, np.ndarray],
    ) -> tuple[Params, dict[int, np.ndarray], float]:
        """The parameters after a step within the trust region, U/kT there, and the share that was taken.

        The spread of a change of U/kT is nearly linear in it, so that in proportion the next share is found
        from the last, between the longest that was short enough and the shortest that was not. A step to
        energies that are not finite is not taken: share 0.
        """
        taken, share, most = (params, now, 0.0), 1.0, self.cfg.max_spread
        short, long = 0.0, np.inf
        for look in range(LOOKS):
            moved = {**params, **_moved(self.free(params), moves, share)}
            there = {m: self.reduced(m, moved, frames[m].positions) for m in now}
            if not all(np.isfinite(u).all() for u in there.values()):
                return params, now, 0.0
            if most is None:
                return moved, there, share
            s = max(reduced_spread(there[m] - now[m], frames[m].weights) for m in now)
            if s <= VERIFIED * most and (s >= most / VERIFIED or (look == 0 and s <= most)):
                return moved, there, share
            if s <= most:
                taken, short = (moved, there, share), share
            else:
                long = share
            guess = share * most / max(s, TINY)
            share = guess if short < guess < long else 0.5 * (short + long)
        return taken

    def _gradient(self, ensembles: list[Ensemble], params: Params) -> Params:
        """Of the refined terms; zero without a frame."""
        if not ensembles:
            return jax.tree.map(np.zeros_like, self.free(params))
        found = surrogate_gradient(self.model, params, ensembles, self.cutoff_A, within=self._chunk)
        return self.free(found)

    def _controlled(self, arm: Arm | None, number: int) -> Arm | None:
        """The control after the same minibatch; as it was, if that is not finite."""
        if arm is None:
            return None
        forces = self.free(self.matching.step(arm.params, number).gradient)
        size = norm(forces)
        running, cfg = arm.balance, self.cfg.forces
        if cfg.combine == "weighted":
            direction = jax.tree.map(lambda leaf: cfg.weight * leaf, forces)
        else:
            _, running = combined("constraint", forces, forces, running, 1.0)
            divisor = np.float32(max(float(running.forces), TINY) if size else 1.0)
            direction = jax.tree.map(lambda leaf: leaf / divisor, forces)
        moves, opt_state = self.optimizer.update(direction, arm.opt_state, self.free(arm.params))
        if not _finite((moves, opt_state, running)):
            return arm
        moves = jax.tree.map(lambda d: np.asarray(d, np.float32), moves)
        now = {m: self.reduced(m, arm.params, x.positions) for m, x in self._bounds.items()}
        params, _, _ = self._within(arm.params, moves, self._bounds, now)
        return Arm(params, _host(opt_state), running)

    @cached_property
    def _bounds(self) -> dict[int, Frames]:
        """Reference frames that bound the steps of the control; none without a trust region."""
        if self.cfg.max_spread is None:
            return {}
        count = self.cfg.reference_frames
        chosen = [x[np.linspace(0, len(x) - 1, min(count, len(x))).astype(int)] for x in self.references]
        return {
            m: Frames(np.asarray(x, np.float32), np.full(len(x), 1.0 / len(x))) for m, x in enumerate(chosen)
        }

    def _reference(self, m: int, rng: np.random.Generator) -> np.ndarray:
        """Reference frames of a window, none twice."""
        x = self.references[m]
        count = min(self.cfg.reference_frames, len(x))
        return np.asarray(x[np.sort(rng.permutation(len(x))[:count])], np.float32)

    @cached_property
    def _values(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        """Of each molecule: frames (f, n, 3) -> values of all targets in a row (f, k)."""

        def of(objective: Objective) -> Callable[[np.ndarray], np.ndarray]:
            if not objective.targets:
                return lambda x: np.zeros((len(x), 0))
            values = valuer([t.observable for t in objective.targets])
            widths = [columns.stop - columns.start for columns in objective.slices()]

            def rows(x: np.ndarray) -> np.ndarray:
                parts = zip(values(x), widths, strict=True)
                return np.concatenate([v.reshape(len(x), width) for v, width in parts], axis=1)

            return rows

        return [of(objective) for objective in self.objectives]

    @cached_property
    def _pieces(self) -> list[tuple[Any, np.ndarray]]:
        return [
            (m.topology, x[:: max(1, len(x) // 20)])
            for m, x in zip(self.molecules, self.references, strict=True)
        ]

    @cached_property
    def _room(self) -> Room:
        """Of energies."""
        return evaluation.room(self._pieces, self.cutoff_A)

    @cached_property
    def _chunk(self) -> Room:
        """Of the reverse pass."""
        return rooms.room(self._pieces, self.cutoff_A, CHUNK_BEADS)


def _moved(params: Params, moves: Params, share: float) -> Params:
    return jax.tree.map(lambda p, d: p + np.float32(share) * d, params, moves)


def _finite(tree: Any) -> bool:
    return all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def _host(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True) if isinstance(leaf, jax.Array) else leaf, tree)
