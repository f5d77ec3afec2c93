"""One molecule and its prior terms as LAMMPS files.

    beads.data          beads, bonds, angles, dihedrals and the box
    model.in            styles, data, coefficients, the fix of the network: to include in any script
    coefficients.in     one line a type; *.table the curves
    in.lammps           a run: minimisation, dynamics, restart files
    start.txt           positions and float64 forces of the start, to compare with

What the terms become is said in `lammps_terms`. The network enters through `fix external`, served by
`cgrefine.export.lammps_run`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cgrefine.energy import BondedTerm, NetworkTerm, PairTerm, ProgramTerm, SumOfTerms
from cgrefine.export import lammps_terms
from cgrefine.export.lammps_images import check_box
from cgrefine.export.lammps_terms import Bonded, Pairs
from cgrefine.export.verify import term_values
from cgrefine.residues import N_SPECIES, RESIDUE_MASSES, RESIDUES
from cgrefine.system import CHAIN_GAP, Topology

DATA, COEFFICIENTS, MODEL, SCRIPT = "beads.data", "coefficients.in", "model.in", "in.lammps"
START = "start.txt"
LONGEST_CUTOFF = "longest_cutoff_A"
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
    folder: Path,
    model: SumOfTerms,
    params: Any,
    topology: Topology,
    start: np.ndarray,
    name: str,
    box_A: float | None = None,
) -> None:
    """Write the LAMMPS files of one molecule into a new folder; start (n, 3) Å is the first frame.

    Beside them the forces of the model there, in float64, to which the run compares its own. box_A: edge of
    the cubic box, which matters in periodic runs (default: the extended chain fits in). Raises ValueError on
    a dihedral whose damping LAMMPS does not have, InputError on a box less than twice the longest cutoff.
    """
    layout = _layout(model, params, topology, name)
    edge = LINK_A * topology.n_beads + 60.0 if box_A is None else box_A
    check_box(np.full(3, edge), model.cutoff_A)
    folder.mkdir(parents=True)
    (folder / DATA).write_text(_data(layout, start, edge))
    (folder / START).write_text(_start(model, params, topology, start))
    (folder / MODEL).write_text(_model(layout, model.cutoff_A))
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


def _start(model: SumOfTerms, params: Any, topology: Topology, start: np.ndarray) -> str:
    """Positions and forces of the start, one bead a line."""
    terms = term_values(model, params, topology, start[None])
    forces = np.sum([values.forces[0] for values in terms.values()], axis=0)
    lines = ["# bead, x y z in Angstrom, force of the model in kcal/mol/Angstrom (JAX, float64)"]
    for i, row in enumerate(np.concatenate([start, forces], axis=1), start=1):
        lines.append(f"{i} " + " ".join(f"{value:.17g}" for value in row))
    return "\n".join(lines) + "\n"


def _data(layout: Layout, start: np.ndarray, edge_A: float) -> str:
    """Molecular-style data file: bead i is atom i+1, in a box that also holds the extended chain."""
    topology = layout.topology
    present = {kind: found for kind, found in layout.bonded.items() if found.rows}
    x = start - start.mean(axis=0)
    half = 0.5 * edge_A
    lines = [f"# {layout.name}: one bead a residue, units real (Angstrom, kcal/mol, g/mol)", ""]
    lines += [f"{topology.n_beads} atoms", *(f"{len(found.rows)} {kind}s" for kind, found in present.items())]
    lines += ["", f"{N_SPECIES} atom types"]
    lines += [f"{len(found.coefficients)} {kind} types" for kind, found in present.items()]
    lines += ["", *(f"{-half:.17g} {half:.17g} {c}lo {c}hi" for c in "xyz"), "", "Masses", ""]
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
    shifted = any(style.startswith("lj/cut") for style in layout.pairs.styles)
    return [
        *lines,
        "pair_style hybrid/overlay " + " ".join(layout.pairs.styles),
        *(["pair_modify pair lj/cut shift yes"] if shifted else []),
        f"special_bonds lj {weight} 1.0 1.0",
    ]


def _model(layout: Layout, longest_A: float) -> str:
    """The include file: what the model is, in any script that defines boundary, restart and the sorting."""
    reach = max(layout.pairs.reach_A if layout.pairs else 0.0, NO_PAIR_REACH_A)
    communicated = max(LINK_A * max(3, layout.span), reach) + SKIN_A
    network = (
        f"fix {NETWORK_FIX} all external pf/callback 1 1 # served by python -m cgrefine.export.lammps_run\n"
        f"fix_modify {NETWORK_FIX} energy yes virial yes"
        if layout.has_network
        else "# No network in this model: the prior terms are all of it."
    )
    styles = "\n".join(_styles(layout))
    # Bins fail on a molecule that lies in a plane or on a line, and save nothing on a small one.
    search = "nsq" if layout.topology.n_beads <= 200 else "bin"
    return f"""# {layout.name}: the model. Prior terms in LAMMPS, the network (if any) through fix external.
# The script that includes it states: boundary (s free, p periodic), sort_every, sort_bin_A, and restart, if
# it goes on from a restart file. A periodic box must be twice as wide as the longest cutoff.
variable {LONGEST_CUTOFF} equal {longest_A:g}

