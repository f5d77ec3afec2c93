"""What training on a data set costs: one real training step is compiled, measured and multiplied."""

import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from cgrefine.cli.train_member import network_facts
from cgrefine.config.schema import Config
from cgrefine.config.training import Train
from cgrefine.data.frames import FrameSet, frame_set
from cgrefine.data.loader import AS_THEY_ARE, Reading, each, training_batches
from cgrefine.data.packing import Batch, Budget, budget_for, estimated_batches, slim
from cgrefine.data.store import Dataset
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm.devices import mesh_of
from cgrefine.fm.models.registry import network_term
from cgrefine.fm.step import Lanes, Matching
from cgrefine.fm.train import single
from cgrefine.report.page import Section, Table

STEPS = 5


class StepCost(NamedTuple):
    """seconds: median of a step after compilation, which took compile_seconds.

    temporary, arguments: bytes on the device. operations: floating-point ones of a step, as XLA counts them.
    """

    seconds: float
    compile_seconds: float
    temporary: int
    arguments: int
    operations: float


def section(dataset: Dataset, config: Config) -> Section:
    """Steps, time and memory of an epoch with `model`, `train` and `loader` of the configuration.

    The priors are left out of the step: they cost about a thousandth of a network. Raises InputError
    without a network, or when a frame does not fit a batch.
    """
    if config.model is None or config.train is None or config.model.name == "none":
        raise InputError("inspect --estimate: the configuration needs a network in `model`, and `train`")
    loader, settings = config.loader, config.train
    choice = (loader.stride, loader.temperatures_K, loader.temperature_weights)
    frames = frame_set(dataset.domains, False, config.model.cutoff_A, *choice)
    budget = budget_for([frames], settings.batch_beads, loader.edge_headroom)
    steps = estimated_batches(frames, budget, settings.decoy_fraction, loader.buffer_frames)
    batch, seconds_to_pack = _first_batch(frames, budget, Reading(loader.buffer_frames, 1, 0))
    # the temperature that a network refers to makes no difference in cost
    facts = network_facts(config.model, frames, float(frames.pieces.temperature_K[0]))
    cost = step_cost(facts, batch, settings)
    beads, edges = int(batch.system.bead_mask.sum()), int(batch.neighbors.edge_mask.sum())
    epoch = steps * cost.seconds
    rows: list[tuple[object, ...]] = [
        ("training frames", len(frames), ""),
        ("residue-frames", frames.total_beads, ""),
        ("beads of a batch", budget.beads, f"{beads / budget.beads:.0%} used in the first"),
        ("edge slots of a batch", budget.edges, f"{edges / budget.edges:.0%} used in the first"),
        ("steps of an epoch", steps, "estimated by packing a sample"),
        ("step", cost.seconds, "s, measured"),
        ("epoch", epoch, "s"),
        (f"{settings.all_epochs} epochs", settings.all_epochs * epoch / 3600, "h, without validation"),
        ("compilation", cost.compile_seconds, "s"),
        ("device memory of a step", (cost.temporary + cost.arguments) / 1e6, "MB"),
        ("floating-point operations of a step", cost.operations / 1e9, "G"),
        ("first batch", seconds_to_pack, "s to read and pack, start included"),
    ]
    device = jax.devices()[0].device_kind
    text = f"{config.model.name} of {config.model.channels} channels on {device}; other devices differ."
    return Section("Cost of training", text, Table(("quantity", "value", "unit"), rows))


def step_cost(facts: dict[str, Any], batch: Batch, settings: Train) -> StepCost:
    """Compile and time a force-matching step of a new network on one batch, on one device."""
    network, mesh = network_term(facts), mesh_of(jax.local_devices()[:1])
    matching = Matching(network, SumOfTerms(()), settings, settings, lambda step: 1e-4, mesh)
    state = matching.init(single(network.init(jax.random.key(0))))
    lanes = Lanes(jax.tree.map(lambda leaf: leaf[None], slim(batch)), np.zeros(1, np.float32))
    begin = time.perf_counter()
    compiled = jax.jit(matching.step).lower(state, lanes, {}).compile()
    compile_seconds = time.perf_counter() - begin
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, lanes, {}))
        times.append(time.perf_counter() - begin)
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    assert memory is not None and costs is not None, "every backend of jaxlib analyses its programs"
    return StepCost(
        seconds=statistics.median(times),
        compile_seconds=compile_seconds,
        temporary=int(memory.temp_size_in_bytes),
        arguments=int(memory.argument_size_in_bytes),
        operations=float(costs["flops"]),
    )


def _first_batch(frames: FrameSet, budget: Budget, reading: Reading) -> tuple[Batch, float]:
    begin = time.perf_counter()
    for packed in each(training_batches(frames, budget, 0, 0, AS_THEY_ARE, reading)):
        return packed.batch, time.perf_counter() - begin
    raise InputError("inspect --estimate: the data set has no training frame")
