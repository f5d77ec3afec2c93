"""A window against the rollouts it is made of: packs side by side, and one whose replicas all fail."""

import jax
import numpy as np
import pytest

from cgrefine import units
from cgrefine.boltzmann.windows import Pack, Simulator
from cgrefine.config.running import Criteria
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.rollout import Settings, rollout
from cgrefine.sim.stability import checks
from cgrefine.status import Status
from cgrefine.system import pack
from tests import planted
from tests.boltzmann.windows import molecules

FRAMES = 6
RUN = Settings(n_frames=FRAMES, stride=4, chunk_frames=2, cutoff_A=0.0)
KEY = jax.random.key(8)
MODEL = planted.MODEL.only(("bond", "angle"))
PARAMS = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), planted.params(5, {}))
MOLECULES = molecules((4, 2), (5, 3))
"""Two replicas of four beads in the first pack, three of five in the second."""


def simulator(count=2):
    packs = []
    for molecule in MOLECULES[:count]:
        system = pack([molecule.topology] * molecule.count)
        limits = checks(system, np.full(len(system.bond_mask), 3.8), Criteria())
        kT = np.full(molecule.count, 0.6, np.float32)
        packs.append(Pack(system, limits, kT, molecule.beads))
    return Simulator(MODEL, packs, Langevin(units.from_fs(4.0), units.from_per_ps(1.0)), RUN)


def starts(count=2, torn=()):
    """Frames of the potential; the last bond of these replicas is torn."""
    found, replica = [], 0
    for m, molecule in enumerate(MOLECULES[:count]):
        x = planted.frames(molecule.topology.n_beads, molecule.count, 0.6, m).astype(np.float32)
        for rows in x:
            rows[-1] += 9.0 * (replica in torn)
            replica += 1
        found.append(x.reshape(-1, 3))
    return np.concatenate(found)


def chunks(of, k, x):
    """The rollout of pack k by itself."""
    part = of.packs[k]
    run = rollout(
        of.model, PARAMS, part.system, x[part.beads], part.kT, jax.random.fold_in(KEY, k), of.integrator,
        of.run, part.limits,
    )  # fmt: skip
    return list(run)


@pytest.mark.stages
@pytest.mark.parametrize("packs", [1, 2])
def test_a_window_is_the_rollout_of_each_pack_bit_for_bit(packs):
    """One replica of the second pack is torn from the start and stays as it was."""
    of, x = simulator(packs), starts(packs, torn={3})
    found = of.window(PARAMS, x, KEY)
    for k, molecule in enumerate(MOLECULES[:packs]):
        alone = chunks(of, k, x)
        assert len(alone) == 3
        frames = np.concatenate([c.positions for c in alone])
        last = alone[-1].snapshot.progress
        np.testing.assert_array_equal(found.positions[:, molecule.beads], frames)
        np.testing.assert_array_equal(
            found.alive[:, molecule.replicas], np.concatenate([c.alive for c in alone])
        )
        np.testing.assert_array_equal(found.status[molecule.replicas], alone[-1].status)
        np.testing.assert_array_equal(found.fail_step[molecule.replicas], alone[-1].fail_step)
        np.testing.assert_array_equal(found.ends[molecule.beads], last.state.positions)
        np.testing.assert_array_equal(found.failed[molecule.beads], last.failed.positions)
        np.testing.assert_array_equal(found.ends[molecule.beads], np.where(
            np.repeat(found.status[molecule.replicas] == Status.OK, molecule.topology.n_beads)[:, None],
            frames[-1], x[molecule.beads],
        ))  # fmt: skip
    failed = [] if packs == 1 else [3]
    assert np.flatnonzero(found.status != Status.OK).tolist() == failed
    assert found.failed_fraction == len(failed) / of.replicas
    assert of.replicas == found.status.shape[0] and of.steps == 24


def test_a_pack_that_has_failed_has_dead_frames_to_the_end():
    """Both replicas of the first pack are torn: it ends after a chunk, and the other one goes on."""
    of, x = simulator(), starts(torn={0, 1})
    found = of.window(PARAMS, x, KEY)
    first, second = (m.beads for m in MOLECULES)
    assert len(chunks(of, 0, x)) == 1
    assert found.positions.shape == (FRAMES, len(x), 3) and found.alive.shape == (FRAMES, 5)
    np.testing.assert_array_equal(found.alive, np.broadcast_to([False, False, True, True, True], (FRAMES, 5)))
    np.testing.assert_array_equal(found.positions[:, first], np.broadcast_to(x[first], (FRAMES, 8, 3)))
    np.testing.assert_array_equal(found.failed[first], x[first])
    np.testing.assert_array_equal(found.ends[first], x[first])
    np.testing.assert_array_equal(found.failed[second], 0.0)
    assert np.all(np.abs(np.diff(found.positions[:, second], axis=0)).max(axis=(1, 2)) > 1e-3)
    assert found.status.tolist() == [Status.BOND, Status.BOND, 0, 0, 0]
    assert found.fail_step.tolist() == [0, 0, -1, -1, -1]
    assert found.failed_fraction == 0.4


def test_windows_of_other_keys_have_other_noise():
    of, x = simulator(1), starts(1)
    one, other = (of.window(PARAMS, x, jax.random.key(seed)) for seed in (1, 2))
    assert np.abs(one.positions - other.positions).max(axis=(1, 2)).min() > 1e-3


def test_an_empty_window_has_the_shapes_and_types_of_any():
    """What a state without a kept window is restored into."""
    of = simulator()
    for name, empty, real in zip(
        of.empty()._fields, of.empty(), of.window(PARAMS, starts(torn={0, 1}), KEY), strict=True
    ):
        assert (name, empty.shape, empty.dtype) == (name, real.shape, real.dtype)


def test_beads_of_a_molecule_by_replica():
    rows = np.arange(2 * 23 * 3).reshape(2, 23, 3)
    for molecule, first in zip(MOLECULES, (0, 8), strict=True):
        n, count = molecule.topology.n_beads, molecule.count
        by_replica = molecule.by_replica(rows)
        assert by_replica.shape == (2, count, n, 3)
        np.testing.assert_array_equal(by_replica[1, 1, 2], rows[1, first + n + 2])
        np.testing.assert_array_equal(molecule.by_replica(rows[0]), by_replica[0])
