"""Make the sample data set: three capped peptides, all-atom MD in implicit solvent, one mdCATH file each.

    python scripts/make_sample.py --out DIR [--domains NAME ...] [--frames N] [--interval-ps X]

Files follow mdCATH's layout `mdcath-only-protein-v1.0` (coordinates in Å on the 0.01 Å grid that XTC
leaves, forces in kcal/mol/Å, contiguous float32); `provenance.json` beside them says how they were made.
The forces are those of the force field alone, without the constraint forces that hold X-H bonds.
The runs are short (tens of ps) and start from built structures: they teach local forces, not populations.
"""

import argparse
import hashlib
import io
import json
import logging
import os
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import mdtraj
import numpy as np

try:
    import openmm
    import PeptideBuilder
    from openmm import app, unit
except ModuleNotFoundError as missing:
    sys.exit(f'make_sample needs {missing.name}, which is not installed: pip install "cgrefine[reference]"')

log = logging.getLogger("make_sample")

LAYOUT = "mdcath-only-protein-v1.0"
FORCE_FIELD = ("amber14/protein.ff14SB.xml", "implicit/gbn2.xml")
TIMESTEP_FS = 4.0
FRICTION_PER_PS = 1.0
HYDROGEN_MASS = 4.0  # g/mol
WARM_UP_PS = 4.0
WARM_UP_FRICTION_PER_PS = 10.0  # ten times the recorded runs' friction: 4 ps are many relaxation times
TEMPERATURES_K = (320, 450)
REPLICAS = (0, 1)
BOX_NM = 10.0  # nominal: the simulation has no box; the peptide starts at its centre
GRID_A = 0.01
MAX_FILE_BYTES = 4_900_000

HELIX = (-57.0, -47.0)
EXTENDED = (-75.0, 145.0)  # polyproline II, which proline allows too
TURN_II = ((-60.0, 130.0), (80.0, 0.0))

# OpenMM's tables know no amide cap. Same form as its hydrogens.xml and residues.xml.
NHE_HYDROGENS = """<Residues><Residue name="NHE">
<H name="HN1" parent="N"/><H name="HN2" parent="N"/></Residue></Residues>"""
NHE_BONDS = """<Residues><Residue name="NHE"><Bond from="-C" to="N"/>
<Bond from="N" to="HN1"/><Bond from="N" to="HN2"/></Residue></Residues>"""

THREE_LETTER = {
    "A": "ALA", "R": "ARG", "N": "ASN", "D": "ASP", "C": "CYS", "Q": "GLN", "E": "GLU", "G": "GLY",
    "H": "HIS", "I": "ILE", "L": "LEU", "K": "LYS", "M": "MET", "F": "PHE", "P": "PRO", "S": "SER",
    "T": "THR", "W": "TRP", "Y": "TYR", "V": "VAL",
}  # fmt: skip


class Domain(NamedTuple):
    """A peptide between an acetyl cap and `c_cap` (NHE: amide, NME: N-methyl amide).

    phi_psi: starting torsions of each residue, degrees; every peptide bond starts trans.
    frames, interval_ps: frames of each run and the time between them, unless the command line says otherwise.
    """

    sequence: str
    c_cap: str
    phi_psi: tuple[tuple[float, float], ...]
    frames: int
    interval_ps: float


DOMAINS = {
    "aaqaa3": Domain("AAQAA" * 3, "NHE", (HELIX,) * 15, 150, 0.32),
    "helix25": Domain(
        "GSDETLRKWFEMVNKHIRSYCLGNP", "NME", (EXTENDED,) * 2 + (HELIX,) * 16 + (EXTENDED,) * 7, 100, 0.16
    ),
    "gpturn10": Domain("GPSGPGYGPG", "NME", (EXTENDED,) * 4 + TURN_II + (EXTENDED,) * 4, 160, 0.4),
}


class Peptide(NamedTuple):
    """An all-atom peptide ready to run. positions_A: (atoms, 3), minimised. charges: (atoms,), e."""

    topology: app.Topology
    system: openmm.System
    positions_A: np.ndarray
    charges: np.ndarray


