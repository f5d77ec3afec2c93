"""The bundle: everything another program needs to run proteins with the model, as one folder or zip.

    meta.json            signature, units, cutoff, species order, rules of the topology, prior facts, versions
    network.stablehlo    the network as portable StableHLO (program.py), and as text in network.mlir;
                         both absent when the model is priors alone
    priors.npz           parameters of the prior terms, whose facts are in meta.json (loaded.py)
    reference.npz        a protein, and frames with energy, forces and virial of each term in float64
    lammps/              data, tables, coefficients and input script of that protein (lammps_native.py)
    SHA256SUMS           hash of every file (sealed.py); its own hash is the digest of the bundle

Nothing but reference.npz and lammps/ is of one protein: the program takes any number of beads and edges, and
the topology of another protein is made of its residues and chains. Reading one needs jax and numpy, and
nothing of the code that trained the model.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import cgrefine
from cgrefine.artifacts import read_json, write_json
from cgrefine.checkpoint import load_params, save_params
from cgrefine.config.running import Export
from cgrefine.energy import BondedTerm, NetworkTerm, PairTerm, ProgramTerm, SumOfTerms, Term
from cgrefine.errors import InputError
from cgrefine.export import program
from cgrefine.export.lammps_native import write_files
from cgrefine.export.network_program import NetworkProgram
from cgrefine.export.portable import PLATFORM
from cgrefine.export.sealed import ZIP, Unpacked, check_seal, digest_of, replace_folder, seal, write_zip
from cgrefine.export.verify import TermValues, force_error, force_limit, term_values
from cgrefine.residues import CAPS, N_SPECIES, RESIDUE_MASSES, RESIDUES
from cgrefine.system import CHAIN_GAP, CIS_BOND, Topology
from cgrefine.versions import refuse_miscompiling

FORMAT = 4
META, REFERENCE, PRIORS, LAMMPS = "meta.json", "reference.npz", "priors.npz", "lammps"
STABLEHLO, TEXT = "network.stablehlo", "network.mlir"
MOLECULE = "molecule.npz"
"""Topology of the protein that LAMMPS files are of, beside them."""
UNITS = {
    "length": "Å",
    "energy": "kcal/mol",
    "force": "kcal/mol/Å",
    "virial": "kcal/mol, sum of x F, order xx yy zz xy xz yz",
    "mass": "g/mol",
    "angle": "rad",
}
RULES = {
    "bead": "Cα of each residue",
    "bonded": "residues that follow one another in a chain, in bonds, angles and dihedrals",
    "types": f"{N_SPECIES} a + b of the species of a bond's beads, of the last two of an angle, of the "
    f"middle two of a dihedral; + {CIS_BOND} for a cis bond",
    "separation": f"difference of the numbers along the sequence, + {CHAIN_GAP} at each chain break",
    "caps_left_out": sorted(CAPS),
    "masses_g_mol": list(RESIDUE_MASSES),
}
"""What the topology of a protein is made by, as meta.json has it."""


class SelfTest(NamedTuple):
    """The compiled network against the reference: largest differences, and the limit for forces."""

    max_force_error: float
    max_energy_error: float
    max_virial_error: float
    force_limit: float


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read, checked and self-tested.

    topology: of the protein that network and LAMMPS files are of, which is that of the reference frames
    unless `load_bundle` was given another. network is None when the model is priors alone. reference: values
    by term name at `positions` (f, n, 3) Å. files: folder of LAMMPS files, by default those of the bundle.
    digest: see `sealed`. unpacked: what a zip was unpacked into.
    """

    folder: Path
    meta: dict[str, Any]
    topology: Topology
    positions: np.ndarray
    reference: dict[str, TermValues]
    network: NetworkProgram | None
    selftest: SelfTest | None
    files: Path | None = None
    digest: str = ""
    unpacked: Unpacked | None = None

    @property
    def lammps(self) -> Path:
        """Folder of the LAMMPS files."""
        return self.folder / LAMMPS if self.files is None else self.files

    @property
    def prior_names(self) -> tuple[str, ...]:
        """Names of the terms that are not the network."""
        return tuple(t["name"] for t in self.meta["terms"] if t["kind"] != "network")


