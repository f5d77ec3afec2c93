"""Imports run one way: foundation ← data, observables, sim ← fm, boltzmann, export ← report, interop ← cli.

`interop` reads `fm`, `data` and `export`. `toy`, a worked example, reads all up to `boltzmann`; only `cli`
reads it."""

import ast
from pathlib import Path

import pytest

import cgrefine

ROOT = Path(cgrefine.__file__).parent
FOUNDATION = {
    "units", "residues", "geometry", "status", "errors", "versions", "config", "system", "neighbors",
    "energy", "compiling", "dense", "artifacts", "checkpoint", "distributed",
}  # fmt: skip
ALLOWED = {
    "foundation": FOUNDATION,
    "data": FOUNDATION | {"data"},
    "observables": FOUNDATION | {"observables"},
    "sim": FOUNDATION | {"sim"},
    "fm": FOUNDATION | {"fm", "data"},
    "boltzmann": FOUNDATION | {"boltzmann", "sim", "observables"},
    "export": FOUNDATION | {"export"},
    "interop": FOUNDATION | {"interop", "fm", "data", "export"},
    "toy": FOUNDATION | {"toy", "data", "observables", "sim", "fm", "boltzmann"},
    "report": FOUNDATION | {"report"},
    "cli": FOUNDATION
    | {"cli", "data", "observables", "sim", "fm", "boltzmann", "export", "interop", "report", "toy"},
}


def imported(source: str) -> set[str]:
    """First-level parts of cgrefine that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("cgrefine.")}
    return {name for name in found if name != "__version__"}


def layer_of(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "foundation" if part in FOUNDATION else part


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    layer = layer_of(path)
    if layer != "__init__":
        assert imported(path.read_text()) <= ALLOWED[layer]


def test_an_upward_import_is_seen():
    assert not imported("from cgrefine import units\nfrom cgrefine.fm.loss import x\n") <= ALLOWED["sim"]


def test_foundation_is_a_chain():
    """No foundation module imports itself through another: the graph among them has no cycle."""
    graph = {}
    for name in FOUNDATION:
        files = (
            [ROOT / f"{name}.py"] if (ROOT / f"{name}.py").exists() else sorted((ROOT / name).glob("*.py"))
        )
        graph[name] = {n for f in files for n in imported(f.read_text())} - {name}
    order: list[str] = []
    while graph:
        free = sorted(n for n, needs in graph.items() if needs <= set(order))
        assert free, f"import cycle among {sorted(graph)}"
        order += free
        graph = {n: needs for n, needs in graph.items() if n not in free}
