"""The refit of priors: known parameters are found, the penalty holds, and where and how it is computed is
of no account: random starts, interruptions, numbers of devices and the packing of frames."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.config.priors import Refit
from cgrefine.data.frames import frame_set, thinned
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm import snapshots
from cgrefine.fm.devices import mesh_of
from cgrefine.fm.priors import full_batch, parameters
from cgrefine.fm.priors import refit as refitting
from cgrefine.fm.priors.classes import rows
from cgrefine.fm.priors.refit import begun, chosen_frames, descent, ending, posed, refit
from cgrefine.fm.priors.terms import prior_terms
from tests.fm.prior_toy import ANGLE, BOND, DIHEDRAL, FACTS, REPULSION, T_K, TRUE, WRONG, prior_domain

SEEDS, BEADS = (1, 2, 3), 12
SETTINGS = Refit(terms=["bond"], penalty=1e-9, gradient_norm=1e-7, plateau_gain=1e-14)
NOISY = SETTINGS.model_copy(update={"penalty": 1e-2})


@pytest.fixture(scope="module")
def exact():
    return [prior_domain(BEADS, 20, seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def noisy():
    return [prior_domain(BEADS, 20, seed, noise=5.0) for seed in SEEDS]


def problem_of(domains, settings=NOISY, facts=FACTS, devices=None):
    frames = chosen_frames(facts, domains, settings.max_frames, T_K)
    return posed(facts, WRONG, frames, settings, T_K, mesh_of(devices))


@pytest.fixture(scope="module")
def problem(noisy):
    return problem_of(noisy)


@pytest.fixture(scope="module")
def course(problem):
    """Every snapshot of the undisturbed refit to noisy forces."""
    start = begun(problem, NOISY)
    return [start, *descent(problem, NOISY, start)]


def test_known_parameters_are_found(exact):
    """Forces without noise, stored in float32: every bond there is to 1e-4, the error gone, the rest left."""
    found = refit(FACTS, WRONG, exact, SETTINGS, T_K)
    assert found.converged and found.frames == 60
    codes = np.concatenate([domain.topology.bond_types for domain in exact])
    there = np.unique(rows("bond", "type")[codes])
    others = np.setdiff1d(np.arange(401), there)
    for name, true in TRUE["bond"].items():
        np.testing.assert_allclose(found.params["bond"][name][there], true[there], rtol=1e-4)
        np.testing.assert_allclose(found.params["bond"][name][others], WRONG["bond"][name][others])
    assert np.array_equal(found.params["repulsion"]["sigma"], WRONG["repulsion"]["sigma"])
    before, after = found.force_mse
    assert after < 1e-8 * before
    assert [entry.iteration for entry in found.log] == list(range(len(found.log)))
    last = found.log[-1]
    assert last.loss == pytest.approx(last.force + last.penalty, rel=1e-12)


def test_a_strong_penalty_gives_the_inverted_values(noisy):
    found = refit(FACTS, WRONG, noisy, NOISY.model_copy(update={"penalty": 1e5}), T_K)
    for name, fitted in WRONG["bond"].items():
        np.testing.assert_allclose(found.params["bond"][name], fitted, rtol=1e-4)


def test_the_loss_is_by_hand(problem, noisy, course):
    """Loss at the inverted values: squared error of all terms over squared force, without a penalty."""
    target = np.concatenate([domain.forces[k] for domain in noisy for k in range(20)]).astype(np.float64)
    wrong = [prior_domain(BEADS, 20, seed, params=WRONG) for seed in SEEDS]
    model = np.concatenate([domain.forces[k] for domain in wrong for k in range(20)]).astype(np.float64)
    expected = ((target - model) ** 2).sum() / (target**2).sum()
    assert course[0].log[0, 0] == pytest.approx(expected, rel=1e-6)
    assert course[0].log[0, 2] == 0.0
    assert float(problem.task.full.components) == 3 * 60 * BEADS


def test_gradient_is_that_of_finite_differences():
    """Along a random direction, of all kinds of terms: central differences to 1e-6."""
    facts, mesh = {"terms": [BOND, ANGLE, DIHEDRAL, REPULSION]}, mesh_of()
    domains = [prior_domain(BEADS, 4, 1, noise=5.0)]
    frames = chosen_frames(facts, domains, 4, T_K)
    full = full_batch.gathered(frames, SumOfTerms(()), {}, True, mesh)
    scales = parameters.scaling(facts, WRONG, 0.6)
    rng = np.random.default_rng(0)
    along = jax.tree.map(lambda z: rng.normal(size=z.shape), scales.zeros(WRONG, jnp.float64))
    model = SumOfTerms(prior_terms(facts))

    @jax.jit
    def compute(place):
        def error(place):
            params = scales.params(WRONG, jax.tree.map(lambda a: place * a, along))
            return full_batch.misfit(model, mesh, jax.tree.map(jnp.asarray, params), full)

        return jax.value_and_grad(error)(place)

    step = 1e-4
    values = [float(compute(0.3 + by)[0]) for by in (-step, step)]
    assert float(compute(0.3)[1]) == pytest.approx((values[1] - values[0]) / (2 * step), rel=1e-6)


def test_five_random_starts_end_at_one_optimum(problem, course):
    """Starts with a deviation of two in every z: loss to 1e-6, all parameters to a percent."""
    rng = np.random.default_rng(1)
    best = course[-1]
    params = problem.params_at(best.u)
    for _ in range(5):
        z = jax.tree.map(lambda leaf: 2.0 * rng.normal(size=leaf.shape), problem.task.widths)
        start = begun(problem, NOISY, z)
        last = list(descent(problem, NOISY, start))[-1]
        assert start.log[0, 0] > 1.02 * best.log[best.iteration, 0]
        assert last.log[last.iteration, 0] == pytest.approx(best.log[best.iteration, 0], rel=1e-6)
        for one, other in zip(
            jax.tree.leaves(problem.params_at(last.u)), jax.tree.leaves(params), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=0.01)


def test_interrupted_and_resumed_gives_the_same_numbers(noisy, tmp_path, monkeypatch):
    """Killed after the snapshot of iteration 5: bit for bit the undisturbed refit, its log included."""
    undisturbed = refit(FACTS, WRONG, noisy, NOISY, T_K)
    assert len(undisturbed.log) > 8
    store = snapshots.put

    def stored_and_killed(*arguments):
        store(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshots, "put", stored_and_killed)
    with pytest.raises(KeyboardInterrupt):
        refit(FACTS, WRONG, noisy, NOISY, T_K, tmp_path / "refit")
    monkeypatch.setattr(snapshots, "put", store)
    begins: list[int] = []
    go_on = refitting.descent
    monkeypatch.setattr(
        refitting, "descent", lambda p, s, start: begins.append(start.iteration) or go_on(p, s, start)
    )
    resumed = refit(FACTS, WRONG, noisy, NOISY, T_K, tmp_path / "refit")
    assert begins == [5]
    assert resumed.log == undisturbed.log and resumed.reason == undisturbed.reason
    for one, other in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(undisturbed.params), strict=True):
        assert np.array_equal(one, other)
    with pytest.raises(InputError, match="another refit"):
        refit(FACTS, WRONG, noisy, NOISY.model_copy(update={"penalty": 2e-2}), T_K, tmp_path / "refit")


TWO_DEVICES = """
import json
import jax
import numpy as np
from cgrefine.config.priors import Refit
from cgrefine.fm.priors import full_batch
from cgrefine.fm.priors.refit import refit
from tests.fm.prior_toy import BOND, T_K, WRONG, prior_domain

