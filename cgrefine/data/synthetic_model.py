"""The physics of a synthetic domain: its potential, its exact mean force, and atomic frames with noise.

    U(R, r) = U_cg(R) + Σ_a ½ k_a |r_a − A_a(R)|²,   A_a(R) = Σ_I α_aI R_I + c_a,   Σ_I α_aI = 1

R are the Cα, r_a the other heavy atoms; hydrogens stand at fixed vectors from their heavy atoms. A_a is
affine, so the integral over r is a constant and the mean force on the beads at any R is F_cg = −∇U_cg,
exactly, at every temperature. With δ_a = r_a − A_a(R), the force is −k_a δ_a on a free group and
F_cg,I + Σ_a α_aI k_a δ_a on the group of bead I, plus noise of zero mean on each group. Inside a group a
force of mean γ(R_{I+1} − R_{I−1}) pulls each hydrogen, and its heavy atom back: a map that does not
give both one coefficient is biased.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import sparse

from cgrefine import units
from cgrefine.data.topology import Atoms

BOND_K, SECOND_K = 160.0, 20.0
"""½k springs of first and second neighbours, kcal/mol/Å²."""
WELL_DEPTH, WELL_WIDTH_A = 0.4, 1.0
CORE_A, CORE_K = 5.5, 30.0
"""Pairs nearer than CORE_A repel with ½·CORE_K·(CORE_A − r)²."""
PAIR_CUTOFF_A = 10.0
"""Pairs at least three apart that are nearer than this in the reference have a well and a core."""

HEAVY_NOISE, BEAD_NOISE, XH_NOISE = 4.0, 6.0, 10.0
"""Noise per component on free groups, on groups of beads, and inside X-H bonds, kcal/mol/Å."""
XH_PULL = 1.0
"""γ, kcal/mol/Å²."""

MASS, TIMESTEP_FS, FRICTION_PER_PS = units.RESIDUE_MASS, 8.0, 5.0


class Terms(NamedTuple):
    """U_cg as pair terms. i, j, r0 (Å), k: springs ½k(r − r0)²; depth: wells −depth·exp(−(r − r0)²/2w²);
    core: ½·core·max(0, CORE_A − r)². All (terms,)."""

    i: np.ndarray
    j: np.ndarray
    r0: np.ndarray
    k: np.ndarray
    depth: np.ndarray
    core: np.ndarray


@dataclass(frozen=True)
class SyntheticDomain:
    """A molecule with a known mean force. n beads, g groups (heavy atoms, in file order), a atoms.

    atoms, bonds (b, 2): as a reader gives them. helical: (n,) bool. reference: (n, 3) Cα, Å, in the middle
    of a cubic box of box_A. anchor: (g, n) sparse α, rows of beads are 1 on the bead; offset: (g, 3) Å,
    c_a; stiffness: (g,) k_a, 0 for beads. ca: (n,) group of each bead; heavy: (g,) atom of each group;
    group: (a,) group of each atom; hydrogen: (h,) atoms; xh: (h, 3) Å vectors from their heavy atoms.
    """

    name: str
    atoms: Atoms
    bonds: np.ndarray
    helical: np.ndarray
    reference: np.ndarray
    box_A: float
    terms: Terms
    anchor: sparse.csr_array
    offset: np.ndarray
    stiffness: np.ndarray
    ca: np.ndarray
    heavy: np.ndarray
    group: np.ndarray
    hydrogen: np.ndarray
    xh: np.ndarray

    @property
    def n_beads(self) -> int:
        return len(self.reference)


def native_terms(reference: Float[np.ndarray, "n 3"]) -> Terms:
    """Springs along the chain, and a well at its distance for every native pair."""
    n = len(reference)
    i, j = np.triu_indices(n, 1)
    r = np.linalg.norm(reference[i] - reference[j], axis=1)
    apart = j - i
    kept = (apart <= 2) | (r < PAIR_CUTOFF_A)
    i, j, r, apart = i[kept], j[kept], r[kept], apart[kept]
    pair = apart >= 3
    return Terms(
        i,
        j,
        np.where(apart == 1, 3.8, r),
        np.select([apart == 1, apart == 2], [BOND_K, SECOND_K], 0.0),
        np.where(pair, WELL_DEPTH, 0.0),
        np.where(pair, CORE_K, 0.0),
    )


def potential(
    domain: SyntheticDomain, ca_positions: Float[np.ndarray, "frames n 3"]
) -> Float[np.ndarray, " frames"]:
    """U_cg of each frame, kcal/mol; invariant under rotation and translation."""
    t = domain.terms
    x = np.asarray(ca_positions, np.float64)
    r = np.linalg.norm(x[:, t.i] - x[:, t.j], axis=-1)
    core = np.maximum(CORE_A - r, 0.0)
    well = np.exp(-((r - t.r0) ** 2) / (2 * WELL_WIDTH_A**2))
    return (0.5 * t.k * (r - t.r0) ** 2 - t.depth * well + 0.5 * t.core * core**2).sum(axis=1)


def mean_forces(
    domain: SyntheticDomain, ca_positions: Float[np.ndarray, "frames n 3"]
) -> Float[np.ndarray, "frames n 3"]:
    """The true mean force F_cg = −∇U_cg on each bead, kcal/mol/Å, in float64."""
    forces = _Forces(domain)
    x = np.asarray(ca_positions, np.float64).transpose(1, 0, 2)
    return forces(np.ascontiguousarray(x)).transpose(1, 0, 2)


def sample(
    domain: SyntheticDomain,
    temperature_K: float,
    replicas: int,
    frames: int,
    rng: np.random.Generator,
    steps_per_frame: int = 20,
    warm_up_steps: int = 300,
) -> Float[np.ndarray, "{replicas} {frames} n 3"]:
    """Cα positions by BAOAB Langevin dynamics from the reference, all replicas at once, float32.

    Each frame is superposed on the reference, which the invariance of U_cg allows: the constant vectors
    c_a would otherwise point into the chain once it has turned. Leimkuhler & Matthews, AMRX 2013, 34.
    """
    forces, kT = _Forces(domain), units.thermal_energy(temperature_K)
    dt = units.from_fs(TIMESTEP_FS)
    keep = np.exp(-units.from_per_ps(FRICTION_PER_PS) * dt)
    kick = np.sqrt((1 - keep**2) * kT / MASS)
    x = np.repeat(domain.reference[:, None, :], replicas, axis=1)
    v = rng.normal(0, np.sqrt(kT / MASS), x.shape)
    f = forces(x)
    found = np.empty((replicas, frames, domain.n_beads, 3), np.float32)
    for step in range(1, warm_up_steps + frames * steps_per_frame + 1):
        v += (0.5 * dt / MASS) * f
        x = x + (0.5 * dt) * v
        v = keep * v + kick * rng.standard_normal(x.shape)
        x = x + (0.5 * dt) * v
        f = forces(x)
        v += (0.5 * dt / MASS) * f
        frame, rest = divmod(step - warm_up_steps, steps_per_frame)
        if rest == 0 and frame > 0:
            found[:, frame - 1] = superposed(x.transpose(1, 0, 2), domain.reference)
    return found


def atom_frames(
    domain: SyntheticDomain,
    ca_positions: Float[np.ndarray, "frames n 3"],
    temperature_K: float,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "frames atoms 3"], Float[np.ndarray, "frames atoms 3"]]:
    """All-atom coordinates (Å, on the 0.01 Å grid) and forces (kcal/mol/Å) of given Cα frames, float32.

    Forces belong to the Cα positions as rounded to the grid; only the other atoms' rounding comes later.
    """
    frames, n = ca_positions.shape[:2]
    beads = on_grid(ca_positions).transpose(1, 0, 2).reshape(n, 3 * frames)
    k = domain.stiffness[:, None].astype(np.float32)
    delta = rng.standard_normal((len(k), 3 * frames), dtype=np.float32)
    delta *= np.sqrt(np.divide(units.thermal_energy(temperature_K), k, out=np.zeros_like(k), where=k > 0))
    heavy = domain.anchor.astype(np.float32) @ beads + delta
    heavy = heavy.reshape(-1, frames, 3) + domain.offset[:, None, :].astype(np.float32)
    heavy[domain.ca] = beads.reshape(n, frames, 3)

    group = rng.standard_normal(delta.shape, dtype=np.float32)
    group *= np.where(k > 0, np.float32(HEAVY_NOISE), np.float32(BEAD_NOISE))
    spring = k * delta
    group -= spring
    truth = mean_forces(domain, beads.reshape(n, frames, 3).transpose(1, 0, 2).astype(np.float64))
    group[domain.ca] += domain.anchor.astype(np.float32).T @ spring
    group[domain.ca] += truth.transpose(1, 0, 2).reshape(n, 3 * frames).astype(np.float32)
    pull = _pulls(domain, beads, rng)
    owner = domain.group[domain.hydrogen]
    back = sparse.csr_array(
        (np.ones(len(owner), np.float32), (owner, np.arange(len(owner)))), (len(k), len(owner))
    )
    forces = np.empty((frames, len(domain.atoms), 3), np.float32)
    coords = np.empty_like(forces)
    coords[:, domain.heavy] = heavy.transpose(1, 0, 2)
    coords[:, domain.hydrogen] = coords[:, domain.heavy[owner]] + domain.xh.astype(np.float32)
    forces[:, domain.heavy] = (group - back @ pull).reshape(-1, frames, 3).transpose(1, 0, 2)
    forces[:, domain.hydrogen] = pull.reshape(-1, frames, 3).transpose(1, 0, 2)
    return on_grid(coords), forces


def on_grid(positions: np.ndarray) -> np.ndarray:
    """Nearest point of the 0.01 Å grid, as the nearest float32; as XTC leaves coordinates."""
    centi = np.rint(np.asarray(positions, np.float64) * 100.0)
    return (centi / 100.0).astype(np.float32)


def superposed(
    x: Float[np.ndarray, "frames n 3"], target: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "frames n 3"]:
    """Frames moved and turned, never mirrored, onto target by least squares. Kabsch, Acta Cryst. 32, 922."""
    centred, centre = x - x.mean(axis=1, keepdims=True), target.mean(axis=0)
    u, _, vt = np.linalg.svd(np.einsum("fni,nj->fij", centred, target - centre))
    u[:, :, 2] *= np.sign(np.linalg.det(u) * np.linalg.det(vt))[:, None]
    return centred @ (u @ vt) + centre


def _pulls(domain: SyntheticDomain, beads: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h, 3 frames) forces on the hydrogens inside their groups."""
    last = domain.n_beads - 1
    residue = domain.atoms.residue[domain.hydrogen]
    pull = rng.standard_normal((len(residue), beads.shape[1]), dtype=np.float32)
    pull *= np.float32(XH_NOISE)
    along = beads[np.minimum(np.arange(last + 1) + 1, last)] - beads[np.maximum(np.arange(last + 1) - 1, 0)]
    return pull + np.float32(XH_PULL) * along[residue]


class _Forces:
    """−∇U_cg of (n, frames, 3) positions: rows of beads, so that pairs are gathered in whole rows."""

    def __init__(self, domain: SyntheticDomain) -> None:
        self.terms = t = domain.terms
        m, rows = len(t.i), np.arange(len(t.i))
        self.scatter = sparse.csr_array(
            (np.repeat([1.0, -1.0], m), (np.concatenate([t.i, t.j]), np.tile(rows, 2))), (domain.n_beads, m)
        )
        self.pairs = np.flatnonzero(t.depth > 0)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        t, p = self.terms, self.pairs
        d = x[t.i] - x[t.j]
        r = np.sqrt(np.einsum("mfi,mfi->mf", d, d))
        stretch = r - t.r0[:, None]
        pull = t.k[:, None] * stretch  # dU/dr
        well = np.exp(stretch[p] ** 2 * (-0.5 / WELL_WIDTH_A**2))
        pull[p] += (t.depth[p] / WELL_WIDTH_A**2)[:, None] * stretch[p] * well
        pull[p] -= t.core[p][:, None] * np.maximum(CORE_A - r[p], 0.0)
        d *= (-pull / r)[:, :, None]
        return (self.scatter @ d.reshape(len(d), -1)).reshape(x.shape)
