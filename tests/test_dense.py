"""Dense forces of replicas of one chain against differentiation of the packed energy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import dense, energy, neighbors
from cgrefine.dense import tables
from cgrefine.dense.arctangent import arctan2
from cgrefine.energy import BondedTerm, NetworkTerm, SumOfTerms
from cgrefine.fm.priors.classes import labels
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.neighbors import Neighbors
from cgrefine.system import Capacity, pack, topology_from_species

RNG = np.random.default_rng(7)
N, REPLICAS = 14, 3
CHAIN = topology_from_species(RNG.integers(0, 20, N), breaks=[6], cis=[3])
PAIR = {"kind": "pair", "cutoff_A": 6.5, "min_separation": 3, "max_separation": None}
FACTS = {
    "bond": {"kind": "bond", "form": "harmonic", "classes": "class"},
    "angle": {
        "kind": "angle", "form": "spline", "classes": "type",
        "low": 1.4, "high": 2.6, "wall_k": 100.0, "wall_ramp": 0.035,
    },
    "dihedral": {"kind": "dihedral", "form": "fourier", "classes": "class", "damping": [2.2, np.pi]},
    "torsion": {"kind": "dihedral", "form": "spline", "classes": "global", "damping": [2.2, np.pi]},
    "repulsion": {**PAIR, "form": "power", "shift_order": 2, "epsilon": 1.0, "exponent": 12},
    "odd": {**PAIR, "form": "power", "shift_order": 2, "epsilon": 0.5, "exponent": 9},
    "near": {**PAIR, "form": "wca", "epsilon": 1.0, "min_separation": 2, "max_separation": 5},
    "charge": {**PAIR, "form": "debye_huckel", "dielectric": 78.5, "debye_length_A": 8.0, "cutoff_A": 20.0},
}  # fmt: skip
SIGMA = RNG.uniform(3.6, 4.2, (20, 20))
PARAMS = {
    "bond": {"k": np.array([150.0, 130.0, 90.0]), "x0": np.array([3.8, 3.85, 2.95])},
    "angle": {"coefficients": RNG.normal(size=(len(labels("angle", "type")), 12))},
    "dihedral": {"cos": RNG.normal(size=(3, 4)), "sin": RNG.normal(size=(3, 4))},
    "torsion": {"coefficients": RNG.normal(size=(1, 16))},
    "repulsion": {"sigma": 0.5 * (SIGMA + SIGMA.T)},
    "odd": {"sigma": 0.5 * (SIGMA + SIGMA.T)},
    "near": {"sigma": 0.5 * (SIGMA + SIGMA.T)},
    "charge": {"charge": RNG.integers(-1, 2, 20).astype(float)},
}


def model_of(*names: str) -> SumOfTerms:
    return SumOfTerms(prior_terms({"terms": [{"name": name, **FACTS[name]} for name in names]}))


def walks(seed: int = 0) -> np.ndarray:
    """Random chains with bonds near 3.8 Å: angles of all sizes, straight ones and overlaps among them."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(REPLICAS, N, 3))
    steps *= rng.uniform(3.6, 4.0, (REPLICAS, N, 1)) / np.linalg.norm(steps, axis=-1, keepdims=True)
    steps[0, 5] = 1.02 * steps[0, 4] + 0.2
    return np.cumsum(steps, axis=1).reshape(-1, 3)


differentiated = jax.jit(energy.forces, static_argnums=0)
written_out = jax.jit(lambda forces, chain, x: forces(chain, x), static_argnums=0)


def packed_forces(model, x, dtype):
    system = pack([CHAIN] * REPLICAS)
    pairs = neighbors.candidates(system)
    every = Neighbors(pairs.senders, pairs.receivers, np.ones(len(pairs.senders), bool), np.asarray(False))
    params = {t.name: jax.tree.map(lambda p: jnp.asarray(p, dtype), PARAMS[t.name]) for t in model.terms}
    return np.asarray(differentiated(model, params, jnp.asarray(x, dtype), system, every))


def dense_forces(model, x, dtype):
    forces, chain = dense.dense(model, PARAMS, CHAIN, dtype)
    columns = jnp.asarray(np.moveaxis(x.reshape(REPLICAS, N, 3), -1, 0), dtype)
    return np.moveaxis(np.asarray(written_out(forces, chain, columns)), 0, -1).reshape(-1, 3)


