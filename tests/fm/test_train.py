"""Force matching against a known teacher: it is found, compiled once, and resumed to the same numbers."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.config.data import Loader
from cgrefine.config.training import Optimisation, Train
from cgrefine.data.frames import frame_set, mean_neighbors
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm import checkpoints, optimizers, snapshots
from cgrefine.fm.models.registry import network_term
from cgrefine.fm.priors.parameters import scaling
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.fm.step import parts
from cgrefine.fm.train import Task, fit, on_host, single
from tests.fm.toy import CUTOFF, PRIOR, PRIOR_PARAMS, RADIAL, TEACHER, domain

pytestmark = pytest.mark.stages

SETTINGS = Train(epochs=12, batch_beads=40, learning_rate=0.5, clip_norm=1e6, decoy_fraction=0.0)
LOADER = Loader(buffer_frames=16)


def changed(settings=SETTINGS, **values):
    return Train.model_validate({**settings.model_dump(), **values})


@pytest.fixture(scope="module")
def sets():
    domains = [domain(n, 24, seed=n, validation=range(6)) for n in (6, 9, 14)]
    return [frame_set(domains, validation=v, cutoff_A=CUTOFF) for v in (False, True)]


@pytest.fixture(scope="module")
def task(sets):
    return Task(RADIAL, PRIOR, PRIOR_PARAMS, *sets)


def trained(task, settings=SETTINGS, start=None, **options):
    """The log, the last snapshot, and how many updates there were."""
    updates = 0
    for event in fit(task, settings, LOADER, start, **options):
        updates += event.log is None
        last = event
    return last.progress.log, last.snapshot()


def equal(one, other):
    """Whether two trees hold the same bits."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in leaves)


def timeless(log):
    """A log without the times."""
    return [tuple(map(str, entry._replace(seconds=0.0, waiting=0.0))) for entry in log]


@pytest.fixture(scope="module")
def done(task):
    return trained(task)


def test_the_teacher_is_found(done):
    """Noise-free forces of two Gaussians: heights 6 and -3 to a percent, error 1/1000 of the prior's."""
    log, last = done
    assert np.allclose(last.best["height"], TEACHER["height"], rtol=0.01)
    errors = log[last.progress.best_epoch].validation
    assert errors.model < 1e-3 * errors.prior
    assert errors.prior < errors.zero
    assert last.progress.best_mse == min(e.validation.model for e in log)


def test_two_temperatures_tell_energy_from_entropy():
    """Heights U - (T/300 - 1) S at 300 and 600 K, noise-free: both are found to a percent of the largest."""
    teacher = np.asarray([[6.0, 2.0], [-3.0, 4.0]])
    conditioned = replace(RADIAL, reference_K=300.0, init=lambda key: {"height": jnp.zeros((2, 2))})
    domains = [
        domain(9, 24, 1, validation=range(6), temperature_K=300.0, teacher={"height": teacher @ [1.0, 0.0]}),
        domain(9, 24, 2, validation=range(6), temperature_K=600.0, teacher={"height": teacher @ [1.0, -1.0]}),
    ]
    training, validation = (frame_set(domains, validation=v, cutoff_A=CUTOFF) for v in (False, True))
    task = Task(conditioned, PRIOR, PRIOR_PARAMS, training, validation)
    _, last = trained(task, changed(epochs=20))
    assert np.allclose(last.best["height"], teacher, atol=0.06)


def test_energies_are_matched():
    """Forces of pure noise, 100 times the teacher's, and energies of the teacher: only these can find it."""
    domains = [domain(6, 60, 1, noise=300.0, validation=range(6), energies=True)]
    training, validation = (frame_set(domains, validation=v, cutoff_A=CUTOFF) for v in (False, True))
    task = Task(RADIAL, PRIOR, PRIOR_PARAMS, training, validation)
    found = {
        weight: trained(task, changed(epochs=20, loss={"energy_weight": weight}))[1].state.params["height"]
        for weight in (0.0, 1e7)
    }
    assert np.allclose(found[1e7], TEACHER["height"], rtol=0.02)
    assert np.abs(found[0.0] - TEACHER["height"]).max() > 0.3


def test_an_energy_weight_without_energies_is_refused(task):
    with pytest.raises(InputError, match="no training protein has energies"):
        trained(task, changed(loss={"energy_weight": 1.0}))


def test_before_training_the_error_is_that_of_the_prior(done):
    first = done[0][0]
    assert first.epoch == 0 and first.updates == 0
    assert first.validation.model == pytest.approx(first.validation.prior, rel=1e-6)


