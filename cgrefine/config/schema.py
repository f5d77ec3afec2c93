"""The whole configuration: one frozen model a section, extra keys forbidden, defaults here and nowhere else.

A value that changes the physics (temperature, cutoff, time step) has no default: the user states it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(ge=1, le=2000, description="K")]


class Section(BaseModel):
    """A frozen section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


Scheme = Literal["global", "class", "type"]
Harmonics = Annotated[int, Field(ge=1, le=6)]
Knots = Annotated[int, Field(ge=5, le=200)]


class BondPrior(Section):
    """½ k (r - r0)². classes: see fm.priors.classes; bonds that are cis in the reference have their own row.

    cis_r0_A: of the cis row as long as the data hold no cis bond.
    """

    form: Literal["harmonic"] = "harmonic"
    classes: Scheme = "class"
    cis_r0_A: Positive = 2.95


class Walls(Section):
    """Quadratic walls outside the data: angle range and force constant (kcal/mol/rad², ½k form)."""

    angle_low_deg: Annotated[float, Field(gt=0, lt=180)] = 75.0
    angle_high_deg: Annotated[float, Field(gt=0, lt=180)] = 160.0
    angle_k: Positive = 100.0


class AnglePrior(Section):
    """Cα angles. spline: penalised cubic B-spline of the log-density; polynomial: in cos θ; fourier: cos and
    sin of nθ; harmonic: ½ k (θ - θ0)². All but the last go on as walls outside the data.

    knots, smoothing: of the spline; degree: of the polynomial; harmonics: of the Fourier series.
    """

    form: Literal["spline", "polynomial", "fourier", "harmonic"] = "spline"
    classes: Scheme = "class"
    knots: Knots = 24
    smoothing: Annotated[float, Field(ge=0)] = 1.0
    degree: Annotated[int, Field(ge=1, le=8)] = 5
    harmonics: Harmonics = 4
    walls: Walls = Walls()


class DihedralPrior(Section):
    """Cα dihedrals, IUPAC sign. fourier: cos and sin; periodic_sum: k (1 + cos(nφ - γ)); spline: periodic.

    harmonics: the number of them, or the largest one when `choice` is aic (the number with the least AIC).
    damping_from_deg: from this angle up to 180° the dihedral is switched off, so that straight angles have
    no torque (None: no damping).
    """

    form: Literal["fourier", "periodic_sum", "spline"] = "fourier"
    classes: Scheme = "class"
    harmonics: Harmonics = 6
    choice: Literal["aic", "fixed"] = "aic"
    knots: Knots = 24
    smoothing: Annotated[float, Field(ge=0)] = 1.0
    damping_from_deg: Annotated[float, Field(ge=120, lt=180)] | None = 150.0


class Repulsion(Section):
    """Repulsion of beads at least min_separation apart: power is ε (σ/r)^n, shifted to be C¹ at cutoff_A;
    wca is 4ε [(σ/r)¹² - (σ/r)⁶] + ε up to its minimum.

    σ of each pair of species is a low quantile of their contact distances, within the limits.
    """

    form: Literal["power", "wca"] = "power"
    epsilon_kcal_mol: Positive = 1.0
    exponent: Count = 12
    cutoff_A: Positive = 6.5
    sigma_min_A: Positive = 3.6
    sigma_max_A: Positive = 4.2
    quantile: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    min_separation: Annotated[int, Field(ge=3)] = 3


class ExcludedVolume(Section):
    """ε (σ/r)^n, shifted to be C¹ at cutoff_A, between beads 2 to 5 apart; one σ for all species."""

    epsilon_kcal_mol: Positive = 1.0
    sigma_A: Positive = 3.8
    exponent: Count = 12
    cutoff_A: Positive = 6.5
    min_separation: Annotated[int, Field(ge=2, le=5)] = 2
    max_separation: Annotated[int, Field(ge=2, le=5)] = 5

    @model_validator(mode="after")
    def _window_fits(self) -> "ExcludedVolume":
        if self.min_separation > self.max_separation:
            raise ValueError(
                f"min_separation {self.min_separation} is above max_separation {self.max_separation}"
            )
        return self


