"""The gradient of an observable loss by one reverse pass, against a Jacobian of each frame; prints JSON.

    python scripts/bench/boltzmann_gradient.py [--frames 2560] [--bins 500] [--beads 21] [--rounds 3]

A SchNet of 122 thousand parameters (--hidden 96) on random chains; the observable is the histogram of all
pair distances, the loss its squared distance from another histogram. Three ways to the derivative of that
loss, -β N/(N - 1) Σ_k L'_k Cov(g_k, ∂U/∂θ) over all frames, in float32:
  one_pass   cgrefine.boltzmann: coefficients on the host, then one reverse pass a chunk of frames;
  product    ∂U/∂θ of each of 40 frames, and of that the covariance with every bin as a matrix (bins ×
             parameters) by a product of matrices, which the slope of the loss is then applied to;
  published  the layout of Raja et al. (arXiv:2402.13984): ∂U/∂θ of 40 frames, the array of their products
             with every bin, frames × bins × parameters, its mean, the covariance, and then the slope. Each of
             these is a program of its own, as in a framework without a compiler, so all arrays do exist.
Means and slopes are those of all frames in question, not of each minibatch as in the published code, and
minibatches are summed, so that the three have one answer.

Each way is a process of its own. They take turns, one working at a time, for --rounds: medians of CPU seconds
(user and system) and of wall time. product and published are run on the first --minibatches and
--published-minibatches of 40 frames, and their times scaled to all frames: `scaled_from`. Memory is the
resident set of the process: before the pass (programs compiled and run once, freed memory given back), and
its largest value in the pass, of the same. gradients: largest differences over the largest entry, over the
first --published-minibatches; in float64 with minibatches of 10 frames, as the array is twice as large.
"""

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from train_step import compact_chain

from cgrefine import energy, neighbors
from cgrefine.boltzmann.gradient import coefficients
from cgrefine.boltzmann.surrogate import Ensemble, surrogate_gradient
from cgrefine.config.training import Model
from cgrefine.energy import SumOfTerms
from cgrefine.fm.models.registry import network_term
from cgrefine.neighbors import Neighbors
from cgrefine.system import System, Topology, pack, topology_from_species

CUTOFF_A, FARTHEST_A, BETA = 12.0, 40.0, 1.0 / 0.6
MINIBATCH = 40
DOUBLE_MINIBATCH = 10
SPARE_BYTES = 2e9
"""Memory that is left to others."""


@dataclass(frozen=True)
class Case:
    """What all ways are given: frames (f, n, 3) and their histograms (f, k)."""

    model: SumOfTerms
    params: Any
    topology: Topology
    frames: np.ndarray
    histograms: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Of the histograms, (k,)."""
        return self.histograms.mean(0)

    @property
    def slope(self) -> np.ndarray:
        """Of the squared distance to the same mean three bins further on, (k,)."""
        return 2.0 * (self.mean - np.roll(self.mean, 3))


def main() -> None:
    """All ways in turns, their gradients against each other, and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (
        ("--frames", 2560),
        ("--bins", 500),
        ("--beads", 21),
        ("--hidden", 96),
        ("--rounds", 3),
        ("--minibatches", 4),
        ("--published-minibatches", 2),
    ):
        parser.add_argument(name, type=int, default=value)
    given = parser.parse_args()
    if given.frames % MINIBATCH:
        parser.error(f"--frames {given.frames}: a multiple of {MINIBATCH}")
    parameters = n_parameters(given)
    array = MINIBATCH * given.bins * parameters * 4
    # the array, its mean and the covariance, and the processes themselves
    need, free = array + 3 * given.bins * parameters * 4 + 2e9 + SPARE_BYTES, available_bytes()
    if free < need:
        parser.error(f"{free / 1e9:.1f} GB of memory are free, {need / 1e9:.1f} GB are needed")
    counts = {
        "one_pass": given.frames,
        "product": MINIBATCH * given.minibatches,
        "published": MINIBATCH * given.published_minibatches,
    }
    rounds = in_turns(given, counts)
    compared = MINIBATCH * given.published_minibatches
    gradients = {dtype: in_a_process(differences, given, compared, dtype) for dtype in ("float32", "float64")}
    cpu, wall = (scaled(rounds, counts, given.frames, name) for name in ("cpu_seconds", "wall_seconds"))
    memory = {way: most(found) for way, found in rounds.items()}
    report = {
        "benchmark": "boltzmann_gradient",
        "parameters": parameters,
        **vars(given),
        "cpu_seconds": {way: round(statistics.median(values), 3) for way, values in cpu.items()},
        "wall_seconds": {way: round(statistics.median(values), 3) for way, values in wall.items()},
        "scaled_from": {way: f"{count} of {given.frames} frames" for way, count in counts.items()},
        "times_faster_than": ratios(cpu),
        "memory_mb": memory,
        "times_less_memory_than": {
            bar: {way: round(memory[way][bar] / memory["one_pass"][bar], 1) for way in memory}
            for bar in ("peak", "above_baseline")
        },
        "array_mb": round(array / 1e6),
        "gradients": gradients,
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
        "load_average_at_the_end": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=2))


