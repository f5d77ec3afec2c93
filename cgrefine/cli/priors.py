"""Stage `priors`: Boltzmann inversion, its correction by simulation, and the gate.

Inversion of the training frames at one temperature; `iterate.rounds` rounds of prior-only MD, each followed
by a correction against double counting; with `priors.refit` a force-matched refit; then a long prior-only
run of the result, judged in gate.json.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgrefine import artifacts, geometry, units
from cgrefine.artifacts import Stage, write_json
from cgrefine.cli import priors_run
from cgrefine.cli.console import Console
from cgrefine.cli.priors_report import sections
from cgrefine.cli.priors_run import PriorRun
from cgrefine.config.priors import Priors
from cgrefine.config.schema import Config
from cgrefine.data.store import Dataset, Domain, open_dataset
from cgrefine.fm.forcefield import ForceField, prior_only, save
from cgrefine.fm.priors import diagnostics, gate, iterate, marginals, refit
from cgrefine.fm.priors.fit import (
    FittedPriors,
    fit_priors,
    training_frames,
    training_marginals,
    with_agreement,
)
from cgrefine.fm.priors.gate import Check, Evidence
from cgrefine.fm.priors.refit import Refitted
from cgrefine.report.page import write_page
from cgrefine.status import Status

REFERENCE_FRAMES = 50
"""Frames of each simulated domain on which the largest prior force is looked for."""


class Judged(NamedTuple):
    """The priors, the run of them alone, and what the gate says. refitted: None without a refit."""

    fitted: FittedPriors
    refitted: Refitted | None
    run: PriorRun
    checks: dict[str, Check]
    domains: tuple[Domain, ...]


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Fit on the training frames of root/prepare; write forcefield/, gate.json, diagnostics.json, a page.

    Raises InputError when the frames or temperature asked for are not there.
    """
    dataset, cfg = open_dataset(root / "prepare"), config.priors
    console.say("priors: Boltzmann inversion")
    fitted = fit_priors(dataset, cfg)
    domains = simulated_domains(dataset, fitted.temperature_K, cfg.gate.domains)
    fitted = iterated(fitted, domains, cfg, console)
    refitted = None
    if cfg.refit is not None:
        console.say("priors: force-matched refit")
        temperature_K = fitted.temperature_K
        refitted = refit.refit(
            fitted.facts, fitted.params, dataset.domains, cfg.refit, temperature_K, stage.path / "refit"
        )
        fitted = with_agreement(replace(fitted, params=refitted.params))
    force_field = as_force_field(fitted)
    save(stage.path / "forcefield", force_field)
    judged = judge(fitted, refitted, replace(dataset, domains=domains), cfg, console)
    digest = artifacts.file_hash(stage.path / "forcefield" / "params.npz")
    write_json(stage.path / "gate.json", gate.verdict(judged.checks, digest, _simulation(judged, cfg)))
    write_json(stage.path / "diagnostics.json", _diagnostics(judged))
    _record(stage, judged)
    write_page(
        stage.path / "report.html",
        "priors: Boltzmann inversion, and priors alone",
        sections(stage.record, fitted, refitted, judged.run, judged.checks, domains),
    )


def as_force_field(fitted: FittedPriors) -> ForceField:
    """The priors as a force field without a network."""
    return prior_only(fitted.facts, fitted.params, fitted.temperature_K)


def simulated_domains(dataset: Dataset, temperature_K: float, most: int) -> tuple[Domain, ...]:
    """At most `most` domains with training frames at the temperature, evenly spread over the data."""
    usable = [d for d in dataset.domains if len(training_frames(d, temperature_K))]
    picks = np.unique(np.linspace(0, len(usable) - 1, most).round().astype(int))
    return tuple(usable[i] for i in picks)


def iterated(
    fitted: FittedPriors, domains: tuple[Domain, ...], cfg: Priors, console: Console
) -> FittedPriors:
    """The priors after cfg.iterate.rounds steps of iterative Boltzmann inversion on their own simulation."""
    for number in range(cfg.iterate.rounds):
        run = _simulated(fitted, domains, cfg, cfg.iterate.steps, console, f"round {number + 1}")
        if run.n_frames == 0:
            console.say(f"priors: every replica of round {number + 1} failed, the correction is left out")
            return fitted
        fitted = iterate.corrected(fitted, run.counts, cfg)
    return fitted


def judge(
    fitted: FittedPriors,
    refitted: Refitted | None,
    simulated: Dataset,
    cfg: Priors,
    console: Console,
) -> Judged:
    """Simulate the priors alone on the domains given, and hold them against the limits of cfg.gate."""
    domains = simulated.domains
    run = _simulated(fitted, domains, cfg, cfg.gate.steps, console, "priors alone")
    reference = training_marginals(simulated, fitted.temperature_K, cfg.repulsion.min_separation)[0]
    longest = max(domains, key=lambda domain: domain.n_beads)
    evidence = Evidence(
        reference=reference,
        simulated=run.counts,
        stable=int((run.status == Status.OK).sum()),
        replicas=len(run.status),
        drift_kT_ns=priors_run.drift_kT_ns(as_force_field(fitted), longest, cfg.gate, cfg.seed),
        largest_force=_largest_force(fitted, domains),
        sizes=gate.species_pairs([domain.topology.species for domain in domains]),
        helix_share=_helix_share(fitted, domains),
    )
    kT = units.thermal_energy(fitted.temperature_K)
    made = gate.checks(fitted.facts, fitted.params, kT, evidence, cfg.gate)
    return Judged(fitted, refitted, run, made, domains)


