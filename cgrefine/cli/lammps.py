"""`cgrefine lammps`: run the exported bundle in LAMMPS and compare its forces with JAX in float64.

Of a run folder: its bundle, its reference protein, and the model that it was made of. Or a bundle alone, with
the protein of a PDB file: LAMMPS files are written for it, and the forces are compared with the bundle's own
terms (priors in float64, the network by its program).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cgrefine.artifacts import Stage, complete, file_hash, fingerprint_of, require, stage_folder
from cgrefine.cli.console import Console
from cgrefine.cli.export_check import RELATIVE_LIMIT
from cgrefine.cli.force_field import exported_at, final_stage, identity
from cgrefine.cli.stages import enforce, result_rows
from cgrefine.config.load import from_overrides
from cgrefine.config.schema import Config
from cgrefine.data.store import open_dataset
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError, SimulationStopped
from cgrefine.export.bundle import read_meta, write_molecule
from cgrefine.export.lammps_launch import launch
from cgrefine.export.lammps_run import import_lammps
from cgrefine.export.lammps_settings import RunResult, RunSettings
from cgrefine.export.loaded import load_model
from cgrefine.export.verify import ForceError, model_force_errors
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.interop.molecule import chain
from cgrefine.interop.opened import folder_of
from cgrefine.report.page import Section, Table, write_page
from cgrefine.system import Topology

PARALLEL_STEPS = 200
"""Steps on more than one process: every process evaluates the whole network, so this is only a check."""
FILES = "files"
"""Folder of the LAMMPS files of a protein, in that of the stage."""

Runs = list[tuple[RunResult, list[ForceError]]]


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Run serially, and on lammps.ranks processes if more than one; write the runs and report.html.

    Forces are those that acted at the first and at the last step, with beads sorted by LAMMPS in between.
    Beside each run are its log, restart file, trajectory and series. Raises SimulationStopped when a run
    ends before its time.
    """
    settings = _settings(config)
    folder = require(root, "export", "lammps") / "bundle"
    force_field = exported_at(final_stage(root, "lammps", config), config, console)
    # The bundle is read, checked and compiled by the process that runs it; here its name is enough.
    dataset = open_dataset(require(root, "prepare", "lammps"))
    domain = dataset.domain(read_meta(folder)["reference_protein"])
    runs = _runs(stage, config, folder, None, force_field.model, force_field.params, domain.topology, console)
    _record(stage, runs, config.lammps.max_force_error_kcal_mol_A)
    write_page(stage.path / "report.html", f"{domain.name} in LAMMPS", _sections(settings, runs, JAX))


def run_bundle(
    path: Path,
    pdb: Path,
    overrides: Sequence[str],
    out: Path,
    console: Console,
    digest: str | None = None,
    *,
    force: bool = False,
    strict: bool = False,
) -> None:
    """Run the protein of a PDB file with a bundle (folder, zip, or a folder that holds one), into OUT/lammps.

    overrides: of the sections `lammps` and `sim`; without a temperature it is that of the bundle. Raises
    InputError on a bundle or PDB file that cannot be used, and where LAMMPS is not installed;
    SimulationStopped when a run ends before its time.
    """
    import_lammps()
    path = folder_of(path)
    meta = read_meta(path)
    if not any(o.startswith("lammps.temperature_K=") for o in overrides) and meta["temperature_K"]:
        console.result(f"temperature: {meta['temperature_K']:g} K, that of {path}")
        overrides = [f"lammps.temperature_K={meta['temperature_K']}", *overrides]
    config = from_overrides(overrides)
    protein = chain(pdb)
    assert protein.positions is not None
    inputs = {"bundle": identity(path), "pdb": file_hash(pdb), "digest": digest or ""}
    if restart := _settings(config).restart:
        inputs["restart"] = file_hash(restart)
    fingerprint = fingerprint_of("lammps", {"lammps": config.lammps.model_dump(mode="json")}, inputs)
    if force or complete(out, "lammps") != fingerprint:
        console.say(f"{path}: reading, compiling and testing")
        loaded = load_model(path, prior_terms, digest)
        with stage_folder(out, "lammps", config, fingerprint, inputs, config.lammps.seed) as stage:
            files = stage.path / FILES
            write_molecule(files, loaded.model, loaded.params, protein.topology, protein.positions, pdb.stem)
            runs = _runs(stage, config, path, files, loaded.model, loaded.params, protein.topology, console)
            stage.record.metric("n_beads", protein.topology.n_beads)
            _record(stage, runs, config.lammps.max_force_error_kcal_mol_A)
            sections = _sections(_settings(config), runs, OWN)
            write_page(stage.path / "report.html", f"{pdb.stem} in LAMMPS", sections)
    else:
        console.say(f"lammps: {out / 'lammps'} is complete for this bundle and protein, skipped")
    rows = result_rows(out, ["lammps"])
    console.table(f"lammps → {out / 'lammps'}", ("stage", "result", "checks", "seconds"), rows)
    if strict:
        enforce(out, "lammps")


