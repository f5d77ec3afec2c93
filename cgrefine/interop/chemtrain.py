"""Our force fields in chemtrain's trainers, and in jax-md: energies of positions and a neighbour list.

    force_field = forcefield.load(folder)
    template = energy_fn_template(force_field.model)
    data = {"R": R, "F": F, **stacked bead_arrays(topology, R.shape[1]) of each frame}
    ForceMatching(force_field.cast(jnp.float32), optimizer, template, nbrs_init, ...).set_datasets(data)

chemtrain calls energy_fn_template(params) -> energy_fn(position, neighbor, **arrays) -> energy: every array
of its data set but R, F, U reaches energy_fn under its name. Neither chemtrain nor jax-md is imported here
(of a jax-md neighbour list only `idx`, `format` and `error` are read), and what is imported also runs with
the jax that chemtrain 0.2.0 pins, 0.4.37.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cgrefine import residues, units
from cgrefine.energy import Params, SumOfTerms, total
from cgrefine.geometry import AnyArray
from cgrefine.neighbors import Neighbors
from cgrefine.system import CIS_BOND, System, Topology

LENGTHS_A = {"A": 1.0, "nm": 10.0}
"""Length unit → Å."""
ENERGIES_KCAL_MOL = {"kcal/mol": 1.0, "kJ/mol": 1000.0 / units.KCAL_PER_MOL_IN_SI}
"""Energy unit → kcal/mol."""

EnergyFn = Callable[..., Array]


def energy_fn_template(
    model: SumOfTerms,
    topology: Topology | None = None,
    length_unit: str = "A",
    energy_unit: str = "kcal/mol",
) -> Callable[[Params], EnergyFn]:
    """chemtrain's template of a model (`ForceField.model`): template(params) is an energy function of

        position (n, 3) in length_unit, neighbor, species=, mask=, sequence=, cis= (n,), kT=, box=

    and gives the energy of the molecule in energy_unit; minus its gradient is the force in energy_unit over
    length_unit. With a `topology` the molecule is always that one, and the four arrays are refused; beads
    beyond its own are padding. Without, they come with each call, as `bead_arrays` makes them: species and
    mask as in a data set padded to the longest protein, sequence and cis where a chain has breaks or cis
    bonds (default: none). Without mask, padding are the beads of negative species.

    neighbor: a jax-md list, dense, sparse or ordered, with positions in the same unit and r_cutoff of at
    least model.cutoff_A, over a displacement of free space: molecules are whole, and a box is refused. A list
    that overflowed leaves neighbours out: energy and forces are then NaN, since chemtrain does not look.
    A network that is conditioned on temperature is fixed at one before, see `forcefield.at_temperature`.
    kT is taken because jax-md's thermostats hand it on; the energy does not depend on it.
    Raises ValueError on an unknown unit, and on arrays as above.
    """
    if length_unit not in LENGTHS_A:
        raise ValueError(f"length_unit = {length_unit!r}: choose from {', '.join(LENGTHS_A)}")
    if energy_unit not in ENERGIES_KCAL_MOL:
        raise ValueError(f"energy_unit = {energy_unit!r}: choose from {', '.join(ENERGIES_KCAL_MOL)}")
    to_A, from_kcal_mol = LENGTHS_A[length_unit], 1.0 / ENERGIES_KCAL_MOL[energy_unit]

    def template(params: Params) -> EnergyFn:
        params = jax.tree.map(jnp.asarray, params)

        def energy_fn(
            position: Float[AnyArray, "n 3"],
            neighbor: Any,
            species: Int[AnyArray, " n"] | None = None,
            mask: AnyArray | None = None,
            sequence: Int[AnyArray, " n"] | None = None,
            cis: AnyArray | None = None,
            kT: Any = None,
            box: Any = None,
        ) -> Float[Array, ""]:
            if box is not None:
                raise ValueError("energy_fn has a box: energies are of whole molecules in free space")
            given = {"species": species, "mask": mask, "sequence": sequence, "cis": cis}
            arrays = {name: value for name, value in given.items() if value is not None}
            if topology is not None:
                if arrays:
                    raise ValueError(
                        f"energy_fn has {', '.join(arrays)}, which the template's topology states already"
                    )
                arrays = bead_arrays(topology, position.shape[0])
            elif species is None:
                raise ValueError("energy_fn has no species: give them, or the template a topology")
            chain = _system(**arrays)
            x = jnp.asarray(position) * to_A
            edges = _neighbors(neighbor, x, jnp.asarray(chain.bead_mask), model.cutoff_A)
            # a product, not a choice: the forces have to become NaN as well
            doubt = jnp.where(edges.overflow, jnp.nan, 1.0).astype(x.dtype)
            return total(model, params, x, chain, edges) * doubt * from_kcal_mol

        return energy_fn

    return template


def bead_arrays(topology: Topology, n_beads: int) -> dict[str, np.ndarray]:
    """species (int32), mask (bool), sequence (int32), cis (bool), each (n_beads,): one molecule, padded.

    species is -1 on padding; cis is True at bead b where the bond b-1 → b is cis. Stacked over frames they
    are arrays of a chemtrain data set. Raises ValueError when the molecule has more beads.
    """
    n = topology.n_beads
    if n > n_beads:
        raise ValueError(f"the topology has {n} beads, there is room for {n_beads}")
    cis = np.zeros(n_beads, bool)
    cis[list(topology.cis_bonds)] = True
    padding = np.zeros(n_beads - n, np.int32)
    return {
        "species": np.concatenate([topology.species, padding - 1]),
        "mask": np.arange(n_beads) < n,
        "sequence": np.concatenate([topology.sequence, padding]),
        "cis": cis,
    }


def _system(
    species: AnyArray,
    mask: AnyArray | None = None,
    sequence: AnyArray | None = None,
    cis: AnyArray | None = None,
) -> System:
    """One molecule of n beads with consecutive ones bonded where `sequence` goes on by one.

    What `system.pack` makes of a topology, but of arrays that may be traced: every tuple of neighbours along
    the chain has its place, masked where it is not one of the molecule's.
    """
    n = species.shape[0]
    kind = jnp.asarray(species)
    real = kind >= 0 if mask is None else jnp.asarray(mask).astype(bool)
    kind = jnp.where(real, kind, 0).astype(jnp.int32)
    order = jnp.arange(n, dtype=jnp.int32) if sequence is None else jnp.asarray(sequence)
    linked = real[1:] & real[:-1] & (jnp.diff(order) == 1)
    bonds, angles, dihedrals = (_windows(n, width) for width in (2, 3, 4))

    def types(first: np.ndarray, second: np.ndarray) -> Array:
        return residues.N_SPECIES * kind[first] + kind[second]

    bond_types = types(bonds[:, 0], bonds[:, 1])
    if cis is not None:
        bond_types = bond_types + CIS_BOND * jnp.asarray(cis)[1:].astype(jnp.int32)
    # System's fields are host arrays by annotation; these are traced where the data set has the species
    arrays: dict[str, Any] = {
        "species": kind,
        "mass": jnp.asarray(residues.RESIDUE_MASSES)[kind],
        "graph_id": np.zeros(n, np.int32),
        "sequence": order,
        "bead_mask": real,
        "graph_mask": np.ones(1, bool),
        "bonds": bonds,
        "bond_types": bond_types,
        "bond_mask": _all_linked(linked, 2),
        "angles": angles,
        "angle_types": types(angles[:, 1], angles[:, 2]),
        "angle_mask": _all_linked(linked, 3),
        "dihedrals": dihedrals,
        "dihedral_types": types(dihedrals[:, 1], dihedrals[:, 2]),
        "dihedral_mask": _all_linked(linked, 4),
    }
    return System(**arrays)


def _windows(n: int, width: int) -> Int[np.ndarray, "windows width"]:
    """Every `width` consecutive beads of n."""
    return (np.arange(max(n - width + 1, 0))[:, None] + np.arange(width)).astype(np.int32)


def _all_linked(linked: Bool[Array, " pairs"], width: int) -> Bool[Array, " windows"]:
    """Whether all beads of each window are bonded along the chain."""
    count = max(len(linked) - width + 2, 0)
    inside = jnp.ones(count, bool)
    for i in range(width - 1):
        inside = inside & linked[i : i + count]
    return inside


def _neighbors(
    listed: Any, x: Float[Array, "n 3"], bead_mask: Bool[Array, " n"], cutoff_A: float
) -> Neighbors:
    """Directed edges of a jax-md list that are shorter than the cutoff, both directions of each pair.

    jax-md pads with the index n. Dense: idx (n, k), the neighbours of each bead. Sparse: idx (2, e),
    receivers and senders; the ordered form has each pair once. `error.code` is 0 for a complete list.
    """
    n, form = x.shape[0], listed.format.name
    if form == "Dense":
        senders = jnp.broadcast_to(jnp.arange(n, dtype=listed.idx.dtype)[:, None], listed.idx.shape).ravel()
        receivers = listed.idx.ravel()
    elif form == "Sparse":
        receivers, senders = listed.idx
    elif form == "OrderedSparse":
        receivers, senders = jnp.concatenate([listed.idx, listed.idx[::-1]], axis=1)
    else:
        raise ValueError(f"neighbour list of format {form}: choose from Dense, Sparse, OrderedSparse")
    inside = (senders < n) & (receivers < n)
    senders, receivers = (jnp.where(inside, index, 0) for index in (senders, receivers))
    near = jnp.sum((x[receivers] - x[senders]) ** 2, axis=-1) < cutoff_A**2
    return Neighbors(
        senders=senders,
        receivers=receivers,
        edge_mask=inside & near & bead_mask[senders] & bead_mask[receivers],
        overflow=listed.error.code != 0,
    )
