"""Synthetic domains: mdCATH's schema to the letter, sane geometry, and a mean force that is the true one."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from cgrefine import units
from cgrefine.data import mdcath, source
from cgrefine.data.force_map import basic_map, group_forces
from cgrefine.data.synthetic import atom_frames, make_domain, mean_forces, potential, sample, write_domain
from cgrefine.data.synthetic_chain import compact_chain, hexagonal_spiral
from cgrefine.data.synthetic_files import reference_atoms
from cgrefine.data.synthetic_model import on_grid, superposed
from cgrefine.data.synthetic_residues import FREQUENCIES, mean_atoms_per_residue, template
from cgrefine.data.topology import constraint_groups, map_to_beads

ATOMS_IN_CHAIN = {
    "ALA": 10, "ARG": 24, "ASN": 14, "ASP": 12, "CYS": 11, "GLN": 17, "GLU": 15, "GLY": 7, "HSD": 17,
    "HSE": 17, "HSP": 18, "ILE": 19, "LEU": 19, "LYS": 22, "MET": 17, "PHE": 20, "PRO": 14, "SER": 11,
    "THR": 14, "TRP": 24, "TYR": 21, "VAL": 16,
}  # fmt: skip
SEQUENCE = "ARNDCQEGHILKMFPSTWYV"


@pytest.fixture(scope="module")
def small():
    return make_domain(12, seed=5)


@pytest.fixture(scope="module")
def beads(small):
    """(6, 12, 3): frames of thermal motion."""
    return sample(small, 400.0, 1, 6, np.random.default_rng(1))[0].astype(np.float64)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A domain with all twenty residues, and its file."""
    domain = make_domain(20, seed=2, name="0abcA00", sequence=SEQUENCE)
    path = tmp_path_factory.mktemp("fixture") / "mdcath_dataset_0abcA00.h5"
    return domain, write_domain(path, domain, (320, 450), replicas=2, frames=9, seed=3)


def test_residues_have_their_atoms():
    found = {}
    for name in FREQUENCIES:
        atoms = template(name).atoms
        found[name] = len(atoms) + sum(len(a.hydrogens) for a in atoms) + (name != "PRO")
    assert found == ATOMS_IN_CHAIN
    assert mean_atoms_per_residue() == pytest.approx(
        15.75, abs=0.2
    )  # mdCATH: 11.67 M atoms, 740,813 residues


def test_termini_are_charged(written):
    domain, _ = written
    assert (
        len(domain.atoms)
        == sum(ATOMS_IN_CHAIN[r] for r in ("HSD", *ATOMS_IN_CHAIN) if "HS" not in r) + 17 + 3
    )
    first, last = (domain.atoms.name[domain.atoms.residue == r].tolist() for r in (0, 19))
    assert {"HT1", "HT2", "HT3"} <= set(first) and {"OT1", "OT2"} <= set(last) and "O" not in last


def values(group, name):
    item = group[name]
    assert isinstance(item, h5py.Dataset)
    return item[()]


