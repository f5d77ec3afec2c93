"""A coarse-grained potential that is known: what a trainer must find again from forces with noise on them.

    U(R) = Σ bonds, angles, dihedrals, repulsion (forms of `priors`)  +  Σ_{i<j} u(r_ij; ε_{s_i s_j})
    u(r; ε) = -ε exp(-(r - r₀)²/2w²) [(r_c² - r²)/(r_c² - r₀²)]³ below r_c, 0 beyond

The contacts u act between all beads whatever their separation along the chain, so that they are a function
of types and distances alone, which is what a network can learn; bonded beads are too close to feel them.
ε of each pair of species is drawn by a seed: wells and barriers. The other parameters are drawn as well, of
the size they have in proteins.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine.energy import PairTerm, SumOfTerms
from cgrefine.fm.priors.classes import labels
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.residues import N_SPECIES

CONTACT_CUTOFF_A = 8.5
ANGLE_RANGE = (1.2, 2.7)
DAMPING = (float(np.deg2rad(150.0)), float(np.pi))

FACTS = {
    "terms": [
        {"name": "bond", "kind": "bond", "form": "harmonic", "classes": "class"},
        {
            "name": "angle", "kind": "angle", "form": "polynomial", "classes": "class",
            "low": ANGLE_RANGE[0], "high": ANGLE_RANGE[1], "wall_k": 100.0, "wall_ramp": 0.035,
        },
        {
            "name": "dihedral", "kind": "dihedral", "form": "fourier", "classes": "class",
            "damping": DAMPING,
        },
        {
            "name": "repulsion", "kind": "pair", "form": "power", "epsilon": 1.0, "exponent": 12,
            "shift_order": 2, "cutoff_A": 6.5, "min_separation": 3, "max_separation": None,
        },
    ]
}  # fmt: skip
"""The terms of known parameters that have the form of a prior, see `priors.terms`."""

BOND_K, BOND_A = 60.0, 3.8
"""½ k (r - r₀)², kcal/mol/Å²: softer than in proteins, where bonds alone are nearly all of ⟨F²⟩."""

ANGLE_K, ANGLE_DEG = 16.0, 108.0
"""½ K (cos θ - cos θ₀)², kcal/mol."""

DIHEDRAL_AMPLITUDE = 1.0
HARMONICS = 3
SIGMA_A = 4.2
"""Of all pairs: the largest that the fit of priors gives, and close contacts are too rare for others."""


@dataclass(frozen=True)
class Contact:
    """u(r; ε) of this module, -ε at r₀: parameter depth ε (species, species) kcal/mol; zero from r_c on."""

    centre_A: float = 6.3
    width_A: float = 0.7
    cutoff_A: float = CONTACT_CUTOFF_A

    def __call__(self, params, r, species_i, species_j) -> Float[Array, "..."]:
        """Energy, kcal/mol."""
        depth = jnp.asarray(params["depth"])[species_i, species_j]
        fade = jnp.maximum(self.cutoff_A**2 - r**2, 0.0) / (self.cutoff_A**2 - self.centre_A**2)
        return -depth * jnp.exp(-0.5 * ((r - self.centre_A) / self.width_A) ** 2) * fade**3

    def pair_constants(self, params, species_i, species_j, acts):
        """Of `dense.FastPair`: the depth of each pair."""
        return (acts * jnp.asarray(params["depth"])[species_i, species_j],)

    def slope_over_r(self, constants, squared):
        """-u'(r)/r of r² in Å², kcal/mol/Å²: u [(r - r₀)/(w² r) + 6/(r_c² - r²)], without the poles."""
        r = jnp.sqrt(jnp.maximum(squared, 1.0))
        beyond, scale = r - self.centre_A, self.cutoff_A**2 - self.centre_A**2
        left = jnp.maximum(self.cutoff_A**2 - squared, 0.0) / scale
        shape = jnp.exp(-0.5 * (beyond / self.width_A) ** 2) * left**2
        return -constants[0] * shape * (left * beyond / (self.width_A**2 * r) + 6.0 / scale)


class KnownPotential(NamedTuple):
    """model: its term "contact" is what no prior has; params: by term name, numpy."""

    model: SumOfTerms
    params: dict[str, dict[str, np.ndarray]]


def known_potential(seed: int, depth_kcal_mol: float) -> KnownPotential:
    """The potential of a seed. ε is uniform within ± depth_kcal_mol, symmetric in the species."""
    rng = np.random.default_rng(seed)
    rows = {kind: len(labels(kind, "class")) for kind in ("bond", "angle", "dihedral")}
    cosine = np.cos(np.deg2rad(rng.normal(ANGLE_DEG, 4.0, rows["angle"])))
    stiffness = ANGLE_K * rng.uniform(0.8, 1.2, rows["angle"])
    falling = DIHEDRAL_AMPLITUDE / np.arange(1, HARMONICS + 1)
    params = {
        "bond": {
            "k": BOND_K * rng.uniform(0.9, 1.1, rows["bond"]),
            "x0": BOND_A + rng.normal(0.0, 0.03, rows["bond"]),
        },
        "angle": {"coefficients": np.stack([-stiffness * cosine, 0.5 * stiffness], axis=1)},
        "dihedral": {
            "cos": falling * rng.normal(size=(rows["dihedral"], HARMONICS)),
            "sin": falling * rng.normal(size=(rows["dihedral"], HARMONICS)),
        },
        "repulsion": {"sigma": np.full((N_SPECIES, N_SPECIES), SIGMA_A)},
        "contact": {"depth": depth_kcal_mol * _symmetric(rng.uniform(-1.0, 1.0, (N_SPECIES, N_SPECIES)))},
    }
    contact = PairTerm("contact", CONTACT_CUTOFF_A, 1, Contact())
    return KnownPotential(SumOfTerms((*prior_terms(FACTS), contact)), params)


def _symmetric(values: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """The upper triangle on both sides."""
    return np.triu(values) + np.triu(values, 1).T
