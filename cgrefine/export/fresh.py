"""A bundle read in a process of its own that has nothing of what trained it.

    python -m cgrefine.export.fresh BUNDLE [DIGEST]

prints the largest force error of the self-test (kcal/mol/Å). `load` starts that process.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cgrefine.errors import InputError

TRAINING = ("cgrefine.fm", "cgrefine.data", "cgrefine.boltzmann", "haiku", "optax", "e3nn_jax")
"""What cannot be imported there."""


def load(path: Path, digest: str | None = None) -> float:
    """Largest force error of the self-test in a fresh process, kcal/mol/Å; 0 for priors alone.

    Raises InputError with the last line that the process wrote, when it fails.
    """
    command = [sys.executable, "-m", "cgrefine.export.fresh", str(path), *([digest] if digest else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        told = [line for line in done.stderr.splitlines() if line.strip()] or [f"code {done.returncode}"]
        raise InputError(f"{path}: a fresh process does not read it: {told[-1]}")
    return float(done.stdout.split()[-1])


def main(arguments: Sequence[str]) -> None:
    """Make training code impossible to import, and load the bundle."""
    for name in TRAINING:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]  (None is what blocks an import)
    from cgrefine.export.bundle import load_bundle

    path, *demanded = arguments
    tested = load_bundle(Path(path), digest=demanded[0] if demanded else None).selftest
    sys.stdout.write(f"{0.0 if tested is None else tested.max_force_error}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