units real
atom_style molecular
boundary ${{boundary}} ${{boundary}} ${{boundary}}
atom_modify map yes sort ${{sort_every}} ${{sort_bin_A}}
{styles}
if $(!is_defined(variable,restart)) then "read_data {DATA} extra/special/per/atom 20" &
  else "read_restart ${{restart}}"
include {COEFFICIENTS}
neighbor {SKIN_A} {search}
neigh_modify every 1 delay 0 check yes
comm_modify cutoff {communicated}

{network}
# The model's force, before a thermostat adds its own.
fix {FORCE_FIX} all store/force
"""


VARIABLES = {
    "steps": ("2000", "of dynamics"),
    "timestep_fs": ("2.0", ""),
    "temperature_K": ("300.0", "of the start, and of the thermostat"),
    "damping_fs": ("1000.0", "of the thermostat: the inverse friction, or the period of nvt"),
    "ensemble": ("langevin", "langevin, nvt (Nose-Hoover) or nve"),
    "minimize": ("0", "largest number of steps of minimisation before the dynamics"),
    "boundary": ("s", "s free, p periodic"),
    "sort_every": ("10", "steps between sorts of the beads in memory"),
    "sort_bin_A": ("3.0", ""),
    "seed": ("20261", "of velocities and noise"),
    "restart_every": ("0", "steps between the files restart_out.a and .b, which take turns; 0: none"),
    "sample_every": ("10", "steps between lines of the series and frames of the trajectory"),
}
"""Variables of the script: value unless it is given, and what it is."""

FILES = {
    "restart": "to go on from",
    "restart_out": "to write at the end",
    "series": "to write: step, temperature, potential and total energy, radius of gyration",
    "trajectory": "to write: positions, unwrapped",
}
"""Variables of the script that name files, and do nothing unless they are given."""


def _script(layout: Layout) -> str:
    variables = "\n".join(
        f"variable {name} index {value}" + (f" # {meaning}" if meaning else "")
        for name, (value, meaning) in VARIABLES.items()
    )
    files = "\n".join(f"# {name}: file {meaning}" for name, meaning in FILES.items())
    # A molecule in no field keeps its three angular momenta too, which are zero from the start.
    still = 6 if layout.topology.n_beads > 2 else 3
    return f"""# {layout.name}: a run. Edit it as you like: it is run command by command by
#   python -m cgrefine.export.lammps_run
# which serves the network; a model of prior terms alone also runs with lmp -in {SCRIPT} -var steps 10000
{variables}
# and these, which are not set unless they are given:
{files}

include {MODEL}

timestep ${{timestep_fs}}
thermo_style custom step temp pe ke etotal press cpu
thermo 1000
# The start: its forces are compared with those of {START}.
run 0

if "${{minimize}} > 0" then "minimize 0.0 1.0e-4 ${{minimize}} $(10*v_minimize)" "reset_timestep 0"
# Noise moves the molecule as a whole. Where there is none that motion is taken away, once, and has no share
# in the temperature: of a free molecule six kinds of it are kept, in a box the three of its centre.
if "${{ensemble}} == langevin" then "variable still string no" else "variable still string yes"
if "${{ensemble}} == langevin" then "compute_modify thermo_temp extra/dof 0"
if "${{ensemble}} != langevin && ${{boundary}} == s" then "compute_modify thermo_temp extra/dof {still}"
if $(!is_defined(variable,restart)) then &
  "velocity all create ${{temperature_K}} ${{seed}} mom ${{still}} rot ${{still}} dist gaussian &
  temp thermo_temp"
if "$(is_defined(variable,restart)) && ${{still}} == yes" then "velocity all zero linear"
if "$(is_defined(variable,restart)) && ${{still}} == yes && ${{boundary}} == s" then &
  "velocity all zero angular"
# Noise and temperatures: a run that goes on must not repeat the noise.
variable noise equal v_seed+step
variable from equal $(step+floor(v_steps/2))
if "${{ensemble}} == langevin" then &
  "fix integrate all nve" &
  "fix thermostat all langevin ${{temperature_K}} ${{temperature_K}} ${{damping_fs}} $(v_noise)"
if "${{ensemble}} == nvt" then &
  "fix integrate all nvt temp ${{temperature_K}} ${{temperature_K}} ${{damping_fs}}" &
  "fix_modify integrate temp thermo_temp"
if "${{ensemble}} == nve" then "fix integrate all nve"
fix {TEMPERATURE_FIX} all ave/time 1 1 1 c_thermo_temp ave running start ${{from}}
compute size all gyration
variable total equal etotal
if $(is_defined(variable,series)) then &
  "fix series all ave/time ${{sample_every}} 1 ${{sample_every}} c_thermo_temp c_thermo_pe v_total c_size &
  file ${{series}}"
if $(is_defined(variable,trajectory)) then &
  "dump trajectory all custom ${{sample_every}} ${{trajectory}} id type xu yu zu" &
  "dump_modify trajectory sort id format float %.8g"
if "${{restart_every}} > 0" then &
  "restart ${{restart_every}} ${{restart_out}}.a ${{restart_out}}.b"
run 0
run ${{steps}}
if $(is_defined(variable,restart_out)) then "write_restart ${{restart_out}}"
"""
