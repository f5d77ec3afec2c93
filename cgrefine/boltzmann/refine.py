"""The refinement loop: explore until the model fails, learn until it does not, again and again.

A value (`State`) and a step that advances it by one window: the same state gives the same numbers, whatever
happens in between two steps. Nothing here reads or writes files. Raja, Amin, Pedregosa & Krishnapriyan, TMLR
2025 (arXiv:2402.13984), section 3, is the scheme; what is decided otherwise is said in `config.refining`.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import jax
import numpy as np

from cgrefine.boltzmann.combine import START
from cgrefine.boltzmann.learning import Fit, Learner, Update
from cgrefine.boltzmann.pool import Pool, Rules, after, pool_of
from cgrefine.boltzmann.samples import Choice, sample_of
from cgrefine.boltzmann.windows import Simulator, Window
from cgrefine.energy import Params
from cgrefine.status import Status

EARLY = 0.1
"""The first part of a window, in which a death says that the parameters are bad rather than rare states."""


class Phase(IntEnum):
    """What a window is for."""

    EXPLORE = 0
    LEARN = 1
    DONE = 2


class Kept(NamedTuple):
    """A window that is still learned from, and the parameters that it was made with."""

    params: Params
    window: Window


class Counters(NamedTuple):
    """Whole numbers (). phase; cycle: learn phases begun; epoch: of this learn phase, ended; windows: of all;

    explored: windows since exploring began; stale: epochs since the least failed; learned: whether parameters
    changed in the epoch before.
    """

    phase: np.ndarray
    cycle: np.ndarray
    epoch: np.ndarray
    windows: np.ndarray
    explored: np.ndarray
    stale: np.ndarray
    learned: np.ndarray


class Marks(NamedTuple):
    """What an epoch is compared with, (). early: fraction of the replicas that failed at once in the window
    before; error: on held-out frames, (kcal/mol/Å)²; least: failed fraction of the best window of this phase;
    NaN before the first.
    """

    early: np.ndarray
    error: np.ndarray
    least: np.ndarray


class State(NamedTuple):
    """Everything that a refinement depends on, as host arrays. best: parameters of the window of this learn
    phase in which least failed; tripped (n, 3) Å: where the last window of exploring began; has_failed (r,):
    since exploring began.
    """

    fit: Fit
    best: Params
    pool: Pool
    tripped: np.ndarray
    has_failed: np.ndarray
    kept: tuple[Kept, ...]
    counters: Counters
    marks: Marks


class Info(NamedTuple):
    """What a step did. phase: of its window; cycle, epoch: of a learn phase, epoch from 1, 0 while exploring;

    window: from 1. failed: fraction in this window; since: that has failed since exploring began; statuses:
    failures by name. rejected: why the epoch before was taken back, or "". sent_back: healthy replicas.
    updates: done; error: on held-out frames, (kcal/mol/Å)²; rate: factor of the learning rate; multiplier: of
    the force constraint. next: phase of the next step.
    """

    phase: Phase
    cycle: int
    epoch: int
    window: int
    failed: float
    since: float
    statuses: dict[str, int]
    rejected: str
    sent_back: int
    updates: list[Update]
    error: float
    rate: float
    multiplier: float
    next: Phase


@dataclass(frozen=True)
class Refinement:
    """What stays the same. starts (n, 3) Å: of the replicas; choice, rules: in frames of a window."""

    learner: Learner
    simulator: Simulator
    starts: np.ndarray
    choice: Choice
    rules: Rules

    def init(self) -> State:
        """Before the first window."""
        cfg, fit = self.learner.cfg, self.learner.init()
        zero, nan = np.zeros((), np.int64), np.asarray(np.nan)
        phase = Phase.EXPLORE if cfg.explore_windows else Phase.LEARN
        counters = Counters(*([zero] * len(Counters._fields)))._replace(
            phase=np.asarray(int(phase)), cycle=np.asarray(0 if cfg.explore_windows else 1)
        )
        error = np.asarray(self.learner.matching.held_out(fit.params))
        return State(
            fit=fit,
            best=fit.params,
            pool=pool_of(self.starts, self.simulator.replicas, cfg.depth),
            tripped=np.asarray(self.starts, np.float32),
            has_failed=np.zeros(self.simulator.replicas, bool),
            kept=(),
            counters=counters,
            marks=Marks(nan, error, nan),
        )

    def step(self, state: State) -> tuple[State, Info]:
        """One window, and in a learn phase what is learned from it. Raises ValueError after the last one."""
        phase = Phase(int(state.counters.phase))
        if phase == Phase.DONE:
            raise ValueError("the refinement has ended")
        cfg, number = self.learner.cfg, int(state.counters.windows)
        learning = phase == Phase.LEARN
        begin = state.tripped if learning and cfg.restart == "tripped" else state.pool.positions
        key = jax.random.fold_in(jax.random.key(cfg.seed), number)
        window = self.simulator.window(state.fit.params, begin, key)
        rng = np.random.default_rng([cfg.seed, number])
        pool, sent_back = after(
            state.pool._replace(positions=begin), window, list(self.learner.molecules), self.rules, rng
        )
        seen = state._replace(
            pool=pool,
            has_failed=state.has_failed | (window.status != Status.OK),
            counters=state.counters._replace(windows=np.asarray(number + 1)),
        )
        if learning:
            found, updates, rejected = self._learned(seen, window, rng)
        else:
            found, updates, rejected = self._explored(seen, begin), [], ""
        counters = found.counters
        info = Info(
            phase=phase,
            cycle=int(state.counters.cycle),
            epoch=int(state.counters.epoch) + 1 if learning else 0,
            window=number + 1,
            failed=window.failed_fraction,
            since=float(seen.has_failed.mean()),
            statuses=_counted(window.status),
            rejected=rejected,
            sent_back=sent_back,
            updates=updates,
            error=float(found.marks.error),
            rate=float(found.fit.rate),
            multiplier=float(found.fit.balance.multiplier),
            next=Phase(int(counters.phase)),
        )
        return found, info

    def _explored(self, state: State, begin: np.ndarray) -> State:
        """After a window of exploring: go on, learn, or end."""
        cfg, explored = self.learner.cfg, int(state.counters.explored) + 1
        since = float(state.has_failed.mean())
        state = state._replace(counters=state.counters._replace(explored=np.asarray(explored)))
        if since < cfg.enter_failed and explored < cfg.explore_windows:
            return state
        if since < cfg.enter_failed and since <= (cfg.leave_failed or 0.0):
            return _in_phase(state, Phase.DONE)
        fit, nan = state.fit, np.asarray(np.nan)
        fresh = fit._replace(opt_state=self.learner.begun(fit.params), balance=START, rate=np.ones(()))
        counters = state.counters
        counters = counters._replace(
            cycle=counters.cycle + 1,
            epoch=0 * counters.epoch,
            stale=0 * counters.stale,
            learned=0 * counters.learned,
        )
        marks = state.marks._replace(early=nan, least=nan)
        state = state._replace(
            fit=fresh, best=fit.params, tripped=begin, kept=(), counters=counters, marks=marks
        )
        return _in_phase(state, Phase.LEARN)

    def _learned(
        self, state: State, window: Window, rng: np.random.Generator
    ) -> tuple[State, list[Update], str]:
        """After a window of learning: take back the epoch before, or learn; and is that enough?"""
        cfg, counters = self.learner.cfg, state.counters
        failed, early = window.failed_fraction, _early(window, self.simulator.steps)
        epoch = int(counters.epoch) + 1
        why = self._worse(state, failed, early) if counters.learned else ""
        state = state._replace(counters=counters._replace(epoch=np.asarray(epoch)))
        if why:
            return self._ended(self._taken_back(state), None), [], why
        state = self._noted(state, failed, early)
        enough = cfg.leave_failed is not None and failed <= cfg.leave_failed
        if enough:
            return self._ended(state, failed), [], ""
        if epoch >= cfg.epochs:
            better = cfg.reject_sigmas is not None and failed > float(state.marks.least)
            return self._ended(self._taken_back(state) if better else state, failed), [], ""
        kept = (*state.kept, Kept(state.fit.params, window))[-cfg.keep_windows :]
        samples = [[sample_of(m, k.window, self.choice) for m in self.learner.molecules] for k in kept]
        frames = self.learner.pooled(samples, [k.params for k in kept])
        fit, updates = self.learner.learn(state.fit, frames, rng)
        before, state = float(state.marks.error), state._replace(kept=kept)
        if not updates:
            return self._ended(state, failed), [], ""
        error = self.learner.matching.held_out(fit.params)
        grown = error / before - 1.0
        if self._bound and not grown <= cfg.forces.max_growth:  # nor is an error that is not finite borne
            state = self._taken_back(state._replace(fit=fit))
            return self._ended(state, failed), updates, f"the force error would have grown by {grown:.1%}"
        state = state._replace(
            fit=fit,
            counters=state.counters._replace(learned=np.asarray(1)),
            marks=state.marks._replace(error=np.asarray(error)),
        )
        return self._ended(state, failed), updates, ""

    def _taken_back(self, state: State) -> State:
        """With the best parameters of this phase, half the rate, and nothing to learn from."""
        fit = state.fit._replace(
            params=state.best, opt_state=self.learner.begun(state.best), rate=0.5 * state.fit.rate
        )
        counters = state.counters._replace(learned=np.asarray(0))
        error = np.asarray(self.learner.matching.held_out(fit.params))
        marks = state.marks._replace(error=error)
        return state._replace(fit=fit, kept=(), counters=counters, marks=marks)

    @property
    def _bound(self) -> bool:
        """Whether an epoch is taken back for its force error."""
        cfg = self.learner.cfg
        return cfg.forces.combine != "none" and cfg.reject_sigmas is not None

    def _worse(self, state: State, failed: float, early: float) -> str:
        """Why the epochs since the best one are taken back, or "": more failures than chance explains or
        most at once."""
        sigmas, count = self.learner.cfg.reject_sigmas, self.simulator.replicas
        if sigmas is None:
            return ""
        least = float(state.marks.least)
        p = 0.5 * (failed + least)
        error = np.sqrt(2.0 * p * (1.0 - p) / count)
        if failed - least > sigmas * error:
            return f"{failed:.1%} of the replicas failed, {least:.1%} before"
        if early > 0.5 >= float(state.marks.early):
            return f"{early:.1%} of the replicas failed in the first tenth of the window"
        return ""

    def _noted(self, state: State, failed: float, early: float) -> State:
        """With the best parameters of this phase, and the rate of a plateau of the failed fraction.

        A window with the parameters of the best one again, after an epoch that was taken back, makes its
        failed fraction the mean of both: the least of many is too low.
        """
        cfg, marks, counters = self.learner.cfg, state.marks, state.counters
        least, stale, fit = float(marks.least), int(counters.stale), state.fit
        if np.isnan(least) or (counters.learned and failed <= least):
            stale = 0 if np.isnan(least) or failed < least else stale + 1
            state, least = state._replace(best=fit.params), failed
        else:
            least, stale = least if counters.learned else 0.5 * (least + failed), stale + 1
        if cfg.plateau_epochs is not None and stale >= cfg.plateau_epochs:
            fit, stale = fit._replace(rate=cfg.plateau_factor * fit.rate), 0
        return state._replace(
            fit=fit,
            marks=marks._replace(least=np.asarray(least), early=np.asarray(early)),
            counters=counters._replace(stale=np.asarray(stale), learned=np.asarray(0)),
        )

    def _ended(self, state: State, failed: float | None) -> State:
        """The state with its next phase, after an epoch in which so many failed (None: as before)."""
        cfg, counters = self.learner.cfg, state.counters
        enough = failed is not None and cfg.leave_failed is not None and failed <= cfg.leave_failed
        over = int(counters.epoch) >= cfg.epochs or float(state.fit.rate) < cfg.min_rate_fraction
        if not (enough or over):
            return state
        if int(counters.cycle) >= cfg.cycles:
            return _in_phase(state, Phase.DONE)
        if cfg.explore_windows == 0:
            counters = counters._replace(cycle=counters.cycle + 1, epoch=0 * counters.epoch)
            return state._replace(counters=counters)
        counters = counters._replace(explored=0 * counters.explored)
        quiet = np.zeros_like(state.has_failed)
        return _in_phase(state._replace(counters=counters, has_failed=quiet), Phase.EXPLORE)


def _in_phase(state: State, phase: Phase) -> State:
    return state._replace(counters=state.counters._replace(phase=np.asarray(int(phase))))


def _early(window: Window, steps: int) -> float:
    """Fraction of the replicas that failed in the first part of a window."""
    return float(np.mean((window.status != Status.OK) & (window.fail_step < EARLY * steps)))


def _counted(status: np.ndarray) -> dict[str, int]:
    numbers, counts = np.unique(status[status != Status.OK], return_counts=True)
    return {Status(int(s)).name: int(c) for s, c in zip(numbers, counts, strict=True)}
