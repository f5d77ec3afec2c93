"""The bundle: everything another program needs to run one molecule with the model, in one folder.

    meta.json            signature, units, cutoff, species order, capacities, versions, sha256 of every file
    network.stablehlo    the network as portable StableHLO (program.py), and as text in network.mlir;
                         both absent when the model is priors alone
    priors.npz           parameters of the prior terms, whose facts are in meta.json (loaded.py)
    reference.npz        topology, and frames with energy, forces and virial of each term in float64
    lammps/              data, tables, coefficients and input script of the priors (lammps_native.py)

Reading one needs jax and numpy, and nothing of the code that trained the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import cgrefine
from cgrefine.artifacts import file_hash, read_json, write_json
from cgrefine.checkpoint import load_params, save_params
from cgrefine.config.running import Export
from cgrefine.energy import BondedTerm, NetworkTerm, PairTerm, ProgramTerm, SumOfTerms, Term
from cgrefine.errors import InputError
from cgrefine.export import program
from cgrefine.export.lammps_native import write_files
from cgrefine.export.program import NetworkProgram
from cgrefine.export.verify import TermValues, force_error, term_values
from cgrefine.residues import RESIDUES
from cgrefine.system import Topology
from cgrefine.versions import refuse_miscompiling

FORMAT = 2
META, REFERENCE, PRIORS, LAMMPS = "meta.json", "reference.npz", "priors.npz", "lammps"
STABLEHLO, TEXT = "network.stablehlo", "network.mlir"
UNITS = {
    "length": "Å",
    "energy": "kcal/mol",
    "force": "kcal/mol/Å",
    "virial": "kcal/mol, sum of x F, order xx yy zz xy xz yz",
    "mass": "g/mol",
    "angle": "rad",
}
FORCE_TOLERANCE_KCAL_MOL_A = 1.0e-3
RELATIVE_TOLERANCE = 1.0e-4
"""The self-test passes when forces are within the larger of 1e-3 kcal/mol/Å and 1e-4 of their rms."""


class SelfTest(NamedTuple):
    """The compiled network against the reference: largest differences, and the limit for forces."""

    max_force_error: float
    max_energy_error: float
    max_virial_error: float
    force_limit: float


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read, checked and self-tested.

    network is None when the model is priors alone. reference: values by term name at `positions`
    (f, n, 3) Å.
    """

    folder: Path
    meta: dict[str, Any]
    topology: Topology
    positions: np.ndarray
    reference: dict[str, TermValues]
    network: NetworkProgram | None
    selftest: SelfTest | None

    @property
    def lammps(self) -> Path:
        """Folder of the LAMMPS files."""
        return self.folder / LAMMPS