def _simulated(
    fitted: FittedPriors, domains: tuple[Domain, ...], cfg: Priors, steps: int, console: Console, label: str
) -> PriorRun:
    separation = cfg.repulsion.min_separation
    return priors_run.simulate(
        as_force_field(fitted), domains, cfg.gate, steps, separation, cfg.seed, console, label
    )


def _largest_force(fitted: FittedPriors, domains: tuple[Domain, ...]) -> float:
    """Over REFERENCE_FRAMES training frames of each domain, evenly spread (repeated when there are fewer)."""
    frames = []
    for domain in domains:
        usable = training_frames(domain, fitted.temperature_K)
        spread = np.linspace(0, len(usable) - 1, REFERENCE_FRAMES).round().astype(int)
        frames.append(domain.positions[usable[spread]])
    topologies = [domain.topology for domain in domains]
    return diagnostics.largest_force(fitted.facts, fitted.params, topologies, frames)


def _helix_share(fitted: FittedPriors, domains: tuple[Domain, ...]) -> float:
    """Share of dihedrals in helices, over REFERENCE_FRAMES frames of each domain."""
    found = np.zeros(2)
    for domain in domains:
        topology, usable = domain.topology, training_frames(domain, fitted.temperature_K)
        spread = np.linspace(0, len(usable) - 1, REFERENCE_FRAMES).round().astype(int)
        phi = marginals.measured(
            geometry.dihedrals, domain.positions[np.unique(usable[spread])], topology.dihedrals
        )
        found += np.array([gate.helix_share(phi, topology.dihedrals), 1.0]) * phi.size
    return float(found[0] / max(found[1], 1.0))


def _simulation(judged: Judged, cfg: Priors) -> dict:
    """What gate.json says of the run that was judged."""
    run = judged.run
    return {
        "domains": [domain.name for domain in judged.domains],
        "replicas": len(run.status),
        "steps": run.steps,
        "timestep_fs": cfg.gate.timestep_fs,
        "duration_ps": run.duration_ps,
        "friction_per_ps": cfg.gate.friction_per_ps,
        "temperature_K": judged.fitted.temperature_K,
        "kinetic_temperature_K": run.temperature_K if np.isfinite(run.temperature_K) else None,
        "frames": run.n_frames,
        "failed": [
            {"replica": int(i), "status": Status(run.status[i]).name, "time_ps": float(run.fail_ps[i])}
            for i in np.flatnonzero(run.status != Status.OK)
        ],
    }


def _diagnostics(judged: Judged) -> dict:
    found, refitted = dict(judged.fitted.diagnostics), judged.refitted
    if refitted is not None:
        before, after = refitted.force_mse
        found["refit"] = {
            "reason": refitted.reason,
            "iterations": len(refitted.log),
            "frames": refitted.frames,
            "force_mse_before": before,
            "force_mse_after": after,
        }
    return found


def _record(stage: Stage, judged: Judged) -> None:
    record, fitted, run = stage.record, judged.fitted, judged.run
    bond = fitted.params["bond"]
    record.metric("temperature_K", fitted.temperature_K, unit="K")
    record.metric("frames", fitted.diagnostics["frames"])
    error = None if fitted.errors is None else fitted.errors["bond"]
    record.metric("bond_k", float(bond["k"][0]), unit="kcal/mol/Å²", **_stderr(error, "k"))
    record.metric("bond_r0", float(bond["x0"][0]), unit="Å", **_stderr(error, "x0"))
    record.metric("cis_bond_fraction", fitted.diagnostics["cis_bond_fraction"])
    record.metric("replicas", len(run.status))
    record.metric("steps", run.steps)
    record.metric("duration_ps", run.duration_ps, unit="ps")
    record.metric("simulation_temperature_K", run.temperature_K, unit="K")
    for name, check in judged.checks.items():
        record.metric(name, check.value)
        record.check(name, check.passed, check.value, check.limit)
    if judged.refitted is not None:
        before, after = judged.refitted.force_mse
        record.metric("refit_force_mse_before", before, unit="(kcal/mol/Å)²")
        record.metric("refit_force_mse_after", after, unit="(kcal/mol/Å)²")
        converged = judged.refitted.converged
        record.check("refit_converged", converged, int(converged), 1)


def _stderr(errors: dict[str, np.ndarray] | None, name: str) -> dict[str, float]:
    return {} if errors is None else {"stderr": float(errors[name][0])}
