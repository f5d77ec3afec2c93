"""The gradient of an observable loss by one reverse pass, against a Jacobian of each frame; prints JSON.

    python scripts/bench/boltzmann_gradient.py [--frames 2560] [--bins 500] [--beads 21] [--rounds 3]

A SchNet of about 118 thousand parameters on random chains; the observable is the histogram of all pair
distances, the loss its squared distance from another histogram. Both give the derivative of that loss by the
covariance of the histogram with ∂U/∂θ over all frames, in float32:
  one_pass   cgrefine.boltzmann: coefficients on the host, then one reverse pass a chunk of frames;
  explicit   ∂U/∂θ of each frame, 40 at a time, and the covariance with every bin as a matrix (bins ×
             parameters), which the slope of the loss is then applied to: the formulation of Raja et al.
             (arXiv:2402.13984), here with a sum over minibatches, so that both have one answer.
Runs are taken in turns, in CPU seconds of the process, medians over --rounds. temporary_mb is what XLA
reports of the largest program of each; arrays_mb adds what it is handed and gives. published_mb: the array
frames × bins × parameters of a minibatch of 40 that the published code forms, by its size alone.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from train_step import compact_chain

from cgrefine import energy, neighbors
from cgrefine.boltzmann import surrogate
from cgrefine.boltzmann.gradient import coefficients
from cgrefine.boltzmann.surrogate import Ensemble, surrogate_gradient
from cgrefine.config.training import Model
from cgrefine.energy import SumOfTerms
from cgrefine.fm.models.registry import network_term
from cgrefine.sim import rooms
from cgrefine.system import pack, topology_from_species

CUTOFF_A, FARTHEST_A, BETA = 12.0, 40.0, 1.0 / 0.6
MINIBATCH = 40


def main() -> None:
    """Both formulations in turns on the same frames."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (
        ("--frames", 2560),
        ("--bins", 500),
        ("--beads", 21),
        ("--hidden", 96),
        ("--rounds", 3),
    ):
        parser.add_argument(name, type=int, default=value)
    given = parser.parse_args()
    if given.frames % MINIBATCH:
        parser.error(f"--frames {given.frames}: a multiple of {MINIBATCH}")
    rng = np.random.default_rng(0)
    topology = topology_from_species(rng.integers(0, 20, given.beads))
    frames = np.stack([compact_chain(given.beads, seed) for seed in range(given.frames)]).astype(np.float32)
    histograms = np.stack([histogram(x, given.bins) for x in frames])
    slope = 2.0 * (histograms.mean(0) - np.roll(histograms.mean(0), 3))
    facts = {
        "name": "schnet",
        "cutoff_A": CUTOFF_A,
        "hidden": given.hidden,
        "layers": 3,
        "avg_neighbors": 15.0,
    }
    network = network_term(
        {**Model.model_validate({k: facts[k] for k in facts if k != "avg_neighbors"}).model_dump(), **facts}
    )
    model = SumOfTerms((network,))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32), {network.name: network.init(jax.random.key(0))}
    )
    ways = {
        "one_pass": one_pass(model, params, topology, frames, histograms, slope),
        "explicit": explicit(model, params, topology, frames, histograms, slope),
    }
    results, seconds = {}, {name: [] for name in ways}
    for name, (run, _) in ways.items():
        results[name] = run()
    for _ in range(given.rounds):
        for name, (run, _) in ways.items():
            begin = time.process_time()
            run()
            seconds[name].append(time.process_time() - begin)
    flat = {
        name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for name, g in results.items()
    }
    parameters = flat["one_pass"].size
    scale = np.abs(flat["explicit"]).max()
    memory = {name: facts for name, (_, facts) in ways.items()}
    report = {
        "benchmark": "boltzmann_gradient",
        "parameters": parameters,
        **vars(given),
        "cpu_seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "times_faster": round(
            statistics.median(b / a for a, b in zip(seconds["one_pass"], seconds["explicit"], strict=True)), 1
        ),
        "memory": memory,
        "times_less_memory": round(memory["explicit"]["arrays_mb"] / memory["one_pass"]["arrays_mb"], 1),
        "published_mb": round(MINIBATCH * given.bins * parameters * 4 / 1e6),
        "largest_difference_over_largest": float(np.abs(flat["one_pass"] - flat["explicit"]).max() / scale),
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
        "load_average_at_the_end": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=2))


def histogram(x: np.ndarray, bins: int) -> np.ndarray:
    """Share of the pair distances in each bin."""
    r = np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(len(x), 1)]
    return np.histogram(r, bins, (0.0, FARTHEST_A))[0] / len(r)


Way = tuple[Callable[[], Any], dict[str, float]]
"""A run, and the memory of its largest program."""


def one_pass(model, params, topology, frames, histograms, slope) -> Way:
    """What refinement does."""
    p = np.full(len(frames), 1.0 / len(frames))

    def run():
        a = coefficients(histograms, p, slope, BETA)
        return surrogate_gradient(model, params, [Ensemble(topology, frames, a)], CUTOFF_A)

    ensemble = Ensemble(topology, frames, coefficients(histograms, p, slope, BETA))
    within = rooms.room([(topology, frames)], CUTOFF_A, surrogate.CHUNK_BEADS)
    chunk = next(surrogate.chunks([ensemble], CUTOFF_A, within))
    program = surrogate._gradient.lower(model, None, params, chunk).compile()
    return run, memory(program)


def explicit(model, params, topology, frames, histograms, slope) -> Way:
    """The covariance matrix of bins with parameters, from the gradient of each frame's energy."""
    system = pack([topology])
    lists = [neighbors.frame_edges(x, CUTOFF_A) for x in frames]
    capacity = 64 * -(-max(len(senders) for senders, _ in lists) // 64)
    edges = [neighbors.padded(*listed, capacity) for listed in lists]
    batches = [
        (
            jnp.asarray(frames[k : k + MINIBATCH]),
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *edges[k : k + MINIBATCH]),
            jnp.asarray(histograms[k : k + MINIBATCH], jnp.float32),
        )
        for k in range(0, len(frames), MINIBATCH)
    ]
    leaves, shape = jax.tree.flatten(params)
    sizes = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def energy_of(theta, x, near):
        return energy.total(model, theta, x, system, near)

    @jax.jit
    def sums(x, near, g):
        each = jax.vmap(jax.grad(energy_of), (None, 0, 0))(params, x, near)
        jacobian = jnp.concatenate([leaf.reshape(MINIBATCH, -1) for leaf in jax.tree.leaves(each)], axis=1)
        return g.T @ jacobian, jacobian.sum(0)

    n = len(frames)

    def run():
        products, total = 0.0, 0.0
        for x, near, g in batches:
            found = sums(x, near, g)
            products, total = products + found[0], total + found[1]
        covariance = (products / n - jnp.outer(histograms.mean(0), total / n)) * n / (n - 1)
        row = np.asarray(-BETA * jnp.asarray(slope) @ covariance)
        parts = np.split(row, sizes)
        return shape.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])

    return run, memory(sums.lower(*batches[0]).compile())


def memory(program: Any) -> dict[str, float]:
    """Of a compiled program, in MB."""
    found = program.memory_analysis()
    handed = found.argument_size_in_bytes + found.output_size_in_bytes
    return {
        "temporary_mb": round(found.temp_size_in_bytes / 1e6, 1),
        "arrays_mb": round((found.temp_size_in_bytes + handed) / 1e6, 1),
    }


if __name__ == "__main__":
    main()