class Electrostatics(Section):
    """Debye-Hückel between charged residues, shifted to be C¹ at cutoff_A. 8 Å is 0.15 M of salt at 300 K.

    histidine_charge: of every histidine; chain ends have no charge.
    """

    debye_length_A: Positive = 8.0
    dielectric: Positive = 78.5
    cutoff_A: Positive = 24.0
    histidine_charge: Annotated[float, Field(ge=0, le=1)] = 0.0
    min_separation: Annotated[int, Field(ge=3)] = 3


class EnergyWeights(Section):
    """The historical scheme: each term times a factor, after the fit. Not 1 is a term at T/w, and the
    ensemble is no longer that of the data: for reproducing old models only."""

    bond: Positive = 1.0
    angle: Positive = 1.0
    dihedral: Positive = 1.0
    repulsion: Positive = 1.0


class Iterate(Section):
    """Iterative Boltzmann inversion: rounds of prior-only MD, each followed by a correction of the bonded
    terms against double counting (0: none). steps: of each replica in a round."""

    rounds: Annotated[int, Field(ge=0, le=10)] = 2
    steps: Count = 20_000


class Refit(Section):
    """Force-matched refit of the prior parameters by LBFGS, with a Gaussian penalty towards the inversion.

    penalty: its strength, of one relative deviation per parameter against the mean squared force error.
    terms: which terms are refitted. Ends when the gradient norm is below `gradient_norm` after min_steps, or
    the loss has gained less than plateau_gain (relative) over plateau_steps, or at max_steps.
    """

    terms: list[Literal["bond", "angle", "dihedral", "repulsion"]] = ["bond", "angle", "dihedral"]
    penalty: Positive = 1.0e-2
    max_frames: Count = 20_000
    min_steps: Count = 10
    max_steps: Count = 300
    gradient_norm: Positive = 1.0e-5
    plateau_steps: Count = 10
    plateau_gain: Positive = 1.0e-6
    seed: Annotated[int, Field(ge=0)] = 0


class Gate(Section):
    """The prior-only Langevin run, and what the priors must satisfy before a network is trained on them.

    replicas: in all, spread over at most `domains` proteins. steps: of each replica. Limits: largest
    Kullback-Leibler divergence (nats) of a pooled marginal of this run from the reference; relative error of
    the variance of bonds; P(θ < 65°); share of bonds further than 0.35 Å from their usual length; smallest
    distance of beads three or more apart; energy of the left-handed above the right-handed helix (judged when
    at least min_helix_share of the dihedrals of the data are in helices); drift at constant energy per degree
    of freedom; largest force on reference frames; height of the walls; repulsion at 3.0 Å (at least) and
    5.5 Å (at most).
    """

    steps: Count = 1_000_000
    timestep_fs: Positive = 4.0
    friction_per_ps: Positive = 1.0
    replicas: Count = 32
    domains: Count = 4
    save_every_ps: Positive = 2.0
    min_stable_fraction: Fraction = 1.0
    max_kl_bond: Positive = 0.05
    max_kl_angle: Positive = 0.05
    max_kl_dihedral: Positive = 0.2
    max_bond_variance_error: Positive = 0.1
    max_folded_fraction: Fraction = 1.0e-4
    max_stretched_fraction: Fraction = 1.0e-3
    min_distance_A: Positive = 3.0
    min_mirror_gap_kT: float = 1.0
    min_helix_share: Fraction = 0.05
    max_nve_drift_kT_ns: Positive = 0.01
    max_reference_force: Positive = 300.0
    min_wall_kT: Positive = 10.0
    min_contact_kT: Positive = 10.0
    max_tail_kT: Positive = 0.1
    nve_duration_ps: Positive = 5.0
    nve_timestep_fs: Positive = 1.0


class Priors(Section):
    """Boltzmann-inverted priors. temperature_K: only frames at this temperature are inverted (None: the
    lowest there is). shrinkage_frames: observations at which a class is half its own, half its parent's.

    refit: force matching of the prior parameters, off when not given. bootstrap: resamplings of runs for
    the error bars.
    """

    temperature_K: Temperature | None = None
    shrinkage_frames: Annotated[float, Field(ge=0)] = 300.0
    bond: BondPrior = BondPrior()
    angle: AnglePrior = AnglePrior()
    dihedral: DihedralPrior = DihedralPrior()
    repulsion: Repulsion = Repulsion()
    excluded_volume: ExcludedVolume | None = None
    electrostatics: Electrostatics | None = None
    weights: EnergyWeights = EnergyWeights()
    iterate: Iterate = Iterate()
    refit: Refit | None = None
    bootstrap: Annotated[int, Field(ge=0)] = 50
    gate: Gate = Gate()
    seed: Annotated[int, Field(ge=0)] = 0


