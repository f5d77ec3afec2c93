"""LBFGS refit of the priors on the embedded sample: one optimum, and its cost beside Adam's. One JSON object.

    python scripts/bench/prior_refit.py [--starts 5] [--classes class] [--rounds 3] [--adam-steps 600]

The sample is prepared in a temporary folder and its priors are inverted there. random_starts: from inverted
values moved by one unit of z at random in every parameter (30 % of force constants, 0.05 Å or rad of places,
kT of energies), with the default settings; largest difference of the loss, relative, and of the parameters:
|θ - θ*|/|θ*| of each array, θ* from a run to a gradient of 1e-10, and largest single difference in z.

lbfgs_and_adam: from the inverted values until the loss is above the optimum by no more than a share of what
it was at the start: evaluations of loss and gradient, and seconds without compilation. Adam (full batch, one
constant rate) is run in the parameters themselves (kcal/mol, Å, rad), in z, and in the scaled u that LBFGS
works in, with every rate of --rates; the best one that gets there is taken, a choice that is not charged to
it. Ratios above what --adam-steps allows are lower bounds. Whole runs of LBFGS and stretches of ADAM_STRETCH
steps of Adam are timed in turns, medians over rounds; a part of LBFGS' cost outside its iterations, the
scaling of u by PROBES derivatives, is given as scaling_seconds and charged to it in ratio_of_seconds.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cgrefine.cli.console import Console
from cgrefine.cli.stages import run_stage
from cgrefine.config.load import parse
from cgrefine.config.priors import Priors, Refit
from cgrefine.data.store import open_dataset
from cgrefine.fm.priors.fit import FittedPriors, fit_priors
from cgrefine.fm.priors.refit import (
    Objective,
    Problem,
    Snapshot,
    Task,
    begun,
    chosen_frames,
    descent,
    ending,
    posed,
    scaled_widths,
)

ADAM_STRETCH = 50
SHARES = (1e-2, 1e-3, 1e-4)
PLACES = ("parameters", "z", "u")


def main() -> None:
    """Run both parts and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--classes", choices=("global", "class", "type"), default="class")
    parser.add_argument("--penalty", type=float, default=None, help="default: that of the configuration")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.003, 0.01, 0.03, 0.1, 0.3])
    parser.add_argument("--adam-steps", type=int, default=600, help="at most, of each rate")
    given = parser.parse_args()
    settings = Refit() if given.penalty is None else Refit(penalty=given.penalty)
    with tempfile.TemporaryDirectory() as folder:
        problem, frames = sample_problem(Path(folder), given.classes, settings)
        best = optimum(problem, settings)
        report = {
            "benchmark": "prior_refit",
            "settings": settings.model_dump(),
            "classes": given.classes,
            "frames": frames,
            "force_components": int(problem.task.full.components),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(problem.task.widths)),
            "devices": [str(device) for device in jax.devices()],
            "cpus": os.cpu_count(),
            "random_starts": random_starts(problem, settings, best, given.starts),
            "lbfgs_and_adam": compared(problem, settings, best, given),
            "load_average_at_the_end": os.getloadavg()[0],
        }
    print(json.dumps(report, indent=2))


def sample_problem(folder: Path, classes: str, settings: Refit) -> tuple[Problem, int]:
    """The refit of the inverted priors of the embedded sample, and its number of frames."""
    scheme = {kind: {"classes": classes} for kind in ("bond", "angle", "dihedral")}
    config = parse(
        {"data": {"raw": ["sample"]}, "cluster": {"kind": "inline"}, "priors": {**scheme, "bootstrap": 0}},
        "benchmark",
    )
    run_stage("prepare", config, folder, Console(quiet=True))
    dataset = open_dataset(folder / "prepare")
    fitted: FittedPriors = fit_priors(dataset, Priors.model_validate(config.priors.model_dump()))
    frames = chosen_frames(fitted.facts, dataset.domains, settings.max_frames, fitted.temperature_K)
    mesh = mesh_of()
    return posed(fitted.facts, fitted.params, frames, settings, fitted.temperature_K, mesh), len(frames)


