"""One molecule and its prior terms as LAMMPS files: data, tables, coefficients and an input script.

Bonded terms leave as `table spline` styles, one type for each class; the pair term as `pair_style table`.
A pair acts from a sequence separation on: bonds, and pseudo-bonds without energy for each shorter
separation, make the closer pairs special neighbours, which `special_bonds lj 0 1 1` leaves out.
The network enters through `fix external`, served by `cgrefine.export.lammps_run`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cgrefine.energy import BondedTerm, NetworkTerm, PairTerm, SumOfTerms
from cgrefine.export import tables
from cgrefine.residues import N_SPECIES, RESIDUE_MASSES, RESIDUES
from cgrefine.system import CHAIN_GAP, Topology

DATA, COEFFICIENTS, SCRIPT = "beads.data", "coefficients.in", "in.lammps"
NETWORK_FIX, FORCE_FIX, TEMPERATURE_FIX = "network", "force", "temperature"
SKIN_A = 2.0
NO_PAIR_REACH_A = 6.0
LINK_A = 4.5
"""Longest expected distance between chain neighbours, for the range over which processes exchange beads."""

KINDS = ("bond", "angle", "dihedral")
POINTS = {"bond": tables.BOND_POINTS, "angle": tables.ANGLE_POINTS, "dihedral": tables.DIHEDRAL_POINTS}


class Layout(NamedTuple):
    """What of a model and a molecule goes into the files.

    bonded: terms of each kind, added up in one table for each type. n_types: LAMMPS types of each kind,
    0 where there is nothing to write. pseudo: pseudo-bonds (p, 2), one more bond type.
    """

    name: str
    topology: Topology
    bonded: dict[str, tuple[BondedTerm, ...]]
    n_types: dict[str, int]
    pair: PairTerm | None
    pseudo: np.ndarray
    has_network: bool


def write_files(
    folder: Path, model: SumOfTerms, params: Any, topology: Topology, start: np.ndarray, name: str
) -> None:
    """Write the LAMMPS files of one molecule into a new folder; start (n, 3) Å is the first frame.

    Raises ValueError on a model with more than one pair term: LAMMPS has one separation from which pairs act.
    """
    layout = _layout(model, topology, name)
    folder.mkdir(parents=True)
    (folder / DATA).write_text(_data(layout, start))
    lines = ["# Coefficients of the prior terms, one type for each class of the model."]
    for kind in KINDS:
        lines += _bonded_coefficients(folder, layout, kind, params)
    if len(layout.pseudo):
        lines.append(f"bond_coeff {layout.n_types['bond'] + 1} zero # pseudo-bonds: exclusion only")
    lines += _pair_coefficients(folder, layout, params)
    (folder / COEFFICIENTS).write_text("\n".join(lines) + "\n")
    (folder / SCRIPT).write_text(_script(layout))


def pseudo_bonds(topology: Topology, min_separation: int) -> np.ndarray:
    """Pairs (p, 2) of beads 2 to min_separation - 1 apart in an unbroken chain: excluded, yet not bonded."""
    sequence, rows = topology.sequence, []
    for i in range(topology.n_beads):
        for j in range(i + 2, min(i + min_separation, topology.n_beads)):
            if sequence[j] - sequence[i] < min_separation:
                rows.append((i, j))
    return np.asarray(rows, dtype=np.int32).reshape(-1, 2)


def _layout(model: SumOfTerms, topology: Topology, name: str) -> Layout:
    pairs = [t for t in model.terms if isinstance(t, PairTerm)]
    if len(pairs) > 1:
        raise ValueError(f"LAMMPS files hold one pair term, found {[t.name for t in pairs]}")
    pair = pairs[0] if pairs else None
    bonded = {k: tuple(t for t in model.terms if isinstance(t, BondedTerm) and t.kind == k) for k in KINDS}
    n_types = {}
    for kind in KINDS:
        types = getattr(topology, f"{kind}_types")
        # Bonds are written even without a bond term: they say which beads are chain neighbours.
        needed = len(types) > 0 and (kind == "bond" or bool(bonded[kind]))
        n_types[kind] = int(types.max()) + 1 if needed else 0
    return Layout(
        name=name,
        topology=topology,
        bonded=bonded,
        n_types=n_types,
        pair=pair,
        pseudo=pseudo_bonds(topology, pair.min_separation if pair else 0),
        has_network=any(isinstance(t, NetworkTerm) for t in model.terms),
    )


def _data(layout: Layout, start: np.ndarray) -> str:
    """Molecular-style data file: bead i is atom i+1, in a box that also holds the extended chain."""
    topology, n_types = layout.topology, dict(layout.n_types)
    rows = {
        kind: [
            (t + 1, *beads)
            for t, beads in zip(
                getattr(topology, f"{kind}_types"), getattr(topology, f"{kind}s"), strict=True
            )
        ]
        for kind in KINDS
        if n_types[kind]
    }
    if len(layout.pseudo):
        n_types["bond"] += 1
        rows["bond"] = rows.get("bond", []) + [(n_types["bond"], *pair) for pair in layout.pseudo]
    x = start - start.mean(axis=0)
    half = 0.5 * LINK_A * topology.n_beads + 30.0
    lines = [f"# {layout.name}: one bead a residue, units real (Angstrom, kcal/mol, g/mol)", ""]
    lines += [f"{topology.n_beads} atoms", *(f"{len(found)} {kind}s" for kind, found in rows.items())]
    lines += ["", f"{N_SPECIES} atom types", *(f"{n_types[kind]} {kind} types" for kind in rows)]
    lines += ["", *(f"{-half:.3f} {half:.3f} {c}lo {c}hi" for c in "xyz"), "", "Masses", ""]
    lines += [
        f"{i} {m} # {r}" for i, (m, r) in enumerate(zip(RESIDUE_MASSES, RESIDUES, strict=True), start=1)
    ]
    lines += ["", "Atoms # molecular", ""]
    for i in range(topology.n_beads):
        molecule = 1 + int(topology.sequence[i] - topology.sequence[0]) // CHAIN_GAP
        place = " ".join(f"{c:.17g}" for c in x[i])
        lines.append(f"{i + 1} {molecule} {topology.species[i] + 1} {place}")
    for kind, found in rows.items():
        lines += ["", f"{kind.capitalize()}s", ""]
        for index, (number, *beads) in enumerate(found, start=1):
            lines.append(f"{index} {number} " + " ".join(str(b + 1) for b in beads))
    return "\n".join(lines) + "\n"


def _bonded_coefficients(folder: Path, layout: Layout, kind: str, params: Any) -> list[str]:
    """Write the tables of one kind and return its coefficient lines."""
    terms, types = layout.bonded[kind], range(1, layout.n_types[kind] + 1)
    if not terms:
        return [f"{kind}_coeff {t} zero" for t in types]
    if not types:
        return []
    x = {"bond": tables.bond_grid, "angle": tables.angle_grid, "dihedral": tables.dihedral_grid}[kind]()
    in_degrees = kind != "bond"
    curves = tables.bonded_curves(terms, params, np.deg2rad(x) if in_degrees else x, len(types))
    header = f"N {len(x)} DEGREES" if kind == "dihedral" else f"N {len(x)}"
    per_x = np.pi / 180.0 if in_degrees else 1.0
    text = [f"# {kind}: x, E, -dE/dx in {'degrees' if in_degrees else 'Angstrom'} and kcal/mol\n\n"]
    for t, curve in zip(types, curves, strict=True):
        text.append(tables.section(f"{kind.upper()}_{t}", header, x, curve, per_x))
    file, style = f"{kind}.table", "table " if kind == "bond" else ""
    (folder / file).write_text("".join(text))
    return [f"{kind}_coeff {t} {style}{file} {kind.upper()}_{t}" for t in types]


def _pair_coefficients(folder: Path, layout: Layout, params: Any) -> list[str]:
    """Write the pair tables of the species present, one file for each first species."""
    topology, pair = layout.topology, layout.pair
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
        texts.setdefault(file, ["# r, E, -dE/dr in Angstrom and kcal/mol\n\n"])
        texts[file].append(tables.section(keyword, header, r, curve))
        lines.append(f"pair_coeff {a + 1} {b + 1} table {file} {keyword} {pair.cutoff_A:.17g}")
    for file, text in texts.items():
        (folder / file).write_text("".join(text))
    return lines


def _styles(layout: Layout) -> list[str]:
    """The style commands, which must stand before the data file is read."""
    lines = []
    for kind in KINDS:
        parts = [f"table spline {POINTS[kind]}"] if layout.bonded[kind] and layout.n_types[kind] else []
        if kind == "bond":
            if len(layout.pseudo) or (layout.n_types[kind] and not parts):
                parts.append("zero nocoeff")
            parts = ["hybrid", *parts] if parts else []
        lines.append(f"{kind}_style " + (" ".join(parts) or "none"))
    if layout.pair is None:
        return [*lines, f"pair_style zero {NO_PAIR_REACH_A}"]
    bonded_weight = 0.0 if layout.pair.min_separation > 1 else 1.0
    return [
        *lines,
        f"pair_style hybrid table spline {tables.PAIR_POINTS}",
        f"special_bonds lj {bonded_weight} 1.0 1.0",
    ]


def _script(layout: Layout) -> str:
    pair = layout.pair
    separation, reach = (pair.min_separation, pair.cutoff_A) if pair else (0, NO_PAIR_REACH_A)
    communicated = max(LINK_A * max(3, separation - 1), reach) + SKIN_A
    network = (
        f"fix {NETWORK_FIX} all external pf/callback 1 1 # served by python -m cgrefine.export.lammps_run\n"
        f"fix_modify {NETWORK_FIX} energy yes virial yes"
        if layout.has_network
        else "# No network in this model: the prior terms are all of it."
    )
    defaults = {
        "steps": "2000", "timestep_fs": "2.0", "temperature_K": "300.0", "damping_fs": "1000.0",
        "ensemble": "langevin", "boundary": "s", "sort_every": "10", "sort_bin_A": "3.0", "seed": "20261",
    }  # fmt: skip
    variables = "\n".join(f"variable {k} index {v}" for k, v in defaults.items())
    styles = "\n".join(_styles(layout))
    # Bins fail on a molecule that lies in a plane or on a line, and save nothing on a small one.
    search = "nsq" if layout.topology.n_beads <= 200 else "bin"
    return f"""# {layout.name}: prior terms in LAMMPS, the network (if any) through fix external.
# Each variable can be set on the command line: lmp -in {SCRIPT} -var steps 10000
{variables}

units real
atom_style molecular
boundary ${{boundary}} ${{boundary}} ${{boundary}}
atom_modify map yes sort ${{sort_every}} ${{sort_bin_A}}
{styles}
read_data {DATA} extra/special/per/atom 20
include {COEFFICIENTS}
neighbor {SKIN_A} {search}
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
