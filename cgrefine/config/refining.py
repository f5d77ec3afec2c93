"""The section `refine` of the configuration."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cgrefine.config.base import Count, Fraction, Positive, Section
from cgrefine.config.running import Unusual

Mode = Literal["refine", "stable", "difftre", "relative_entropy"]

NotNegative = Annotated[float, Field(ge=0)]

MODES: dict[str, dict[str, Any]] = {
    "refine": {},
    "stable": {
        "relative_entropy": 0.0,
        "strain_weight": 0.0,
        "targets": [{"observable": "P(r)", "kind": "mse"}],
        "product": "minibatch",
        "centring": "all",
        "negative_weight": 0.0,
        "guard_ps": 0.05,
        "burn_in_fraction": 0.0,
        "restart": "tripped",
        "leave_failed": 0.0,
        "updates_per_window": 1,
        "max_spread": None,
        "min_signal": None,
        "reject_sigmas": None,
        "optimizer": "sgd",
        "learning_rate": 1.0e-3,
        "clip_norm": 1.0,
        "plateau_epochs": 3,
        "forces": {"combine": "weighted", "weight": 10.0, "control_variate": False},
    },
    "difftre": {
        "relative_entropy": 0.0,
        "strain_weight": 0.0,
        "targets": [{"observable": "P(r)", "kind": "mse"}],
        "centring": "all",
        "product": "whole",
        "negative_weight": 0.0,
        "cycles": 1,
        "explore_windows": 0,
        "leave_failed": None,
        "updates_per_window": 10,
        "max_spread": None,
        "min_signal": None,
        "reject_sigmas": None,
        "forces": {"combine": "none"},
    },
    "relative_entropy": {
        "strain_weight": 0.0,
        "targets": [],
        "cycles": 1,
        "explore_windows": 0,
        "leave_failed": None,
        "forces": {"combine": "none"},
    },
}
"""What other modes have instead of the defaults, which are the mode `refine`.

