"""Statistics of stability against values worked out by hand."""

import jax
import numpy as np
import pytest

from cgrefine import units
from cgrefine.config.running import Criteria
from cgrefine.sim import audit
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.rollout import settings
from cgrefine.sim.stability import checks
from cgrefine.system import pack, topology_from_species
from tests import analytic

DT = units.from_fs(1.0)


def test_energy_drift_is_the_slope_per_ns_of_the_whole_replicas():
    """0.5 kcal/mol in 10 ps is 50 kcal/mol/ns; a replica that failed has no drift."""
    t = np.linspace(0, 10, 11)
    total = np.stack([3.0 + 0.05 * t, -0.02 * t, t], axis=1)
    alive = np.ones((11, 3), bool)
    alive[7:, 2] = False
    np.testing.assert_allclose(audit.energy_drifts(t, total, alive), [50.0, -20.0, np.nan])


def test_thermalised_means_use_the_living_later_frames():
    values = np.array([[9.0, 9.0], [9.0, 9.0], [1.0, 5.0], [3.0, 7.0]])
    alive = np.array([[True, True], [True, True], [True, True], [True, False]])
    np.testing.assert_allclose(audit.thermalised_means(values, alive), [2.0, 5.0])
    assert np.isnan(audit.thermalised_means(values, np.zeros_like(alive))).all()
    mean, error = audit.mean_and_stderr(np.array([1.0, 3.0, np.nan]))
    assert (mean, error) == (2.0, 1.0)


def test_sentence_has_length_replicas_and_interval():
    text = audit.sentence(31, 32, 100.0, 0.95)
    assert text == "31 of 32 replicas stable over 100 ps (95 % interval of the stable fraction: 0.84 to 1.00)"


def test_constant_energy_run_is_double_whatever_the_default():
    """Three harmonic beads: drift of nothing but rounding, float64 even when the default is float32."""
    system = analytic.free_beads(3)
    limits = checks(system, np.zeros(0), Criteria(max_force_kcal_mol_A=1e6, max_kinetic_kT=1e3))
    with jax.enable_x64(False):
        time_ps, total, alive, status = audit.constant_energy_run(
            analytic.harmonic, {"k": np.float32(2.0)}, system, np.ones((3, 3)), np.full(3, 0.6), 0,
            VelocityVerlet(DT), settings(4000.0 * DT, 40.0 * DT, DT, 0.0), limits,
        )  # fmt: skip
    assert total.dtype == np.float64 and alive.all() and not status.any()
    assert time_ps[-1] == pytest.approx(4.0)
    assert np.abs(total - total.mean(axis=0)).max() < 1e-3 * total.mean()
    assert np.abs(audit.energy_drifts(time_ps, total, alive)).max() < 0.05
    bonded = pack([topology_from_species([0, 0])])
    with pytest.raises(ValueError, match="bonds"):
        checks(bonded, np.zeros(0), Criteria())


def test_excess_is_what_noise_does_not_explain():
    """10 K off with an error of 2 K: 6 K remain after two errors; with one of 6 K nothing does."""
    assert audit.excess(audit.Estimate(310.0, 2.0), 300.0, 2.0) == pytest.approx(6.0)
    assert audit.excess(audit.Estimate(290.0, 2.0), 300.0, 2.0) == pytest.approx(6.0)
    assert audit.excess(audit.Estimate(310.0, 6.0), 300.0, 2.0) == 0.0
    assert audit.excess(audit.Estimate(310.0, float("nan")), 300.0, 2.0) == pytest.approx(10.0)


@pytest.mark.parametrize("replicas", [3, 12])
def test_allowed_errors_keep_their_level_with_few_replicas(replicas):
    """Means of normal replicas: beyond the allowed errors in 2 % of 20,000 trials, four errors (6e-5)."""
    x = np.random.default_rng(0).normal(size=(20_000, replicas))
    t = np.abs(x.mean(axis=1)) / (x.std(axis=1, ddof=1) / np.sqrt(replicas))
    alarms = np.mean(t > audit.allowed_errors(0.02, replicas))
    assert abs(alarms - 0.02) < 4 * np.sqrt(0.02 * 0.98 / 20_000)
    assert audit.allowed_errors(0.02, 1) == 0.0


@pytest.mark.parametrize("dt_fs", [4.0, 8.0])
def test_fluctuation_of_a_harmonic_well_is_of_second_order(dt_fs):
    """Four beads of 71 g/mol in a well of 20 kcal/mol/Å²: twice the step, four times the fluctuation."""
    system = analytic.free_beads(4)
    limits = checks(system, np.zeros(0), Criteria(max_force_kcal_mol_A=1e6, max_kinetic_kT=1e3))
    runs = [
        audit.constant_energy_run(
            analytic.harmonic, {"k": 20.0}, system, np.ones((4, 3)), np.full(4, 0.6), 0,
            VelocityVerlet(step * DT), settings(4000.0 * DT, 40.0 * DT, step * DT, 0.0), limits,
        )
        for step in (dt_fs, 2 * dt_fs)
    ]  # fmt: skip
    fine, coarse = (audit.fluctuations(total, alive) for _, total, alive, _ in runs)
    np.testing.assert_allclose(audit.order(coarse, fine, 2.0), 2.0, atol=0.2)
    assert np.isnan(audit.fluctuations(np.ones((3, 1)), np.array([[True], [True], [False]]))).all()