def scaled(rounds: dict, counts: dict[str, int], frames: int, name: str) -> dict[str, list[float]]:
    """Times of each round, for all frames."""
    return {way: [r[name] * frames / counts[way] for r in found] for way, found in rounds.items()}


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median over rounds of the time of each way over that of one pass."""
    return {
        way: round(statistics.median(b / a for a, b in zip(seconds["one_pass"], values, strict=True)), 1)
        for way, values in seconds.items()
    }


def most(found: list[dict[str, float]]) -> dict[str, float]:
    """Largest memory of all rounds, MB."""
    return {bar: max(r[bar] for r in found) for bar in ("baseline", "peak", "above_baseline")}


def in_turns(given: argparse.Namespace, counts: dict[str, int]) -> dict[str, list[dict[str, float]]]:
    """Time and memory of each way in each round. A process waits while the others work."""
    spawn = multiprocessing.get_context("spawn")
    ends, processes = {}, []
    for way, count in counts.items():
        ends[way], there = spawn.Pipe()
        processes.append(spawn.Process(target=work, args=(there, given, way, count), daemon=True))
        processes[-1].start()
        there.close()
        ends[way].recv()
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in counts}
    for _ in range(given.rounds):
        for way, end in ends.items():
            end.send(True)
            rounds[way].append(end.recv())
    for end in ends.values():
        end.send(False)
    for process in processes:
        process.join()
    return rounds


def work(end: Connection, given: argparse.Namespace, name: str, count: int) -> None:
    """Compile one way by a first run, and then run it whenever the other end asks for it."""
    way, made = WAYS[name], case(given, count, "float32")
    way(made, MINIBATCH)
    end.send(True)
    while end.recv():
        end.send(measured(lambda: way(made, MINIBATCH)))


def measured(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a run, and the resident set of this process before and at most during it, MB."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is to start from here
    before = resident("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resident("VmHWM")
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "baseline": round(before, 1),
        "peak": round(peak, 1),
        "above_baseline": round(peak - before, 1),
    }


def resident(field: str) -> float:
    """A field of /proc/self/status, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) / 1e6 for line in lines if line.startswith(field))


def available_bytes() -> float:
    """Memory of this machine that can be had."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a new process, whose memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def differences(given: argparse.Namespace, count: int, dtype: str) -> dict[str, float]:
    """Of one pass from the other ways on the same frames, over the largest entry."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    made = case(given, count, dtype)
    minibatch = MINIBATCH if dtype == "float32" else DOUBLE_MINIBATCH
    found = {name: way(made, minibatch) for name, way in WAYS.items()}
    scale = np.abs(found["published"]).max()
    return {
        name: float(np.abs(g - found["one_pass"]).max() / scale)
        for name, g in found.items()
        if name != "one_pass"
    }


def network(hidden: int):
    """SchNet of three layers."""
    facts = {"name": "schnet", "cutoff_A": CUTOFF_A, "hidden": hidden, "layers": 3}
    return network_term({**Model.model_validate(facts).model_dump(), **facts, "avg_neighbors": 15.0})


def n_parameters(given: argparse.Namespace) -> int:
    """Without making them."""
    shapes = jax.eval_shape(network(given.hidden).init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def case(given: argparse.Namespace, count: int, dtype: str) -> Case:
    """So many random chains, with parameters and positions in this precision."""
    rng = np.random.default_rng(0)
    topology = topology_from_species(rng.integers(0, 20, given.beads))
    frames = np.stack([compact_chain(given.beads, seed) for seed in range(count)])
    histograms = np.stack([histogram(x, given.bins) for x in frames])
    term = network(given.hidden)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), {term.name: term.init(jax.random.key(0))})
    return Case(SumOfTerms((term,)), params, topology, frames.astype(dtype), histograms)


