"""Several force fields on the same held-out frames: which is better, and is that more than noise.

All see the same frames in every drawing of the bootstrap. What the frames have in common, the noise of the
reference above all, drops out of a difference: its standard error is far below that of each error.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cgrefine import energy
from cgrefine.config.data import Loader
from cgrefine.data.frames import FrameSet
from cgrefine.data.loader import Reading, each, sweep
from cgrefine.data.packing import Batch, budget_for, real_beads
from cgrefine.energy import SumOfTerms
from cgrefine.fm.blocks import Blocks, Estimate, drawings, drawn, estimate, frame_blocks, interval
from cgrefine.fm.force_products import Products, add_products, square
from cgrefine.fm.forcefield import ForceField
from cgrefine.fm.noise_floor import explainable

CONFIDENCE = 0.95
"""Of the interval that a difference is judged by."""


class Errors(NamedTuple):
    """Of one set of frames: rmse, kcal/mol/Å; mse, (kcal/mol/Å)²; explained variances against no model and
    against its own priors."""

    rmse: Estimate
    mse: Estimate
    explained_variance: Estimate
    explained_variance_over_prior: Estimate


class Difference(NamedTuple):
    """MSE minus that of the first force field, (kcal/mol/Å)², same frames: percentile interval of
    CONFIDENCE over the drawings; significant when zero is outside."""

    mse: Estimate
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether zero is outside the interval."""
        return self.low > 0.0 or self.high < 0.0


class Contender(NamedTuple):
    """One force field. parameters: numbers in it. by_temperature: K → errors at that temperature.

    difference: None for the first one.
    """

    name: str
    parameters: int
    network_parameters: int
    errors: Errors
    by_temperature: dict[float, Errors]
    difference: Difference | None


class Comparison(NamedTuple):
    """All force fields in the order given, and what they say together.

    mean: of their mean prediction. floor_at_most: bound of the noise floor from the best combination of all
    of them (see `noise_floor`), (kcal/mol/Å)². spread: mean square difference of two predictions per
    component, halved: what the choice of training run or frames adds to the error of each, where they are
    runs of one recipe; 0 for one force field.
    """

    contenders: tuple[Contender, ...]
    zero: Errors
    mean: Errors
    floor_at_most: Estimate
    spread: Estimate
    frames: int
    beads: int


def compare(
    force_fields: Mapping[str, ForceField],
    frames: FrameSet,
    batch_beads: int,
    loader: Loader,
    seed: int = 0,
) -> Comparison:
    """Errors of force fields by name on all frames, in float32, in one pass.

    The edges of `frames` reach as far as the longest cutoff of any. Raises InputError when there is no frame.
    """
    blocks = frame_blocks(frames)
    products = accumulate(list(force_fields.values()), frames, batch_beads, loader, blocks)
    counts = drawings(len(blocks), np.random.default_rng(seed))
    m = len(force_fields)
    p, n = drawn(counts, products.p), drawn(counts, products.components)
    at = {float(t): blocks.temperature_K == t for t in np.unique(blocks.temperature_K)}
    parts = {t: _drawn(products, counts, mask) for t, mask in at.items()}
    contenders = []
    for k, (name, force_field) in enumerate(force_fields.items()):
        unit, prior = _unit(m, 1 + k), _unit(m, 1 + m + k)
        sizes = {term: _size(leaves) for term, leaves in force_field.params.items()}
        contenders.append(
            Contender(
                name=name,
                parameters=sum(sizes.values()),
                network_parameters=sizes.get("network", 0),
                errors=_errors(p, n, unit, prior),
                by_temperature={t: _errors(*part, unit, prior) for t, part in parts.items()},
                difference=_difference(p, n, unit, _unit(m, 1)) if k else None,
            )
        )
    of_models = p[:, : m + 1, : m + 1]
    priors = np.mean([_unit(m, 1 + m + k) for k in range(m)], axis=0)
    return Comparison(
        contenders=tuple(contenders),
        zero=_errors(p, n, 0.0 * priors, 0.0 * priors),
        mean=_errors(p, n, np.mean([_unit(m, 1 + k) for k in range(m)], axis=0), priors),
        floor_at_most=estimate((p[:, 0, 0] - explainable(of_models)) / n),
        spread=estimate(_spread(of_models) / n),
        frames=len(frames),
        beads=int(products.components.sum()) // 3,
    )


