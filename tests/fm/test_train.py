"""Force matching against a known teacher: it is found, compiled once, and resumed to the same numbers."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.config.schema import Loader, Train
from cgrefine.data.frames import frame_set, mean_neighbors
from cgrefine.data.loader import Reading, each, sweep
from cgrefine.data.packing import budget_for, estimated_batches
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm import optimizers, snapshots
from cgrefine.fm.models.registry import network_term
from cgrefine.fm.priors.parameters import scaling
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.fm.train import FitState, fit, force_matching, of_the_network, on_host, parts, single
from tests.fm.toy import CUTOFF, PRIOR, PRIOR_PARAMS, RADIAL, TEACHER, domain

SETTINGS = Train(epochs=12, batch_beads=40, learning_rate=0.5, clip_norm=1e6, decoy_fraction=0.0)
LOADER = Loader()


@pytest.fixture(scope="module")
def sets():
    domains = [domain(n, 24, seed=n, validation=range(6)) for n in (6, 9, 14)]
    return [frame_set(domains, validation=v, cutoff_A=CUTOFF) for v in (False, True)]


def trained(sets, settings=SETTINGS, network=RADIAL, start=None, prior=PRIOR, prior_params=PRIOR_PARAMS):
    training, validation = sets
    return list(fit(network, prior, prior_params, training, validation, settings, LOADER, start))


@pytest.fixture(scope="module")
def log(sets):
    return trained(sets)


def test_the_teacher_is_found(log):
    """Noise-free forces of two Gaussians: heights 6 and -3 to a percent, error 1/1000 of the prior's."""
    best = log[-1].snapshot
    assert np.allclose(best.best_params["height"], TEACHER["height"], rtol=0.01)
    errors = log[best.best_epoch].validation
    assert errors.model < 1e-3 * errors.prior
    assert errors.prior < errors.zero
    assert best.best_mse == min(e.validation.model for e in log)


def test_before_training_the_error_is_that_of_the_prior(log):
    first = log[0]
    assert first.epoch == 0 and first.steps == 0
    assert first.validation.model == pytest.approx(first.validation.prior, rel=1e-6)


def test_each_frame_is_seen_once_an_epoch(log, sets):
    """54 frames of 6, 9 or 14 beads: the estimate that the learning rate is made for is right to a step."""
    expected = estimated_batches(sets[0], budget_for(sets, 40, LOADER.edge_headroom), 0.0, 256)
    assert [e.steps for e in log[1:]] == pytest.approx([expected] * 12, abs=1)
    assert all(0.5 < e.slots_used <= 1.0 for e in log[1:])


def test_compiled_once(sets):
    """The network is traced for training and for validation, and never again in later epochs."""
    traces = []

    def counted(*arguments):
        traces.append(1)
        return RADIAL.edge_energy(*arguments)

    network = replace(RADIAL, edge_energy=counted)
    counts = []
    for entry in fit(
        network, PRIOR, PRIOR_PARAMS, sets[0], sets[1], SETTINGS.model_copy(update={"epochs": 3}), LOADER
    ):
        assert entry.epoch <= 3
        counts.append(len(traces))
    assert counts == [1, 2, 2, 2]


def test_resumed_training_gives_the_same_numbers(sets, log, tmp_path):
    """Stopped after epoch 5, read back from disk, and continued: bit for bit the uninterrupted run."""
    with snapshots.snapshots(tmp_path / "checkpoints", keep=2) as manager:
        for entry in log[3:6]:
            snapshots.write(manager, entry.snapshot)
        assert sorted(manager.all_steps()) == [4, 5]
    start = snapshots.newest(tmp_path / "checkpoints", like=log[0].snapshot)
    assert start is not None and start.epoch == 5 and start.seed == SETTINGS.seed
    again = trained(sets, start=start)
    assert [e.epoch for e in again] == list(range(6, 13))
    for one, other in zip(again, log[6:], strict=True):
        assert one.train_loss == other.train_loss and one.validation == other.validation
    for one, other in zip(
        jax.tree.leaves(again[-1].snapshot), jax.tree.leaves(log[-1].snapshot), strict=True
    ):
        assert np.array_equal(one, other)


