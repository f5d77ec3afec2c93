"""Molecules in free space: no box, no minimum image, no wrapping, wherever a chain has drifted to.

The same chains at the origin and thousands of Å away, and chains longer than boxes are. What a box would do
is computed beside: it would hide a bond that tore, and make beads touch that do not.
"""

import jax.numpy as jnp
import mdtraj
import numpy as np
import pytest

from cgrefine import checkpoint, neighbors
from cgrefine.config.running import Criteria
from cgrefine.sim import stability
from cgrefine.sim.failures import failures
from cgrefine.sim.kernels import in_dtype
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.rollout import ended
from cgrefine.sim.stability import Motion, checks
from cgrefine.sim.starts import extended_chain
from cgrefine.sim.trajectory import TrajectoryWriter, read_frames, write_pdb
from cgrefine.status import Status
from cgrefine.system import pack, topology_from_species
from tests.chains import ideal_helix, random_chain
from tests.sim import test_fast_rollout as fast
from tests.sim import test_rollout as plain
from tests.sim.test_stability import BROKEN, GUILTY, KT, SYSTEM, VERDICT, N, limits, motion, stretched

FAR = np.array([7000.0, -5200.0, 3100.0])
"""Neighbouring float32 numbers are 4.9e-4 Å apart here: a distance is right to 1e-3 Å."""

LONG = 300
BOXES_A = np.linspace(20.0, 900.0, 441)


def far(frame: Motion) -> Motion:
    """All of it in float32, and thousands of Å away."""
    moved = frame._replace(positions=frame.positions + FAR)
    return Motion(*(jnp.asarray(part, jnp.float32) for part in moved))


def folded(vectors, box_A):
    """The minimum image in a cubic box."""
    return vectors - box_A * np.round(vectors / box_A)


def verdicts(frame: Motion, **changed) -> list[int]:
    single = in_dtype(limits(**changed), jnp.float32)
    return [int(s) for s in VERDICT(single, frame, SYSTEM, jnp.zeros(2, jnp.int32))]


@pytest.mark.parametrize("name", BROKEN)
def test_a_criterion_is_met_far_away_as_at_the_origin(name):
    """The same graph by the same criterion, and the same beads named with the same value."""
    frame, expected = BROKEN[name]
    relaxed = {"overlap_min_A": 0.1} if name == "collapse" else {}
    assert verdicts(far(frame), **relaxed) == [Status.OK, expected]
    here, there = (stability.culprit(limits(), f, SYSTEM, 1, expected) for f in (frame, far(frame)))
    assert here.beads == there.beads == GUILTY[name][0] and here.residues == there.residues
    np.testing.assert_allclose(there.value, here.value, atol=1e-3)
    assert there.limit == pytest.approx(here.limit, nan_ok=True)


@pytest.mark.parametrize(("length", "expected"), [(4.398, Status.OK), (4.402, Status.BOND)])
def test_rounding_far_away_moves_a_limit_by_a_thousandth(length, expected):
    """The limit is 4.4 Å."""
    assert verdicts(far(motion(x=stretched(8, length))), size_limits=False) == [Status.OK, expected]


def test_a_bond_that_tore_by_any_box_length_is_seen():
    """Bond 8-9 lies along x, so that a box of the torn length would show it whole."""
    x = ideal_helix(N)
    along = x[9] - x[8]
    turn, _ = np.linalg.qr(np.c_[along, np.eye(3)[:, :2]])
    x = x @ (turn * np.sign(along @ turn))
    for box in BOXES_A[::20]:
        torn = x.copy()
        torn[9:] += [box, 0.0, 0.0]
        assert np.linalg.norm(folded(torn[9] - torn[8], box)) == pytest.approx(np.linalg.norm(along))
        assert verdicts(motion(x=torn), size_limits=False) == [Status.OK, Status.BOND]


def long_chain() -> tuple[Motion, stability.Checks]:
    """An extended chain of 985 Å at rest, and the criteria as they are by default."""
    system, n = pack([topology_from_species([0] * LONG)]), LONG
    x, rest = extended_chain(n), np.zeros((n, 3))
    frame = Motion(x, rest, rest, np.zeros(n), np.asarray(system.mass), np.full(n, KT))
    return frame, checks(system, np.full(n - 1, 3.8), Criteria())


def status_of(frame: Motion, given: stability.Checks) -> int:
    system = pack([topology_from_species([0] * LONG)])
    return int(stability.first_failure(given, frame, system, jnp.zeros(1, jnp.int32))[0])


@pytest.mark.stages
def test_a_chain_longer_than_any_box_is_healthy():
    """At the origin and far away; the minimum image would bring beads of it together in each of the boxes."""
    frame, given = long_chain()
    i, j = np.triu_indices(LONG, 3)
    apart = frame.positions[j] - frame.positions[i]
    assert np.ptp(frame.positions, axis=0).max() > 980.0
    assert all(np.linalg.norm(folded(apart, box), axis=1).min() < given.overlap_min for box in BOXES_A)
    assert status_of(frame, given) == Status.OK
    assert status_of(far(frame), in_dtype(given, jnp.float32)) == Status.OK


def test_a_chain_that_was_wrapped_is_broken():
    """Nothing undoes a wrapping: a frame in which it happened has a bond across the box."""
    frame, given = long_chain()
    for box in BOXES_A[::20]:
        inside = np.mod(frame.positions, box)
        assert status_of(frame._replace(positions=inside), given) == Status.BOND