def histogram(x: np.ndarray, bins: int) -> np.ndarray:
    """Share of the pair distances in each bin."""
    r = np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(len(x), 1)]
    return np.histogram(r, bins, (0.0, FARTHEST_A))[0] / len(r)


Way = Callable[[Case, int], np.ndarray]
"""(case, frames of a minibatch) -> the gradient by all parameters, (P,)."""


def one_pass(case: Case, minibatch: int) -> np.ndarray:
    """What refinement does; its chunks are not minibatches."""
    n = len(case.frames)
    a = coefficients(case.histograms, np.full(n, 1.0 / n), case.slope, BETA)
    ensemble = Ensemble(case.topology, case.frames, a)
    found = surrogate_gradient(case.model, case.params, [ensemble], CUTOFF_A)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])


def product(case: Case, minibatch: int) -> np.ndarray:
    """The covariance matrix of bins with parameters, from the derivatives of each frame's energy."""
    n, products, total = len(case.frames), jnp.zeros(()), jnp.zeros(())
    for histograms, x, near in minibatches(case, minibatch):
        found = _sums(case.model, case.params, pack([case.topology]), x, near, histograms)
        products, total = products + found[0], total + found[1]
    covariance = products / n - jnp.outer(_like(case.mean, case), total / n)
    return np.asarray(-BETA * n / (n - 1) * (_like(case.slope, case) @ covariance))


def published(case: Case, minibatch: int) -> np.ndarray:
    """The same through the array of frames × bins × parameters of each minibatch."""
    n, row = len(case.frames), jnp.zeros(())
    mean, slope = _like(case.mean, case), _like(case.slope, case)
    for histograms, x, near in minibatches(case, minibatch):
        jacobian = _jacobian(case.model, case.params, pack([case.topology]), x, near)
        each = _products_of_each(histograms, jacobian)
        covariance = _covariance(_mean(each), mean, _mean(jacobian))
        row = row + len(x) / n * _applied(slope, covariance)
    return np.asarray(-BETA * n / (n - 1) * row)


WAYS: dict[str, Way] = {"one_pass": one_pass, "product": product, "published": published}


def minibatches(case: Case, size: int) -> Iterator[tuple[Array, Array, Neighbors]]:
    """Histograms (m, k), positions (m, n, 3) and edges of m frames at a time, all of one shape."""
    lists = [neighbors.frame_edges(x, CUTOFF_A) for x in case.frames]
    capacity = 64 * -(-max(len(senders) for senders, _ in lists) // 64)
    edges = [neighbors.padded(*listed, capacity) for listed in lists]
    for k in range(0, len(case.frames), size):
        near = jax.tree.map(lambda *leaves: jnp.stack(leaves), *edges[k : k + size])
        yield _like(case.histograms[k : k + size], case), jnp.asarray(case.frames[k : k + size]), near


def _like(values: np.ndarray, case: Case) -> Array:
    return jnp.asarray(values, case.frames.dtype)


@partial(jax.jit, static_argnums=0)
def _jacobian(model: SumOfTerms, params: Any, system: System, x: Array, near: Neighbors) -> Array:
    """∂U/∂θ of each frame, (m, P)."""

    def energy_of(theta, frame, edges):
        return energy.total(model, theta, frame, system, edges)

    each = jax.vmap(jax.grad(energy_of), (None, 0, 0))(params, x, near)
    return jnp.concatenate([leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(each)], axis=1)


@partial(jax.jit, static_argnums=0)
def _sums(model: SumOfTerms, params: Any, system: System, x: Array, near: Neighbors, g: Array):
    jacobian = _jacobian(model, params, system, x, near)
    return g.T @ jacobian, jacobian.sum(0)


@jax.jit
def _products_of_each(g: Array, jacobian: Array) -> Array:
    return g[:, :, None] * jacobian[:, None, :]


@jax.jit
def _mean(values: Array) -> Array:
    return values.mean(0)


@jax.jit
def _covariance(products: Array, mean: Array, jacobian: Array) -> Array:
    return products - jnp.outer(mean, jacobian)


@jax.jit
def _applied(slope: Array, covariance: Array) -> Array:
    return slope @ covariance


if __name__ == "__main__":
    main()