def test_an_epoch_is_about_once_through_the_frames(done):
    """18 frames each of 6, 9 and 14 beads are 522 beads: 13 or 14 batches of 40, all epochs alike."""
    log, last = done
    assert {e.updates for e in log[1:]} <= {13, 14, 15} and len({e.updates for e in log[1:]}) == 1
    assert int(last.state.updates) == sum(e.updates for e in log)
    assert all(0.5 < e.slots_used <= 1.0 for e in log[1:])


SHORT = changed(epochs=3, batch_beads=80)


@pytest.fixture(scope="module")
def short(task):
    """A run of three epochs: how often the network was traced by the end of each, and the last snapshot."""
    traces, counts = [], []

    def counted(*arguments):
        traces.append(1)
        return RADIAL.edge_energy(*arguments)

    for event in fit(replace(task, network=replace(RADIAL, edge_energy=counted)), SHORT, LOADER):
        if event.log is not None:
            counts.append(len(traces))
        last = event
    return counts, last.snapshot()


def test_compiled_once(short):
    """The network is traced for validation and for training, and never again in later epochs."""
    assert short[0] == [1, 2, 2, 2]


STAGES = changed(
    batch_beads=80,
    epochs=2,
    ema_decay=0.9,
    decoy_fraction=0.2,
    then=[
        {"epochs": 1, "optimizer": "adam", "learning_rate": 0.05, "schedule": "constant"},
        {"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-3, "schedule": "plateau", "plateau_epochs": 1},
    ],
)


@pytest.fixture(scope="module")
def staged(task, tmp_path_factory):
    """A run with a checkpoint after every update: the log, the last snapshot, the batches, the folder."""
    folder, kept = tmp_path_factory.mktemp("staged"), {}
    with snapshots.snapshots(folder, keep=1000) as manager:
        for event in fit(task, STAGES, LOADER):
            if event.progress.updates % 4 == 1 or event.log is not None:
                snapshot = event.snapshot()
                kept[int(snapshot.state.updates)] = snapshot.progress
                checkpoints.write(manager, snapshot, "this")
            last = event
        final = last.snapshot()
    return last.progress.log, final, kept, folder


def test_stages_follow_one_another(staged):
    log, last, _, _ = staged
    assert [e.stage for e in log] == [0, 0, 0, 1, 2]
    assert [e.epoch for e in log] == list(range(5))
    assert log[3].learning_rate == pytest.approx(0.05) and log[4].learning_rate < 1.001e-3
    assert last.progress.stage == 3 and int(last.state.step) == log[1].updates


def test_resumed_anywhere_gives_the_same_numbers(task, staged, tmp_path):
    """From a checkpoint in the middle of each stage and at each boundary: bit for bit the uninterrupted run.

    Parameters, average, state of the optimiser, log, and where the streams of batches are.
    """
    log, last, kept, folder = staged
    per_epoch = log[1].updates
    picked = [1, 2 * per_epoch, 3 * per_epoch + 1]
    for updates in picked:
        chosen = tmp_path / str(updates)
        chosen.mkdir()
        (chosen / str(updates)).symlink_to(folder / str(updates))
        start = checkpoints.found(chosen, task, STAGES, "this")
        assert start is not None and str(start.progress) == str(kept[updates])
        again, end = trained(task, STAGES, start)
        assert timeless(again) == timeless(log)
        assert equal(end.state, last.state) and equal(end.best, last.best)
        assert end.progress.lanes == last.progress.lanes


def test_a_finished_run_has_nothing_to_do(task, staged):
    assert list(fit(task, STAGES, LOADER, staged[1])) == []


def test_snapshots_of_other_work_are_left_alone(task, staged, tmp_path):
    assert checkpoints.found(staged[3], task, STAGES, "other") is None
    assert checkpoints.found(tmp_path / "absent", task, STAGES, "this") is None


def test_a_damaged_snapshot_is_named(task, staged, tmp_path):
    """Another shape of parameters, and a changed number: both refused, with what to do."""
    other = replace(task, network=replace(RADIAL, init=lambda key: {"depth": jnp.zeros(3)}))
    with pytest.raises(InputError, match=r"is no snapshot of this fit .* --resume never"):
        checkpoints.found(staged[3], other, STAGES, "this")
    with snapshots.snapshots(tmp_path / "c", keep=1) as manager:
        checkpoints.write(manager, staged[1], "this")
    facts = next((tmp_path / "c").glob("*/facts/metadata"))
    text = facts.read_text()
    facts.write_text(text.replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(InputError, match="damaged, its hash differs"):
        checkpoints.found(tmp_path / "c", task, STAGES, "this")


def test_an_end_is_asked_for(task, short):
    """The run ends two updates after the question is answered with yes, and goes on from there."""
    asked = []

    def stopping():
        asked.append(1)
        return len(asked) >= 10

    events = list(fit(task, SHORT, LOADER, stopping=stopping))
    last = events[-1]
    assert last.stopped and last.log is None and not any(e.stopped for e in events[:-1])
    start = last.snapshot()
    assert int(start.state.updates) == 11
    _, end = trained(task, SHORT, start)
    assert equal(end.state, short[1].state)


def test_the_average_of_parameters_by_hand(task):
    """Each update: a ← d a + (1-d) θ with d = min(0.9, (1+n)/(10+n)); the average is what is validated."""
    settings = changed(epochs=1, ema_decay=0.9)
    average, n = np.zeros(2), 0
    for event in fit(task, settings, LOADER):
        state = event.snapshot().state
        if event.log is not None and event.log.epoch == 0:
            average = np.asarray(state.params["height"], np.float64)
            continue
        d = min(0.9, (1 + n) / (10 + n))
        average = d * average + (1 - d) * state.params["height"]
        n += 1
        assert np.allclose(state.average["height"], average, rtol=1e-5)
    assert not np.allclose(average, state.params["height"], rtol=1e-3)
    best = event.snapshot()
    assert np.array_equal(best.best["height"], best.state.average["height"])


def test_a_plateau_lowers_the_rate(task):
    """At a rate of almost 0 nothing improves: halved after every second epoch from the first on."""
    settings = changed(
        epochs=5, batch_beads=160, schedule="plateau", plateau_epochs=2, warmup_fraction=0.0,
        learning_rate=1e-12,
    )  # fmt: skip
    log, _ = trained(replace(task, network=frozen()), settings)
    rates = np.array([e.learning_rate for e in log[1:]]) / 1e-12
    assert np.allclose(rates, [1, 1, 0.5, 0.5, 0.25])


def frozen():
    """A network whose energy does not depend on its parameters."""

    def energy(params, *rest):
        return 0.0 * RADIAL.edge_energy(params, *rest)

    return replace(RADIAL, edge_energy=energy)


def test_early_stopping_ends_the_stage(task):
    settings = changed(epochs=9, batch_beads=160, early_stop_epochs=2, then=[{"epochs": 1}])
    log, last = trained(replace(task, network=frozen()), settings)
    assert [e.stage for e in log] == [0, 0, 0, 1] and last.progress.best_epoch == 0


BOND_FACTS = {"terms": [{"name": "bond", "kind": "bond", "form": "harmonic", "classes": "global"}]}
WRONG_BOND = {"bond": {"k": np.array([60.0, 60.0]), "x0": np.array([3.83, 2.95])}}
JOINT = changed(train_priors=True, prior_penalty=1e-4, learning_rate=0.3, epochs=12)


@pytest.fixture(scope="module")
def joint_task(task):
    prior = SumOfTerms(prior_terms(BOND_FACTS))
    scales = scaling(BOND_FACTS, WRONG_BOND, 0.6)
    return replace(task, prior=prior, prior_params=WRONG_BOND, scaling=scales)


@pytest.fixture(scope="module")
def joint(joint_task):
    return trained(joint_task, JOINT)


def test_priors_are_trained_along(joint_task, joint):
    """A prior of k 60, x0 3.83 is brought to the teacher's 100 and 3.8, and the network to its own."""
    log, last = joint
    network, priors = parts(last.best, single(WRONG_BOND), joint_task.scaling)
    assert np.allclose(priors["bond"]["k"][0], 100.0, rtol=0.02)
    assert np.allclose(priors["bond"]["x0"][0], 3.8, atol=0.002)
    assert np.array_equal(priors["bond"]["k"][1], np.float32(60.0)), "there is no cis bond"
    assert np.allclose(network["height"], TEACHER["height"], rtol=0.05)
    best = log[last.progress.best_epoch].validation
    assert best.prior < 0.9 * log[0].validation.prior
    assert last.progress.best_mse < 1e-2 * best.prior


def test_the_penalty_holds_the_priors(joint_task, joint):
    """No deviation of 0.05 at a penalty of 1e4, where a weak one lets them go further than 1."""
    _, held = trained(joint_task, changed(JOINT, prior_penalty=1e4, learning_rate=1e-2, epochs=2))
    for moved in jax.tree.leaves(held.state.params["priors"]):
        assert np.all(np.abs(moved) < 0.05)
    free = jax.tree.leaves(joint[1].state.params["priors"])
    assert max(float(np.abs(moved).max()) for moved in free) > 1.0


def test_without_priors_their_error_is_that_of_no_model(task):
    alone = replace(task, prior=SumOfTerms(()), prior_params={})
    for entry in trained(alone, changed(epochs=2))[0]:
        assert entry.validation.prior == entry.validation.zero


def test_schedules():
    one = Optimisation(epochs=1, learning_rate=1e-2, warmup_fraction=0.1, final_fraction=0.01)
    rate = optimizers.schedule(one, 100)
    values = [float(np.asarray(rate(k))) for k in range(101)]
    assert values[0] == pytest.approx(1e-3) and max(values) == pytest.approx(values[10]) == pytest.approx(
        1e-2
    )
    assert values[-1] == pytest.approx(1e-4) and all(a >= b for a, b in pairwise(values[10:]))
    flat = optimizers.schedule(one.model_copy(update={"schedule": "constant"}), 100)
    assert [float(np.asarray(flat(k))) for k in (0, 10, 100)] == pytest.approx([1e-3, 1e-2, 1e-2])


def test_host_copies_do_not_follow_donated_buffers():
    tree = {"a": jnp.arange(3.0)}
    kept = on_host(tree)
    moved = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(tree)
    assert np.array_equal(kept["a"], [0, 1, 2]) and np.array_equal(moved["a"], [1, 2, 3])


def test_a_domain_longer_than_a_batch_is_refused(task):
    with pytest.raises(InputError, match=r"train.batch_beads = 10 .* longest domain \(14 residues\)"):
        trained(task, changed(batch_beads=10))


def test_more_batches_than_frames_are_refused(task):
    with pytest.raises(InputError, match="54 training frames cannot fill 60 batches an update"):
        trained(task, changed(batches_per_update=60))


def test_an_exploding_rate_ends_with_advice(task):
    """Steps of 1e6 in heights of order 1: the first epoch's error is past all bounds."""
    with pytest.raises(InputError, match=r"training has diverged .* Lower learning_rate \(now 1e\+06\)"):
        trained(task, changed(learning_rate=1e6, optimizer="sgd", schedule="constant", warmup_fraction=0.0))


def test_updates_without_a_gradient_end_with_advice(task):
    def broken(params, *rest):
        return jnp.nan * RADIAL.edge_energy(params, *rest)

    with pytest.raises(InputError, match=r"none of the \d+ updates of epoch 1 had a finite gradient"):
        trained(replace(task, network=replace(RADIAL, edge_energy=broken)), changed(epochs=1))


def test_frames_without_finite_forces_are_counted(sets, task):
    """One of 54 frames with a NaN: left out of every update, and told."""
    forces = np.array(sets[0].domains[0].forces)
    _, frame = sets[0].each_once.where(0)
    forces[frame, 1, 2] = np.nan
    broken = replace(sets[0], domains=(replace(sets[0].domains[0], forces=forces), *sets[0].domains[1:]))
    log, last = trained(replace(task, training=broken), changed(epochs=2))
    assert all(e.skipped == 0 for e in log)
    assert np.mean([e.unusable for e in log[1:]]) == pytest.approx(6 / 522, rel=0.6)
    assert np.isfinite(last.progress.best_mse)


def test_one_frame_is_fitted(sets, task):
    """Overfit: one frame of one protein, to a force error of 1/1000."""
    one = frame_set(sets[0].domains[:1], validation=False, cutoff_A=CUTOFF, stride=100)
    assert len(one) == 1
    log, _ = trained(replace(task, training=one, validation=one), changed(epochs=100))
    assert log[-1].validation.model < 1e-3 * log[0].validation.model


def test_allegro_learns_in_single_precision(sets, task):
    """Smoke: parameters stay float32, and a few epochs lower the error of the prior by half."""
    facts = {
        "name": "allegro", "cutoff_A": CUTOFF, "channels": 4, "hidden": 16, "layers": 1, "l_max": 0,
        "n_bessel": 8, "envelope_p": 6, "parity": "o3", "products": "channelwise", "species_pair": True,
        "avg_neighbors": mean_neighbors(sets[0], CUTOFF),
    }  # fmt: skip
    settings = changed(learning_rate=2e-2, epochs=4, decoy_fraction=0.1)
    log, last = trained(replace(task, network=network_term(facts)), settings)
    assert {leaf.dtype for leaf in jax.tree.leaves(last.best)} == {np.dtype("float32")}
    assert last.progress.best_mse < 0.5 * log[0].validation.prior
    assert all(e.skipped == 0 for e in log)


def test_a_run_that_goes_on_keeps_its_lanes(task):
    """Begun with two batches an update and resumed where one is what the devices ask for: two, as before."""
    settings = changed(epochs=2, batches_per_update=2)
    begun = []
    for event in fit(task, settings, LOADER):
        if event.progress.updates == 2:
            begun.append(event.snapshot())
        last = event
    assert len(begun[0].progress.lanes) == 2
    _, end = trained(task, changed(epochs=2, batches_per_update=None), begun[0])
    assert equal(end.state, last.snapshot().state)
