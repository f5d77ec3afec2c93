"""Sections of the configuration that are about data: what is read, mapped, stored and loaded."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cgrefine.config.base import Count, Positive, Section, Temperature


class Split(Section):
    """How frames are divided into training and validation.

    domain: by a hash of its name, so that more data moves none to the other side. topology, superfamily:
    whole CATH C.A.T or C.A.T.H classes in the same way, read from cath_list (CATH's domain list, or lines of
    `domain C.A.T.H`). replica, temperature: the last ones.
    frame: the last frames of each run, which are not independent of the others; every report says so.
    """

    by: Literal["domain", "topology", "superfamily", "replica", "temperature", "frame"] = "domain"
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0)] = 0
    cath_list: str | None = None

    @model_validator(mode="after")
    def _list_given(self) -> "Split":
        if self.by in ("topology", "superfamily") and self.cath_list is None:
            raise ValueError(
                f"split by {self.by} needs cath_list, the file with the CATH code of each domain"
            )
        return self


class TrajectoryFile(Section):
    """One run in a file: GROMACS .trr, AMBER .nc/.ncdf, or .npz with positions and forces.

    units: length and force of an npz file, which does not state its own; TRR and NetCDF do.
    """

    path: str
    temperature_K: Temperature
    replica: Annotated[int, Field(ge=0)] = 0
    units: Literal["A,kcal/mol/A", "nm,kJ/mol/nm"] = "A,kcal/mol/A"


class Trajectory(Section):
    """A molecule in other files than mdCATH ones. topology: .pdb or .psf (a .npz may hold its own)."""

    name: str
    topology: str | None = None
    files: Annotated[list[TrajectoryFile], Field(min_length=1)]


class CoarseFile(Section):
    """An .npz file of beads: one run of each of its proteins. units: length and force, not in the file."""

    path: str
    temperature_K: Temperature
    replica: Annotated[int, Field(ge=0)] = 0
    units: Literal["A,kcal/mol/A", "nm,kJ/mol/nm"]


class Coarse(Section):
    """Proteins whose data have one bead a residue already, see data.coarse_npz; all files hold the same ones.

    names: of the proteins, in the order of their numbers (default: the first file's name). residues: residue
    name of each species number, where the files do not hold it as text.
    """

    files: Annotated[list[CoarseFile], Field(min_length=1)]
    names: list[str] | None = None
    residues: dict[int, str] | None = None


class Data(Section):
    """All-atom trajectories with forces, and data that are coarse-grained already.

    raw: mdCATH files, globs or folders; the word `sample` is the embedded sample. trajectories: molecules
    in other formats. coarse: one bead a residue, whose forces are taken as given. modified_residues: `map`
    takes MSE as MET, SEP as SER and so on (residues.MODIFIED).
    """

    raw: list[str] = []
    trajectories: list[Trajectory] = []
    coarse: list[Coarse] = []
    temperatures_K: list[Temperature] | None = None
    stride: Count = 1
    split: Split = Split()
    coordinate_limit_A: Positive = 1.0e4
    modified_residues: Literal["refuse", "map"] = "refuse"

    @model_validator(mode="after")
    def _something_given(self) -> "Data":
        if not self.raw and not self.trajectories and not self.coarse:
            raise ValueError("give raw (mdCATH files) or trajectories, or coarse")
        return self


class ForceMap(Section):
    """Aggregation of atomic forces onto beads. ridge is relative to the mean diagonal of the Gram matrix.

    optimal: all free groups of the protein. windowed: those within ±window residues of the bead. pooled: one
    coefficient a residue type, atom name and neighbour class, fitted on up to pooled_domains training
    domains, or read from pooled_map (a file that an earlier prepare wrote). cross_fit: each replica's forces
    come from a map that was fitted on the other ones. zero_net_force: project bead forces onto zero net
    force and torque. constraints: rigid X-H groups from the topology, or found in the data where pair
    distances vary less than constraint_threshold_A. noise_report_domains: all maps are compared on so many.
    """

    kind: Literal["basic", "optimal", "windowed", "pooled"] = "windowed"
    window: Annotated[int, Field(ge=0, le=20)] = 1
    cross_fit: bool = True
    ridge: Annotated[float, Field(ge=0)] = 1.0e-3
    pooled_map: str | None = None
    pooled_domains: Count = 500
    zero_net_force: bool = False
    constraints: Literal["topology", "data"] = "topology"
    constraint_threshold_A: Positive = 0.012
    noise_report_domains: Annotated[int, Field(ge=0)] = 3
    block_frames: Count = 256


class Store(Section):
    """Numbers on disk. positions: int16 is exact when the source has a 0.01 Å grid (auto looks and chooses).

    forces: float16 has a relative error of 5e-4, far below the noise of the labels.
    """

    positions: Literal["auto", "int16", "float32"] = "auto"
    forces: Literal["float16", "float32"] = "float32"


class Slurm(Section):
    """Workers that dask-jobqueue starts as Slurm jobs. extra: lines for the job script's #SBATCH header."""

    queue: str | None = None
    account: str | None = None
    cores: Count = 4
    memory: str = "16GB"
    walltime: str = "08:00:00"
    extra: list[str] = []


class Cluster(Section):
    """Where domains are worked on. local: processes of this machine; slurm: jobs; scheduler: a running dask
    scheduler at `address`; inline: one after another in this process.

    workers: processes (default: one a CPU core, at most one a domain) or jobs (default: one). retries: of a
    task whose worker died or whose file system failed; wrong input is not tried again.
    """

    kind: Literal["local", "slurm", "scheduler", "inline"] = "local"
    workers: Count | None = None
    address: str | None = None
    retries: Annotated[int, Field(ge=0)] = 2
    slurm: Slurm = Slurm()

    @model_validator(mode="after")
    def _address_given(self) -> "Cluster":
        if (self.kind == "scheduler") != (self.address is not None):
            raise ValueError("address is given with kind scheduler, and only then")
        return self


class Loader(Section):
    """Reading of frames for training. temperature_weights: frames taken per epoch relative to all of them,
    by temperature in K (1 where none is given); above 1 repeats frames.

    buffer_frames: frames that wait for a place in a batch. edge_headroom: edge slots over the mean number.
    workers: processes that make batches in the background; 0 is a thread of this process.
    """

    stride: Count = 1
    temperatures_K: list[Temperature] | None = None
    temperature_weights: dict[float, Positive] = {}
    buffer_frames: Count = 256
    edge_headroom: Annotated[float, Field(ge=1)] = 1.0
    prefetch: Count = 4
    workers: Annotated[int, Field(ge=0)] = 0
