"""The prior terms of one molecule as LAMMPS styles: types, tables and coefficient lines.

Every bonded term leaves as a `table spline` style. A LAMMPS type is one curve: type codes of the molecule
(`Topology.*_types`) that have the same curve share a type, and terms of one kind are added up. A damped
dihedral leaves as `table/cut`, whose switch of the two angles is `energy.straight_switch`.

Pair terms have windows of separations. Far along the chain one set of terms acts, one `pair_style table`
each, or for the repulsive part of a Lennard-Jones energy `lj/cut` with shifted energies, which is exact. At
each near separation where another set acts the pairs get a pseudo-bond, which makes them special neighbours
that the pair styles leave out (`special_bonds lj 0 1 1`); it carries the sum of the terms that do act there
as a bond table, or nothing.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from cgrefine.energy import BondedTerm, PairTerm
from cgrefine.export import tables
from cgrefine.residues import RESIDUES
from cgrefine.system import Topology

LONGEST_LINK_A = 6.0
"""No two neighbours along the chain are ever further apart: the range of the tables of near pairs."""


LJ_MINIMUM = 2.0 ** (1.0 / 6.0)
"""Distance of the minimum of a Lennard-Jones energy over σ."""
Kind = Literal["bond", "angle", "dihedral"]


@runtime_checkable
class Repulsive(Protocol):
    """The scalar of a pair term that is the repulsive part of a Lennard-Jones energy, up to its minimum."""

    def lennard_jones(self, params: Any) -> tuple[float, np.ndarray]:
        """ε kcal/mol and σ (species, species) Å of these parameters."""
        ...


class Bonded(NamedTuple):
    """Bonds, angles or dihedrals as LAMMPS has them.

    style: arguments of the style command. rows: LAMMPS type (from 1) and beads (from 0) of each tuple.
    coefficients: what stands behind `*_coeff TYPE`, one a type. files: text of each table file.
    """

    style: str
    rows: list[tuple[int, ...]]
    coefficients: list[str]
    files: dict[str, str]


class Pairs(NamedTuple):
    """Pair styles as LAMMPS has them: none when no term acts far along the chain. commands: coefficient
    lines. reach_A: longest cutoff."""

    styles: list[str]
    commands: list[str]
    files: dict[str, str]
    reach_A: float


class NearPair(NamedTuple):
    """Beads i < j that the pair styles leave out, and the pair terms that act between them."""

    i: int
    j: int
    separation: int
    terms: tuple[PairTerm, ...]


def near_pairs(topology: Topology, terms: Sequence[PairTerm]) -> list[NearPair]:
    """Pairs of one chain that need a pseudo-bond: where not the same terms act as far along the chain.

    Bonds are excluded as soon as anything is, and need one only if a term acts on them.
    """
    last = max((max(t.min_separation - 1, t.max_separation or 0) for t in terms), default=0)
    far = acting(terms, last + 1)
    unlike = [s for s in range(1, last + 1) if acting(terms, s) != far]
    if not unlike:
        return []
    wanted = {s: acting(terms, s) for s in unlike if s > 1}
    if acting(terms, 1):
        wanted[1] = acting(terms, 1)
    found = []
    for i in range(topology.n_beads):
        for j in range(i + 1, min(i + last, topology.n_beads - 1) + 1):
            separation = int(topology.sequence[j] - topology.sequence[i])
            if separation in wanted:
                found.append(NearPair(i, j, separation, wanted[separation]))
    return found


def acting(terms: Sequence[PairTerm], separation: int) -> tuple[PairTerm, ...]:
    """The terms that act at a separation along the chain."""
    return tuple(t for t in terms if t.acts_at(np.asarray(separation)))


def excludes_bonds(terms: Sequence[PairTerm]) -> bool:
    """Whether pair styles must leave out beads that are bonded: some separation has terms of its own."""
    last = max((max(t.min_separation - 1, t.max_separation or 0) for t in terms), default=0)
    return any(acting(terms, s) != acting(terms, last + 1) for s in range(1, last + 1))


def bonds(topology: Topology, terms: Sequence[BondedTerm], near: Sequence[NearPair], params: Any) -> Bonded:
    """Bonds, which say which beads are chain neighbours even without a term, and the pseudo-bonds."""
    types, texts, _ = _tabulated(topology, "bond", terms, params)
    text = ["# bond: x, E, -dE/dx in Angstrom and kcal/mol\n\n", *texts]
    coefficients = [f"table bond.table BOND_{t + 1}" for t in range(len(texts))]
    if len(types) and not texts:
        coefficients = ["zero"]
    rows = [(int(t) + 1, *map(int, b)) for t, b in zip(types, topology.bonds, strict=True)]
    files = {"bond.table": "".join(text)} if texts else {}
    if silent := [n for n in near if not n.terms]:
        coefficients.append("zero # pseudo-bonds: exclusion only")
        rows += [(len(coefficients), n.i, n.j) for n in silent]
    if loud := [n for n in near if n.terms]:
        types, texts = _near_tables(topology, loud, params)
        rows += [(len(coefficients) + int(t) + 1, n.i, n.j) for t, n in zip(types, loud, strict=True)]
        coefficients += [f"table near.table NEAR_{t + 1}" for t in range(len(texts))]
        header = "# pairs near along the chain: r, E, -dE/dr in Angstrom and kcal/mol\n\n"
        files["near.table"] = "".join([header, *texts])
    styles = [f"table spline {tables.BOND_LOOKUP}"] if files else []
    if any(c.startswith("zero") for c in coefficients):
        styles.append("zero nocoeff")
    return Bonded(" ".join(["hybrid", *styles]) if styles else "none", rows, coefficients, files)


def angles(topology: Topology, terms: Sequence[BondedTerm], params: Any) -> Bonded:
    """Angles, if a term acts on them."""
    types, texts, points = _tabulated(topology, "angle", terms, params)
    if not texts:
        return Bonded("none", [], [], {})
    text = "".join(["# angle: x, E, -dE/dx in degrees and kcal/mol\n\n", *texts])
    return Bonded(
        f"table spline {points}",
        [(int(t) + 1, *map(int, b)) for t, b in zip(types, topology.angles, strict=True)],
        [f"angle.table ANGLE_{t + 1}" for t in range(len(texts))],
        {"angle.table": text},
    )


def dihedrals(topology: Topology, terms: Sequence[BondedTerm], params: Any) -> Bonded:
    """Dihedrals: each quadruple once for every damping that its terms have.

    Raises ValueError on a damping that does not end at 180 degrees: that of LAMMPS turns negative beyond.
    """
    styles: dict[str, int] = {}
    rows: list[tuple[int, ...]] = []
    lines: list[tuple[str, str]] = []
    files: dict[str, str] = {}
    for damping in dict.fromkeys(t.damping for t in terms):
        alike = [t for t in terms if t.damping == damping]
        types, texts, points = _tabulated(topology, "dihedral", alike, params, len(lines))
        if not texts:
            continue
        style, arguments = "table", ""
        if damping is not None:
            if not np.isclose(damping[1], np.pi, rtol=0.0, atol=1e-6):
                raise ValueError(
                    f"dihedral term {alike[0].name!r} is damped up to {np.rad2deg(damping[1]):g} degrees; "
                    "LAMMPS files hold dampings up to 180"
                )
            style, arguments = "table/cut", f"aat 1.0 {np.rad2deg(damping[0]):.17g} 180.0 "
        first = len(lines)
        rows += [(first + int(t) + 1, *map(int, b)) for t, b in zip(types, topology.dihedrals, strict=True)]
        file = "dihedral.table" if damping is None else f"dihedral_cut_{len(files) + 1}.table"
        files[file] = "".join(["# dihedral: x, E, -dE/dx in degrees and kcal/mol\n\n", *texts])
        lines += [(style, f"{arguments}{file} DIHEDRAL_{first + t + 1}") for t in range(len(texts))]
        styles[style] = max(points, styles.get(style, 0))
    used = [f"{style} spline {points}" for style, points in styles.items()]
    if len(used) < 2:
        return Bonded("".join(used) or "none", rows, [line for _, line in lines], files)
    return Bonded("hybrid " + " ".join(used), rows, [f"{style} {line}" for style, line in lines], files)


def pairs(topology: Topology, terms: Sequence[PairTerm], params: Any) -> Pairs:
    """The pair styles of the terms that act far along the chain; species that do not meet have no table."""
    present = sorted({int(s) for s in topology.species})
    species = [(a, b) for a in present for b in present if a <= b]
    far = [t for t in terms if t.max_separation is None]
    if not far:
        return Pairs([], ["pair_coeff * *"], {}, 0.0)
    commands = ["# Only species present in beads.data have a table; others do not interact."]
    commands.append("pair_coeff * * none")
    files: dict[str, str] = {}
    styles = []
    repulsive = [t for t in far if isinstance(t.scalar, Repulsive)]
    for number, term in enumerate(repulsive, start=1):
        styles.append(f"lj/cut {term.cutoff_A:.17g}")
        style = f"lj/cut {number}" if len(repulsive) > 1 else "lj/cut"
        epsilon, sigma = term.scalar.lennard_jones(params[term.name])
        for a, b in species:
            size = float(sigma[a, b])
            commands.append(
                f"pair_coeff {a + 1} {b + 1} {style} {epsilon:.17g} {size:.17g} {LJ_MINIMUM * size:.17g}"
            )
    tabulated = [t for t in far if t not in repulsive]
    for number, term in enumerate(tabulated, start=1):
        r = tables.pair_grid(term.cutoff_A)
        styles.append(f"table spline {len(r)}")
        style = f"table {number}" if len(tabulated) > 1 else "table"
        texts: dict[str, list[str]] = {}
        for (a, b), curve in zip(species, tables.pair_curves([term], params, r, species), strict=True):
            if not (np.any(curve.energy) or np.any(curve.force)):
                continue
            file, keyword = f"{term.name}_{RESIDUES[a]}.table", f"{RESIDUES[a]}_{RESIDUES[b]}"
            header = (
                f"N {len(r)} RSQ {tables.PAIR_INNER_A:.17g} {term.cutoff_A:.17g} "
                f"FPRIME {curve.end_slopes[0]:.16g} {curve.end_slopes[1]:.16g}"
            )
            texts.setdefault(file, ["# r, E, -dE/dr in Angstrom and kcal/mol\n\n"])
            texts[file].append(tables.section(keyword, header, r, curve))
            commands.append(f"pair_coeff {a + 1} {b + 1} {style} {file} {keyword} {term.cutoff_A:.17g}")
        files |= {file: "".join(text) for file, text in texts.items()}
    return Pairs(styles, commands, files, max(t.cutoff_A for t in far))


def _tabulated(
    topology: Topology, kind: Kind, terms: Sequence[BondedTerm], params: Any, first: int = 0
) -> tuple[np.ndarray, list[str], int]:
    """Which curve each tuple of a kind has (from 0), the text of each, and its number of points; all 0 and
    none without terms."""
    codes, place = np.unique(getattr(topology, f"{kind}_types"), return_inverse=True)
    if not terms or not len(codes):
        return np.zeros(len(place), np.int64), [], 0
    if kind == "bond":
        x, per_x = tables.bond_grid(), 1.0
        curves = tables.bonded_curves(terms, params, x, codes.tolist())
    else:
        per_x = np.pi / 180.0
        x, curves = tables.angular_curves(terms, params, kind, codes.tolist())
    index, curves = tables.distinct(curves)
    kept = np.arange(len(x)) if kind == "bond" else tables.points_written(np.deg2rad(x), curves, kind)
    texts = []
    for number, curve in enumerate(curves, start=first + 1):
        header = f"N {len(kept)}" + (" DEGREES" if kind == "dihedral" else "")
        if kind == "angle":
            header += " FP " + " ".join(f"{slope * per_x**2:.16g}" for slope in curve.end_slopes)
        written = tables.Curve(curve.energy[kept], curve.force[kept], curve.end_slopes)
        texts.append(tables.section(f"{kind.upper()}_{number}", header, x[kept], written, per_x))
    return index[place], texts, len(x)


def _ends(term: PairTerm, params: Any, first: int, second: int) -> list[float]:
    """Distances at which a pair's energy ends, Å."""
    if not isinstance(term.scalar, Repulsive):
        return [term.cutoff_A]
    _, sigma = term.scalar.lennard_jones(params[term.name])
    return [LJ_MINIMUM * float(sigma[first, second])]


def _near_tables(topology: Topology, near: Sequence[NearPair], params: Any) -> tuple[np.ndarray, list[str]]:
    """Which curve each near pair has (from 0), and the text of each."""
    kinds = [(n.terms, *sorted((int(topology.species[n.i]), int(topology.species[n.j])))) for n in near]
    wanted = list(dict.fromkeys(kinds))
    ends = {end for terms, a, b in wanted for term in terms for end in _ends(term, params, a, b)}
    r = tables.near_grid(LONGEST_LINK_A * max(n.separation for n in near), sorted(ends))
    curves = {}
    for terms in dict.fromkeys(terms for terms, *_ in wanted):
        alike = [(a, b) for others, a, b in wanted if others == terms]
        found = tables.pair_curves(terms, params, r, alike)
        curves |= {(terms, *pair): curve for pair, curve in zip(alike, found, strict=True)}
    index, different = tables.distinct([curves[kind] for kind in wanted])
    texts = [
        tables.section(f"NEAR_{t}", f"N {len(r)}", r, curve) for t, curve in enumerate(different, start=1)
    ]
    return index[[wanted.index(kind) for kind in kinds]], texts
