"""The optimiser of force matching, put together from optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

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


def adabelief(
    rate: optax.Schedule,
    clip_norm: float,
    weight_decay: float,
    decaying: Callable[[Any], Any] = matrices,
) -> optax.GradientTransformation:
    """AdaBelief (Zhuang et al., NeurIPS 2020) with the global norm clipped before it.

    Decoupled weight decay acts on the leaves that `decaying` chooses. An update that is not finite is
    skipped and counted, see `skipped`.
    """
    inner = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_belief(),
        optax.add_decayed_weights(weight_decay, mask=decaying),
        optax.scale_by_learning_rate(rate),
    )
    return optax.apply_if_finite(inner, max_consecutive_errors=EVERY_FAILURE)


def skipped(state: Any) -> int:
    """Number of updates that were not finite and not applied, in a state of `adabelief`."""
    return int(state.total_notfinite)
