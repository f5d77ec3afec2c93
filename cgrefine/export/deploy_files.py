"""Files for LAMMPS with chemtrain-deploy: prior terms as native styles, the network as `pair_style`.

    network.ptb         the network (deploy.py)
    the rest            as lammps_native writes it for the prior terms alone, with the pair style added

The plugin overwrites the forces of a bead, so it stands first in `hybrid/overlay`; bonded styles add theirs
later. Excluded neighbours have the weight 1e-50, not 0, with which LAMMPS would leave them out of the list
of the network as well; without exclusions it is 1, since the default of LAMMPS is 0. Newton has to be on:
else the plugin gives no virial.
"""

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cgrefine.energy import NetworkTerm, SumOfTerms
from cgrefine.export import deploy, domains
from cgrefine.export.lammps_native import COEFFICIENTS, SKIN_A, write_files
from cgrefine.export.ptb import encode
from cgrefine.export.verify import TermValues, force_error, term_values
from cgrefine.neighbors import frame_edges
from cgrefine.system import Topology

FILE = "network.ptb"
STYLE = "chemtrain_deploy"
TOLERANCE = 1.0e-4
"""Largest difference of a force in float32, over the root mean square force."""
DEFAULTS = {"backend": "cuda12", "memory": "0.5", "padding": "1.2"}
"""Variables of the script: the PJRT plugin, its share of the memory, and the room beyond what is needed."""


class DeployCheck(NamedTuple):
    """The file against the network in float64: largest force difference over the rms force, with newton on
    and off, and of the energy, kcal/mol per bead; all over two domains, beads in another order."""

    newton_on: float
    newton_off: float
    energy: float
    n_frames: int

    @property
    def passed(self) -> bool:
        """Whether all are numbers within the tolerance."""
        return bool(np.all(np.asarray(self[:3]) <= TOLERANCE))


def write_deploy(
    folder: Path,
    model: SumOfTerms,
    params: Any,
    topology: Topology,
    positions: Float[np.ndarray, "frames beads 3"],
    name: str,
) -> DeployCheck:
    """Write the files of one molecule into a new folder, and check the network that was written on the first
    and the last frame.

    positions: Å, the first is the start. Raises ValueError when the model has not one network, when that
    cannot leave (see `deploy.container`), or when the file is not the network: the folder is then gone.
    """
    networks = [t for t in model.terms if isinstance(t, NetworkTerm)]
    if len(networks) != 1:
        raise ValueError(f"{STYLE} runs one network, found {[t.name for t in networks]}")
    (network,) = networks
    data = encode(deploy.container(network, params[network.name]))
    priors = SumOfTerms(tuple(t for t in model.terms if t is not network))
    values = term_values(model, params, topology, positions[:1])
    write_files(folder, priors, params, topology, positions[0], name)
    try:
        energy = sum(float(v.energy[0]) for v in values.values())
        _add_network(folder, network, energy)
        (folder / FILE).write_bytes(data)
        frames = positions[[0, -1]]
        exact = term_values(SumOfTerms((network,)), params, topology, frames)[network.name]
        found = check(folder, topology, frames, exact)
        if not found.passed:
            raise ValueError(f"{FILE} is not the network: {found} is not within {TOLERANCE:g}")
    except ValueError:
        shutil.rmtree(folder)
        raise
    return found


def check(
    folder: Path, topology: Topology, positions: Float[np.ndarray, "frames beads 3"], exact: TermValues
) -> DeployCheck:
    """Read the file back, run it as the host does, and compare with the network in float64 at positions (Å).

    Raises InputError when it is no such file.
    """
    program = deploy.load((folder / FILE).read_bytes())
    forces: dict[bool, list[float]] = {True: [], False: []}
    energies = []
    # rooms that hold the whole molecule hold each domain, and all runs share one compiled program
    reach_A = program.container.cutoff_A + domains.Host.skin_A
    most = max(len(frame_edges(frame, reach_A)[0]) for frame in positions)
    for index, frame in enumerate(np.asarray(positions, np.float64)):
        centred = frame - frame.mean(axis=0)
        for newton in forces:
            host = domains.Host(newton, seed=index + 1, room=most, least_rows=len(frame), least_pairs=most)
            values = domains.run(program, centred, topology.species, host)
            forces[newton].append(force_error(values.forces, exact.forces[index]).relative)
            energies.append(abs(values.energy - exact.energy[index]) / len(frame))
    return DeployCheck(max(forces[True]), max(forces[False]), max(energies), len(positions))


def _add_network(folder: Path, term: NetworkTerm, energy: float) -> None:
    """The pair style in the scripts of the prior terms."""
    holders = [p for p in sorted(folder.iterdir()) if re.search(r"^pair_style ", p.read_text(), re.MULTILINE)]
    if len(holders) != 1:
        raise ValueError(f"one script with a pair_style is expected, found {[p.name for p in holders]}")
    holders[0].write_text(with_network(holders[0].read_text(), term, energy))
    coefficients = folder / COEFFICIENTS
    # what `pair_style zero` needs, where no pair term acts
    coefficients.write_text(re.sub(r"^pair_coeff \* \*\n", "", coefficients.read_text(), flags=re.MULTILINE))


def with_network(script: str, term: NetworkTerm, energy: float) -> str:
    """The script of the prior terms with the network in it. Raises ValueError on one of another form."""
    variables = [f"variable {name} index {value}" for name, value in DEFAULTS.items()]
    head = [
        f"# The network is in {FILE}, for a LAMMPS with the plugin of chemtrain-deploy (chemtrain 0.2.0):",
        "# LAMMPS_PLUGIN_PATH and JCN_PJRT_PATH name the folders of the plugin and of pjrt_plugin.xla_*.so.",
        f"# Potential energy of the start, all terms in float64: {energy:.6f} kcal/mol.",
        *variables,
        "",
    ]
    ours = f"pair_style hybrid/overlay {STYLE} ${{backend}} ${{memory}}"
    excluded = re.search(r"^special_bonds lj 0\.0 1\.0 1\.0$", script, re.MULTILINE)
    first = "1.0e-50" if excluded else "1.0"
    weights = f"special_bonds lj {first} 1.0 1.0 coul {first} 1.0 1.0"
    script = re.sub(r"^special_bonds .*\n", "", script, flags=re.MULTILINE)
    script = re.sub(r"^# No network in this model.*\n", "", script, flags=re.MULTILINE)
    needed = deploy.neighbour_order(term)[0] * term.cutoff_A + SKIN_A

    def reach(found: re.Match) -> str:
        return f"comm_modify cutoff {max(float(found[1]), needed):g}"

    load = f"pair_coeff * * {STYLE} {FILE} ${{padding}} ${{padding}}"
    for pattern, new in (
        (r"\A(#.*\n)", lambda m: m[1] + "\n".join(head)),
        (r"^units real$", "units real\nnewton on"),
        (r"^pair_style (?:zero .*|hybrid/overlay(.*))$", lambda m: f"{ours}{m[1] or ''}\n{weights}"),
        (rf"^include {re.escape(COEFFICIENTS)}$", f"include {COEFFICIENTS}\n{load}"),
        (r"^comm_modify cutoff (\S+)$", reach),
    ):
        script, count = re.subn(pattern, new, script, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"the script of the prior terms has {count} lines like {pattern!r}, not one")
    return script
