"""`cgrefine lammps`: run the exported bundle in LAMMPS and compare its forces with JAX in float64."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from cgrefine.artifacts import Stage, read_json, require
from cgrefine.cli.console import Console
from cgrefine.cli.force_field import exported_at, final_stage
from cgrefine.config.schema import Config
from cgrefine.data.store import open_dataset
from cgrefine.errors import InputError
from cgrefine.export.bundle import META
from cgrefine.export.lammps_run import RunResult, RunSettings, launch
from cgrefine.export.verify import ForceError, model_force_errors
from cgrefine.report.page import Section, Table, write_page

RELATIVE_LIMIT = 1.0e-4
"""Largest force difference over the root mean square force."""
PARALLEL_STEPS = 200
"""Steps on more than one process: every process evaluates the whole network, so this is only a check."""


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Run serially, and on lammps.ranks processes if more than one; write the runs and report.html.

    Forces are those that acted at step 0 and at the last step, with beads sorted by LAMMPS in between.
    """
    settings = _settings(config)
    folder = require(root, "export", "lammps") / "bundle"
    force_field = exported_at(final_stage(root, "lammps", config), config, console)
    # The bundle is read, checked and compiled by the process that runs it; here its name is enough.
    domain = open_dataset(require(root, "prepare", "lammps")).domain(read_json(folder / META)["domain"])
    runs: list[tuple[RunResult, list[ForceError]]] = []
    for ranks in sorted({1, config.lammps.ranks}):
        steps = settings.steps if ranks == 1 else min(settings.steps, PARALLEL_STEPS)
        console.say(f"LAMMPS: {steps} steps of {domain.name} on {ranks} process(es)")
        result = launch(folder, replace(settings, steps=steps), stage.path / f"run_{ranks}.npz", ranks)
        errors = model_force_errors(
            force_field.model, force_field.params, domain.topology, result.positions, result.forces
        )
        runs.append((result, errors))
    _record(stage, runs, config.lammps.max_force_error_kcal_mol_A)
    write_page(stage.path / "report.html", f"{domain.name} in LAMMPS", _sections(settings, runs))


def _settings(config: Config) -> RunSettings:
    lammps = config.lammps
    temperature_K = lammps.temperature_K
    if temperature_K is None:
        if config.sim is None:
            raise InputError("config: lammps needs lammps.temperature_K or the section `sim`")
        temperature_K = config.sim.temperature_K
    return RunSettings(
        steps=lammps.steps,
        timestep_fs=lammps.timestep_fs,
        temperature_K=temperature_K,
        friction_per_ps=lammps.friction_per_ps,
        sort_every=lammps.sort_every,
        sort_bin_A=lammps.sort_bin_A,
        seed=lammps.seed,
    )


def _record(stage: Stage, runs: list[tuple[RunResult, list[ForceError]]], limit: float) -> None:
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
    if len(runs) > 1:
        parallel, parallel_errors = runs[1]
        record.metric("ranks", parallel.ranks)
        record.metric("us_per_step_parallel", parallel.us_per_step, "µs")
        record.metric("max_force_error_parallel_kcal_mol_A", max(e.max_error for e in parallel_errors), unit)
    record.check("max_force_error_kcal_mol_A", largest <= limit, largest, limit)
    record.check("relative_force_error", relative <= RELATIVE_LIMIT, relative, RELATIVE_LIMIT)


def _sections(settings: RunSettings, runs: list[tuple[RunResult, list[ForceError]]]) -> list[Section]:
    forces = [
        (result.ranks, step, error.max_error, error.rms, error.relative)
        for result, errors in runs
        for step, error in zip(result.steps.tolist(), errors, strict=True)
    ]
    speed = [
        (result.ranks, result.us_per_step, result.temperature_K, result.distinct_orders) for result, _ in runs
    ]
    return [
        Section(
            "Forces",
            "LAMMPS (priors from tables in double precision, network in float32) against the same model in "
            "JAX float64 at the same positions; kcal/mol/Å.",
            Table(("processes", "step", "largest difference", "rms force", "relative"), forces),
        ),
        Section(
            "Runs",
            f"Langevin at {settings.temperature_K} K, {settings.timestep_fs} fs. Every process evaluates the "
            "whole network, so more processes are a check, not a speed-up. Bead orders: how many LAMMPS had "
            "in the first process.",
            Table(("processes", "µs per step", "mean temperature K", "bead orders"), speed),
        ),
    ]
