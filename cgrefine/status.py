"""What can happen to a replica during a simulation. The first failure is kept, with its step."""

from enum import IntEnum


class Status(IntEnum):
    """Status of one replica. 0 is alive; NEIGHBOR_OVERFLOW is a capacity problem, not an instability."""

    OK = 0
    NON_FINITE = 1
    BOND = 2
    SECOND_NEIGHBOR = 3
    OVERLAP = 4
    FORCE = 5
    KINETIC = 6
    SIZE = 7
    NEIGHBOR_OVERFLOW = 8


REASONS = {
    Status.OK: "stable",
    Status.NON_FINITE: "a position, momentum, force or energy is not finite",
    Status.BOND: "a Cα-Cα bond is stretched or compressed past its limit",
    Status.SECOND_NEIGHBOR: "beads i and i+2 are too close",
    Status.OVERLAP: "two beads three or more apart along the chain overlap",
    Status.FORCE: "the force on a bead is past its limit",
    Status.KINETIC: "the kinetic energy of a bead is past its limit",
    Status.SIZE: "the radius of gyration is past the rod or collapse limit",
    Status.NEIGHBOR_OVERFLOW: "the neighbour list was too small",
}
