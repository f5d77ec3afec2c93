"""The gate on priors that are good, and on planted bad ones: each fails, for its own reason."""

import copy

import numpy as np
import pytest

from cgrefine.config.priors import Gate
from cgrefine.fm.priors import diagnostics, gate, marginals
from cgrefine.fm.priors.gate import Evidence
from cgrefine.units import thermal_energy

T = 320.0
KT = thermal_energy(T)
LOW, HIGH = np.radians([75.0, 160.0])
FACTS = {
    "terms": [
        {"name": "bond", "kind": "bond", "form": "harmonic", "classes": "global"},
        {
            "name": "angle", "kind": "angle", "form": "polynomial", "classes": "global",
            "low": LOW, "high": HIGH, "wall_k": 100.0, "wall_ramp": 0.035,
        },
        {"name": "dihedral", "kind": "dihedral", "form": "fourier", "classes": "global", "damping": None},
        {
            "name": "repulsion", "kind": "pair", "form": "power", "epsilon": 1.0, "exponent": 12,
            "shift_order": 2, "cutoff_A": 6.5, "min_separation": 3, "max_separation": None,
        },
    ]
}  # fmt: skip
PARAMS = {
    "bond": {"k": np.array([150.0, 150.0]), "x0": np.array([3.8, 2.95])},
    "angle": {"coefficients": np.array([[5.0, 10.0]])},
    "dihedral": {"cos": np.array([[0.3]]), "sin": np.array([[-1.5]])},
    "repulsion": {"sigma": np.full((20, 20), 3.9)},
}
SIZES = np.ones((20, 20), bool)


def expected_counts(facts, params, temperature_K=T, n=200_000.0) -> marginals.Marginals:
    """Marginals of each term alone at a temperature, as counts: what a long simulation of it would give."""
    empty = marginals.empty()
    kT = thermal_energy(temperature_K)
    found = {}
    for name, term in diagnostics.bonded_terms(facts).items():
        histogram = getattr(empty, name)
        counts = np.zeros_like(histogram.counts)
        counts[0] = n * diagnostics.implied(term, params[name], kT, histogram.edges)[0]
        found[name] = histogram._replace(counts=counts)
    distance = empty.distance.counts.copy()
    distance[0, 190:] = 100.0
    return empty._replace(**found, distance=empty.distance._replace(counts=distance))


REFERENCE = expected_counts(FACTS, PARAMS)


def failed(facts=FACTS, params=PARAMS, simulated=None, reference=REFERENCE, **changes) -> set[str]:
    """Names of the checks that fail for priors whose simulation gave these counts."""
    if simulated is None:
        simulated = expected_counts(facts, params)
    found = Evidence(reference, simulated, 32, 32, 0.001, 80.0, SIZES, 0.3)._replace(**changes)
    made = gate.checks(facts, params, KT, found, Gate())
    return {name for name, check in made.items() if not check.passed}


def changed(term: str, **values) -> dict:
    params = copy.deepcopy(PARAMS)
    params[term] = {**params[term], **values}
    return params


def test_good_priors_pass():
    assert failed() == set()


def test_a_false_minimum_of_angles_at_43_degrees():
    """The well of a fit where no data lie: angles fold there, and the wall at 50° is below the minimum."""
    theta = np.linspace(0.0, np.pi, 200)
    true = 5.0 * np.cos(theta) + 10.0 * np.cos(theta) ** 2
    well = -16.0 * np.exp(-0.5 * ((theta - np.radians(43.0)) / 0.12) ** 2)
    powers = np.cos(theta)[:, None] ** np.arange(1, 9)
    fit = np.linalg.lstsq(powers, true + well, rcond=None)[0]
    facts = copy.deepcopy(FACTS)
    facts["terms"][1] |= {"low": 0.3, "wall_k": 1.0}
    assert {"angle_below_65", "walls_kT"} <= failed(facts, changed("angle", coefficients=fit[None]))


def test_a_tail_without_force():
    """A bond that costs nothing when stretched: no wall, and bonds that escape."""
    soft = changed("bond", k=np.array([1.0, 1.0]))
    bad = failed(params=soft)
    assert {"walls_kT", "stretched_bonds", "kl_bond", "bond_variance_error"} <= bad


def test_sine_terms_removed():
    """Without sines both hands have one energy: that, and nothing about angles or bonds, fails."""
    bad = failed(params=changed("dihedral", sin=np.array([[0.0]])))
    assert {"helix_mirror_gap_kT", "reference_mirror_gap_kT"} <= bad
    assert not bad & {"kl_bond", "bond_variance_error", "angle_below_65", "walls_kT"}


def test_mirror_image_priors():
    assert "helix_mirror_gap_kT" in failed(params=changed("dihedral", sin=np.array([[1.5]])))


@pytest.mark.parametrize("temperature_K", [385.0, 450.0])
def test_temperatures_pooled(temperature_K):
    """Inverted at 320 K from frames of 320 and 450 K: bonds are too soft by T/320, whatever their KL."""
    bad = failed(params=changed("bond", k=PARAMS["bond"]["k"] * T / temperature_K))
    assert "bond_variance_error" in bad
    ratio = gate.bond_variance_ratio(REFERENCE, expected_counts(FACTS, PARAMS, temperature_K))
    assert ratio == pytest.approx(temperature_K / T, rel=0.02)


def test_repulsion_that_is_too_weak_or_too_long():
    assert "contact_kT" in failed(params=changed("repulsion", sigma=np.full((20, 20), 3.0)))
    assert "tail_kT" in failed(params=changed("repulsion", sigma=np.full((20, 20), 5.0)))
    bead = marginals.empty().distance
    counts = bead.counts.copy()
    counts[0, 120] = 1.0  # 2.4 Å
    overlapping = expected_counts(FACTS, PARAMS)._replace(distance=bead._replace(counts=counts))
    assert failed(simulated=overlapping) == {"smallest_distance_A"}


def test_what_the_simulation_shows():
    assert failed(stable=31) == {"stable_fraction"}
    assert failed(drift_kT_ns=-0.1) == {"nve_drift_kT_ns"}
    assert failed(drift_kT_ns=float("nan")) == {"nve_drift_kT_ns"}
    assert failed(largest_force=301.0) == {"largest_reference_force"}


def test_data_without_helices_have_no_gap_of_their_own():
    counts = REFERENCE.dihedral.counts.copy()
    counts[:, REFERENCE.dihedral.centres > 0] = 0.0
    reference = REFERENCE._replace(dihedral=REFERENCE.dihedral._replace(counts=counts))
    found = Evidence(reference, reference, 1, 1, 0.0, 1.0, SIZES, 0.3)
    made = gate.checks(FACTS, PARAMS, KT, found, Gate())
    assert "reference_mirror_gap_kT" not in made and "helix_mirror_gap_kT" in made
    assert "helix_mirror_gap_kT" not in gate.checks(
        FACTS, PARAMS, KT, found._replace(helix_share=0.01), Gate()
    )


def test_share_of_dihedrals_in_helices():
    """Three in a row and more, along one chain."""
    h, e = np.radians([50.0, -170.0])
    tuples = np.array([[k, k + 1, k + 2, k + 3] for k in (0, 1, 2, 3, 4, 10, 11)])
    phi = np.array([[h, h, h, h, e, h, h], [h, h, e, h, h, h, h], [e, e, h, h, h, e, e]])
    assert gate.helix_share(phi, tuples) == pytest.approx((4 + 0 + 3) / 21)
    assert gate.helix_share(phi[:, :2], tuples[:2]) == 0.0