def optimum(problem: Problem, settings: Refit) -> Snapshot:
    """The state after a run far beyond the usual end."""
    far = settings.model_copy(
        update={"gradient_norm": 1e-10, "plateau_gain": 1e-300, "max_steps": 2000, "plateau_steps": 50}
    )
    return last_of(problem, far, begun(problem, far))


def last_of(problem: Problem, settings: Refit, start: Snapshot) -> Snapshot:
    """The last state of a run."""
    return [start, *descent(problem, settings, start)][-1]


def random_starts(problem: Problem, settings: Refit, best: Snapshot, count: int) -> dict[str, Any]:
    """Runs from random z: where they end, relative to the optimum, and why."""
    reference = float(best.log[best.iteration, 0])
    runs = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        start = begun(problem, settings, jax.tree.map(lambda leaf, r=rng: r.normal(size=leaf.shape), best.u))
        last = last_of(problem, settings, start)
        rows = last.log[: last.iteration + 1]
        moved = jax.tree.map(
            lambda w, a, b: np.abs(np.asarray(w) * (a - b)).max(), problem.task.widths, last.u, best.u
        )
        runs.append(
            {
                "ended": ending(rows, settings),
                "iterations": last.iteration,
                "evaluations": int(rows[:, 5].sum()),
                "loss_at_start": float(rows[0, 0]),
                "loss_difference": abs(float(rows[-1, 0]) / reference - 1.0),
                "parameter_difference": differences(problem.params_at(last.u), problem.params_at(best.u)),
                "largest_difference_in_z": float(max(jax.tree.leaves(moved))),
            }
        )
    return {
        "loss_of_the_optimum": reference,
        "gradient_norm_of_the_optimum": float(best.log[best.iteration, 3]),
        "largest_loss_difference": max(run["loss_difference"] for run in runs),
        "largest_parameter_difference": max(run["parameter_difference"] for run in runs),
        "largest_difference_in_z": max(run["largest_difference_in_z"] for run in runs),
        "runs": runs,
    }


