"""Failures of a run by name, in a state that any viewer can draw."""

import numpy as np
import pytest

from cgrefine.checkpoint import named_leaves
from cgrefine.config.running import Criteria
from cgrefine.sim.failures import failures
from cgrefine.sim.rollout import ended
from cgrefine.sim.stability import checks
from cgrefine.status import Status
from cgrefine.system import pack
from tests.sim.test_rollout import TOPOLOGY, N, bad_start, go, starts


def told(x, graphs=3):
    end = ended(named_leaves(go(x, graphs=graphs)[-1].snapshot))
    system = pack([TOPOLOGY] * graphs)
    limits = checks(system, np.full(len(system.bonds), 3.8), Criteria(size_limits=False))
    return end, failures(end, limits, system, np.full(graphs, 0.6))


def test_a_torn_bond_is_told_with_its_state():
    x = starts()
    x[N + 8] += 5.0
    end, (found,) = told(x)
    assert (found.graph, found.step, found.displaced) == (1, 0, ())
    assert found.culprit.status == Status.BOND and found.culprit.beads == (7, 8)
    assert found.culprit.value == pytest.approx(np.linalg.norm(x[N + 8] - x[N + 7]))
    np.testing.assert_array_equal(found.failed, np.float32(x[N : 2 * N]))
    assert (end.frames, end.regrown) == (6, 0)


def test_beads_that_cannot_be_drawn_stand_where_they_last_were_good():
    """A bead that is 1e30 Å away; and one whose position is not a number, put into the end of a run."""
    end, (far,) = told(bad_start("overflow"))
    assert far.displaced == (8,) and np.isfinite(far.failed).all()
    np.testing.assert_array_equal(far.failed[8], far.good[8])
    system = pack([TOPOLOGY] * 3)
    limits = checks(system, np.full(len(system.bonds), 3.8), Criteria(size_limits=False))
    x = starts()
    x[N + 2] = np.nan
    broken = end._replace(
        failed=end.failed._replace(positions=x),
        status=np.array([0, int(Status.NON_FINITE), 0]),
        positions=starts(),
    )
    (lost,) = failures(broken, limits, system, np.full(3, 0.6))
    assert lost.displaced == (2,) and lost.culprit.beads == (2,)
    np.testing.assert_array_equal(lost.failed, np.float32(starts()[N : 2 * N]))


def test_a_healthy_run_has_none():
    assert told(starts())[1] == []
