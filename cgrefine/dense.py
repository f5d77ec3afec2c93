"""Forces of many replicas of one chain, for MD with priors alone: no neighbour list, no edge, no gather.

Positions are components first, (3, replicas, beads): chain neighbours are slices, and pairs an (L, L)
matrix of each replica, whose sums over pairs are small matrix products,

    F_i = Σ_j s_ij (x_i - x_j) = x_i Σ_j s_ij - Σ_j s_ij x_j,      s = -U'(r)/r.

Bonded forces are read from tables of -dU/dx that `dense` makes in float64 from the terms' own functions,
linear in between: the gradient of a piecewise quadratic energy next to the term's own. Fourier series of
dihedrals are summed instead. The gradients of
angles and dihedrals are written out (Blondel & Karplus, J. Comput. Chem. 17, 1132 (1996)). Up to some
hundred beads this is faster than lists of pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine.compiling import ONCE
from cgrefine.energy import BondedTerm, PairTerm, Params, SumOfTerms
from cgrefine.system import System, Topology

POINTS = 4096
RANGES = {"bond": (0.0, 16.0), "angle": (0.0, np.pi), "dihedral": (-np.pi, np.pi)}
"""Where tables begin and end, Å or rad. A longer bond is read from the line through the last two points."""

CODES_STEP = 32

SERIES_POINTS = 512
SERIES_ERROR = 1e-7
"""Points of a dihedral that its Fourier series is made of, and the relative size below which it ends."""

MOST_HARMONICS = 12
"""Curves of dihedrals with more (splines) are tables: the harmonics are unrolled in the program."""


@runtime_checkable
class FastPair(Protocol):
    """A pair scalar that gives -U'(r)/r of the squared distance from constants of each pair.

    Without it the slope is taken by differentiation at each step, from the species.
    """

    def pair_constants(self, params: Params, species_i: Array, species_j: Array, acts: Array) -> Any:
        """Arrays (L, L) in a tuple, made once; a pair where acts is 0 (else 1) has no slope."""
        ...

    def slope_over_r(self, constants: Any, squared: Array) -> Array:
        """-U'(r)/r, kcal/mol/Å², of r² in Å²; 0 beyond the cutoff, finite at 0."""
        ...


class Curves(NamedTuple):
    """Tables of one bonded kind, m places along the chain.

    force, energy (c, points + 1) of c distinct curves: -dU/dx and U on the range of the kind; place (m,)
    int32: which curve each place reads, the last one (all zero) where the chain has no such tuple.
    """

    force: Array | np.ndarray
    energy: Array | np.ndarray
    place: Array | np.ndarray


class Series(NamedTuple):
    """Fourier series of the dihedrals along the chain, kcal/mol: mean (m,); cosines, sines (harmonics, m)."""

    mean: Array | np.ndarray
    cosines: Array | np.ndarray
    sines: Array | np.ndarray


class Chain(NamedTuple):
    """What the forces of one chain of L beads need: made by `dense`, an argument of jitted functions.

    bonded: Curves of "bond" and "angle", those that there are, and of "dihedral" unless all of its curves
    are short Fourier series: then they are in dihedral.
    pairs: for each pair term its constants (or parameters), zero where a pair does not act;
    acts: (L, L) of 0 and 1 for each; species (L,) int32.
    """

    bonded: dict[str, Curves]
    dihedral: Series | None
    pairs: tuple[Any, ...]
    acts: tuple[Array | np.ndarray, ...]
    species: Array | np.ndarray


@dataclass(frozen=True)
class DenseForces:
    """Forces of the terms of a model for replicas of one chain: forces(chain, x) with x (3, R, L) Å."""

    pair_terms: tuple[PairTerm, ...]
    damping: tuple[float, float] | None

    def __call__(self, chain: Chain, x: Float[Array, "3 replicas beads"]) -> Float[Array, "3 replicas beads"]:
        """Minus the gradient of the energy, (3, R, L) kcal/mol/Å."""
        return _bonded_forces(chain, x, self.damping) + _pair_forces(self.pair_terms, chain, x)


