"""Each criterion sees the frame made for it, and nothing in a healthy one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import residues
from cgrefine.config.running import Criteria
from cgrefine.sim import stability
from cgrefine.sim.stability import Motion, checks, first_failure
from cgrefine.status import Status
from cgrefine.system import Capacity, exact_capacity, pack, topology_from_species
from tests.chains import chain_from_internal, ideal_helix

N = 12
TOPOLOGY = topology_from_species([0] * 6 + [residues.PRO] + [0] * 5)
PADDED = Capacity(*map(sum, zip(exact_capacity([TOPOLOGY] * 2), (3, 0, 2, 2, 2), strict=True)))
SYSTEM = pack([TOPOLOGY, TOPOLOGY], PADDED)
KT = 0.6


def limits(**changed):
    r0 = np.full(len(SYSTEM.bond_mask), 3.8)
    return checks(SYSTEM, r0, Criteria(**changed))


def motion(x=None, p=None, f=None, e=None) -> Motion:
    """Graph 0 a healthy helix at rest, graph 1 as given; NaN in the padded beads."""
    good = ideal_helix(N)
    rest = np.zeros((N, 3))
    pad = np.full((3, 3), np.nan)

    def packed(healthy, other):
        return jnp.asarray(np.concatenate([healthy, healthy if other is None else other, pad]))

    energies = packed(rest, e)[:, 0]
    kT = jnp.full(2 * N + 3, KT)
    return Motion(packed(good, x), packed(rest, p), packed(rest, f), energies, jnp.asarray(SYSTEM.mass), kT)


VERDICT = jax.jit(first_failure)


def verdict(frame, **changed):
    return [int(s) for s in VERDICT(limits(**changed), frame, SYSTEM, jnp.zeros(2, jnp.int32))]


def shifted(bead, by):
    x = ideal_helix(N)
    x[bead] += by
    return x


def stretched(bond, length):
    """The helix with everything after one bond moved out along it, so that this bond alone is wrong."""
    x = ideal_helix(N)
    u = x[bond + 1] - x[bond]
    x[bond + 1 :] += u / np.linalg.norm(u) * (length - np.linalg.norm(u))
    return x


def folded_back():
    """Angle 58° at one bead: i and i+2 are 3.68 Å apart."""
    angles = np.full(N - 2, 2.1)
    angles[4] = np.deg2rad(58.0)
    return chain_from_internal(np.full(N - 1, 3.8), angles, np.full(N - 3, np.pi))


def overlapping():
    """A square turn: four bonds at 90° in a plane bring beads 4 and 8 together."""
    angles = np.full(N - 2, 2.1)
    angles[4:7] = np.pi / 2
    dihedrals = np.full(N - 3, np.pi)
    dihedrals[4:6] = 0.0
    return chain_from_internal(np.full(N - 1, 3.8), angles, dihedrals)


def one(index, value):
    rows = np.zeros((N, 3))
    rows[index] = value
    return rows


def rod():
    return np.arange(N)[:, None] * np.array([3.8, 0.0, 0.0])


FAST = np.sqrt(2 * 21 * KT * residues.RESIDUE_MASSES[0])
BROKEN = {
    "position not finite": (motion(x=shifted(3, np.nan)), Status.NON_FINITE),
    "momentum not finite": (motion(p=one(3, np.inf)), Status.NON_FINITE),
    "force not finite": (motion(f=one(3, np.nan)), Status.NON_FINITE),
    "energy not finite": (motion(e=one(3, np.nan)), Status.NON_FINITE),
    "bond long": (motion(x=stretched(8, 4.5)), Status.BOND),
    "bond short": (motion(x=stretched(8, 3.1)), Status.BOND),
    "second neighbor": (motion(x=folded_back()), Status.SECOND_NEIGHBOR),
    "overlap": (motion(x=overlapping()), Status.OVERLAP),
    "force": (motion(f=one(5, [0.0, -301.0, 0.0])), Status.FORCE),
    "kinetic": (motion(p=one(5, [FAST, 0.0, 0.0])), Status.KINETIC),
    "rod": (motion(x=rod()), Status.SIZE),
    "collapse": (motion(x=ideal_helix(N, rise_A=0.0, radius_A=2.48)), Status.SIZE),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_criterion_sees_its_frame_and_spares_the_other_graph(name):
    frame, expected = BROKEN[name]
    relaxed = {"overlap_min_A": 0.1} if name == "collapse" else {}
    assert verdict(frame, **relaxed) == [Status.OK, expected]


def test_a_healthy_frame_passes():
    """Just inside the limits on bonds, force and kinetic energy; padded NaN does not count."""
    fast = FAST * np.sqrt(19 / 21)
    frame = motion(x=stretched(8, 4.35), f=one(5, [299.0, 0.0, 0.0]), p=one(5, [fast, 0.0, 0.0]))
    assert verdict(frame) == [Status.OK, Status.OK]


def test_a_cis_bond_is_usual_before_proline_alone():
    """Bond 5-6 ends in proline: 2.95 Å is its cis state. The same length elsewhere is a failure."""
    criteria = {"second_neighbor_min_A": 0.1, "overlap_min_A": 0.1}
    assert verdict(motion(x=stretched(5, 2.95)), **criteria) == [Status.OK, Status.OK]
    assert verdict(motion(x=stretched(8, 2.95)), **criteria) == [Status.OK, Status.BOND]


def test_the_first_failure_is_kept():
    before = jnp.asarray([Status.FORCE, Status.OK], jnp.int32)
    after = VERDICT(limits(), BROKEN["overlap"][0], SYSTEM, before)
    assert [int(s) for s in after] == [Status.FORCE, Status.OVERLAP]


def test_size_limits_by_hand():
    """n = 12: 1.6 · 12^0.38 and 0.9 · 3.8 · sqrt(143/12); none for 7 beads, none above for two chains."""
    system = pack([TOPOLOGY, topology_from_species([0] * 7), topology_from_species([0] * 12, breaks=[6])])
    low, high = stability.size_limits(system)
    np.testing.assert_allclose(low, [4.114, 0.0, 4.114], atol=1e-3)
    np.testing.assert_allclose(high, [11.806, np.inf, np.inf], atol=1e-3)


def test_reference_bond_lengths_leave_cis_out():
    """Median over the trans frames of each bond."""
    bonds = np.array([[0, 1], [1, 2]])
    x = np.zeros((5, 3, 3))
    x[:, 1, 0] = [3.80, 3.82, 3.84, 2.95, 2.95]
    x[:, 2, 0] = x[:, 1, 0] + 3.9
    np.testing.assert_allclose(stability.reference_bond_lengths(x, bonds), [3.82, 3.9], atol=1e-6)


def test_r0_of_another_system_is_refused():
    with pytest.raises(ValueError, match="r0 has shape"):
        checks(SYSTEM, np.zeros(3), Criteria())


GUILTY = {
    "position not finite": ((3,), np.nan, np.nan),
    "momentum not finite": ((3,), np.inf, np.nan),
    "force not finite": ((3,), np.nan, np.nan),
    "energy not finite": ((3,), np.nan, np.nan),
    "bond long": ((8, 9), 4.5, 4.4),
    "bond short": ((8, 9), 3.1, 3.2),
    "second neighbor": ((4, 6), 2 * 3.8 * np.sin(np.deg2rad(29.0)), 3.8),
    "overlap": ((4, 8), None, 2.8),
    "force": ((5,), 301.0, 300.0),
    "kinetic": ((5,), 21.0, 20.0),
    "rod": ((), 3.8 * np.sqrt((N * N - 1) / 12), 0.9 * 3.8 * np.sqrt((N * N - 1) / 12)),
    "collapse": ((), None, 1.6 * N**0.38),
}
"""Beads, value and limit by hand."""


@pytest.mark.parametrize("name", BROKEN)
def test_the_culprit_is_named(name):
    """The one bead, bond or pair that was put wrong, in the numbering of its molecule."""
    frame, status = BROKEN[name]
    beads, value, limit = GUILTY[name]
    found = stability.culprit(limits(), frame, SYSTEM, 1, status)
    assert found.status == status and found.beads == beads
    assert found.residues == tuple("PRO" if b == 6 else "ALA" for b in beads)
    x = np.asarray(frame.positions[N : 2 * N])
    if name == "collapse":
        value = np.sqrt(x.var(axis=0).sum())
    elif value is None:
        value = min(np.linalg.norm(x[i] - x[j]) for i in range(N) for j in range(i + 3, N))
    np.testing.assert_allclose([found.value, found.limit], [value, limit], rtol=2e-3, atol=1e-9)
    shown = f"{found.value:.4g}" if np.isfinite(found.value) else str(found.value)
    assert shown in found.text and all(f"bead {b}" in found.text for b in beads)


def test_the_culprit_before_proline_is_measured_from_the_nearer_state():
    """Bond 5-6 at 2.2 Å: 0.75 Å below the cis length."""
    frame = motion(x=stretched(5, 2.2))
    found = stability.culprit(limits(), frame, SYSTEM, 1, Status.BOND)
    assert found.beads == (5, 6) and found.residues == ("ALA", "PRO")
    assert found.limit == pytest.approx(2.95 - 0.6)


def test_a_healthy_status_has_no_culprit():
    with pytest.raises(ValueError, match="status OK is no criterion"):
        stability.culprit(limits(), motion(), SYSTEM, 1, Status.OK)
