"""The network as StableHLO: it leaves whole, without traces of this machine, and runs without our code."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cgrefine
from cgrefine.config.training import Model
from cgrefine.energy import NetworkTerm, SumOfTerms
from cgrefine.errors import InputError
from cgrefine.export import program
from cgrefine.export.network_program import NetworkProgram
from cgrefine.export.portable import read_artifact, unreadable
from cgrefine.export.verify import term_values
from cgrefine.fm.models.registry import network_term
from tests.export import toy
from tests.export.toy import reference

FACTS = {
    name: {"name": name, "cutoff_A": toy.NETWORK_CUTOFF_A, "avg_neighbors": 9.0, **own}
    for name, own in {
        "allegro": {"channels": 2, "hidden": 4, "layers": 2, "l_max": 1, "n_bessel": 4},
        "mace": {"channels": 2, "hidden": 4, "layers": 2, "l_max": 1, "n_bessel": 4},
        "painn": {"hidden": 4, "layers": 2, "n_bessel": 4},
        "schnet": {"hidden": 4, "layers": 2, "n_bessel": 4},
    }.items()
}
"""Each network, small."""
STAGES = pytest.mark.stages


def test_program_equals_the_network_in_float64(network):
    frames = toy.frames()
    expected = reference(frames)
    for i, frame in enumerate(frames):
        found = network(frame)
        assert found.energy == pytest.approx(expected.energy[i], rel=1e-5, abs=1e-4)
        assert np.abs(found.forces - expected.forces[i]).max() < 1e-4
        assert np.abs(found.virial - expected.virial[i]).max() < 1e-3


@pytest.mark.parametrize(
    "name", ["schnet", *(pytest.param(name, marks=STAGES) for name in ("painn", "allegro", "mace"))]
)
def test_every_network_leaves_for_proteins_of_any_size(name):
    """One program for 5 and for 40 beads, with weights large enough to be seen."""
    model = Model.model_validate({k: v for k, v in FACTS[name].items() if k != "avg_neighbors"})
    term = network_term({**model.model_dump(), "avg_neighbors": 9.0})
    params = jax.tree.map(lambda leaf: 1.5 * np.asarray(leaf), term.init(jax.random.key(0)))
    artifact = program.build(term, params, "1.7.0").artifact
    for n in (5, 40):
        topology, frame = toy.chain(n), toy.frames(40)[0, :n]
        found = NetworkProgram(artifact, topology.species, toy.NETWORK_CUTOFF_A)(frame)
        expected = term_values(SumOfTerms((term,)), {"network": params}, topology, frame[None])["network"]
        scale = np.abs(expected.forces).max()
        assert scale > 0.001
        assert np.abs(found.forces - expected.forces[0]).max() < 1e-4 * scale
        assert found.energy == pytest.approx(expected.energy[0], rel=1e-4)
        assert np.abs(found.virial - expected.virial[0]).max() < 1e-3 * np.abs(expected.virial).max()


def test_virial_is_minus_the_strain_derivative():
    """W_ab = -dE/dε_ab for x → x (1 + ε) with ε symmetric, by central differences in float64."""
    x, h = toy.frames()[0], 1e-5
    strained = []
    for a, b in program.VIRIAL:
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        strained += [x @ (np.eye(3) + h * strain), x @ (np.eye(3) - h * strain)]
    values = reference(np.stack([*strained, x]))
    plus, minus = values.energy[:-1].reshape(6, 2).T
    assert values.virial[-1] == pytest.approx(-(plus - minus) / (2 * h), rel=1e-6, abs=1e-6)


def test_nothing_of_this_machine_is_in_the_program(portable):
    for place in (str(Path(cgrefine.__file__).parent), sys.prefix, str(Path.home()), ".py", "loc("):
        assert place not in portable.text
        assert place.encode() not in portable.artifact


def test_text_and_bytes_are_the_same_program(portable, network):
    from jaxlib.mlir.dialects import stablehlo

    again = stablehlo.serialize_portable_artifact_str(portable.text, "1.7.0")
    other = NetworkProgram(again, toy.topology().species, toy.NETWORK_CUTOFF_A)
    assert other(toy.frames()[0]).energy == network(toy.frames()[0]).energy


def test_operations_that_older_consumers_lack_are_refused():
    def angles(params, vectors, species, senders, receivers, edge_mask):
        cosine = jnp.where(edge_mask, vectors[:, 0] / 20.0, 0.5)
        return jnp.zeros(species.shape[0]).at[senders].add(jnp.arccos(cosine))

    term = NetworkTerm("network", 10.0, 1, lambda key: {}, angles)
    with pytest.raises(ValueError, match="cannot leave as portable StableHLO"):
        program.build(term, {}, "1.7.0")


def test_an_argument_that_the_network_ignores_stays_in_the_signature():
    def blind(params, vectors, species, senders, receivers, edge_mask):
        share = jnp.where(edge_mask, jnp.sum(vectors**2, axis=-1), 0.0)
        return jnp.zeros(species.shape[0], vectors.dtype).at[senders].add(share)

    term = NetworkTerm("network", 10.0, 1, lambda key: {}, blind)
    made = program.build(term, {}, "1.7.0")
    x = np.array([[0.0, 0, 0], [1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]])
    assert NetworkProgram(made.artifact, np.zeros(4, np.int32), 10.0)(x).energy == pytest.approx(84.0)


def test_bytes_that_are_no_program_are_refused():
    with pytest.raises(InputError, match="does not compile"):
        NetworkProgram(b"not StableHLO", np.zeros(24, np.int32), 10.0)(toy.frames()[0])
    with pytest.raises(InputError, match="no portable StableHLO"):
        read_artifact(b"not StableHLO")


def test_bytes_read_back_are_the_text(portable):
    assert read_artifact(portable.artifact) == portable.text
    assert unreadable(portable.text) == []