def test_neighbours_far_away_are_those_of_the_same_positions_in_double_precision():
    """Distances are of differences, which are exact here: the squares of positions would cost 16 Å²."""
    n = 60
    x = np.asarray(random_chain(n, 2) + FAR, np.float32)
    system = pack([topology_from_species([0] * n)])
    pairs = neighbors.candidates(system)
    found = neighbors.update(jnp.asarray(x), pairs, 10.0, len(pairs.senders))
    expected = neighbors.exact(system, x, 10.0)
    count = int(np.sum(np.asarray(found.edge_mask)))
    assert 0 < count < len(pairs.senders)
    np.testing.assert_array_equal(found.senders[:count], expected.senders)
    np.testing.assert_array_equal(found.receivers[:count], expected.receivers)


def last(chunks):
    return chunks[-1].snapshot.progress


@pytest.mark.stages
@pytest.mark.parametrize("mover", [plain.LANGEVIN, VelocityVerlet(plain.DT)], ids=["langevin", "nve"])
def test_a_run_far_away_is_that_at_the_origin(mover):
    """float64, the noise of a bead being that of its place in the graph: only rounding tells them apart."""
    here, there = (last(plain.go(plain.starts() + by, mover=mover)) for by in (0.0, FAR))
    np.testing.assert_allclose(there.state.positions - FAR, here.state.positions, atol=1e-8)
    np.testing.assert_allclose(there.state.momenta, here.state.momenta, atol=1e-7)


@pytest.mark.stages
def test_a_run_with_fast_forces_far_away_is_that_at_the_origin():
    here, there = (last(fast.go(fast.starts(4) + by, 4, Langevin(fast.DT, 0.05))) for by in (0.0, FAR))
    np.testing.assert_allclose(there.state.positions - FAR, here.state.positions, atol=1e-8)


@pytest.mark.parametrize("with_fast", [False, True], ids=["edges", "fast"])
def test_a_run_in_single_precision_stays_whole_and_keeps_its_energy(with_fast):
    """Constant energy over 80 steps of 2 fs. Rounding far away moves a coordinate by 1.4e-4 Å (rms) a step
    against forces of √(k kT) ≈ 9 kcal/mol/Å, a random walk of 9 · 1.4e-4 · √(27 · 80) ≈ 0.06: four times."""
    chunks = fast.go(np.float32(fast.starts(4) + FAR), 4, VelocityVerlet(fast.DT), fast=with_fast)
    assert not chunks[-1].status.any()
    total = fast.joined(chunks, "potential") + fast.joined(chunks, "kinetic")
    assert np.ptp(total, axis=0).max() < 0.24


def test_a_failure_far_away_is_told_and_drawn(tmp_path):
    """The torn bond of a replica that drifted away; PDB columns hold 0.01 Å there, and 0.001 to the right."""
    x = plain.starts()
    x[plain.N + 8] += 5.0
    found = []
    for by in (0.0, FAR):
        end = ended(checkpoint.named_leaves(plain.go(x + by)[-1].snapshot))
        system = pack([plain.TOPOLOGY] * 3)
        given = checks(system, np.full(len(system.bonds), 3.8), Criteria(size_limits=False))
        found += failures(end, given, system, np.full(3, KT))
    here, there = found
    assert here.culprit.text == there.culprit.text and there.culprit.beads == (7, 8)
    assert there.displaced == () and np.abs(there.failed - here.failed - FAR).max() < 1e-3
    write_pdb(tmp_path / "far.pdb", plain.TOPOLOGY, np.stack([there.good, there.failed]))
    shown = 10.0 * np.asarray(mdtraj.load_pdb(str(tmp_path / "far.pdb"), standard_names=False).xyz)
    np.testing.assert_allclose(shown[1], there.failed, atol=1.1e-2)
    assert np.linalg.norm(shown[1, 8] - shown[1, 7]) == pytest.approx(there.culprit.value, abs=0.03)


@pytest.mark.parametrize("suffix", ["dcd", "xtc", "h5"])
def test_files_hold_positions_as_they_are(tmp_path, suffix):
    """A chain of 985 Å at the origin, far away, and far on the other side: written and read without a box,
    so that no reader folds it. XTC rounds to 0.01 Å, float32 to 1e-3 Å."""
    topology = topology_from_species([0] * LONG)
    x = np.stack([extended_chain(LONG) + by for by in (0.0, FAR, -FAR)]).astype(np.float32)
    path, pdb = tmp_path / f"a.{suffix}", tmp_path / "a.pdb"
    write_pdb(pdb, topology, x[0])
    with TrajectoryWriter([path], [topology]) as writer:
        writer.write(0, x, np.arange(3.0))
    found = read_frames(path, pdb)
    np.testing.assert_allclose(found, x, atol=8e-3)
    np.testing.assert_allclose(np.linalg.norm(np.diff(found, axis=1), axis=-1), 3.8, atol=1.5e-2)
    if suffix != "h5":  # which needs PyTables in mdtraj
        loaded = mdtraj.load(str(path), top=str(pdb))
        assert loaded.unitcell_lengths is None
        np.testing.assert_array_equal(10.0 * np.asarray(loaded.xyz), found)
