"""What `cgrefine observe` writes of its findings for programs: metrics, observables.json, arrays."""

from typing import Any

import numpy as np

from cgrefine.artifacts import Stage
from cgrefine.cli.observe_findings import Comparison, Findings, SurfacePair
from cgrefine.observables.compare import Compared
from cgrefine.observables.free_energy import Surface


def metric_key(observable: str) -> str:
    """Name of an observable in the names of metrics: P(r) is pair_distance."""
    return observable.replace("P(r)", "pair_distance").replace("-", "_").lower()


def record(stage: Stage, compared: dict[str, list[Comparison]]) -> None:
    """One metric a pooled observable: the mean over domains, with the error of that mean."""
    by_name: dict[str, list[Comparison]] = {}
    for found in compared.values():
        for c in found:
            if c.pooled:
                by_name.setdefault(c.observable.name, []).append(c)

    def metric(name: str, values: list[Compared], unit: str | None) -> None:
        error = float(np.sqrt(np.sum([v.stderr**2 for v in values]))) / len(values)
        mean = float(np.mean([v.value for v in values]))
        stage.record.metric(name, mean, unit=unit, stderr=error if np.isfinite(error) else None)

    for name, found in by_name.items():
        key, unit = metric_key(name), found[0].observable.unit
        divergences = [c.jensen_shannon for c in found if c.jensen_shannon is not None]
        distances = [c.distance for c in found]
        if divergences:
            metric(f"js_{key}", divergences, "nats")
            metric(f"w1_{key}", distances, unit)
        else:
            metric("contact_map_mae" if name == "contacts" else f"mae_{key}", distances, unit or None)


def numbers(found: Findings) -> dict[str, Any]:
    """What observables.json says of a domain."""
    observables = {}
    for c in found.comparisons:
        reference, model = c.means()
        js = c.jensen_shannon
        observables[c.observable.name] = {
            "unit": c.observable.unit,
            "reference_mean": reference,
            "model_mean": model,
            "jensen_shannon": None if js is None else js.value,
            "jensen_shannon_floor": None if js is None or np.isnan(js.floor) else js.floor,
            "distance": c.distance.value,
            "comparisons": {name: value._asdict() for name, value in c.distances.items()},
        }
    surfaces = {
        name: {
            "rmse_kcal_mol": s.difference.rmse,
            "jensen_shannon": s.difference.jensen_shannon,
            "covered": s.difference.covered,
            "outside_reference_grid": s.model.outside,
        }
        for name, s in found.surfaces.items()
    }
    told: dict[str, Any] = {
        "observables": observables,
        "autocorrelation": {
            name: {side: c._asdict() for side, c in sides.items()}
            for name, sides in found.correlations.items()
        },
        "free_energy_surfaces": surfaces,
        "errors_from_blocks": found.blocks,
    }
    if found.diffusion is not None:
        d = found.diffusion
        told["model_diffusion"] = {
            "D_A2_per_ps": d.D,
            "stderr": d.stderr,
            "D_dimensions_A2_per_ps": d.D_dimensions,
            "fit_ps": d.fit_ps,
            "groups": d.groups,
            "blocks_of_one_run": d.blocks,
        }
    return told


def arrays(found: Findings) -> dict[str, dict[str, np.ndarray]]:
    """Observable or surface → its arrays on both sides, and the edges of its bins."""
    named = {}
    for c in found.comparisons:
        entry = {"reference": c.reference.mean, "reference_stderr": c.reference.stderr}
        entry |= {"model": c.model.mean, "model_stderr": c.model.stderr}
        if c.observable.grid is not None:
            entry["edges"] = c.observable.grid.edges
        named[c.observable.name] = entry
    for name, s in found.surfaces.items():
        named[f"surface {name}"] = {
            "x_edges": s.grids[0].edges,
            "y_edges": s.grids[1].edges,
            "difference": s.difference.difference,
            **{f"{side}_{k}": v for side in ("reference", "model") for k, v in _surface(s, side).items()},
        }
    if found.tica is not None:
        named["tica"] = {"mean": found.tica.mean, "components": found.tica.components}
    return named


def _surface(pair: SurfacePair, side: str) -> dict[str, np.ndarray]:
    s: Surface = getattr(pair, side)
    return {"mass": s.mass, "free_energy": s.free_energy, "stderr": s.stderr}
