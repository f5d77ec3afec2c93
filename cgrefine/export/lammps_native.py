"""One molecule and its prior terms as LAMMPS files: data, tables, coefficients and an input script.

What the terms become is said in `lammps_terms`. The network enters through `fix external`, served by
`cgrefine.export.lammps_run`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cgrefine.energy import BondedTerm, NetworkTerm, PairTerm, ProgramTerm, SumOfTerms
from cgrefine.export import lammps_terms
from cgrefine.export.lammps_terms import Bonded, Pairs
from cgrefine.residues import N_SPECIES, RESIDUE_MASSES, RESIDUES
from cgrefine.system import CHAIN_GAP, Topology

DATA, COEFFICIENTS, SCRIPT = "beads.data", "coefficients.in", "in.lammps"
NETWORK_FIX, FORCE_FIX, TEMPERATURE_FIX = "network", "force", "temperature"
SKIN_A = 2.0
NO_PAIR_REACH_A = 6.0
LINK_A = 4.5
"""Longest expected distance between chain neighbours, for the range over which processes exchange beads."""


class Layout(NamedTuple):
    """What goes into the files. bonded: by kind, bonds first. pairs: None without pair terms.

    excludes_bonds: pairs that are bonded or pseudo-bonded feel no pair style. span: longest separation
    along the chain of beads that a bonded interaction joins.
    """

    name: str
    topology: Topology
    bonded: dict[str, Bonded]
    pairs: Pairs | None
    excludes_bonds: bool
    span: int
    has_network: bool


def write_files(
    folder: Path, model: SumOfTerms, params: Any, topology: Topology, start: np.ndarray, name: str
) -> None:
    """Write the LAMMPS files of one molecule into a new folder; start (n, 3) Å is the first frame.

    Raises ValueError on a dihedral whose damping LAMMPS does not have.
    """
    layout = _layout(model, params, topology, name)
    folder.mkdir(parents=True)
    (folder / DATA).write_text(_data(layout, start))
    lines = ["# Coefficients of the prior terms, one type for each curve that this molecule needs."]
    for kind, found in layout.bonded.items():
        lines += [f"{kind}_coeff {t} {c}" for t, c in enumerate(found.coefficients, start=1)]
    lines += layout.pairs.commands if layout.pairs else ["pair_coeff * *"]
    (folder / COEFFICIENTS).write_text("\n".join(lines) + "\n")
    for part in (*layout.bonded.values(), *([layout.pairs] if layout.pairs else [])):
        for file, text in part.files.items():
            (folder / file).write_text(text)
    (folder / SCRIPT).write_text(_script(layout))


def _layout(model: SumOfTerms, params: Any, topology: Topology, name: str) -> Layout:
    pairs = [t for t in model.terms if isinstance(t, PairTerm)]
    near = lammps_terms.near_pairs(topology, pairs)

    def of(kind: str) -> list[BondedTerm]:
        return [t for t in model.terms if isinstance(t, BondedTerm) and t.kind == kind]

    return Layout(
        name=name,
        topology=topology,
        bonded={
            "bond": lammps_terms.bonds(topology, of("bond"), near, params),
            "angle": lammps_terms.angles(topology, of("angle"), params),
            "dihedral": lammps_terms.dihedrals(topology, of("dihedral"), params),
        },
        pairs=lammps_terms.pairs(topology, pairs, params) if pairs else None,
        excludes_bonds=lammps_terms.excludes_bonds(pairs),
        span=max((n.separation for n in near), default=0),
        has_network=any(isinstance(t, NetworkTerm | ProgramTerm) for t in model.terms),
    )


def _data(layout: Layout, start: np.ndarray) -> str:
    """Molecular-style data file: bead i is atom i+1, in a box that also holds the extended chain."""
    topology = layout.topology
    present = {kind: found for kind, found in layout.bonded.items() if found.rows}
    x = start - start.mean(axis=0)
    half = 0.5 * LINK_A * topology.n_beads + 30.0
    lines = [f"# {layout.name}: one bead a residue, units real (Angstrom, kcal/mol, g/mol)", ""]
    lines += [f"{topology.n_beads} atoms", *(f"{len(found.rows)} {kind}s" for kind, found in present.items())]
    lines += ["", f"{N_SPECIES} atom types"]
    lines += [f"{len(found.coefficients)} {kind} types" for kind, found in present.items()]
    lines += ["", *(f"{-half:.3f} {half:.3f} {c}lo {c}hi" for c in "xyz"), "", "Masses", ""]
    lines += [
        f"{i} {m} # {r}" for i, (m, r) in enumerate(zip(RESIDUE_MASSES, RESIDUES, strict=True), start=1)
    ]
    lines += ["", "Atoms # molecular", ""]
    for i in range(topology.n_beads):
        molecule = 1 + int(topology.sequence[i] - topology.sequence[0]) // CHAIN_GAP
        place = " ".join(f"{c:.17g}" for c in x[i])
        lines.append(f"{i + 1} {molecule} {topology.species[i] + 1} {place}")
    for kind, found in present.items():
        lines += ["", f"{kind.capitalize()}s", ""]
        for index, (number, *beads) in enumerate(found.rows, start=1):
            lines.append(f"{index} {number} " + " ".join(str(b + 1) for b in beads))
    return "\n".join(lines) + "\n"


def _styles(layout: Layout) -> list[str]:
    """The style commands, which must stand before the data file is read."""
    lines = [f"{kind}_style {found.style}" for kind, found in layout.bonded.items()]
    if layout.pairs is None or not layout.pairs.styles:
        return [*lines, f"pair_style zero {NO_PAIR_REACH_A}"]
    weight = 0.0 if layout.excludes_bonds else 1.0
    return [
        *lines,
        "pair_style hybrid/overlay " + " ".join(layout.pairs.styles),
        f"special_bonds lj {weight} 1.0 1.0",
    ]


def _script(layout: Layout) -> str:
    reach = max(layout.pairs.reach_A if layout.pairs else 0.0, NO_PAIR_REACH_A)
    communicated = max(LINK_A * max(3, layout.span), reach) + SKIN_A
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
