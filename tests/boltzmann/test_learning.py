"""Updates of a learn phase on springs of two beads, whose frames are drawn from their exact density."""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.boltzmann.estimate import Objective
from cgrefine.boltzmann.learning import VERIFIED, Learner
from cgrefine.boltzmann.samples import Sample, worth
from cgrefine.boltzmann.targets import Target
from cgrefine.boltzmann.weights import reduced_spread
from cgrefine.config.refining import Refine
from cgrefine.energy import BondedTerm, SumOfTerms
from cgrefine.observables.structure import Observable
from tests.boltzmann.windows import molecules

BETA, REPLICAS = 1.0 / 0.6, 4
TRUTH = {"stiff": np.log(1.6), "shift": 0.5}
"""Of the reference: k = 80 kcal/mol/Å², r0 = 3.8 Å."""


def spring(p):
    """k and r0 of parameters that are about 1 where anything changes."""
    return 50.0 * np.exp(p["stiff"]), 3.75 + 0.1 * p["shift"]


def stretched(p, r, kind):
    return 25.0 * jnp.exp(p["stiff"]) * (r - 3.75 - 0.1 * p["shift"]) ** 2


MODEL = SumOfTerms(
    (
        BondedTerm("spring", "bond", stretched),
        BondedTerm("other", "bond", lambda p, r, kind: p["height"] * (r - 3.8)),
    )
)
NIL = np.asarray(0.0, np.float32)
START = {"spring": {"stiff": NIL, "shift": NIL}, "other": {"height": NIL}}
LENGTH = Observable("length", "Å", (), lambda x: x[1, 2] - x[0, 2])
TARGET = Target(LENGTH, "mse", np.asarray(3.9), np.asarray(0.0), floor=1e-3)


def frames(k, r0, count, seed):
    """Frames (count, 2, 3) Å along z, whose lengths have the density r² exp(-½ βk (r - r0)²)."""
    r = np.linspace(r0 - 1.0, r0 + 1.0, 20001)
    density = np.cumsum(r**2 * np.exp(-0.5 * BETA * k * (r - r0) ** 2))
    drawn = np.interp(np.random.default_rng(seed).random(count), density / density[-1], r)
    x = np.zeros((count, 2, 3), np.float32)
    x[:, 1, 2] = drawn
    return x


def drawn(params, count=120, seed=0):
    """A sample of its own parameters: so many frames in all of the replicas."""
    replica = np.repeat(np.arange(REPLICAS), count // REPLICAS)
    x = frames(*spring(params["spring"]), len(replica), seed)
    return Sample(x, np.ones(len(replica)), replica)


class Matched(NamedTuple):
    """A minibatch of forces."""

    loss: float
    growth: float
    gradient: dict


class Forces:
    """A paraboloid about TRUTH, whose minibatches pull the spring a little each its own way.

    broken: numbers of minibatches whose gradient is not finite.
    """

    def __init__(self, broken=()):
        self.broken, self.asked = broken, []

    def step(self, params, number):
        """Loss and gradient of minibatch `number`."""
        self.asked.append(number)
        own = params["spring"]
        bad = np.float32(np.nan if number in self.broken else 1.0)
        gradient = {
            "spring": {
                "stiff": bad * np.asarray(own["stiff"] - TRUTH["stiff"] + 0.2 * (number % 3), np.float32),
                "shift": bad * np.asarray(2.0 * (own["shift"] - TRUTH["shift"]), np.float32),
            },
            "other": {"height": bad * np.asarray(5.0, np.float32)},
        }
        return Matched(0.5, 0.1 * number, gradient)

    def held_out(self, params):
        """Not asked for by updates."""
        raise AssertionError


@cache
def parts(count=1):
    """Molecules, and reference frames of each."""
    return molecules(*[(2, REPLICAS)] * count), [frames(*spring(TRUTH), 400, 90 + k) for k in range(count)]


def learner(matching=None, targets=(), terms=("spring",), count=1, **fields):
    cfg = Refine.model_validate(
        {
            "learning_rate": 0.02,
            "reference_frames": 100,
            "forces": {"combine": "constraint"},
            "evaluation": {"control": True},
            **fields,
        }
    )
    own, known = parts(count)
    objectives = [Objective(m.topology, targets, BETA, cfg) for m in own]
    return Learner(MODEL, 0.0, own, objectives, known, matching or Forces(), terms, START, cfg)


def learned(of, fit=None, samples=None, seed=0):
    """After one window of the frames that the parameters of the moment make."""
    fit = of.init() if fit is None else fit
    samples = (
        [drawn(fit.params, seed=seed + m) for m in range(len(of.molecules))] if samples is None else samples
    )
    pooled = of.pooled([samples], [fit.params])
    return *of.learn(fit, pooled, np.random.default_rng(seed)), pooled


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def spread_of(of, frames, before, after):
    """Of the change of U/kT in a step, over the frames weighted to the parameters before it."""
    u = [of.reduced(0, params, frames.sample.positions) for params in (before, after)]
    return reduced_spread(u[1] - u[0], worth(frames, u[0]).weights)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "momentum"])
