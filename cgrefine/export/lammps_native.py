"""One molecule and its prior terms as LAMMPS files: data, tables, coefficients and an input script.

Bonded terms leave as `table spline` styles, one type for each class; the pair term as `pair_style table`.
A pair acts from a sequence separation on: bonds, and pseudo-bonds without energy for each shorter
separation, make the closer pairs special neighbours, which `special_bonds lj 0 1 1` leaves out.
The network enters through `fix external`, served by `cgrefine.export.lammps_run`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from cgrefine.energy import BondedTerm, NetworkTerm, PairTerm, SumOfTerms
from cgrefine.export import tables
from cgrefine.residues import N_SPECIES, RESIDUE_MASSES, RESIDUES
from cgrefine.system import CHAIN_GAP, Topology

DATA, COEFFICIENTS, SCRIPT = "beads.data", "coefficients.in", "in.lammps"
NETWORK_FIX, FORCE_FIX, TEMPERATURE_FIX = "network", "force", "temperature"
SKIN_A = 2.0
LINK_A = 4.5
"""Longest expected distance between chain neighbours, for the range over which processes exchange beads."""

KINDS = ("bond", "angle", "dihedral")


def write_files(
    folder: Path, model: SumOfTerms, params: Any, topology: Topology, start: np.ndarray, name: str
) -> None:
    """Write the LAMMPS files of one molecule into a new folder; start (n, 3) Å is the first frame.

    Raises ValueError on a model with more than one pair term: LAMMPS has one separation from which pairs act.
    """
    pair_terms = [t for t in model.terms if isinstance(t, PairTerm)]
    if len(pair_terms) > 1:
        raise ValueError(f"LAMMPS files hold one pair term, found {[t.name for t in pair_terms]}")
    pair = pair_terms[0] if pair_terms else None
    has_network = any(isinstance(t, NetworkTerm) for t in model.terms)
    bonded = {k: tuple(t for t in model.terms if isinstance(t, BondedTerm) and t.kind == k) for k in KINDS}
    folder.mkdir(parents=True)
    (folder / DATA).write_text(_data(topology, start, pair.min_separation if pair else 0, name))
    lines = ["# Coefficients of the prior terms, one type for each class of the model."]
    for kind, terms in bonded.items():
        if n_types := _n_types(topology, kind):
            lines += _bonded_coefficients(folder, kind, terms, params, n_types, pair)
    lines += _pair_coefficients(folder, pair, params, topology)
    (folder / COEFFICIENTS).write_text("\n".join(lines) + "\n")
    (folder / SCRIPT).write_text(_script(bonded, topology, pair, has_network, name))


def pseudo_bonds(topology: Topology, min_separation: int) -> np.ndarray:
    """Pairs (p, 2) of beads 2 to min_separation - 1 apart in an unbroken chain: excluded, yet not bonded."""
    sequence, rows = topology.sequence, []
    for i in range(topology.n_beads):
        for j in range(i + 2, min(i + min_separation, topology.n_beads)):
            if sequence[j] - sequence[i] < min_separation:
                rows.append((i, j))
    return np.asarray(rows, dtype=np.int32).reshape(-1, 2)


def _n_types(topology: Topology, kind: str) -> int:
    types = getattr(topology, f"{kind}_types")
    return int(types.max()) + 1 if len(types) else 0


def _data(topology: Topology, start: np.ndarray, min_separation: int, name: str) -> str:
    """Molecular-style data file: bead i is atom i+1, in a box that also holds the extended chain."""
    pseudo = pseudo_bonds(topology, min_separation)
    n_bond_types = _n_types(topology, "bond")
    bond_rows = [(t + 1, *pair) for t, pair in zip(topology.bond_types, topology.bonds, strict=True)]
    bond_rows += [(n_bond_types + 1, *pair) for pair in pseudo]
    rows = {
        "Bonds": bond_rows,
        "Angles": [(t + 1, *a) for t, a in zip(topology.angle_types, topology.angles, strict=True)],
        "Dihedrals": [(t + 1, *d) for t, d in zip(topology.dihedral_types, topology.dihedrals, strict=True)],
    }
    x = start - start.mean(axis=0)
    half = 0.5 * LINK_A * topology.n_beads + 30.0
    lines = [f"# {name}: one bead a residue, units real (Angstrom, kcal/mol, g/mol)", ""]
    lines += [f"{topology.n_beads} atoms"]
    lines += [f"{len(found)} {title.lower()}" for title, found in rows.items()]
    lines += ["", f"{N_SPECIES} atom types"]
    counts = (n_bond_types + bool(len(pseudo)), _n_types(topology, "angle"), _n_types(topology, "dihedral"))
    lines += [f"{count} {kind} types" for kind, count in zip(KINDS, counts, strict=True)]
    lines += ["", *(f"{-half:.3f} {half:.3f} {c}lo {c}hi" for c in "xyz"), "", "Masses", ""]
    lines += [
        f"{i} {m} # {r}" for i, (m, r) in enumerate(zip(RESIDUE_MASSES, RESIDUES, strict=True), start=1)
    ]
    lines += ["", "Atoms # molecular", ""]
    for i in range(topology.n_beads):
        molecule = 1 + int(topology.sequence[i] - topology.sequence[0]) // CHAIN_GAP
        place = " ".join(f"{c:.17g}" for c in x[i])
        lines.append(f"{i + 1} {molecule} {topology.species[i] + 1} {place}")
    for title, found in rows.items():
        if found:
            lines += ["", title, ""]
            for index, (kind, *beads) in enumerate(found, start=1):
                lines.append(f"{index} {kind} " + " ".join(str(b + 1) for b in beads))
    return "\n".join(lines) + "\n"


def _bonded_coefficients(
    folder: Path, kind: str, terms: tuple[BondedTerm, ...], params: Any, n_types: int, pair: PairTerm | None
) -> list[str]:
    """Write the tables of one kind and return its coefficient lines."""
    degrees = kind != "bond"
    x = {"bond": tables.bond_grid, "angle": tables.angle_grid, "dihedral": tables.dihedral_grid}[kind]()
    header = f"N {len(x)} DEGREES" if kind == "dihedral" else f"N {len(x)}"
    file, style = f"{kind}.table", "table " if kind == "bond" else ""
    lines = []
    if terms:
        curves = tables.bonded_curves(terms, params, np.deg2rad(x) if degrees else x, n_types)
        per_x = np.pi / 180.0 if degrees else 1.0
        text = [
            tables.section(f"{kind.upper()}_{t}", header, x, curve, per_x)
            for t, curve in enumerate(curves, start=1)
        ]
        (folder / file).write_text(f"# {kind}: x, E, -dE/dx in Å or degrees and kcal/mol\n\n" + "".join(text))
        lines = [f"{kind}_coeff {t} {style}{file} {kind.upper()}_{t}" for t in range(1, n_types + 1)]
    elif kind == "bond":
        lines = [f"bond_coeff {t} zero" for t in range(1, n_types + 1)]
    if kind == "bond" and pair is not None and pair.min_separation > 2:
        lines.append(f"bond_coeff {n_types + 1}* zero # pseudo-bonds: exclusion only")
    return lines


def _pair_coefficients(folder: Path, pair: PairTerm | None, params: Any, topology: Topology) -> list[str]:
    """Write the pair tables of the species present, one file for each first species."""
    if pair is None:
        return ["pair_coeff * *"]
    present = sorted({int(s) for s in topology.species})
    pairs = [(a, b) for a in present for b in present if a <= b]
    r = tables.pair_grid(pair.cutoff_A)
    lines = ["# Only species present in beads.data have a table; others do not interact."]
    lines.append("pair_coeff * * none")
    texts: dict[str, list[str]] = {}
    for (a, b), curve in zip(pairs, tables.pair_curves(pair, params, r, pairs), strict=True):
        file, keyword = f"pair_{RESIDUES[a]}.table", f"{RESIDUES[a]}_{RESIDUES[b]}"
        header = (
            f"N {len(r)} RSQ {tables.PAIR_INNER_A:.17g} {pair.cutoff_A:.17g} "
            f"FPRIME {curve.end_slopes[0]:.16g} {curve.end_slopes[1]:.16g}"
        )
        texts.setdefault(file, ["# r, E, -dE/dr in Å and kcal/mol\n\n"])
        texts[file].append(tables.section(keyword, header, r, curve))
        lines.append(f"pair_coeff {a + 1} {b + 1} table {file} {keyword} {pair.cutoff_A:.17g}")
    for file, text in texts.items():
        (folder / file).write_text("".join(text))
    return lines


def _styles(
    bonded: dict[str, tuple[BondedTerm, ...]], topology: Topology, pair: PairTerm | None
) -> list[str]:
    points = {"bond": tables.BOND_POINTS, "angle": tables.ANGLE_POINTS, "dihedral": tables.DIHEDRAL_POINTS}
    lines = []
    for kind, terms in bonded.items():
        table = f"table spline {points[kind]}"
        if not _n_types(topology, kind):
            style = "none"
        elif kind == "bond":
            style = f"hybrid {table} zero nocoeff" if terms else "hybrid zero nocoeff"
        else:
            style = table if terms else "zero nocoeff"
        lines.append(f"{kind}_style {style}")
    if pair is None:
        return [*lines, "pair_style zero 6.0"]
    first_weight = 0.0 if pair.min_separation > 1 else 1.0
    return [
        *lines,
        f"pair_style hybrid table spline {tables.PAIR_POINTS}",
        f"special_bonds lj {first_weight} 1.0 1.0",
    ]


def _script(
    bonded: dict[str, tuple[BondedTerm, ...]],
    topology: Topology,
    pair: PairTerm | None,
    has_network: bool,
    name: str,
) -> str:
    separation, reach = (pair.min_separation, pair.cutoff_A) if pair else (0, 6.0)
    communicated = max(LINK_A * max(3, separation - 1), reach) + SKIN_A
    network = (
        f"fix {NETWORK_FIX} all external pf/callback 1 1 # served by python -m cgrefine.export.lammps_run\n"
        f"fix_modify {NETWORK_FIX} energy yes virial yes"
        if has_network
        else "# no network in this model: the prior terms are all of it"
    )
    defaults = {
        "steps": "2000", "timestep_fs": "2.0", "temperature_K": "300.0", "damping_fs": "1000.0",
        "ensemble": "langevin", "boundary": "s", "sort_every": "10", "sort_bin_A": "3.0", "seed": "20261",
    }  # fmt: skip
    variables = "\n".join(f"variable {k} index {v}" for k, v in defaults.items())
    styles = "\n".join(_styles(bonded, topology, pair))
    return f"""# {name}: prior terms in LAMMPS, the network (if any) through fix external.
# Each variable can be set on the command line: lmp -in {SCRIPT} -var steps 10000
{variables}

units real
atom_style molecular
boundary ${{boundary}} ${{boundary}} ${{boundary}}
atom_modify map yes sort ${{sort_every}} ${{sort_bin_A}}
{styles}
read_data {DATA} extra/special/per/atom 20
include {COEFFICIENTS}
neighbor {SKIN_A} bin
neigh_modify every 1 delay 0 check yes
comm_modify cutoff {communicated}

{network}
# The model's force, before the thermostat adds its own.
fix {FORCE_FIX} all store/force
velocity all create ${{temperature_K}} ${{seed}} mom yes rot yes dist gaussian
fix integrate all nve
if "${{ensemble}} == langevin" then &
  "fix thermostat all langevin ${{temperature_K}} ${{temperature_K}} ${{damping_fs}} ${{seed}}" &
  "compute_modify thermo_temp extra/dof 0" # the centre of mass moves as well
variable half equal floor(v_steps/2)
fix {TEMPERATURE_FIX} all ave/time 1 1 1 c_thermo_temp ave running start ${{half}}
timestep ${{timestep_fs}}
thermo_style custom step temp pe ke etotal press
thermo 1000
run ${{steps}}
"""
