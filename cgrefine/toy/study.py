"""What `cgrefine toy` does with a case: points, models, simulation with and without the prior, refinement."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from cgrefine import units
from cgrefine.boltzmann.refine import Info
from cgrefine.config.toy import NETWORKS, Toy, ToyCase, ToyDynamics, ToyForm, ToyRefinement
from cgrefine.energy import FieldTerm, SumOfTerms
from cgrefine.observables.compare import jensen_shannon
from cgrefine.observables.histogram import Bins, mass
from cgrefine.observables.statistics import resampled
from cgrefine.toy import models
from cgrefine.toy.dynamics import Course, run, settled
from cgrefine.toy.fitting import (
    Fit,
    Floor,
    Grid,
    Score,
    force_of,
    grid,
    mean_and_spread,
    noise_floor,
    solved,
    trained,
    trials,
)
from cgrefine.toy.potentials import EDGE_A, POTENTIALS, Y_FAR_A, Known, Truth, plane
from cgrefine.toy.refinement import (
    Agreement,
    Course1D,
    Problem,
    exact_target,
    gradient_against_quadrature,
    histogram_of_x,
    known,
    refined,
)
from cgrefine.toy.samples import Points, halves, langevin, sets, uniform

HISTOGRAM = Bins(-EDGE_A, EDGE_A, 40)
"""Of x in simulation."""

GROUPS = 20
"""Groups of replicas whose spread is the error of a divergence."""


class Member(NamedTuple):
    """A model trained with one seed. force (g,): on the grid."""

    seed: int
    fit: Fit
    force: np.ndarray
    score: Score
    seconds: float


class Entry(NamedTuple):
    """A form and its members. mean: the score of the mean of their forces; spread (g,): standard deviation
    of their forces."""

    form: ToyForm
    members: list[Member]
    mean: Score
    spread: np.ndarray

    @property
    def seconds(self) -> float:
        """Of all members."""
        return sum(m.seconds for m in self.members)

    def worst(self, name: str) -> float:
        """The largest of a score over the members."""
        return max(getattr(m.score, name) for m in self.members)


class Simulated(NamedTuple):
    """One member in simulation. histogram (size,): of x after the burn-in, beyond the data included;

    divergence, stderr: Jensen-Shannon from the exact one, nats; escaped: share of the particles that were
    more than escape_A beyond the data in any frame; traces (f, few): x of those that went furthest.
    """

    seed: int
    histogram: np.ndarray
    divergence: float
    stderr: float
    escaped: float
    traces: np.ndarray


class CaseResult(NamedTuple):
    """One case. exact (size,): histogram of x; confined: simulations of all members with the prior; free: of
    the first without."""

    case: ToyCase
    truth: Truth
    points: Points
    grid: Grid
    floor: Floor
    entries: list[Entry]
    exact: np.ndarray
    confined: list[Simulated]
    free: list[Simulated]

    @property
    def simulated(self) -> Entry | None:
        """The entry that is simulated."""
        return next((e for e in self.entries if e.form == self.case.simulated), None)


class RefinementResult(NamedTuple):
    """Of the model of one half. exact_right: population of x ≥ 0; truth, before, after: by quadrature;

    agreement: of the gradient at the start.
    """

    course: Course1D
    exact_right: float
    truth: Known
    before: Known
    after: Known
    agreement: Agreement

    @property
    def gain(self) -> float:
        """By how much the error of the population has fallen."""
        start, end = np.abs(self.course.right[[0, -1]] - self.exact_right)
        return float(start / end)


Say = Callable[[str], None]


def course_of(cfg: ToyDynamics) -> Course:
    """In internal units."""
    return Course(
        replicas=cfg.replicas,
        dt=units.from_fs(cfg.timestep_fs),
        friction=units.from_per_ps(cfg.friction_per_ps),
        mass=cfg.mass_g_mol,
        duration=units.from_fs(1000.0 * cfg.duration_ps),
        interval=units.from_fs(1000.0 * cfg.save_every_ps),
        burn_in=cfg.burn_in_fraction,
    )


def truth_of(case: ToyCase, cfg: Toy) -> Truth:
    """y is averaged over the square for uniform points, over all of it for those of dynamics."""
    reach = EDGE_A if case.sampling == "uniform" else Y_FAR_A
    return Truth(POTENTIALS[case.potential], cfg.kT_kcal_mol, reach)


def points_of(case: ToyCase, cfg: Toy) -> Points:
    """Drawn with cfg.seed. Raises ValueError when dynamics give too few."""
    potential, kT = POTENTIALS[case.potential], cfg.kT_kcal_mol
    if case.sampling_kT_kcal_mol is None:
        return uniform(potential, kT, case.points, cfg.seed)
    course = course_of(cfg.dynamics)
    return langevin(potential, kT, case.sampling_kT_kcal_mol, case.points, course, cfg.seed)


def term_of(form: ToyForm, cfg: Toy) -> FieldTerm:
    """The network of this form."""
    if form == "direct":
        return models.direct("tanh", cfg.hidden)
    if form == "fourier":
        return models.network("silu", cfg.fourier_hidden, cfg.harmonics)
    return models.network(form, cfg.hidden)


def studied(case: ToyCase, cfg: Toy, say: Say) -> CaseResult:
    """All models of a case, and simulations of one of them."""
    truth, points = truth_of(case, cfg), points_of(case, cfg)
    at, data = grid(truth), sets(points)
    linear = {form: trials(form, points, at.x) for form in {"spline", *case.models} & set(models.LINEAR)}

    def member(form: ToyForm, seed: int) -> Member:
        begin = time.perf_counter()
        if form in NETWORKS:
            settings = cfg.train.model_copy(update={"seed": seed})
            fit = trained(term_of(form, cfg), data, settings, cfg.wall_kcal_mol_A2)
        else:
            fit = solved(linear[form], points)
        force = force_of(fit.term, fit.params, at.x)
        score, seconds = at.score(force), time.perf_counter() - begin
        say(
            f"{case.name}: {form}, seed {seed}: PMF RMSE {score.pmf_rmse:.3g} kcal/mol, force error "
            f"{score.force_error:.2%} of the variance, {seconds:.0f} s"
        )
        return Member(seed, fit, force, score, seconds)

    first = cfg.train.seed
    seeds: dict[ToyForm, range] = {
        form: range(first, first + (cfg.members if form == case.simulated else 1)) for form in case.models
    }
    found = _side_by_side(cfg, [partial(member, form, seed) for form in case.models for seed in seeds[form]])
    entries = []
    for form in case.models:
        mine, found = found[: len(seeds[form])], found[len(seeds[form]) :]
        mean, spread = mean_and_spread([m.force for m in mine])
        entries.append(Entry(form, mine, at.score(mean), spread))
    floor, exact = noise_floor(linear["spline"], points, at), truth.histogram(HISTOGRAM)
    result = CaseResult(case, truth, points, at, floor, entries, exact, [], [])
    if result.simulated is None:
        return result
    members = result.simulated.members

    def in_simulation(one: Member, confined: bool) -> Simulated:
        run = simulated(one, points, exact, cfg, confined)
        prior = "with" if confined else "without"
        say(f"{case.name}: seed {one.seed} {prior} prior: divergence {run.divergence:.4f} nats")
        return run

    tasks = [partial(in_simulation, one, True) for one in members]
    *confined, free = _side_by_side(cfg, [*tasks, partial(in_simulation, members[0], False)])
    return result._replace(confined=confined, free=[free])


T = TypeVar("T")


def _side_by_side(cfg: Toy, tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Their results in order: programs for one particle leave most of a processor's cores idle."""
    with ThreadPoolExecutor(cfg.side_by_side) as threads:
        return [done.result() for done in [threads.submit(task) for task in tasks]]


