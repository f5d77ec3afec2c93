"""The section `toy` of the configuration: a particle in a plane, whose mean force is known."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cgrefine.config.base import Count, Positive, Section
from cgrefine.config.refining import Refine
from cgrefine.config.training import Train

ToyForm = Literal["relu", "tanh", "silu", "fourier", "direct", "spline", "features"]
NETWORKS: tuple[ToyForm, ...] = ("relu", "tanh", "silu", "fourier", "direct")
"""Forms that are trained; the others are solved for."""


class ToyCase(Section):
    """Points of one potential, and what is fitted to them.

    potential: uncoupled (forces along x do not depend on y) or coupled (they scatter about their mean).
    sampling: uniform on the square, or langevin at sampling_kT_kcal_mol; weighted for toy.kT_kcal_mol.
    models: forms, each trained once; simulated: the one of them that is trained with toy.members seeds, and
    simulated with the prior, and the first of them without.
    """

    name: str
    potential: Literal["uncoupled", "coupled"]
    sampling: Literal["uniform", "langevin"] = "uniform"
    sampling_kT_kcal_mol: Positive | None = None
    points: Annotated[int, Field(ge=1000)] = 5000
    models: Annotated[list[ToyForm], Field(min_length=1)]
    simulated: ToyForm | None = None

    @model_validator(mode="after")
    def _fits(self) -> "ToyCase":
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models {self.models}: one is named twice")
        if (self.sampling == "langevin") != (self.sampling_kT_kcal_mol is not None):
            raise ValueError("sampling_kT_kcal_mol belongs to sampling: langevin, and to nothing else")
        if self.simulated is not None and self.simulated not in self.models:
            raise ValueError(f"simulated {self.simulated!r} is not one of the models {self.models}")
        if self.simulated in ("direct", "spline", "features"):
            raise ValueError(f"simulated {self.simulated!r}: must be an energy network")
        return self


class ToyDynamics(Section):
    """Langevin dynamics of the particles. The first burn_in_fraction of the frames is left out.

    escape_A: so far beyond the data a particle has left the domain.
    """

    replicas: Annotated[int, Field(ge=20)] = 300
    mass_g_mol: Positive = 1.0
    timestep_fs: Positive = 2.5
    friction_per_ps: Positive = 10.0
    duration_ps: Positive = 8.0
    save_every_ps: Positive = 0.2
    burn_in_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.5
    escape_A: Positive = 1.0

    @model_validator(mode="after")
    def _step_fits(self) -> "ToyDynamics":
        if not self.timestep_fs / 1000.0 <= self.save_every_ps <= self.duration_ps:
            raise ValueError(
                f"save_every_ps {self.save_every_ps}: must be from a time step to duration_ps, "
                f"{self.duration_ps}"
            )
        return self


class ToyRefinement(Section):
    """A network of this form, fitted to the points of `case` left of x = 0, and corrected against the exact
    histogram of x.

    bins: of the histogram. loop: the section `refine` of the loop, with x as its one target.
    gradient_groups: independent groups of replicas whose spread is the error of the estimated gradient.
    """

    case: str
    form: Literal["tanh", "silu"] = "silu"
    bins: Annotated[int, Field(ge=4)] = 40
    gradient_groups: Annotated[int, Field(ge=8)] = 20
    loop: Refine

    @model_validator(mode="after")
    def _target_is_x(self) -> "ToyRefinement":
        if [t.observable for t in self.loop.targets] != ["x"] or self.loop.targets[0].file is not None:
            raise ValueError("loop.targets: must be one, the observable x, and from no file")
        if self.loop.strain_weight > 0.0:
            raise ValueError("loop.strain_weight: a particle has no strain, set it to 0")
        return self


class Toy(Section):
    """The smallest system: see docs/tutorial.md. Energies in kcal/mol, so that kT_kcal_mol: 1 is 503 K.

    hidden: widths of the layers of relu, tanh, silu and direct; fourier_hidden, harmonics: of fourier.
    members: seeds of the simulated model, from train.seed on. side_by_side: fits, and then simulations, that
    run at a time, as threads: numbers do not depend on it. wall_kcal_mol_A2: of the confining prior.
    """

    kT_kcal_mol: Positive = 1.0
    seed: Annotated[int, Field(ge=0)] = 0
    cases: Annotated[list[ToyCase], Field(min_length=1)]
    members: Count = 3
    side_by_side: Count = 2
    hidden: Annotated[list[Count], Field(min_length=1)] = [64, 64]
    fourier_hidden: Annotated[list[Count], Field(min_length=1)] = [32]
    harmonics: Count = 130
    wall_kcal_mol_A2: Positive = 50.0
    train: Train
    dynamics: ToyDynamics = ToyDynamics()
    refinement: ToyRefinement | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> "Toy":
        names = [case.name for case in self.cases]
        if len(set(names)) < len(names):
            raise ValueError(f"cases {names}: each needs a name of its own")
        if self.refinement is not None and self.refinement.case not in names:
            raise ValueError(f"refinement.case {self.refinement.case!r}: choose from {', '.join(names)}")
        if self.train.decoy_fraction > 0.0:
            raise ValueError("train.decoy_fraction: a particle has no decoys, set it to 0")
        return self
