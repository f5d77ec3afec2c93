"""What raw trajectories hold: one reading of every frame, as sections of a page."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cgrefine.cli.console import Console
from cgrefine.cli.inspect_figures import force_table, forces_plot, lengths_plot, sequence_line
from cgrefine.config.data import Data, ForceMap
from cgrefine.data import plan
from cgrefine.data.force_statistics import ForceSums, sums_add, sums_init, sums_step
from cgrefine.data.molecule import bond_lengths, cis_bonds, prepared
from cgrefine.data.plan import Planned, Source
from cgrefine.data.source import Block, RawDomain, Run, check_values, frame_blocks, select_runs, valid_frames
from cgrefine.data.topology import Atoms
from cgrefine.report.page import Section, Table
from cgrefine.residues import N_SPECIES, species_of

BLOCK_FRAMES = 64
COLUMNS = ("domain", "residues", "atoms", "bonds", "runs", "frames", "bad", "breaks", "cis")
COMPACT_BYTES = 12
"""Bytes of a residue-frame in the store's compact form."""


class RawReport(NamedTuple):
    """One molecule. bad: (run, frame) of broken frames; frames: by temperature, (frames read, bad)."""

    row: tuple[object, ...]
    line: str
    n_beads: int
    frames: dict[float, tuple[int, int]]
    bad: list[tuple[str, int]]
    sums: ForceSums
    bytes_read: int


def sections(
    found: Sequence[Source],
    temperatures_K: Sequence[float] | None,
    limit_A: float,
    stride: int,
    console: Console,
) -> list[Section]:
    """Molecules, frames by temperature, forces by residue type. Raises InputError as `prepare` would."""
    planned = [p for source in found for p in plan.survey(source, temperatures_K)]
    plan.refuse_doubles(planned)
    begin = time.perf_counter()
    reports = [
        _report(p, temperatures_K, limit_A, stride)
        for p in console.track(planned, total=len(planned), label="reading")
    ]
    seconds = time.perf_counter() - begin
    lines = [f"{p.name}: {r.line}" for p, r in zip(planned, reports, strict=True)]
    lines += [f"{p.name}: bad frames {_shown(r.bad)}" for p, r in zip(planned, reports, strict=True) if r.bad]
    lengths = [r.n_beads for r in reports]
    sums = reports[0].sums
    for report in reports[1:]:
        sums = sums_add(sums, report.sums)
    return [
        Section("Molecules", "\n".join(lines), Table(COLUMNS, [r.row for r in reports])),
        Section(
            "Frames", _expected(reports, seconds), Table(("K", "frames", "bad"), _by_temperature(reports))
        ),
        Section(
            "Atomic forces by residue",
            "kcal/mol/Å; all atoms of the residues, valid frames.",
            force_table(sums),
            plots=[forces_plot(sums), lengths_plot(lengths)],
        ),
    ]


def _report(
    planned: Planned, temperatures_K: Sequence[float] | None, limit_A: float, stride: int
) -> RawReport:
    domain = plan.read(planned)
    runs = select_runs(domain, temperatures_K)
    data = Data(raw=[planned.name], stride=stride, coordinate_limit_A=limit_A, modified_residues="map")
    molecule = prepared(domain, runs, [0] * len(runs), data, ForceMap(block_frames=BLOCK_FRAMES))
    kind = _species(domain.atoms)
    frames: dict[float, tuple[int, int]] = {}
    bad: list[tuple[str, int]] = []
    sums, size, lengths = sums_init(N_SPECIES), 0, []
    ca = molecule.mapping.ca
    for run in runs:
        for good, block in _judged(domain, run, stride, limit_A):
            bad += [(run.key, int(frame)) for frame in block.frame[~good]]
            n, n_bad = frames.get(run.temperature_K, (0, 0))
            frames[run.temperature_K] = (n + len(good), n_bad + int((~good).sum()))
            sums = sums_step(sums, block.forces[good], kind)
            lengths.append(bond_lengths(molecule.mapping, block.coords[good][:, ca]))
            size += block.coords.nbytes + block.forces.nbytes
    cis = len(cis_bonds(molecule.mapping, np.concatenate(lengths)))
    row = (
        domain.name, len(ca), len(domain.atoms), len(molecule.bonds), len(runs),
        sum(n for n, _ in frames.values()), len(bad), len(molecule.mapping.breaks), cis,
    )  # fmt: skip
    line = sequence_line(
        molecule.mapping.topology.species,
        molecule.mapping.breaks,
        [run.temperature_K for run in runs],
        [run.replica for run in runs],
    )
    source = "geometry" if domain.bonds is None else "the file"
    return RawReport(row, f"{line}, bonds from {source}", len(ca), frames, bad, sums, size)


def _judged(domain: RawDomain, run: Run, stride: int, limit_A: float) -> Iterator[tuple[np.ndarray, Block]]:
    """(valid frames, block) of a run; the units of its first valid frame are checked."""
    checked = False
    for block in frame_blocks(domain, run, stride, BLOCK_FRAMES):
        good = valid_frames(block.coords, block.forces, limit_A)
        if not checked and good.any():
            first = int(np.flatnonzero(good)[0])
            check_values(domain, block.coords[first], block.forces[first], f" run {run.key}:")
            checked = True
        yield good, block


def _species(atoms: Atoms) -> np.ndarray:
    """(atoms,) species of each atom's residue, -1 in caps and unknown residues."""
    known = {}
    for name in dict.fromkeys(atoms.resname.tolist()):
        try:
            known[name] = species_of(name, modified=True)
        except ValueError:
            known[name] = -1
    return np.asarray([known[name] for name in atoms.resname.tolist()])


def _by_temperature(reports: Sequence[RawReport]) -> list[tuple[object, ...]]:
    total: dict[float, tuple[int, int]] = {}
    for report in reports:
        for temperature, (n, bad) in report.frames.items():
            before = total.get(temperature, (0, 0))
            total[temperature] = (before[0] + n, before[1] + bad)
    return [(f"{t:g}", n, bad) for t, (n, bad) in sorted(total.items())]


def _expected(reports: Sequence[RawReport], seconds: float) -> str:
    residue_frames = sum(r.n_beads * sum(n - bad for n, bad in r.frames.values()) for r in reports)
    size = sum(r.bytes_read for r in reports)
    return (
        f"{residue_frames:,} residue-frames: about {COMPACT_BYTES * residue_frames / 1e6:,.1f} MB in the "
        f"compact store. Read {size / 1e6:,.1f} MB in {seconds:.1f} s, {size / 1e6 / seconds:,.0f} MB/s."
    )


def _shown(bad: Sequence[tuple[str, int]]) -> str:
    """Broken frames as ranges, by run: `320/0: 26-29`."""
    parts: list[list[object]] = []
    for key, frame in bad:
        if parts and parts[-1][0] == key and parts[-1][2] == frame - 1:
            parts[-1][2] = frame
        else:
            parts.append([key, frame, frame])
    text = [f"{key}: {first}" if first == last else f"{key}: {first}-{last}" for key, first, last in parts]
    return ", ".join(text[:10]) + (f" and {len(text) - 10} more stretches" if len(text) > 10 else "")
