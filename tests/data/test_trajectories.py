"""TRR, NetCDF and npz files give what the mdCATH reader gives for the same frames; bad files are refused."""

import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdtraj.formats import TRRTrajectoryFile
from scipy.io import netcdf_file

from cgrefine.config.data import Trajectory
from cgrefine.data import mdcath, psf
from cgrefine.data.source import check_values, frame_blocks
from cgrefine.data.topology import bonds_from_geometry, constraint_groups, map_to_beads
from cgrefine.data.trajectories import read_trajectory
from cgrefine.errors import InputError

FRAMES = 12


class Reference:
    """One run of the embedded sample, as the mdCATH reader gives it, and its texts."""

    def __init__(self) -> None:
        path = mdcath.sample_folder() / "mdcath_dataset_aaqaa3.h5"
        self.raw = mdcath.read_domain(path, "aaqaa3")
        block = next(frame_blocks(self.raw, self.raw.runs[0], 1, FRAMES))
        self.coords, self.forces = np.array(block.coords), np.array(block.forces)
        with h5py.File(path) as file:
            self.texts = {}
            for key in ("pdb", "psf"):
                item = file[f"aaqaa3/{key}"]
                assert isinstance(item, h5py.Dataset)
                self.texts[key] = item[()].decode()

    def write(self, folder: Path, kind: str = "pdb") -> str:
        path = folder / f"top.{kind}"
        path.write_text(self.texts[kind])
        return str(path)


@pytest.fixture(scope="module")
def reference():
    return Reference()


def write_trr(path, coords, forces, velocities=None):
    """Single precision, by mdtraj."""
    n = len(coords)
    with TRRTrajectoryFile(str(path), "w") as file:
        box = np.tile(np.eye(3, dtype=np.float32) * 10, (n, 1, 1))
        nm, kJ = (coords / 10).astype(np.float32), (forces * 41.84).astype(np.float32)
        time, step, lambd = np.zeros(n, np.float32), np.arange(n, dtype=np.int32), np.zeros(n, np.float32)
        file._write(nm, time, step, box, lambd, velocities, kJ)
    return path


def trr_frame(coords=None, forces=None, real="d"):
    """One frame by the format's definition; a section of None is not written."""
    n_atoms = max(len(v) for v in (coords, forces) if v is not None)
    parts = [b"" if v is None else np.asarray(v, f">{real}").tobytes() for v in (coords, forces)]
    box = np.eye(3).astype(f">{real}").tobytes()
    sizes = (0, 0, len(box), 0, 0, 0, 0, len(parts[0]), 0, len(parts[1]))
    head = struct.pack(">3i", 1993, 13, 12) + b"GMX_trn_file" + struct.pack(">13i", *sizes, n_atoms, 5, 0)
    return head + struct.pack(f">2{real}", 1.0, 0.0) + box + parts[0] + parts[1]


def write_netcdf3(
    path, coords, forces, units=("angstrom", "kilocalorie/mole/angstrom"), factor=None, time=True
):
    with netcdf_file(path, "w") as file:
        file.createDimension("frame", None)
        file.createDimension("atom", coords.shape[1])
        file.createDimension("spatial", 3)
        for name, values, unit in zip(("coordinates", "forces"), (coords, forces), units, strict=True):
            if values is None:
                continue
            variable = file.createVariable(name, "f4", ("frame", "atom", "spatial"))
            variable[:] = values if factor is None or name != "forces" else values / factor
            variable.units = unit
            if factor is not None and name == "forces":
                variable.scale_factor = factor
        if time:
            file.createVariable("time", "f4", ("frame",))[:] = np.arange(len(coords))
    return path


def section(path, topology=None, temperature=320.0, **more):
    files = [{"path": str(path), "temperature_K": temperature, **more}]
    return Trajectory.model_validate({"name": "aaqaa3", "topology": topology, "files": files})