def accumulate(
    force_fields: Sequence[ForceField], frames: FrameSet, batch_beads: int, loader: Loader, blocks: Blocks
) -> Products:
    """Products of the reference, the m whole force fields, and the priors of each: (blocks, 2m+1, 2m+1)."""
    budget = budget_for([frames], batch_beads, loader.edge_headroom)
    reading = Reading(loader.buffer_frames, loader.prefetch, loader.workers)
    size = 2 * len(force_fields) + 1
    sums = Products(np.zeros((len(blocks), size, size)), np.zeros(len(blocks)))
    given = [(f.model, f.priors, f.cast(jnp.float32)) for f in force_fields]
    for rows, batch in each(sweep(frames, budget, reading)):
        real = real_beads(batch)
        found = np.stack([_predicted(*one, batch) for one in given], axis=1)
        forces = found.astype(np.float64).reshape(size - 1, -1, 3)[:, real]
        reference = batch.target_forces[real].astype(np.float64)
        block = blocks.of[rows[batch.system.graph_id[real]]]
        add_products(sums, block, np.concatenate([reference[None], forces]))
    return sums


@partial(jax.jit, static_argnums=(0, 1))
def _predicted(
    whole: SumOfTerms, priors: SumOfTerms, params: Mapping[str, energy.Params], batch: Batch
) -> jax.Array:
    """Forces of the whole force field and of its priors, (2, n, 3); equal models share one compilation."""
    x = jnp.asarray(batch.positions)
    forces = energy.forces(whole, params, x, batch.system, batch.neighbors)
    own = forces if whole == priors else energy.forces(priors, params, x, batch.system, batch.neighbors)
    return jnp.stack([forces, own])


def _drawn(
    products: Products, counts: Float[np.ndarray, "draws blocks"], mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Drawings of some of the blocks; one block alone has no spread."""
    some = counts[:, mask] if mask.sum() > 1 else counts[:1, mask]
    n = drawn(some, products.components[mask])
    n[n == 0.0] = np.nan
    return drawn(some, products.p[mask]), n


def _unit(m: int, index: int) -> Float[np.ndarray, " k"]:
    return np.eye(2 * m + 1)[index]


def _size(leaves: energy.Params) -> int:
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(leaves))


def _errors(
    p: Float[np.ndarray, "draws k k"],
    n: Float[np.ndarray, " draws"],
    model: Float[np.ndarray, " k"],
    prior: Float[np.ndarray, " k"],
) -> Errors:
    """model, prior: coefficients of the predictions in the products. There is some reference force."""
    reference = np.eye(len(model))[0]
    zero, before, mse = (square(p, reference - c) / n for c in (0.0 * model, prior, model))
    return Errors(
        rmse=estimate(np.sqrt(mse)),
        mse=estimate(mse),
        explained_variance=estimate(1.0 - mse / zero),
        explained_variance_over_prior=estimate(1.0 - mse / before),
    )


def _difference(
    p: Float[np.ndarray, "draws k k"],
    n: Float[np.ndarray, " draws"],
    model: Float[np.ndarray, " k"],
    first: Float[np.ndarray, " k"],
) -> Difference:
    reference = np.eye(len(model))[0]
    values = (square(p, reference - model) - square(p, reference - first)) / n
    return Difference(estimate(values), *interval(values, CONFIDENCE))


def _spread(p: Float[np.ndarray, "draws k k"]) -> Float[np.ndarray, " draws"]:
    """Half the mean of Σ|f_a − f_b|² over pairs a < b of the predictions in rows 1 … k - 1; 0 for one."""
    m = p.shape[-1] - 1
    pairs = [(a, b) for a in range(1, m + 1) for b in range(1, a)]
    unit = np.eye(m + 1)
    return sum((square(p, unit[a] - unit[b]) for a, b in pairs), np.zeros(len(p))) / (2 * max(len(pairs), 1))
