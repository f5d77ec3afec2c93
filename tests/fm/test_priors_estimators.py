"""Each bonded form gives back a potential from samples of it, Jacobian included.

Estimates of m parameters by maximum likelihood from n independent samples of p have
n ⟨(Δu)²⟩_p ~ χ² with m degrees of freedom, u = U/kT up to its constant (half of it is n times the
Kullback-Leibler divergence). With n = 200 000 and m <= 30 its root is 0.012 kT: the limit of 0.05 kT over
the region that holds 99 % is four times that, and the energies are those of the terms as they are simulated.
"""

import numpy as np
import pytest
from scipy.stats import norm

from cgrefine.config.priors import AnglePrior, BondPrior, DihedralPrior, Priors
from cgrefine.fm.priors import bootstrap, classes, diagnostics, estimators
from cgrefine.fm.priors.facts import facts_of
from cgrefine.fm.priors.inversion import by_level
from tests.fm.histograms import counts, edges, sampled

KT = 0.6359
LOW, HIGH = 1.4, 2.6
N = 200_000


def bonds(n0=0.0, **cfg):
    """The estimator of all bonds, and N samples of r² exp(-½ k (r - x0)²/kT) with k = 160, x0 = 3.85."""
    r = sampled(lambda r: 2.0 * np.log(r) - 0.5 * 160.0 * (r - 3.85) ** 2 / KT, 3.3, 4.4, N, 0)
    estimator = estimators.bond_estimator(BondPrior(classes="global", **cfg), edges("bond"), n0)
    return estimator, counts(r, "bond", 2)


def test_bond_is_given_back():
    """r0 within 0.2 %, k within 2 %; and within four standard errors, k sqrt(2/n) and sqrt(kT/k/n)."""
    estimator, observed = bonds()
    found = estimator.params(estimators.inverted(estimator, observed, 0.0), KT)
    assert found["x0"][0] == pytest.approx(3.85, rel=2e-3)
    assert found["k"][0] == pytest.approx(160.0, rel=2e-2)
    assert abs(found["k"][0] - 160.0) < 4 * 160.0 * np.sqrt(2 / N)
    assert abs(found["x0"][0] - 3.85) < 4 * np.sqrt(KT / 160.0 / N)


def test_bins_do_not_widen_a_bond():
    """Endless samples of a Gaussian p/r² of a bin and a half: variance to 1 % (of it the bins are 4 %)."""
    estimator, observed = bonds()
    sigma = 1.5 * 0.005
    observed[0] = estimator.centres**2 * np.diff(norm.cdf(edges("bond"), 3.8013, sigma))
    found = estimator.own(observed, np.ones_like(observed), 0)
    assert found[0, 1] == pytest.approx(sigma**2, rel=0.01)


def test_bond_without_its_jacobian():
    """Inverted as p instead of p/r², x0 is off by 2kT/(k x0) = 2.1e-3 Å, 15 standard errors."""
    estimator, observed = bonds()
    forgotten = np.broadcast_to(estimator.centres**-2.0, observed.shape)
    found = estimator.params(estimators.inverted(estimator, observed, 0.0, [forgotten]), KT)
    assert found["x0"][0] - 3.85 == pytest.approx(2 * KT / (160.0 * 3.85), rel=0.25)
    assert abs(found["x0"][0] - 3.85) > 10 * np.sqrt(KT / 160.0 / N)