class Run(NamedTuple):
    """positions_A: (frames, atoms, 3), Å, not rounded; forces: same shape, kcal/mol/Å; both float64.

    temperature_K: kinetic temperature, mean over the frames.
    """

    positions_A: np.ndarray
    forces: np.ndarray
    temperature_K: float


def seed_of(name: str, temperature_K: int, replica: int) -> int:
    """Seed of velocities and noise; of the domain's table row, not of the order of the runs."""
    return 100_000 * (1 + list(DOMAINS).index(name)) + 10 * temperature_K + replica


# --- building


def heavy_atoms(domain: Domain) -> tuple[app.Topology, np.ndarray]:
    """Topology (heavy atoms, no bonds yet) and positions in Å.

    A glycine is built at either end and cut down to the cap: CA C O of the first is acetyl,
    N (CA) of the last the amide.
    """
    geos = [PeptideBuilder.Geometry.geometry(aa) for aa in f"G{domain.sequence}G"]
    torsions = ((0.0, 180.0), *domain.phi_psi, (180.0, 180.0))
    for geo, (phi, _), (_, psi_before) in zip(geos[1:], torsions[1:], torsions, strict=False):
        geo.phi, geo.psi_im1, geo.omega = phi, psi_before, 180.0
    built = PeptideBuilder.PeptideBuilder.initialize_res(geos[0])
    for geo in geos[1:]:
        PeptideBuilder.PeptideBuilder.add_residue_from_geo(built, geo)

    names = ["ACE", *(THREE_LETTER[aa] for aa in domain.sequence), domain.c_cap]
    cap_atoms = {"ACE": {"CA": "CH3", "C": "C", "O": "O"}, "NHE": {"N": "N"}, "NME": {"N": "N", "CA": "C"}}
    topology, positions = app.Topology(), []
    chain = topology.addChain("0")
    for number, (name, residue) in enumerate(zip(names, built.get_residues(), strict=True), start=1):
        new = topology.addResidue(name, chain, str(number))
        for atom in residue:
            kept = cap_atoms[name].get(atom.name) if name in cap_atoms else atom.name
            if kept is not None:
                topology.addAtom(kept, app.Element.getBySymbol(atom.element), new)
                positions.append(atom.coord)
    return topology, np.array(positions, dtype=np.float64)


def build(domain: Domain) -> Peptide:
    """Heavy atoms, hydrogens (pH 7, histidine protonated at Nε), force field, minimised."""
    app.Modeller.loadHydrogenDefinitions(io.StringIO(NHE_HYDROGENS))
    app.Topology.loadBondDefinitions(io.StringIO(NHE_BONDS))
    topology, positions = heavy_atoms(domain)
    topology.createStandardBonds()
    force_field = app.ForceField(*FORCE_FIELD)
    modeller = app.Modeller(topology, positions * unit.angstrom)
    random.seed(1)  # addHydrogens starts each hydrogen from a random place, then minimises
    modeller.addHydrogens(
        force_field,
        variants=["HIE" if residue.name == "HIS" else None for residue in topology.residues()],
        platform=openmm.Platform.getPlatformByName("Reference"),
    )
    for residue in modeller.topology.residues():
        if residue.name == "HIS":
            residue.name = "HSE"  # mdCATH names histidines by protonation, the CHARMM way
    system = force_field.createSystem(
        modeller.topology,
        nonbondedMethod=app.NoCutoff,
        constraints=app.HBonds,
        hydrogenMass=HYDROGEN_MASS * unit.amu,
        removeCMMotion=False,
    )
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    charges = [nonbonded.getParticleParameters(i)[0] for i in range(system.getNumParticles())]
    peptide = Peptide(
        modeller.topology,
        system,
        np.array(modeller.positions.value_in_unit(unit.angstrom)),
        np.array([charge.value_in_unit(unit.elementary_charge) for charge in charges]),
    )
    return peptide._replace(positions_A=minimised(peptide))


def context_of(peptide: Peptide, integrator: openmm.Integrator) -> openmm.Context:
    """One thread and ordered sums, so that a seed gives the same trajectory again on the same build."""
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(
        peptide.system, integrator, platform, {"Threads": "1", "DeterministicForces": "true"}
    )
    context.setPositions(peptide.positions_A * unit.angstrom)
    return context


