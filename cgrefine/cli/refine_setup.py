"""What `refine` starts from: proteins, targets, replicas and force matching, out of a run folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cgrefine import units
from cgrefine.artifacts import read_json
from cgrefine.boltzmann.estimate import Objective
from cgrefine.boltzmann.learning import Learner
from cgrefine.boltzmann.penalty import strain
from cgrefine.boltzmann.pool import Rules
from cgrefine.boltzmann.refine import Refinement
from cgrefine.boltzmann.samples import Choice
from cgrefine.boltzmann.targets import Target, require, target
from cgrefine.boltzmann.windows import Molecule, Pack, Simulator
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import integrator, resolved, scaled
from cgrefine.cli.force_field import trained_at
from cgrefine.cli.observe import reference_groups
from cgrefine.cli.observe_findings import native_frame
from cgrefine.cli.replicas import Replica
from cgrefine.cli.simulate import assigned, chosen_domains, run_settings
from cgrefine.cli.simulate_packs import n_packs, packed, packs, with_packs
from cgrefine.cli.stages import refuse_exchange
from cgrefine.cli.train_member import frame_sets
from cgrefine.config.refining import Refine, RefineTarget
from cgrefine.config.running import Observables, Sim
from cgrefine.config.schema import Config
from cgrefine.data.frames import thinned
from cgrefine.data.store import Dataset, Domain, open_dataset
from cgrefine.errors import InputError
from cgrefine.fm.forcefield import ForceField
from cgrefine.fm.minibatches import Minibatches
from cgrefine.neighbors import frame_edges
from cgrefine.observables.catalogue import standard
from cgrefine.observables.statistics import estimate, independent
from cgrefine.observables.structure import Observable
from cgrefine.sim.rollout import Settings

HEADROOM = 1.5
"""Edges of a buffer relative to those of the starts."""


@dataclass(frozen=True)
class Setup:
    """Of one `refine`. sim: resolved, of the windows; force_field: that it starts from; domains: refined.

    held_out, judging: the replicas that the models are judged by, and their section.
    """

    refinement: Refinement
    sim: Sim
    force_field: ForceField
    dataset: Dataset
    domains: Sequence[Domain]
    held_out: Sequence[Replica]
    judging: Sim


def setup(config: Config, root: Path, console: Console, begun: Callable[[int], int]) -> Setup:
    """Read prepare/ and train/ of a run folder.

    begun: takes the number of packs of a refinement that begins now, and gives that of this one, which may
    have been interrupted; called once nothing is wrong. Raises InputError on a term that the model does not
    have, on exchange, on proteins without training or without validation frames, and on targets that cannot
    be met.
    """
    cfg, sim = config.refine, config.sim
    assert cfg is not None and sim is not None
    refuse_exchange(config, "refine")
    dataset = open_dataset(root / "prepare")
    chosen = chosen_domains(dataset, sim)
    domains = with_frames(chosen, sim, validation=False, what="refine", console=console)
    force_field = trained_at(root / "train", sim.temperature_K, console)
    terms = refined_terms(cfg, force_field)
    sim = window_section(sim, cfg, cfg.replicas, cfg.window_ps, cfg.save_every_ps)
    replicas = assigned(domains, sim, validation=False, key="refine.replicas")
    sim = scaled(resolved(sim, force_field, replicas, console), replicas)
    if sim.step_fs > 1000.0 * cfg.save_every_ps:
        raise InputError(
            f"refine.save_every_ps = {cfg.save_every_ps:g}: is shorter than a time step of {sim.step_fs:g} fs"
        )
    held_out, judging = _held_out(chosen, sim, cfg, console)
    if unknown := sorted({t.domain for t in cfg.targets if t.domain} - {d.name for d in domains}):
        raise InputError(
            f"refine.targets: domain {unknown[0]} is not refined; choose from "
            f"{', '.join(d.name for d in domains)}"
        )
    known = [np.concatenate(groups(d, sim, validation=False)) for d in domains]
    molecules = _molecules(domains, replicas, sim)
    objectives = [
        Objective(
            d.topology,
            targets_of(d, sim, cfg, config.observables),
            1.0 / units.thermal_energy(sim.temperature_K),
            cfg,
        )
        for d in domains
    ]
    frames = frame_sets(dataset, force_field.model.cutoff_A, config.loader)
    forces = cfg.forces
    matching = Minibatches(
        force_field.model,
        force_field.params,
        frames.training,
        thinned(frames.validation, forces.held_out_frames),
        cfg.seed,
        forces.batch_beads,
        forces.mean_frames,
        forces.control_variate,
    )
    if not np.isfinite(matching.held_out(force_field.params)):
        raise InputError(
            f"{root / 'train'}: the force error of this model on validation frames is not finite: there is "
            "nothing to compare with; train it again"
        )
    cutoff_A = force_field.model.cutoff_A
    learner = Learner(
        force_field.model,
        cutoff_A,
        molecules,
        objectives,
        known,
        matching,
        terms,
        force_field.params,
        cfg,
    )
    number = begun(n_packs(replicas, sim))
    sim = with_packs(sim, number, console)
    judging = judging.model_copy(update={"packs": min(number, len(held_out))})
    simulator = _simulator(force_field, packs(replicas, number), sim)
    per_frame_ps = cfg.window_ps / simulator.run.n_frames
    guard = int(np.ceil(cfg.guard_ps / per_frame_ps - 1e-9))
    burn_in = int(cfg.burn_in_fraction * simulator.run.n_frames + 1e-9)
    choice = Choice(burn_in, guard, cfg.negative_weight)
    rules = Rules(cfg.earlier_fraction, guard, cfg.random_reset)
    starts = np.concatenate([r.start for r in replicas]).astype(np.float32)
    refinement = Refinement(learner, simulator, starts, choice, rules)
    return Setup(refinement, sim, force_field, dataset, domains, held_out, judging)


def window_section(sim: Sim, cfg: Refine, replicas: int, duration_ps: float, save_every_ps: float) -> Sim:
    """The section `sim` with other lengths and replicas, the seed of `refine`, and starts that are frames.

    Packs are those of `sim`, at most one a replica.
    """
    return sim.model_copy(
        update={
            "replicas": replicas,
            "duration_ps": duration_ps,
            "save_every_ps": save_every_ps,
            "seed": cfg.seed,
            "start": "reference",
            "start_pdb": None,
            "packs": None if sim.packs is None else min(sim.packs, replicas),
            "on_cluster": False,
        }
    )


def _held_out(chosen: Sequence[Domain], sim: Sim, cfg: Refine, console: Console) -> tuple[list[Replica], Sim]:
    """Replicas from validation frames, and their section, by that of the windows.

    They run over whole windows with frames like theirs: as many replicas as there are then share a program.
    """
    wanted, key = cfg.evaluation, "refine.evaluation"
    windows = max(1, round(wanted.duration_ps / sim.duration_ps))
    section = window_section(sim, cfg, wanted.replicas, windows * sim.duration_ps, sim.save_every_ps)
    section = section.model_copy(update={"seed": cfg.seed + 1})
    domains = with_frames(chosen, section, validation=True, what=key, console=console)
    replicas = assigned(domains, section, validation=True, key=f"{key}.replicas")
    return replicas, scaled(section, replicas)


def refined_terms(cfg: Refine, force_field: ForceField) -> tuple[str, ...]:
    """Names of the terms that are refined. Raises InputError on one that the model does not have."""
    there = [t.name for t in force_field.model.terms]
    if cfg.terms is None:
        return ("network",) if "network" in there else tuple(there)
    if unknown := sorted(set(cfg.terms) - set(there)):
        raise InputError(
            f"refine.terms: {unknown[0]} is no term of this model; choose from {', '.join(there)}"
        )
    return tuple(t for t in there if t in cfg.terms)


def groups(domain: Domain, sim: Sim, validation: bool) -> list[np.ndarray]:
    """Training or validation frames (f, n, 3) Å at the temperature nearest to that of `sim`, run by run."""
    return [x for x in reference_groups(domain, sim.temperature_K, validation)[1] if len(x)]


def with_frames(
    domains: Sequence[Domain], sim: Sim, validation: bool, what: str, console: Console
) -> list[Domain]:
    """The domains with frames of that part; tells which have none. Raises InputError when none has any."""
    found = [d for d in domains if groups(d, sim, validation)]
    part = "validation" if validation else "training"
    if not found:
        raise InputError(f"{what}: no {part} frame near {sim.temperature_K:g} K (data.split)")
    if len(found) < len(domains):
        there = {d.name for d in found}
        lost = ", ".join(d.name for d in domains if d.name not in there)
        console.result(f"{what}: without {lost}, of which no {part} frame is near {sim.temperature_K:g} K")
    return found


def targets_of(domain: Domain, sim: Sim, cfg: Refine, shown: Observables) -> list[Target]:
    """The targets of one protein: from its training frames, or from files.

    Raises InputError on an observable that there is not, and on a target that cannot be one.
    """
    runs = independent(groups(domain, sim, validation=False))
    known = {o.name: o for o in standard(domain.topology, shown, native_frame(domain))}
    found = []
    try:
        for wanted in cfg.targets:
            if wanted.domain not in (None, domain.name):
                continue
            if wanted.observable not in known:
                raise InputError(
                    f"refine.targets: {domain.name} has no observable {wanted.observable!r}; choose from "
                    f"{', '.join(known)}"
                )
            observable = known[wanted.observable]
            if wanted.file is not None:
                found.append(from_file(observable, wanted, wanted.file))
            else:
                found.append(target(observable, estimate(observable, runs), wanted.kind, wanted.weight))
        if cfg.strain_weight > 0.0:
            limits = packed([Replica(domain, 0, runs[0][0])], sim)[1]
            penalty = strain(limits, cfg.warn, sim.criteria)
            found.append(target(penalty, estimate(penalty, runs), "at_most", cfg.strain_weight))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"refine: {domain.name}: {error}") from error
    return found


def from_file(observable: Observable, wanted: RefineTarget, path: Path) -> Target:
    """A target of a JSON file, see `config.refining.RefineTarget`. Raises InputError on what is none."""
    told = read_json(path)
    where = f"refine.targets: {path}"
    if not isinstance(told, dict) or not {"unit", "mean"} <= set(told):
        raise InputError(f"{where}: is no target; it needs `unit` and `mean`")
    if told["unit"] != observable.unit:
        raise InputError(f"{where}: unit {told['unit']!r}, {observable.name} is in {observable.unit!r}")
    grid = observable.grid
    if grid is not None and (told.get("low"), told.get("high")) != (grid.low, grid.high):
        raise InputError(
            f"{where}: a grid from {told.get('low')} to {told.get('high')}, {observable.name} has one from "
            f"{grid.low:g} to {grid.high:g} {observable.unit}"
        )
    try:
        mean = np.asarray(told["mean"], np.float64)
        error = np.asarray(told.get("stderr", np.zeros(mean.shape)), np.float64)
    except (TypeError, ValueError) as fault:
        raise InputError(f"{where}: `mean` and `stderr` are to be numbers ({fault})") from fault
    if error.shape != mean.shape:
        raise InputError(f"{where}: stderr has shape {error.shape}, mean {mean.shape}")
    if not (np.isfinite(error) & (error >= 0.0)).all():
        raise InputError(f"{where}: a value of `stderr` is not finite or below 0")
    require(observable, mean, wanted.kind)
    return Target(observable, wanted.kind, mean, error**2, 1.0, wanted.weight)


def _molecules(domains: Sequence[Domain], replicas: Sequence[Replica], sim: Sim) -> list[Molecule]:
    found, replica, bead = [], 0, 0
    for d in domains:
        count = sum(r.domain.name == d.name for r in replicas)
        beads = count * d.n_beads
        found.append(
            Molecule(
                d.name,
                d.topology,
                sim.temperature_K,
                slice(replica, replica + count),
                slice(bead, bead + beads),
            )
        )
        replica, bead = replica + count, bead + beads
    return found


def _simulator(force_field: ForceField, whole: Sequence[Sequence[Replica]], sim: Sim) -> Simulator:
    """Packs as `simulate` makes them; a window is one chunk.

    Its buffers have HEADROOM for states that are denser than the starts, so that all windows share a program.
    """
    run = run_settings(sim, force_field, max_chunk_frames=1_000_000)
    found, begin = [], 0
    for part in whole:
        system, limits = packed(part, sim)
        end = begin + sum(len(r.start) for r in part)
        kT = np.full(len(part), units.thermal_energy(sim.temperature_K), np.float32)
        found.append(Pack(system, limits, kT, slice(begin, end)))
        begin = end
    return Simulator(force_field.model, found, integrator(sim), with_room(run, whole))


def with_room(run: Settings, whole: Sequence[Sequence[Replica]]) -> Settings:
    """With buffers of HEADROOM times the edges of the starts of the largest pack, whatever it starts from."""
    if run.cutoff_A == 0.0:
        return run
    edges = [sum(len(frame_edges(r.start, run.cutoff_A)[0]) for r in part) for part in whole]
    return replace(run, headroom=1.0, min_edges=int(HEADROOM * max(edges)))