def test_cis_and_trans_bonds_keep_apart():
    """Short bonds that are not flagged are left out; flagged ones make the cis row, long ones left out."""
    estimator, observed = bonds()
    rng = np.random.default_rng(2)
    observed[0] += counts(rng.normal(2.95, 0.05, N // 10), "bond")[0]
    observed[1] = counts(np.concatenate([rng.normal(2.98, 0.04, 20_000), np.full(500, 3.8)]), "bond")[0]
    found = estimator.params(estimators.inverted(estimator, observed, 0.0), KT)
    assert abs(found["k"][0] - 160.0) < 4 * 160.0 * np.sqrt(2 / N)
    # p/r² of a Gaussian p in r: mean shifted by -2 variance/mean
    assert found["x0"][1] == pytest.approx(2.98 - 2 * 0.04**2 / 2.98, abs=4 * 0.04 / np.sqrt(20_000))
    assert found["k"][1] == pytest.approx(KT / 0.04**2, rel=0.05)


def test_without_cis_bonds_they_have_the_usual_length():
    """And the stiffness of the others; 100 of them with n0 = 300 are a quarter their own."""
    estimator, observed = bonds(n0=300.0, cis_r0_A=2.9)
    none = estimator.params(estimators.inverted(estimator, observed, 300.0), KT)
    assert none["x0"][1] == 2.9 and none["k"][1] == none["k"][0]
    observed[1] = counts(np.full(100, 3.1025), "bond")[0]
    some = estimator.params(estimators.inverted(estimator, observed, 300.0), KT)
    assert some["x0"][1] == pytest.approx(0.25 * 3.1025 + 0.75 * 2.9, abs=2e-3)


ANGLES = {
    "spline": lambda x: 36.0 * (x - 1.9) ** 2 * ((x - 1.95) ** 2 + 0.05) - 1.2 * x,
    "polynomial": lambda x: np.polynomial.Polynomial([0, 4.0, 12.0, 6.0, -9.0, 10.0])(np.cos(x)),
    "fourier": lambda x: 3.0 * np.cos(x) - 2.0 * np.sin(2 * x) + 1.5 * np.cos(3 * x) + 0.4 * np.sin(4 * x),
    "harmonic": lambda x: 0.5 * 20.0 * (x - 2.0) ** 2,
}
TORSIONS = ("fourier", "periodic_sum", "spline")


def true_torsion(phi):
    """Three harmonics, no symmetry: a sign that is wrong is seen."""
    waves = np.asarray(phi)[..., None] * np.arange(1, 4)
    return np.cos(waves) @ [0.9, -0.5, 0.4] + np.sin(waves) @ [-0.8, 0.6, 0.2]


def rms_in_99_percent(u, reference, log_density):
    """Root mean square of u - reference (kT) over the 99 % region of a density, its mean taken off."""
    p = np.exp(log_density)
    cumulative = np.cumsum(p) / p.sum()
    region = (cumulative > 0.005) & (cumulative < 0.995)
    difference = (u - reference)[region]
    return float(np.std(difference))


def found_angle(form, coupling=None):
    cfg = Priors(angle=AnglePrior(form=form, classes="global", smoothing=1e-3))
    low, high = (0.05, 3.1) if form == "harmonic" else (LOW, HIGH)
    theta = sampled(lambda x: np.log(np.sin(x)) - ANGLES[form](x), low, high, N, 3)
    estimator = estimators.angle_estimator(cfg.angle, edges("angle"), LOW, HIGH)
    observed = counts(theta, "angle")
    factors = None if coupling is None else [coupling(estimator, observed)]
    params = estimator.params(estimators.inverted(estimator, observed, 0.0, factors), KT)
    term = diagnostics.bonded_terms(facts_of(cfg, LOW, HIGH))["angle"]
    grid = np.linspace(LOW + 1e-6, HIGH - 1e-6, 600)
    u = diagnostics.term_energies(term, params, grid)[0] / KT
    return rms_in_99_percent(u, ANGLES[form](grid), np.log(np.sin(grid)) - ANGLES[form](grid))


def without_sine(estimator, observed):
    """What cancels the Jacobian: the planted bug."""
    del estimator
    theta = 0.5 * (edges("angle")[1:] + edges("angle")[:-1])
    return np.broadcast_to(1.0 / np.sin(theta), observed.shape)


@pytest.mark.parametrize("form", ANGLES)
def test_angle_is_given_back(form):
    assert found_angle(form) < 0.05


@pytest.mark.parametrize("form", ANGLES)
def test_angle_without_its_jacobian_is_not(form):
    """ln sin θ differs by 0.2 kT or more over the 99 % region of each of these."""
    assert found_angle(form, without_sine) > 0.1


@pytest.mark.parametrize("form", TORSIONS)
def test_dihedral_is_given_back_with_its_signs(form):
    cfg = Priors(dihedral=DihedralPrior(form=form, classes="global", harmonics=3, smoothing=1e-3))
    phi = sampled(lambda x: -true_torsion(x), -np.pi, np.pi, N, 4)
    estimator = estimators.dihedral_estimator(cfg.dihedral, edges("dihedral"))
    params = estimator.params(estimators.inverted(estimator, counts(phi, "dihedral"), 0.0), KT)
    term = diagnostics.bonded_terms(facts_of(cfg, LOW, HIGH))["dihedral"]
    grid = np.linspace(-np.pi, np.pi, 720, endpoint=False)
    u = diagnostics.term_energies(term, params, grid)[0] / KT
    assert rms_in_99_percent(u, true_torsion(grid), -true_torsion(grid)) < 0.05
    assert rms_in_99_percent(u, true_torsion(-grid), -true_torsion(grid)) > 0.5
    assert diagnostics.term_energies(term, params, np.zeros(1)).shape == (1, 1)


def test_penalty_takes_angles_to_a_straight_line():
    """Second differences cost all: only a line is left. Its slope makes ⟨θ⟩ that of the data."""
    theta = sampled(lambda x: np.log(np.sin(x)) - ANGLES["spline"](x), LOW, HIGH, 5000, 5)
    cfg = AnglePrior(classes="global", smoothing=1e9)
    estimator = estimators.angle_estimator(cfg, edges("angle"), LOW, HIGH)
    found = estimator.params(estimators.inverted(estimator, counts(theta, "angle"), 0.0), KT)
    assert np.abs(np.diff(found["coefficients"][0], 2)).max() < 1e-4
    assert np.abs(np.diff(found["coefficients"][0])).max() > 1e-3


def test_the_penalties_of_all_angle_forms_agree():
    """½ cᵀ P c of one smooth energy is the same in the spline and in the polynomial, to 5 %."""
    cosines = np.array([0.0, 0.3, 1.0, -0.7])
    cfg = AnglePrior(classes="global", form="polynomial", degree=3)
    powers = estimators.angle_estimator(cfg, edges("angle"), LOW, HIGH)
    splines = estimators.angle_estimator(AnglePrior(classes="global"), edges("angle"), LOW, HIGH)
    assert isinstance(powers, estimators.Linear) and isinstance(splines, estimators.Linear)
    c = np.linalg.lstsq(splines.design, powers.design @ cosines, rcond=None)[0]
    assert np.abs(splines.design @ c - powers.design @ cosines).max() < 1e-3
    assert c @ splines.penalty @ c == pytest.approx(cosines @ powers.penalty @ cosines, rel=0.1)


def test_periodic_sum_is_the_same_curve():
    found = estimators.periodic({"cos": np.array([[0.3, -0.2]]), "sin": np.array([[-0.4, 0.0]])})
    assert found["k"][0] == pytest.approx([0.5, 0.2])
    assert found["gamma"][0] == pytest.approx([np.arctan2(-0.4, 0.3), np.pi])


def test_harmonic_angle_without_a_minimum_takes_its_parent():
    """Two narrow peaks far apart have no parabola: the class is that of all classes together."""
    estimator = estimators.angle_estimator(AnglePrior(form="harmonic"), edges("angle"), LOW, HIGH)
    rng = np.random.default_rng(0)
    observed = counts(rng.normal(1.9, 0.15, 20_000), "angle", len(classes.labels("angle", "class")))
    observed[1] = counts(np.concatenate([np.full(500, 0.02), np.full(500, 3.12)]), "angle")[0]
    q = estimators.inverted(estimator, observed, 0.0)
    own = estimator.own(observed, np.ones_like(observed), 1)
    assert np.all(np.isnan(own[1])) and np.all(np.isfinite(q))


def test_dihedrals_of_no_data_are_free():
    estimator = estimators.dihedral_estimator(DihedralPrior(), edges("dihedral"))
    found = estimator.params(estimators.inverted(estimator, counts([], "dihedral", 3), 300.0), KT)
    assert np.all(found["cos"] == 0.0) and np.all(found["sin"] == 0.0)


def test_a_sparse_type_is_drawn_to_its_class():
    """Gly-Ala with 30 dihedrals, n0 = 300: an eleventh of the way from its class, as coefficients go."""
    estimator = estimators.dihedral_estimator(DihedralPrior(classes="type", harmonics=2), edges("dihedral"))
    n_rows = len(classes.labels("dihedral", "type"))
    many, few = sampled(lambda x: -2 * np.cos(x), -np.pi, np.pi, 9000, 1), np.full(30, 2.0)
    row, other = 20 * 7 + 0, 20 * 7 + 1
    observed = counts(many, "dihedral", n_rows, other) + counts(few, "dihedral", n_rows, row)
    q = estimators.inverted(estimator, observed, 300.0)[:, 1:]
    own = estimator.own(observed, np.ones_like(observed), 2)[row, 1:]
    above = estimator.own(by_level(observed, "dihedral", "type")[1], np.ones((3, 360)), 1)[1, 1:]
    assert q[row] == pytest.approx(own / 11 + above * 10 / 11, abs=0.02)
    assert np.abs(own - above).max() > 0.5


def torsion_blocks(repeats, seed):
    """30 blocks of 300 / repeats independent torsions of two harmonics, each counted `repeats` times."""

    def log_density(x):
        return -0.7 * np.cos(x) + 0.6 * np.sin(2 * x)

    phi = sampled(log_density, -np.pi, np.pi, 9000 // repeats, seed)
    return np.stack([repeats * counts(part, "dihedral") for part in phi.reshape(30, -1)])


def test_number_of_harmonics():
    """Two harmonics are there and two are found. Frames that repeat each other 30 times look like more,
    unless their dispersion is taken into account.

    AIC takes one superfluous harmonic or more with probability about 0.2 for independent observations,
    so that of ten samples at most five go wrong (false alarm 6e-3 for 0.2; keys are fixed)."""
    full = estimators.dihedral_estimator(DihedralPrior(classes="global", smoothing=1e-3), edges("dihedral"))
    found = {"independent": [], "naive": [], "corrected": []}
    for seed in range(10):
        for case, repeats in (("independent", 1), ("naive", 30), ("corrected", 30)):
            blocks = torsion_blocks(repeats, seed)
            spread = bootstrap.dispersion(blocks, "dihedral", "global", full.design[:, 1:])
            g = [np.ones(1)] if case == "naive" else spread
            chosen = estimators.chosen_harmonics(full, blocks.sum(axis=0), g)
            found[case].append(int(chosen[0][0]))
    assert min(found["independent"]) == 2 and found["independent"].count(2) >= 5
    assert found["naive"].count(6) >= 8
    assert found["corrected"].count(2) >= 5 and max(found["corrected"]) < 6


def test_chosen_harmonics_are_the_only_ones():
    full = estimators.dihedral_estimator(DihedralPrior(harmonics=4), edges("dihedral"))
    few = estimators.with_harmonics(full, (np.array([4]), np.array([1, 2, 4])))
    observed = np.random.default_rng(0).poisson(30.0, (3, 360)).astype(float)
    found = few.params(few.own(observed, np.ones_like(observed), 1), KT)
    assert [int((row != 0).sum()) for row in found["cos"]] == [1, 2, 4]
    assert [int((row != 0).sum()) for row in found["sin"]] == [1, 2, 4]