def minimised(peptide: Peptide) -> np.ndarray:
    """Positions in Å after minimisation, moved to the centre of the nominal box."""
    context = context_of(peptide, openmm.VerletIntegrator(0.001))
    openmm.LocalEnergyMinimizer.minimize(context, tolerance=1.0)
    positions = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    return positions - positions.mean(axis=0) + 10.0 * BOX_NM / 2


# --- simulating


def simulate(peptide: Peptide, temperature_K: int, seed: int, frames: int, interval_ps: float) -> Run:
    """Warm up, then record `frames` frames, the first one interval after the warm-up."""
    integrator = openmm.LangevinMiddleIntegrator(
        temperature_K * unit.kelvin, FRICTION_PER_PS / unit.picosecond, TIMESTEP_FS * unit.femtosecond
    )
    integrator.setRandomNumberSeed(seed)
    context = context_of(peptide, integrator)
    context.applyConstraints(1e-6)
    context.setVelocitiesToTemperature(temperature_K * unit.kelvin, seed)
    integrator.setFriction(WARM_UP_FRICTION_PER_PS / unit.picosecond)
    integrator.step(steps_in(WARM_UP_PS))
    integrator.setFriction(FRICTION_PER_PS / unit.picosecond)
    positions = np.empty((frames, peptide.system.getNumParticles(), 3))
    forces, kinetic = np.empty_like(positions), np.empty(frames)
    for i in range(frames):
        integrator.step(steps_in(interval_ps))
        state = context.getState(positions=True, forces=True, energy=True)
        positions[i] = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        forces[i] = state.getForces(asNumpy=True).value_in_unit(unit.kilocalorie_per_mole / unit.angstrom)
        kinetic[i] = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
    freedoms = 3 * peptide.system.getNumParticles() - peptide.system.getNumConstraints()
    gas_constant = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
    return Run(positions, forces, float(2 * kinetic.mean() / (freedoms * gas_constant)))


def steps_in(time_ps: float) -> int:
    """Whole time steps in a time, at least one."""
    steps = round(1000 * time_ps / TIMESTEP_FS)
    if steps < 1 or abs(steps * TIMESTEP_FS - 1000 * time_ps) > 1e-6:
        raise ValueError(f"{time_ps} ps is not a whole number of steps of {TIMESTEP_FS} fs")
    return steps


# --- checking


def atom_table(topology: app.Topology) -> list[dict[str, int]]:
    """For each residue, atom name -> atom index."""
    return [{atom.name: atom.index for atom in residue.atoms()} for residue in topology.residues()]


def check_stereo(peptide: Peptide, positions_A: np.ndarray) -> None:
    """L at every Cα, the natural Cβ of Thr and Ile, and no cis peptide bond except before proline.

    A centre is right where a · (b × c) > 0 for (N, C, CB) around CA, and for (CA, OG1 or CG1, CG2) around CB.
    positions_A: (frames, atoms, 3), Å.
    """
    residues, tables = list(peptide.topology.residues()), atom_table(peptide.topology)
    for residue, table in zip(residues, tables, strict=True):
        centres = [("CA", ("N", "C", "CB"))] if "CB" in table else []
        if residue.name in ("THR", "ILE"):
            centres.append(("CB", ("CA", "OG1" if residue.name == "THR" else "CG1", "CG2")))
        for centre, around in centres:
            a, b, c = (positions_A[:, table[n]] - positions_A[:, table[centre]] for n in around)
            wrong = np.einsum("fi,fi->f", a, np.cross(b, c)) <= 0
            if wrong.any():
                raise ValueError(
                    f"{residue.name} {residue.id}: {centre} is inverted in {wrong.sum()} frames, "
                    f"first {wrong.argmax()}"
                )
    frames = mdtraj.Trajectory(positions_A / 10, mdtraj.Topology.from_openmm(peptide.topology))
    for i in range(1, len(tables)):
        before = tables[i - 1].get("CA", tables[i - 1].get("CH3"))
        after = tables[i].get("CA", tables[i].get("C"))
        if after is None or residues[i].name == "PRO":
            continue
        quad = [before, tables[i - 1]["C"], tables[i]["N"], after]
        cis = np.abs(mdtraj.compute_dihedrals(frames, [quad])[:, 0]) < np.pi / 2
        if cis.any():
            raise ValueError(
                f"{residues[i].name} {residues[i].id}: peptide bond is cis in {cis.sum()} frames, "
                f"first {cis.argmax()}"
            )