def test_a_snapshot_of_another_model_is_refused(log, tmp_path):
    with snapshots.snapshots(tmp_path, keep=1) as manager:
        snapshots.write(manager, log[-1].snapshot)
    like = log[0].snapshot
    other = like._replace(best_params={"depth": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="no snapshot of this model"):
        snapshots.newest(tmp_path, like=other)
    assert snapshots.newest(tmp_path / "absent", like=like) is None


BOND_FACTS = {"terms": [{"name": "bond", "kind": "bond", "form": "harmonic", "classes": "global"}]}
WRONG_BOND = {"bond": {"k": np.array([60.0, 60.0]), "x0": np.array([3.83, 2.95])}}
JOINT = SETTINGS.model_copy(
    update={"train_priors": True, "prior_penalty": 1e-4, "learning_rate": 0.3, "epochs": 16}
)


def jointly(sets, settings=JOINT, start=None, prior_params=WRONG_BOND):
    prior = SumOfTerms(prior_terms(BOND_FACTS))
    scales = scaling(BOND_FACTS, prior_params, 0.6)
    training, validation = sets
    log = list(fit(RADIAL, prior, prior_params, training, validation, settings, LOADER, start, scales))
    return log, scales


@pytest.fixture(scope="module")
def joint(sets):
    return jointly(sets)


def test_priors_are_trained_along(sets, joint):
    """A prior of k 60, x0 3.83 is brought to the teacher's 100 and 3.8, and the network to its own."""
    log, scales = joint
    best = log[-1].snapshot
    network, priors = parts(best.best_params, single(WRONG_BOND), scales)
    assert np.allclose(priors["bond"]["k"][0], 100.0, rtol=0.02)
    assert np.allclose(priors["bond"]["x0"][0], 3.8, atol=0.002)
    assert np.array_equal(priors["bond"]["k"][1], np.float32(60.0)), "there is no cis bond"
    assert np.allclose(network["height"], TEACHER["height"], rtol=0.05)
    assert log[best.best_epoch].validation.prior < 0.9 * log[0].validation.prior
    assert best.best_mse < 1e-2 * log[best.best_epoch].validation.prior


def test_the_penalty_holds_the_priors(sets, joint):
    """No deviation of 0.05 at a penalty of 1e4, where a weak one lets them go further than 1."""
    log, _ = jointly(
        sets, JOINT.model_copy(update={"prior_penalty": 1e4, "learning_rate": 1e-2, "epochs": 4})
    )
    for moved in jax.tree.leaves(log[-1].snapshot.state.params["priors"]):
        assert np.all(np.abs(moved) < 0.05)
    free = jax.tree.leaves(joint[0][-1].snapshot.state.params["priors"])
    assert max(float(np.abs(moved).max()) for moved in free) > 1.0


def test_resumed_training_of_priors_gives_the_same_numbers(sets, joint, tmp_path):
    log, _ = joint
    with snapshots.snapshots(tmp_path / "checkpoints", keep=1) as manager:
        snapshots.write(manager, log[6].snapshot)
    start = snapshots.newest(tmp_path / "checkpoints", like=log[0].snapshot)
    assert start is not None and start.epoch == 6
    again, _ = jointly(sets, start=start)
    for one, other in zip(again, log[7:], strict=True):
        assert one.train_loss == other.train_loss and one.validation == other.validation
    for one, other in zip(
        jax.tree.leaves(again[-1].snapshot), jax.tree.leaves(log[-1].snapshot), strict=True
    ):
        assert np.array_equal(one, other)


def test_without_priors_their_error_is_that_of_no_model(sets):
    few = SETTINGS.model_copy(update={"epochs": 2})
    for entry in trained(sets, few, prior=SumOfTerms(()), prior_params={}):
        assert entry.validation.prior == entry.validation.zero


def test_priors_do_not_decay():
    optimizer = optimizers.optimizer("adabelief", lambda count: 0.1, 0.1, 1.0, 0.5, of_the_network)
    params = {"network": {"w": jnp.ones((2, 2))}, "priors": {"repulsion": {"sigma": jnp.ones((2, 2))}}}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    network, sigma = jax.tree.leaves(updates)
    assert np.allclose(network, -0.05) and np.all(sigma == 0.0)


def test_updates_that_are_not_finite_are_skipped_and_counted(sets):
    frames = sets[0]
    budget = budget_for(sets, 40, LOADER.edge_headroom)
    batch = next(each(sweep(frames, budget, Reading(16, 1, 0)))).batch
    broken = batch._replace(target_forces=np.full_like(batch.target_forces, np.nan))
    optimizer = optimizers.optimizer("adabelief", optimizers.schedule(0.1, 10, 0.0), 0.1, 10.0, 0.0)
    init, step = force_matching(RADIAL, PRIOR, optimizer)
    start: FitState = init(single({"height": jnp.ones(2)}))
    advance = jax.jit(step)
    state, info = advance(start, broken, single(PRIOR_PARAMS))
    assert not np.isfinite(info.loss)
    assert optimizers.skipped(state.opt_state) == 1
    assert np.array_equal(state.params["height"], start.params["height"])
    state, info = advance(state, batch, single(PRIOR_PARAMS))
    assert np.isfinite(info.loss) and optimizers.skipped(state.opt_state) == 1
    assert not np.array_equal(state.params["height"], start.params["height"])


def test_schedule_warms_up_and_decays():
    rate = optimizers.schedule(1e-2, 100, 0.1)
    values = [float(np.asarray(rate(k))) for k in range(101)]
    assert values[0] == pytest.approx(1e-3) and max(values) == pytest.approx(values[10]) == pytest.approx(
        1e-2
    )
    assert values[-1] == pytest.approx(1e-4) and all(a >= b for a, b in pairwise(values[10:]))


def test_weight_decay_acts_on_matrices_alone():
    """Without a gradient a decayed matrix shrinks by (1 - rate · decay), a vector stays."""
    optimizer = optimizers.optimizer("adabelief", lambda count: 0.1, 0.1, 1.0, 0.5)
    params = {"matrix": jnp.ones((2, 2)), "vector": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert all(
        np.allclose(update, expected)
        for update, expected in zip(jax.tree.leaves(updates), (-0.05, 0.0), strict=True)
    )


def test_host_copies_do_not_follow_donated_buffers():
    tree = {"a": jnp.arange(3.0)}
    kept = on_host(tree)
    moved = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(tree)
    assert np.array_equal(kept["a"], [0, 1, 2]) and np.array_equal(moved["a"], [1, 2, 3])


def test_a_domain_longer_than_a_batch_is_refused(sets):
    with pytest.raises(InputError, match=r"train.batch_beads = 10 .* longest domain \(14 residues\)"):
        trained(sets, SETTINGS.model_copy(update={"batch_beads": 10}))


def test_allegro_learns_in_single_precision(sets):
    """Smoke: parameters stay float32, and a few epochs lower the error of the prior by half."""
    facts = {
        "name": "allegro", "cutoff_A": CUTOFF, "channels": 4, "hidden": 16, "layers": 1, "l_max": 0,
        "n_bessel": 8, "envelope_p": 6, "parity": "o3", "products": "channelwise", "species_pair": True,
        "avg_neighbors": mean_neighbors(sets[0], CUTOFF),
    }  # fmt: skip
    settings = SETTINGS.model_copy(update={"learning_rate": 2e-2, "epochs": 8, "decoy_fraction": 0.1})
    log = trained(sets, settings, network_term(facts))
    assert {leaf.dtype for leaf in jax.tree.leaves(log[-1].snapshot.best_params)} == {np.dtype("float32")}
    assert log[-1].snapshot.best_mse < 0.5 * log[0].validation.prior
    assert log[-1].skipped == 0
