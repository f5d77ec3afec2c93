"""Criteria that a reference does not break: the looser of the given and those of the data."""

import numpy as np
import pytest
from scipy.integrate import quad

from cgrefine.config.running import Criteria
from cgrefine.residues import PRO
from cgrefine.sim.calibration import CHANCE, Reference, calibrated, highest_kinetic_kT
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal, random_chain

N = 10


def reference(frames, species=0, forces=10.0):
    x = np.asarray(frames)
    f = np.zeros_like(x)
    f[..., 0] = forces
    return Reference(topology_from_species([species] * x.shape[1]), x, f)


def chains(bond=3.8, angle=2.1, count=20):
    rng = np.random.default_rng(0)
    return [
        chain_from_internal(
            np.r_[np.full(N - 2, 3.8), bond if f else 3.8], np.full(N - 2, angle), rng.uniform(1, 3, N - 3)
        )
        for f in range(count)
    ]


def test_a_reference_within_the_defaults_leaves_them():
    used, rows = calibrated([reference([random_chain(N, s) for s in range(10)])], Criteria(), 1e3)
    assert used == Criteria()
    assert {r.name for r in rows} == {*Criteria.model_fields} - {"overlap_separation"}
    assert all(r.used == pytest.approx(r.given) for r in rows)


def test_what_the_reference_does_is_allowed():
    """Angles of 60° put i,i+2 at 3.8 Å: allowed down to 3.3. Forces of 50 in half the frames: up to 500."""
    found = reference(chains(angle=np.pi / 3), forces=50.0)
    found.forces[::2] *= 0.2
    used, rows = calibrated([found], Criteria(), 1e3)
    assert used.second_neighbor_min_A == pytest.approx(3.3, abs=1e-3)
    assert used.max_force_kcal_mol_A == pytest.approx(500.0)
    assert next(r for r in rows if r.name == "second_neighbor_min_A").given == 3.8


def test_a_bond_of_two_lengths_is_told_from_a_cis_proline():
    """Half of the frames 4.3, half 3.8 Å: twice the deviation of the one is allowed. 2.95 of PRO is cis."""
    half = [chains(bond=4.3)[1 + f] if f % 2 else chains()[0] for f in range(11)]
    used, _ = calibrated([reference(half)], Criteria(), 1e3)
    assert used.bond_deviation_A == pytest.approx(2 * 0.5)
    cis = [chains(bond=2.95)[1 + f] if f % 2 else chains()[0] for f in range(11)]
    assert calibrated([reference(cis, species=PRO)], Criteria(), 1e3)[0].bond_deviation_A == 0.6
    assert calibrated([reference(cis, species=0)], Criteria(), 1e3)[0].bond_deviation_A > 1.5


def test_a_rod_in_the_reference_drops_the_limits_on_size():
    rod = chain_from_internal(np.full(N - 1, 3.8), np.full(N - 2, np.pi), np.full(N - 3, np.pi))
    used, rows = calibrated([reference([rod]), reference([random_chain(N, 1)])], Criteria(), 1e3)
    assert not used.size_limits and rows[-1].used == 0.0


@pytest.mark.parametrize("bead_steps", [1e4, 1e9])
def test_fast_beads_of_a_long_run_are_allowed(bead_steps):
    """Maxwell's density 2 sqrt(x/π) exp(-x) of x = K/kT, integrated from there, times the number of beads."""
    x = highest_kinetic_kT(bead_steps)
    tail = quad(lambda k: 2 * np.sqrt(k / np.pi) * np.exp(x - k), x, x + 60)[0] * np.exp(-x)
    assert tail * bead_steps == pytest.approx(CHANCE, rel=1e-6)
    used, _ = calibrated([reference([random_chain(N, 1)])], Criteria(), bead_steps)
    assert used.max_kinetic_kT == max(20.0, x)
