"""Unusual frames: each kind planted into healthy frames of an ideal chain, and found in that frame alone."""

import numpy as np
import pytest

from cgrefine import units
from cgrefine.config.running import Unusual
from cgrefine.sim.unusual import Limits, beyond, helical_torsions, limits, mirrored, worst
from cgrefine.system import topology_from_species
from tests import planted
from tests.chains import ideal_helix

N = 10
CHAIN = planted.topology(N)
R0 = np.full(N - 1, planted.R0)


@pytest.fixture(scope="module")
def frames():
    return planted.frames(N, 40, units.thermal_energy(300.0), 4)


def marks(x, allowed):
    return {
        name: np.flatnonzero(found).tolist()
        for name, found in beyond(worst(CHAIN, R0, x, 3), allowed).items()
    }


def test_a_planted_frame_is_found_and_named(frames):
    """Frame 1: a bond of 4.3 Å; 2: beads 3 and 5 at 2 Å; 3: beads 0 and 9 at 1 Å; 4: all 1.7 times larger."""
    allowed = limits(worst(CHAIN, R0, frames, 3), Unusual(), N)
    assert marks(frames, allowed) == {"bond": [], "second_neighbor": [], "overlap": [], "size": []}
    x = frames.copy()
    step = x[1, 5] - x[1, 4]
    x[1, 5:] += (4.3 / np.linalg.norm(step) - 1.0) * step
    toward = x[2, 5] - x[2, 3]
    x[2, 5] = x[2, 3] + 2.0 * toward / np.linalg.norm(toward)
    x[3, 9] = x[3, 0] + [1.0, 0.0, 0.0]
    x[4] *= 1.7
    found = marks(x, allowed)
    assert 1 in found["bond"] and found["second_neighbor"] == [2] and found["overlap"] == [3]
    assert 4 in found["size"] and 1 not in found["size"]


def test_a_threshold_is_the_looser_of_the_given_one_and_the_reference():
    """Bonds of 3.8 ± 0.5 Å in the reference: 0.5 replaces 0.35; 0.7 stays; sizes are factors of the range."""
    reference = worst(CHAIN, R0, 3.8 * np.arange(N)[None, :, None] * np.array([1.0, 0.0, 0.0]), 3)
    stretched = reference._replace(bond=np.array([0.5]), second=np.array([4.0]), closest=np.array([9.0]))
    found = limits(stretched, Unusual(), N)
    assert (found.bond, found.second, found.closest) == (0.5, 4.0, 3.5)
    assert limits(stretched, Unusual(bond_deviation_A=0.7), N).bond == 0.7
    rod = 3.8 * np.sqrt((N * N - 1) / 12.0)
    np.testing.assert_allclose(found.size, (0.85 * rod, 1.3 * rod))
    assert limits(stretched, Unusual(), 7).size == (0.0, np.inf)
    assert not any(m.any() for m in beyond(stretched, Limits(0.5, 4.0, 3.5, found.size)).values())


def test_a_mirrored_helix_is_seen():
    """The helix of the reference, its mirror image, and a chain whose reference has no helix."""
    chain, helix = topology_from_species([0] * N), ideal_helix(N)
    reference = np.repeat(helix[None], 4, axis=0)
    helical = helical_torsions(chain, reference)
    assert len(helical) == N - 3
    both = np.stack([helix, helix * np.array([1.0, 1.0, -1.0])])
    assert mirrored(helical, both).tolist() == [False, True]
    none = helical_torsions(chain, reference * np.array([1.0, 1.0, -1.0]))
    assert len(none) == 0 and not mirrored(none, both).any()
