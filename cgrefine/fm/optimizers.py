"""The optimiser of force matching, put together from optax."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cgrefine.config.training import WITHOUT_DECAY, Optimisation, OptimizerName

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


def schedule(settings: Optimisation, updates: int) -> optax.Schedule:
    """The learning rate by update: linear warm-up, then a cosine down to its end at `updates`, or constant.

    A plateau's factors are not in it: they depend on what the validation error does.
    """
    peak = settings.learning_rate
    warmup = min(round(settings.warmup_fraction * updates), updates - 1)
    begin = peak / max(warmup, 1)
    if settings.schedule != "cosine":
        return optax.warmup_constant_schedule(begin, peak, warmup)
    end = settings.final_fraction * peak
    return optax.warmup_cosine_decay_schedule(begin, peak, warmup, max(updates, 1), end)


def matrices(params: Any) -> Any:
    """Which leaves have two axes or more: those that decay."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)


def optimizer(
    name: OptimizerName,
    rate: ArrayLike,
    clip_norm: float,
    weight_decay: float,
    decaying: Callable[[Any], Any] = matrices,
) -> optax.GradientTransformationExtraArgs:
    """The optax optimiser of this name, with the global norm of gradients clipped before it.

    rate (): of the next update; it may be traced, and is not part of the state. Decoupled weight decay acts
    on the leaves that `decaying` chooses (adam with it is AdamW). An update that is not finite is skipped
    and counted. The update takes the loss as `value`, which polyak_sgd reads. Raises
    ValueError on weight decay with fromage or polyak_sgd, which have no place for it.

    adam: Kingma & Ba, ICLR 2015; adabelief: Zhuang et al., NeurIPS 2020; yogi: Zaheer et al., NeurIPS 2018;
    lion: Chen et al., NeurIPS 2023; sgd: with Nesterov momentum of MOMENTUM; polyak_sgd: Loizou et al.,
    AISTATS 2021, for a smallest loss of 0 and with the rate as the longest step; fromage: Bernstein et al.,
    NeurIPS 2020.
    """
    if name in WITHOUT_DECAY and weight_decay > 0.0:
        raise ValueError(f"weight decay {weight_decay:g} with {name}, which has none")
    # optax asks for numbers where it computes with arrays as well
    step: Any = rate
    if name == "polyak_sgd":
        rule = optax.polyak_sgd(max_learning_rate=step)
    elif name == "fromage":
        rule = optax.fromage(step)
    else:
        decay = optax.add_decayed_weights(weight_decay, mask=decaying)
        rule = optax.chain(SCALINGS[name](), decay, optax.scale_by_learning_rate(step))
    clipped = optax.chain(optax.clip_by_global_norm(clip_norm), rule)
    return optax.with_extra_args_support(optax.apply_if_finite(clipped, max_consecutive_errors=EVERY_FAILURE))
