"""One form of energy function, and the five kinds of term that have it.

    bead_energies(params, positions (n, 3), system, neighbors) -> (n,) kcal/mol

Padded beads give exactly zero energy and zero force, whatever stands in their positions. A term is
  BondedTerm   a scalar function of one bond length, angle or dihedral and its type: leaves as a
               native LAMMPS style;
  PairTerm     a scalar function of one distance and two species, from a sequence separation on:
               leaves as a native LAMMPS pair style;
  NetworkTerm  a many-body function of bead types and edge vectors: leaves as StableHLO;
  ProgramTerm  a compiled function like a network that gives its own forces: what came as StableHLO;
  FieldTerm    a scalar function of the position of one bead: for particles in a potential, leaves nowhere.
The scalar functions are the single source for energies in JAX and for the tables LAMMPS reads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cgrefine import geometry
from cgrefine.geometry import AnyArray
from cgrefine.neighbors import Neighbors
from cgrefine.system import System

Params = Any


@runtime_checkable
class BeadEnergies(Protocol):
    """Anything with the one signature of an energy function."""

    def __call__(self, params: Params, positions: Array, system: System, neighbors: Neighbors) -> Array: ...


@dataclass(frozen=True)
class BondedTerm:
    """A sum over bonds, angles or dihedrals of scalar(params, x, type): x in Å or rad, result kcal/mol.

    `scalar` is elementwise over arrays x and type (int, see Topology), and a hashable value: equal terms
    share one compilation. The energy of a tuple is shared equally by its beads.
    damping (θ₁, θ₂), rad: each dihedral is multiplied by s(θ_ijk) s(θ_jkl), see `straight_switch`, so that
    its torque vanishes where three beads come into line. LAMMPS has it as `dihedral_style table/cut`.
    """

    name: str
    kind: Literal["bond", "angle", "dihedral"]
    scalar: Callable[[Params, Array, Array], Array]
    damping: tuple[float, float] | None = None
    cutoff_A: float = 0.0

    def __call__(self, params, positions, system, neighbors):
        """Energy of each bead, (n,) kcal/mol."""
        measure, harmless, tuples, types, mask = {
            "bond": (geometry.bond_lengths, 3.8, system.bonds, system.bond_types, system.bond_mask),
            "angle": (geometry.bond_angles, 1.8, system.angles, system.angle_types, system.angle_mask),
            "dihedral": (
                geometry.dihedrals, 0.9, system.dihedrals, system.dihedral_types, system.dihedral_mask,
            ),
        }[self.kind]  # fmt: skip
        if tuples.shape[0] == 0:
            return jnp.zeros(positions.shape[0], positions.dtype)
        x = _unpadded(positions, system)
        coordinate = jnp.where(mask, measure(x, tuples), harmless)
        energy = self.scalar(params, coordinate, types)
        if self.damping is not None:
            for triple in (tuples[:, :3], tuples[:, 1:]):
                theta = jnp.where(mask, geometry.bond_angles(x, triple), 1.8)
                energy = energy * straight_switch(theta, self.damping)
        energy = jnp.where(mask, energy, 0.0)
        share = jnp.broadcast_to(energy[:, None] / tuples.shape[1], tuples.shape)
        return jnp.zeros(x.shape[0], energy.dtype).at[tuples].add(share)


def straight_switch(theta: Float[Array, "..."], damping: tuple[float, float]) -> Float[Array, "..."]:
    """1 below θ₁, 1 - ((θ - θ₁)/(θ₂ - θ₁))² up to θ₂, 0 beyond: C¹ in θ (rad) except at θ₂.

    With θ₂ = π it falls to zero as the gradient of a torsion grows, (π - θ) against 1/sin θ: the torque
    dE/dφ vanishes at a straight angle and the force stays bounded there (its direction is undefined, as is
    that of any angle term with a slope at π). The form of the LAMMPS style dihedral table/cut, measured.
    """
    low, high = damping
    u = jnp.clip((theta - low) / (high - low), 0.0, 1.0)
    return 1.0 - u * u


@dataclass(frozen=True)
class PairTerm:
    """A sum over pairs of scalar(params, r, species_i, species_j), kcal/mol, at separations |i-j| from
    min_separation to max_separation (None: no end).

    `scalar` is elementwise, symmetric in the species, exactly zero from cutoff_A on, and hashable. Each
    bead of a pair carries half of its energy.
    """

    name: str
    cutoff_A: float
    min_separation: int
    scalar: Callable[[Params, Array, Array, Array], Array]
    max_separation: int | None = None

    def acts_at(self, separation: Int[AnyArray, "..."]) -> Any:
        """Whether pairs at this separation along the chain are part of the sum (bool, elementwise)."""
        near = separation >= self.min_separation
        return near if self.max_separation is None else near & (separation <= self.max_separation)

    def __call__(self, params, positions, system, neighbors):
        """Energy of each bead, (n,) kcal/mol."""
        i, j = neighbors.senders, neighbors.receivers
        separation = jnp.abs(jnp.asarray(system.sequence)[i] - jnp.asarray(system.sequence)[j])
        acts = neighbors.edge_mask & self.acts_at(separation)
        x = _unpadded(positions, system)
        r = geometry.safe_norm(geometry.displacements(x, i, j, acts))
        inside = acts & (r < self.cutoff_A)
        kind = jnp.asarray(system.species)
        energy = self.scalar(params, jnp.where(inside, r, self.cutoff_A), kind[i], kind[j])
        half = 0.5 * jnp.where(inside, energy, 0.0)
        return jax.ops.segment_sum(half, i, x.shape[0])


@dataclass(frozen=True)
class NetworkTerm:
    """A many-body energy of bead types and edge vectors.

    edge_energy(params, vectors (e, 3) Å sender to receiver, species (n,), senders (e,), receivers (e,),
    edge_mask (e,)) -> (n,) kcal/mol. It vanishes smoothly as edges reach cutoff_A, those beyond it do not
    act, and it depends on nothing else: no index, no topology, so LAMMPS may reorder beads. `hops` is the
    number of message passing steps (1: strictly local, as Allegro). `init(key)` makes the parameters.

    With reference_K the network is conditioned on temperature: edge_energy gives (n, 2), the columns U and S
    of the free energy U - (T/reference_K - 1) S, both in kcal/mol, and the system states the temperature of
    each of its graphs.
    """

    name: str
    cutoff_A: float
    hops: int
    init: Callable[[Array], Params]
    edge_energy: Callable[..., Array]
    reference_K: float | None = None

    def __call__(self, params, positions, system, neighbors):
        """Energy of each bead, (n,) kcal/mol. Raises ValueError without the temperature that it needs."""
        x = _unpadded(positions, system)
        i, j, mask = neighbors.senders, neighbors.receivers, neighbors.edge_mask
        vectors = geometry.displacements(x, i, j, mask)
        energy = self.edge_energy(params, vectors, jnp.asarray(system.species), i, j, mask)
        if self.reference_K is not None:
            energy = energy[:, 0] - _excess(system, self.reference_K, energy.dtype) * energy[:, 1]
        return jnp.where(system.bead_mask, energy, 0.0)


def _excess(system: System, reference_K: float, dtype: Any) -> Array:
    """T/reference_K - 1 of each bead, (n,)."""
    if system.temperature_K.shape[0] == 0:
        raise ValueError(
            "the network is conditioned on temperature and the system states none: give `pack` the "
            "temperatures, or fix it with `forcefield.at_temperature`"
        )
    excess = jnp.asarray(system.temperature_K, dtype) / reference_K - 1.0
    return excess[system.graph_id]


@dataclass(frozen=True)
class ProgramTerm:
    """A many-body energy like that of a NetworkTerm, by a function that gives forces along with it.

    evaluate(positions (n, 3) Å, species (n,), senders (e,), receivers (e,), edge_mask (e,)) -> energies (n,)
    kcal/mol, forces (n, 3) kcal/mol/Å = minus the gradient of their sum. Terms of equal name, cutoff and
    identity are one. The derivative is that of sums over whole graphs; forces have no further one.
    """

    name: str
    cutoff_A: float
    identity: str
    evaluate: Callable[..., tuple[Array, Array]] = field(compare=False)

    def __call__(self, params, positions, system, neighbors):
        """Energy of each bead, (n,) kcal/mol. Each graph is centred before it is evaluated."""
        x = _unpadded(positions, system)
        graph_id, real = jnp.asarray(system.graph_id), jnp.asarray(system.bead_mask, x.dtype)
        graphs = system.graph_mask.shape[0]
        sums = jax.ops.segment_sum(x, graph_id, graphs, indices_are_sorted=True)
        beads = jax.ops.segment_sum(real, graph_id, graphs, indices_are_sorted=True)
        # a graph moves as a whole, which changes neither energy nor forces
        x = x - jax.lax.stop_gradient(sums / jnp.maximum(beads, 1.0)[:, None])[graph_id]
        edges = (neighbors.senders, neighbors.receivers, neighbors.edge_mask)
        energy: Any = _by_program(self.evaluate, x, jnp.asarray(system.species), *map(jnp.asarray, edges))
        return jnp.where(system.bead_mask, energy, 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_program(evaluate: Callable[..., Any], x: Array, *rest: Array) -> Any:
    """Energies (n,) of `ProgramTerm.evaluate`; the gradient of their sum is minus its forces."""
    return _by_program_forward(evaluate, x, *rest)[0]


def _by_program_forward(evaluate, x, *rest):
    return evaluate(x, *rest)


def _by_program_backward(evaluate, forces, cotangent):
    return (-cotangent[:, None] * forces, None, None, None, None)


_by_program.defvjp(_by_program_forward, _by_program_backward)


def _nothing(key: Array) -> Params:
    return {}


@dataclass(frozen=True)
class FieldTerm:
    """A sum over beads of scalar(params, positions (n, 3) Å) -> (n,) kcal/mol, each bead by itself.

    A potential in space that particles move in: neither translations nor rotations leave it as it is, so no
    molecule has one. `init(key)` makes the parameters of one that is fitted.
    """

    name: str
    scalar: Callable[[Params, Array], Array]
    init: Callable[[Array], Params] = _nothing
    cutoff_A: float = 0.0

    def __call__(self, params, positions, system, neighbors):
        """Energy of each bead, (n,) kcal/mol."""
        x = _unpadded(positions, system)
        return jnp.where(jnp.asarray(system.bead_mask), self.scalar(params, x), 0.0)


Term = BondedTerm | PairTerm | NetworkTerm | ProgramTerm | FieldTerm
Fitted = NetworkTerm | FieldTerm
"""Terms that make the parameters which force matching begins with."""


def _unpadded(positions: Float[AnyArray, "beads 3"], system: System) -> Float[Array, "beads 3"]:
    return geometry.masked_rows(positions, jnp.asarray(system.bead_mask))


@dataclass(frozen=True)
class SumOfTerms:
    """Terms added by name; params is a dict with the same names. No hidden weights."""

    terms: tuple[Term, ...]

    def __call__(self, params, positions, system, neighbors):
        """Energy of each bead, (n,) kcal/mol."""
        zero = jnp.zeros(positions.shape[0], positions.dtype)
        return sum((t(params[t.name], positions, system, neighbors) for t in self.terms), zero)

    @property
    def cutoff_A(self) -> float:
        """Longest cutoff of any term, Å (0 when all are bonded)."""
        return max((t.cutoff_A for t in self.terms), default=0.0)

    def only(self, names: tuple[str, ...]) -> "SumOfTerms":
        """The sum of the named terms, in this order of terms. Raises ValueError on an unknown name."""
        known = [t.name for t in self.terms]
        if unknown := set(names) - set(known):
            raise ValueError(f"no energy term {sorted(unknown)}; there are {known}")
        return SumOfTerms(tuple(t for t in self.terms if t.name in names))


def total(
    bead_energies: BeadEnergies, params: Params, positions: Array, system: System, neighbors: Neighbors
) -> Array:
    """Energy of the whole packed graph, kcal/mol."""
    return jnp.sum(bead_energies(params, positions, system, neighbors))


def graph_energies(
    per_bead: Float[AnyArray, " beads"], graph_id: Int[AnyArray, " beads"], n_graphs: int
) -> Array:
    """Energy of each graph, (g,) kcal/mol."""
    return jax.ops.segment_sum(per_bead, graph_id, n_graphs, indices_are_sorted=True)


def bead_energies_and_forces(
    bead_energies: BeadEnergies, params: Params, positions: Array, system: System, neighbors: Neighbors
) -> tuple[Array, Array]:
    """Energies per bead (n,) kcal/mol, and forces (n, 3) = minus the gradient of their sum, kcal/mol/Å."""

    def summed(x):
        per_bead = bead_energies(params, x, system, neighbors)
        return jnp.sum(per_bead), per_bead

    gradient, per_bead = jax.grad(summed, has_aux=True)(positions)
    return per_bead, -gradient


def forces(
    bead_energies: BeadEnergies, params: Params, positions: Array, system: System, neighbors: Neighbors
) -> Array:
    """Minus the gradient of the total energy, (n, 3) kcal/mol/Å."""
    return bead_energies_and_forces(bead_energies, params, positions, system, neighbors)[1]


def by_term(
    model: SumOfTerms, params: Mapping[str, Params], positions: Array, system: System, neighbors: Neighbors
) -> dict[str, tuple[Array, Array]]:
    """Bead energies and forces of each term alone, by name."""
    return {
        t.name: bead_energies_and_forces(t, params[t.name], positions, system, neighbors) for t in model.terms
    }
