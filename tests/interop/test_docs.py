"""The snippets of docs/other_engines.md, run as they stand, on priors of the embedded sample."""

import re
from pathlib import Path

import numpy as np
import pytest

from cgrefine.artifacts import stage_folder
from cgrefine.cli import prepare, priors
from cgrefine.cli.console import Console
from cgrefine.config import parse
from cgrefine.data.store import open_dataset

PAGE = Path(__file__).parents[2] / "docs" / "other_engines.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
CONFIG = parse(
    {
        "data": {"raw": ["sample"], "split": {"by": "replica", "validation_fraction": 0.5}},
        "force_map": {"kind": "basic"},
        "priors": {"gate": {"steps": 2000, "replicas": 3}, "iterate": {"rounds": 0}},
    },
    "test",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with the prepared sample and its priors."""
    root = tmp_path_factory.mktemp("run")
    for name, module in (("prepare", prepare), ("priors", priors)):
        with stage_folder(root, name, CONFIG, "0", {}) as stage:
            module.build(stage, CONFIG, root, Console(quiet=True))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_snippets_run(run, index):
    domain = open_dataset(run / "prepare").domains[0]
    start = np.asarray(domain.positions[0], np.float64)
    names = {"model": str(run / "priors"), "sequence": domain.sequence, "start": start}
    exec(compile(SNIPPETS[index], str(PAGE), "exec"), names)
    if "dynamics" in names:
        beads = names["beads"]
        assert beads.get_potential_energy() != names["energy"] and np.isfinite(beads.positions).all()
    else:
        assert "<Positions>" in names["text"]


def test_the_page_has_both_engines():
    assert len(SNIPPETS) == 2
    assert "interop.ase" in SNIPPETS[0] and "interop.openmm" in SNIPPETS[1]
