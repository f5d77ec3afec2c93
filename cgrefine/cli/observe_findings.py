"""What `cgrefine observe` finds about a domain: observables and surfaces of reference and model, compared."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from cgrefine import units
from cgrefine.config.running import Observables, Sim
from cgrefine.data.store import Domain
from cgrefine.observables import compare, free_energy
from cgrefine.observables.catalogue import measures, standard
from cgrefine.observables.compare import Compared
from cgrefine.observables.dynamics import Diffusion, diffusion
from cgrefine.observables.free_energy import Surface
from cgrefine.observables.histogram import Bins
from cgrefine.observables.statistics import Correlation, Estimate, correlation, estimate_of_means, independent
from cgrefine.observables.structure import Averages, Observable, averager

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Comparison:
    """One observable of one domain: estimates of reference and model, and their distances by name.

    floor: of each entry, `compare.floor_of_entries`.
    """

    observable: Observable
    reference: Estimate
    model: Estimate
    distances: dict[str, Compared]
    floor: np.ndarray

    @property
    def jensen_shannon(self) -> Compared | None:
        """Of a histogram."""
        return self.distances.get("jensen_shannon")

    @property
    def distance(self) -> Compared:
        """Wasserstein-1 of a histogram, otherwise the mean absolute difference."""
        return self.distances["mean_absolute" if self.jensen_shannon is None else "wasserstein"]

    @property
    def divergence(self) -> Compared:
        """Jensen-Shannon of a histogram, otherwise the mean absolute difference."""
        return self.distance if self.jensen_shannon is None else self.jensen_shannon

    @property
    def unit_of_divergence(self) -> str:
        """nats, or the unit of the observable."""
        return self.observable.unit if self.jensen_shannon is None else "nats"

    @property
    def pooled(self) -> bool:
        """Not a histogram of each residue."""
        return self.observable.grid is None or len(self.observable.shape) == 1

    def means(self) -> tuple[float, float]:
        """Of the coordinate of a histogram, or of all entries: reference and model."""
        grid = self.observable.grid
        both = (self.reference.mean, self.model.mean)
        found = [float(m.mean()) if grid is None else compare.histogram_mean(m, grid) for m in both]
        return found[0], found[1]


@dataclass(frozen=True)
class SurfacePair:
    """A free-energy surface of both sides. axes: names; grids: of them; kT in kcal/mol."""

    axes: tuple[str, str]
    grids: tuple[Bins, Bins]
    reference: Surface
    model: Surface
    difference: free_energy.Difference


@dataclass(frozen=True)
class Findings:
    """All about a domain. correlations: measure → side → time; blocks: sides that are a single run."""

    comparisons: list[Comparison]
    correlations: dict[str, dict[str, Correlation]]
    surfaces: dict[str, SurfacePair]
    blocks: list[str]
    diffusion: Diffusion | None = None
    tica: free_energy.Tica | None = field(default=None)


def findings(
    domain: Domain,
    reference: Sequence[np.ndarray],
    model: Sequence[np.ndarray],
    temperature_K: float,
    cfg: Observables,
    sim: Sim,
) -> Findings:
    """Every comparison of the frames (f, n, 3) Å of the reference's runs and the model's replicas.

    temperature_K: of the reference, which gives the unit of free energies.
    """
    sides = {"reference": reference, "model": model}
    pieces = {side: independent(runs) for side, runs in sides.items()}
    observables, averages = _averages(domain, pieces, cfg)
    comparisons = _comparisons(observables, averages, cfg)
    correlations = {
        name: {side: correlation([a.series[name] for a in parts]) for side, parts in averages.items()}
        for name in averages["model"][0].series
    }
    tica = _tica(domain, reference, cfg)
    return Findings(
        comparisons,
        correlations,
        _surfaces(domain, pieces, averages, tica, units.thermal_energy(temperature_K), cfg),
        [side for side, runs in sides.items() if len(runs) == 1 and len(pieces[side]) > 1],
        _diffusion(model, cfg, sim),
        tica,
    )


def compared_with(
    domain: Domain,
    reference: Sequence[np.ndarray],
    models: Mapping[Key, Sequence[np.ndarray]],
    cfg: Observables,
) -> dict[Key, list[Comparison]]:
    """The observables alone, of the frames (f, n, 3) Å of the reference and of the replicas of each model,
    by its key; in one program."""
    sides = {"reference": reference, **{f"model {k}": runs for k, runs in enumerate(models.values())}}
    observables, averages = _averages(domain, {k: independent(runs) for k, runs in sides.items()}, cfg)
    return {
        key: _comparisons(
            observables, {"reference": averages["reference"], "model": averages[f"model {k}"]}, cfg
        )
        for k, key in enumerate(models)
    }


def _averages(
    domain: Domain, pieces: dict[str, Sequence[np.ndarray]], cfg: Observables
) -> tuple[list[Observable], dict[str, list[Averages]]]:
    native = native_frame(domain)
    observables = standard(domain.topology, cfg, native)
    average = averager(observables, measures(domain.topology, cfg, native))
    return observables, {side: [average(piece) for piece in parts] for side, parts in pieces.items()}


def _comparisons(
    observables: Sequence[Observable], averages: dict[str, list[Averages]], cfg: Observables
) -> list[Comparison]:
    estimates = {
        side: [estimate_of_means(o, np.stack([a.means[k] for a in parts])) for k, o in enumerate(observables)]
        for side, parts in averages.items()
    }
    return [
        Comparison(
            o,
            p,
            q,
            compare.compared(o, p, q, cfg.bootstrap_draws, cfg.floor_splits),
            compare.floor_of_entries(o, p, cfg.floor_splits),
        )
        for o, p, q in zip(observables, *estimates.values(), strict=True)
    ]


def native_frame(domain: Domain) -> np.ndarray:
    """The first frame of the first run at the lowest temperature: (n, 3) Å, what Q and RMSD refer to."""
    coldest = np.flatnonzero(np.asarray(domain.temperature_K) == np.min(domain.temperature_K))
    first = coldest[np.lexsort((np.asarray(domain.frame)[coldest], np.asarray(domain.replica)[coldest]))[0]]
    return np.asarray(domain.positions[first : first + 1])[0]


def _tica(domain: Domain, reference: Sequence[np.ndarray], cfg: Observables) -> free_energy.Tica | None:
    if not cfg.surface_bins or cfg.tica_lag_frames is None:
        return None
    pairs = free_energy.tica_pairs(domain.topology)
    return free_energy.tica([_distances(run, pairs) for run in reference], cfg.tica_lag_frames)


def _distances(frames: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(f, p) Å, on the host."""
    return np.linalg.norm(frames[:, pairs[:, 1]] - frames[:, pairs[:, 0]], axis=-1)


