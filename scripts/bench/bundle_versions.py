"""Bundles written under each of several interpreters, read under each of them: the self-test's force error.

    python scripts/bench/bundle_versions.py PYTHON [PYTHON ...]

Each PYTHON has another jax, numpy, scipy, jaxtyping, beartype, pydantic and pyyaml; run from the root of the
tree. The model is the small one of the tests. Exit code 1 when a bundle is not read somewhere.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

WRITE = """
import sys; from pathlib import Path
from tests.export import toy
from cgrefine.config.running import Export
from cgrefine.export.bundle import write_bundle
parts = (toy.MODEL, toy.params(), toy.topology(), toy.frames(), "toy", Export(reference_frames=3))
write_bundle(Path(sys.argv[1]), *parts)
"""
VERSION = "import jax, sys; sys.stdout.write(f'{jax.__version__} on {sys.version.split()[0]}')"


def said(python: str, *arguments: str) -> str:
    """Last line of what the interpreter writes; CalledProcessError when it fails."""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([python, *arguments], capture_output=True, text=True, env=environment, check=True)
    return (done.stdout.strip().splitlines() or [""])[-1]


def main(pythons: list[str]) -> int:
    """Print one line for each pair."""
    versions, failed = {python: said(python, "-c", VERSION) for python in pythons}, 0
    with tempfile.TemporaryDirectory() as scratch:
        for index, writer in enumerate(pythons):
            path = str(Path(scratch) / str(index))
            said(writer, "-c", WRITE, path)
            for reader in pythons:
                try:
                    found = f"force error {float(said(reader, '-m', 'cgrefine.export.fresh', path)):.2e}"
                except subprocess.CalledProcessError as error:
                    failed, found = 1, f"NOT READ: {error.stderr.strip().splitlines()[-1]}"
                sys.stdout.write(f"written by jax {versions[writer]}, read by {versions[reader]}: {found}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
