"""`cgrefine priors`: Boltzmann-inverted priors from the training frames, and what they do on their own."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cgrefine import units
from cgrefine.artifacts import Stage, write_json
from cgrefine.cli.console import Console
from cgrefine.config.schema import Config, Criteria, Priors
from cgrefine.data.store import Dataset, Domain, open_dataset
from cgrefine.fm.forcefield import ForceField, prior_only, save
from cgrefine.fm.priors import diagnostics, marginals
from cgrefine.fm.priors.fit import FittedPriors, fit_priors, training_frames, training_marginals
from cgrefine.fm.priors.marginals import CLASSES, Histogram, Marginals
from cgrefine.report.page import Section, Table, figure, write_page
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.rollout import Chunk, Settings, rollout, settings
from cgrefine.sim.stability import Checks, checks, reference_bond_lengths
from cgrefine.sim.starts import reference_starts
from cgrefine.status import REASONS, Status
from cgrefine.system import System, pack

MAX_DOMAINS = 4
"""Domains that are simulated with priors alone, spread over the data set."""
SAVE_EVERY_PS = 0.1
EQUILIBRATION_FRACTION = 0.2
REFERENCE_FRAMES = 50
"""Frames of each simulated domain on which the largest prior force is looked for."""

FOLDED_DEG = 65.0
"""An angle below this is a chain folded back on itself: i and i+2 closer than 4.1 Å."""
MAX_FOLDED_FRACTION = 1e-4
MAX_KL_BOND = 0.05
MIN_STABLE_FRACTION = 0.95


class PriorRun(NamedTuple):
    """What the prior-only run gave: counts of its marginals, status of each replica, temperature, length."""

    counts: Marginals
    status: np.ndarray
    temperature_K: float
    duration_ps: float
    n_frames: int


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Fit on the training frames of root/prepare, write forcefield/ and report.html, run priors alone.

    Raises InputError when the frames or temperature asked for are not there.
    """
    dataset = open_dataset(root / "prepare")
    cfg = config.priors
    console.say("priors: Boltzmann inversion")
    fitted = fit_priors(dataset, cfg)
    force_field = prior_only(fitted.facts, fitted.params, fitted.temperature_K)
    save(stage.path / "forcefield", force_field)
    chosen = simulated_domains(dataset, fitted.temperature_K)
    run = simulate_priors(force_field, chosen, cfg, console)
    reference = training_marginals(
        replace(dataset, domains=chosen), fitted.temperature_K, cfg.repulsion.min_separation
    )[0]
    _record(stage, fitted, run, reference, chosen)
    write_json(stage.path / "diagnostics.json", fitted.diagnostics)
    write_page(
        stage.path / "report.html",
        "priors: Boltzmann inversion, and priors alone",
        _sections(stage, fitted, run, chosen),
    )


def simulated_domains(dataset: Dataset, temperature_K: float) -> tuple[Domain, ...]:
    """At most MAX_DOMAINS domains with training frames at the temperature, evenly spread over the data."""
    usable = [d for d in dataset.domains if len(training_frames(d, temperature_K))]
    picks = np.unique(np.linspace(0, len(usable) - 1, MAX_DOMAINS).round().astype(int))
    return tuple(usable[i] for i in picks)


