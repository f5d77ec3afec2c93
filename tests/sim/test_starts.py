"""Starting structures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.config.running import Criteria
from cgrefine.errors import InputError
from cgrefine.sim.stability import Motion, checks, first_failure
from cgrefine.sim.starts import extended_chain, pdb_start, reference_starts
from cgrefine.sim.trajectory import write_pdb
from cgrefine.system import pack, topology_from_species
from tests.chains import random_chain


def test_reference_starts_are_spread_seeded_and_centred():
    frames = np.random.default_rng(0).normal(size=(100, 4, 3)) + 50.0
    frames[:, 0, 0] = 3 * np.arange(100)  # recognisable
    a, b, c = (reference_starts(frames, 5, seed) for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    np.testing.assert_allclose(a.mean(axis=1), 0.0, atol=1e-4)
    shapes = [np.argmin(((frames - frames.mean(1, keepdims=True) - start) ** 2).sum((1, 2))) for start in a]
    assert [k // 20 for k in shapes] == [0, 1, 2, 3, 4]


def test_more_replicas_than_frames_repeat_them():
    assert reference_starts(np.zeros((2, 3, 3)), 5, 0).shape == (5, 3, 3)
    with pytest.raises(ValueError, match="no reference frames"):
        reference_starts(np.zeros((0, 3, 3)), 5, 0)


@pytest.mark.parametrize("n", [3, 8, 25])
def test_extended_chain_is_healthy(n):
    """Bonds of 3.8 Å, angles of 2.1 rad, and no criterion of failure met."""
    system = pack([topology_from_species([0] * n)])
    x = extended_chain(n)
    np.testing.assert_allclose(np.linalg.norm(np.diff(x, axis=0), axis=1), 3.8, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(x[2:] - x[:-2], axis=1), 7.6 * np.sin(1.05), rtol=1e-5)
    rest = np.zeros_like(x)
    limits = checks(system, np.full(n - 1, 3.8), Criteria())
    motion = Motion(*(jnp.asarray(a, float) for a in (x, rest, rest, rest[:, 0], system.mass, np.ones(n))))
    assert int(jax.jit(first_failure)(limits, motion, system, jnp.zeros(1, jnp.int32))[0]) == 0


def test_a_pdb_start_is_what_was_written_and_of_the_same_protein(tmp_path):
    """To the three decimals of the format, centred; another sequence or length is named."""
    topology = topology_from_species([3, 7, 14, 19, 0])
    x = random_chain(5, 1)
    write_pdb(tmp_path / "a.pdb", topology, x)
    np.testing.assert_allclose(pdb_start(tmp_path / "a.pdb", topology), x - x.mean(0), atol=2e-3)
    with pytest.raises(InputError, match=r"residue 4 .* is VAL, the protein has ILE there"):
        pdb_start(tmp_path / "a.pdb", topology_from_species([3, 7, 14, 9, 0]))
    with pytest.raises(InputError, match="5 residues with a Cα atom, and 4 are needed"):
        pdb_start(tmp_path / "a.pdb", topology_from_species([3, 7, 14, 19]))
    with pytest.raises(InputError, match="not a readable PDB file"):
        pdb_start(tmp_path / "none.pdb", topology)
