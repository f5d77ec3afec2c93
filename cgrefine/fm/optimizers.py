"""The optimiser of force matching, put together from optax."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cgrefine.config.schema import WITHOUT_DECAY, OptimizerName

MOMENTUM = 0.9

SCALINGS: Mapping[str, Callable[[], optax.GradientTransformation]] = {
    "adabelief": optax.scale_by_belief,
    "adam": optax.scale_by_adam,
    "lion": optax.scale_by_lion,
    "sgd": lambda: optax.trace(MOMENTUM, nesterov=True),
    "yogi": optax.scale_by_yogi,
}
"""Directions before decay and learning rate."""

EVERY_FAILURE = 2**31 - 1
"""However many updates in a row are not finite, none of them is applied."""


def schedule(learning_rate: float, steps: int, warmup_fraction: float) -> optax.Schedule:
    """Linear warm-up to learning_rate, then a cosine down to a hundredth of it at `steps`."""
    warmup = min(round(warmup_fraction * steps), steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=learning_rate / max(warmup, 1),
        peak_value=learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, 1),
        end_value=0.01 * learning_rate,
    )


def matrices(params: Any) -> Any:
    """Which leaves have two axes or more: those that decay."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)


def optimizer(
    name: OptimizerName,
    rate: optax.Schedule,
    peak: float,
    clip_norm: float,
    weight_decay: float,
    decaying: Callable[[Any], Any] = matrices,
) -> optax.GradientTransformationExtraArgs:
    """The optax optimiser of this name, with the global norm of gradients clipped before it.

    rate: of the learning rate by step; peak: its largest value, the longest step of polyak_sgd. Decoupled
    weight decay acts on the leaves that `decaying` chooses (adam with it is AdamW). An update that is not
    finite is skipped and counted, see `skipped`. The update takes the loss as `value`, which polyak_sgd
    reads. Raises ValueError on weight decay with fromage or polyak_sgd, which have no place for it.

    adam: Kingma & Ba, ICLR 2015; adabelief: Zhuang et al., NeurIPS 2020; yogi: Zaheer et al., NeurIPS 2018;
    lion: Chen et al., NeurIPS 2023; sgd: with Nesterov momentum of MOMENTUM; polyak_sgd: Loizou et al.,
    AISTATS 2021, for a smallest loss of 0; fromage: Bernstein et al., NeurIPS 2020.
    """
    if name in WITHOUT_DECAY and weight_decay > 0.0:
        raise ValueError(f"weight decay {weight_decay:g} with {name}, which has none")
    if name == "polyak_sgd":
        rule = optax.polyak_sgd(max_learning_rate=peak, scaling=lambda step: rate(step) / peak)
    elif name == "fromage":
        rule = optax.inject_hyperparams(optax.fromage)(learning_rate=rate)
    else:
        decay = optax.add_decayed_weights(weight_decay, mask=decaying)
        rule = optax.chain(SCALINGS[name](), decay, optax.scale_by_learning_rate(rate))
    clipped = optax.chain(optax.clip_by_global_norm(clip_norm), rule)
    return optax.with_extra_args_support(optax.apply_if_finite(clipped, max_consecutive_errors=EVERY_FAILURE))


def skipped(state: Any) -> int:
    """Number of updates that were not finite and not applied, in a state of `optimizer`."""
    return int(state.total_notfinite)