def check_run(peptide: Peptide, run: Run, temperature_K: int) -> None:
    """Raise unless finite, at the set temperature, with X-H bonds at their constraints, and stereo intact.

    Temperature: within 6 standard errors of independent frames, plus 2 % because frames are correlated.
    """
    if not (np.isfinite(run.positions_A).all() and np.isfinite(run.forces).all()):
        raise ValueError("a position or force is not finite")
    frames = len(run.positions_A)
    freedoms = 3 * peptide.system.getNumParticles() - peptide.system.getNumConstraints()
    allowed = temperature_K * (6 * np.sqrt(2 / (freedoms * frames)) + 0.02)
    if abs(run.temperature_K - temperature_K) > allowed:
        raise ValueError(
            f"kinetic temperature {run.temperature_K:.1f} K, wanted {temperature_K} ± {allowed:.1f} K"
        )
    rounded = on_grid(run.positions_A).astype(np.float64)
    rounding = np.sqrt(3) * GRID_A + 1e-3  # each end moves by at most half the diagonal of a grid cell
    for k in range(peptide.system.getNumConstraints()):
        i, j, length = peptide.system.getConstraintParameters(k)
        strain = np.linalg.norm(rounded[:, i] - rounded[:, j], axis=-1) - length.value_in_unit(unit.angstrom)
        if np.abs(strain).max() > rounding:
            raise ValueError(
                f"X-H bond {i}-{j} is off its constraint by {np.abs(strain).max():.3f} Å, "
                f"allowed {rounding:.3f}"
            )
    check_stereo(peptide, run.positions_A)


# --- writing


def on_grid(positions_A: np.ndarray) -> np.ndarray:
    """Nearest point of the 0.01 Å grid, as the nearest float32."""
    return np.round(positions_A, 2).astype(np.float32)


def pdb_text(peptide: Peptide, cell: bool) -> str:
    """PDB of the starting structure; every record is ATOM, as for a protein without hetero groups."""
    out = io.StringIO()
    if cell:
        out.write("CRYST1" + f"{10 * BOX_NM:9.3f}" * 3 + "  90.00  90.00  90.00 P 1           1\n")
    app.PDBFile.writeModel(peptide.topology, peptide.positions_A * unit.angstrom, out, keepIds=True)
    return out.getvalue().replace("HETATM", "ATOM  ") + "END\n"


def psf_text(name: str, peptide: Peptide) -> str:
    """X-PLOR PSF with atoms and bonds. Types are element symbols, masses the natural ones, g/mol."""
    atoms, bonds = list(peptide.topology.atoms()), list(peptide.topology.bonds())
    lines = ["PSF", "", f"{2:8d} !NTITLE", f" REMARKS {name}: charges {FORCE_FIELD[0]}"]
    lines += [" REMARKS atom types are element symbols; atoms and bonds only", "", f"{len(atoms):8d} !NATOM"]
    for atom, charge in zip(atoms, peptide.charges, strict=True):
        mass = atom.element.mass.value_in_unit(unit.dalton)
        residue = atom.residue
        lines.append(
            f"{atom.index + 1:8d} {'P0':<4s} {residue.id:<4s} {residue.name:<4s} {atom.name:<4s} "
            f"{atom.element.symbol:<4s} {charge:10.6f}     {mass:9.4f}  {0:10d}"
        )
    lines += ["", f"{len(bonds):8d} !NBOND: bonds"]
    pairs = [f"{bond[0].index + 1:8d}{bond[1].index + 1:8d}" for bond in bonds]
    lines += ["".join(pairs[i : i + 4]) for i in range(0, len(pairs), 4)]
    return "\n".join([*lines, "", ""])


