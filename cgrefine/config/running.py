"""Sections of the configuration that are about what is done with a model: MD, audit, export, ablation."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from cgrefine.config.base import Count, Fraction, Positive, Section, Temperature


class Criteria(Section):
    """When a replica counts as failed (design: first failure kept, replica frozen). Å, kcal/mol/Å."""

    bond_deviation_A: Positive = 0.6
    second_neighbor_min_A: Positive = 3.8
    overlap_min_A: Positive = 2.8
    overlap_separation: Annotated[int, Field(ge=3)] = 3
    max_force_kcal_mol_A: Positive = 300.0
    max_kinetic_kT: Positive = 20.0
    size_limits: bool = True


class NoseHoover(Section):
    """One Nosé-Hoover chain a replica; suzuki_yoshida: number of weights."""

    relaxation_ps: Positive = 0.5
    chain: Annotated[int, Field(ge=2, le=10)] = 3
    suzuki_yoshida: Literal[1, 3, 5] = 3


class Exchange(Section):
    """Replica exchange over rising temperatures, each of a ladder's replicas at one of them.

    every_ps: None for once a saved frame; else at most that, and so many times a frame in equal parts.
    """

    temperatures_K: Annotated[list[Temperature], Field(min_length=2)]
    every_ps: Positive | None = None

    @model_validator(mode="after")
    def _temperatures_rise(self) -> "Exchange":
        if any(low >= high for low, high in zip(self.temperatures_K, self.temperatures_K[1:], strict=False)):
            raise ValueError(f"temperatures_K {self.temperatures_K}: each must be above the one before")
        return self


class Sim(Section):
    """MD of many replicas; the temperature, and the friction where there is one, are stated by the user.

    timestep_fs: None takes it from the stiffest bond, and says so. masses: those of the residues, or
    mass_g_mol for all; averages over positions do not depend on them. start_pdb: with start: pdb.
    minimize: before the run; None does so for starts that are not reference frames.
    exchange: None for none; temperature_K is one of its temperatures, the one that is observed.
    packs: that the replicas, or whole ladders of them, are divided into, more where memory asks for it; None
    is one for each device of the process that begins the run, and is kept when another goes on. A pack is a
    random stream: numbers depend on how many there are, not on the devices that share them.
    on_cluster: packs of `simulate` are tasks on `cluster`, and go on from what is written when a worker is
    lost; a signal then ends the command at once. Else they share the devices of this process.
    """

    temperature_K: Temperature
    timestep_fs: Annotated[float, Field(gt=0, le=50)] | None = None
    integrator: Literal["langevin", "nose_hoover", "nve", "brownian"] = "langevin"
    friction_per_ps: Positive | None = None
    nose_hoover: NoseHoover = NoseHoover()
    masses: Literal["residue", "uniform"] = "residue"
    mass_g_mol: Positive = 110.0
    replicas: Count
    duration_ps: Positive
    save_every_ps: Positive = 0.5
    seed: Annotated[int, Field(ge=0)] = 0
    start: Literal["reference", "extended", "pdb"] = "reference"
    start_pdb: Path | None = None
    minimize: bool | None = None
    domains: list[str] | None = None
    format: Literal["dcd", "xtc", "h5"] = "dcd"
    criteria: Criteria = Criteria()
    exchange: Exchange | None = None
    packs: Count | None = None
    on_cluster: bool = False

    @model_validator(mode="after")
    def _packs_fit(self) -> "Sim":
        ladders = self.replicas // self.rungs
        if self.packs is not None and self.packs > ladders:
            there = "replicas" if self.rungs == 1 else f"ladders of {self.rungs} replicas"
            raise ValueError(f"packs {self.packs}: there are {ladders} {there} to divide, at most one a pack")
        return self

    @model_validator(mode="after")
    def _ladders_fit(self) -> "Sim":
        if self.exchange is None:
            return self
        ladder = self.exchange.temperatures_K
        if self.integrator != "langevin":
            raise ValueError(f"exchange needs the integrator langevin, found {self.integrator}")
        if self.temperature_K not in ladder:
            raise ValueError(
                f"temperature_K {self.temperature_K} is not one of exchange.temperatures_K {ladder}"
            )
        if self.replicas % len(ladder):
            raise ValueError(f"replicas {self.replicas}: not whole ladders of {len(ladder)} temperatures")
        return self

    @property
    def rungs(self) -> int:
        """Replicas of a ladder of temperatures, 1 without exchange."""
        return 1 if self.exchange is None else len(self.exchange.temperatures_K)

    @property
    def bath_K(self) -> list[float]:
        """The temperature of each rung."""
        return [self.temperature_K] if self.exchange is None else self.exchange.temperatures_K

    @model_validator(mode="after")
    def _step_fits(self) -> "Sim":
        if self.save_every_ps > self.duration_ps:
            raise ValueError(
                f"save_every_ps {self.save_every_ps} is longer than duration_ps {self.duration_ps}"
            )
        if self.timestep_fs is not None and self.timestep_fs > 1000.0 * self.save_every_ps:
            raise ValueError(
                f"timestep_fs {self.timestep_fs} is longer than save_every_ps {self.save_every_ps}"
            )
        return self

    @model_validator(mode="after")
    def _belongs_together(self) -> "Sim":
        if self.friction_per_ps is None and self.integrator in ("langevin", "brownian"):
            raise ValueError(f"friction_per_ps is needed by the integrator {self.integrator}, and not given")
        if (self.start == "pdb") != (self.start_pdb is not None):
            raise ValueError("start: pdb and start_pdb are given together or not at all")
        return self

    @property
    def step_fs(self) -> float:
        """The time step of a section that states it, or was resolved. Raises ValueError on another."""
        if self.timestep_fs is None:
            raise ValueError("the time step of this section has not been resolved")
        return self.timestep_fs


class Observables(Section):
    """Grids of the observables that are compared with the reference, and what is computed of them.

    separations: k of the distances i,i+k. q_*: β and λ of the fraction of native contacts. Native is the
    first frame of the first run at the lowest temperature of the data. per_residue: bonds, angles and
    dihedrals one by one. neighbor_angle_cutoff_A: also angles between neighbours in space (n³ triples).
    bootstrap_draws: of standard errors. floor_splits: most ways to halve the reference. surface_bins: of each
    axis of a free-energy surface (0: none). tica_lag_frames: lag in frames of the reference (default: no
    TICA). diffusion_fit_ps: lags between which the model's D is fitted (default: no D).
    """

    bond_width_A: Positive = 0.02
    angle_width_deg: Positive = 2.5
    dihedral_width_deg: Positive = 5.0
    distance_width_A: Positive = 0.2
    distance_max_A: Positive = 20.0
    separations: list[Annotated[int, Field(ge=2)]] = [2, 3, 4]
    contact_A: Positive = 8.0
    contact_min_separation: Annotated[int, Field(ge=3)] = 4
    q_steepness_per_A: Positive = 5.0
    q_tolerance: Annotated[float, Field(ge=1)] = 1.2
    q_width: Annotated[float, Field(gt=0, le=1)] = 0.02
    rg_width_A: Positive = 0.25
    per_residue: bool = False
    neighbor_angle_cutoff_A: Positive | None = None
    discard_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    bootstrap_draws: Annotated[int, Field(ge=20)] = 200
    floor_splits: Count = 50
    surface_bins: Annotated[int, Field(ge=0)] = 30
    tica_lag_frames: Count | None = None
    diffusion_fit_ps: tuple[Positive, Positive] | None = None

    @model_validator(mode="after")
    def _lags_ascend(self) -> "Observables":
        if self.diffusion_fit_ps is not None and self.diffusion_fit_ps[0] >= self.diffusion_fit_ps[1]:
            raise ValueError(f"diffusion_fit_ps {list(self.diffusion_fit_ps)}: the first must be the smaller")
        return self


Check = Literal[
    "conservation",
    "scaling",
    "timesteps",
    "temperatures",
    "configurational",
    "holes",
    "mirror",
    "unusual",
    "observables",
]
"""Checks of the audit besides survival and kinetic temperature."""


class Unusual(Section):
    """When a saved frame is unusual, though no criterion fails it: the looser of this and of the reference.

    size_range: of the smallest and largest Rg of the reference. force_ratio: of the 99.99 % quantile of the
    model's forces on reference frames. temperature_errors: k of T > T₀ (1 + k √(2/3n)). energy_sigmas: of the
    energy a bead, in standard deviations over reference frames; fatal_energy_sigmas fail the verdict. frames:
    of a replica, whose energies are looked at. max_fraction: of unusual frames, a warning above it.
    """

    bond_deviation_A: Positive = 0.35
    second_neighbor_min_A: Positive = 4.3
    overlap_min_A: Positive = 3.5
    size_range: tuple[Positive, Positive] = (0.85, 1.3)
    force_ratio: Positive = 3.0
    temperature_errors: Positive = 5.0
    energy_sigmas: Positive = 5.0
    fatal_energy_sigmas: Positive = 15.0
    frames: Count = 20
    max_fraction: Fraction = 0.01


class Audit(Section):
    """The verdict and its checks, each of which can be left out of `checks`.

    A model is stable when at most max_unstable_fraction of its replicas fail, and unstable when more than
    healthy_unstable_fraction do; false_alarm is the chance that a healthy model fails the verdict, over all
    of its statistical checks. undecided_fails: too few replicas to tell counts as a failure.
    calibrate: with --model, criteria that the reference breaks are loosened to what it does.
    Checks: conservation (NVE drift), scaling (its energy error against dt²), timesteps and temperatures
    (short runs at multiples of those of `sim`), configurational (temperature), holes (perturbed reference
    frames), mirror (images of reference frames), unusual (saved frames against `unusual`), observables.
    max_floor_ratio: an observable is warned of when it is further from the reference than so many times its
    noise floor (two halves of the reference), and than negligible_jensen_shannon (histograms, nats) or
    negligible_difference (contacts, secondary structure: probability; RMSF: Å).
    max_disagreement_ratio: of an ensemble's forces, simulated over validation frames, before a warning.
    """

    max_unstable_fraction: Fraction = 0.05
    healthy_unstable_fraction: Fraction = 0.001
    undecided_fails: bool = False
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    false_alarm: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    calibrate: bool = True
    checks: list[Check] = list(get_args(Check))
    nve_duration_ps: Positive = 2.0
    nve_timestep_fs: Positive = 1.0
    nve_replicas: Count = 4
    max_nve_drift_kcal_mol_ns_bead: Positive = 0.5
    scaling_duration_ps: Positive = 0.5
    scaling_factors: Annotated[list[Positive], Field(min_length=2)] = [1.0, 2.0, 4.0]
    min_scaling_order: Positive = 1.5
    scan_duration_ps: Positive = 2.0
    scan_replicas: Count = 4
    timestep_factors: Annotated[list[Positive], Field(min_length=1)] = [0.5, 1.0, 2.0]
    temperature_factors: Annotated[list[Positive], Field(min_length=1)] = [1.0, 1.25, 1.5]
    max_temperature_error_fraction: Positive = 0.05
    configurational_frames: Count = 20
    max_configurational_error_fraction: Positive = 0.1
    hole_domains: Count = 4
    hole_frames: Count = 3
    hole_paths: Count = 300
    hole_barrier_kT: Positive = 25.0
    hole_margin_kT: Positive = 10.0
    mirror_frames: Annotated[int, Field(ge=2)] = 64
    require_handedness: bool = False
    max_disagreement_ratio: Positive = 2.0
    unusual: Unusual = Unusual()
    max_floor_ratio: Positive = 3.0
    negligible_jensen_shannon: Positive = 0.02
    negligible_difference: Positive = 0.05


class Export(Section):
    """The bundle. domain: protein of the reference frames and LAMMPS files (default: the first one).

    temperature_K: of a network that is conditioned on temperature (default: that of sim). zip: write it as
    bundle.zip besides. stablehlo_target: oldest version of StableHLO that is to read the network.
    chemtrain_deploy: files for LAMMPS with the plugin of chemtrain besides, where the model has a network.
    lammps_jax: platform of a bundle for the pair style of lammps-jax besides (default: no such bundle), with
    room for lammps_jax_beads and lammps_jax_edges in a domain with its ghosts (default: for twice the beads
    of the reference frames).
    """

    domain: str | None = None
    temperature_K: Temperature | None = None
    reference_frames: Count = 5
    zip: bool = False
    stablehlo_target: str = "1.7.0"
    chemtrain_deploy: bool = True
    lammps_jax: Literal["cpu", "cuda"] | None = None
    lammps_jax_beads: Count | None = None
    lammps_jax_edges: Count | None = None


class Lammps(Section):
    """The run of the exported bundle in LAMMPS, and its force checks against JAX.

    ensemble: langevin, nvt (Nosé-Hoover chains with the period 1/friction) or nve. boundary: periodic in the
    box of the data file. minimize: largest number of steps before the dynamics. restart: file of an earlier
    run to go on from; a new one is written at the end, and every restart_every steps (0: only then).
    save_every: steps between frames of the trajectory and lines of the series (0: none). replicas: that run
    at once, as partitions of one LAMMPS. ranks: more than 1 for another run that is shared by processes.
    """

    steps: Annotated[int, Field(ge=1)] = 2000
    timestep_fs: Positive = 2.0
    temperature_K: Temperature | None = None
    ensemble: Literal["langevin", "nvt", "nve"] = "langevin"
    friction_per_ps: Positive = 1.0
    boundary: Literal["free", "periodic"] = "free"
    minimize: Annotated[int, Field(ge=0)] = 0
    restart: Path | None = None
    restart_every: Annotated[int, Field(ge=0)] = 0
    save_every: Annotated[int, Field(ge=0)] = 100
    sort_every: Count = 10
    sort_bin_A: Positive = 3.0
    replicas: Count = 1
    ranks: Count = 1
    max_force_error_kcal_mol_A: Positive = 1.0e-3
    seed: Count = 20261


class Ablate(Section):
    """Priors alone, network alone, and both: trained and simulated once for each seed.

    loss_target: validation force MSE, (kcal/mol/Å)², to which epochs are counted (None: 1.02 times the best
    of the full model's median seed).
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=3)] = [0, 1, 2]
    variants: Annotated[list[Literal["priors", "network", "both"]], Field(min_length=1)] = [
        "priors",
        "network",
        "both",
    ]
    loss_target: Positive | None = None