def applies(model: Any, system: System) -> bool:
    """Whether `model` has bonded and pair terms only, and the system is unpadded replicas of one chain."""
    if not isinstance(model, SumOfTerms) or not all(
        isinstance(t, BondedTerm | PairTerm) for t in model.terms
    ):
        return False
    damped = {t.damping for t in model.terms if isinstance(t, BondedTerm) and t.kind == "dihedral"}
    return len(damped) <= 1 and replicas_of(system) > 0


def replicas_of(system: System) -> int:
    """Number of replicas when the packed system is unpadded copies of one chain; else 0."""
    g = len(system.graph_mask)
    whole = [system.bead_mask, system.graph_mask, system.bond_mask, system.angle_mask, system.dihedral_mask]
    if not all(mask.all() for mask in whole) or len(system.species) % g:
        return 0
    beads = len(system.species) // g
    copied = [system.species, system.sequence, system.bond_types, system.angle_types, system.dihedral_types]
    for values in copied:
        if len(values) % g or not (values.reshape(g, -1) == values[: len(values) // g]).all():
            return 0
    for tuples in (system.bonds, system.angles, system.dihedrals):
        shifted = tuples.reshape(g, -1, tuples.shape[1]) - beads * np.arange(g)[:, None, None]
        if not (shifted == shifted[:1]).all() or (np.diff(tuples, axis=1) != 1).any():
            return 0
    return g


def dense(model: SumOfTerms, params: Params, topology: Topology, dtype: Any) -> tuple[DenseForces, Chain]:
    """The forces of a model on one chain as a hashable function, and what it reads (arrays of dtype)."""
    bonded_terms = [t for t in model.terms if isinstance(t, BondedTerm)]
    pairs = tuple(t for t in model.terms if isinstance(t, PairTerm))
    bonded = {
        kind: _curves(terms, params, topology, kind, dtype)
        for kind in ("bond", "angle")
        if (terms := [t for t in bonded_terms if t.kind == kind]) and len(getattr(topology, f"{kind}s"))
    }
    torsions, dihedral = [t for t in bonded_terms if t.kind == "dihedral"], None
    if torsions and len(topology.dihedrals):
        dihedral = _dihedral_series(torsions, params, topology, dtype)
        if dihedral is None:
            bonded["dihedral"] = _curves(torsions, params, topology, "dihedral", dtype)
    apart = np.abs(topology.sequence[:, None] - topology.sequence[None])
    acts = tuple((t.acts_at(apart) & (apart > 0)).astype(dtype) for t in pairs)
    return (
        DenseForces(pairs, torsions[0].damping if torsions else None),
        Chain(
            bonded,
            dihedral,
            tuple(
                _pair_constants(t, params[t.name], topology, a, dtype)
                for t, a in zip(pairs, acts, strict=True)
            ),
            acts,
            topology.species,
        ),
    )


def _curves(terms: Sequence[BondedTerm], params: Params, topology: Topology, kind: str, dtype: Any) -> Curves:
    """Tables of the sum of the terms, one for each distinct curve among the types of the chain."""
    tuples, types = getattr(topology, f"{kind}s"), getattr(topology, f"{kind}_types")
    codes, which = np.unique(types, return_inverse=True)
    grid = np.linspace(*RANGES[kind], POINTS + 1)
    energies, forces = _tabulated(terms, params, grid, codes)
    distinct, curve = np.unique(np.concatenate([energies, forces], axis=1), axis=0, return_inverse=True)
    zero = np.zeros((1, len(grid)))
    place = np.full(topology.n_beads - tuples.shape[1] + 1, len(distinct), np.int32)
    place[tuples[:, 0]] = curve[which]
    return Curves(
        np.concatenate([distinct[:, len(grid) :], zero]).astype(dtype),
        np.concatenate([distinct[:, : len(grid)], zero]).astype(dtype),
        place,
    )


def _tabulated(
    terms: Sequence[BondedTerm], params: Params, grid: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Energy and force -dU/dx of the sum of the terms, (codes, grid) each, in float64."""
    with jax.enable_x64(True):
        double = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), {t.name: params[t.name] for t in terms})
        # a multiple of CODES_STEP codes, so that chains share a compilation
        many = np.resize(codes, CODES_STEP * -(-len(codes) // CODES_STEP)).astype(np.int32)
        energies, forces = _table(tuple(terms), double, jnp.asarray(grid), many)
    return np.asarray(energies)[: len(codes)], np.asarray(forces)[: len(codes)]


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def _table(terms: tuple[BondedTerm, ...], params: Params, grid: Array, codes: Array) -> tuple[Array, Array]:
    def one(code):
        def energy(x):
            return sum(t.scalar(params[t.name], x, jnp.full(grid.shape, code)) for t in terms)

        return jax.jvp(energy, (grid,), (jnp.ones_like(grid),))

    energies, slopes = jax.vmap(one)(codes)
    return energies, -slopes


def _dihedral_series(
    terms: Sequence[BondedTerm], params: Params, topology: Topology, dtype: Any
) -> Series | None:
    """Series of the curves of the dihedrals, to SERIES_ERROR of the largest; None if it is a long one."""
    codes, which = np.unique(topology.dihedral_types, return_inverse=True)
    grid = -np.pi + 2.0 * np.pi * np.arange(SERIES_POINTS) / SERIES_POINTS
    energies, _ = _tabulated(terms, params, grid, codes)
    waves = np.fft.rfft(energies, axis=1)[:, : SERIES_POINTS // 2] * 2.0 / SERIES_POINTS
    # the grid begins at -π: harmonic k has the sign (-1)^k
    waves = waves * (-1.0) ** np.arange(waves.shape[1])
    size = np.abs(waves[:, 1:]).max(axis=0)
    kept = np.flatnonzero(size > SERIES_ERROR * max(size.max(), 1e-30))
    n = int(kept[-1]) + 2 if len(kept) else 2
    if n - 1 > MOST_HARMONICS:
        return None
    rows = np.zeros((2, n, topology.n_beads - 3))
    rows[:, :, topology.dihedrals[:, 0]] = np.stack([waves.real, -waves.imag])[:, which, :n].swapaxes(1, 2)
    cosines, sines = rows.astype(dtype)
    return Series(0.5 * cosines[0], cosines[1:], sines[1:])


def _pair_constants(term: PairTerm, params: Params, topology: Topology, acts: np.ndarray, dtype: Any) -> Any:
    i, j = (np.broadcast_to(s, acts.shape) for s in (topology.species[:, None], topology.species[None]))
    if not isinstance(term.scalar, FastPair):
        return jax.tree.map(lambda p: np.asarray(p, dtype), params)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
        made = term.scalar.pair_constants(
            double, jnp.asarray(i), jnp.asarray(j), jnp.asarray(acts, jnp.float64)
        )
    return jax.tree.map(lambda value: np.asarray(value, dtype), made)


def _pair_forces(terms: tuple[PairTerm, ...], chain: Chain, x: Array) -> Array:
    if not terms:
        return jnp.zeros_like(x)
    d = [x[c, :, :, None] - x[c, :, None, :] for c in range(3)]
    squared = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    s = jnp.zeros_like(squared)
    for term, constants, acts in zip(terms, chain.pairs, chain.acts, strict=True):
        s = s + _slope_over_r(term, constants, acts, chain, squared)
    rows = jnp.moveaxis(jnp.concatenate([x, jnp.ones_like(x[:1])]), 0, 1)
    sums = jnp.moveaxis(jnp.einsum("rcj,rji->rci", rows, s), 1, 0)
    return x * sums[3] - sums[:3]


def _slope_over_r(term: PairTerm, constants: Any, acts: Any, chain: Chain, squared: Array) -> Array:
    if isinstance(term.scalar, FastPair):
        return term.scalar.slope_over_r(constants, squared)
    i, j = (jnp.broadcast_to(s, squared.shape) for s in _both(chain.species))
    zero = squared == 0.0
    r = jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))
    inside = r < term.cutoff_A
    at = jnp.where(inside, r, term.cutoff_A)
    _, slope = jax.jvp(lambda v: term.scalar(constants, v, i, j), (at,), (jnp.ones_like(at),))
    return jnp.where(inside & ~zero, -slope / jnp.where(zero, 1.0, r), 0.0) * jnp.asarray(acts)


def _both(species: Array | np.ndarray) -> tuple[Array, Array]:
    kinds = jnp.asarray(species)
    return kinds[:, None], kinds[None]


Vector = tuple[Array, Array, Array]


class Slopes(NamedTuple):
    """dU/dr (R, L-1), dU/dθ (R, L-2) and dU/dφ (R, L-3) of the bonded terms along the chain."""

    bond: Array
    angle: Array
    dihedral: Array


class Bends(NamedTuple):
    """At each angle, with b₁, b₂ its bond vectors: b₁·b₂, n = b₁ x b₂, n·n and |n|, all (R, L-2)."""

    along: Array
    normal: Vector
    normal2: Array
    norm: Array


def _bonded_forces(chain: Chain, x: Array, damping: tuple[float, float] | None) -> Array:
    """From the gradient with respect to the bond vectors b_k = x_{k+1} - x_k: F_k = dU/db_k - dU/db_{k-1}.

    dr/db = b/r. θ = atan2(h, -b₁·b₂) with n = b₁ x b₂, h = |n|, and
        dθ/db₁ = (b₂ - (b₁·b₂/b₁²) b₁)/h,   dθ/db₂ = (b₁ - (b₁·b₂/b₂²) b₂)/h.
    φ = atan2(|b₂| b₁·n₂, n₁·n₂) with n₁ = b₁ x b₂, n₂ = b₂ x b₃, and
        dφ/db₁ = |b₂| n₁/n₁²,   dφ/db₃ = |b₂| n₂/n₂²,
        dφ/db₂ = -[(b₁·b₂) n₁/n₁² + (b₃·b₂) n₂/n₂²]/|b₂|.
    """
    if x.shape[2] < 2:
        return jnp.zeros_like(x)

    places = _stored(_internal, chain, x)
    read = _stored(lambda p: _curves_at(chain, p, damping), chain, places)
    known = _stored(_damped, chain, read) if damping is not None and x.shape[2] > 3 else read.slopes

    def parts(x: Array) -> tuple[list[Vector], ...]:
        b = _bonds(x)
        squared = _dot(b, b)
        along = [_scaled(known.bond / _nonzero(jnp.sqrt(squared)), b)]
        bent = _angle_gradients(known.angle, b, squared) if x.shape[2] > 2 else []
        turned = _dihedral_gradients(known.dihedral, b, squared) if x.shape[2] > 3 else []
        return along, bent, turned

    gradients = [
        _padded(part, place, len(group) - 1 - place)
        for group in _stored(parts, chain, x)
        for place, part in enumerate(group)
    ]
    gradient = reduce(_added, gradients)
    return jnp.stack([jnp.pad(g, ((0, 0), (0, 1))) - jnp.pad(g, ((0, 0), (1, 0))) for g in gradient])


def _stored(function: Callable[[Any], Any], chain: Chain, given: Any) -> Any:
    """function(given), in a branch that is always taken. It makes XLA store the results, instead of computing
    each of them again in every one of the loops that read them: several times slower as a whole."""

    def never(given: Any) -> Any:
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(function, given))

    return jax.lax.cond(jnp.asarray(chain.species)[0] >= 0, function, never, given)


class Internal(NamedTuple):
    """r (R, L-1) Å; θ (R, L-2) rad; cos φ, sin φ (R, L-3). A chain too short has arrays of no columns."""

    r: Array
    theta: Array
    cosine: Array
    sine: Array


class Read(NamedTuple):
    """Slopes without damping; energy of each dihedral; the switch at each angle and its slope."""

    slopes: Slopes
    energy: Array
    switch: Array
    falling: Array


def _internal(x: Array) -> Internal:
    b = _bonds(x)
    r = jnp.sqrt(_dot(b, b))
    none = r[:, :0]
    if x.shape[2] < 3:
        return Internal(r, none, none, none)
    bends = _bends(b)
    theta = arctan2(bends.norm, -bends.along)
    if x.shape[2] < 4:
        return Internal(r, theta, none, none)
    n1, n2 = _cut(bends.normal, 0, 1), _cut(bends.normal, 1, 0)
    per_norm = 1.0 / _nonzero(bends.norm[:, :-1] * bends.norm[:, 1:])
    return Internal(r, theta, _dot(n1, n2) * per_norm, r[:, 1:-1] * _dot(_cut(b, 0, 2), n2) * per_norm)


def _curves_at(chain: Chain, at: Internal, damping: tuple[float, float] | None) -> Read:
    bond, angle = (
        -_read(chain.bonded[kind], kind, x, "force") if kind in chain.bonded else jnp.zeros_like(x)
        for kind, x in (("bond", at.r), ("angle", at.theta))
    )
    energy = dihedral = jnp.zeros_like(at.cosine)
    if chain.dihedral is not None and at.cosine.shape[1]:
        energy, dihedral = _series(chain.dihedral, at.cosine, at.sine)
    elif "dihedral" in chain.bonded:
        curves, phi = chain.bonded["dihedral"], arctan2(at.sine, at.cosine)
        energy = _read(curves, "dihedral", phi, "energy")
        dihedral = -_read(curves, "dihedral", phi, "force")
    switch = falling = jnp.zeros_like(at.theta)
    if damping is not None:
        low, width = damping[0], damping[1] - damping[0]
        u = jnp.clip((at.theta - low) / width, 0.0, 1.0)
        switch, falling = 1.0 - u * u, jnp.where(u < 1.0, -2.0 * u / width, 0.0)
    return Read(Slopes(bond, angle, dihedral), energy, switch, falling)


def _damped(read: Read) -> Slopes:
    """s(θ₁) s(θ₂) U(φ) instead of U(φ): see `energy.straight_switch`."""
    first, second = read.switch[:, :-1], read.switch[:, 1:]
    around = jnp.pad(read.energy * second, ((0, 0), (0, 1))) + jnp.pad(read.energy * first, ((0, 0), (1, 0)))
    slopes = read.slopes
    return slopes._replace(
        angle=slopes.angle + read.falling * around, dihedral=slopes.dihedral * first * second
    )


def _angle_gradients(slope: Array, b: Vector, squared: Array) -> list[Vector]:
    bends, first, second = _bends(b), _cut(b, 0, 1), _cut(b, 1, 0)
    per_h = slope / _nonzero(bends.norm)
    f = _added(_scaled(per_h, second), _scaled(-per_h * bends.along / _nonzero(squared[:, :-1]), first))
    g = _added(_scaled(per_h, first), _scaled(-per_h * bends.along / _nonzero(squared[:, 1:]), second))
    return [f, g]


def _dihedral_gradients(slope: Array, b: Vector, squared: Array) -> list[Vector]:
    bends, length = _bends(b), jnp.sqrt(squared[:, 1:-1])
    a1 = _scaled(slope / _nonzero(bends.normal2[:, :-1]), _cut(bends.normal, 0, 1))
    a2 = _scaled(slope / _nonzero(bends.normal2[:, 1:]), _cut(bends.normal, 1, 0))
    back = -1.0 / _nonzero(length)
    middle = _added(_scaled(bends.along[:, :-1] * back, a1), _scaled(bends.along[:, 1:] * back, a2))
    return [_scaled(length, a1), middle, _scaled(length, a2)]


def _bonds(x: Array) -> Vector:
    d = x[:, :, 1:] - x[:, :, :-1]
    return d[0], d[1], d[2]


def _bends(b: Vector) -> Bends:
    first, second = _cut(b, 0, 1), _cut(b, 1, 0)
    normal = _cross(first, second)
    normal2 = _dot(normal, normal)
    return Bends(_dot(first, second), normal, normal2, jnp.sqrt(normal2))


def _series(series: Series, cosine: Array, sine: Array) -> tuple[Array, Array]:
    """Σ a_k cos kφ + b_k sin kφ and its slope in φ, from cos φ and sin φ by the addition theorem."""
    a, b = jnp.asarray(series.cosines), jnp.asarray(series.sines)
    energy, slope = jnp.broadcast_to(jnp.asarray(series.mean), cosine.shape), jnp.zeros_like(cosine)
    c, s = cosine, sine
    for k in range(a.shape[0]):
        energy = energy + a[k] * c + b[k] * s
        slope = slope + (k + 1.0) * (b[k] * c - a[k] * s)
        c, s = c * cosine - s * sine, s * cosine + c * sine
    return energy, slope


def _cut(v: Vector, left: int, right: int) -> Vector:
    m = v[0].shape[1]
    return v[0][:, left : m - right], v[1][:, left : m - right], v[2][:, left : m - right]


def _padded(v: Vector, left: int, right: int) -> Vector:
    x, y, z = (jnp.pad(c, ((0, 0), (left, right))) for c in v)
    return x, y, z


def _scaled(factor: Array, v: Vector) -> Vector:
    return factor * v[0], factor * v[1], factor * v[2]


def _added(u: Vector, v: Vector) -> Vector:
    return u[0] + v[0], u[1] + v[1], u[2] + v[2]


def _read(curves: Curves, kind: str, x: Array, what: str) -> Array:
    """Values of the tables at x (R, m), linear between points and beyond the last one."""
    low, high = RANGES[kind]
    points = POINTS
    values = jnp.asarray(getattr(curves, what)).reshape(-1)
    place = (x - low) * (points / (high - low))
    index = jnp.clip(jnp.floor(place), 0, points - 1)
    t = place - index
    at = index.astype(jnp.int32) + (points + 1) * jnp.asarray(curves.place)
    here = values.at[at].get(mode="promise_in_bounds")
    there = values.at[at + 1].get(mode="promise_in_bounds")
    return here + t * (there - here)


def arctan2(y: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """atan2 that runs as one vector loop in float32 (XLA's own calls a scalar routine); exact in float64.

    Minimax polynomial of atan on [0, 1] with |x|, |y| exchanged where needed: within 3e-7 rad.
    """
    if y.dtype != jnp.float32:
        return jnp.arctan2(y, x)
    big, small = jnp.maximum(jnp.abs(x), jnp.abs(y)), jnp.minimum(jnp.abs(x), jnp.abs(y))
    t = small / jnp.where(big == 0.0, 1.0, big)
    z = t * t
    series = jnp.full_like(z, _ATAN[-1])
    for coefficient in _ATAN[-2::-1]:
        series = series * z + jnp.float32(coefficient)
    angle = t * series
    angle = jnp.where(jnp.abs(y) > jnp.abs(x), jnp.float32(np.pi / 2) - angle, angle)
    angle = jnp.where(x < 0.0, jnp.float32(np.pi) - angle, angle)
    return jnp.where(y < 0.0, -angle, angle)


def _atan_polynomial(terms: int = 9) -> tuple[float, ...]:
    """Coefficients c_k of atan(t)/t = Σ c_k t^(2k) on [0, 1], by least squares at Chebyshev points."""
    z = 0.5 - 0.5 * np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    t = np.sqrt(z)
    fit = np.polynomial.Chebyshev.fit(z, np.arctan(t) / t, terms - 1, domain=[0.0, 1.0])
    return tuple(float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef)


_ATAN = _atan_polynomial()


def _dot(a: Vector, b: Vector) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _nonzero(value: Array) -> Array:
    return jnp.where(value == 0.0, jnp.inf, value)
