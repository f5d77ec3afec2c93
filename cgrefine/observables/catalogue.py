"""The observables of a protein that reports compare: one list for training, reporting and audit."""

import numpy as np

from cgrefine.config.running import Observables
from cgrefine.observables.contacts import contact_map, native_contacts
from cgrefine.observables.histogram import bins
from cgrefine.observables.internal import internal_distributions
from cgrefine.observables.pairs import distance_distribution, neighbor_distribution
from cgrefine.observables.secondary import secondary_structure
from cgrefine.observables.structure import (
    BOND_A,
    Measure,
    Observable,
    end_to_end,
    radius_of_gyration,
    scalar_histogram,
)
from cgrefine.observables.superposition import fluctuation, rmsd_to
from cgrefine.observables.triples import angular_distribution
from cgrefine.system import Topology


def standard(topology: Topology, cfg: Observables, native: np.ndarray | None = None) -> list[Observable]:
    """All observables of a chain, as far as it has them. native: (n, 3) Å, of Q, RMSD and RMSF.

    Pooled distributions of bonds, angles, dihedrals, distances i,i+2 to i,i+4 and P(r), contacts, secondary
    structure, histograms of the measures, RMSF; of single residues and of neighbours' angles where asked.
    """
    widths = cfg.bond_width_A, cfg.angle_width_deg, cfg.dihedral_width_deg
    optional = [
        *(neighbor_distribution(topology, k, cfg.distance_width_A) for k in cfg.separations),
        distance_distribution(topology, cfg.distance_width_A, cfg.distance_max_A),
        contact_map(topology, cfg.contact_A, cfg.contact_min_separation),
        secondary_structure(topology),
        None if native is None else fluctuation(native),
        _neighbor_angles(topology, cfg),
    ]
    return [
        *internal_distributions(topology, *widths),
        *(o for o in optional if o is not None),
        *(_histogram(name, m, topology, cfg) for name, m in measures(topology, cfg, native).items()),
        *(internal_distributions(topology, *widths, each=True) if cfg.per_residue else ()),
    ]


def measures(topology: Topology, cfg: Observables, native: np.ndarray | None = None) -> dict[str, Measure]:
    """Name → one number of a frame: Rg, end-to-end distance, and RMSD and Q where there is a native frame."""
    found: dict[str, Measure] = {"Rg": radius_of_gyration, "end-to-end": end_to_end}
    if native is not None:
        found["RMSD"] = rmsd_to(native)
        fraction = native_contacts(
            topology,
            native,
            cfg.contact_A,
            cfg.contact_min_separation,
            cfg.q_steepness_per_A,
            cfg.q_tolerance,
        )
        if fraction is not None:
            found["Q"] = fraction
    return found


def _histogram(name: str, measure: Measure, topology: Topology, cfg: Observables) -> Observable:
    length = BOND_A * topology.n_beads
    unit, high, width = {
        "Rg": ("Å", length / 2, cfg.rg_width_A),
        "end-to-end": ("Å", length, 2 * cfg.rg_width_A),
        "RMSD": ("Å", length / 2, cfg.rg_width_A),
        "Q": ("", 1.0, cfg.q_width),
    }[name]
    return scalar_histogram(name, unit, measure, bins(0.0, high, width))


def _neighbor_angles(topology: Topology, cfg: Observables) -> Observable | None:
    if cfg.neighbor_angle_cutoff_A is None or topology.n_beads < 3:
        return None
    return angular_distribution(topology.n_beads, cfg.neighbor_angle_cutoff_A, cfg.angle_width_deg)
