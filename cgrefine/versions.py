"""Refusal of jax releases that compute wrong numbers, at start-up and before anything is compiled."""

from importlib import metadata

from cgrefine.errors import InputError

MISCOMPILING = ("0.10.2", "0.11.0", "0.11.1")
"""jaxlib releases with known wrong results: 0.10.2 on CPU (jax-ml/jax#39103), 0.11.0-1 on some GPUs."""

MINIMUM = (0, 10, 1)


def refuse_miscompiling(version: str | None = None) -> None:
    """Raise InputError if the installed jaxlib (or the given version) is a miscompiling or too old one."""
    found = metadata.version("jaxlib") if version is None else version
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if found in MISCOMPILING or numbers < MINIMUM:
        raise InputError(
            f"jaxlib {found} is refused: releases {', '.join(MISCOMPILING)} compute wrong numbers and "
            "cgrefine needs 0.10.1 or newer; install it with `pip install -c constraints.txt cgrefine`"
        )