def shape_of(group):
    """Every data set below a group: kind and size of its numbers, rank, layout, attributes; runs as T/r."""
    found = {}

    def visit(name, item):
        parts = name.split("/")
        name = "/".join(["T", "r", *parts[2:]]) if parts[0].isdigit() and len(parts) > 1 else parts[0]
        if parts[0].isdigit() and len(parts) == 1:
            name = "T"
        attributes = {k: str(v) if isinstance(v, str) else type(v) for k, v in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            entry = (item.dtype, item.ndim, item.chunks, item.compression, attributes)
        else:
            entry = attributes
        assert found.setdefault(name, entry) == entry

    group.visititems(visit)
    return found, set(group.attrs)


def test_schema_is_that_of_the_embedded_sample(written):
    domain, path = written
    with h5py.File(path) as made, h5py.File(mdcath.sample_folder() / "mdcath_dataset_aaqaa3.h5") as real:
        assert dict(made.attrs) == dict(real.attrs)
        a, b = made["0abcA00"], real["aaqaa3"]
        assert isinstance(a, h5py.Group) and isinstance(b, h5py.Group)
        assert shape_of(a) == shape_of(b)
        assert a.attrs["numResidues"] == 20 and a.attrs["numProteinAtoms"] == len(domain.atoms)
        lines, other = (str(values(g, "pdbProteinAtoms"), "ascii").splitlines() for g in (a, b))
        assert [len(lines[0]), lines[0][:6], lines[0][21]] == [len(other[0]), other[0][:6], other[0][21]]


def test_reader_finds_the_molecule(written):
    domain, path = written
    raw = mdcath.read_domain(path, "0abcA00")
    assert raw.bonds is not None and np.array_equal(raw.bonds, domain.bonds)
    assert np.array_equal(constraint_groups(raw.atoms, raw.bonds), domain.group)
    assert [r.key for r in raw.runs] == ["320/0", "320/1", "450/0", "450/1"]
    for run in raw.runs:
        (block,) = source.frame_blocks(raw, run, 1, 100)
        assert source.valid_frames(block.coords, block.forces, 1e4).all()
        source.check_values(raw, block.coords[0], block.forces[0])
        mapping = map_to_beads(raw.atoms, raw.bonds, block.coords[0])
        assert mapping.breaks == () and mapping.topology.n_beads == 20
        assert np.array_equal(block.coords, np.round(block.coords.astype(np.float64), 2).astype(np.float32))


@pytest.mark.parametrize("n", [5, 12, 40, 150])
def test_chain_is_compact_and_does_not_overlap(n):
    x = compact_chain(n, np.random.default_rng(n)).positions
    r = np.linalg.norm(x[:, None] - x[None], axis=-1)
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    assert np.all((r[apart == 1] > 3.65) & (r[apart == 1] < 3.9))
    assert np.all((r[apart == 2] > 5.0) & (r[apart == 2] < 7.3))
    assert r[apart >= 3].min() > 4.8
    if n == 150:  # about 20 and 32 in a globule of this size, one residue per 135 Å³
        near = [(r < cutoff).sum() / n - 1 for cutoff in (10.0, 12.0)]
        assert 14 < near[0] < 24 and 22 < near[1] < 38


def test_grid_cells_are_neighbours():
    cells = hexagonal_spiral(40)
    assert np.allclose(np.linalg.norm(np.diff(cells, axis=0), axis=1), 1.0)
    r = np.linalg.norm(cells[:, None] - cells[None], axis=-1) + 9 * np.eye(40)
    assert r.min() > 0.999


def test_thermal_frames_stay_sane(written):
    domain, path = written
    raw = mdcath.read_domain(path, domain.name)
    (block,) = source.frame_blocks(raw, raw.runs[-1], 1, 100)
    x = block.coords[:, domain.heavy[domain.ca]]
    r = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
    apart = np.abs(np.subtract.outer(np.arange(20), np.arange(20)))
    assert r[:, apart >= 2].min() > 4.0 and np.abs(r[:, apart == 1] - 3.8).max() < 0.4
    hydrogen = domain.hydrogen
    moved = block.coords[:, hydrogen] - block.coords[:, domain.heavy[domain.group[hydrogen]]]
    # both ends are rounded, each component by 0.005 Å at most
    assert np.abs(moved - domain.xh).max() <= 0.01 + 1e-4


def test_reference_has_bonds_of_the_right_length():
    domain = make_domain(60, seed=1)
    x = reference_atoms(domain)
    r = np.linalg.norm(x[domain.bonds[:, 0]] - x[domain.bonds[:, 1]], axis=1)
    hydrogen = (domain.atoms.z[domain.bonds] == 1).any(axis=1)
    assert np.all((r[hydrogen] > 0.9) & (r[hydrogen] < 1.4))
    assert np.all((r[~hydrogen] > 1.15) & (r[~hydrogen] < 1.95))


def test_mean_force_is_minus_the_gradient(small, beads):
    h, x = 1e-4, beads[:1]
    forces = mean_forces(small, x)[0]
    for bead, axis in [(0, 0), (5, 1), (6, 2), (11, 0), (3, 2)]:
        up, down = x.copy(), x.copy()
        up[0, bead, axis] += h
        down[0, bead, axis] -= h
        slope = (potential(small, up) - potential(small, down))[0] / (2 * h)
        assert forces[bead, axis] == pytest.approx(-slope, abs=1e-5)
    assert np.abs(forces).max() > 1.0


def test_potential_does_not_see_rotation(small, beads):
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    assert np.allclose(potential(small, beads @ turn + 3.0), potential(small, beads), rtol=1e-10)
    assert np.allclose(mean_forces(small, beads @ turn), mean_forces(small, beads) @ turn, atol=1e-9)


def test_superposed_turns_and_never_mirrors(beads):
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    assert np.allclose(superposed(beads[:1] @ turn - 7.0, beads[0])[0], beads[0], atol=1e-9)
    mirrored = superposed(-beads[:1], beads[0])[0]
    assert np.abs(mirrored - beads[0]).max() > 1.0


def bias(domain, ca_positions, weights, frames, temperature, rng):
    """Mean over resampled atoms of W F − F_cg at fixed Cα, in standard errors; (beads, 3)."""
    fixed = np.repeat(ca_positions[None], frames, axis=0)
    _, forces = atom_frames(domain, fixed, temperature, rng)
    mapped = np.einsum("ia,fac->fic", weights, forces.astype(np.float64))
    truth = mean_forces(domain, on_grid(ca_positions)[None].astype(np.float64))[0]
    return (mapped.mean(axis=0) - truth) / (mapped.std(axis=0) / np.sqrt(frames))


@pytest.mark.parametrize("temperature", [320.0, 450.0])
def test_valid_maps_give_the_mean_force(small, beads, temperature):
    """36 components, two maps, two temperatures: 4.2 standard errors, false alarm 4e-3, fixed seed."""
    rng = np.random.default_rng(11)
    basic = basic_map(small.group, small.heavy[small.ca])
    coefficients = rng.normal(0, 0.5, (small.n_beads, len(small.heavy)))
    coefficients[:, small.ca] = np.eye(small.n_beads)
    for weights in (basic, coefficients[:, small.group]):
        assert np.abs(bias(small, beads[2], weights, 3000, temperature, rng)).max() < 4.2


def test_anchors_carry_the_noise_of_the_springs(small, beads):
    """The coefficients α take every spring out of the bead forces: only group noise is left.

    Per component 6² + 4² Σ α²; a mean square over 36 × 2000 values is right to 1 %, 5 % is allowed;
    10 % for the 6,000 values of a bead (1.8 % standard error).
    """
    _, forces = atom_frames(small, np.repeat(beads[2][None], 2000, axis=0), 320.0, np.random.default_rng(6))
    alpha = small.anchor.toarray().T
    mapped = np.einsum("ig,fgc->fic", alpha, group_forces(forces, small.group))
    noise = mapped.var(axis=0).mean(axis=1)
    alpha[:, small.ca] = 0.0
    assert np.allclose(noise, 36.0 + 16.0 * (alpha**2).sum(axis=1), rtol=0.1)
    assert noise.mean() == pytest.approx(np.mean(36.0 + 16.0 * (alpha**2).sum(axis=1)), rel=0.05)


def test_map_that_breaks_constraints_is_biased(small, beads):
    weights = np.zeros((small.n_beads, len(small.atoms)))
    weights[np.arange(small.n_beads), small.heavy[small.ca]] = 1.0  # without the Cα's hydrogen
    assert np.abs(bias(small, beads[2], weights, 3000, 320.0, np.random.default_rng(4))).max() > 6


def test_forces_look_like_those_of_proteins(written):
    domain, path = written
    raw = mdcath.read_domain(path, domain.name)
    blocks = [b for run in raw.runs for b in source.frame_blocks(raw, run, 1, 100)]
    forces = np.concatenate([b.forces for b in blocks])
    basic = group_forces(forces, domain.group)[:, domain.ca]
    assert 8 < np.sqrt(np.mean(np.square(forces, dtype=np.float64))) < 25
    assert 600 < np.mean(basic**2) < 1600  # the reference file has 771 (kcal/mol/Å)²


def test_sampling_is_at_its_temperature(small):
    """⟨|∇U|²⟩ = kT ⟨∇²U⟩: 4 standard errors of replicas (false alarm 6e-5), and 3 % for the 8 fs step."""
    x = sample(small, 350.0, 300, 3, np.random.default_rng(8)).astype(np.float64).reshape(-1, 12, 3)
    h, laplacian = 1e-3, np.zeros(len(x))
    for bead, axis in np.ndindex(12, 3):
        move = np.zeros((12, 3))
        move[bead, axis] = h
        difference = mean_forces(small, x + move) - mean_forces(small, x - move)
        laplacian -= difference[:, bead, axis] / (2 * h)
    square = (mean_forces(small, x) ** 2).sum(axis=(1, 2)).reshape(300, 3).mean(axis=1)
    expected = units.thermal_energy(350.0) * laplacian.mean()
    error = square.std() / np.sqrt(300)
    assert error < 0.02 * expected
    assert abs(square.mean() - expected) < 4 * error + 0.03 * expected


def test_same_seed_same_file(written, tmp_path):
    _, path = written
    again = make_domain(20, seed=2, name="0abcA00", sequence=SEQUENCE)
    other = write_domain(tmp_path / "again.h5", again, (320, 450), replicas=2, frames=9, seed=3)
    with h5py.File(path) as a, h5py.File(other) as b:
        names = []
        a.visit(names.append)
        for name in names:
            if isinstance(a[name], h5py.Dataset):
                assert np.array_equal(values(a, name), values(b, name))
        first = values(a, "0abcA00/320/0/coords")[0]
    third = write_domain(tmp_path / "third.h5", again, (320,), replicas=1, frames=2, seed=4)
    raw = mdcath.read_domain(third, "0abcA00")
    (block,) = source.frame_blocks(raw, raw.runs[0], 1, 10)
    assert not np.array_equal(block.coords[0], first)


@pytest.mark.parametrize(
    ("n", "sequence", "message"),
    [(4, None, "at least 5"), (6, "AAAAA", "5 letters for 6"), (5, "AAAAB", "'B'")],
)
def test_impossible_domains(n, sequence, message):
    with pytest.raises(ValueError, match=message):
        make_domain(n, sequence=sequence)


def test_script_writes_files_that_make_domain_makes_again(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "make_fixture.py"
    command = [sys.executable, str(script), "--out", str(tmp_path), "--domains", "2", "--residues", "6"]
    done = subprocess.run(
        [*command, "--frames", "2", "--temperatures", "320", "--replicas", "1", "--seed", "7"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "0001A00.h5: 6 residues" in done.stdout and "seed 8, 1 runs of 2 frames" in done.stdout
    raw = mdcath.read_domain(tmp_path / "mdcath_dataset_0001A00.h5", "0001A00")
    assert raw.atoms.resname.tolist() == make_domain(6, 8, "0001A00").atoms.resname.tolist()
    (block,) = source.frame_blocks(raw, raw.runs[0], 1, 5)
    assert block.coords.shape == (2, len(raw.atoms), 3)