FACTS = {"terms": [BOND]}

full_batch.BATCH_BEADS = 80
settings = Refit(terms=["bond"], gradient_norm=1e-6, plateau_gain=1e-14)
domains = [prior_domain(12, 39, seed, FACTS, noise=5.0) for seed in (1, 2)]
answers = []
for count in (1, 2):
    found = refit(FACTS, WRONG, domains, settings, T_K, devices=jax.devices()[:count])
    leaves = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found.params)])
    answers.append({"devices": count, "params": leaves.tolist(), "reason": found.reason,
                    "losses": [entry.loss for entry in found.log]})
print(json.dumps({"there_are": len(jax.devices()), "double": bool(jax.config.jax_enable_x64),
                  "dtype": str(jax.tree.leaves(found.params)[0].dtype), "answers": answers}))
"""


@pytest.mark.slow
def test_two_devices_give_the_numbers_of_one():
    """Thirteen batches of 6 chains on one device, and fourteen, one of them empty, on two; float64 in a
    process whose default is float32. Losses of every iteration to 1e-12, parameters to 1e-9."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    environment["JAX_PLATFORMS"] = "cpu"
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join([str(root), environment.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:jax", "-c", TWO_DEVICES],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert said["there_are"] == 2 and said["double"] is False and said["dtype"] == "float64"
    one, two = said["answers"]
    assert one["reason"] == two["reason"] == "gradient_norm"
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-12)
    np.testing.assert_allclose(two["params"], one["params"], rtol=1e-9)


def test_forces_at_other_temperatures_are_left_out(noisy):
    hot = prior_domain(BEADS, 20, 7, noise=200.0, temperature_K=400.0)
    alone = refit(FACTS, WRONG, noisy, NOISY, T_K)
    beside = refit(FACTS, WRONG, [*noisy, hot], NOISY, T_K)
    assert beside.frames == alone.frames == 60
    assert beside.log[-1].loss == pytest.approx(alone.log[-1].loss, rel=1e-9)
    with pytest.raises(InputError, match="no frame is at 350 K"):
        refit(FACTS, WRONG, noisy, NOISY, 350.0)


def test_what_is_not_finite_is_reported(exact):
    """Forces are refused; parameters end the refit with this reason and come back as they were."""
    broken = replace(exact[0], forces=np.where(np.arange(20)[:, None, None] == 3, np.nan, exact[0].forces))
    with pytest.raises(InputError, match="12 beads are in frames with a force that is not finite"):
        refit(FACTS, WRONG, [broken, *exact[1:]], SETTINGS, T_K)
    far = {**WRONG, "bond": {**WRONG["bond"], "x0": np.full(401, np.inf)}}
    found = refit(FACTS, far, exact, SETTINGS, T_K)
    assert found.reason == "not_finite" and not found.converged
    assert np.array_equal(found.params["bond"]["k"], far["bond"]["k"])


def test_too_few_steps_are_reported(noisy):
    few = NOISY.model_copy(update={"max_steps": 3, "min_steps": 1})
    found = refit(FACTS, WRONG, noisy, few, T_K)
    assert found.reason == "max_steps" and not found.converged and len(found.log) == 4


def test_a_term_that_is_not_there_is_refused(noisy):
    with pytest.raises(InputError, match=r"no prior term \['dihedral'\]; choose from"):
        refit(FACTS, WRONG, noisy, NOISY.model_copy(update={"terms": ["dihedral"]}), T_K)


def test_when_it_ends():
    settings = Refit(min_steps=3, plateau_steps=2, plateau_gain=1e-3, gradient_norm=1e-2, max_steps=6)

    def rows(losses, norm):
        return np.column_stack([losses, losses, np.zeros(len(losses)), np.full(len(losses), norm),
                                np.ones(len(losses)), np.ones(len(losses))])  # fmt: skip

    falling = [1.0, 0.5, 0.25, 0.125, 0.06, 0.03, 0.01]
    assert ending(rows(falling[:3], 1e-3), settings) is None
    assert ending(rows(falling[:4], 1e-3), settings) == "gradient_norm"
    assert ending(rows(falling[:4], 1.0), settings) is None
    assert ending(rows([1.0, 0.5, 0.5, 0.4999], 1.0), settings) == "plateau"
    assert ending(rows([1.0, 0.5, 0.5], 1.0), settings) is None
    assert ending(rows(falling, 1.0), settings) == "max_steps"
    assert ending(rows([1.0, np.nan], 1.0), settings) == "not_finite"
    assert ending(rows([1.0, 0.5], np.inf), settings) == "not_finite"


def test_frames_are_thinned_evenly(exact):
    frames = frame_set(exact, False, 6.5)
    few = thinned(frames, 7)
    assert len(few) == 7
    rows = [frames.each_once.where(int(k)) for k in np.linspace(0, 59, 7)]
    assert [few.each_once.where(k) for k in range(7)] == rows
    assert len(thinned(frames, 1000)) == 60
    for row in (0, 33, 59):
        assert np.array_equal(thinned(frames, 60).forces(row), frames.forces(row))


def test_curvature_is_that_of_the_jacobian(exact, monkeypatch):
    """2000 draws of signs: an estimate is χ² of 2000, five standard errors are 16 %.

    Forces are linear in x0, so that the second difference of the loss is exactly twice the diagonal.
    """
    monkeypatch.setattr(full_batch, "PROBES", 2000)
    model, mesh = SumOfTerms(prior_terms({"terms": [BOND]})), mesh_of()
    frames = thinned(frame_set(exact, False, 0.0), 6)
    full = full_batch.gathered(frames, SumOfTerms(()), {}, False, mesh)
    scales = parameters.scaling({"terms": [BOND]}, WRONG, 0.6)
    zeros = {"bond": scales.zeros(WRONG, jnp.float64)["bond"]}
    there = np.bincount(rows("bond", "type")[np.concatenate([d.topology.bond_types for d in exact])])

    def moved(z):
        return jax.tree.map(jnp.asarray, scales.params({"bond": WRONG["bond"]}, z))

    found = jax.jit(lambda z: full_batch.curvature(model, mesh, moved, z, full))(zeros)
    value = jax.jit(lambda z: full_batch.misfit(model, mesh, moved(z), full))
    for row in there.argsort()[-2:]:
        step = jnp.zeros(401).at[row].set(0.01)
        ahead, here, behind = (
            float(value({"bond": {**zeros["bond"], "x0": by * step}})) for by in (1.0, 0.0, -1.0)
        )
        second = (ahead - 2.0 * here + behind) / 0.01**2
        assert float(found["bond"]["x0"][row]) == pytest.approx(0.5 * second, rel=0.16)
    assert float(found["bond"]["x0"][400]) == 0.0


def test_signs_are_even_and_independent():
    """±1 for 30 000 components: means and correlations within five standard errors, 5/√30000 = 0.029."""
    x = np.random.default_rng(0).normal(size=(10_000, 3)).astype(np.float32)
    drawn = [np.asarray(full_batch.random_signs(x, jnp.uint32(k))) for k in range(3)]
    assert all(set(np.unique(signs)) == {-1.0, 1.0} for signs in drawn)
    assert all(abs(signs.mean()) < 0.029 for signs in drawn)
    assert abs((drawn[0] * drawn[1]).mean()) < 0.029 and abs((drawn[1] * drawn[2]).mean()) < 0.029
    assert abs((drawn[0][:, 0] * drawn[0][:, 1]).mean()) < 0.05
    assert np.array_equal(np.asarray(full_batch.random_signs(x[::-1], jnp.uint32(1)))[::-1], drawn[1])
