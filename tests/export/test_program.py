"""The network as StableHLO: it leaves whole, without traces of this machine, and runs without our code."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cgrefine
from cgrefine.energy import NetworkTerm, SumOfTerms
from cgrefine.errors import InputError
from cgrefine.export import program
from cgrefine.export.verify import term_values
from cgrefine.fm.models.registry import network_term
from tests.export import toy

N_BEADS, N_EDGES = 24, 400


@pytest.fixture(scope="module")
def portable():
    return program.build(toy.NETWORK, toy.params()["network"], N_BEADS, N_EDGES, "1.7.0")


@pytest.fixture(scope="module")
def network(portable):
    return program.load(portable.artifact, toy.topology().species, N_EDGES, toy.NETWORK_CUTOFF_A)


def reference(positions):
    return term_values(SumOfTerms((toy.NETWORK,)), toy.params(), toy.topology(), positions)["network"]


def test_program_equals_the_network_in_float64(network):
    frames = toy.frames()
    expected = reference(frames)
    for i, frame in enumerate(frames):
        found = network(frame)
        assert found.energy == pytest.approx(expected.energy[i], rel=1e-5, abs=1e-4)
        assert np.abs(found.forces - expected.forces[i]).max() < 1e-4
        assert np.abs(found.virial - expected.virial[i]).max() < 1e-3


@pytest.mark.slow
def test_mace_leaves_as_a_program():
    """A network of many-body messages between layers, with weights large enough to be seen."""
    facts = {
        "name": "mace", "cutoff_A": toy.NETWORK_CUTOFF_A, "channels": 2, "hidden": 4, "layers": 2,
        "l_max": 1, "l_hidden": 1, "correlation": 3, "n_bessel": 4, "envelope_p": 6, "parity": "so3",
        "avg_neighbors": 9.0,
    }  # fmt: skip
    term = network_term(facts)
    params = jax.tree.map(lambda leaf: 1.5 * np.asarray(leaf), term.init(jax.random.key(0)))
    artifact = program.build(term, params, N_BEADS, N_EDGES, "1.7.0").artifact
    frame = toy.frames()[0]
    found = program.load(artifact, toy.topology().species, N_EDGES, toy.NETWORK_CUTOFF_A)(frame)
    expected = term_values(SumOfTerms((term,)), {"network": params}, toy.topology(), frame[None])["network"]
    scale = np.abs(expected.forces).max()
    assert scale > 0.01
    assert np.abs(found.forces - expected.forces[0]).max() < 1e-4 * scale
    assert found.energy == pytest.approx(expected.energy[0], rel=1e-4)


def test_far_from_the_origin_no_digit_is_lost(network):
    """Positions are centred in float64: 1e5 Å away, float32 alone would round them to 0.008 Å."""
    near, far = network(toy.frames()[0]), network(toy.frames()[0] + 1e5)
    assert np.abs(near.forces - far.forces).max() < 1e-4


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


def test_too_many_edges_are_an_error_not_a_truncation(network):
    with pytest.raises(InputError, match=r"552 edges .* room for 400.*edge_headroom"):
        network(0.2 * toy.frames()[0])


def test_edge_capacity_has_headroom_up_to_all_pairs():
    frames = toy.frames()
    exact = program.edge_capacity(frames, toy.NETWORK_CUTOFF_A, 1.0)
    assert program.edge_capacity(frames, toy.NETWORK_CUTOFF_A, 1.5) == int(np.ceil(1.5 * exact))
    assert program.edge_capacity(frames, toy.NETWORK_CUTOFF_A, 1e3) == N_BEADS * (N_BEADS - 1)


def test_nothing_of_this_machine_is_in_the_program(portable):
    for place in (str(Path(cgrefine.__file__).parent), sys.prefix, str(Path.home()), ".py", "loc("):
        assert place not in portable.text
        assert place.encode() not in portable.artifact


def test_text_and_bytes_are_the_same_program(portable, network):
    from jaxlib.mlir.dialects import stablehlo

    again = stablehlo.serialize_portable_artifact_str(portable.text, "1.7.0")
    other = program.load(again, toy.topology().species, N_EDGES, toy.NETWORK_CUTOFF_A)
    assert other(toy.frames()[0]).energy == network(toy.frames()[0]).energy


def test_operations_that_older_consumers_lack_are_refused():
    def angles(params, vectors, species, senders, receivers, edge_mask):
        cosine = jnp.where(edge_mask, vectors[:, 0] / 20.0, 0.5)
        return jnp.zeros(species.shape[0]).at[senders].add(jnp.arccos(cosine))

    term = NetworkTerm("network", 10.0, 1, lambda key: {}, angles)
    with pytest.raises(ValueError, match="cannot leave as portable StableHLO"):
        program.build(term, {}, 5, 20, "1.7.0")


def test_an_argument_that_the_network_ignores_stays_in_the_signature():
    def blind(params, vectors, species, senders, receivers, edge_mask):
        share = jnp.where(edge_mask, jnp.sum(vectors**2, axis=-1), 0.0)
        return jnp.zeros(4, vectors.dtype).at[senders].add(share)

    term = NetworkTerm("network", 10.0, 1, lambda key: {}, blind)
    made = program.build(term, {}, 4, 12, "1.7.0")
    x = np.array([[0.0, 0, 0], [1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]])
    assert program.load(made.artifact, np.zeros(4, np.int32), 12, 10.0)(x).energy == pytest.approx(84.0)


def test_bytes_that_are_no_program_are_refused():
    with pytest.raises(InputError, match="does not compile"):
        program.load(b"not StableHLO", np.zeros(4, np.int32), 12, 10.0)
