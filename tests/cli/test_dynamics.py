"""What a section `sim` leaves to the model: time step, masses, integrator, minimised starts."""

import math

import numpy as np
import pytest
from scipy.stats import chi2

from cgrefine import units
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import description, integrator, relaxed, resolved, scaled, with_masses
from cgrefine.cli.simulate import Replica
from cgrefine.config.running import Sim
from cgrefine.data.store import open_dataset
from cgrefine.errors import InputError
from cgrefine.sim.brownian import Brownian
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.nose_hoover import NoseHoover
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.timestep import PERIOD_FRACTION
from cgrefine.system import pack, topology_from_species
from tests.chains import ideal_helix
from tests.cli.test_simulate import FORCE_FIELD, N, _prepare

BASE = {"temperature_K": 300, "friction_per_ps": 2.0, "replicas": 1, "duration_ps": 1}


def section(**changes) -> Sim:
    return Sim.model_validate({**BASE, **changes})


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """replicas(starts, name): of "held", alanines, or "loose", prolines that no spring holds."""
    folder = tmp_path_factory.mktemp("prepare")
    _prepare(folder)
    dataset = open_dataset(folder)

    def made(starts, name="held"):
        return [Replica(dataset.domain(name), index, start) for index, start in enumerate(starts)]

    return made


class Said(Console):
    """Keeps what is said."""

    def result(self, text):
        self.text = text


def test_the_time_step_comes_from_the_stiffest_bond_and_its_reason_is_said(replicas):
    """Alanines with k = 100 and 400 g/mol: near the period of a straight chain.

    The finite difference sees a part of the neighbouring bonds, so that it may be up to √1.5 shorter.
    """
    said = Said(quiet=True)
    cfg = section(masses="uniform", mass_g_mol=400)
    step = resolved(cfg, FORCE_FIELD, replicas([ideal_helix(N)]), said).step_fs
    straight = units.to_fs(2 * math.pi / (2 * math.sqrt(100 / 400) * math.cos(math.pi / (2 * N))))
    assert straight / math.sqrt(1.5) * PERIOD_FRACTION - 0.5 <= step <= straight * PERIOD_FRACTION
    assert f"time step {step:g} fs" in said.text and "ALA" in said.text and "400 g/mol" in said.text
    lighter = resolved(
        section(masses="uniform", mass_g_mol=100), FORCE_FIELD, replicas([ideal_helix(N)]), said
    )
    assert lighter.step_fs == pytest.approx(step / 2, abs=0.5)


def test_a_stated_time_step_is_kept_and_none_without_a_vibration_is_refused(replicas):
    assert resolved(section(timestep_fs=3), FORCE_FIELD, [], Said(quiet=True)).step_fs == 3
    loose = replicas([ideal_helix(N)], "loose")
    with pytest.raises(InputError, match=r"sim\.timestep_fs is not given, and no bond"):
        resolved(section(), FORCE_FIELD, loose, Said(quiet=True))
    with pytest.raises(ValueError, match="not been resolved"):
        _ = section().step_fs


@pytest.mark.parametrize(
    ("name", "kind"),
    [("langevin", Langevin), ("brownian", Brownian), ("nose_hoover", NoseHoover), ("nve", VelocityVerlet)],
)
def test_each_integrator_by_name(name, kind):
    cfg = section(integrator=name, timestep_fs=4)
    mover = integrator(cfg)
    assert type(mover) is kind and mover.dt == pytest.approx(units.from_fs(4.0))
    if isinstance(mover, NoseHoover):
        assert mover.relaxation == pytest.approx(units.from_fs(500.0)) and mover.length == 3
    if isinstance(mover, Langevin | Brownian):
        # 2 / ps: momenta lose two e-foldings in 1000 fs
        assert mover.friction * units.from_fs(1000.0) == pytest.approx(2.0)
    assert "300 K, time step 4 fs" in description(cfg)


def test_masses_are_those_stated():
    system = pack([topology_from_species([0, 17])])
    assert list(with_masses(system, section()).mass) == list(system.mass)
    assert list(with_masses(system, section(masses="uniform")).mass) == [110.0, 110.0]


def test_starts_are_minimised_on_request_and_what_fails_is_said(replicas):
    helix = ideal_helix(N).astype(np.float32)
    said = Said(quiet=True)
    assert relaxed(replicas([helix]), FORCE_FIELD, section(), said)[0].start is helix
    found = relaxed(replicas([1.3 * helix, helix]), FORCE_FIELD, section(minimize=True), said)
    r = np.linalg.norm(np.diff(found[0].start, axis=0), axis=1)
    assert np.abs(r - 3.8).max() < 0.2 and np.abs(r - 3.8).max() > 0
    np.testing.assert_allclose(found[1].start, helix, atol=0.1)
    broken = helix.copy()
    broken[3] = np.nan
    with pytest.raises(InputError, match="held, replica 1: minimisation of the start: the start"):
        relaxed(replicas([helix, broken]), FORCE_FIELD, section(minimize=True), said)


def test_the_kinetic_criterion_grows_with_the_run(replicas):
    """20 kT as given where chance does not reach it; else what χ² of 3 exceeds at 1e-3 in all steps."""
    one = replicas([ideal_helix(N)])
    short = scaled(section(timestep_fs=4, save_every_ps=0.1), one)
    assert short.criteria.max_kinetic_kT == 20.0
    long = scaled(section(timestep_fs=4, duration_ps=1e7), one)
    allowed = long.criteria.max_kinetic_kT
    assert chi2.sf(2.0 * allowed, 3) * N * 1e10 / 4 == pytest.approx(1e-3, rel=1e-6) and allowed > 30.0
    stated = section(timestep_fs=4, duration_ps=1e7, criteria={"max_kinetic_kT": 99.0})
    assert scaled(stated, one).criteria.max_kinetic_kT == 99.0
