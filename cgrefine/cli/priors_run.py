"""Langevin dynamics of priors alone: many replicas of a few domains, counted as they run."""

from typing import NamedTuple

import jax
import numpy as np

from cgrefine import dense, units
from cgrefine.cli.console import Console
from cgrefine.config.priors import Gate
from cgrefine.config.running import Criteria
from cgrefine.data.store import Domain
from cgrefine.fm.forcefield import ForceField
from cgrefine.fm.priors import marginals
from cgrefine.fm.priors.fit import training_frames
from cgrefine.fm.priors.marginals import Marginals
from cgrefine.sim.audit import constant_energy_run, energy_drifts
from cgrefine.sim.kernels import Fast
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.rollout import Chunk, Settings, rollout, settings
from cgrefine.sim.stability import Checks, checks, reference_bond_lengths
from cgrefine.sim.starts import reference_starts
from cgrefine.system import System, pack

CHECK_EVERY = 50
"""Steps between looks at the failure criteria: what fails stays failed, and a look costs some steps."""

CHUNK_FRAMES = 20
EQUILIBRATION_FRACTION = 0.2
CRITERIA = Criteria(size_limits=False)
"""Priors alone say nothing about the size of a chain: no limits on Rg. The other criteria are the usual."""

NVE_REPLICAS = 4


class PriorRun(NamedTuple):
    """counts: marginals after the first fifth; status (r,) of each replica; fail_ps (r,), NaN while alive;
    temperature_K: kinetic, over living frames; steps, duration_ps: of each replica; n_frames: counted."""

    counts: Marginals
    status: np.ndarray
    fail_ps: np.ndarray
    temperature_K: float
    steps: int
    duration_ps: float
    n_frames: int


def simulate(
    force_field: ForceField,
    domains: tuple[Domain, ...],
    limits: Gate,
    steps: int,
    min_separation: int,
    seed: int,
    console: Console,
    label: str,
) -> PriorRun:
    """Run the priors alone at their temperature: limits.replicas in all, spread evenly over the domains.

    The same domains, time step and saving interval compile once, whatever the parameters and the steps.
    """
    each = -(-limits.replicas // len(domains))
    dt = units.from_fs(limits.timestep_fs)
    stride = max(1, min(round(1000.0 * limits.save_every_ps / limits.timestep_fs), steps))
    chunks_each = -(-steps // (stride * CHUNK_FRAMES))
    run = settings(
        duration=chunks_each * CHUNK_FRAMES * stride * dt,
        interval=stride * dt,
        dt=dt,
        cutoff_A=force_field.model.cutoff_A,
        max_chunk_frames=CHUNK_FRAMES,
        check_every=CHECK_EVERY,
    )

    chunks = console.track(
        _chunks(force_field, domains, limits, run, each, seed),
        total=len(domains) * run.n_frames // run.chunk_frames,
        label=label,
    )
    by_domain: dict[int, Chunk] = {}
    counts = marginals.empty()
    heat: list[np.ndarray] = []
    for index, chunk in chunks:
        domain = domains[index]
        first = np.round(chunk.time_ps / (stride * limits.timestep_fs / 1000.0)) - 1
        late = first >= EQUILIBRATION_FRACTION * run.n_frames
        usable = chunk.alive & late[:, None]
        x = chunk.positions.reshape(len(chunk.positions), each, -1, 3)[usable]
        counts = marginals.counted(counts, domain.topology, x, min_separation)
        heat.append(chunk.temperature_K[usable])
        by_domain[index] = chunk
    last = list(by_domain.values())
    fail_step = np.concatenate([c.fail_step for c in last])
    ps = limits.timestep_fs / 1000.0
    lived = np.concatenate(heat)
    return PriorRun(
        counts=counts,
        status=np.concatenate([c.status for c in last]),
        fail_ps=np.where(fail_step >= 0, fail_step * ps, np.nan),
        temperature_K=float(lived.mean()) if len(lived) else float("nan"),
        steps=run.n_frames * run.stride,
        duration_ps=run.n_frames * run.stride * ps,
        n_frames=len(lived),
    )


def drift_kT_ns(force_field: ForceField, domain: Domain, limits: Gate, seed: int) -> float:
    """Mean energy drift at constant energy of one domain, kT/ns per degree of freedom (NaN: all failed)."""
    temperature_K = float(force_field.facts["temperature_K"])
    kT = units.thermal_energy(temperature_K)
    system, positions, criteria = _start(domain, NVE_REPLICAS, temperature_K, seed)
    dt, duration = units.from_fs(limits.nve_timestep_fs), units.from_fs(1000.0 * limits.nve_duration_ps)
    time_ps, energies, alive, _ = constant_energy_run(
        force_field.model,
        force_field.params,
        system,
        positions,
        np.full(NVE_REPLICAS, kT),
        seed,
        VelocityVerlet(dt),
        settings(duration, duration / 100.0, dt, force_field.model.cutoff_A),
        criteria,
        fast=_fast(force_field, domain, system, np.float64),
    )
    drifts = energy_drifts(time_ps, energies, alive)
    kept = drifts[np.isfinite(drifts)]
    return float(kept.mean() / kT / (3 * domain.n_beads)) if len(kept) else float("nan")


def _chunks(
    force_field: ForceField, domains: tuple[Domain, ...], limits: Gate, run: Settings, each: int, seed: int
):
    """(index of the domain, chunk) of every domain in turn."""
    temperature_K = float(force_field.facts["temperature_K"])
    integrator = Langevin(units.from_fs(limits.timestep_fs), units.from_per_ps(limits.friction_per_ps))
    for index, domain in enumerate(domains):
        system, positions, criteria = _start(domain, each, temperature_K, seed)
        fast = _fast(force_field, domain, system, np.float32)
        steps = rollout(
            force_field.model,
            force_field.params,
            system,
            positions,
            np.full(each, units.thermal_energy(temperature_K), np.float32),
            jax.random.fold_in(jax.random.key(seed), index),
            integrator,
            run,
            criteria,
            fast,
        )
        for chunk in steps:
            yield index, chunk


def _fast(force_field: ForceField, domain: Domain, system: System, dtype: type) -> Fast:
    """Dense forces, which priors always have."""
    assert dense.applies(force_field.model, system)
    return Fast(*dense.dense(force_field.model, force_field.params, domain.topology, dtype))


def _start(
    domain: Domain, replicas: int, temperature_K: float, seed: int
) -> tuple[System, np.ndarray, Checks]:
    frames = training_frames(domain, temperature_K)
    positions = reference_starts(domain.positions[frames], replicas, seed).reshape(-1, 3)
    some = frames[:: max(1, len(frames) // 200)]
    r0 = reference_bond_lengths(domain.positions[some], domain.topology.bonds)
    system = pack([domain.topology] * replicas)
    return system, positions, checks(system, np.tile(r0, replicas), CRITERIA)
