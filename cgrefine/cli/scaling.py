"""`cgrefine scaling`: seconds of a training update on more and more devices, and the laws through them."""

import math
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cgrefine import artifacts, distributed
from cgrefine.cli.console import Console
from cgrefine.cli.train_member import Member, member_of
from cgrefine.config.schema import Config
from cgrefine.data.loader import AS_THEY_ARE, Reading
from cgrefine.data.packing import budget_for
from cgrefine.errors import InputError
from cgrefine.fm import lanes, scaling
from cgrefine.fm.devices import everywhere, mesh_of
from cgrefine.fm.step import Matching, compiled
from cgrefine.fm.train import never, on_host, single
from cgrefine.report import page
from cgrefine.report.plot import Axis, Line, Mark, Plot

WARM_UPDATES = 2
NAMES = {"strong": "the same work", "weak": "work that grows with the devices"}


def measure(config: Config, root: Path, console: Console, updates: int) -> None:
    """Add rows for the devices at hand to OUT/scaling/, and write the page of all rows there are.

    One process measures 1, 2, 4, ... and all of its devices; processes that train together measure all of
    theirs. Raises InputError without a network, data or priors.
    """
    if config.model is None or config.train is None or config.model.name == "none":
        raise InputError("config: scaling needs a network in `model`, and `train`")
    for name in ("prepare", "priors"):
        artifacts.require(root, name, "scaling")
    member = member_of(config, root)
    total = jax.device_count()
    counts = [total] if jax.process_count() > 1 else sorted({*_powers(total), total})
    found = []
    for count in counts:
        mesh = mesh_of(jax.devices()[:count])
        most = max(_powers(total)[-1], count)
        for kind, batches in (("strong", most), ("weak", count)):
            if batches % count == 0:
                seconds = _seconds(config, member, mesh, batches, updates)
                found.append({"kind": kind, "devices": count, "batches": batches, "seconds": seconds})
                console.say(f"{kind}: {count} devices, {batches} batches an update, {seconds:.4g} s")
    if not distributed.is_first():
        return
    folder = root / "scaling"
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"device": jax.devices()[0].device_kind, "processes": jax.process_count(), "updates": updates}
    artifacts.write_json(folder / f"rows-{total}-{jax.process_count()}.json", {**facts, "rows": found})
    _write(folder, console)


def _powers(most: int) -> list[int]:
    return [2**k for k in range(int(math.log2(most)) + 1)]


def _seconds(config: Config, member: Member, mesh: Mesh, batches: int, updates: int) -> float:
    """Median time of an update, with the reading of batches; compilation and the first ones left out."""
    settings, loader = config.train, config.loader
    assert settings is not None
    task = member.task
    budget = budget_for([task.training], settings.batch_beads, loader.edge_headroom)
    reading = Reading(loader.buffer_frames, loader.prefetch, loader.workers)
    matching = Matching(task.network, task.prior, settings, settings, lambda step: 1e-5, mesh)
    prior_params = everywhere(on_host(single(task.prior_params)), mesh)
    state: Any = everywhere(on_host(matching.init(single(task.network.init(jax.random.key(0))))), mesh)
    advance, times = compiled(matching), []
    with lanes.opened(
        task.training, budget, settings.seed, AS_THEY_ARE, reading, batches, mesh, None, never
    ) as streams:
        for _ in range(WARM_UPDATES + updates):
            begin = time.perf_counter()
            state, _ = jax.block_until_ready(advance(state, streams.next(), prior_params))
            times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM_UPDATES:])


def _write(folder: Path, console: Console) -> None:
    """All rows in the folder, with the law of each kind, as JSON, figure, page and table."""
    files = [artifacts.read_json(path) for path in sorted(folder.glob("rows-*.json"))]
    rows = [row for file in files for row in file["rows"]]
    result: dict[str, Any] = {}
    for kind, law in (("strong", scaling.amdahl), ("weak", scaling.gustafson)):
        # rows of the same kind compare when their work does: strong ones have the same batches
        chosen = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["devices"])
        if kind == "strong":
            alone = [row["batches"] for row in chosen if row["devices"] == 1]
            chosen = [row for row in chosen if alone and row["batches"] == max(alone)]
        if any(row["devices"] == 1 for row in chosen):
            fit = law([row["devices"] for row in chosen], [row["seconds"] for row in chosen])
            result[kind] = {"serial": fit.serial, "residual": fit.residual, "rows": chosen}
    artifacts.write_json(folder / "scaling.json", {"devices": sorted({f["device"] for f in files}), **result})
    table = [
        (kind, row["devices"], row["batches"], row["seconds"], _efficiency(found["rows"], row, kind))
        for kind, found in result.items()
        for row in found["rows"]
    ]
    columns = ("scaling", "devices", "batches an update", "s per update", "efficiency")
    console.table(f"cgrefine scaling → {folder}", columns, table)
    plot = speeds(result)
    page.save_plots(folder / "scaling.png", plot)
    text = "; ".join(
        f"{kind} ({NAMES[kind]}): serial share {found['serial']:.3f}" for kind, found in result.items()
    )
    section = page.Section("Scaling of a training update", text, page.Table(columns, table), plots=[plot])
    page.write_page(folder / "report.html", "Scaling", [section])


def _efficiency(rows: list[dict[str, Any]], row: dict[str, Any], kind: str) -> float:
    """Speed by device over that of one device."""
    one = statistics.mean(r["seconds"] for r in rows if r["devices"] == 1)
    return one / row["seconds"] / (row["devices"] if kind == "strong" else 1)


def speeds(result: dict[str, Any]) -> Plot:
    """Speed over that of one device, measured and by the law through it."""
    marks: list[Mark] = []
    for colour, (kind, found) in enumerate(result.items()):
        rows, s = found["rows"], found["serial"]
        n = np.array([row["devices"] for row in rows], float)
        one = statistics.mean(row["seconds"] for row in rows if row["devices"] == 1)
        work = 1.0 if kind == "strong" else n
        speed = work * one / np.array([row["seconds"] for row in rows])
        marks.append(Line(n, speed, f"{kind}, measured", line=False, points=True, colour=colour))
        line = np.linspace(1, n.max(), 200)
        law = 1 / (s + (1 - s) / line) if kind == "strong" else line - s * (line - 1)
        name = f"{'Amdahl' if kind == 'strong' else 'Gustafson'}, s = {s:.3f}"
        marks.append(Line(line, law, name, colour=colour))
    return Plot(
        "Speed on more devices", Axis("devices", whole=True), Axis("speed over that of one device"), marks
    )