def simulated(member: Member, points: Points, exact: np.ndarray, cfg: Toy, confined: bool) -> Simulated:
    """Particles from points of the data, in the learned energy, with the prior or without."""
    course = course_of(cfg.dynamics)
    rng = np.random.default_rng([cfg.seed, member.seed])
    x = points.x[rng.integers(0, len(points.x), course.replicas)]
    term, params = member.fit.term, {models.NAME: member.fit.params}
    model = SumOfTerms((term,))
    if confined:
        model = SumOfTerms((models.wall(cfg.wall_kcal_mol_A2), term))
        params |= models.wall_params(cfg.wall_kcal_mol_A2)
    frames = run(model, params, plane(x, np.zeros_like(x)), cfg.kT_kcal_mol, course, member.seed)[:, :, 0]
    later = settled(frames, course)
    groups = np.stack(
        [np.asarray(mass(part.ravel(), HISTOGRAM)) for part in np.array_split(later, GROUPS, axis=1)]
    ).astype(np.float64)
    histogram = groups.mean(axis=0)
    draws = resampled([groups], lambda p: jensen_shannon(exact, p), 100, member.seed)
    furthest = np.abs(frames).max(axis=0)
    chosen = np.argsort(furthest)[-TRACES:]
    return Simulated(
        member.seed,
        histogram,
        jensen_shannon(exact, histogram),
        float(draws.std(ddof=1)),
        float(np.mean(furthest > EDGE_A + cfg.dynamics.escape_A)),
        frames[:, chosen],
    )


TRACES = 8
"""Trajectories that are shown."""


def refinement_of(
    result: CaseResult, section: ToyRefinement, cfg: Toy, say: Callable[[Info], None]
) -> RefinementResult:
    """Train on the points left of x = 0, look at the first gradient, and refine."""
    left, _ = halves(result.points, 0.0)
    data, kT = sets(left), cfg.kT_kcal_mol
    fit = trained(term_of(section.form, cfg), data, cfg.train, cfg.wall_kcal_mol_A2)
    model = SumOfTerms((models.wall(cfg.wall_kcal_mol_A2), fit.term))
    start = {**models.wall_params(cfg.wall_kcal_mol_A2), models.NAME: fit.params}
    observable, loop = histogram_of_x(section.bins), section.loop
    target = exact_target(observable, result.truth, loop)
    problem = Problem(model, start, left, data, target, kT, loop, course_of(cfg.dynamics))
    refinement = problem.refinement()
    window = problem.simulator.window(start, refinement.starts, jax.random.key(cfg.seed))
    agreement = gradient_against_quadrature(
        problem, start, window, section.gradient_groups, refinement.choice.burn_in
    )
    course = refined(refinement, problem, say)
    return RefinementResult(
        course,
        result.truth.known.right(),
        result.truth.known,
        known(model, start, kT),
        known(model, course.params[-1], kT),
        agreement,
    )