def _runs(
    stage: Stage,
    config: Config,
    bundle: Path,
    files: Path | None,
    model: SumOfTerms,
    params: Any,
    topology: Topology,
    console: Console,
) -> Runs:
    """The runs, and how far their forces are from those of the model."""
    settings, runs = _settings(config), []
    for ranks in sorted({1, config.lammps.ranks}):
        steps = settings.steps if ranks == 1 else min(settings.steps, PARALLEL_STEPS)
        replicas = config.lammps.replicas if ranks == 1 else 1
        who = f"{replicas} replica(s), {ranks} process(es) each"
        console.say(f"LAMMPS: {steps} steps of {topology.n_beads} beads, {who}")
        out = stage.path / f"run_{ranks}.npz"
        chosen = replace(settings, steps=steps, **_written(out, config.lammps.save_every))
        try:
            results = launch(bundle, chosen, out, ranks=ranks, replicas=replicas, files=files)
        except SimulationStopped as error:
            raise SimulationStopped(f"{error} (log: {out.with_suffix('.log')})") from error
        runs += [(r, model_force_errors(model, params, topology, r.positions, r.forces)) for r in results]
    return runs


def _written(out: Path, save_every: int) -> dict[str, Any]:
    """The files that a run leaves beside its result, as fields of the settings."""
    files: dict[str, Any] = {"restart_out": out.with_suffix(".restart")}
    if save_every:
        files["series"] = out.with_suffix(".series.txt")
        files["trajectory"] = out.with_suffix(".lammpstrj")
        files["sample_every"] = save_every
    return files


def _settings(config: Config) -> RunSettings:
    lammps = config.lammps
    temperature_K = lammps.temperature_K
    if temperature_K is None:
        if config.sim is None:
            raise InputError("config: lammps needs lammps.temperature_K or the section `sim`")
        temperature_K = config.sim.temperature_K
    if lammps.restart is not None and not lammps.restart.is_file():
        raise InputError(f"lammps.restart: there is no file {lammps.restart}")
    return RunSettings(
        steps=lammps.steps,
        timestep_fs=lammps.timestep_fs,
        temperature_K=temperature_K,
        friction_per_ps=lammps.friction_per_ps,
        sort_every=lammps.sort_every,
        sort_bin_A=lammps.sort_bin_A,
        seed=lammps.seed,
        ensemble=lammps.ensemble,
        boundary="p" if lammps.boundary == "periodic" else "s",
        minimize=lammps.minimize,
        restart=None if lammps.restart is None else lammps.restart.resolve(),
        restart_every=lammps.restart_every,
    )


def _record(stage: Stage, runs: Runs, limit: float) -> None:
    every = [error for _, errors in runs for error in errors]
    largest = float(np.max([e.max_error for e in every]))
    relative = float(np.max([e.relative for e in every]))
    serial, errors = runs[0]
    record, unit = stage.record, "kcal/mol/Å"
    record.metric("max_force_error_kcal_mol_A", largest, unit)
    record.metric("max_force_error_step0_kcal_mol_A", errors[0].max_error, unit)
    record.metric("max_force_error_last_step_kcal_mol_A", errors[1].max_error, unit)
    record.metric("relative_force_error", relative)
    record.metric("force_rms_kcal_mol_A", errors[1].rms, unit)
    record.metric("us_per_step", serial.us_per_step, "µs")
    record.metric("distinct_orders", serial.distinct_orders)
    record.metric("temperature_K", serial.temperature_K, "K")
    if runs[-1][0].ranks > 1:
        parallel, parallel_errors = runs[-1]
        record.metric("ranks", parallel.ranks)
        record.metric("us_per_step_parallel", parallel.us_per_step, "µs")
        record.metric("max_force_error_parallel_kcal_mol_A", max(e.max_error for e in parallel_errors), unit)
    record.check("max_force_error_kcal_mol_A", largest <= limit, largest, limit)
    record.check("relative_force_error", relative <= RELATIVE_LIMIT, relative, RELATIVE_LIMIT)


ENSEMBLES = {"langevin": "Langevin", "nvt": "Nosé-Hoover", "nve": "NVE from Maxwell velocities"}
JAX = "the same model in JAX float64"
OWN = "the bundle's own terms (priors in float64, the network by its program)"


def _sections(settings: RunSettings, runs: Runs, reference: str) -> list[Section]:
    forces = [
        (run, result.ranks, step, error.max_error, error.rms, error.relative)
        for run, (result, errors) in enumerate(runs, start=1)
        for step, error in zip(result.steps.tolist(), errors, strict=True)
    ]
    speed = [
        (run, r.ranks, r.us_per_step, r.temperature_K, r.distinct_orders)
        for run, (r, _) in enumerate(runs, start=1)
    ]
    return [
        Section(
            "Forces",
            "LAMMPS (priors from tables in double precision, network in float32) against "
            f"{reference} at the same positions; kcal/mol/Å.",
            Table(("run", "processes", "step", "largest difference", "rms force", "relative"), forces),
        ),
        Section(
            "Runs",
            f"{ENSEMBLES[settings.ensemble]}, {settings.temperature_K} K, {settings.timestep_fs} fs. "
            "Every process evaluates the whole network, so more processes are a check, not a speed-up. Bead "
            "orders: how many LAMMPS had in the first process.",
            Table(("run", "processes", "µs per step", "mean temperature K", "bead orders"), speed),
        ),
    ]
