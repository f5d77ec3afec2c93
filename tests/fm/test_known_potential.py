"""The known potential: what it is, and that the commands find it again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import dense, energy, neighbors, residues, system
from cgrefine.fm.known_potential import CONTACT_CUTOFF_A, Contact, known_potential
from tests.chains import random_chain, random_topology

SCRIPT = Path(__file__).parents[2] / "scripts/bench/known_potential.py"
TRUTH = known_potential(3, 2.0)
N = 14


@pytest.fixture(scope="module")
def chain():
    """Positions, topology, and energy and forces as a function of positions."""
    topology = random_topology(N, 5)
    packed = system.pack([topology])
    edges = neighbors.exact(packed, random_chain(N, 5), 1e3)

    @jax.jit
    def both(x):
        per_bead, forces = energy.bead_energies_and_forces(TRUTH.model, TRUTH.params, x, packed, edges)
        return per_bead.sum(), forces

    return random_chain(N, 5), topology, both


def test_forces_are_minus_the_gradient(chain):
    """Central differences in float64, every component; the error of 1e-4 Å steps is about 1e-6."""
    x, _, both = chain
    forces, h = np.asarray(both(jnp.asarray(x))[1]), 1e-4
    for bead in range(N):
        for axis in range(3):
            step = np.zeros((N, 3))
            step[bead, axis] = h
            up, down = (float(both(jnp.asarray(x + sign * step))[0]) for sign in (1, -1))
            assert np.isclose(forces[bead, axis], -(up - down) / (2.0 * h), rtol=1e-5, atol=1e-5)


def test_dense_forces_are_the_same(chain):
    """What the sampling uses; bonded forces there are read from tables."""
    x, topology, both = chain
    forces, arrays = dense.dense(TRUTH.model, TRUTH.params, topology, np.float64)
    found = np.asarray(jax.jit(forces)(arrays, jnp.asarray(x.T[:, None, :])))[:, 0].T
    assert np.allclose(found, both(jnp.asarray(x))[1], rtol=1e-4, atol=1e-4)


def test_contacts_by_hand():
    """-ε at r₀ whatever the cutoff, and value and slope are zero at the cutoff."""
    contact, depth = Contact(), np.zeros((residues.N_SPECIES, residues.N_SPECIES))
    depth[2, 5] = 1.7

    def value(r):
        return float(contact({"depth": depth}, np.asarray(r), np.asarray(2), np.asarray(5)))

    assert np.isclose(value(contact.centre_A), -1.7, rtol=1e-12)
    r, rc, r0, w = 6.9, CONTACT_CUTOFF_A, contact.centre_A, contact.width_A
    expected = -1.7 * np.exp(-((r - r0) ** 2) / (2 * w * w)) * ((rc * rc - r * r) / (rc * rc - r0 * r0)) ** 3
    assert np.isclose(value(r), expected, rtol=1e-12)
    assert value(rc) == 0.0 and value(rc + 1.0) == 0.0
    assert abs(value(rc - 1e-3)) < 1e-9


def test_it_is_symmetric_drawn_by_its_seed():
    depth = TRUTH.params["contact"]["depth"]
    assert np.array_equal(depth, depth.T) and len(np.unique(depth)) == 210
    assert -2.0 <= depth.min() < -1.8 and 1.8 < depth.max() <= 2.0
    assert np.array_equal(depth, known_potential(3, 2.0).params["contact"]["depth"])
    assert not np.array_equal(depth, known_potential(4, 2.0).params["contact"]["depth"])


def learned(*options: str) -> float:
    """Explained variance beyond the priors on frames not trained on, of scripts/bench/known_potential.py."""
    few = ("--frames", "800", "--epochs", "15", "--noise", "0.5", "--no-weights")
    command = [sys.executable, str(SCRIPT), *few, *options]
    # float32 and the compiler's own defaults, as in production; not those of the tests
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    (row,) = json.loads(done.stdout)["learning_curve"]
    return row["same_chains"]["explained_variance_beyond_priors"]


@pytest.mark.slow
def test_the_trainer_finds_the_known_mean_force():
    """Noise of half the variance of the contacts; measured 0.765, still rising when the epochs end."""
    assert learned() > 0.65


@pytest.mark.slow
def test_forces_of_other_frames_teach_nothing():
    """Measured -0.0005: the validation frames, which are whole, keep the network as it was."""
    assert learned("--fault", "shuffled") < 0.1
