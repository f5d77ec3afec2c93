"""Scalar functions of the priors: one coordinate and its parameters in, kcal/mol out.

Elementwise over arrays of one shape (parameters with one more axis where a coordinate has several), C¹
everywhere, finite for every finite argument. They are the single source for the energies in JAX and for
the tables that LAMMPS reads.

  harmonic           bonds, angles          ½ k (x - x0)²
  spline             angles, within walls   uniform cubic B-spline on [low, high]
  cosine_polynomial  angles, within walls   Σ a_m cosᵐ θ
  fourier            dihedrals, angles      Σ a_n cos nφ + b_n sin nφ
  periodic_sum       dihedrals              Σ k_n (1 + cos(nφ - γ_n))
  periodic_spline    dihedrals              uniform cubic B-spline on [-π, π)
  walled             any coordinate         another form within [low, high], walls beyond
  shifted_repulsion, wca, debye_huckel      pairs, zero from a cutoff on
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cgrefine.units import COULOMB

CORE_FRACTION = 0.5
"""Below this fraction of σ a repulsion goes on as a straight line, so that float32 does not overflow."""

CHARGE_CORE_A = 1.0
"""Below this distance the Debye-Hückel energy goes on as a straight line, finite at contact."""

WCA_CUTOFF = 2.0 ** (1.0 / 6.0)
"""Distance of the Lennard-Jones minimum over σ, where the WCA repulsion ends."""


def harmonic(x: Float[Array, "..."], k: Float[Array, "..."], x0: Float[Array, "..."]) -> Float[Array, "..."]:
    """½ k (x - x0)²: x in Å or rad, k in kcal/mol/Å² or kcal/mol/rad².

    Note the half: LAMMPS `bond_style harmonic` and `angle_style harmonic` have none, K = k/2.
    """
    return 0.5 * k * (x - x0) ** 2


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


def spline(
    x: Float[Array, "..."],
    row: Int[Array | np.ndarray, "..."],
    coefficients: Float[Array, "rows knots"],
    low: float,
    high: float,
) -> Float[Array, "..."]:
    """Uniform cubic B-spline at x in [low, high] (Å or rad), C² within; beyond it `walled` takes over.

    row: which row of coefficients each x reads. K coefficients (kcal/mol) make K-3 equal knot intervals;
    interval i reads coefficients i to i+3.
    """
    n_intervals = coefficients.shape[-1] - 3
    place = (x - low) * (n_intervals / (high - low))
    interval = jnp.clip(jnp.floor(place), 0, n_intervals - 1)
    knots = interval.astype(jnp.int32)[..., None] + jnp.arange(4)
    return jnp.sum(spline_basis(place - interval) * coefficients[row[..., None], knots], axis=-1)


def periodic_spline(
    phi: Float[Array, "..."], row: Int[Array | np.ndarray, "..."], coefficients: Float[Array, "rows knots"]
) -> Float[Array, "..."]:
    """Uniform cubic B-spline of a torsion (rad, IUPAC sign), C² and of period 2π.

    row: which row of coefficients each φ reads. K coefficients (kcal/mol) make K intervals from -π on, each
    2π/K wide; interval i reads coefficients i to i+3, counted modulo K.
    """
    n = coefficients.shape[-1]
    place = (phi + np.pi) * (n / (2.0 * np.pi))
    interval = jnp.floor(place)
    knots = (interval.astype(jnp.int32)[..., None] + jnp.arange(4)) % n
    return jnp.sum(spline_basis(place - interval) * coefficients[row[..., None], knots], axis=-1)


def cosine_polynomial(theta: Float[Array, "..."], a: Float[Array, "... degree"]) -> Float[Array, "..."]:
    """Σ_m a_m cosᵐ θ, m = 1, 2, …: θ in rad, a_m in kcal/mol, no constant. Flat at 0 and at π."""
    cosine = jnp.cos(theta)
    value = jnp.zeros_like(cosine)
    for m in reversed(range(a.shape[-1])):
        value = (value + a[..., m]) * cosine
    return value


def fourier(
    phi: Float[Array, "..."], cosines: Float[Array, "... harmonics"], sines: Float[Array, "... harmonics"]
) -> Float[Array, "..."]:
    """Σ_n a_n cos nφ + b_n sin nφ, n = 1, 2, …: φ in rad with the IUPAC sign, so that a right-handed
    Cα α-helix is at φ ≈ +50°; a_n, b_n in kcal/mol, no constant and no factor ½."""
    n = jnp.arange(1, cosines.shape[-1] + 1).astype(phi.dtype)
    return jnp.sum(cosines * jnp.cos(n * phi[..., None]) + sines * jnp.sin(n * phi[..., None]), axis=-1)


def periodic_sum(
    phi: Float[Array, "..."], k: Float[Array, "... harmonics"], gamma: Float[Array, "... harmonics"]
) -> Float[Array, "..."]:
    """Σ_n k_n (1 + cos(nφ - γ_n)), n = 1, 2, …: φ, γ_n in rad with the IUPAC sign, k_n in kcal/mol.

    No factor ½. LAMMPS `dihedral_style fourier` has K_i = k_n, n_i = n, d_i = γ_n in degrees. Equal to
    `fourier` with a_n = k_n cos γ_n, b_n = k_n sin γ_n, but for the constant Σ k_n, which acts on the angles
    where the dihedral is damped.
    """
    n = jnp.arange(1, k.shape[-1] + 1).astype(phi.dtype)
    return jnp.sum(k * (1.0 + jnp.cos(n * phi[..., None] - gamma)), axis=-1)


def walled(
    form: Callable[[Array, Array], Array],
    x: Float[Array, "..."],
    row: Int[Array | np.ndarray, "..."],
    n_rows: int,
    low: float,
    high: float,
    wall_k: float,
    ramp: float,
) -> Float[Array, "..."]:
    """form(x, row) on [low, high], and a wall beyond on both sides; for any coordinate.

    Outside, at the distance d from the nearer edge e, value, slope and curvature go on from those of the
    form, and the curvature rises to at least wall_k (kcal/mol per Å² or rad², the ½k form) over `ramp` (Å or
    rad):
        U'' = U''(e) + (max(U''(e), wall_k) - U''(e)) s(d / ramp),   s(t) = t² (3 - 2t) up to 1, then 1:
    a wall, whatever the form does at its edges or beyond them, that a spline table can hold.
    form: elementwise, C² at the edges. row: which of the n_rows rows of its parameters each x reads; edges
    are evaluated once a row.
    """
    every = jnp.arange(n_rows)

    def slope(at: Array) -> Array:
        return jax.jvp(lambda v: form(v, every), (at,), (jnp.ones_like(at),))[1]

    def edge(at: float) -> tuple[Array, Array]:
        place = jnp.full(n_rows, at, x.dtype)
        return jax.jvp(slope, (place,), (jnp.ones_like(place),))

    inside = jnp.clip(x, low, high)
    beyond, above = x - inside, 2.0 * x > low + high
    rises, curved = (
        jnp.where(above, up[row], down[row]) for down, up in zip(edge(low), edge(high), strict=True)
    )
    wall = jnp.maximum(wall_k - curved, 0.0) * ramp**2 * _risen(jnp.abs(beyond) / ramp)
    return form(inside, jnp.asarray(row)) + rises * beyond + 0.5 * curved * beyond**2 + wall


def _risen(t: Array) -> Array:
    """∫∫ s for t >= 0, with s(t) = t² (3 - 2t) up to 1 and 1 beyond."""
    within = jnp.minimum(t, 1.0)
    past = t - within
    return within**4 * (0.25 - 0.1 * within) + 0.5 * past * (1.0 + past)


def shifted_repulsion(
    r: Float[Array, "..."],
    sigma: Float[Array, "..."],
    epsilon: float,
    exponent: int,
    cutoff_A: float,
) -> Float[Array, "..."]:
    """ε [(σ/r)ⁿ - T(r²)] with T the Taylor polynomial of (σ/r)ⁿ in r² at the cutoff, to second order:
        T = (σ/r_c)ⁿ [1 - m t + ½ m (m+1) t²],   m = n/2,   t = r²/r_c² - 1.
    Value, slope and curvature are zero at r_c, and beyond it: a spline table, as LAMMPS reads, would round a
    jump of the curvature. It is repulsive up to there.

    r, σ, r_c in Å, ε in kcal/mol, no factor 4. Below r_s = σ/2 (`CORE_FRACTION`) the energy goes on as a
    parabola of r that has value and slope at r_s and its top at r = 0: repulsive with the force
    -U'(r_s) r/r_s (26 000 kcal/mol/Å at r_s for n = 12, σ = 3.8), smooth at contact and finite in float32.
    No force is lost or hidden: r is not clamped, the formula is another one there.
    """
    edge, half = (sigma / cutoff_A) ** exponent, 0.5 * exponent

    def bare(x: Array) -> tuple[Array, Array]:
        power, t = (sigma / x) ** exponent, x**2 / cutoff_A**2 - 1.0
        value = power - edge * (1.0 - half * t * (1.0 - 0.5 * (half + 1.0) * t))
        return value, exponent * (edge * (1.0 - (half + 1.0) * t) * x / cutoff_A**2 - power / x)

    return epsilon * _with_core(bare, r, CORE_FRACTION * sigma, cutoff_A)


def shifted_repulsion_constants(
    sigma: Float[Array, "..."], epsilon: float, exponent: int, cutoff_A: float
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """a = n ε σⁿ, b = n ε (σ/r_c)ⁿ/r_c², r_s²: with r² held between r_s² and r_c², the slope of
    `shifted_repulsion` is -U'/r = a (r²)^-(n/2+1) - b [1 - (n/2+1) (r²/r_c² - 1)]. No root, for even n."""
    scale = exponent * epsilon
    return (
        scale * sigma**exponent,
        scale * (sigma / cutoff_A) ** exponent / cutoff_A**2,
        (CORE_FRACTION * sigma) ** 2,
    )


