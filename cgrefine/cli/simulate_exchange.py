"""What replica exchange adds to the results of a simulation: frames by temperature, and its statistics.

A place is a rung of a ladder of temperatures, whichever replica is there. Place g of a pack is the one where
replica g starts, and has its number and the name of its file.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cgrefine.artifacts import Record
from cgrefine.cli.replicas import Pack, Replica
from cgrefine.config.running import Sim
from cgrefine.errors import InputError
from cgrefine.report.page import Section, Table
from cgrefine.sim import records
from cgrefine.sim.exchange import RoundTrips, Tally, begun, summary, tallied
from cgrefine.sim.rollout import Ended, Settings

TABLE = "temperatures.csv"
"""In a simulate folder with exchange: a row a trajectory, which is that of a place."""


def walkers(pack: Pack, block: np.ndarray) -> np.ndarray:
    """The replica (s, g) at each place of a pack in each record of a block."""
    rung = block["rung"][:, -1].reshape(len(block), -1, pack.rungs)
    first = pack.rungs * np.arange(rung.shape[1])
    return (rung.argsort(axis=-1) + first[:, None]).reshape(len(block), -1)


def by_temperature(pack: Pack, block: np.ndarray) -> np.ndarray:
    """The records with places where they have replicas; without exchange the two are the same."""
    if pack.rungs == 1:
        return block
    there, found = walkers(pack, block), block.copy()
    for name in ("potential", "temperature_K", "alive"):
        found[name] = np.take_along_axis(block[name], there, axis=1)
    first = np.cumsum([0, *(len(r.start) for r in pack.replicas)])
    for place, r in enumerate(pack.replicas):
        beads = first[there[:, place]][:, None] + np.arange(len(r.start))
        mine = slice(first[place], first[place + 1])
        found["positions"][:, mine] = np.take_along_axis(block["positions"], beads[..., None], axis=1)
    return found


def bath_K(cfg: Sim, pack: Pack) -> np.ndarray:
    """The temperature (g,) of each place."""
    return np.tile(cfg.bath_K, len(pack.replicas) // pack.rungs)


def counted(pack: Pack, run: Settings, end: Ended) -> dict[str, Tally]:
    """The exchanges of each domain of a pack, from its records."""
    names = np.array([r.domain.name for r in pack.replicas])
    found = {
        name: begun(np.arange((names == name).sum()) % pack.rungs, pack.rungs)
        for name in dict.fromkeys(names.tolist())
    }
    steps = run.stride // run.rounds
    for block in records.blocks(pack.frames, pack.layout, end.frames):
        rung = block["rung"].reshape(-1, len(names))
        for name, tally in found.items():
            mine, at = names == name, steps * (tally.rounds + np.arange(len(rung)))
            fail_step = end.fail_step[mine]
            alive = (fail_step < 0) | (fail_step > at[:, None])
            found[name] = tallied(tally, rung[:, mine], alive)
    return found


def by_domain(tallies: Sequence[dict[str, Tally]]) -> dict[str, RoundTrips]:
    """The exchanges of each domain over all packs."""
    names = dict.fromkeys(name for found in tallies for name in found)
    return {name: summary([found[name] for found in tallies if name in found]) for name in names}


def write_places(path: Path, places: Iterable[tuple[Replica, int, float, int, float]], suffix: str) -> None:
    """The table of trajectories, of (the replica that starts there, rung, temperature K, frames, kinetic
    temperature K)."""
    with path.open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["domain", "replica", "rung", "temperature_K", "frames", "kinetic_K", "trajectory"])
        for r, rung, kelvin, frames, kinetic in places:
            told = f"{kinetic:.6g}" if math.isfinite(kinetic) else ""
            table.writerow([r.domain.name, r.index, rung, f"{kelvin:g}", frames, told, r.file(suffix)])


def trajectories_at(folder: Path, temperature_K: float) -> set[str] | None:
    """Names of the trajectories of a simulate folder at a temperature; None without exchange.

    Raises InputError when there is none at it.
    """
    path = folder / TABLE
    if not path.is_file():
        return None
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    found = {Path(row["trajectory"]).name for row in rows if float(row["temperature_K"]) == temperature_K}
    if not found:
        known = ", ".join(dict.fromkeys(row["temperature_K"] for row in rows))
        raise InputError(f"{path}: has no trajectory at {temperature_K:g} K; choose from {known}")
    return found


def record(into: Record, cfg: Sim, run: Settings, tallies: Sequence[dict[str, Tally]]) -> None:
    """Metrics over all domains: the acceptance of each pair of neighbours, and round trips."""
    found = summary([tally for each in tallies for tally in each.values()])
    for low, high, accepted in zip(cfg.bath_K, cfg.bath_K[1:], found.acceptance, strict=False):
        if math.isfinite(accepted):
            into.metric(f"exchange_acceptance_{low:g}_{high:g}_K", accepted)
    into.metric("exchange_round_trips", int(found.trips.sum()))
    if math.isfinite(found.rounds_a_trip):
        into.metric("exchange_round_trip_ps", found.rounds_a_trip * _round_ps(cfg, run), unit="ps")


def section(cfg: Sim, run: Settings, tallies: Sequence[dict[str, Tally]]) -> Section:
    """The part of the page about the exchange."""
    rows = []
    for name, found in by_domain(tallies).items():
        parts = zip(cfg.bath_K, cfg.bath_K[1:], found.tried, found.accepted, found.acceptance, strict=False)
        trip = found.rounds_a_trip * _round_ps(cfg, run)
        told = trip if math.isfinite(trip) else "–"
        rows += [(name, *part, int(found.trips.sum()), told) for part in parts]
    text = (
        f"Neighbours on the ladder try to swap their temperatures every {_round_ps(cfg, run):g} ps, pairs in "
        "turn. Trajectories are those of a temperature: log.csv names the walker of each frame. A round trip "
        "is from the lowest temperature to the highest and back; without any the ladder has not mixed."
    )
    columns = (
        "domain", "from, K", "to, K", "tried", "accepted", "acceptance", "round trips", "a round trip, ps",
    )  # fmt: skip
    return Section("Replica exchange", text, Table(columns, rows))


def _round_ps(cfg: Sim, run: Settings) -> float:
    return run.stride // run.rounds * cfg.step_fs / 1000.0
