"""Iterative inversion on a system whose marginals are exact sums over a grid: an angle and a dihedral that
feel each other, w(θ, φ) = 6 kT (θ - 1.9) sin φ, besides their own energies."""

from dataclasses import replace

import numpy as np
import pytest

from cgrefine.config.priors import AnglePrior, BondPrior, DihedralPrior, EnergyWeights, Priors
from cgrefine.errors import InputError
from cgrefine.fm.priors import classes, diagnostics, fit, iterate, marginals
from cgrefine.fm.priors.facts import facts_of
from cgrefine.fm.priors.inversion import by_level
from cgrefine.units import thermal_energy

TEMPERATURE_K = 320.0
KT = thermal_energy(TEMPERATURE_K)
LOW, HIGH = 1.4, 2.6
STRENGTH = 6.0
N = 1e7
CFG = Priors(
    bond=BondPrior(classes="global"),
    angle=AnglePrior(classes="global", knots=16, smoothing=1e-3),
    dihedral=DihedralPrior(classes="global", harmonics=3, choice="fixed", smoothing=1e-3),
)
FACTS = facts_of(CFG, LOW, HIGH)
TRUE = {
    "bond": {"k": np.full(2, 160.0), "x0": np.array([3.85, 2.95])},
    "dihedral": {"cos": KT * np.array([[0.6, -0.4, 0.2]]), "sin": KT * np.array([[-0.7, 0.3, 0.1]])},
}


def true_angle():
    """Spline coefficients of an asymmetric well."""
    x = np.linspace(LOW - 0.1, HIGH + 0.1, CFG.angle.knots)
    return {"coefficients": (KT * (18.0 * (x - 1.85) ** 2 - 14.0 * (x - 1.85) ** 3))[None]}


TRUE["angle"] = true_angle()


def simulate(params, coupled=True):
    """N observations of each kind as an endless simulation of the coupled system would count them."""
    empty = marginals.empty()
    alone = {
        name: diagnostics.implied(term, params[name], KT, getattr(empty, name).edges)[0]
        for name, term in diagnostics.bonded_terms(FACTS).items()
    }
    theta, phi = empty.angle.centres, empty.dihedral.centres
    w = STRENGTH * np.outer(theta - 1.9, np.sin(phi)) * coupled
    joint = np.outer(alone["angle"], alone["dihedral"]) * np.exp(-w)
    joint /= joint.sum()
    p = {"bond": alone["bond"], "angle": joint.sum(axis=1), "dihedral": joint.sum(axis=0)}
    found = {}
    for kind, values in p.items():
        counts = np.zeros_like(getattr(empty, kind).counts)
        counts[0] = N * values
        found[kind] = getattr(empty, kind)._replace(counts=counts)
    return empty._replace(**found)


def inverted(reference, cfg=CFG):
    """What `fit_priors` makes of these marginals, without the frames."""
    estimators = fit.estimators_of(cfg, LOW, HIGH, None)
    q = fit.quantities(estimators, fit.bonded_counts(reference, cfg), cfg)
    report = {
        "temperature_K": TEMPERATURE_K,
        "angle_range_deg": np.degrees([LOW, HIGH]).tolist(),
        "harmonics": None,
        "rounds": 0,
    }
    return fit.FittedPriors(FACTS, fit.bonded_params(estimators, q, KT), report, reference)


def divergences(fitted, reference):
    return diagnostics.between(reference, simulate(fitted.params))


def test_steps_converge_to_the_reference():
    """The inversion alone counts the coupling twice: 0.13 and 0.06 nats off. Two steps leave less than 0.002,
    three less than 0.0005: the forms can represent the reference."""
    reference = simulate(TRUE)
    fitted = inverted(reference)
    found = [divergences(fitted, reference)]
    for _ in range(3):
        fitted = iterate.corrected(fitted, simulate(fitted.params), CFG)
        found.append(divergences(fitted, reference))
    for kind in ("angle", "dihedral"):
        assert found[0][kind] > 0.05
        assert found[1][kind] < 0.2 * found[0][kind]
        assert found[2][kind] < 2e-3
        assert found[3][kind] < 5e-4
    assert fitted.diagnostics["rounds"] == 3
    assert set(fitted.diagnostics["agreement"]) == set(classes.KINDS)
    assert fitted.params["bond"]["x0"][0] == pytest.approx(3.85, abs=1e-3)
    assert fitted.params["bond"]["k"][0] == pytest.approx(160.0, rel=0.01)


