"""Handedness, implied distributions and divergences against values known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy, geometry, neighbors, system
from cgrefine.config.priors import AnglePrior, Priors, Walls
from cgrefine.energy import SumOfTerms
from cgrefine.fm.priors import diagnostics, marginals
from cgrefine.fm.priors.facts import facts_of
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.units import thermal_energy
from tests.chains import ideal_helix

FACTS = facts_of(Priors(angle=AnglePrior(knots=10, walls=Walls(angle_k=100.0))), 1.3, 2.7)
KT = thermal_energy(320.0)


def params(cos=(0.0, 0.0), sin=(0.0, 0.0), k=160.0):
    return {
        "bond": {"k": np.full(3, k), "x0": np.array([3.8, 3.8, 2.95])},
        "angle": {"coefficients": np.zeros((5, 10))},
        "dihedral": {"cos": np.tile(cos, (3, 1)), "sin": np.tile(sin, (3, 1))},
        "repulsion": {"sigma": np.full((20, 20), 4.0)},
    }


def test_the_ideal_helix_is_right_handed():
    """φ = +50° (50.04 from rise 1.5 Å, 100°, 2.3 Å), θ = 90°, bonds of 3.83 Å; -50° in the mirror."""
    for hand in (1, -1):
        x = jnp.asarray(diagnostics.alpha_helix(6, hand))
        phi = geometry.dihedrals(x, jnp.array([[0, 1, 2, 3], [2, 3, 4, 5]]))
        assert np.degrees(phi) == pytest.approx([hand * 50.04] * 2, abs=0.02)
    assert np.allclose(diagnostics.alpha_helix(6), ideal_helix(6))


def test_mirror_gap_sign_and_size():
    """U = -sin φ favours +50°: gap 2 sin(50.04°)/kT a dihedral; even terms and the mirror of U flip it."""
    expected = 2 * np.sin(np.radians(50.0436)) / KT

    def gap(**coefficients):
        return diagnostics.mirror_gap_kT(FACTS, params(**coefficients), 320.0)

    assert gap(sin=(-1.0, 0.0)) == pytest.approx(expected, rel=1e-4)
    assert gap(sin=(1.0, 0.0)) == pytest.approx(-expected, rel=1e-4)
    assert gap(cos=(1.0, -2.0)) == pytest.approx(0.0, abs=1e-12)
    bonds_only = {"terms": FACTS["terms"][:1]}
    assert diagnostics.mirror_gap_kT(bonds_only, params(), 320.0) == 0.0


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("periodic_sum", {"k": np.full((1, 1), 1.0), "gamma": np.full((1, 1), -np.pi / 2)}),
        ("fourier", {"cos": np.zeros((1, 1)), "sin": np.full((1, 1), -1.0)}),
    ],
)
def test_mirror_gap_of_any_dihedral(form, values):
    """1 + cos(φ + π/2) = 1 - sin φ; another name and other classes are no matter."""
    entry = {"name": "torsion", "kind": "dihedral", "form": form, "classes": "global", "damping": None}
    found = diagnostics.mirror_gap_kT({"terms": [entry]}, {"torsion": values}, 320.0)
    assert found == pytest.approx(2 * np.sin(np.radians(50.0436)) / KT, rel=1e-4)


def test_mirror_gap_is_that_of_the_whole_energy():
    """The shortcut over dihedrals equals all four terms on the two helices, repulsion and walls included."""
    values = params(cos=(0.3, 0.1), sin=(-0.4, 0.2))
    packed = system.pack([system.topology_from_species([0] * 20)])
    total, totals = jax.jit(energy.total, static_argnums=0), []
    model = SumOfTerms(prior_terms(FACTS))
    for hand in (-1, 1):
        x = diagnostics.alpha_helix(20, hand)
        listed = neighbors.exact(packed, x, 6.5)
        totals.append(float(total(model, values, jnp.asarray(x), packed, listed)))
    assert totals[0] != pytest.approx(0.0)
    gap = diagnostics.mirror_gap_kT(FACTS, values, 320.0)
    assert gap == pytest.approx((totals[0] - totals[1]) / KT / 17, rel=1e-9)


def test_implied_distributions_have_their_jacobians():
    """A free angle within the walls is sin θ; a weak bond has its mean shifted by 2kT/(k r0)."""
    terms, counts = diagnostics.bonded_terms(FACTS), marginals.empty()
    p = diagnostics.implied(terms["angle"], params()["angle"], KT, counts.angle.edges)[0]
    theta = counts.angle.centres
    inside = (theta > 1.3) & (theta < 2.7)
    ratio = p[inside] / np.sin(theta[inside])
    assert np.ptp(ratio) < 1e-9 * ratio.mean()
    bond = diagnostics.implied(terms["bond"], params()["bond"], KT, counts.bond.edges)[0]
    shift = bond @ counts.bond.centres - 3.8
    assert shift == pytest.approx(2 * KT / (160 * 3.8), rel=0.01)


def test_divergence_by_hand():
    assert diagnostics.divergence(np.array([3.0, 1.0]), np.array([0.5, 0.5])) == pytest.approx(
        0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    )
    assert diagnostics.divergence(np.array([2.0, 2.0, 0.0]), np.array([0.25, 0.25, 0.5])) == pytest.approx(
        np.log(2)
    )
    assert diagnostics.divergence(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == np.inf


def test_largest_force_of_a_stretched_bond():
    """One bond 0.2 Å too long, k = 160: 32 kcal/mol/Å on both beads, found in the one bad frame of either."""
    topology = system.topology_from_species([0, 0])
    good, bad = (np.array([[[0.0, 0, 0], [r, 0, 0]]]) for r in (3.8, 4.0))
    found = diagnostics.largest_force(
        FACTS, params(), [topology, topology], [np.concatenate([good, good]), np.concatenate([good, bad])]
    )
    assert found == pytest.approx(32.0, rel=1e-9)


def test_agreement_of_samples_of_the_term_itself():
    """Counts drawn from the implied distribution: 2n KL ~ χ² of bins - 1; four deviations (1e-3)."""
    counts, n = marginals.empty(), 20_000
    term = diagnostics.bonded_terms(FACTS)["dihedral"]
    values = params(cos=(0.4, 0.0), sin=(-0.5, 0.2))
    p = diagnostics.implied(term, values["dihedral"], KT, counts.dihedral.edges)[0]
    drawn = np.zeros(counts.dihedral.counts.shape)
    drawn[0] = np.random.default_rng(0).multinomial(n // 2, p)
    drawn[21] = np.random.default_rng(1).multinomial(n // 2, p)
    counts = counts._replace(dihedral=counts.dihedral._replace(counts=drawn))
    found = diagnostics.agreement(FACTS, values, counts, KT)["dihedral"]
    assert set(found) == {"other"} and found["other"]["n"] == n
    assert abs(2 * n * found["other"]["kl"] - 71) < 4 * np.sqrt(2 * 71)
    wrong = diagnostics.agreement(FACTS, params(), counts, KT)["dihedral"]
    assert wrong["other"]["kl"] > 20 * found["other"]["kl_noise"]


def test_rows_of_a_term_are_its_classes():
    """A different energy in each row of 400 types is found in that row."""
    entry = {"name": "dihedral", "kind": "dihedral", "form": "fourier", "classes": "type", "damping": None}
    values = {"cos": np.arange(400.0)[:, None], "sin": np.zeros((400, 1))}
    u = diagnostics.term_energies(
        diagnostics.bonded_terms({"terms": [entry]})["dihedral"], values, np.zeros(1)
    )
    assert u[:, 0].tolist() == list(range(400))
