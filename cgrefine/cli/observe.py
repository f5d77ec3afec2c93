"""`cgrefine observe`: distributions of the simulated replicas against the reference, with plots."""

from pathlib import Path

import numpy as np

from cgrefine.artifacts import Stage, write_json
from cgrefine.checkpoint import save_params
from cgrefine.cli import observe_report as report
from cgrefine.cli import observe_results as results
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import as_run
from cgrefine.cli.observe_findings import findings
from cgrefine.cli.simulate_exchange import trajectories_at
from cgrefine.config.schema import Config
from cgrefine.data.store import Domain, open_dataset
from cgrefine.errors import InputError
from cgrefine.report.page import write_page
from cgrefine.sim.trajectory import read_frames


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/ and simulate/; write observables.json, figures, tables, arrays and report.html."""
    assert config.sim is not None
    sim = as_run(config.sim, root / "simulate")
    if sim.exchange is not None and config.observables.diffusion_fit_ps is not None:
        raise InputError(
            "observables.diffusion_fit_ps: frames at one temperature of a run with sim.exchange come from "
            "several replicas, and have no dynamics; leave it out"
        )
    dataset = open_dataset(root / "prepare")
    names = sorted({_domain_of(p) for p in (root / "simulate" / "trajectories").iterdir()})
    (stage.path / "figures").mkdir()
    sections, summary, compared = [], {}, {}
    for name in console.track(names, total=len(names), label="observables"):
        domain = dataset.domain(name)
        temperature, reference = reference_groups(domain, sim.temperature_K)
        model = model_groups(root / "simulate", name, config.observables.discard_fraction, sim.temperature_K)
        found = findings(domain, reference, model, temperature, config.observables, sim)
        text = f"{len(reference)} reference runs at {temperature:g} K, {len(model)} model replicas."
        sections += report.sections(stage.path, domain, found, text, config.observables)
        summary[name] = {"reference_temperature_K": temperature, **results.numbers(found)}
        compared[name] = found.comparisons
        save_params(stage.path / f"{name}.npz", results.arrays(found))
    results.record(stage, compared)
    write_json(stage.path / "observables.json", summary)
    write_page(stage.path / "report.html", "Observables against the reference", [report.legend(), *sections])


def reference_groups(
    domain: Domain, temperature_K: float, validation: bool | None = None
) -> tuple[float, list[np.ndarray]]:
    """The temperature in the data nearest to the wanted one, and its frames (f, n, 3) run by run.

    validation: only frames held out of training, or only the others; runs may then be without a frame.
    """
    known = np.unique(np.asarray(domain.temperature_K))
    nearest = known[np.argmin(np.abs(known - temperature_K))]
    at_temperature = np.asarray(domain.temperature_K) == nearest
    replicas = np.asarray(domain.replica)
    chosen = at_temperature if validation is None else at_temperature & (domain.validation == validation)
    return float(nearest), [
        np.asarray(domain.positions[chosen & (replicas == r)]) for r in np.unique(replicas[at_temperature])
    ]


def model_groups(
    folder: Path, name: str, discard_fraction: float, temperature_K: float | None = None
) -> list[np.ndarray]:
    """Frames of each replica of a domain after the discarded share; replicas without any are left out.

    temperature_K: of a run with exchange, the trajectories at that temperature instead.
    Raises InputError when no frame is left at all.
    """
    pdb = folder / "topology" / f"{name}.pdb"
    chosen = None if temperature_K is None else trajectories_at(folder, temperature_K)
    files = [
        p
        for p in sorted((folder / "trajectories").iterdir())
        if _domain_of(p) == name and (chosen is None or p.name in chosen)
    ]
    groups = [read_frames(path, pdb) for path in files]
    longest = max(len(g) for g in groups)
    kept = [g[frames_discarded(longest, discard_fraction) :] for g in groups]
    if not any(len(g) for g in kept):
        raise InputError(
            f"{folder / 'trajectories'}: no frame of {name} is left after discarding the first "
            f"{discard_fraction:g} of each trajectory (observables.discard_fraction)"
        )
    return [g for g in kept if len(g)]


def frames_discarded(longest: int, discard_fraction: float) -> int:
    """Frames left out at the start of each trajectory of a domain whose longest one has so many."""
    return int(np.ceil(discard_fraction * longest))


def _domain_of(path: Path) -> str:
    return path.stem.rpartition("_r")[0]
