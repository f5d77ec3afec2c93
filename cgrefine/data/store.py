"""The coarse-grained data set on disk: one folder a domain, written once and whole, read frame by frame.

    dataset.json                      what is in the data set; sealed with its own sha256; written last
    domains/<name>/positions.npy      (f, n, 3) int16 relative to an origin, in 0.01 Å, or float32 Å
    domains/<name>/forces.npy         (f, n, 3) float16 or float32, kcal/mol/Å
    domains/<name>/entry.json         the domain's entry of dataset.json, so that prepare can be continued

A domain appears under its name only when all of it is on the disk. The same input gives the same bytes.
"""

import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cgrefine.data.segments import (
    Segments,
    Snapped,
    extent,
    from_rows,
    rows_of,
    segments_of,
    snapped,
    with_origins,
)
from cgrefine.data.shards import (
    Frames,
    file_hash,
    sealed,
    sync,
    sync_folder,
    unsealed,
    write_array,
)
from cgrefine.data.threads import in_threads
from cgrefine.errors import InputError
from cgrefine.residues import ONE_LETTER, species_from_sequence
from cgrefine.system import Topology, topology_from_species

FORMAT = 2
UNITS = {
    "positions": "Å; int16 in 0.01 Å from origin",
    "forces": "kcal/mol/Å",
    "energies": "kcal/mol, from their mean",
    "temperature_K": "K",
}
SEGMENT = "start, count, temperature_K, replica, first source frame, stride, validation, origin in 0.01 Å"
STORED = {"positions": ("int16", "float32"), "forces": ("float16", "float32"), "energies": ("float32",)}
"""Types of the arrays of a domain; energies are only there where the data have them."""
PER_FRAME = ("temperature_K", "replica", "frame", "validation")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_CHUNK_VALUES = 1 << 16
"""Numbers that are converted at a time: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Domain:
    """One protein: f frames of n beads. sequence: one-letter codes; breaks, cis_bonds: see
    `system.topology_from_species`.

    resid: residue numbers of the source as pairs (first, count) of consecutive ones.
    positions (f, n, 3) Å, forces (f, n, 3) kcal/mol/Å: Frames on disk, or arrays in memory; float32.
    energies (f,) kcal/mol, float32, from their mean: of data that have them, else None.
    weights (f, n): of beads in the loss, above 0, of reweighted sampling in memory; None: all 1.
    """

    name: str
    sequence: str
    breaks: tuple[int, ...]
    cis_bonds: tuple[int, ...]
    resid: tuple[tuple[int, int], ...]
    positions: Frames | np.ndarray
    forces: Frames | np.ndarray
    segments: Segments
    energies: Frames | np.ndarray | None = None
    weights: np.ndarray | None = None

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.positions)

    @property
    def n_beads(self) -> int:
        """Number of beads (residues)."""
        return len(self.sequence)

    @cached_property
    def topology(self) -> Topology:
        """The chain, made when first asked for."""
        numbers = np.concatenate([np.arange(first, first + count) for first, count in self.resid])
        species = species_from_sequence(self.sequence)
        return topology_from_species(species, self.breaks, numbers, self.cis_bonds)

    @property
    def temperature_K(self) -> np.ndarray:
        """(f,) float32."""
        return self.segments.spread(self.segments.temperature_K)

    @property
    def replica(self) -> np.ndarray:
        """(f,) int32: the replica that each frame came from."""
        return self.segments.spread(self.segments.replica)

    @property
    def frame(self) -> np.ndarray:
        """(f,) int32: index of each frame in its run."""
        return self.segments.source_frame()

    @property
    def validation(self) -> np.ndarray:
        """(f,) bool: held out of training."""
        return self.segments.spread(self.segments.validation)


@dataclass(frozen=True)
class Dataset:
    """An open data set. index: the content of dataset.json."""

    folder: Path
    domains: tuple[Domain, ...]
    index: Mapping[str, Any]

    def domain(self, name: str) -> Domain:
        """The domain of that name. Raises InputError listing (the first of) the names otherwise."""
        for domain in self.domains:
            if domain.name == name:
                return domain
        names = [domain.name for domain in self.domains]
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        raise InputError(f"{self.folder}: no domain {name!r}; choose from {shown}")

    def verify(self, begin: Callable[[str], object] = lambda name: None) -> None:
        """Compare every byte with the hashes in dataset.json; begin(name) is called for each domain.

        Raises InputError naming the first damaged file.
        """
        for entry in self.index["domains"]:
            begin(entry["name"])
            fault = _fault(_domain_folder(self.folder, entry["name"]), entry)
            if fault is not None:
                raise InputError(fault)


def in_memory(name: str, topology: Topology, arrays: Mapping[str, np.ndarray]) -> Domain:
    """A domain that is not on disk. arrays: those of `write_domain`; and weights (f, n), see Domain.

    Raises ValueError on weights that are not above 0: weight 0 marks frames whose forces are not finite.
    """
    weights = arrays.get("weights")
    if weights is not None and not np.all(np.asarray(weights) > 0.0):
        raise ValueError(f"domain {name}: a weight is {np.min(weights):g}, must be above 0")
    return Domain(
        name=name,
        **_chain(topology),
        positions=np.asarray(arrays["positions"], np.float32),
        forces=np.asarray(arrays["forces"], np.float32),
        segments=segments_of(*(np.asarray(arrays[key]) for key in PER_FRAME)),
        energies=_from_mean(arrays["energies"]) if "energies" in arrays else None,
        weights=None if weights is None else np.asarray(weights, np.float32),
    )


def _from_mean(energies: np.ndarray) -> np.ndarray:
    """float32 after the mean is gone, which may be large: differences alone mean anything."""
    exact = np.asarray(energies, np.float64)
    return (exact - exact.mean()).astype(np.float32)


def write_domain(
    folder: Path,
    name: str,
    topology: Topology,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    positions: Literal["auto", "int16", "float32"] = "auto",
    forces: Literal["float16", "float32"] = "float32",
) -> dict[str, Any]:
    """Write one domain under a temporary name and rename it; returns its entry for dataset.json.

    arrays: positions, forces (f, n, 3) and those of PER_FRAME (f,): temperature_K, replica, frame (in its
    run), validation; and energies (f,) kcal/mol, if there are any. facts: JSON-able extras for the entry,
    without NaN. A damaged domain of that name is replaced. positions: int16 holds the grid points of a 0.01 Å
    grid exactly; auto takes it where all coordinates are on the grid and each frame is less than 655 Å wide,
    else float32. forces: float16 has a relative error of 2⁻¹¹ (absolute 3e-8 below 6e-5).
    Raises InputError on a name that is no plain file name or is there already, and ValueError on wrong
    shapes, values that are not finite, and numbers that the asked types cannot hold.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"domain name {name!r}: must be letters, digits and _ . + -, not starting with a dot"
        )
    final = _domain_folder(folder, name)
    if finished(folder, name) is not None:
        raise InputError(f"{final}: exists already; each domain is written once")
    x, f = (np.asarray(arrays[key]) for key in ("positions", "forces"))
    _check_arrays(name, topology, arrays)
    if forces == "float16" and (top := np.abs(f).max(initial=0.0)) >= 65520:
        raise ValueError(f"domain {name}: a force of {top:.6g} kcal/mol/Å exceeds float16 (65504)")
    # its own folder for each writer: of two workers on the same domain the first one to finish wins
    partial = final.with_name(f".{name}.{uuid.uuid4().hex}.partial")
    partial.mkdir(parents=True)
    with ThreadPoolExecutor(1) as thread:
        written = thread.submit(write_array, partial / "forces.npy", np.dtype(forces), f.shape, _chunks(f))
        encoding = _encoding(name, x, segments_of(*(arrays[key] for key in PER_FRAME)), positions)
        kind, parts = np.dtype(encoding.stored), _encoded(x, encoding)
        positions_facts = write_array(partial / "positions.npy", kind, x.shape, parts)
        stored = {"positions": positions_facts, "forces": written.result()}
    if "energies" in arrays:
        parts = iter([_from_mean(arrays["energies"])])
        stored["energies"] = write_array(partial / "energies.npy", np.dtype(np.float32), (len(x),), parts)
    entry = {
        **facts,
        "format": FORMAT,
        "name": name,
        "n_beads": topology.n_beads,
        "n_frames": len(x),
        **_chain(topology),
        "segments": rows_of(encoding.segments),
        "arrays": stored,
    }
    data = sealed(entry)
    with (partial / "entry.json").open("wb") as handle:
        handle.write(data)
        sync(handle)
    _put_in_place(partial, final)
    return unsealed(final / "entry.json", data, FORMAT)