MODEL_SIZES: dict[str, dict[str, int]] = {
    "small": {"channels": 16, "hidden": 32, "layers": 1, "n_bessel": 8},
    "large": {"channels": 64, "hidden": 224, "layers": 3, "n_bessel": 24},
}
"""What other sizes of a model have instead of the defaults, which are the size `default`."""


class Model(Section):
    """The network on top of the priors; `none` is priors alone. priors false: the network without priors,
    which nothing keeps from flying apart (a case of `ablate`).

    size: the values of fields that are not given, see MODEL_SIZES. Allegro has 11 thousand parameters in
    the size small, 65 thousand in default and 768 thousand in large.

    products: channelwise is cheap, concatenated is the form of the Allegro paper (see fm.models.allegro).
    species_pair: edge energies are scaled by a parameter of the pair of species.
    entropy: the network's free energy is U - (T/T₀ - 1) S with U and S of the same layers, so that one model
    serves all temperatures of the data; T₀ is the temperature of the priors.
    MACE reads all fields but these two; Allegro all but l_hidden and correlation; PaiNN and SchNet hidden,
    layers, n_bessel and envelope_p. l_max: degree of the spherical harmonics; l_hidden: highest degree of the
    features that MACE hands from layer to layer, never above l_max; correlation: neighbours that one of its
    products joins. parity: so3 tells mirror images apart with two layers or more (MACE: l_hidden above 0 and
    correlation above 1 as well), o3 cannot.
    """

    name: Literal["allegro", "mace", "painn", "schnet", "none"]
    cutoff_A: Annotated[float, Field(ge=4, le=30)]
    size: Literal["small", "default", "large"] = "default"
    channels: Count = 32
    hidden: Count = 64
    layers: Annotated[int, Field(ge=1, le=4)] = 2
    l_max: Annotated[int, Field(ge=0, le=3)] = 2
    l_hidden: Annotated[int, Field(ge=0, le=3)] = 1
    correlation: Annotated[int, Field(ge=1, le=3)] = 3
    n_bessel: Count = 16
    envelope_p: Annotated[int, Field(ge=2)] = 6
    parity: Literal["o3", "so3"] = "so3"
    products: Literal["channelwise", "concatenated"] = "channelwise"
    species_pair: bool = True
    entropy: bool = False
    priors: bool = True

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, given: Any) -> Any:
        """A field that is given wins over the size."""
        if not isinstance(given, dict):
            return given
        return {**MODEL_SIZES.get(str(given.get("size")), {}), **given}


OptimizerName = Literal["adabelief", "adam", "yogi", "lion", "sgd", "polyak_sgd", "fromage"]

WITHOUT_DECAY: tuple[OptimizerName, ...] = ("polyak_sgd", "fromage")
"""Optimisers that have no place for weight decay."""


class Optimisation(Section):
    """Epochs with one optimiser. optimizer: see `fm.optimizers.optimizer`; adam with weight_decay is AdamW.

    learning_rate: the largest one. After a linear warm-up of warmup_fraction of all updates, schedule
    "cosine" goes down to final_fraction of it; "plateau" multiplies it by plateau_factor whenever the
    validation error has not fallen for plateau_epochs; "constant" keeps it.
    early_stop_epochs: the optimisation ends after so many epochs without a new lowest validation error.
    """

    epochs: Count
    optimizer: OptimizerName = "adabelief"
    learning_rate: Positive = 2.0e-3
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_fraction: Fraction = 0.05
    final_fraction: Fraction = 0.01
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    plateau_epochs: Count = 5
    early_stop_epochs: Count | None = None
    clip_norm: Positive = 10.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _decay_has_a_place(self) -> "Optimisation":
        if self.weight_decay > 0.0 and self.optimizer in WITHOUT_DECAY:
            raise ValueError(f"weight_decay {self.weight_decay:g}: {self.optimizer} has none, set it to 0")
        return self