def test_no_update_changes_the_weights_by_more_than_the_trust_region(optimizer):
    """Steps that are too long are cut to max_spread within a factor of 1.5, and short ones are not."""
    most = 0.2
    of = learner(optimizer=optimizer, learning_rate=0.6, max_spread=most, updates_per_window=1, min_kish=0.01)
    fit, frames = of.init(), of.pooled([[drawn(START)]], [START])
    for number in range(4):
        after, (update,) = of.learn(fit, frames, np.random.default_rng(number))
        assert 0.0 < update.step < 1.0
        spread = spread_of(of, frames[0], fit.params, after.params)
        assert most / VERIFIED <= spread <= VERIFIED * most
        fit = after
    slow = learner(optimizer=optimizer, learning_rate=1e-4, max_spread=most, updates_per_window=1)
    after, (update,) = slow.learn(slow.init(), frames, np.random.default_rng(0))
    assert update.step == 1.0
    free = learner(optimizer=optimizer, learning_rate=0.6, max_spread=None, updates_per_window=1)
    after, (update,) = free.learn(free.init(), frames, np.random.default_rng(0))
    assert update.step == 1.0 and spread_of(free, frames[0], START, after.params) > VERIFIED * most


def test_a_step_is_the_share_of_what_the_optimiser_proposed():
    """Of plain descent: the parameters move against the combined gradient, by rate and share."""
    of = learner(optimizer="sgd", learning_rate=50.0, updates_per_window=1, forces={"combine": "none"})
    whole = learner(
        optimizer="sgd", learning_rate=50.0, updates_per_window=1, max_spread=None, forces={"combine": "none"}
    )
    sample = [drawn(START)]
    (cut, (update,), _), (full, _, _) = learned(of, samples=sample), learned(whole, samples=sample)
    assert 0.0 < update.step < 1.0
    for name in ("stiff", "shift"):
        moved, proposed = cut.params["spring"][name], full.params["spring"][name]
        assert moved == pytest.approx(update.step * proposed, rel=1e-6) and moved > 0.0
    half = of.init()._replace(rate=np.asarray(0.5 * update.step))
    slower, (later,), _ = learned(of, half, samples=sample)
    assert later.step == 1.0
    assert slower.params["spring"]["stiff"] == pytest.approx(0.5 * cut.params["spring"]["stiff"], rel=1e-6)


def test_frames_are_used_until_they_are_worth_too_little():
    """All updates but the first begin with at least min_kish; without a limit all five are made."""
    fields = {"optimizer": "sgd", "learning_rate": 1.0, "max_spread": 0.3, "updates_per_window": 5}
    of = learner(min_kish=0.9, **fields)
    fit, updates, _ = learned(of)
    assert 1 < len(updates) < 5
    assert updates[0].kish == pytest.approx(1.0) and updates[0].spread == 0.0
    assert all(u.kish >= 0.9 for u in updates)
    assert all(b.spread > a.spread for a, b in pairwise(updates))
    assert int(fit.updates) == len(updates)
    _, updates, _ = learned(learner(min_kish=0.01, **fields))
    assert len(updates) == 5 and updates[-1].kish < 0.9


