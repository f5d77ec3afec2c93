"""`cgrefine export --check`: everything that can be verified of a bundle, as rows of one table."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgrefine.artifacts import require
from cgrefine.cli.console import Console
from cgrefine.energy import PairTerm
from cgrefine.errors import GateError, InputError, SimulationStopped
from cgrefine.export import deploy_files, fresh, lammps_jax, portable
from cgrefine.export.bundle import STABLEHLO, TEXT, Bundle, write_molecule
from cgrefine.export.lammps_launch import launch
from cgrefine.export.lammps_run import import_lammps, run
from cgrefine.export.lammps_settings import RunSettings
from cgrefine.export.lammps_terms import Repulsive
from cgrefine.export.loaded import Loaded, load_model
from cgrefine.export.sealed import check_seal
from cgrefine.export.verify import TermValues, force_error, term_values
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.report.page import Table

PRIOR_LIMIT = 1.0e-8
"""kcal/mol and kcal/mol/Å, between two evaluations of the prior terms in float64."""
TABLE_LIMIT, ROUNDED_LIMIT = 1.0e-6, 1.0e-3
"""kcal/mol/Å, between the prior terms in LAMMPS and in JAX; the second one with a WCA repulsion,
whose curvature jumps at its end (57 ε/σ²), which tables of pairs near along the chain round."""
RELATIVE_LIMIT = 1.0e-4
"""Largest force difference over the root mean square force, of the whole model."""
DEPLOY = "deploy"
"""Folder of the files for chemtrain-deploy, beside the bundle."""
DEPLOY_NAME, JAX_NAME = ".ptb in two domains", "lammps-jax in two domains"
APART_A = 1.0e3
ROOM_K = 300.0
COLUMNS = ("check", "found", "limit", "result")


class Row(NamedTuple):
    """One verification. passed: None where it could not be done, for the reason that `found` gives."""

    name: str
    found: float | str
    limit: float | str
    passed: bool | None

    @property
    def verdict(self) -> str:
        """The result in one word."""
        return {True: "passed", False: "FAILED", None: "not done"}[self.passed]


def table(rows: list[Row]) -> Table:
    """The rows as a table of a page."""
    return Table(COLUMNS, [(*row[:3], row.verdict) for row in rows])


def at_once(loaded: Loaded) -> list[Row]:
    """The verifications that need no other process: an export that fails one of them is not kept."""
    return [row for check in AT_ONCE for row in check(loaded)]


def in_full(path: Path, console: Console, digest: str | None = None) -> list[Row]:
    """All verifications of the bundle at a path. Raises InputError on one that cannot be read."""
    console.say(f"{path}: reading, compiling and testing")
    loaded = load_model(path, prior_terms, digest)
    rows = at_once(loaded)
    for check in IN_OTHER_PROCESSES:
        console.say(f"{check.__name__.strip('_').replace('_', ' ')} …")
        rows += check(loaded, path)
    return rows


def check(path: Path, console: Console, digest: str | None = None) -> None:
    """Print the table and the digest. Raises GateError when a verification failed."""
    rows = in_full(path, console, digest)
    console.table(f"check of {path}", COLUMNS, table(rows).rows)
    failed = [row.name for row in rows if row.passed is False]
    if failed:
        raise GateError(f"{path} failed: {', '.join(failed)}")


def check_stage(root: Path, console: Console) -> None:
    """`check` of the bundle of an export stage. One that fails is renamed to export.failed: no later stage
    takes it."""
    folder = require(root, "export", "export --check")
    try:
        check(folder / "bundle", console)
    except (GateError, InputError):
        aside = folder.with_name("export.failed")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        raise


def _files(loaded: Loaded) -> list[Row]:
    bundle = loaded.bundle
    count = len(check_seal(bundle.folder))
    return [Row(f"hashes of {count} files, digest {bundle.digest[:12]}", "equal", "equal", True)]


def _self_test(loaded: Loaded) -> list[Row]:
    tested = loaded.bundle.selftest
    if tested is None:
        return [Row("self-test of the network", "no network", "", None)]
    found, limit = tested.max_force_error, tested.force_limit
    return [Row("self-test: network against float64, force, kcal/mol/Å", found, limit, found <= limit)]


def _native_priors(loaded: Loaded) -> list[Row]:
    """The terms that the facts and parameters of the bundle make, against the stored reference."""
    bundle = loaded.bundle
    names = bundle.prior_names
    made = term_values(loaded.model.only(names), loaded.params, bundle.topology, bundle.positions)
    worst = max((_difference(made[name], bundle.reference[name]) for name in names), default=0.0)
    passed = worst <= PRIOR_LIMIT
    return [Row("prior terms made again, against float64, kcal/mol(/Å)", worst, PRIOR_LIMIT, passed)]


def _difference(one: TermValues, other: TermValues) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def _operations(loaded: Loaded) -> list[Row]:
    folder = loaded.bundle.folder
    if loaded.bundle.network is None:
        return []
    text = (folder / TEXT).read_text()
    odd, same = portable.unreadable(text), portable.read_artifact((folder / STABLEHLO).read_bytes()) == text
    return [
        Row("operations that other consumers lack", ", ".join(odd) or "none", "none", not odd),
        Row("bytes and text of the network", "equal" if same else "differ", "equal", same),
    ]


def _any_size(loaded: Loaded) -> list[Row]:
    """The program on half of the protein, alone and as one of two molecules far apart."""
    bundle = loaded.bundle
    if bundle.network is None or bundle.selftest is None:
        return []
    n = max(1, bundle.topology.n_beads // 2)
    x, species = bundle.positions[0][:n], bundle.topology.species[:n]
    other, rest = bundle.positions[-1], bundle.topology.species
    far = other - other.mean(axis=0) + x.mean(axis=0) + np.array([APART_A, 0.0, 0.0])
    alone = bundle.network.of(species)(x)
    both = bundle.network.of(np.concatenate([species, rest]))(np.concatenate([x, far]))
    found = float(np.abs(both.forces[:n] - alone.forces).max())
    # so far apart float32 positions have steps of 1e-4 Å
    limit = 20.0 * bundle.selftest.force_limit
    return [Row(f"{n} beads alone and beside others, force, kcal/mol/Å", found, limit, found <= limit)]


def _fresh_process(loaded: Loaded, path: Path) -> list[Row]:
    tested = loaded.bundle.selftest
    limit = 0.0 if tested is None else tested.force_limit
    name = "fresh process without training code, force, kcal/mol/Å"
    try:
        found = fresh.load(path, loaded.bundle.digest)
    except InputError as error:
        return [Row(name, str(error), limit, False)]
    return [Row(name, found, limit, found <= limit)]


def _lammps(loaded: Loaded, path: Path) -> list[Row]:
    """Forces that act at step 0 in LAMMPS: of the priors alone, and of the whole model."""
    names = "LAMMPS, step 0: prior terms, force, kcal/mol/Å", "LAMMPS, step 0: all, over the rms force"
    try:
        import_lammps()
    except InputError:
        return [Row(name, "lammps is not installed", "", None) for name in names]
    bundle = loaded.bundle
    temperature_K = bundle.meta["temperature_K"] or ROOM_K
    settings = RunSettings(steps=1, timestep_fs=1.0, temperature_K=temperature_K, friction_per_ps=1.0)
    priors = loaded.model.only(bundle.prior_names)
    expected = {name: values.forces[0] for name, values in bundle.reference.items()}
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch) / "lammps"
        write_molecule(files, priors, loaded.params, bundle.topology, bundle.positions[0], "priors")
        try:
            alone = run(replace(bundle, network=None, files=files), settings)
            (whole,) = launch(path, settings, Path(scratch) / "run.npz")
        except (SimulationStopped, InputError) as error:
            return [Row(names[1], str(error), RELATIVE_LIMIT, False)]
    assert alone is not None
    own = force_error(alone.forces[0], np.sum([expected[t.name] for t in priors.terms], axis=0)).max_error
    pairs = [t for t in priors.terms if isinstance(t, PairTerm)]
    limit = ROUNDED_LIMIT if any(isinstance(t.scalar, Repulsive) for t in pairs) else TABLE_LIMIT
    all_of_it = force_error(whole.forces[0], np.sum(list(expected.values()), axis=0)).relative
    return [
        Row(names[0], own, limit, own <= limit),
        Row(names[1], all_of_it, RELATIVE_LIMIT, all_of_it <= RELATIVE_LIMIT),
    ]


def _chemtrain_deploy(loaded: Loaded, path: Path) -> list[Row]:
    """The .ptb beside the bundle, in two emulated domains, against the stored reference."""
    bundle, folder = loaded.bundle, path.parent / DEPLOY
    if bundle.meta["network"] is None or not folder.is_dir():
        return []
    frames, exact = at_ends(bundle)
    try:
        return deploy_rows(deploy_files.check(folder, bundle.topology, frames, exact))
    except InputError as error:
        return [Row(DEPLOY_NAME, str(error), deploy_files.TOLERANCE, False)]


def at_ends(bundle: Bundle) -> tuple[np.ndarray, TermValues]:
    """First and last of the stored frames, and the network's values there."""
    ends = [0, len(bundle.positions) - 1]
    exact = bundle.reference[bundle.meta["network"]["name"]]
    return bundle.positions[ends], TermValues(*(values[ends] for values in exact))


