"""Forces of a packed graph with a list that fits, and how much room a list is given."""

import numpy as np
import pytest

from cgrefine.neighbors import Candidates
from cgrefine.sim import forces
from cgrefine.system import pack, topology_from_species
from tests.chains import random_chain
from tests.sim.test_minimize import CHAIN, PARAMS


def test_forces_are_the_slope_of_the_energy():
    """Central differences of 1e-4 Å of the energy by hand: springs, and pairs within 8 Å."""
    n = 8
    x, shape = random_chain(n, 3), (n, 3)

    def energy(at):
        r = np.linalg.norm(at[:, None] - at[None], axis=-1)
        i, j = np.triu_indices(n, 2)
        near = np.clip(1.0 - (r[i, j] / 8.0) ** 2, 0.0, None)
        return 50.0 * ((np.diagonal(r, 1) - 3.8) ** 2).sum() + 2.0 * (near**3).sum()

    system = pack([topology_from_species([0] * n)])
    found = forces.forces_at(CHAIN, PARAMS, system, x, 8.0)
    expected = np.zeros(shape)
    for at in np.ndindex(shape):
        moved = np.zeros(shape)
        moved[at] = 1e-4
        expected[at] = (energy(x - moved) - energy(x + moved)) / 2e-4
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("edges", "pairs", "room"),
    [(0.0, 1000, 256), (256.0, 1000, 256), (256.5, 1000, 512), (900.0, 1000, 1000), (0.0, 12, 12)],
)
def test_room_is_a_step_at_least_and_never_more_than_all_pairs(edges, pairs, room):
    """A buffer of no edges could never grow by a share of itself."""
    none = np.zeros(pairs, np.int32)
    assert forces.fitted(edges, Candidates(none, none)) == room
