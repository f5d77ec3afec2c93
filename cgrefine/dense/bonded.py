"""Forces of bonds, angles and dihedrals along a chain, with their gradients written out.

Blondel & Karplus, J. Comput. Chem. 17, 1132 (1996).
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from cgrefine.dense.arctangent import arctan2
from cgrefine.dense.chain import Chain
from cgrefine.dense.series import evaluated
from cgrefine.dense.tables import read
from cgrefine.dense.vectors import (
    Vector,
    added,
    bonds,
    cross,
    cut,
    dot,
    nonzero,
    padded,
    scaled,
)


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


def bonded_forces(chain: Chain, x: Array, damping: tuple[float, float] | None) -> Array:
    """Forces (3, R, L) kcal/mol/Å at positions (3, R, L) Å; damping: angles of `energy.straight_switch`.

    From the gradient with respect to the bond vectors b_k = x_{k+1} - x_k: F_k = dU/db_k - dU/db_{k-1}.

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
        b = bonds(x)
        squared = dot(b, b)
        along = [scaled(known.bond / nonzero(jnp.sqrt(squared)), b)]
        bent = _angle_gradients(known.angle, b, squared) if x.shape[2] > 2 else []
        turned = _dihedral_gradients(known.dihedral, b, squared) if x.shape[2] > 3 else []
        return along, bent, turned

    gradients = [
        padded(part, place, len(group) - 1 - place)
        for group in _stored(parts, chain, x)
        for place, part in enumerate(group)
    ]
    gradient = reduce(added, gradients)
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
    b = bonds(x)
    r = jnp.sqrt(dot(b, b))
    none = r[:, :0]
    if x.shape[2] < 3:
        return Internal(r, none, none, none)
    bends = _bends(b)
    theta = arctan2(bends.norm, -bends.along)
    if x.shape[2] < 4:
        return Internal(r, theta, none, none)
    n1, n2 = cut(bends.normal, 0, 1), cut(bends.normal, 1, 0)
    per_norm = 1.0 / nonzero(bends.norm[:, :-1] * bends.norm[:, 1:])
    return Internal(r, theta, dot(n1, n2) * per_norm, r[:, 1:-1] * dot(cut(b, 0, 2), n2) * per_norm)


def _curves_at(chain: Chain, at: Internal, damping: tuple[float, float] | None) -> Read:
    bond, angle = (
        -read(chain.bonded[kind], kind, x, "force") if kind in chain.bonded else jnp.zeros_like(x)
        for kind, x in (("bond", at.r), ("angle", at.theta))
    )
    energy = dihedral = jnp.zeros_like(at.cosine)
    if chain.dihedral is not None and at.cosine.shape[1]:
        energy, dihedral = evaluated(chain.dihedral, at.cosine, at.sine)
    elif "dihedral" in chain.bonded:
        curves, phi = chain.bonded["dihedral"], arctan2(at.sine, at.cosine)
        energy = read(curves, "dihedral", phi, "energy")
        dihedral = -read(curves, "dihedral", phi, "force")
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
    bends, first, second = _bends(b), cut(b, 0, 1), cut(b, 1, 0)
    per_h = slope / nonzero(bends.norm)
    f = added(scaled(per_h, second), scaled(-per_h * bends.along / nonzero(squared[:, :-1]), first))
    g = added(scaled(per_h, first), scaled(-per_h * bends.along / nonzero(squared[:, 1:]), second))
    return [f, g]


def _dihedral_gradients(slope: Array, b: Vector, squared: Array) -> list[Vector]:
    bends, length = _bends(b), jnp.sqrt(squared[:, 1:-1])
    a1 = scaled(slope / nonzero(bends.normal2[:, :-1]), cut(bends.normal, 0, 1))
    a2 = scaled(slope / nonzero(bends.normal2[:, 1:]), cut(bends.normal, 1, 0))
    back = -1.0 / nonzero(length)
    middle = added(scaled(bends.along[:, :-1] * back, a1), scaled(bends.along[:, 1:] * back, a2))
    return [scaled(length, a1), middle, scaled(length, a2)]


def _bends(b: Vector) -> Bends:
    first, second = cut(b, 0, 1), cut(b, 1, 0)
    normal = cross(first, second)
    normal2 = dot(normal, normal)
    return Bends(dot(first, second), normal, normal2, jnp.sqrt(normal2))