@pytest.mark.parametrize("apart", [0.5, 1.0, 8.0, 20.0])
def test_a_window_of_other_parameters_does_not_end_the_updates(apart):
    """Kept windows at so many widths from each other, where weights of both settle and where they do not."""
    of = learner(keep_windows=2, updates_per_window=3, max_spread=0.2, learning_rate=1.0, optimizer="sgd")
    far = {**START, "spring": {**START["spring"], "shift": np.float32(apart * np.sqrt(0.6 / 50.0) / 0.1)}}
    newest = of.pooled([[drawn(START)]], [START])
    both = of.pooled([[drawn(far, seed=1)], [drawn(START)]], [far, START])
    assert len(both[0].sample.share) == (120 if apart == 8.0 else 240)
    alone, joined = (of.learn(of.init(), f, np.random.default_rng(0)) for f in (newest, both))
    assert len(alone[1]) == len(joined[1]) == 3
    if apart >= 8.0:
        for one, other in zip(*(jax.tree.leaves(fit.params) for fit, _ in (alone, joined)), strict=True):
            np.testing.assert_allclose(one, other, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_gradient_that_is_not_finite_leaves_no_trace(optimizer):
    """The third of five updates: parameters, optimiser and norms are what they were, and learning goes on."""
    of = learner(Forces(broken=(2,)), optimizer=optimizer, updates_per_window=5, min_kish=0.01)
    fit, updates, _ = learned(of)
    assert [u.step > 0.0 for u in updates] == [True, True, False, True, True]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit))
    assert int(fit.updates) == 5
    only = learner(Forces(broken=(0,)), optimizer=optimizer, updates_per_window=1)
    begun = only.init()
    after, (update,), _ = learned(only, begun)
    assert update.step == 0.0
    assert_same(after._replace(updates=begun.updates), begun)


def test_the_same_frames_and_numbers_give_the_same_updates():
    of = learner(targets=(TARGET,))
    one, again, other = (learned(of, samples=[drawn(START)], seed=seed)[:2] for seed in (1, 1, 2))
    assert_same(one[0], again[0])
    assert one[1] == again[1]
    assert one[1][0].own != other[1][0].own
    assert other[1][0].losses["m0"]["length"] > 0.0 and other[1][0].told == 1


@pytest.mark.parametrize("terms", [("spring",), ("other",), ("spring", "other")])
def test_only_the_named_terms_change(terms):
    fit, updates, _ = learned(learner(terms=terms))
    assert updates and fit.control is not None
    for name, before in START.items():
        changed = [
            bool(np.any(a != b)) for a, b in zip(fit.params[name].values(), before.values(), strict=True)
        ]
        assert all(changed) if name in terms else not any(changed)
        arm = [
            np.any(a != b) for a, b in zip(fit.control.params[name].values(), before.values(), strict=True)
        ]
        assert all(arm) if name in terms else not any(arm)


def test_minibatches_are_numbered_by_update_for_both_arms():
    forces = Forces()
    of = learner(forces, updates_per_window=2)
    fit, _, _ = learned(of)
    learned(of, fit)
    assert forces.asked == [0, 0, 1, 1, 2, 2, 3, 3]
    assert learner(evaluation={"control": False}).init().control is None