def write_topology(group: h5py.Group, name: str, peptide: Peptide) -> None:
    atoms = list(peptide.topology.atoms())
    group.attrs["numResidues"] = peptide.topology.getNumResidues()
    group.attrs["numProteinAtoms"] = len(atoms)
    group.attrs["numBonds"] = peptide.topology.getNumBonds()
    group.attrs["numChains"] = 1
    text = h5py.string_dtype()
    group.create_dataset("chain", data=["0"] * len(atoms), dtype=text)
    group.create_dataset("element", data=[atom.element.symbol for atom in atoms], dtype=text)
    group.create_dataset("resname", data=[atom.residue.name for atom in atoms], dtype=text)
    group.create_dataset("resid", data=np.array([int(atom.residue.id) for atom in atoms], dtype=np.int64))
    group.create_dataset("z", data=np.array([atom.element.atomic_number for atom in atoms], dtype=np.int64))
    group.create_dataset("pdb", data=pdb_text(peptide, cell=True), dtype=text)
    group.create_dataset("pdbProteinAtoms", data=pdb_text(peptide, cell=False), dtype=text)
    group.create_dataset("psf", data=psf_text(name, peptide), dtype=text)


def write_run(group: h5py.Group, peptide: Peptide, run: Run) -> None:
    """Coordinates, forces and mdCATH's per-frame observables (from the coordinates as written).

    rmsd: Cα, superposed on frame 0. rmsf: Cα about its mean after that superposition; NaN for a cap,
    which has no Cα. gyrationRadius: mass-weighted, all atoms.
    """
    coords = on_grid(run.positions_A)
    frames = mdtraj.Trajectory(coords / 10, mdtraj.Topology.from_openmm(peptide.topology))
    ca = frames.topology.select("name CA")
    masses = np.array([atom.element.mass for atom in frames.topology.atoms])
    fitted = mdtraj.Trajectory(frames.xyz.copy(), frames.topology).superpose(frames, 0, atom_indices=ca)
    spread = fitted.xyz[:, ca].astype(np.float64)
    rmsf = np.full(frames.n_residues, np.nan, dtype=np.float32)
    rmsf[[frames.topology.atom(i).residue.index for i in ca]] = np.sqrt(
        ((spread - spread.mean(axis=0)) ** 2).sum(axis=-1).mean(axis=0)
    )
    datasets = {
        "coords": (coords, "Angstrom"),
        "forces": (run.forces.astype(np.float32), "kcal/mol/Angstrom"),
        "box": (np.eye(3, dtype=np.float32) * BOX_NM, "nm"),
        "rmsd": (mdtraj.rmsd(frames, frames, 0, atom_indices=ca).astype(np.float32), "nm"),
        "gyrationRadius": (mdtraj.compute_rg(frames, masses).astype(np.float64), "nm"),
        "rmsf": (rmsf, "nm"),
        "dssp": (np.asarray(mdtraj.compute_dssp(frames, simplified=False)).astype("S2"), None),
    }
    group.attrs["numFrames"] = len(coords)
    for name, (values, unit_name) in datasets.items():
        dataset = group.create_dataset(name, data=values)
        if unit_name is not None:
            dataset.attrs["unit"] = unit_name