class Denoise(Section):
    """Train on frames moved by noise_A (standard deviation of a component), for a density so smeared.

    force_share: how much of the target is the frame's force; the rest is -kT times the noise over its
    variance. See `data.loader.Noising`.
    """

    noise_A: Positive
    force_share: Fraction = 0.5


class Loss(Section):
    """The force-matching loss. huber_kcal_mol_A: a bead's error beyond it counts linearly, not squared.

    energy_weight (1/Å²): of the squared error of the energy differences among frames of one protein and
    temperature in a batch, see `fm.loss.energy_squares`; for coarse data with energies.

    residue_weights, temperature_weights: of beads by residue name, of frames by K (1 where none is given), or
    by a rule: inverse_variance of the training forces, inverse_temperature; rules have a mean of 1.
    """

    huber_kcal_mol_A: Positive | None = None
    residue_weights: dict[str, Positive] | Literal["inverse_variance"] = {}
    temperature_weights: dict[float, Positive] | Literal["inverse_variance", "inverse_temperature"] = {}
    denoise: Denoise | None = None
    energy_weight: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _energies_stay(self) -> "Loss":
        if self.energy_weight > 0.0 and self.denoise is not None:
            raise ValueError("energy_weight: denoise moves the frames, whose energies are then unknown")
        return self


class Ensemble(Section):
    """Networks with seeds train.seed, train.seed + 1, ...; the one with the lowest validation error goes on.

    save: the best alone, or all. side_by_side: as tasks of `cluster`, each with the devices that its worker
    sees; otherwise one after another, each with all devices.
    """

    members: Count = 1
    save: Literal["best", "all"] = "best"
    side_by_side: bool = False


class Train(Optimisation):
    """Force matching: one optimisation, then those of `then`, each from where the one before ended.

    batch_beads: beads in one packed batch, what a device holds at a time. batches_per_update: packed batches
    whose gradients make one update, over all devices (None: one a device); more of them than devices are
    taken one after another, which costs time but no memory.
    ema_decay: of the average of the parameters that is validated and saved; 0 is none.
    precision: of matrix products; float32 is exact on every device, the others are faster on a GPU.

    train_priors: the parameters of the priors are trained as well, held by prior_penalty times the mean
    squared relative deviation from their fit (as in Refit).
    """

    then: list[Optimisation] = []
    batch_beads: Annotated[int, Field(ge=8)] = 400
    batches_per_update: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    loss: Loss = Loss()
    decoy_fraction: Fraction = 0.1
    decoy_noise_A: Positive = 0.5
    decoy_weight: Annotated[float, Field(ge=0)] = 0.1
    checkpoint_every_epochs: Count = 1
    checkpoint_every_updates: Count = 1000
    keep_checkpoints: Count = 2
    log_every_updates: Count = 50
    ensemble: Ensemble = Ensemble()
    train_priors: bool = False
    prior_penalty: Positive = 1.0e-2

    @property
    def optimisations(self) -> tuple[Optimisation, ...]:
        """All of them, in order."""
        return (self, *self.then)

    @property
    def all_epochs(self) -> int:
        """Of all optimisations."""
        return sum(one.epochs for one in self.optimisations)


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
    """Verdict limits, and the short NVE run that measures energy drift.

    max_disagreement_ratio: of an ensemble's forces, simulated over validation frames, before a warning.
    """

    max_unstable_fraction: Fraction = 0.05
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    nve_duration_ps: Positive = 5.0
    nve_timestep_fs: Positive = 1.0
    nve_replicas: Count = 4
    max_temperature_error_fraction: Positive = 0.05
    max_disagreement_ratio: Positive = 2.0


class Export(Section):
    """The bundle. domain: which protein the LAMMPS files are made for (default: the first one).

    temperature_K: of a network that is conditioned on temperature (default: that of sim).
    """

    domain: str | None = None
    temperature_K: Temperature | None = None
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


class Config(Section):
    """All sections. A stage that needs a section which is not given says so."""

    data: Data | None = None
    force_map: ForceMap = ForceMap()
    store: Store = Store()
    cluster: Cluster = Cluster()
    loader: Loader = Loader()
    priors: Priors = Priors()
    model: Model | None = None
    train: Train | None = None
    sim: Sim | None = None
    observables: Observables = Observables()
    audit: Audit = Audit()
    export: Export = Export()
    lammps: Lammps = Lammps()
    ablate: Ablate = Ablate()
