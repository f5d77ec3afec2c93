"""What processes tell each other: refusals. What they agree on is tested in `test_lammps_run`."""

import pytest

from cgrefine.errors import InputError
from cgrefine.export.lammps_mpi import Processes


class OpenMPI:
    """A LAMMPS of so many processes that is linked to an MPI whose handles are not those of MPICH."""

    lmp = None

    def __init__(self, processes):
        self.lib, self._processes = self, processes

    def extract_setting(self, name):
        return {"world_size": self._processes}[name]

    def MPI_Get_library_version(self, version, length):
        version.value = b"Open MPI v5.0.3, package: Open MPI"


def test_another_mpi_is_refused_for_several_processes():
    with pytest.raises(InputError, match=r"Open MPI v5.0.3: several processes need one with the ABI of"):
        Processes(OpenMPI(2))


def test_one_process_needs_no_mpi():
    processes = Processes(OpenMPI(1))
    assert not processes.several
    assert [processes.any(here) for here in (False, True)] == [False, True]