def write_domain(path: Path, name: str, peptide: Peptide, runs: dict[tuple[int, int], Run]) -> None:
    """The whole file under a temporary name, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    with h5py.File(temporary, "w") as file:
        file.attrs["layout"] = LAYOUT
        group = file.create_group(name)
        write_topology(group, name, peptide)
        for (temperature_K, replica), run in runs.items():
            write_run(group.create_group(f"{temperature_K}/{replica}"), peptide, run)
    size = temporary.stat().st_size
    if size > MAX_FILE_BYTES:
        temporary.unlink()
        raise ValueError(f"{path.name}: {size} bytes, allowed {MAX_FILE_BYTES}: ask for fewer frames")
    os.replace(temporary, path)


# --- running


def make_domain(out: Path, name: str, frames: int, interval_ps: float) -> dict:
    """Build, run, check and write one domain; returns its entry for provenance.json."""
    domain = DOMAINS[name]
    peptide = build(domain)
    check_stereo(peptide, peptide.positions_A[None])
    log.info(
        "%s: %d residues with caps, %d atoms",
        name,
        peptide.topology.getNumResidues(),
        peptide.topology.getNumAtoms(),
    )
    runs, entries = {}, []
    for temperature_K in TEMPERATURES_K:
        for replica in REPLICAS:
            seed, start = seed_of(name, temperature_K, replica), time.monotonic()
            run = simulate(peptide, temperature_K, seed, frames, interval_ps)
            check_run(peptide, run, temperature_K)
            runs[temperature_K, replica] = run
            entries.append(
                {
                    "temperature_K": temperature_K,
                    "replica": replica,
                    "seed": seed,
                    "kinetic_temperature_K": round(run.temperature_K, 1),
                }
            )
            log.info(
                "%s %d K replica %d: %d frames, %.1f K, %.0f s",
                name,
                temperature_K,
                replica,
                frames,
                run.temperature_K,
                time.monotonic() - start,
            )
    path = out / f"mdcath_dataset_{name}.h5"
    write_domain(path, name, peptide, runs)
    log.info("%s: %d bytes", path.name, path.stat().st_size)
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "sequence": domain.sequence,
        "caps": ["ACE", domain.c_cap],
        "start_phi_psi_deg": [list(pair) for pair in domain.phi_psi],
        "atoms": peptide.topology.getNumAtoms(),
        "frames_per_run": frames,
        "frame_interval_ps": interval_ps,
        "runs": entries,
    }


def provenance(domains: dict[str, dict]) -> dict:
    """How the files were made, so that the same commands on the same versions make them again."""
    return {
        "layout": LAYOUT,
        "versions": {
            "openmm": openmm.version.version,
            "mdtraj": mdtraj.__version__,
            "h5py": h5py.__version__,
            "numpy": np.__version__,
        },
        "force_field": list(FORCE_FIELD),
        "nonbonded": "NoCutoff",
        "constraints": "HBonds",
        "forces": "force field only, without constraint forces, at the coordinates before rounding",
        "hydrogen_mass_g_per_mol": HYDROGEN_MASS,
        "integrator": "LangevinMiddleIntegrator",
        "friction_per_ps": FRICTION_PER_PS,
        "timestep_fs": TIMESTEP_FS,
        "warm_up_ps": WARM_UP_PS,
        "warm_up_friction_per_ps": WARM_UP_FRICTION_PER_PS,
        "platform": "CPU, Threads=1, DeterministicForces=true",
        "box": f"nominal {BOX_NM} nm cube; the simulation has no box",
        "conventions": "histidine is HSE (Nε protonated); rmsf is NaN for caps; coordinates on a 0.01 Å grid",
        "domains": domains,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--domains", nargs="+", choices=list(DOMAINS), default=list(DOMAINS))
    parser.add_argument("--frames", type=int, help="frames of each run (default: each domain's own)")
    parser.add_argument("--interval-ps", type=float, help="time between frames (default: each domain's own)")
    args = parser.parse_args()
    if args.frames is not None and args.frames < 1:
        parser.error(f"--frames {args.frames}: must be at least 1")
    return args


def main() -> None:
    args = arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    args.out.mkdir(parents=True, exist_ok=True)
    start, domains = time.monotonic(), {}
    for name in args.domains:
        frames = args.frames if args.frames is not None else DOMAINS[name].frames
        interval_ps = args.interval_ps if args.interval_ps is not None else DOMAINS[name].interval_ps
        domains[name] = {
            "command": f"python scripts/make_sample.py --out DIR --domains {name} "
            f"--frames {frames} --interval-ps {interval_ps}",
            **make_domain(args.out, name, frames, interval_ps),
        }
    earlier = args.out / "provenance.json"
    if earlier.exists():  # domains made one at a time share one file
        domains = {**json.loads(earlier.read_text())["domains"], **domains}
    temporary = args.out / ".provenance.json.tmp"
    temporary.write_text(json.dumps(provenance(domains), indent=1, ensure_ascii=False) + "\n")
    os.replace(temporary, args.out / "provenance.json")
    log.info("all done in %.0f s", time.monotonic() - start)


if __name__ == "__main__":
    main()