def frames(domain, stride=1, block_frames=2, run=0):
    blocks = list(frame_blocks(domain, domain.runs[run], stride, block_frames))
    assert max(len(b.frame) for b in blocks) <= block_frames
    parts = zip(*(block[:3] for block in blocks), strict=True)
    return [np.concatenate(part) for part in parts]


def assert_same(domain, reference, stride=1, tolerance=1e-6):
    """The frames of the sample, to the rounding of a conversion of units."""
    index, coords, forces = frames(domain, stride)
    assert coords.dtype == forces.dtype == np.float32
    assert index.tolist() == list(range(0, FRAMES, stride))
    assert np.allclose(coords, reference.coords[::stride], rtol=tolerance, atol=0)
    assert np.allclose(forces, reference.forces[::stride], rtol=tolerance, atol=1e-5)
    check_values(domain, coords[0], forces[0])


@pytest.mark.parametrize("topology", ["pdb", "psf"])
@pytest.mark.parametrize("stride", [1, 5])
def test_trr_gives_the_frames_of_mdcath(reference, tmp_path, topology, stride):
    path = write_trr(tmp_path / "run.trr", reference.coords, reference.forces)
    domain = read_trajectory(section(path, reference.write(tmp_path, topology)))
    assert_same(domain, reference, stride)
    for key in ("name", "resname", "resid", "z", "residue"):
        assert np.array_equal(getattr(domain.atoms, key), getattr(reference.raw.atoms, key))
    bonds = bonds_from_geometry(domain.atoms, reference.coords[0]) if topology == "pdb" else domain.bonds
    assert bonds is not None and reference.raw.bonds is not None
    mapping = map_to_beads(domain.atoms, bonds, reference.coords[0])
    assert mapping.topology.n_beads == 15 and mapping.breaks == ()
    assert np.array_equal(
        constraint_groups(domain.atoms, bonds), constraint_groups(reference.raw.atoms, reference.raw.bonds)
    )


def test_trr_in_double_precision_with_frames_that_have_no_forces(reference, tmp_path):
    """nstxout below nstfout: frames without forces are left out, the others keep their order."""
    path = tmp_path / "run.trr"
    with path.open("wb") as file:
        for x, f in zip(
            reference.coords.astype(float) / 10, reference.forces.astype(float) * 41.84, strict=True
        ):
            file.write(trr_frame(x, None) + trr_frame(x, f) + trr_frame(None, f))
    assert_same(read_trajectory(section(path, reference.write(tmp_path))), reference, tolerance=1e-7)


@pytest.mark.parametrize("kind", ["classic", "hdf5"])
@pytest.mark.parametrize("units", ["amber", "openmm"])
@pytest.mark.parametrize("stride", [1, 5])
def test_netcdf_gives_the_frames_of_mdcath(reference, tmp_path, kind, units, stride):
    path, names = tmp_path / "run.nc", ("angstrom", "kilocalorie/mole/angstrom")
    coords, forces = reference.coords, reference.forces
    if units == "openmm":
        coords, forces, names = coords / 10, forces * 41.84, ("nanometer", "kilojoule/(mole*nanometer)")
    if kind == "classic":
        write_netcdf3(path, coords, forces, names)
    else:
        with h5py.File(path, "w") as file:
            for name, values, unit in zip(("coordinates", "forces"), (coords, forces), names, strict=True):
                item = file.create_dataset(
                    name, data=values, chunks=(5, *values.shape[1:]), compression="gzip"
                )
                item.attrs["units"] = unit
    assert_same(read_trajectory(section(path, reference.write(tmp_path))), reference, stride)