def deploy_rows(found: deploy_files.DeployCheck) -> list[Row]:
    """The rows of a check of a .ptb file."""
    limit = deploy_files.TOLERANCE
    named = {
        "newton on, over the rms force": found.newton_on,
        "newton off, over the rms force": found.newton_off,
        "energy, kcal/mol a bead": found.energy,
    }
    return [Row(f"{DEPLOY_NAME}, {name}", value, limit, value <= limit) for name, value in named.items()]


def _lammps_jax(loaded: Loaded, path: Path) -> list[Row]:
    """The bundle of lammps-jax beside the bundle, in two emulated domains, against the stored reference."""
    bundle, file = loaded.bundle, path.parent / lammps_jax.FILE
    if bundle.meta["network"] is None or not file.is_file():
        return []
    frames, exact = at_ends(bundle)
    try:
        return lammps_jax_rows(lammps_jax.check(file, bundle.topology, frames, exact))
    except InputError as error:
        return [Row(JAX_NAME, str(error), deploy_files.TOLERANCE, False)]


def lammps_jax_rows(found: lammps_jax.LammpsJaxCheck) -> list[Row]:
    """The rows of a check of a bundle of lammps-jax."""
    limit = deploy_files.TOLERANCE
    named = {"over the rms force": found.force, "energy, kcal/mol a bead": found.energy}
    return [Row(f"{JAX_NAME}, {name}", value, limit, value <= limit) for name, value in named.items()]


AT_ONCE: tuple[Callable[[Loaded], list[Row]], ...] = (
    _files, _self_test, _native_priors, _operations, _any_size,
)  # fmt: skip
IN_OTHER_PROCESSES: tuple[Callable[[Loaded, Path], list[Row]], ...] = (
    _fresh_process,
    _lammps,
    _chemtrain_deploy,
    _lammps_jax,
)
