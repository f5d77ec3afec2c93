"""Rows of the matrix of LAMMPS against JAX, by the command that makes it: each network once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lammps

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "lammps_matrix.py"
ROWS = [("allegro", "10", "3", "p"), ("mace", "10", "1", "s"), ("painn", "20", "3", "p")]


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_forces_of_a_whole_model(tmp_path, row):
    """Whole priors and a random network in float32, 1 and 2 processes, one of them without beads: 1e-4."""
    network, beads, chains, boundary = row
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "rows.jsonl"), "--networks", network]
    command += ["--beads", beads, "--chains", chains, "--boundaries", boundary]
    command += ["--steps", "100", "--parallel-steps", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=os.environ)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["row"] == ["forces", network, int(beads), int(chains), boundary]
    runs = [found[name] for name in ("ranks_1", "ranks_2", *(["empty"] if boundary == "p" else []))]
    for run in runs:
        assert max(run["relative_error"]) < 1e-4
        assert run["start_error"] < 1e-3
    if boundary == "p":
        assert found["empty"]["fewest_beads"] == 0
