"""chemtrain 0.2.0 and the jax that it pins, in an environment of their own, train our force fields."""

import os
import subprocess
import venv
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import cgrefine
from cgrefine import energy, neighbors, system
from cgrefine.fm import forcefield
from cgrefine.fm.models.registry import network_term
from cgrefine.interop.chemtrain import bead_arrays
from cgrefine.system import topology_from_species
from tests.chains import random_chain
from tests.fm.prior_facts import DEFAULT, all_params
from tests.fm.test_models import ALLEGRO

REQUIREMENTS = ("chemtrain==0.2.0", "jax==0.4.37", "jaxtyping", "pydantic>=2.7", "pyyaml")
"""chemtrain brings dm-haiku, optax and numpy; the rest is what `fm.forcefield` imports."""
ROOM = 14
CHAINS = {11: (4,), 14: ()}
"""Number of beads → chain breaks."""


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """A Python with chemtrain; skips where it cannot be installed."""
    folder = tmp_path_factory.mktemp("chemtrain")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *REQUIREMENTS],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        pytest.skip(f"chemtrain cannot be installed: {said[-1] if said else done.stderr[-200:]}")
    return python


def teacher():
    """The default priors and a small Allegro away from its initial values."""
    facts = {**ALLEGRO, "layers": 1, "l_max": 1}
    rng = np.random.default_rng(8)
    fresh = network_term(facts).init(jax.random.key(1))
    moved = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.2 * rng.normal(size=leaf.shape), fresh)
    return forcefield.with_network(forcefield.prior_only(DEFAULT, all_params(DEFAULT), 320.0), facts, moved)


def data_set(force_field):
    """Frames of two chains in turn, padded to the longer one, with the force field's forces."""
    forces_of = jax.jit(partial(energy.forces, force_field.model))
    rows = []
    for k in range(16):
        n = list(CHAINS)[k % 2]
        topology = topology_from_species(np.random.default_rng(n).integers(0, 20, n), CHAINS[n])
        pairs = neighbors.candidates(system.pack([topology]))
        every = neighbors.padded(pairs.senders, pairs.receivers, len(pairs.senders))
        wide = np.zeros((2, ROOM, 3))
        wide[0, :n] = random_chain(n, k)
        wide[1, :n] = forces_of(force_field.params, wide[0, :n], system.pack([topology]), every)
        rows.append({"R": wide[0], "F": wide[1], **bead_arrays(topology, ROOM)})
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.slow
def test_force_matching_of_chemtrain_trains_our_model(interpreter, tmp_path):
    """In float64: forces of the old jax are ours, and the loss of a student falls by more than half."""
    force_field = teacher()
    data = data_set(force_field)
    forcefield.save(tmp_path / "forcefield", force_field)
    np.savez(tmp_path / "data.npz", **data)  # pyright: ignore[reportArgumentType]
    root = Path(cgrefine.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)  # of another XLA
    script = Path(__file__).with_name("chemtrain_trainer.py")
    done = subprocess.run(
        [interpreter, script, tmp_path], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(tmp_path / "found.npz")
    assert str(found["jax"]).startswith("0.4.")
    size = np.abs(data["F"]).max()
    assert size > 10.0 and np.abs(found["forces"] - data["F"]).max() < 1e-11 * size
    losses = found["losses"]
    assert np.isfinite(losses).all() and losses[-1] < 0.5 * losses[0]
