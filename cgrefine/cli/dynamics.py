"""What a section `sim` leaves to the model: its time step, its integrator, and minimised starts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cgrefine import units
from cgrefine.artifacts import read_json
from cgrefine.cli.console import Console
from cgrefine.cli.replicas import Replica
from cgrefine.config.running import Sim
from cgrefine.errors import InputError
from cgrefine.interop.opened import Modelled
from cgrefine.residues import RESIDUES
from cgrefine.sim.brownian import Brownian
from cgrefine.sim.calibration import highest_kinetic_kT
from cgrefine.sim.forces import forces_at
from cgrefine.sim.langevin import Integrator, Langevin
from cgrefine.sim.minimize import OUTCOMES, Fire, Outcome, minimized
from cgrefine.sim.nose_hoover import NoseHoover
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.timestep import PERIOD_FRACTION, Stiffest, bond_curvatures, stiffest_bond, timestep_fs
from cgrefine.system import System, Topology, pack

MAX_BEADS = 20_000
"""Beads in one evaluation of forces."""

MINIMIZED_BELOW = 10.0
"""Largest force, kcal/mol/Å, of a minimised start: that of a bond at room temperature is sqrt(k kT), 14 for
k = 320. So overlaps and stretched bonds go, and the fold stays."""


def integrator(cfg: Sim) -> Integrator:
    """The integrator of a resolved section."""
    dt = units.from_fs(cfg.step_fs)
    if cfg.integrator == "nve":
        return VelocityVerlet(dt)
    if cfg.integrator == "nose_hoover":
        chain = cfg.nose_hoover
        relaxation = units.from_fs(1000.0 * chain.relaxation_ps)
        return NoseHoover(dt, relaxation, chain.chain, chain.suzuki_yoshida)
    assert cfg.friction_per_ps is not None  # the schema asks for it
    scheme = {"langevin": Langevin, "brownian": Brownian}[cfg.integrator]
    return scheme(dt, units.from_per_ps(cfg.friction_per_ps))


def description(cfg: Sim) -> str:
    """The dynamics in words, for a report."""
    name = {
        "langevin": f"BAOAB Langevin dynamics with friction {cfg.friction_per_ps}/ps",
        "brownian": f"overdamped dynamics (Leimkuhler-Matthews) with friction {cfg.friction_per_ps}/ps",
        "nose_hoover": f"Nosé-Hoover dynamics with relaxation time {cfg.nose_hoover.relaxation_ps:g} ps",
        "nve": "constant-energy dynamics (velocity Verlet) from Maxwell momenta",
    }[cfg.integrator]
    bath = f"at {cfg.temperature_K:g} K"
    if cfg.exchange is not None:
        bath = f"with replica exchange over {', '.join(f'{kelvin:g}' for kelvin in cfg.bath_K)} K"
    return f"{name} {bath}, time step {cfg.step_fs:g} fs"


def with_masses(system: System, cfg: Sim) -> System:
    """The system with the masses that the section states."""
    if cfg.masses == "residue":
        return system
    return system._replace(mass=np.full_like(system.mass, cfg.mass_g_mol))


def resolved(cfg: Sim, force_field: Modelled, replicas: Sequence[Replica], console: Console) -> Sim:
    """The section with a time step: as stated, or from the stiffest bond of the model at the starts.

    One start a domain is looked at. Raises InputError when no bond vibrates, or a frame is shorter than it.
    """
    if cfg.timestep_fs is not None:
        return cfg
    looked = {r.domain.name: r for r in replicas if r.index == 0}
    found = {name: stiffest(force_field, r.domain.topology, r.start, cfg) for name, r in looked.items()}
    name = min(found, key=lambda n: found[n].period_fs)
    fastest, topology = found[name], looked[name].domain.topology
    try:
        step = min(timestep_fs(fastest.period_fs), 1000.0 * cfg.save_every_ps)
    except ValueError as error:
        raise InputError(f"sim.timestep_fs is not given, and {error}") from error
    i, j = map(int, topology.bonds[fastest.bond])
    console.result(
        f"time step {step:g} fs: 1/{1 / PERIOD_FRACTION:g} of {fastest.period_fs:.0f} fs, the shortest "
        f"period of {name}, mostly of the bond {_label(topology, i)}-{_label(topology, j)} "
        f"({fastest.curvature:.0f} kcal/mol/Å², {fastest.masses[0]:.0f} and {fastest.masses[1]:.0f} g/mol)"
    )
    return cfg.model_copy(update={"timestep_fs": step})


def scaled(cfg: Sim, replicas: Sequence[Replica]) -> Sim:
    """The resolved section with a kinetic criterion that no bead of a healthy run of its length exceeds.

    The looser of the given one and `highest_kinetic_kT`: in a run that is long enough 20 kT come by chance.
    """
    criteria = cfg.criteria
    allowed = max(criteria.max_kinetic_kT, highest_kinetic_kT(bead_steps(cfg, replicas)))
    return _with_kinetic(cfg, allowed)


def bead_steps(cfg: Sim, replicas: Sequence[Replica]) -> float:
    """Beads of all replicas times the steps of the run of a resolved section."""
    return sum(len(r.start) for r in replicas) * 1000.0 * cfg.duration_ps / cfg.step_fs


def _with_kinetic(cfg: Sim, max_kinetic_kT: float) -> Sim:
    criteria = cfg.criteria.model_copy(update={"max_kinetic_kT": max_kinetic_kT})
    return cfg.model_copy(update={"criteria": criteria})


def as_run(cfg: Sim, simulate: Path) -> Sim:
    """The section with the time step that the `simulate` stage of this folder had, if it states none."""
    if cfg.timestep_fs is not None:
        return cfg
    return cfg.model_copy(update={"timestep_fs": _of_run(simulate, "timestep_fs")})


def as_judged(cfg: Sim, simulate: Path) -> Sim:
    """The same, with the kinetic criterion that the run was held to: see `scaled`."""
    return _with_kinetic(as_run(cfg, simulate), _of_run(simulate, "max_kinetic_kT"))


def _of_run(simulate: Path, name: str) -> float:
    """A metric of a run. Raises InputError when a version that did not write it down made the run."""
    path = simulate / "metrics.json"
    metrics = read_json(path)["metrics"]
    if name not in metrics:
        raise InputError(f"{path}: does not say {name}; run `cgrefine simulate` again, with --force")
    return float(metrics[name]["value"])


def _label(topology: Topology, bead: int) -> str:
    return f"{RESIDUES[topology.species[bead]]} {topology.resid[bead]}"


def stiffest(force_field: Modelled, topology: Topology, start: np.ndarray, cfg: Sim) -> Stiffest:
    """The fastest bond vibration of one domain at a start (n, 3), from the forces of the whole model.

    Raises InputError when none vibrates.
    """
    each = max(1, min(MAX_BEADS // topology.n_beads, len(topology.bonds)))
    system = pack([topology] * each)
    cutoff = force_field.model.cutoff_A

    def forces(x: np.ndarray) -> np.ndarray:
        found = []
        for first in range(0, len(x), each):
            part = x[first : first + each]
            filled = np.concatenate([part, np.repeat(x[-1:], each - len(part), axis=0)])
            flat = filled.reshape(-1, 3).astype(np.float32)
            f = forces_at(force_field.model, force_field.params, system, flat, cutoff)
            found.append(f.reshape(filled.shape)[: len(part)])
        return np.concatenate(found)

    curvature = bond_curvatures(forces, start, topology.bonds)
    try:
        return stiffest_bond(curvature, topology.bonds, with_masses(pack([topology]), cfg).mass)
    except ValueError as error:
        raise InputError(f"sim.timestep_fs is not given, and {error}") from error


def relaxed(replicas: Sequence[Replica], force_field: Modelled, cfg: Sim, console: Console) -> list[Replica]:
    """The replicas at minimised starts, where the section asks for it, with a warning for each that is not.

    Raises InputError when a start is not finite.
    """
    wanted = cfg.start != "reference" if cfg.minimize is None else cfg.minimize
    if not wanted:
        return list(replicas)
    system = pack([r.domain.topology for r in replicas])
    x = np.concatenate([r.start for r in replicas]).astype(np.float32)
    model = force_field.model
    found = minimized(model, force_field.params, system, x, model.cutoff_A, Fire(MINIMIZED_BELOW))
    for g, r in enumerate(replicas):
        outcome = Outcome(int(found.outcome[g]))
        where = f"{r.domain.name}, replica {r.index}: minimisation of the start: {OUTCOMES[outcome]}"
        if outcome == Outcome.NON_FINITE_START:
            raise InputError(where)
        if outcome != Outcome.CONVERGED:
            console.result(f"warning: {where} ({found.max_force[g]:.3g} kcal/mol/Å)")
    ends = np.cumsum([len(r.start) for r in replicas])[:-1]
    parts = np.split(found.positions, ends)
    return [replace(r, start=part) for r, part in zip(replicas, parts, strict=True)]
