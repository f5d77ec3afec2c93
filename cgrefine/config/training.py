"""Sections of the configuration that are about the network and its training."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cgrefine.config.base import Count, Fraction, Positive, Section

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
    by a rule: inverse_variance of the training forces less those of the priors, inverse_temperature; rules
    have a mean of 1. The best epoch is that of the lowest error with every bead counted alike.
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
