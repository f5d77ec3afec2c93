"""Scalar functions of the priors: one coordinate and its parameters in, kcal/mol out.

Elementwise over arrays of one shape, C¹ everywhere, finite for every finite argument. They are the
single source for the energies in JAX and for the tables that LAMMPS reads.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

CORE_FRACTION = 0.5
"""Below this fraction of σ the repulsion goes on as a straight line, so that float32 does not overflow."""


def harmonic(r: Float[Array, "..."], k: Float[Array, "..."], r0: Float[Array, "..."]) -> Float[Array, "..."]:
    """½ k (r - r0)²: r, r0 in Å, k in kcal/mol/Å². Note the half: LAMMPS `bond_style harmonic` has none."""
    return 0.5 * k * (r - r0) ** 2


def spline_basis(t: Float[Array, "..."], degree: int = 3) -> Float[Array, "... weights"]:
    """The degree+1 uniform B-splines that are not zero at t in [0, 1], the place within one knot interval.

    Weights of coefficients i, i+1, … for interval i; they sum to one. Cox-de Boor, degree 2 or 3.
    """
    if degree == 2:
        weights = [(1.0 - t) ** 2 / 2.0, (1.0 + 2.0 * t - 2.0 * t**2) / 2.0, t**2 / 2.0]
    else:
        weights = [
            (1.0 - t) ** 3 / 6.0,
            (4.0 - 6.0 * t**2 + 3.0 * t**3) / 6.0,
            (1.0 + 3.0 * t + 3.0 * t**2 - 3.0 * t**3) / 6.0,
            t**3 / 6.0,
        ]
    return jnp.stack(weights, axis=-1)


def walled_spline(
    theta: Float[Array, "..."],
    kind: Int[Array | np.ndarray, "..."],
    coefficients: Float[Array, "kinds knots"],
    low: float,
    high: float,
    wall_k: float,
) -> Float[Array, "..."]:
    """Uniform cubic B-spline of an angle (rad) on [low, high], one row of coefficients for each kind.

    K coefficients (kcal/mol) make K-3 equal knot intervals, C² within. Outside, with e the nearer edge:
        S(e) + S'(e) (θ - e) + ½ wall_k (θ - e)²,   wall_k in kcal/mol/rad²,
    so value and slope go on, and the curvature is wall_k whatever the spline's own: a wall on both sides.
    """
    n_intervals = coefficients.shape[1] - 3
    width = (high - low) / n_intervals
    inside = jnp.clip(theta, low, high)
    place = (inside - low) / width
    interval = jnp.clip(jnp.floor(place), 0, n_intervals - 1)
    t, first = place - interval, interval.astype(jnp.int32)
    c = jnp.stack([coefficients[kind, first + m] for m in range(4)], axis=-1)
    value = jnp.sum(spline_basis(t) * c, axis=-1)
    slope = jnp.sum(spline_basis(t, 2) * jnp.diff(c, axis=-1), axis=-1) / width
    beyond = theta - inside
    return value + slope * beyond + 0.5 * wall_k * beyond**2


def fourier(
    phi: Float[Array, "..."], cosines: Float[Array, "... harmonics"], sines: Float[Array, "... harmonics"]
) -> Float[Array, "..."]:
    """Σ_n a_n cos nφ + b_n sin nφ, n = 1, 2, …: φ in rad with the IUPAC sign, so that a right-handed
    Cα α-helix is at φ ≈ +50°; a_n, b_n in kcal/mol, no constant and no factor ½."""
    n = jnp.arange(1, cosines.shape[-1] + 1).astype(phi.dtype)
    return jnp.sum(cosines * jnp.cos(n * phi[..., None]) + sines * jnp.sin(n * phi[..., None]), axis=-1)


def shifted_repulsion(
    r: Float[Array, "..."],
    sigma: Float[Array, "..."],
    epsilon: float,
    exponent: int,
    cutoff_A: float,
) -> Float[Array, "..."]:
    """ε [(σ/r)ⁿ - (σ/r_c)ⁿ + n (σ/r_c)ⁿ (r - r_c)/r_c]: value and slope are zero at r_c, and beyond it.

    r, σ, r_c in Å, ε in kcal/mol, no factor 4. Below r_s = σ/2 (`CORE_FRACTION`) the energy goes on as
    the tangent at r_s: repulsive with the constant force -U'(r_s) (26 000 kcal/mol/Å for n = 12, σ = 3.8),
    finite in float32. No force is lost or hidden: r is not clamped, the formula is another one there.
    """
    core = CORE_FRACTION * sigma
    in_core, acts = r < core, r < cutoff_A
    x = jnp.where(in_core, core, jnp.where(acts, r, cutoff_A))
    power, edge = (sigma / x) ** exponent, (sigma / cutoff_A) ** exponent
    value = power - edge + exponent * edge * (x - cutoff_A) / cutoff_A
    slope = exponent * (edge / cutoff_A - power / x)
    tangent = jnp.where(in_core, slope * (r - x), 0.0)
    return jnp.where(acts, epsilon * (value + tangent), 0.0)