def test_one_step_is_the_formula():
    """U + kT ln(p_sim/p_ref) where there are data, up to a constant and the smoothness of the forms."""
    reference = simulate(TRUE)
    before = inverted(reference)
    simulated = simulate(before.params)
    after = iterate.corrected(before, simulated, CFG)
    for kind in ("angle", "dihedral"):
        term, x = diagnostics.bonded_terms(FACTS)[kind], getattr(reference, kind).centres
        p_ref, p_sim = (getattr(m, kind).counts[0] for m in (reference, simulated))
        seen = p_ref > 2e-4 * N
        u = [diagnostics.term_energies(term, f.params[kind], x)[0][seen] for f in (before, after)]
        step = u[1] - u[0] - KT * np.log(p_sim[seen] / p_ref[seen])
        assert np.std(u[1] - u[0]) > 0.2 * KT
        assert np.std(step) < 0.1 * np.std(u[1] - u[0])


@pytest.mark.parametrize("form", ["spline", "polynomial", "fourier", "harmonic"])
def test_a_simulation_of_uncoupled_terms_changes_nothing(form):
    """p_sim = p_implied: to the bin (all moments are sums over the same bins)."""
    cfg = CFG.model_copy(update={"angle": CFG.angle.model_copy(update={"form": form})})
    facts = facts_of(cfg, LOW, HIGH)
    before = replace(inverted(simulate(TRUE, coupled=False), cfg), facts=facts)
    empty, simulated = marginals.empty(), {}
    for kind, term in diagnostics.bonded_terms(facts).items():
        histogram = getattr(empty, kind)
        counts = histogram.counts.copy()
        counts[0] = N * diagnostics.implied(term, before.params[kind], KT, histogram.edges)[0]
        simulated[kind] = histogram._replace(counts=counts)
    after = iterate.corrected(before, empty._replace(**simulated), cfg)
    for kind, group in before.params.items():
        for name, value in group.items():
            assert after.params[kind][name] == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_without_a_simulation_nothing_changes():
    before = inverted(simulate(TRUE))
    after = iterate.corrected(before, marginals.empty(), CFG)
    for kind, group in before.params.items():
        for name, value in group.items():
            assert after.params[kind][name] == pytest.approx(value, rel=1e-9, abs=1e-9)


def test_coupling_of_coarser_rows_is_that_of_their_members():
    """Expected and simulated counts of the members are added, not the members' ratios averaged."""
    cfg = CFG.model_copy(update={"dihedral": DihedralPrior(classes="class", harmonics=3, choice="fixed")})
    facts = facts_of(cfg, LOW, HIGH)
    fitted = replace(inverted(simulate(TRUE), cfg), facts=facts)
    rng, histogram = np.random.default_rng(0), marginals.empty().dihedral
    simulated = marginals.empty()._replace(
        dihedral=histogram._replace(counts=rng.poisson(2.0, histogram.counts.shape).astype(float))
    )
    everything, by_class = iterate.coupling(fitted, simulated, "dihedral", cfg)
    n = marginals.coarser(marginals.grouped(simulated.dihedral, "dihedral", "class"), 5).counts
    due = (n + iterate.PSEUDO_COUNTS) / by_class[:, ::5] - iterate.PSEUDO_COUNTS
    assert due.sum(axis=1) == pytest.approx(n.sum(axis=1))
    levels = [by_level(values, "dihedral", "class")[0][0] for values in (n, due)]
    expected = (levels[0] + iterate.PSEUDO_COUNTS) / (levels[1] + iterate.PSEUDO_COUNTS)
    assert everything[0, ::5] == pytest.approx(expected)


def test_energy_weights_and_steps_exclude_each_other():
    cfg = CFG.model_copy(update={"weights": EnergyWeights(angle=0.25)})
    with pytest.raises(InputError, match=r"priors\.weights\.angle = 0\.25"):
        iterate.corrected(inverted(simulate(TRUE)), marginals.empty(), cfg)