@pytest.mark.parametrize(
    ("unit", "factor", "in_kcal"), [("kilojoule", 0.5, 1 / 4.184), ("kilocalorie", 0.5, 1.0)]
)
def test_netcdf_scale_factor_applies(reference, tmp_path, unit, factor, in_kcal):
    path = write_netcdf3(
        tmp_path / "run.nc", reference.coords, reference.forces, ("angstrom", f"{unit}/mole/angstrom"), factor
    )
    _, _, forces = frames(read_trajectory(section(path, reference.write(tmp_path))))
    assert np.allclose(forces, reference.forces * in_kcal, rtol=1e-6)


def test_netcdf_of_two_variables(reference, tmp_path):
    path = write_netcdf3(tmp_path / "run.nc", reference.coords, reference.forces, time=False)
    assert_same(read_trajectory(section(path, reference.write(tmp_path))), reference)


def test_netcdf_factor_of_mdanalysis_is_that_to_kj(reference, tmp_path):
    path = write_netcdf3(tmp_path / "run.nc", reference.coords, reference.forces * 4.184, factor=4.184)
    assert_same(read_trajectory(section(path, reference.write(tmp_path))), reference)


def npz_arrays(reference, all_atom=True):
    atoms = reference.raw.atoms
    if all_atom:
        return {
            "R": reference.coords, "F": reference.forces, "name": atoms.name, "resname": atoms.resname,
            "resid": atoms.resid, "z": atoms.z, "bonds": reference.raw.bonds,
        }  # fmt: skip
    ca = np.flatnonzero(atoms.name == "CA")
    return {"R": reference.coords[:, ca], "F": reference.forces[:, ca], "resname": atoms.resname[ca]}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("units", ["A,kcal/mol/A", "nm,kJ/mol/nm"])
@pytest.mark.parametrize("stride", [1, 5])
def test_npz_gives_the_frames_of_mdcath(reference, tmp_path, save, units, stride):
    arrays = npz_arrays(reference)
    if units.startswith("nm"):
        arrays |= {"R": reference.coords.astype(float) / 10, "F": reference.forces.astype(float) * 41.84}
    save(tmp_path / "run.npz", **arrays)
    domain = read_trajectory(section(tmp_path / "run.npz", units=units))
    assert_same(domain, reference, stride)
    for key in ("name", "resname", "resid", "z", "residue"):
        assert np.array_equal(getattr(domain.atoms, key), getattr(reference.raw.atoms, key))
    assert domain.bonds is not None and np.array_equal(domain.bonds, reference.raw.bonds)


@pytest.mark.parametrize("key", ["resname", "species"])
def test_npz_without_names_is_one_bead_a_row(reference, tmp_path, key):
    arrays = npz_arrays(reference, all_atom=False)
    if key == "species":
        arrays["species"] = np.asarray([{"ALA": 0, "GLN": 5}[r] for r in arrays.pop("resname")])
    np.savez(tmp_path / "run.npz", **arrays)
    domain = read_trajectory(section(tmp_path / "run.npz"))
    _, coords, forces = frames(domain)
    assert domain.bonds is not None
    mapping = map_to_beads(domain.atoms, domain.bonds, coords[0])
    assert mapping.ca.tolist() == list(range(15)) and mapping.breaks == ()
    assert mapping.topology.species.tolist() == [0, 0, 5, 0, 0] * 3
    assert np.array_equal(coords, arrays["R"]) and np.array_equal(forces, arrays["F"])
    assert constraint_groups(domain.atoms, domain.bonds).tolist() == list(range(15))


def test_gap_between_beads_is_a_break(reference, tmp_path):
    arrays = npz_arrays(reference, all_atom=False)
    arrays["R"] = arrays["R"] + np.where(np.arange(15) < 6, 0.0, 9.0)[:, None].astype(np.float32)
    np.savez(tmp_path / "run.npz", **arrays)
    domain = read_trajectory(section(tmp_path / "run.npz"))
    _, coords, _ = frames(domain)
    assert domain.bonds is not None
    assert map_to_beads(domain.atoms, domain.bonds, coords[0]).breaks == (6,)


