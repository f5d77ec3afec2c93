"""The network's share of the force in LAMMPS: a `fix external` callback that cannot fail in silence.

LAMMPS keeps beads in an order of its own, which changes during a run; `tag` says which is which.
An exception in a callback is swallowed by ctypes and the run goes on with stale forces: so it is kept
here, the force is zeroed, the run is stopped at this step, and `check` raises. Where several processes share
a molecule they agree at every call whether one of them has failed, and stop at the same step.
"""

import ctypes
import math
import sys
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cgrefine.errors import SimulationStopped
from cgrefine.export.lammps_images import Placing, box_lengths, check_box, gathered_positions
from cgrefine.export.lammps_mpi import Processes
from cgrefine.export.network_program import NetworkValues

_ADDRESS = ctypes.c_void_p


@runtime_checkable
class Network(Protocol):
    """Positions (n, 3) Å, unwrapped → energy, forces, virial; edges up to cutoff_A.

    order (n,): the bead in each row of positions and forces, from 0; default: as they are numbered.
    """

    @property
    def cutoff_A(self) -> float: ...
    def __call__(self, positions: np.ndarray, order: np.ndarray | None = None) -> NetworkValues: ...


class NetworkCallback:
    """Callback object for one LAMMPS instance and one molecule.

    orders: hashes of the local bead orders seen so far. fewest: smallest number of beads that this process
    owned. failure: why the run was stopped, if it was.
    """

    def __init__(self, lmp: Any, fix: str, network: Network, processes: Processes) -> None:
        """Serve the fix of this name. InputError when the network's cutoff does not fit into the box."""
        self._lmp, self._network, self._processes = lmp, network, processes
        lengths = box_lengths(lmp)
        self._periodic = bool(np.isfinite(lengths).any())
        check_box(lengths, network.cutoff_A)
        self._place = Placing(chains(lmp), network.cutoff_A) if self._periodic else None
        self.orders: set[int] = set()
        self._order: bytes | None = None
        self._rows = np.zeros(0, np.int32)
        self._places: tuple[int | None, ...] = ()
        self._views = np.zeros(0, np.int32), np.zeros((0, 3)), np.zeros((0, 3))
        self.fewest = sys.maxsize
        self.failure: SimulationStopped | None = None
        self._set = _setters(lmp, fix)
        # Addresses as numbers: objects of pointers would have to be made at every call.
        arguments = _ADDRESS, lmp.c_bigint, ctypes.c_int, _ADDRESS, _ADDRESS, _ADDRESS
        served = ctypes.CFUNCTYPE(None, *arguments)
        # LAMMPS keeps the address of this function only.
        self._function = served(self._called)
        function = ctypes.cast(self._function, lmp.FIX_EXTERNAL_CALLBACK_FUNC)
        lmp.lib.lammps_set_fix_external_callback(lmp.lmp, fix.encode(), function, self)

    def check(self) -> None:
        """Raise SimulationStopped if the run was stopped."""
        if self.failure is not None:
            raise self.failure

    def _called(self, caller: int, step: int, n_local: int, tag: int, x: int, f: int) -> None:
        """With addresses as LAMMPS gives them; those of a process without any bead are of nothing."""
        try:
            self.act(step, *self._memory(n_local, tag, x, f))
        except BaseException as error:  # of this process alone: what the others would see as well is in act
            self._failed(step, error)
            self._processes.abort(str(self.failure))

    def act(self, step: int, tag: np.ndarray, x: np.ndarray, f: np.ndarray) -> None:
        """Set the force f (m, 3) on the local beads at x (m, 3), and energy and virial of the whole molecule.

        tag (m,): numbers of the beads, from 1, as they lie in x and f.
        """
        if self.failure is not None:
            f[:] = 0.0
            return
        values, error = None, None
        try:
            values = self._evaluated(tag, x)
        except Exception as found:  # whatever it is, ctypes would swallow it: it is raised by `check`
            error = found
        if self._processes.any(values is None) or values is None:
            f[:] = 0.0
            self._failed(step, error)
            return
        f[:] = values.forces
        self._set(values.energy, values.virial)

    def _evaluated(self, tag: np.ndarray, x: np.ndarray) -> NetworkValues:
        """What the network has for all beads, with the forces (m, 3) of those that lie here."""
        if (order := tag.tobytes()) != self._order:
            self._order, self._rows = order, tag - 1
            self.orders.add(hash(order))
            self.fewest = min(self.fewest, len(tag))
        if self._processes.several or self._place is not None:
            values = self._network(placed_positions(self._lmp, self._place))
            values = values._replace(forces=values.forces[self._rows])
        else:
            values = self._network(x, self._rows)
        # The virial has every force in it: one that is not finite leaves none of it finite.
        if not math.isfinite(values.energy + sum(values.virial)):
            raise FloatingPointError(f"energy {values.energy} or a force of the network is not finite")
        return values

    def _failed(self, step: int, error: BaseException | None) -> None:
        """Stop the run. error: None where another process has it, and tells it."""
        if error is None:
            self.failure = SimulationStopped(f"stopped at step {step}: another process has failed")
        else:
            told = f"{type(error).__name__}: {error}"
            self.failure = SimulationStopped(f"LAMMPS stopped at step {step}: {told}")
        self.failure.__cause__ = error
        self._lmp.force_timeout()

    def _memory(self, n_local: int, tag: int, x: int, f: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """tag, x and f as arrays: views that are kept while LAMMPS keeps them in the same place.

        x and f are addresses of the addresses of rows, which lie behind one another.
        """
        if not n_local:
            return np.zeros(0, np.int32), np.zeros((0, 3)), np.zeros((0, 3))
        places = n_local, tag, _ADDRESS.from_address(x).value, _ADDRESS.from_address(f).value
        if places != self._places:
            self._places = places
            rows, forces = (
                _view(_ADDRESS.from_address(place).value, 3 * n_local, np.float64).reshape(-1, 3)
                for place in (x, f)
            )
            self._views = _view(tag, n_local, np.int32), rows, forces
        return self._views


def chains(lmp: Any) -> np.ndarray:
    """Number of the chain of each bead, from 0 (n,): the molecules of the data file. Collective."""
    molecule = np.array(lmp.gather_atoms("molecule", 0, 1))
    return np.unique(molecule, return_inverse=True)[1].reshape(-1)


def placed_positions(lmp: Any, place: Placing | None) -> np.ndarray:
    """All positions (n, 3) Å in bead order, without a box. Collective over processes."""
    if place is None:
        return gathered_positions(lmp, np.full(3, np.inf))
    lengths = box_lengths(lmp)
    return place(gathered_positions(lmp, lengths), lengths)


def _view(address: int | None, count: int, dtype: Any) -> np.ndarray:
    """The memory at an address, (count,)."""
    assert address is not None
    memory = (ctypes.c_uint8 * (count * np.dtype(dtype).itemsize)).from_address(address)
    return np.ctypeslib.as_array(memory).view(dtype)


def _setters(lmp: Any, fix: str) -> Callable[[float, list[float]], None]:
    """A function that hands energy and virial to LAMMPS, without the module's check after each call."""
    set_energy, set_virial = (
        getattr(lmp.lib, f"lammps_fix_external_set_{what}_global") for what in ("energy", "virial")
    )
    handle, name, six = ctypes.c_void_p(lmp.lmp.value), fix.encode(), (ctypes.c_double * 6)()

    def both(energy: float, virial: list[float]) -> None:
        set_energy(handle, name, energy)
        six[:] = virial
        set_virial(handle, name, six)

    return both