def differences(one: Any, other: Any) -> float:
    """Largest |θ - θ*|/|θ*| of an array of parameters."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300)) for a, b in pairs)


def compared(problem: Problem, settings: Refit, best: Snapshot, given: argparse.Namespace) -> dict[str, Any]:
    """Evaluations and seconds of both to the same losses."""
    start, far = begun(problem, settings), settings.model_copy(update={"gradient_norm": 1e-10})
    rows = last_of(problem, far.model_copy(update={"plateau_gain": 1e-300}), start).log
    bottom, excess = float(best.log[best.iteration, 0]), float(start.log[0, 0] - best.log[best.iteration, 0])
    targets = [bottom + share * excess for share in SHARES]
    lbfgs = [int(np.flatnonzero(rows[:, 0] <= target)[0]) for target in targets]
    courses = {
        (place, rate): adam_course(problem, place, rate, targets[-1], given.adam_steps)
        for place in PLACES
        for rate in given.rates
    }
    scaling_seconds, one_lbfgs, one_adam = timed(problem, settings, start, max(lbfgs), given.rounds)
    found = {}
    for share, target, steps in zip(SHARES, targets, lbfgs, strict=True):
        reached = {key: first_below(course, target) for key, course in courses.items()}
        evaluations = int(rows[: steps + 1, 5].sum())
        by_place = {}
        for place in PLACES:
            mine = {key: n for key, n in reached.items() if key[0] == place and n is not None}
            key = min(mine, key=lambda k, m=mine: m[k], default=None)
            least = mine[key] if key else given.adam_steps
            by_place[place] = {
                "rate": key and key[1],
                "reached": key is not None,
                "evaluations": least,
                "seconds": least * one_adam,
                "ratio_of_evaluations": least / evaluations,
                "ratio_of_seconds": least * one_adam / (scaling_seconds + steps * one_lbfgs),
            }
        found[f"share {share:g} of the excess left"] = {
            "loss": target,
            "lbfgs": {"iterations": steps, "evaluations": evaluations, "seconds": steps * one_lbfgs},
            "adam": by_place,
        }
    return {
        "loss_at_start": float(start.log[0, 0]),
        "loss_of_the_optimum": bottom,
        "seconds_of_an_iteration": {"lbfgs": one_lbfgs, "adam": one_adam},
        "scaling_seconds": scaling_seconds,
        **found,
    }


def first_below(losses: np.ndarray, target: float) -> int | None:
    """Evaluations until a loss of at most the target, None when it is never reached."""
    where = np.flatnonzero(losses <= target)
    return int(where[0]) + 1 if len(where) else None


@partial(jax.jit, static_argnums=(0, 1))
def stretch(objective: Objective, place: str, rate: jax.Array, state: Any, task: Task) -> tuple[Any, Any]:
    """ADAM_STRETCH steps of Adam in a place of PLACES, and the losses before each of them."""

    def value(x: Any) -> jax.Array:
        z = z_of(objective, task, x) if place == "parameters" else x
        u = x if place == "u" else jax.tree.map(jnp.divide, z, task.widths)
        return objective(u, task)[0]

    def body(state: Any, _: Any) -> tuple[Any, jax.Array]:
        x, memory = state
        loss, gradient = jax.value_and_grad(value)(x)
        updates, memory = optax.scale_by_adam().update(gradient, memory)
        return (jax.tree.map(lambda a, b: a - rate * b, x, updates), memory), loss

    return jax.lax.scan(body, state, None, ADAM_STRETCH)


def z_of(objective: Objective, task: Task, shift: Any) -> Any:
    """z of parameters that are shifted from the inverted values."""
    z: dict[str, dict[str, Any]] = {}
    for term, name, move, scale in objective.scales.rules:
        by, fitted = shift[term][name], task.fitted[term][name]
        z.setdefault(term, {})[name] = (jnp.log1p(by / fitted) if move == "log" else by) / scale
    return z


def adam_start(problem: Problem) -> Any:
    """Parameters and memory of Adam at the inverted values."""
    x = jax.tree.map(jnp.zeros_like, problem.task.widths)
    return x, optax.scale_by_adam().init(x)


def adam_course(problem: Problem, place: str, rate: float, until: float, most: int) -> np.ndarray:
    """Losses of Adam, one a step, until the loss is reached."""
    losses: list[float] = []
    with jax.enable_x64(True):
        state = adam_start(problem)
        while len(losses) < most and min(losses, default=np.inf) > until:
            state, values = stretch(problem.objective, place, jnp.asarray(rate), state, problem.task)
            losses += np.asarray(values).tolist()
    return np.asarray(losses)


def timed(
    problem: Problem, settings: Refit, start: Snapshot, steps: int, rounds: int
) -> tuple[float, float, float]:
    """Median seconds of the scaling, of an iteration of LBFGS (with its line search), and of one of Adam."""
    fixed = settings.model_copy(update={"min_steps": steps, "max_steps": steps})
    times: dict[str, list[float]] = {"scaling": [], "lbfgs": [], "adam": []}
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        last_of(problem, fixed, start)
        times["lbfgs"].append((time.perf_counter() - begin) / steps)
        with jax.enable_x64(True):
            begin, task = time.perf_counter(), problem.task
            zeros = jax.tree.map(jnp.zeros_like, task.widths)
            jax.block_until_ready(scaled_widths(problem.objective, task._replace(widths=zeros)))
            times["scaling"].append(time.perf_counter() - begin)
            state, rate = adam_start(problem), jnp.asarray(0.01)
            begin = time.perf_counter()
            jax.block_until_ready(stretch(problem.objective, "z", rate, state, problem.task))
            times["adam"].append((time.perf_counter() - begin) / ADAM_STRETCH)
    scaling, lbfgs, adam = (statistics.median(values[1:]) for values in times.values())
    return scaling, lbfgs, adam


if __name__ == "__main__":
    main()