def write_bundle(
    folder: Path,
    model: SumOfTerms,
    params: Any,
    topology: Topology,
    positions: np.ndarray,
    name: str,
    settings: Export,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the bundle of one molecule into a new folder.

    positions (f, n, 3) Å: frames of the molecule; all of them decide how many edges the network has room
    for, and settings.reference_frames of them, evenly spaced, are the reference. facts: `priors`, which make
    the prior terms again, and `temperature_K` of the model; without them only LAMMPS runs the bundle. Raises
    ValueError when the model cannot leave: more than one network, a damping LAMMPS does not have, or an
    operation that is not portable.
    """
    if any(isinstance(t, ProgramTerm) for t in model.terms):
        raise ValueError("the model of a bundle is not exported again: export the one that it was made of")
    networks = [t for t in model.terms if isinstance(t, NetworkTerm)]
    if len(networks) > 1:
        raise ValueError(f"a bundle holds one network, found {[t.name for t in networks]}")
    folder.mkdir(parents=True)
    chosen = np.linspace(0, len(positions) - 1, min(settings.reference_frames, len(positions))).astype(int)
    frames = np.asarray(positions[chosen], np.float64)
    described = None
    if networks:
        described = _write_network(folder, networks[0], params, positions, settings)
    _write_reference(folder / REFERENCE, topology, frames, term_values(model, params, topology, frames))
    priors = {t.name: params[t.name] for t in model.terms if not isinstance(t, NetworkTerm)}
    save_params(folder / PRIORS, priors)
    write_files(folder / LAMMPS, model, params, topology, frames[0], name)
    meta = {
        "format": FORMAT,
        "domain": name,
        "units": UNITS,
        "species_order": RESIDUES,
        "n_beads": topology.n_beads,
        "temperature_K": None if facts is None else facts["temperature_K"],
        "terms": [_described(t) for t in model.terms],
        "priors": None if facts is None else facts["priors"],
        "network": described,
        "versions": {
            "cgrefine": cgrefine.__version__,
            **{p: metadata.version(p) for p in ("jax", "jaxlib", "numpy")},
        },
        "sha256": {str(p.relative_to(folder)): file_hash(p) for p in _files(folder)},
    }
    write_json(folder / META, meta)


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle, check every file, compile the network for this machine and test it.

    InputError: a file is missing or changed, the format is unknown, this jaxlib computes wrong numbers,
    or the compiled network disagrees with the reference frames.
    """
    refuse_miscompiling()
    meta = read_json(folder / META)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise InputError(f"{folder / META}: not a bundle of format {FORMAT}")
    _check_files(folder, meta["sha256"])
    stored = load_params(folder / REFERENCE)
    topology = Topology(**stored["topology"])
    reference = {t["name"]: TermValues(**stored["terms"][t["name"]]) for t in meta["terms"]}
    network, tested, described = None, None, meta["network"]
    if described is not None:
        if described["signature"] != program.signature(topology.n_beads, described["n_edges"]):
            raise InputError(f"{folder / META}: the network's signature is not the one of format {FORMAT}")
        artifact = (folder / STABLEHLO).read_bytes()
        network = program.load(artifact, topology.species, described["n_edges"], described["cutoff_A"])
        tested = self_test(network, stored["positions"], reference[described["name"]])
        _enforce(tested, folder)
    return Bundle(folder, meta, topology, stored["positions"], reference, network, tested)


def self_test(network: NetworkProgram, positions: np.ndarray, reference: TermValues) -> SelfTest:
    """Run the compiled network on the reference frames (f, n, 3) Å and compare."""
    values = [network(frame) for frame in positions]
    found = force_error(np.stack([v.forces for v in values]), reference.forces)
    return SelfTest(
        max_force_error=found.max_error,
        max_energy_error=float(np.abs(np.array([v.energy for v in values]) - reference.energy).max()),
        max_virial_error=float(np.abs(np.stack([v.virial for v in values]) - reference.virial).max()),
        force_limit=max(FORCE_TOLERANCE_KCAL_MOL_A, RELATIVE_TOLERANCE * found.rms),
    )


def _enforce(tested: SelfTest, folder: Path) -> None:
    # Not `error > limit`: a NaN must fail as well.
    if not tested.max_force_error <= tested.force_limit:
        raise InputError(
            f"{folder}: the network compiled here is wrong: its forces differ from the stored reference by "
            f"{tested.max_force_error:.3g} kcal/mol/Å, allowed is {tested.force_limit:.3g} "
            f"(jaxlib {metadata.version('jaxlib')})"
        )


def _write_network(
    folder: Path, term: NetworkTerm, params: Any, positions: np.ndarray, settings: Export
) -> dict[str, Any]:
    n_beads = positions.shape[1]
    n_edges = program.edge_capacity(positions, term.cutoff_A, settings.edge_headroom)
    portable = program.build(term, params[term.name], n_beads, n_edges, settings.stablehlo_target)
    (folder / STABLEHLO).write_bytes(portable.artifact)
    (folder / TEXT).write_text(portable.text)
    return {
        "name": term.name,
        "file": STABLEHLO,
        "text": TEXT,
        "stablehlo_target": settings.stablehlo_target,
        "platform": program.PLATFORM,
        "cutoff_A": term.cutoff_A,
        "hops": term.hops,
        "n_edges": n_edges,
        "signature": program.signature(n_beads, n_edges),
    }


def _write_reference(
    path: Path, topology: Topology, frames: np.ndarray, values: Mapping[str, TermValues]
) -> None:
    arrays = {field.name: getattr(topology, field.name) for field in fields(topology)}
    terms = {name: term._asdict() for name, term in values.items()}
    save_params(path, {"topology": arrays, "positions": frames, "terms": terms})


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: a file of the bundle is missing")
        if file_hash(path) != expected:
            raise InputError(f"{path}: the content is not what {META} records (sha256 differs)")


def _described(term: Term) -> dict[str, Any]:
    """A term in meta.json: its kind, cutoff (Å), damping of angles (rad) or window of separations."""
    if isinstance(term, BondedTerm):
        own = {"kind": term.kind, "damping": term.damping}
    elif isinstance(term, PairTerm):
        own = {"kind": "pair", "min_separation": term.min_separation, "max_separation": term.max_separation}
    else:
        own = {"kind": "network"}
    return {"name": term.name, "cutoff_A": term.cutoff_A, **own}
