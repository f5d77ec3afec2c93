"""What `prepare` will read: every molecule of the configuration with its runs, before any frame is read."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cgrefine.artifacts import file_hash
from cgrefine.config.data import Coarse, Data, Split, Trajectory
from cgrefine.data import cath, coarse_npz, mdcath, trajectories
from cgrefine.data.source import RawDomain, select_runs
from cgrefine.data.splits import RunKey, held_from
from cgrefine.errors import InputError


class Source(NamedTuple):
    """A place to read from: an mdCATH file, a molecule in other trajectories, or files of beads.

    One of the three is given.
    """

    path: Path | None
    trajectory: Trajectory | None
    coarse: Coarse | None = None

    @property
    def name(self) -> str:
        """For messages: the (first) file, or the molecule's name in data.trajectories."""
        if self.trajectory is not None:
            return self.trajectory.name
        return str(self.path) if self.coarse is None else self.coarse.files[0].path

    @property
    def files(self) -> list[Path]:
        """Every file it is to be read from, there or not."""
        if self.coarse is not None:
            return [Path(file.path).expanduser() for file in self.coarse.files]
        if self.trajectory is None:
            return [] if self.path is None else [self.path]
        named = [self.trajectory.topology, *(file.path for file in self.trajectory.files)]
        return [Path(name).expanduser() for name in named if name is not None]


class Planned(NamedTuple):
    """A molecule to be prepared: names and numbers only, so that the plan of thousands of them stays small.

    digest: identity of the files it comes from. held_from: the first validation frame of each of `runs`;
    empty before the split. coarse: see RawDomain.
    """

    source: Source
    name: str
    digest: str
    n_atoms: int
    runs: tuple[RunKey, ...]
    held_from: tuple[int, ...] = ()
    coarse: bool = False

    @property
    def in_training(self) -> bool:
        """Whether any frame of it is for training."""
        return any(self.held_from)


def sources(data: Data) -> list[Source]:
    """Files of data.raw (see `mdcath.expand`), then data.trajectories, then data.coarse."""
    files = [Source(path, None) for path in mdcath.expand(data.raw)] if data.raw else []
    files += [Source(None, trajectory) for trajectory in data.trajectories]
    return files + [Source(None, None, coarse) for coarse in data.coarse]


def survey(source: Source, temperatures_K: Sequence[float] | None) -> list[Planned]:
    """The molecules of a source with their runs at the chosen temperatures.

    Raises InputError on a source that cannot be read, or has none of the temperatures.
    """
    found = []
    for path in source.files:
        if not path.is_file():
            raise InputError(f"data: {path}: no such file")
    digest = ",".join(file_hash(path) for path in source.files)
    for name in _names(source):
        domain = _read(source, name)
        runs = select_runs(domain, temperatures_K)
        keys = tuple(RunKey(name, run.temperature_K, run.replica, run.n_frames) for run in runs)
        found.append(Planned(source, name, digest, len(domain.atoms), keys, coarse=domain.coarse))
    return found


def read(planned: Planned) -> RawDomain:
    """The planned molecule, without its frames. Raises InputError as the readers do."""
    return _read(planned.source, planned.name)


def with_split(plan: Sequence[Planned], split: Split) -> list[Planned]:
    """The plan with the frames that are held out. Raises InputError when there is nothing to divide."""
    classes = None
    if split.by in cath.LEVELS and split.cath_list is not None:
        codes = cath.read_codes(Path(split.cath_list).expanduser())
        classes = {planned.name: cath.class_of(planned.name, codes, split.by) for planned in plan}
    keys = [key for planned in plan for key in planned.runs]
    first = iter(held_from(keys, split.by, split.validation_fraction, split.seed, classes))
    return [planned._replace(held_from=tuple(next(first) for _ in planned.runs)) for planned in plan]


def refuse_doubles(plan: Iterable[Planned]) -> None:
    """Raises InputError when a name occurs twice."""
    seen: dict[str, Source] = {}
    for planned in plan:
        if planned.name in seen:
            raise InputError(
                f"data: domain {planned.name} is in {seen[planned.name].name} and in {planned.source.name}; "
                "give it once"
            )
        seen[planned.name] = planned.source


def _names(source: Source) -> tuple[str, ...]:
    if source.trajectory is not None:
        return (source.trajectory.name,)
    if source.coarse is not None:
        return coarse_npz.protein_names(source.coarse)
    assert source.path is not None
    return mdcath.domain_names(source.path)


def _read(source: Source, name: str) -> RawDomain:
    if source.trajectory is not None:
        return trajectories.read_trajectory(source.trajectory)
    if source.coarse is not None:
        return coarse_npz.read_coarse(source.coarse, name)
    assert source.path is not None
    return mdcath.read_domain(source.path, name)