def _surfaces(
    domain: Domain,
    pieces: dict[str, Sequence[np.ndarray]],
    averages: dict[str, list[Averages]],
    tica: free_energy.Tica | None,
    kT: float,
    cfg: Observables,
) -> dict[str, SurfacePair]:
    """Rg-Q and TICA, as far as the chain has them, on grids that hold every frame of the reference."""
    points = {}
    if cfg.surface_bins and all("Q" in a.series for a in averages["reference"]):
        points["Rg-Q"] = (
            ("Rg, Å", "Q"),
            {
                side: [np.stack([a.series["Rg"], a.series["Q"]], axis=1) for a in parts]
                for side, parts in averages.items()
            },
        )
    if tica is not None:
        pairs = free_energy.tica_pairs(domain.topology)
        points["TICA"] = (
            ("TICA 1", "TICA 2"),
            {side: [tica(_distances(piece, pairs)) for piece in parts] for side, parts in pieces.items()},
        )
    found = {}
    for name, (axes, xy) in points.items():
        every = np.concatenate(xy["reference"])
        x, y = (free_energy.coordinate_grid([every[:, k]], cfg.surface_bins) for k in (0, 1))
        one, other = (
            free_energy.surface(xy[side], x, y, kT, cfg.bootstrap_draws) for side in ("reference", "model")
        )
        found[name] = SurfacePair(axes, (x, y), one, other, free_energy.compared(one, other, kT))
    return found


def _diffusion(model: Sequence[np.ndarray], cfg: Observables, sim: Sim) -> Diffusion | None:
    """Of the centre of mass of the model; the reference has been moved to its place frame by frame."""
    if cfg.diffusion_fit_ps is None:
        return None
    steps = max(1, round(1000.0 * sim.save_every_ps / sim.step_fs))
    centres = [np.asarray(run, np.float64).mean(axis=1, keepdims=True) for run in model]
    return diffusion(centres, steps * sim.step_fs / 1000.0, cfg.diffusion_fit_ps)