stable: Raja, Amin, Pedregosa & Krishnapriyan, TMLR 2025 (arXiv:2402.13984). difftre: Thaler & Zavadlav, Nat.
Commun. 12, 6884 (2021). relative_entropy: Thaler, Stupp & Zavadlav, J. Chem. Phys. 157, 244103 (2022).
"""


class RefineTarget(Section):
    """What the mean of an observable is to be: that of the reference, or of a file.

    observable: a name of `observables`. kind: of loss, see `boltzmann.targets`. file: JSON with `unit`,
    `mean` and, if known, `stderr`, in the shape of the observable (for one protein: with `domain`); of a
    histogram also `low` and `high` of its grid. weight: in the sum of losses, each of which is about 1 at its
    noise floor.
    """

    observable: str
    kind: Literal["noise", "cdf", "jensen_shannon", "kullback_leibler", "bernoulli", "mse", "at_most"] = "cdf"
    weight: Positive = 1.0
    file: Path | None = None
    domain: str | None = None

    @model_validator(mode="after")
    def _file_has_a_domain(self) -> "RefineTarget":
        if self.domain is not None and self.file is None:
            raise ValueError("domain is of a target from a file")
        return self


class Forces(Section):
    """How force matching holds the refined model, and what a minibatch of it is.

    combine: constraint: the loss may be (1 + tolerance) of that of the start, with a multiplier that grows by
    multiplier_rate while it is more; projection: observables never act against forces (one-sided PCGrad),
    and have `weight` of their size; weighted: `weight` times the gradient of the loss is added as it is;
    none.
    control_variate: the minibatch's gradient at the start is exchanged for the mean one (SVRG).
    held_out_frames: validation frames whose error is measured after each window; max_growth: of it in one
    epoch, beyond which the epoch is taken back.
    """

    combine: Literal["constraint", "projection", "weighted", "none"] = "constraint"
    tolerance: Positive = 0.03
    weight: Positive = 1.0
    multiplier_rate: Positive = 0.2
    batch_beads: Count = 1000
    control_variate: bool = True
    mean_frames: Count = 500
    held_out_frames: Count = 300
    max_growth: Positive = 0.02


class Evaluation(Section):
    """The judgement of the start, the refined model and the control: replicas from validation frames, none of
    which the refinement started from, by the criteria of `sim`. control: the same number of updates by forces
    alone, beside the refinement. held_out: observables that are no targets, and are reported as such.
    """

    replicas: Count = 64
    duration_ps: Positive = 20.0
    control: bool = True
    held_out: list[str] = ["Rg", "i,i+4"]


class Refine(Section):
    """Refinement of a trained model in simulation: temperature, integrator, time step, criteria and proteins
    are those of `sim`.

    mode: the values of fields that are not given, see MODES. replicas: in all, spread over the proteins.
    Windows of window_ps are simulated. Exploring: until enter_failed of the replicas have failed once
    (then learn), or explore_windows passed (0: learn at once); with less than leave_failed failed by then it
    ends, else it learns. Learning: an epoch is a window and up to updates_per_window updates; it ends with a
    window in which at most leave_failed fail (None: never so), or after `epochs`, the last of which judges
    the one before alone. `cycles` of both.
    A replica that failed goes back to an earlier healthy state of its own (earlier_fraction of the cases, out
    of `depth` kept) or to the last frame guard_ps before its failure; random_reset of the healthy ones go
    back too. restart tripped: each epoch of a learn phase begins where its cycle's last window of exploring
    began.
    Frames: saved every save_every_ps, the first burn_in_fraction left out, and those within guard_ps before a
    failure; the failed states themselves count as negative_weight frames each. keep_windows: pooled by their
    mixture. min_kish: of their effective number at the first update of a window, below which frames are not
    used any more; max_spread: of the change of U/kT in an update, which is scaled down to it (None: never);
    min_signal: cosine between the gradients of half the replicas each, below which an update goes by forces
    alone (None: never). reject_sigmas: when more replicas fail than in the best window of the phase, by so
    many standard errors, its parameters are taken up again and the rate is halved; the phase also ends with
    them (None: never).
    Losses: relative_entropy (weight, reference_frames of it a window), targets, strain_weight (bonds, second
    neighbours and overlaps beyond the thresholds of `warn`, at most as in the reference), anchor (weight of
    the divergence from the start on reference frames). product: whole; split: residual and covariance from
    different halves of the replicas; minibatch: of minibatch_frames, as published. centring: of covariances.
    terms: of the energy, that are refined (None: the network if there is one, else all).
    The packs of `sim` (at most one a replica) are streams of noise here too, in which windows and judgement
    run.
    """

    mode: Mode = "refine"
    replicas: Count = 64
    window_ps: Positive = 2.0
    save_every_ps: Positive = 0.1
    burn_in_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    cycles: Count = 3
    explore_windows: Annotated[int, Field(ge=0)] = 10
    epochs: Annotated[int, Field(ge=2)] = 20
    updates_per_window: Count = 5
    keep_windows: Count = 1
    enter_failed: Annotated[float, Field(gt=0, le=1)] = 0.75
    leave_failed: Annotated[float, Field(ge=0, le=1)] | None = 0.02
    restart: Literal["pool", "tripped"] = "pool"
    earlier_fraction: Fraction = 0.5
    random_reset: Fraction = 0.05
    depth: Count = 10
    guard_ps: NotNegative = 0.0
    relative_entropy: NotNegative = 1.0
    reference_frames: Annotated[int, Field(ge=2)] = 256
    targets: list[RefineTarget] = [
        RefineTarget(observable="P(r)", weight=0.1),
        RefineTarget(observable="angle", weight=0.1),
    ]
    strain_weight: NotNegative = 300.0
    warn: Unusual = Unusual()
    anchor: NotNegative = 0.0
    product: Literal["whole", "split", "minibatch"] = "split"
    minibatch_frames: Annotated[int, Field(ge=2)] = 40
    centring: Literal["replica", "all"] = "replica"
    negative_weight: NotNegative = 10.0
    min_kish: Fraction = 0.7
    max_spread: Positive | None = 0.5
    min_signal: Annotated[float, Field(ge=-1, le=1)] | None = 0.2
    reject_sigmas: Positive | None = 2.0
    optimizer: Literal["adam", "sgd", "momentum"] = "adam"
    learning_rate: Positive = 2.0e-3
    clip_norm: Positive | None = None
    plateau_epochs: Count | None = None
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.2
    min_rate_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.04
    forces: Forces = Forces()
    terms: Annotated[list[str], Field(min_length=1)] | None = None
    evaluation: Evaluation = Evaluation()
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _of_mode(cls, given: Any) -> Any:
        """A field that is given wins over the mode; of `forces` each of its fields."""
        if not isinstance(given, dict):
            return given
        usual = MODES.get(str(given.get("mode")), {})
        merged = {**usual, **given}
        if isinstance(given.get("forces"), dict):
            merged["forces"] = {**usual.get("forces", {}), **given["forces"]}
        return merged

    @model_validator(mode="after")
    def _windows_fit(self) -> "Refine":
        if self.save_every_ps > self.window_ps / 2:
            raise ValueError(
                f"save_every_ps {self.save_every_ps} leaves fewer than two frames in a window of "
                f"{self.window_ps} ps"
            )
        if self.restart == "tripped" and self.explore_windows == 0:
            raise ValueError("restart: tripped needs a phase of exploring; explore_windows is 0")
        return self

    @model_validator(mode="after")
    def _learns_something(self) -> "Refine":
        if not (self.relative_entropy or self.targets or self.strain_weight):
            raise ValueError("nothing to learn from: relative_entropy, targets and strain_weight are all 0")
        if self.product == "minibatch" and self.keep_windows > 1:
            raise ValueError("product: minibatch takes frames of one window; keep_windows must be 1")
        return self