@pytest.mark.parametrize(
    "names",
    [
        *[(name,) for name in FACTS],
        ("bond", "angle", "dihedral", "repulsion"),
        pytest.param(("torsion", "near", "charge"), marks=pytest.mark.slow),
    ],
)
def test_forces_are_those_of_the_packed_energy(names):
    """Float64: to 2e-4 of the largest (angles and splines are tables); float32: to its rounding on top."""
    model, x = model_of(*names), walks()
    single = [(np.float32, 4e-4)] if len(names) > 1 else []
    expected = packed_forces(model, x, np.float64)
    for dtype, tolerance in [(np.float64, 2e-4), *single]:
        error = np.abs(dense_forces(model, x, dtype) - expected).max()
        assert error < tolerance * max(1.0, np.abs(expected).max()), (names, dtype, error)


@pytest.mark.parametrize("names", [("bond",), ("dihedral",), ("repulsion",), ("odd",), ("charge",)])
def test_forces_without_angle_tables_are_exact(names):
    model, x = model_of(*names), walks(1)
    expected = packed_forces(model, x, np.float64)
    assert np.allclose(dense_forces(model, x, np.float64), expected, atol=1e-9 * np.abs(expected).max())


def test_error_of_the_angle_table_falls_with_its_spacing(monkeypatch):
    """Second order: twice the points, a quarter of the error (asserted: less than a third)."""
    model, x = model_of("angle"), walks(2)
    expected, errors = packed_forces(model, x, np.float64), []
    for points in (256, 1024):
        monkeypatch.setattr(tables, "POINTS", points)
        errors.append(np.abs(dense_forces(model, x, np.float64) - expected).max())
    assert errors[1] < errors[0] / 6.0


def test_only_splines_of_dihedrals_are_tables():
    """A long series would be unrolled into a program that takes gigabytes to compile."""
    series, table = (dense.dense(model_of(n), PARAMS, CHAIN, np.float64)[1] for n in ("dihedral", "torsion"))
    assert series.dihedral is not None and series.dihedral.cosines.shape[0] == 4 and not series.bonded
    assert table.dihedral is None and set(table.bonded) == {"dihedral"}


def test_a_straight_chain_and_coincident_beads_have_finite_forces():
    line = np.zeros((REPLICAS, N, 3))
    line[0, :, 0] = 3.8 * np.arange(N)
    model = model_of("bond", "angle", "dihedral", "repulsion", "charge")
    for dtype in (np.float32, np.float64):
        assert np.isfinite(dense_forces(model, line.reshape(-1, 3), dtype)).all()


def test_arctan2_in_single_precision():
    angle = np.linspace(-np.pi, np.pi, 20_001)[1:-1]
    size = np.random.default_rng(0).uniform(0.01, 100.0, angle.size)
    y, x = (np.asarray(size * f(angle), np.float32) for f in (np.sin, np.cos))
    found = np.asarray(jax.jit(arctan2)(jnp.asarray(y), jnp.asarray(x)))
    assert np.abs(found - np.arctan2(y.astype(float), x.astype(float))).max() < 5e-7
    axes = arctan2(
        jnp.asarray([0.0, 1.0, 0.0, -1.0, 0.0], jnp.float32), jnp.asarray([1.0, 0, -1, 0, 0], jnp.float32)
    )
    assert np.allclose(axes, [0.0, np.pi / 2, np.pi, -np.pi / 2, 0.0])


def test_where_it_applies():
    model = model_of("bond", "dihedral", "repulsion")
    same = pack([CHAIN] * 2)
    assert dense.applies(model, same)
    other = topology_from_species((CHAIN.species + 1) % 20, breaks=[6])
    assert not dense.applies(model, pack([CHAIN, other]))
    assert not dense.applies(model, pack([CHAIN], Capacity(N + 2, 1, 20, 20, 20)))
    network = NetworkTerm("network", 8.0, 1, lambda key: {}, lambda *a: a[0])
    assert not dense.applies(SumOfTerms((*model.terms, network)), same)
    damped = model_of("dihedral").terms[0]
    assert isinstance(damped, BondedTerm)
    assert not dense.applies(SumOfTerms((damped, replace(damped, name="free", damping=None))), same)
