"""Findings that warn, and findings that are not judged, from values worked out by hand."""

import numpy as np
import pytest

from cgrefine.cli.audit_observables import observable_finding
from cgrefine.cli.audit_unusual import energy_finding
from cgrefine.cli.audit_verdict import judged, temperature_finding
from cgrefine.cli.observe_findings import Comparison
from cgrefine.cli.replicas import Outcome
from cgrefine.config.running import Audit, Sim
from cgrefine.observables.compare import Compared
from cgrefine.observables.internal import bond_distribution
from cgrefine.observables.statistics import Estimate
from tests import planted

CFG = Audit()
BONDS = bond_distribution(planted.topology(4), 0.02)
NOTHING = Estimate(np.zeros((2, *BONDS.shape)), np.zeros(BONDS.shape), np.zeros(BONDS.shape))


def compared(value: float, stderr: float, floor: float) -> Comparison:
    distances = {"jensen_shannon": Compared(value, stderr, floor, 0.0)}
    return Comparison(BONDS, NOTHING, NOTHING, distances, np.zeros(BONDS.shape))


@pytest.mark.parametrize(
    ("value", "stderr", "floor", "limit", "warns"),
    [
        (0.10, 0.01, 0.02, 0.06, True),
        (0.07, 0.01, 0.02, 0.06, False),  # within two errors of the limit
        (0.019, 0.0, 0.001, 0.02, False),  # negligible, whatever the floor
        (0.03, float("nan"), float("nan"), 0.02, True),  # one run on either side: neither error nor floor
    ],
)
def test_an_observable_warns_beyond_its_floor_and_what_is_negligible(value, stderr, floor, limit, warns):
    found = observable_finding("bond", [compared(value, stderr, floor)], CFG)
    assert found.name == "observable_bond" and found.unit == "nats" and found.passed is None
    assert (found.value, found.warning) == (value, warns) and found.limit == pytest.approx(limit)
    both = observable_finding("bond", [compared(value, stderr, floor), compared(0.0, 0.0, 0.0)], CFG)
    assert both.value == pytest.approx(value / 2) and both.limit == pytest.approx((limit + 0.02) / 2)


def test_energy_warns_at_five_and_fails_at_fifteen_standard_deviations():
    found = {s: energy_finding(np.array([1.0, s]), CFG) for s in (4.9, 5.1, 14.9, 15.1, np.inf)}
    assert [f.passed for f in found.values()] == [True, True, True, False, False]
    assert [f.warning for f in found.values()] == [False, True, True, False, False]
    assert energy_finding(np.zeros(0), CFG).passed is None


def test_a_kinetic_temperature_is_judged_where_a_thermostat_made_it():
    """Replicas at 400 ± 1 K of 300 K: wrong with a thermostat, no finding without one or without momenta."""
    hot = [Outcome("a", r, "OK", "", None, 3, 400.0 + (-1) ** r, "") for r in range(8)]
    verdict = judged(hot, 1.0, 0.95)
    given = {"temperature_K": 300.0, "friction_per_ps": 1.0, "replicas": 8, "duration_ps": 1.0}
    found = {
        kind: temperature_finding(verdict, Sim.model_validate({**given, "integrator": kind}), CFG)
        for kind in ("langevin", "nose_hoover", "nve", "brownian")
    }
    assert [f.passed for f in found.values()] == [False, False, None, None]
    assert "no thermostat" in found["nve"].says and "no momenta" in found["brownian"].says
