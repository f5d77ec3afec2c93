"""Boltzmann inversion gives back a potential from samples of it, Jacobian included; shrinkage has its limits.

Estimates of m parameters by maximum likelihood from n independent samples of p have
n ⟨(Δu)²⟩_p ~ χ² with m degrees of freedom, u = U/kT up to its constant (half of it is n times the
Kullback-Leibler divergence). That is the tolerance: m + 4 sqrt(2m), false alarm below 1e-3.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from cgrefine import residues
from cgrefine.config.schema import Priors, Repulsion, Walls
from cgrefine.data.store import Dataset, in_memory
from cgrefine.errors import InputError
from cgrefine.fm.priors import fit, marginals
from cgrefine.fm.priors.marginals import Histogram
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal

KT = 0.6359
LOW, HIGH, KNOTS = 1.4, 2.6, 14


def sampled(log_density, low, high, n, seed):
    """n independent samples of a density on (low, high), by inversion on a grid of 20000 points."""
    x = np.linspace(low, high, 20001)
    p = np.exp(log_density(x))
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]))])
    return np.interp(np.random.default_rng(seed).random(n) * cumulative[-1], cumulative, x)


def histogram(values, kind, n_classes=1, row=0):
    edges = getattr(marginals.empty(), kind).edges
    counts = np.zeros((n_classes, len(edges) - 1))
    counts[row] = np.histogram(values, edges)[0]
    return Histogram(counts, edges, np.zeros(n_classes))


def weighted_square(u, reference, p):
    """⟨(u - reference)²⟩ over p with the constant removed."""
    difference = u - reference
    return np.average((difference - np.average(difference, weights=p)) ** 2, weights=p)


def chi_square_limit(m):
    return m + 4.0 * np.sqrt(2.0 * m)


@pytest.mark.parametrize("missing_jacobian", [False, True])
def test_bond_is_given_back(missing_jacobian):
    """k within 4 of its standard errors k sqrt(2/n), r0 within 4 of sqrt(kT/k/n).

    Without r² in the samples (a planted bug, as if the inversion had none) r0 is off by 2kT/(k r0) =
    2.1e-3 Å, 15 standard errors.
    """
    k, r0, n = 160.0, 3.85, 200_000
    power = 4.0 if missing_jacobian else 2.0
    r = sampled(lambda r: power * np.log(r) - 0.5 * k * (r - r0) ** 2 / KT, 3.3, 4.4, n, 0)
    found = fit.fit_bonds(histogram(r, "bond"), KT, n0=0.0)
    k_close = abs(found["k"][0] - k) < 4 * k * np.sqrt(2 / n)
    r0_close = abs(found["r0"][0] - r0) < 4 * np.sqrt(KT / k / n)
    assert k_close
    assert r0_close != missing_jacobian


def test_cis_bonds_do_not_soften_the_trans_bond():
    k, r0, n = 160.0, 3.85, 50_000
    r = sampled(lambda r: 2 * np.log(r) - 0.5 * k * (r - r0) ** 2 / KT, 3.3, 4.4, n, 1)
    cis = np.random.default_rng(2).normal(2.95, 0.05, n // 10)
    found = fit.fit_bonds(histogram(np.concatenate([r, cis]), "bond"), KT, n0=0.0)
    assert abs(found["k"][0] - k) < 4 * k * np.sqrt(2 / n)


def true_angle(theta):
    """An asymmetric, anharmonic well of 8 kT, kT units."""
    return 36.0 * (theta - 1.9) ** 2 * ((theta - 1.95) ** 2 + 0.05) - 1.2 * theta


@pytest.mark.parametrize("missing_jacobian", [False, True])
def test_angle_is_given_back(missing_jacobian):
    """n ⟨Δu²⟩ is below the χ² limit of the knots. A missing sin θ takes it above 100 a knot."""
    n = 200_000
    power = 2.0 if missing_jacobian else 1.0
    theta = sampled(lambda x: power * np.log(np.sin(x)) - true_angle(x), LOW, HIGH, n, 3)
    found = fit.fit_angles(histogram(theta, "angle"), KT, 0.0, LOW, HIGH, KNOTS, smoothing=1e-3)
    grid = np.linspace(LOW + 1e-6, HIGH - 1e-6, 400)
    u = fit.spline_design(grid, LOW, HIGH, KNOTS) @ found["coefficients"][0] / KT
    p = np.sin(grid) * np.exp(-true_angle(grid))
    statistic = n * weighted_square(u, true_angle(grid), p)
    if missing_jacobian:
        assert statistic > 100 * KNOTS
    else:
        assert statistic < chi_square_limit(KNOTS)
    assert u.min() == pytest.approx(0.0, abs=0.02)


def test_dihedral_is_given_back_with_its_signs():
    n, cosines, sines = 50_000, np.array([0.5, -0.3, 0.2]), np.array([-0.4, 0.25, 0.1])

    def u(phi):
        orders = np.arange(1, 4)
        waves = phi[..., None] * orders
        return np.cos(waves) @ cosines + np.sin(waves) @ sines

    phi = sampled(lambda x: -u(x), -np.pi, np.pi, n, 4)
    found = fit.fit_dihedrals(histogram(phi, "dihedral"), KT, 0.0, 3, smoothing=1e-3)
    grid = np.linspace(-np.pi, np.pi, 720, endpoint=False)
    waves = grid[:, None] * np.arange(1, 4)
    fitted = (np.cos(waves) @ found["cos"][0] + np.sin(waves) @ found["sin"][0]) / KT
    assert n * weighted_square(fitted, u(grid), np.exp(-u(grid))) < chi_square_limit(6)


def test_dihedrals_of_no_data_are_free():
    found = fit.fit_dihedrals(histogram(np.zeros(0), "dihedral", 3), KT, 300.0, 3, 1.0)
    assert np.all(found["cos"] == 0.0) and np.all(found["sin"] == 0.0)


def test_smoothing_takes_angles_to_a_straight_line():
    """Second differences cost all: only a line is left. Its slope makes ⟨θ⟩ that of the data."""
    theta = sampled(lambda x: np.log(np.sin(x)) - true_angle(x), LOW, HIGH, 5000, 5)
    found = fit.fit_angles(histogram(theta, "angle"), KT, 0.0, LOW, HIGH, KNOTS, smoothing=1e9)
    assert np.abs(np.diff(found["coefficients"][0], 2)).max() < 1e-4
    assert np.abs(np.diff(found["coefficients"][0])).max() > 1e-3


def test_poisson_fit_is_the_minimum():
    """Against a general minimiser on the same objective, and the closed form of one constant."""
    rng = np.random.default_rng(6)
    design = np.concatenate([np.ones((30, 1)), rng.normal(size=(30, 2))], axis=1)
    measure, penalty = rng.uniform(0.5, 2.0, 30), np.diag([0.0, 3.0, 0.2])
    counts = rng.poisson(20.0 * measure).astype(float)

    def objective(c):
        return np.sum(measure * np.exp(-design @ c) + counts * (design @ c)) + 0.5 * c @ penalty @ c

    found = fit.penalised_poisson(counts, measure, design, penalty)
    assert found == pytest.approx(minimize(objective, np.zeros(3), tol=1e-10).x, abs=1e-4)
    alone = fit.penalised_poisson(counts, measure, design[:, :1], np.zeros((1, 1)))
    assert alone[0] == pytest.approx(-np.log(counts.sum() / measure.sum()), rel=1e-9)


def test_poisson_fit_survives_empty_regions():
    """Counts in a corner of the range, penalty or none: finite, and uphill away from the data."""
    counts = np.zeros(60)
    counts[20:24] = 1000.0
    design = fit.spline_design(np.linspace(LOW, HIGH, 60), LOW, HIGH, KNOTS)
    second = np.diff(np.eye(KNOTS), 2, axis=0)
    for smoothing in (0.0, 1.0):
        c = fit.penalised_poisson(counts, np.ones(60), design, smoothing * second.T @ second)
        u = design @ c
        assert np.all(np.isfinite(c)) and u[0] > u[21] + 3.0 and u[-1] > u[21] + 3.0


def test_shrinkage_limits():
    """n0 = 0: own fit. n0 → ∞ or no data: that of all classes. n = n0: half way in mean and variance."""
    edges = marginals.empty().bond.edges
    rng = np.random.default_rng(7)
    counts = np.stack(
        [np.histogram(rng.normal(m, s, 4000), edges)[0] for m, s in ((3.8, 0.05), (3.9, 0.07), (3.8, 0.05))]
    ).astype(float)
    counts[2] = 0.0
    bond = Histogram(counts, edges, np.zeros(3))
    own, common, half = (fit.fit_bonds(bond, KT, n0) for n0 in (0.0, 1e15, 4000.0))
    pooled = fit.fit_bonds(Histogram(bond.pooled[None], edges, np.zeros(1)), KT, 0.0)
    alone = fit.fit_bonds(Histogram(counts[1:2], edges, np.zeros(1)), KT, 0.0)
    assert own["r0"][1] == pytest.approx(alone["r0"][0], rel=1e-12)
    assert common["r0"] == pytest.approx(np.full(3, pooled["r0"][0]), rel=1e-9)
    assert common["k"] == pytest.approx(np.full(3, pooled["k"][0]), rel=1e-9)
    assert own["k"][2] == pooled["k"][0] and half["r0"][2] == pooled["r0"][0]
    assert half["r0"][1] == pytest.approx(0.5 * (alone["r0"][0] + pooled["r0"][0]), rel=1e-12)
    assert 1 / half["k"][1] == pytest.approx(0.5 * (1 / alone["k"][0] + 1 / pooled["k"][0]), rel=1e-12)


def test_sigma_is_the_quantile_within_limits():
    """Uniform distances on (3.9, 5.9): the 1 % quantile is 3.92 Å; a rare pair takes the common value."""
    edges, size = marginals.empty().distance.edges, residues.N_SPECIES
    counts = np.zeros((size**2, len(edges) - 1))
    centres = 0.5 * (edges[1:] + edges[:-1])
    counts[size * 2 + 5] = 1e6 * ((centres > 3.9) & (centres < 5.9))
    counts[size * 0 + 1, np.searchsorted(edges, 3.7)] = 1.0
    distance = Histogram(counts, edges, np.zeros(size**2))
    limits = Repulsion(quantile=0.01, sigma_min_A=3.6, sigma_max_A=4.2)
    sigma = fit.fit_sigma(distance, limits, n0=300.0)
    assert sigma == pytest.approx(np.full((size, size), 3.92), abs=1e-3)
    assert np.array_equal(sigma, sigma.T)
    own = fit.fit_sigma(distance, limits, n0=0.0)
    assert own[0, 1] == own[1, 0] == pytest.approx(3.7, abs=0.021)
    assert fit.fit_sigma(distance, Repulsion(quantile=0.01, sigma_min_A=4.0), 300.0).min() == 4.0
    assert fit.fit_sigma(distance, Repulsion(quantile=0.01, sigma_max_A=3.8), 0.0).max() == 3.8


def test_angle_range_keeps_to_the_walls():
    """Data from 60 to 175° are cut at the walls; data from 90 to 120° end before them."""
    walls, degrees = Walls(), np.degrees
    wide = histogram(np.radians(np.linspace(60, 175, 20000)), "angle")
    assert degrees(fit.angle_range(wide, walls)) == pytest.approx([75.0, 160.0])
    narrow = histogram(np.radians(np.linspace(90, 120, 20000)), "angle")
    assert degrees(fit.angle_range(narrow, walls)) == pytest.approx([90.03, 119.97], abs=0.02)
    with pytest.raises(InputError, match="nothing to invert"):
        fit.angle_range(histogram(np.radians(np.linspace(165, 175, 100)), "angle"), walls)


def domain(n_frames=40, temperature_K=320.0, validation=False, bond=3.8, seed=0):
    """Frames with bonds near `bond`, in-memory; no proline."""
    species = residues.species_from_sequence("AGTALKAEAV")
    rng, n = np.random.default_rng(seed), len(species)
    frames = [
        chain_from_internal(
            rng.normal(bond, 0.05, n - 1), rng.normal(1.9, 0.2, n - 2), rng.normal(0.9, 0.8, n - 3)
        )
        for _ in range(n_frames)
    ]
    x = np.asarray(frames, np.float32)
    arrays = {
        "positions": x,
        "forces": np.zeros_like(x),
        "temperature_K": np.full(n_frames, temperature_K),
        "replica": np.zeros(n_frames),
        "frame": np.arange(n_frames),
        "validation": np.full(n_frames, validation),
    }
    return in_memory("toy", topology_from_species(species), arrays)


def dataset(*domains):
    return Dataset(Path("."), domains, {})


CFG = Priors(angle_knots=10)


def test_only_training_frames_at_the_lowest_temperature_are_read():
    """Hot frames and validation frames, with another bond length, change nothing."""
    alone = fit.fit_priors(dataset(domain()), CFG)
    mixed = fit.fit_priors(
        dataset(
            domain(), domain(temperature_K=450.0, bond=4.1, seed=1), domain(validation=True, bond=3.6, seed=2)
        ),
        CFG,
    )
    assert mixed.temperature_K == 320.0 and mixed.diagnostics["frames"] == 40
    for name, group in alone.params.items():
        for key, value in group.items():
            assert np.array_equal(mixed.params[name][key], value)
            assert value.dtype == np.float64 and np.all(np.isfinite(value))


def test_params_have_their_shapes_and_bonds_before_proline_the_common_fit():
    params = fit.fit_priors(dataset(domain()), CFG).params
    assert params["bond"]["r0"][0] == params["bond"]["r0"][1] == pytest.approx(3.8, abs=0.01)
    assert params["angle"]["coefficients"].shape == (len(residues.ANGLE_CLASSES), 10)
    assert params["dihedral"]["cos"].shape == (len(residues.DIHEDRAL_CLASSES), 3)
    assert params["repulsion"]["sigma"].shape == (20, 20)


def test_the_temperature_must_be_there():
    data = dataset(domain(4, 320.0), domain(4, 450.0))
    assert fit.inversion_temperature(data, 450.2) == 450.0
    with pytest.raises(InputError, match=r"temperature_K = 400.*320, 450 K"):
        fit.inversion_temperature(data, 400.0)
    with pytest.raises(InputError, match="no training frames"):
        fit.inversion_temperature(dataset(domain(4, validation=True)), None)
