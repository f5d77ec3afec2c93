"""The whole configuration: one frozen model a section, extra keys forbidden, defaults here and nowhere else.

A value that changes the physics (temperature, cutoff, time step) has no default: the user states it.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(ge=1, le=2000, description="K")]


class Section(BaseModel):
    """A frozen section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Split(Section):
    """How frames are divided into training and validation: by whole domains, replicas or temperatures."""

    by: Literal["domain", "replica", "temperature"] = "domain"
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0)] = 0


class Data(Section):
    """Raw all-atom trajectories. raw: files, globs or folders; the word `sample` is the embedded sample."""

    raw: Annotated[list[str], Field(min_length=1)]
    temperatures_K: list[Temperature] | None = None
    stride: Count = 1
    split: Split = Split()
    coordinate_limit_A: Positive = 1.0e4


class ForceMap(Section):
    """Aggregation of atomic forces onto beads. ridge is relative to the mean diagonal of the Gram matrix."""

    kind: Literal["optimal", "basic"] = "optimal"
    ridge: Annotated[float, Field(ge=0)] = 1.0e-2
    block_frames: Count = 64


class Walls(Section):
    """Quadratic walls outside the data: angle range and force constant (kcal/mol/rad², ½k form)."""

    angle_low_deg: Annotated[float, Field(gt=0, lt=180)] = 75.0
    angle_high_deg: Annotated[float, Field(gt=0, lt=180)] = 160.0
    angle_k: Positive = 100.0


class Repulsion(Section):
    """Shifted C¹ (σ/r)^n between beads at least min_separation apart along the chain."""

    epsilon_kcal_mol: Positive = 1.0
    exponent: Count = 12
    cutoff_A: Positive = 6.5
    sigma_min_A: Positive = 3.6
    sigma_max_A: Positive = 4.2
    quantile: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    min_separation: Annotated[int, Field(ge=3)] = 3


class PriorSimulation(Section):
    """The prior-only Langevin run that is reported with the priors."""

    duration_ps: Positive = 20.0
    timestep_fs: Positive = 4.0
    friction_per_ps: Positive = 1.0
    replicas: Count = 8


class Priors(Section):
    """Boltzmann-inverted priors. temperature_K: only frames at this temperature are inverted."""

    temperature_K: Temperature | None = None
    shrinkage_frames: Annotated[float, Field(ge=0)] = 300.0
    angle_knots: Annotated[int, Field(ge=5)] = 24
    dihedral_harmonics: Annotated[int, Field(ge=1, le=6)] = 3
    smoothing: Annotated[float, Field(ge=0)] = 1.0
    walls: Walls = Walls()
    repulsion: Repulsion = Repulsion()
    simulation: PriorSimulation = PriorSimulation()
    seed: Annotated[int, Field(ge=0)] = 0


class Model(Section):
    """The network on top of the priors; `none` is priors alone."""

    name: Literal["allegro", "none"]
    cutoff_A: Annotated[float, Field(ge=4, le=30)]
    channels: Count = 32
    hidden: Count = 64
    layers: Annotated[int, Field(ge=1, le=4)] = 2
    l_max: Annotated[int, Field(ge=0, le=3)] = 2
    n_bessel: Count = 16
    envelope_p: Annotated[int, Field(ge=2)] = 6
    parity: Literal["o3", "so3"] = "so3"


class Train(Section):
    """Force matching. batch_beads: beads in one packed batch; learning_rate: peak of warm-up and cosine."""

    epochs: Count
    batch_beads: Annotated[int, Field(ge=8)] = 400
    seed: Annotated[int, Field(ge=0)] = 0
    learning_rate: Positive = 2.0e-3
    warmup_fraction: Fraction = 0.05
    clip_norm: Positive = 10.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decoy_fraction: Fraction = 0.1
    decoy_noise_A: Positive = 0.5
    decoy_weight: Annotated[float, Field(ge=0)] = 0.1
    checkpoint_every_epochs: Count = 1
    keep_checkpoints: Count = 2


class Criteria(Section):
    """When a replica counts as failed (design: first failure kept, replica frozen). Å, kcal/mol/Å."""

    bond_deviation_A: Positive = 0.6
    second_neighbor_min_A: Positive = 3.8
    overlap_min_A: Positive = 2.8
    overlap_separation: Annotated[int, Field(ge=3)] = 3
    max_force_kcal_mol_A: Positive = 300.0
    max_kinetic_kT: Positive = 20.0
    size_limits: bool = True


class Sim(Section):
    """MD of many replicas by BAOAB Langevin; every value of the physics is stated by the user."""

    temperature_K: Temperature
    timestep_fs: Annotated[float, Field(gt=0, le=50)]
    friction_per_ps: Positive
    replicas: Count
    duration_ps: Positive
    save_every_ps: Positive = 0.5
    seed: Annotated[int, Field(ge=0)] = 0
    start: Literal["reference", "extended"] = "reference"
    domains: list[str] | None = None
    format: Literal["dcd", "xtc"] = "dcd"
    criteria: Criteria = Criteria()

    @model_validator(mode="after")
    def _step_fits(self) -> "Sim":
        if self.save_every_ps > self.duration_ps:
            raise ValueError(
                f"save_every_ps {self.save_every_ps} is longer than duration_ps {self.duration_ps}"
            )
        if self.timestep_fs > 1000.0 * self.save_every_ps:
            raise ValueError(
                f"timestep_fs {self.timestep_fs} is longer than save_every_ps {self.save_every_ps}"
            )
        return self


class Observables(Section):
    """Grids of the observables that are compared with the reference."""

    bond_width_A: Positive = 0.02
    angle_width_deg: Positive = 2.5
    dihedral_width_deg: Positive = 5.0
    distance_width_A: Positive = 0.2
    distance_max_A: Positive = 20.0
    contact_A: Positive = 8.0
    contact_min_separation: Annotated[int, Field(ge=3)] = 4
    rg_width_A: Positive = 0.25
    discard_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Audit(Section):
    """Verdict limits, and the short NVE run that measures energy drift."""

    max_unstable_fraction: Fraction = 0.05
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    nve_duration_ps: Positive = 5.0
    nve_timestep_fs: Positive = 1.0
    nve_replicas: Count = 4
    max_temperature_error_fraction: Positive = 0.05


class Export(Section):
    """The bundle. domain: which protein the LAMMPS files are made for (default: the first one)."""

    domain: str | None = None
    reference_frames: Count = 5
    edge_headroom: Annotated[float, Field(ge=1)] = 2.0
    stablehlo_target: str = "1.7.0"


class Lammps(Section):
    """The run of the exported bundle in LAMMPS, and its force checks against JAX."""

    steps: Annotated[int, Field(ge=1)] = 2000
    timestep_fs: Positive = 2.0
    temperature_K: Temperature | None = None
    friction_per_ps: Positive = 1.0
    sort_every: Count = 10
    sort_bin_A: Positive = 3.0
    ranks: Count = 1
    max_force_error_kcal_mol_A: Positive = 1.0e-3
    seed: Count = 20261


class Config(Section):
    """All sections. A stage that needs a section which is not given says so."""

    data: Data | None = None
    force_map: ForceMap = ForceMap()
    priors: Priors = Priors()
    model: Model | None = None
    train: Train | None = None
    sim: Sim | None = None
    observables: Observables = Observables()
    audit: Audit = Audit()
    export: Export = Export()
    lammps: Lammps = Lammps()