def wca(r: Float[Array, "..."], sigma: Float[Array, "..."], epsilon: float) -> Float[Array, "..."]:
    """4ε [(σ/r)¹² - (σ/r)⁶] + ε up to r_m = 2^(1/6) σ, zero with zero slope from there on.

    r, σ in Å, ε in kcal/mol: ε at r = σ. LAMMPS has it as lj/cut with cutoff r_m and pair_modify shift yes.
    Below σ/2 it goes on as a parabola, see `shifted_repulsion`. Each pair ends at its own r_m; the
    curvature jumps there, by 57 ε/σ². Weeks, Chandler & Andersen, J. Chem. Phys. 54, 5237 (1971).
    """

    def bare(x: Array) -> tuple[Array, Array]:
        sixth = (sigma / x) ** 6
        return 4.0 * (sixth**2 - sixth) + 1.0, (24.0 * sixth - 48.0 * sixth**2) / x

    return epsilon * _with_core(bare, r, CORE_FRACTION * sigma, WCA_CUTOFF * sigma)


def debye_huckel(
    r: Float[Array, "..."],
    charge_product: Float[Array, "..."],
    dielectric: float,
    debye_length_A: float,
    cutoff_A: float,
) -> Float[Array, "..."]:
    """q_i q_j C/ε_r [g(r) - g(r_c) - g'(r_c) (r - r_c)], g(r) = exp(-r/λ)/r, C = `units.COULOMB`.

    Charges in elementary charges, r, λ, r_c in Å; positive for like charges. Value and slope are zero at
    r_c, and beyond it. Below 1 Å (`CHARGE_CORE_A`) it goes on as a parabola with its end at 0. LAMMPS has the
    unshifted energy as coul/debye with kappa = 1/λ.
    """

    def screened(x):
        value = jnp.exp(-x / debye_length_A) / x
        return value, -value * (1.0 / x + 1.0 / debye_length_A)

    end, end_slope = screened(jnp.asarray(cutoff_A, r.dtype))

    def bare(x: Array) -> tuple[Array, Array]:
        value, slope = screened(x)
        return value - end - end_slope * (x - cutoff_A), slope - end_slope

    return COULOMB / dielectric * charge_product * _with_core(bare, r, CHARGE_CORE_A, cutoff_A)


def _with_core(
    bare: Callable[[Array], tuple[Array, Array]],
    r: Float[Array, "..."],
    core: Float[Array, "..."] | float,
    cutoff: Float[Array, "..."] | float,
) -> Float[Array, "..."]:
    """A pair energy (value and slope of r) up to its cutoff, a parabola below the core, zero beyond."""
    in_core, acts = r < core, r < cutoff
    x = jnp.where(in_core, core, jnp.where(acts, r, cutoff))
    value, slope = bare(x)
    return jnp.where(acts, value + jnp.where(in_core, 0.5 * slope * (r**2 / x - x), 0.0), 0.0)
