"""The section `priors` of the configuration."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cgrefine.config.base import Count, Fraction, Positive, Section, Temperature

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
    """Walls outside the data: angle range, force constant (kcal/mol/rad², ½k form), and over how many degrees
    the curvature rises to it."""

    angle_low_deg: Annotated[float, Field(gt=0, lt=180)] = 75.0
    angle_high_deg: Annotated[float, Field(gt=0, lt=180)] = 160.0
    angle_k: Positive = 100.0
    angle_ramp_deg: Positive = 2.0


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
    """Repulsion of beads at least min_separation apart: power is ε (σ/r)^n, shifted to be C² at cutoff_A;
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
    """ε (σ/r)^n, shifted to be C² at cutoff_A, between beads 2 to 5 apart; one σ for all species."""

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