def write_bundle(
    path: Path,
    model: SumOfTerms,
    params: Any,
    topology: Topology,
    positions: np.ndarray,
    name: str,
    settings: Export,
    facts: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle into a new folder, or as a zip where the path ends in .zip, and load it.

    topology and positions (f, n, 3) Å: the protein called `name` and its frames, settings.reference_frames
    of which, evenly spaced, are the reference. facts: `priors`, which make the prior terms again, and
    `temperature_K` of the model; without them only LAMMPS runs the bundle, for this protein. The bundle is
    read back and tested under a temporary name: a path that appears has passed. Raises ValueError when the
    model cannot leave: more than one network, a damping LAMMPS does not have, or an operation that is not
    portable. Raises InputError when the bundle fails its test.
    """
    partial = path.with_name(f".{path.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        _write(partial, model, params, topology, positions, name, settings, facts)
        bundle = load_bundle(partial)
        if path.suffix == ZIP:
            write_zip(partial, path)
            return load_bundle(path, bundle.digest)
        replace_folder(partial, path)
        return replace(bundle, folder=path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    folder: Path,
    model: SumOfTerms,
    params: Any,
    topology: Topology,
    positions: np.ndarray,
    name: str,
    settings: Export,
    facts: Mapping[str, Any] | None,
) -> None:
    if any(isinstance(t, ProgramTerm) for t in model.terms):
        raise ValueError("the model of a bundle is not exported again: export the one that it was made of")
    networks = [t for t in model.terms if isinstance(t, NetworkTerm)]
    if len(networks) > 1:
        raise ValueError(f"a bundle holds one network, found {[t.name for t in networks]}")
    folder.mkdir(parents=True)
    chosen = np.linspace(0, len(positions) - 1, min(settings.reference_frames, len(positions))).astype(int)
    frames = np.asarray(positions[chosen], np.float64)
    described = _write_network(folder, networks[0], params, settings) if networks else None
    _write_reference(folder / REFERENCE, topology, frames, term_values(model, params, topology, frames))
    priors = {t.name: params[t.name] for t in model.terms if not isinstance(t, NetworkTerm)}
    save_params(folder / PRIORS, priors)
    write_molecule(folder / LAMMPS, model, params, topology, frames[0], name)
    meta = {
        "format": FORMAT,
        "reference_protein": name,
        "units": UNITS,
        "species_order": RESIDUES,
        "topology": RULES,
        "temperature_K": None if facts is None else facts["temperature_K"],
        "cutoff_A": model.cutoff_A,
        "terms": [_described(t) for t in model.terms],
        "priors": None if facts is None else facts["priors"],
        "network": described,
        "versions": {
            "cgrefine": cgrefine.__version__,
            **{p: metadata.version(p) for p in ("jax", "jaxlib", "numpy")},
        },
    }
    write_json(folder / META, meta)
    seal(folder)


def write_molecule(
    folder: Path, model: SumOfTerms, params: Any, topology: Topology, start: np.ndarray, name: str
) -> None:
    """Write the LAMMPS files of a protein, and its topology, into a new folder; start (n, 3) Å.

    Raises ValueError on a damping that LAMMPS does not have.
    """
    write_files(folder, model, params, topology, start, name)
    save_params(folder / MOLECULE, _arrays(topology))


def load_bundle(path: Path, digest: str | None = None, files: Path | None = None) -> Bundle:
    """Read a bundle, check every file, compile the network for this machine and test it.

    digest: what the hash of its list of hashes must be, if it is known. files: LAMMPS files to run in place
    of those of the bundle; where they have a topology of their own (`write_molecule`) it is of that protein.
    InputError: a file is missing or changed; format, units, species or rules are not those of this version;
    this jaxlib computes wrong numbers; or the compiled network disagrees with the reference frames.
    """
    refuse_miscompiling()
    unpacked = Unpacked(path)
    folder = unpacked.folder
    meta = _checked_meta(folder, path)
    check_seal(folder, digest)
    stored = load_params(folder / REFERENCE)
    topology = Topology(**stored["topology"])
    reference = {t["name"]: TermValues(**stored["terms"][t["name"]]) for t in meta["terms"]}
    network, tested, described = None, None, meta["network"]
    if described is not None:
        artifact = (folder / STABLEHLO).read_bytes()
        network = NetworkProgram(artifact, topology.species, described["cutoff_A"])
        tested = self_test(network, stored["positions"], reference[described["name"]])
        _enforce(tested, path)
    if files is not None and (files / MOLECULE).is_file():
        topology = Topology(**load_params(files / MOLECULE))
        network = None if network is None else network.of(topology.species)
    found = digest_of(folder)
    values = (stored["positions"], reference, network, tested)
    return Bundle(folder, meta, topology, *values, files=files, digest=found, unpacked=unpacked)


def read_meta(path: Path) -> dict[str, Any]:
    """meta.json of a bundle, of this format, units and rules, without a look at the other files."""
    unpacked = Unpacked(path)
    return _checked_meta(unpacked.folder, path)


def _checked_meta(folder: Path, path: Path) -> dict[str, Any]:
    """meta.json. InputError, which names `path`, on one that is not what this version writes."""
    meta = read_json(folder / META)
    if not isinstance(meta, dict) or "format" not in meta:
        raise InputError(f"{path}: {META} is not that of a bundle")
    if meta["format"] != FORMAT:
        raise InputError(
            f"{path}: a bundle of format {meta['format']}, and this version reads format {FORMAT}: export it "
            "again with this version"
        )
    for key, expected in (("units", UNITS), ("species_order", list(RESIDUES)), ("topology", RULES)):
        if meta.get(key) != expected:
            raise InputError(f"{path}: {META}: {key} {_difference(meta.get(key), expected)}")
    described = meta["network"]
    if described is not None and described["signature"] != program.signature():
        raise InputError(f"{path}: {META}: the network's signature is not the one of format {FORMAT}")
    return meta


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        key = next(k for k in {**expected, **found} if found.get(k) != expected.get(k))
        return f"of {key} is {found.get(key)!r}, this version has {expected.get(key)!r}"
    return f"is {found!r}, this version has {expected!r}"


def self_test(network: NetworkProgram, positions: np.ndarray, reference: TermValues) -> SelfTest:
    """Run the compiled network on the reference frames (f, n, 3) Å and compare."""
    values = [network(frame) for frame in positions]
    found = force_error(np.stack([v.forces for v in values]), reference.forces)
    return SelfTest(
        max_force_error=found.max_error,
        max_energy_error=float(np.abs(np.array([v.energy for v in values]) - reference.energy).max()),
        max_virial_error=float(np.abs(np.stack([v.virial for v in values]) - reference.virial).max()),
        force_limit=force_limit(found.rms),
    )


def _enforce(tested: SelfTest, path: Path) -> None:
    # Not `error > limit`: a NaN must fail as well.
    if not tested.max_force_error <= tested.force_limit:
        raise InputError(
            f"{path}: the network compiled here is wrong: its forces differ from the stored reference by "
            f"{tested.max_force_error:.3g} kcal/mol/Å, allowed is {tested.force_limit:.3g} "
            f"(jaxlib {metadata.version('jaxlib')})"
        )


def _write_network(folder: Path, term: NetworkTerm, params: Any, settings: Export) -> dict[str, Any]:
    portable = program.build(term, params[term.name], settings.stablehlo_target)
    (folder / STABLEHLO).write_bytes(portable.artifact)
    (folder / TEXT).write_text(portable.text)
    return {
        "name": term.name,
        "file": STABLEHLO,
        "text": TEXT,
        "stablehlo_target": settings.stablehlo_target,
        "platform": PLATFORM,
        "cutoff_A": term.cutoff_A,
        "hops": term.hops,
        "signature": program.signature(),
    }


def _write_reference(
    path: Path, topology: Topology, frames: np.ndarray, values: Mapping[str, TermValues]
) -> None:
    terms = {name: term._asdict() for name, term in values.items()}
    save_params(path, {"topology": _arrays(topology), "positions": frames, "terms": terms})


def _arrays(topology: Topology) -> dict[str, np.ndarray]:
    return {field.name: getattr(topology, field.name) for field in fields(topology)}


def _described(term: Term) -> dict[str, Any]:
    """A term in meta.json: its kind, cutoff (Å), damping of angles (rad) or window of separations."""
    if isinstance(term, BondedTerm):
        own = {"kind": term.kind, "damping": term.damping}
    elif isinstance(term, PairTerm):
        own = {"kind": "pair", "min_separation": term.min_separation, "max_separation": term.max_separation}
    else:
        own = {"kind": "network"}
    return {"name": term.name, "cutoff_A": term.cutoff_A, **own}
