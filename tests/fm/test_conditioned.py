"""Networks conditioned on temperature: U - (T/T₀ - 1) S, in training batches and fixed at one temperature."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy, neighbors, system
from cgrefine.fm import forcefield
from cgrefine.fm.forcefield import ForceField
from cgrefine.fm.models.registry import network_term
from tests.chains import random_chain, random_topology
from tests.fm.test_models import ALLEGRO, CUTOFF, MACE, PASSING

T0, BEADS, EDGES = 320.0, 40, 400
NETWORKS = {
    "allegro": {**ALLEGRO, "l_max": 1, "layers": 1, "parity": "o3"},
    "mace": {**MACE, "l_max": 0, "l_hidden": 0, "correlation": 1},
    "painn": {"name": "painn", **PASSING, "layers": 1},
    "schnet": {"name": "schnet", **PASSING, "layers": 1},
}
PRIORS = {"temperature_K": T0, "priors": {"terms": []}}


@pytest.fixture(params=list(NETWORKS), scope="module")
def conditioned(request):
    """A force field of the network alone, its parameters moved from their small initial values."""
    facts = {**NETWORKS[request.param], "reference_K": T0, "temperature_range_K": [300.0, 400.0]}
    params = network_term(facts).init(jax.random.key(1))
    rng = np.random.default_rng(2)
    moved = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), params)
    return ForceField({**PRIORS, "network": facts}, {"network": moved})


@pytest.fixture(scope="module")
def molecules():
    """Two chains, and a stretch of padding behind them."""
    chains = [random_chain(n, seed=n) for n in (14, 11)]
    topologies = [random_topology(len(x), seed=3) for x in chains]
    return chains, topologies


def packed(chains, topologies, temperatures_K):
    """Padded system, positions and edges; edges join no two chains."""
    capacity = system.Capacity(BEADS, 3, BEADS, BEADS, BEADS)
    graph = system.pack(topologies, capacity, temperatures_K)
    x = np.zeros((BEADS, 3))
    x[: sum(len(c) for c in chains)] = np.concatenate(chains)
    exact = neighbors.exact(graph, x, CUTOFF)
    listed = neighbors.padded(np.asarray(exact.senders), np.asarray(exact.receivers), EDGES)
    return jnp.asarray(x), graph, listed


@cache
def compiled(kind, reference_K):
    """One compilation a network for all tests, with and without conditioning."""
    model = ForceField({**PRIORS, "network": {**NETWORKS[kind], "reference_K": reference_K}}, {}).model
    return jax.jit(partial(energy.bead_energies_and_forces, model))


def computed(force_field, arguments):
    network = force_field.facts["network"]
    found = compiled(network["name"], network["reference_K"])(force_field.params, *arguments)
    return [np.asarray(value) for value in found]


def test_each_graph_is_at_its_own_temperature(conditioned, molecules):
    """One packed graph of two temperatures is each molecule in the force field fixed at its own: exactly
    the same function, so equal to rounding. T₀ itself gives U."""
    chains, topologies = molecules
    kelvin = [T0, 411.0]
    together, forces = computed(conditioned, packed(chains, topologies, kelvin))
    start = 0
    for x, topology, temperature in zip(chains, topologies, kelvin, strict=True):
        fixed = forcefield.at_temperature(conditioned, temperature)
        assert fixed.facts["network"]["reference_K"] is None and fixed.facts["temperature_K"] == temperature
        alone, force = computed(fixed, packed([x], [topology], None))
        rows = slice(start, start + len(x))
        start += len(x)
        assert np.allclose(together[rows], alone[: len(x)], rtol=1e-10, atol=1e-12)
        assert np.allclose(forces[rows], force[: len(x)], rtol=1e-9, atol=1e-11)
    assert np.all(together[start:] == 0.0) and np.all(forces[start:] == 0.0)


def test_the_energy_is_linear_in_temperature(conditioned, molecules):
    """E(T) - E(T₀) = -(T/T₀ - 1) S, and S is not nothing."""
    chains, topologies = molecules
    low, middle, high = (
        computed(conditioned, packed(chains, topologies, [t, t]))[0].sum() for t in (T0, 1.5 * T0, 2.0 * T0)
    )
    assert abs(high - low) > 1e-3 * abs(low)
    assert middle - low == pytest.approx(0.5 * (high - low), rel=1e-9)


def test_it_costs_one_matrix_more_for_each_readout(conditioned):
    """Everything but the last matrices is shared, and all of U's layers have the names that they had."""
    facts = {**conditioned.facts["network"], "reference_K": None}
    plain = jax.eval_shape(network_term(facts).init, jax.random.key(0))
    own = {module for module in conditioned.params["network"] if module not in plain}
    assert own and all(module.endswith("_entropy") for module in own)
    assert set(forcefield.at_temperature(conditioned, 350.0).params["network"]) == set(plain)


def test_without_a_temperature_it_says_so(conditioned, molecules):
    chains, topologies = molecules
    with pytest.raises(ValueError, match="states none: give `pack` the temperatures, or fix it with"):
        computed(conditioned, packed(chains, topologies, None))


def test_only_a_conditioned_network_changes():
    facts = {"name": "schnet", **PASSING}
    network = network_term(facts)
    plain = ForceField({**PRIORS, "network": facts}, {"network": network.init(jax.random.key(0))})
    assert forcefield.at_temperature(plain, 500.0) is plain
    assert forcefield.conditioned_range(plain) is None
    alone = replace(plain, facts={**plain.facts, "network": None})
    assert forcefield.at_temperature(alone, 500.0) is alone
