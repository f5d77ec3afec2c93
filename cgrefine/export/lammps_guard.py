"""The network's share of the force in LAMMPS: a `fix external` callback that cannot fail in silence.

LAMMPS keeps beads in an order of its own, which changes during a run; `tag` says which is which.
An exception in a callback is swallowed by ctypes and the run goes on with stale forces: so it is kept
here, the force is zeroed, the run is stopped at this step, and `check` raises.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cgrefine.export.program import NetworkValues


class SimulationStopped(RuntimeError):
    """The run was stopped: the message says at which step and why."""


class NetworkCallback:
    """Callback object for one LAMMPS instance and one molecule.

    network: positions (n, 3) Å, unwrapped, in bead order → energy, forces, virial.
    orders: hashes of the local bead orders seen so far. failure: why the run was stopped, if it was.
    """

    def __init__(self, lmp: Any, fix: str, network: Callable[[np.ndarray], NetworkValues]) -> None:
        self._lmp, self._fix, self._network = lmp, fix, network
        self._parallel = lmp.extract_setting("world_size") > 1
        self._periodic = any(lmp.extract_box()[5])
        self.orders: set[int] = set()
        self.failure: SimulationStopped | None = None

    def __call__(
        self, caller: Any, step: int, n_local: int, tag: np.ndarray, x: np.ndarray, f: np.ndarray
    ) -> None:
        """Set the force on the local beads, and the energy and virial of the whole molecule."""
        if self.failure is not None:
            f[:] = 0.0
            return
        try:
            tag = tag.reshape(-1)
            self.orders.add(hash(tag.tobytes()))
            values = self._network(self._positions(tag, x))
            if not (np.isfinite(values.energy) and np.isfinite(values.forces).all()):
                raise FloatingPointError(f"energy {values.energy} or a force of the network is not finite")
            f[:] = values.forces[tag - 1]
            self._lmp.fix_external_set_energy_global(self._fix, values.energy)
            self._lmp.fix_external_set_virial_global(self._fix, values.virial.tolist())
        except Exception as error:  # whatever it is, ctypes would swallow it: it is raised by `check`
            self.failure = SimulationStopped(
                f"LAMMPS stopped at step {step}: {type(error).__name__}: {error}"
            )
            self.failure.__cause__ = error
            f[:] = 0.0
            self._lmp.force_timeout()

    def check(self) -> None:
        """Raise SimulationStopped if the run was stopped."""
        if self.failure is not None:
            raise self.failure

    def _positions(self, tag: np.ndarray, x: np.ndarray) -> np.ndarray:
        if self._parallel or self._periodic:
            return unwrapped_positions(self._lmp)
        positions = np.empty((len(tag), 3))
        positions[tag - 1] = x
        return positions


def unwrapped_positions(lmp: Any) -> np.ndarray:
    """All positions (n, 3) Å in bead order, periodic images undone. Collective over processes."""
    x = np.array(lmp.gather_atoms("x", 1, 3), dtype=np.float64).reshape(-1, 3)
    low, high, *_, periodic, _ = lmp.extract_box()
    if any(periodic):
        image = np.array(lmp.gather_atoms("image", 0, 3), dtype=np.float64).reshape(-1, 3)
        x += image * (np.asarray(high) - np.asarray(low))
    return x
