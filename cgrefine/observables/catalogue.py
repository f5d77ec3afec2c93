"""The observables of a protein that reports compare: one list for training, reporting and audit."""

from cgrefine.config.running import Observables
from cgrefine.observables.contacts import contact_map
from cgrefine.observables.histogram import bins
from cgrefine.observables.internal import internal_distributions
from cgrefine.observables.pairs import distance_distribution
from cgrefine.observables.structure import Observable, end_to_end, radius_of_gyration, scalar_histogram
from cgrefine.system import Topology

BOND_A = 3.8
"""Length of a virtual Cα-Cα bond; n of them stretched out bound every size of the chain."""


def standard(topology: Topology, cfg: Observables) -> list[Observable]:
    """Bond, angle, dihedral, P(r), contacts, Rg and end-to-end distance, as far as the chain has them."""
    length = BOND_A * topology.n_beads
    optional = [
        distance_distribution(topology, cfg.distance_width_A, cfg.distance_max_A),
        contact_map(topology, cfg.contact_A, cfg.contact_min_separation),
    ]
    return [
        *internal_distributions(topology, cfg.bond_width_A, cfg.angle_width_deg, cfg.dihedral_width_deg),
        *(o for o in optional if o is not None),
        scalar_histogram("Rg", "Å", radius_of_gyration, bins(0.0, length / 2, cfg.rg_width_A)),
        scalar_histogram("end-to-end", "Å", end_to_end, bins(0.0, length, 2 * cfg.rg_width_A)),
    ]
