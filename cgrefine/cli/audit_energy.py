"""Checks of the energy itself: conservation, its order in the time step, curvature, mirror images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cgrefine import units
from cgrefine.cli.audit_plots import energy_plot
from cgrefine.cli.audit_subject import Part, Subject, spread
from cgrefine.cli.audit_verdict import Finding, level, temperature_check, with_error
from cgrefine.cli.console import Console
from cgrefine.cli.replicas import Replica
from cgrefine.cli.simulate_packs import packed
from cgrefine.config.running import Audit
from cgrefine.report.page import Section, Table
from cgrefine.sim import audit, evaluation
from cgrefine.sim.audit import Estimate
from cgrefine.sim.configurational import configurational_temperature
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.rollout import short_settings
from cgrefine.status import REASONS, Status

TOLD_kT = 1e-6
"""Mirror images that differ by less have the same energy: float64 and its rounding."""


@dataclass(frozen=True)
class Drift:
    """Constant-energy run: time (s,), deviation (s, r) kcal/mol, slope (r,) kcal/mol/ns, status (r,).

    fluctuation (r,): of the total energy, kcal/mol.
    """

    replicas: Sequence[Replica]
    time_ps: np.ndarray
    deviation: np.ndarray
    slope: np.ndarray
    fluctuation: np.ndarray
    status: np.ndarray

    @property
    def mean(self) -> Estimate:
        """Mean slope over the replicas that lived, and its standard error."""
        return audit.mean_and_stderr(self.slope)


def conserved(
    subject: Subject, replicas: Sequence[Replica], timestep_fs: float, duration_ps: float, console: Console
) -> Drift:
    """Velocity Verlet from these positions, with momenta at the temperature of the simulation."""
    sim, force_field = subject.sim, subject.force_field
    system, limits = packed(replicas, sim)
    dt, duration = units.from_fs(timestep_fs), units.from_fs(1000.0 * duration_ps)
    time_ps, total, alive, status = audit.constant_energy_run(
        force_field.model,
        force_field.params,
        system,
        np.concatenate([r.start for r in replicas]),
        np.full(len(replicas), units.thermal_energy(sim.temperature_K)),
        seed=sim.seed,
        # BAOAB without friction, which is velocity Verlet and the program of the other short runs
        integrator=Langevin(dt, 0.0),
        run=short_settings(duration, dt, force_field.model.cutoff_A),
        limits=limits,
        watch=lambda chunks: console.track(chunks, label=f"energy conservation, {timestep_fs:g} fs"),
    )
    # runs are of whole chunks; what is compared is of one length
    wanted = time_ps <= duration_ps + 1e-9
    time_ps, total, alive = time_ps[wanted], total[wanted], alive[wanted]
    slope = audit.energy_drifts(time_ps, total, alive)
    deviation = np.where(alive, total - total[:1], np.nan)
    return Drift(replicas, time_ps, deviation, slope, audit.fluctuations(total, alive), status)


def conservation(subject: Subject, cfg: Audit, console: Console) -> Part:
    """Drift of the total energy without a thermostat, a bead."""
    replicas = subject.thermal(cfg.nve_replicas)
    drift = conserved(subject, replicas, cfg.nve_timestep_fs, cfg.nve_duration_ps, console)
    beads = np.array([len(r.start) for r in replicas])
    per_bead = audit.mean_and_stderr(drift.slope / beads)
    found = drift_finding(drift.slope / beads, cfg)
    names = [(r.domain.name, r.index) for r in replicas]
    content = {
        "timestep_fs": cfg.nve_timestep_fs,
        "duration_ps": cfg.nve_duration_ps,
        "precision": "float64",
        "drift_kcal_mol_ns": drift.mean._asdict(),
        "drift_kcal_mol_ns_bead": per_bead._asdict(),
        "replicas": [
            {
                "domain": domain, "replica": index, "drift_kcal_mol_ns": slope,
                "fluctuation_kcal_mol": fluctuation, "status": Status(int(status)).name,
            }
            for (domain, index), slope, fluctuation, status in zip(
                names, drift.slope, drift.fluctuation, drift.status, strict=True
            )
        ],
    }  # fmt: skip
    rows = [
        (domain, index, float(slope), REASONS[Status(int(status))])
        for (domain, index), slope, status in zip(names, drift.slope, drift.status, strict=True)
    ]
    text = (
        f"Velocity Verlet in float64 from last frames: drift {with_error(drift.mean)} kcal/mol/ns a "
        "replica (mean and standard error of least-squares slopes; replicas that failed have none)."
    )
    table = Table(("domain", "replica", "drift, kcal/mol/ns", "outcome"), rows)
    labels = [f"{domain} {index}" for domain, index in names]
    plot = energy_plot(drift.time_ps, drift.deviation, labels)
    section = Section("Energy conservation", text, table, plots=[plot])
    return Part([found], content, [section])


def drift_finding(slopes: np.ndarray, cfg: Audit) -> Finding:
    """The drift of replicas (r,), kcal/mol/ns a bead, against its limit; NaN: the replica failed."""
    limit, unit, lived = cfg.max_nve_drift_kcal_mol_ns_bead, "kcal/mol/ns a bead", np.isfinite(slopes).sum()
    if not lived:
        return Finding("nve_drift", None, None, limit, unit, None, "no replica lived without a thermostat")
    mean = audit.mean_and_stderr(slopes)
    value = audit.excess(mean, 0.0, audit.allowed_errors(level(cfg), int(lived)))
    says = f"{with_error(mean)} {unit} in {lived} replicas; the value is what noise does not explain"
    return Finding("nve_drift", value, _error(mean), limit, unit, value <= limit, says)


def scaling(subject: Subject, cfg: Audit, console: Console) -> Part:
    """Order in the time step of the fluctuation of the total energy, from the same starts and momenta."""
    replicas = subject.thermal(cfg.nve_replicas)
    steps = [factor * cfg.nve_timestep_fs for factor in sorted(cfg.scaling_factors)]
    runs = [conserved(subject, replicas, step, cfg.scaling_duration_ps, console) for step in steps]
    orders = audit.order(runs[-1].fluctuation, runs[0].fluctuation, steps[-1] / steps[0])
    finding, found = order_finding(orders, cfg), audit.mean_and_stderr(orders)
    rows, entries = [], []
    for step, run in zip(steps, runs, strict=True):
        fluctuation, drift = audit.mean_and_stderr(run.fluctuation), run.mean
        entries.append(
            {
                "timestep_fs": step,
                "fluctuation_kcal_mol": fluctuation._asdict(),
                "drift_kcal_mol_ns": drift._asdict(),
            }
        )
        rows.append((step, with_error(fluctuation), with_error(drift)))
    content = {"duration_ps": cfg.scaling_duration_ps, "order": found._asdict(), "timesteps": entries}
    columns = ("time step, fs", "fluctuation of the energy, kcal/mol", "drift, kcal/mol/ns")
    text = f"{finding.says}. Constant-energy runs of {cfg.scaling_duration_ps:g} ps from the same starts."
    return Part([finding], content, [Section("Energy error and time step", text, Table(columns, rows))])


def order_finding(orders: np.ndarray, cfg: Audit) -> Finding:
    """The order of replicas (r,) against the least that is allowed; NaN: the replica failed."""
    limit, lived = cfg.min_scaling_order, int(np.isfinite(orders).sum())
    if not lived:
        return Finding("scaling_order", None, None, limit, "", None, "no replica lived at all time steps")
    mean = audit.mean_and_stderr(orders)
    noise = audit.allowed_errors(level(cfg), lived)
    passed = mean.value >= limit or audit.excess(mean, limit, noise) == 0.0
    says = f"energy fluctuation ∝ dt^p: p = {with_error(mean)}, 2 for the forces of a smooth energy"
    return Finding("scaling_order", mean.value, _error(mean), limit, "", passed, says)


def configurational(subject: Subject, cfg: Audit, console: Console) -> Part:
    """Configurational temperature over the later half of the trajectories of stable replicas."""
    del console
    force_field, parts, replicas = subject.force_field, [], 0
    for domain in subject.domains():
        own = [o for o in subject.found if o.domain == domain.name and o.stable]
        halves = [x[math.ceil(audit.THERMALISED_FROM * len(x)) :] for x in map(subject.frames, own)]
        frames = [spread(x, cfg.configurational_frames) for x in halves if len(x)]
        if not frames:
            continue
        labels = np.repeat(replicas + np.arange(len(frames)), [len(x) for x in frames])
        replicas += len(frames)
        squared, laplacian = evaluation.squared_forces_and_laplacian(
            force_field.model, force_field.params, domain.topology, np.concatenate(frames),
            force_field.model.cutoff_A, subject.sim.seed, subject.room,
        )  # fmt: skip
        parts.append((squared, laplacian, labels))
    found = Estimate(math.nan, math.nan)
    if parts:
        found = configurational_temperature(*(np.concatenate(v) for v in zip(*parts, strict=True)))
    finding = temperature_check(
        "configurational_error_fraction", found, replicas, subject.sim.temperature_K,
        cfg.max_configurational_error_fraction, cfg, "configurational temperature",
    )  # fmt: skip
    content = {**found._asdict(), "frames": sum(len(p[0]) for p in parts), "replicas": replicas}
    return Part([finding], content, [])


def mirror(subject: Subject, cfg: Audit, console: Console) -> Part:
    """Energy of mirror images of reference frames minus that of the frames."""
    del console
    kT, force_field = units.thermal_energy(subject.sim.temperature_K), subject.force_field
    rows, entries, told, blind = [], {}, [], True
    for domain in subject.domains()[: cfg.hole_domains]:
        x = subject.reference(domain, cfg.mirror_frames).astype(np.float64)
        both = np.concatenate([x, x * np.array([-1.0, 1.0, 1.0])])
        u = evaluation.energies(
            force_field.model,
            force_field.params,
            domain.topology,
            both,
            force_field.model.cutoff_A,
            subject.room,
        ).sum(axis=1)
        gap = (u[len(x) :] - u[: len(x)]) / kT
        found = audit.mean_and_stderr(gap)
        blind &= bool(np.abs(gap).max() < TOLD_kT)
        errors = audit.allowed_errors(1.0 - cfg.confidence, len(x))
        told.append(len(x) > 1 and found.value > errors * found.stderr)
        entries[domain.name] = {**found._asdict(), "frames": len(x), "told": bool(told[-1])}
        rows.append((domain.name, len(x), with_error(found), "yes" if told[-1] else "no"))
    says = (
        "energies of mirror images are the same: the force field is of distances and angles alone"
        if blind
        else f"reference frames are below their mirror images in {sum(told)} of {len(told)} proteins"
    )
    passed = all(told) if cfg.require_handedness else None
    mean = audit.mean_and_stderr(np.array([e["value"] for e in entries.values()], float))
    finding = Finding("mirror_gap", mean.value, _error(mean), None, "kT", passed, says)
    columns = ("domain", "frames", "U(mirror image) − U, kT", "told apart")
    text = f"{says[0].upper()}{says[1:]}. Frames count as independent, which makes the errors too small."
    return Part([finding], {"domains": entries}, [Section("Mirror images", text, Table(columns, rows))])


def _error(estimate: Estimate) -> float | None:
    return estimate.stderr if math.isfinite(estimate.stderr) else None