def simulate_priors(
    force_field: ForceField, domains: tuple[Domain, ...], cfg: Priors, console: Console
) -> PriorRun:
    """Langevin dynamics of priors alone, `cfg.simulation.replicas` of each domain from training frames.

    Marginals are counted over living replicas after the first fifth of the run.
    """
    wanted, temperature_K = cfg.simulation, float(force_field.facts["temperature_K"])
    dt = units.from_fs(wanted.timestep_fs)
    run = settings(
        duration=units.from_fs(1000.0 * wanted.duration_ps),
        interval=units.from_fs(1000.0 * min(SAVE_EVERY_PS, wanted.duration_ps)),
        dt=dt,
        cutoff_A=force_field.model.cutoff_A,
    )
    system, positions, limits = _start(domains, cfg, temperature_K)
    integrator = Langevin(dt, units.from_per_ps(wanted.friction_per_ps))
    kT = np.full(len(system.graph_mask), units.thermal_energy(temperature_K), np.float32)
    steps = rollout(
        force_field.model,
        force_field.params,
        system,
        positions,
        kT,
        jax.random.key(cfg.seed),
        integrator,
        run,
        limits,
    )
    chunks = list(console.track(steps, total=run.n_frames // run.chunk_frames, label="priors alone"))
    return _gathered(chunks, domains, run, cfg)


def _start(
    domains: tuple[Domain, ...], cfg: Priors, temperature_K: float
) -> tuple[System, np.ndarray, Checks]:
    replicas = cfg.simulation.replicas
    starts, r0 = [], []
    for domain in domains:
        frames = training_frames(domain, temperature_K)
        starts.append(reference_starts(domain.positions[frames], replicas, cfg.seed).reshape(-1, 3))
        some = frames[:: max(1, len(frames) // 200)]
        r0 += [reference_bond_lengths(domain.positions[some], domain.topology.bonds)] * replicas
    system = pack([domain.topology for domain in domains for _ in range(replicas)])
    return system, np.concatenate(starts), checks(system, np.concatenate(r0), Criteria())


def _gathered(chunks: list[Chunk], domains: tuple[Domain, ...], run: Settings, cfg: Priors) -> PriorRun:
    replicas, counts = cfg.simulation.replicas, marginals.empty()
    positions = np.concatenate([c.positions for c in chunks])
    alive = np.concatenate([c.alive for c in chunks])
    temperature = np.concatenate([c.temperature_K for c in chunks])
    alive = alive & (np.arange(len(alive)) >= EQUILIBRATION_FRACTION * run.n_frames)[:, None]
    first_bead = 0
    for d, domain in enumerate(domains):
        n = domain.topology.n_beads
        for replica in range(replicas):
            usable = alive[:, d * replicas + replica]
            x = positions[usable, first_bead : first_bead + n]
            first_bead += n
            counts = marginals.counted(counts, domain.topology, x, cfg.repulsion.min_separation)
    return PriorRun(
        counts=counts,
        status=chunks[-1].status,
        temperature_K=float(temperature[alive].mean()) if alive.any() else float("nan"),
        duration_ps=float(chunks[-1].time_ps[-1]),
        n_frames=int(alive.sum()),
    )


def _record(
    stage: Stage, fitted: FittedPriors, run: PriorRun, reference: Marginals, domains: tuple[Domain, ...]
) -> None:
    record, params = stage.record, fitted.params
    gap = diagnostics.mirror_gap_kT(fitted.facts, params, fitted.temperature_K)
    record.metric("temperature_K", fitted.temperature_K, unit="K")
    record.metric("frames", fitted.diagnostics["frames"])
    record.metric("bond_k", float(params["bond"]["k"][0]), unit="kcal/mol/Å²")
    record.metric("bond_r0", float(params["bond"]["r0"][0]), unit="Å")
    record.metric("cis_bond_fraction", fitted.diagnostics["cis_bond_fraction"])
    record.metric("helix_mirror_gap_kT", gap)
    record.metric("largest_reference_force", _largest_force(fitted, domains), unit="kcal/mol/Å")
    record.metric("replicas", len(run.status))
    record.metric("duration_ps", run.duration_ps, unit="ps")
    record.metric("simulation_temperature_K", run.temperature_K, unit="K")
    stable, between = float((run.status == Status.OK).mean()), {}
    folded = float("nan")
    if run.n_frames:
        between = diagnostics.between(reference, run.counts)
        folded = below(run.counts.angle, np.radians(FOLDED_DEG))
    for name, value in between.items():
        record.metric(f"kl_{name}", value, unit="nats")
    record.metric("angle_below_65_fraction", folded)
    record.metric("smallest_nonbonded_A", smallest(run.counts.distance), unit="Å")
    record.metric("stable_fraction", stable)
    record.check("stable_fraction", stable >= MIN_STABLE_FRACTION, stable, MIN_STABLE_FRACTION)
    record.check("angle_below_65", folded <= MAX_FOLDED_FRACTION, folded, MAX_FOLDED_FRACTION)
    kl_bond = between.get("bond", float("nan"))
    record.check("kl_bond", kl_bond <= MAX_KL_BOND, kl_bond, MAX_KL_BOND)


def below(histogram: Histogram, x: float) -> float:
    """Fraction of all counts in bins below x."""
    return float(histogram.pooled[histogram.centres < x].sum() / max(histogram.pooled.sum(), 1.0))


def smallest(distance: Histogram) -> float:
    """Lower edge of the first occupied bin (0.02 Å wide), Å; NaN when there is none."""
    seen = np.flatnonzero(distance.pooled)
    return float(distance.edges[seen[0]]) if len(seen) else float("nan")


def _largest_force(fitted: FittedPriors, domains: tuple[Domain, ...]) -> float:
    """Over REFERENCE_FRAMES training frames of each domain, evenly spread (repeated when there are fewer)."""
    frames = []
    for domain in domains:
        usable = training_frames(domain, fitted.temperature_K)
        spread = np.linspace(0, len(usable) - 1, REFERENCE_FRAMES).round().astype(int)
        frames.append(domain.positions[usable[spread]])
    topologies = [domain.topology for domain in domains]
    return diagnostics.largest_force(fitted.facts, fitted.params, topologies, frames)


def _sections(
    stage: Stage, fitted: FittedPriors, run: PriorRun, domains: tuple[Domain, ...]
) -> list[Section]:
    kT, metrics = units.thermal_energy(fitted.temperature_K), stage.record.metrics
    low, high = fitted.diagnostics["angle_range_deg"]
    rows: list[tuple[Any, ...]] = [
        (term, label, a["n"], a["kl"], a["kl_noise"])
        for term, classes in fitted.diagnostics["agreement"].items()
        for label, a in classes.items()
    ]
    fit_text = (
        f"Inverted at {fitted.temperature_K:g} K from {fitted.diagnostics['frames']} training frames, with "
        f"the Jacobians r² and sin θ. Angles are a spline from {low:.1f} to {high:.1f}°, with quadratic "
        "walls beyond. KL: of the counted from the implied distribution, nats; beside it the share to be "
        "expected from as many independent observations alone. A class with little data is drawn to the fit "
        "of all classes."
    )
    panels = [
        figure(diagnostics.figure_of(name, fitted.facts, fitted.params, fitted.marginals, run.counts, kT))
        for name in CLASSES
    ]
    bonds = [
        (label, float(k), float(r0))
        for label, k, r0 in zip(
            CLASSES["bond"], fitted.params["bond"]["k"], fitted.params["bond"]["r0"], strict=True
        )
    ]
    results = [
        (name, m["value"], m.get("unit", "")) if isinstance(m, dict) else (name, m, "")
        for name, m in metrics.items()
    ]
    reasons = [REASONS[Status(s)] for s in run.status]
    outcome = [(reason, reasons.count(reason)) for reason in dict.fromkeys(reasons)]
    names = ", ".join(domain.name for domain in domains)
    run_text = (
        f"{len(run.status)} replicas of {names}, {run.duration_ps:g} ps each at {fitted.temperature_K:g} K, "
        "started from training frames: long enough for bonds and angles, not for the shape of the chain. "
        "The marginals of this run are the green lines above."
    )
    sigma = fitted.params["repulsion"]["sigma"]
    return [
        Section("Results", table=Table(("metric", "value", "unit"), results)),
        Section("Fit", fit_text, Table(("term", "class", "observations", "KL", "noise"), rows), panels),
        Section("Bonds", table=Table(("class", "k (½k form), kcal/mol/Å²", "r0, Å"), bonds)),
        Section("Size of pairs", "σ of the repulsion.", figures=(figure(diagnostics.sigma_figure(sigma)),)),
        Section("Priors alone", run_text, Table(("end of replica", "count"), outcome)),
    ]