def test_the_control_knows_nothing_of_structures():
    """Other targets, no relative entropy, other frames: the same control, by hand.

    It is plain descent along forces over their running norm.
    """
    fields = {"optimizer": "sgd", "learning_rate": 0.01, "updates_per_window": 3, "min_kish": 0.01}
    one, _, _ = learned(learner(**fields))
    other, _, _ = learned(
        learner(targets=(TARGET,), relative_entropy=0.0, **fields), samples=[drawn(START, seed=5)]
    )
    assert one.params["spring"]["stiff"] != other.params["spring"]["stiff"]
    assert one.control is not None
    assert_same(one.control, other.control)
    at, running, forces = {"stiff": 0.0, "shift": 0.0}, 0.0, Forces()
    for number in range(3):
        g = forces.step({"spring": at}, number).gradient["spring"]
        size = float(np.hypot(g["stiff"], g["shift"]))
        running = size if number == 0 else 0.8 * running + 0.2 * size
        at = {name: at[name] - 0.01 * float(g[name]) / running for name in at}
    for name, value in at.items():
        assert one.control.params["spring"][name] == pytest.approx(value, rel=1e-6)


def test_steps_of_the_control_are_bounded_on_reference_frames():
    """Of a rate that is far too large, where the refinement's step is bounded on its own frames."""
    of = learner(optimizer="sgd", learning_rate=5.0, updates_per_window=1, max_spread=0.2)
    fit, _, _ = learned(of)
    assert fit.control is not None
    x = of.references[0][np.linspace(0, 399, 256).astype(int)]
    change = of.reduced(0, fit.control.params, x) - of.reduced(0, START, x)
    assert 0.2 / VERIFIED <= np.std(change) <= 0.2 * VERIFIED
    free, _, _ = learned(learner(optimizer="sgd", learning_rate=5.0, updates_per_window=1, max_spread=None))
    assert free.control is not None
    ratio = [free.control.params["spring"][k] / fit.control.params["spring"][k] for k in ("stiff", "shift")]
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-4) and ratio[0] > 2.0


def test_the_multiplier_follows_the_growth_of_each_minibatch():
    """Growth 0, 0.1 and 0.2 of a tolerance of 0.05, rate 0.3: 1 - 0.3 + 0.3 + 0.9."""
    of = learner(updates_per_window=3, forces={"tolerance": 0.05, "multiplier_rate": 0.3})
    fit, updates, _ = learned(of)
    assert [u.growth for u in updates] == [0.0, 0.1, 0.2]
    assert float(fit.balance.multiplier) == pytest.approx(1.9)


def test_molecules_without_frames_are_left_out():
    """The gradient is the mean over those that have some; without any nothing is done."""
    of, alone = learner(targets=(TARGET,), count=2), learner(targets=(TARGET,))
    some, none = drawn(START), drawn(START, count=0)
    (two, updates, _), (one, own, _) = learned(of, samples=[some, none]), learned(alone, samples=[some])
    assert_same(two.params, one.params)
    assert updates == own
    _, updates, _ = learned(of, samples=[some, some])
    assert set(updates[0].losses) == {"m0", "m1"}
    assert updates[0].own == pytest.approx(own[0].own, rel=0.5)
    fit, updates, _ = learned(of, samples=[none, none])
    assert updates == []
    assert_same(fit, of.init())


def test_relative_entropy_finds_the_spring_of_the_reference():
    """Twelve windows of exact frames, plain descent: k to 5 %, r0 to 0.003 Å of 400 reference lengths."""
    of = learner(
        forces={"combine": "none"},
        evaluation={"control": False},
        optimizer="sgd",
        learning_rate=1.0,
        max_spread=0.5,
        reference_frames=400,
        updates_per_window=2,
    )
    fit, found = of.init(), []
    for window in range(12):
        sample = drawn(fit.params, 1200, seed=1000 + window)
        fit, _, _ = learned(of, fit, [sample], seed=window)
        found.append(spring(fit.params["spring"]))
    k, r0 = np.mean(found[6:], axis=0)
    lengths = parts()[1][0][:, 1, 2].astype(np.float64)
    assert k == pytest.approx(1.0 / (BETA * np.var(lengths)), rel=0.05)
    assert r0 == pytest.approx(lengths.mean() - 2.0 / (BETA * k * 3.8), abs=0.003)