def solvated(reference):
    """Texts and arrays with a water and an ion behind the peptide."""
    atoms = reference.raw.atoms
    n = len(atoms)
    extra = "".join(
        f"HETATM{n + 1 + k:5d}  {a:<3s} {r:<4s}W{900 + (r != 'TIP3'):4d}    "
        + 3 * "   0.000"
        + "  1.00  0.00\n"
        for k, (a, r) in enumerate([("OH2", "TIP3"), ("H1", "TIP3"), ("H2", "TIP3"), ("CLA", "CLA")])
    )
    pdb = reference.texts["pdb"].replace("TER", extra + "TER", 1)
    far = np.full((FRAMES, 4, 3), 55.0, np.float32)
    return (
        pdb,
        np.concatenate([reference.coords, far], axis=1),
        np.concatenate([reference.forces, far], axis=1),
    )


@pytest.mark.parametrize("in_file", [True, False])
def test_water_and_ions_are_left_out(reference, tmp_path, in_file):
    pdb, coords, forces = solvated(reference)
    (tmp_path / "wet.pdb").write_text(pdb)
    if not in_file:
        coords, forces = reference.coords, reference.forces
    path = write_trr(tmp_path / "run.trr", coords, forces)
    domain = read_trajectory(section(path, str(tmp_path / "wet.pdb")))
    assert len(domain.atoms) == len(reference.raw.atoms)
    assert_same(domain, reference)


def test_water_before_the_molecule_moves_its_bonds(reference, tmp_path):
    arrays = npz_arrays(reference)
    front = {"name": "O", "resname": "SOL", "resid": 1, "z": 8, "R": 55.0, "F": 1.0}
    for key, value in front.items():
        axis = 1 if key in "RF" else 0
        arrays[key] = np.concatenate([np.full_like(arrays[key].take([0], axis), value), arrays[key]], axis)
    arrays["bonds"] = arrays["bonds"] + 1
    np.savez(tmp_path / "run.npz", **arrays)
    domain = read_trajectory(section(tmp_path / "run.npz"))
    assert domain.bonds is not None and np.array_equal(domain.bonds, reference.raw.bonds)
    assert_same(domain, reference)


def test_runs_are_sorted_and_the_reader_can_be_sent_to_a_worker(reference, tmp_path):
    """Workers get a RawDomain by pickle; nothing that is read is ever unpickled."""
    first = write_trr(tmp_path / "a.trr", reference.coords[:4], reference.forces[:4])
    second = write_netcdf3(tmp_path / "b.nc", reference.coords, reference.forces)
    files = [
        {"path": str(second), "temperature_K": 450.0, "replica": 1},
        {"path": str(first), "temperature_K": 320.0, "replica": 0},
    ]
    topology = reference.write(tmp_path)
    domain = read_trajectory(Trajectory.model_validate({"name": "x", "topology": topology, "files": files}))
    assert [(r.key, r.n_frames) for r in domain.runs] == [("320/0", 4), ("450/1", FRAMES)]
    files[1] |= {"temperature_K": 450.0, "replica": 1}
    with pytest.raises(InputError, match=r"b\.nc and .*a\.trr are both 450 K replica 1"):
        read_trajectory(Trajectory.model_validate({"name": "x", "topology": topology, "files": files}))


def test_psf_atoms_are_those_of_the_pdb(reference):
    atoms = psf.read_atoms(reference.texts["psf"], "x")
    assert np.array_equal(atoms.z, reference.raw.atoms.z)
    assert np.array_equal(atoms.name, reference.raw.atoms.name)
    heavy = reference.texts["psf"].replace("  1.0079 ", "  3.0240 ").replace(" 12.0108 ", "  9.9946 ")
    assert np.array_equal(psf.read_atoms(heavy, "x").z, atoms.z)  # repartitioned masses