def finished(folder: Path, name: str) -> dict[str, Any] | None:
    """The entry of a domain that is on the disk whole and unchanged (all of it is read), else None."""
    path = _domain_folder(folder, name)
    try:
        entry = unsealed(path / "entry.json", (path / "entry.json").read_bytes(), FORMAT)
        return entry if entry["name"] == name and _fault(path, entry) is None else None
    except (OSError, InputError):
        return None


def write_index(folder: Path, entries: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write dataset.json, last: with it the data set is complete. Leavings of killed writers are removed."""
    for leaving in (folder / "domains").glob(".*.partial"):
        shutil.rmtree(leaving)
    content = {"format": FORMAT, "units": UNITS, "segment": SEGMENT, **facts, "domains": list(entries)}
    temporary = folder / "dataset.json.tmp"
    with temporary.open("wb") as handle:
        handle.write(sealed(content))
        sync(handle)
    temporary.rename(folder / "dataset.json")
    sync_folder(folder)


def open_dataset(folder: Path) -> Dataset:
    """Open a data set without reading frames: the hash of dataset.json, sizes and headers are checked.

    The ends of a file are checked when it is first read; `Dataset.verify` checks all of it.
    Raises InputError on a missing, damaged, older or newer store, naming the file.
    """
    path = folder / "dataset.json"
    if not path.exists():
        raise InputError(f"{folder}: is no data set (dataset.json is missing); run `cgrefine prepare` first")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    index = unsealed(path, data, FORMAT)
    try:
        domains = tuple(_open_domain(folder, entry) for entry in index["domains"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged (field {error} is missing or malformed)") from error
    if not domains:
        raise InputError(f"{path}: holds no domain")
    return Dataset(folder, domains, index)


def _open_domain(folder: Path, entry: Mapping[str, Any]) -> Domain:
    name, shape = entry["name"], (entry["n_frames"], entry["n_beads"], 3)
    if not _NAME.fullmatch(name):
        raise InputError(f"{folder / 'dataset.json'}: domain name {name!r} is no plain file name")
    segments, arrays = from_rows(entry["segments"]), {}
    if segments.n_frames != shape[0] or len(entry["sequence"]) != shape[1]:
        raise ValueError("segments")
    for key, allowed in STORED.items():
        if key == "energies" and key not in entry["arrays"]:
            continue
        facts = entry["arrays"][key]
        if facts["dtype"] not in allowed:
            raise ValueError(f"{key}.dtype")
        relative = (segments.start, segments.origin) if facts["dtype"] == "int16" else (None, None)
        arrays[key] = Frames(
            f"{folder}/domains/{name}/{key}.npy",
            np.dtype(facts["dtype"]),
            shape[:1] if key == "energies" else shape,
            facts["ends"],
            *relative,
        )
        arrays[key].check_header()
    return Domain(
        name=name,
        sequence=entry["sequence"],
        breaks=tuple(entry["breaks"]),
        cis_bonds=tuple(entry["cis_bonds"]),
        resid=tuple((first, count) for first, count in entry["resid"]),
        **arrays,
        segments=segments,
    )


def _domain_folder(folder: Path, name: str) -> Path:
    return folder / "domains" / name


def _chain(topology: Topology) -> dict[str, Any]:
    """The chain as fields of Domain and of the entry."""
    resid = topology.resid
    first = np.flatnonzero(np.diff(resid, prepend=resid[0] - 2) != 1)
    count = np.diff(np.append(first, len(resid)))
    return {
        "sequence": "".join(ONE_LETTER[s] for s in topology.species),
        "breaks": tuple((np.flatnonzero(np.diff(topology.sequence) != 1) + 1).tolist()),
        "cis_bonds": topology.cis_bonds,
        "resid": tuple(zip(resid[first].tolist(), count.tolist(), strict=True)),
    }


def _fault(path: Path, entry: Mapping[str, Any]) -> str | None:
    """What is wrong with a domain's folder, or None. Reads everything."""
    try:
        if (path / "entry.json").read_bytes() != sealed(entry):
            return f"{path / 'entry.json'}: is damaged (it is not the entry of dataset.json)"
        for key, facts in entry["arrays"].items():
            found, expected = file_hash(path / f"{key}.npy"), facts["blake2b"]
            if found != expected:
                return f"{path / key}.npy: content is damaged (blake2b {found[:12]}, must be {expected[:12]})"
    except OSError as error:
        return f"{path / 'entry.json'}: is missing or cannot be read ({error.strerror})"
    return None


def _check_arrays(name: str, topology: Topology, arrays: Mapping[str, np.ndarray]) -> None:
    n_frames = len(arrays["positions"])
    of_frames = (*PER_FRAME, "energies") if "energies" in arrays else PER_FRAME
    for key in ("positions", "forces", *of_frames):
        shape = (n_frames,) if key in of_frames else (n_frames, topology.n_beads, 3)
        if arrays[key].shape != shape:
            raise ValueError(f"domain {name}: {key} has shape {arrays[key].shape}, must be {shape}")
        if not all(np.isfinite(part).all() for part in _chunks(np.asarray(arrays[key]))):
            raise ValueError(f"domain {name}: {key} are not all finite")


def _stretches(values: np.ndarray) -> Iterator[slice]:
    step = max(1, _CHUNK_VALUES // max(1, int(np.prod(values.shape[1:]))))
    return (slice(i, i + step) for i in range(0, len(values), step))


def _chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[stretch] for stretch in _stretches(values))


class _Encoding(NamedTuple):
    """segments: with their origins. stored: type of the positions on disk. grids: of int16, in pieces."""

    segments: Segments
    stored: str
    grids: list[np.ndarray]


def _encoding(name: str, x: np.ndarray, segments: Segments, wanted: str) -> _Encoding:
    """How positions are stored. Raises ValueError when int16 is wanted and cannot hold them."""
    if wanted == "float32":
        return _Encoding(segments, "float32", [])
    judged = list(in_threads(_judged, _chunks(x)))
    if all(piece.fits for piece, _ in judged):
        low, high = (np.concatenate([extremes[side] for _, extremes in judged] or [x]) for side in (0, 1))
        cut = with_origins(segments, low, high) if len(x) else segments
        if cut is not None:
            return _Encoding(cut, "int16", [piece.grid for piece, _ in judged])
    if wanted == "int16":
        largest = max(piece.off_A for piece, _ in judged)
        raise ValueError(
            f"domain {name}: positions do not fit int16 (largest distance from the 0.01 Å grid {largest:.2g} "
            "Å, and no frame may be wider than 655 Å); choose auto or float32"
        )
    return _Encoding(segments, "float32", [])


def _judged(part: np.ndarray) -> tuple[Snapped, tuple[np.ndarray, np.ndarray]]:
    """A piece on the grid, and the extent of its frames."""
    piece = snapped(part)
    return piece, extent(piece.grid)


def _encoded(x: np.ndarray, encoding: _Encoding) -> Iterator[np.ndarray]:
    if encoding.stored == "float32":
        yield from _chunks(x)
        return
    origin, first = encoding.segments.spread(encoding.segments.origin), 0
    for grid in encoding.grids:
        last = first + len(grid)
        yield (grid - origin[first:last, None]).astype(np.int16)
        first = last


def _put_in_place(partial: Path, final: Path) -> None:
    sync_folder(partial)
    if final.exists():
        if finished(final.parents[1], final.name) is not None:
            shutil.rmtree(partial)
            return
        shutil.rmtree(final)
    partial.rename(final)
    sync_folder(final.parent)