def test_pdb_without_elements(reference, tmp_path):
    text = "\n".join(line[:76] for line in reference.texts["pdb"].splitlines())
    (tmp_path / "top.pdb").write_text(text)
    path = write_trr(tmp_path / "run.trr", reference.coords, reference.forces)
    domain = read_trajectory(section(path, str(tmp_path / "top.pdb")))
    assert np.array_equal(domain.atoms.z, reference.raw.atoms.z)


# --- refused


def refused(message, path, topology=None, **more):
    with pytest.raises(InputError, match=message):
        domain = read_trajectory(section(path, topology, **more))
        for _ in frame_blocks(domain, domain.runs[0], 1, 5):
            pass


def test_number_of_atoms_must_be_the_topologys(reference, tmp_path):
    path = write_trr(tmp_path / "run.trr", reference.coords[:, :-1], reference.forces[:, :-1])
    n = len(reference.raw.atoms)
    refused(rf"run\.trr: has {n - 1} atoms, the topology of .* has {n}$", path, reference.write(tmp_path))


def test_one_frame_with_other_atoms(reference, tmp_path):
    path = tmp_path / "run.trr"
    x, f = reference.coords[0] / 10, reference.forces[0]
    path.write_bytes(trr_frame(x, f) + trr_frame(x[:-1], f[:-1]))
    refused(r"frame 2 has \d+ atoms of 8 bytes, the first has", path, reference.write(tmp_path))


def test_forces_are_needed(reference, tmp_path):
    top, x = reference.write(tmp_path), reference.coords / 10
    (tmp_path / "run.trr").write_bytes(trr_frame(x[0]) + trr_frame(x[1]))
    refused("none of 2 frames has both positions and forces", tmp_path / "run.trr", top)
    refused("no variable `forces`", write_netcdf3(tmp_path / "run.nc", reference.coords, None), top)
    np.savez(tmp_path / "run.npz", R=reference.coords)
    refused("npz has no F; found R", tmp_path / "run.npz", top)


@pytest.mark.parametrize("name", ["run.xtc", "run.trr", "run.nc", "run.npz"])
def test_unknown_and_foreign_files(reference, tmp_path, name):
    (tmp_path / name).write_bytes(b"ATOM      1  N   ALA\n" * 40)
    refused(
        r"suffix '\.xtc' is unknown|not a GROMACS|not a NetCDF|damaged",
        tmp_path / name,
        reference.write(tmp_path),
    )
    refused("no such file", tmp_path / f"gone{name}")


@pytest.mark.parametrize("kind", ["trr", "nc", "npz"])
@pytest.mark.parametrize("share", [0.002, 0.3, 0.97])
def test_cut_files(reference, tmp_path, kind, share):
    path = tmp_path / f"run.{kind}"
    if kind == "trr":
        write_trr(path, reference.coords, reference.forces)
    elif kind == "nc":
        write_netcdf3(path, reference.coords, reference.forces)
    else:
        np.savez(path, **npz_arrays(reference))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(r"run\.\w+: .*(cut|damaged)", path, reference.write(tmp_path))


def test_changed_byte_of_an_npz_fails_its_checksum(reference, tmp_path):
    path = tmp_path / "run.npz"
    np.savez(path, **npz_arrays(reference))
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("F.npy").header_offset + 5000
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    refused("Bad CRC-32", path)


@pytest.fixture(scope="module")
def small_files(reference, tmp_path_factory):
    """Two frames in each format, and the topology."""
    folder = tmp_path_factory.mktemp("small")
    write_trr(folder / "run.trr", reference.coords[:2], reference.forces[:2])
    write_netcdf3(folder / "run.nc", reference.coords[:2], reference.forces[:2])
    arrays = npz_arrays(reference)
    np.savez(folder / "run.npz", **(arrays | {key: arrays[key][:2] for key in "RF"}))
    reference.write(folder)
    return folder


@settings(deadline=None, max_examples=120)
@given(
    kind=st.sampled_from(["trr", "nc", "npz"]), share=st.floats(0, 1), head=st.booleans(), cut=st.booleans()
)
def test_damage_is_an_input_error_or_a_number(small_files, kind, share, head, cut):
    """A flipped bit or a cut, half of them in the first kilobyte; never another exception or warning.

    TRR and NetCDF have no checksums: a flipped bit of a number is another number. An npz has them.
    """
    content = bytearray((small_files / f"run.{kind}").read_bytes())
    at = int(share * (min(len(content), 1000) if head else len(content) - 1))
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << (at % 8)
    path = small_files / f"damaged.{kind}"
    path.write_bytes(content)
    try:
        domain = read_trajectory(section(path, None if kind == "npz" else str(small_files / "top.pdb")))
        _, coords, forces = frames(domain)
    except InputError:
        return
    assert not cut
    if kind == "npz":
        whole = read_trajectory(section(small_files / "run.npz"))
        _, good_coords, good_forces = frames(whole)
        assert np.array_equal(coords, good_coords) and np.array_equal(forces, good_forces)


def test_pickled_objects_are_refused(reference, tmp_path):
    arrays = npz_arrays(reference)
    np.savez(tmp_path / "a.npz", **(arrays | {"resname": arrays["resname"].astype(object)}))
    refused("holds Python objects", tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **(arrays | {"R": arrays["R"].astype(object)}))
    refused("holds Python objects", tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": lambda a: a["R"][:, :-1]}, r"R \(12, .* and F \(12, .* must both be"),
        ({"F": lambda a: a["F"].astype(int)}, "must be floating point"),
        ({"resname": lambda a: a["resname"][:-1]}, "npz resname has shape"),
        ({"resid": lambda a: a["resid"] + 0.5}, "npz resid has type float64"),
        ({"bonds": lambda a: a["bonds"] + 9}, "row"),
    ],
)
def test_npz_that_contradicts_itself(reference, tmp_path, change, message):
    arrays = npz_arrays(reference)
    arrays |= {key: f(arrays) for key, f in change.items()}
    np.savez(tmp_path / "run.npz", **arrays)
    refused(message, tmp_path / "run.npz")


@pytest.mark.parametrize("units", [("bohr", "kilocalorie/mole/angstrom"), ("angstrom", "hartree/bohr")])
def test_netcdf_units_must_be_known(reference, tmp_path, units):
    path = write_netcdf3(tmp_path / "run.nc", reference.coords, reference.forces, units)
    refused("have units '(bohr|hartree/bohr)'; choose from", path, reference.write(tmp_path))


def test_nm_declared_as_angstrom_is_seen_in_the_values(reference, tmp_path):
    path = write_netcdf3(tmp_path / "run.nc", reference.coords / 10, reference.forces)
    domain = read_trajectory(section(path, reference.write(tmp_path)))
    _, coords, forces = frames(domain)
    with pytest.raises(InputError, match="nm instead of Å"):
        check_values(domain, coords[0], forces[0])


def test_molecule_cut_by_the_box_is_refused(reference, tmp_path):
    coords = reference.coords.copy()
    coords[7, 100:, 0] += 60.0
    path = write_trr(tmp_path / "run.trr", coords, reference.forces)
    refused(r"frame 8: Cα \d+ and \d+ are .* Å apart: the periodic box cuts", path, reference.write(tmp_path))


def test_topology_is_needed_and_known(reference, tmp_path):
    path = write_trr(tmp_path / "run.trr", reference.coords, reference.forces)
    refused("needs `topology`, a .pdb or .psf file", path)
    refused(r"suffix '\.gro' is unknown; choose from \.pdb, \.psf", path, "conf.gro")
    refused(r"topology .*gone\.pdb cannot be read", path, str(tmp_path / "gone.pdb"))
    (tmp_path / "empty.pdb").write_text("END\n")
    refused("topology has no ATOM record", path, str(tmp_path / "empty.pdb"))
