"""What is written opens in mdtraj with the same numbers."""

import json
import resource

import h5py
import mdtraj
import numpy as np
import pytest

from cgrefine.errors import InputError
from cgrefine.sim.trajectory import TrajectoryWriter, read_frames, write_pdb
from cgrefine.system import topology_from_species
from tests.chains import random_chain

TOPOLOGY = topology_from_species([0, 7, 14, 3, 17], breaks=[3], resid=[5, 6, 7, 20, 21])


@pytest.mark.parametrize(("suffix", "atol"), [("dcd", 1e-4), ("xtc", 6e-3)])
def test_round_trip(tmp_path, suffix, atol):
    """DCD keeps float32; XTC rounds to 0.001 nm. Names, residue numbers and chains of the PDB are kept."""
    frames = np.stack([random_chain(5, seed) for seed in range(7)]).astype(np.float32)
    paths = [tmp_path / f"a_r{r:03d}.{suffix}" for r in range(2)]
    write_pdb(tmp_path / "a.pdb", TOPOLOGY, frames[0])
    with TrajectoryWriter(paths) as writer:
        for start in (0, 4):
            part = frames[start : start + 4]
            writer.write(0, part, np.arange(start, start + len(part)))
        writer.write(1, frames[:1], np.zeros(1))
        writer.write(1, frames[:0], np.zeros(0))
        assert not paths[0].exists()
    loaded = mdtraj.load(str(paths[0]), top=str(tmp_path / "a.pdb"))
    assert loaded.n_frames == 7
    np.testing.assert_allclose(read_frames(paths[0], tmp_path / "a.pdb"), frames, atol=atol)
    assert len(read_frames(paths[1], tmp_path / "a.pdb")) == 1
    residues = list(loaded.topology.residues)
    assert [r.name for r in residues] == ["ALA", "GLY", "PRO", "ASP", "TRP"]
    assert [r.resSeq for r in residues] == [5, 6, 7, 20, 21]
    assert loaded.topology.n_chains == 2 and all(a.name == "CA" for a in loaded.topology.atoms)


def test_reading_prints_nothing(tmp_path, capfd):
    """The C reader of DCD is talkative; what a command prints is its result alone."""
    write_pdb(tmp_path / "a.pdb", TOPOLOGY, random_chain(5, 0))
    with TrajectoryWriter([tmp_path / "a.dcd"]) as writer:
        writer.write(0, random_chain(5, 0)[None], np.zeros(1))
    capfd.readouterr()
    read_frames(tmp_path / "a.dcd", tmp_path / "a.pdb")
    assert capfd.readouterr().out == ""


def test_an_interrupted_file_does_not_appear(tmp_path):
    path = tmp_path / "a.dcd"
    with pytest.raises(RuntimeError, match="stop"), TrajectoryWriter([path]) as writer:
        writer.write(0, np.zeros((1, 5, 3), np.float32), np.zeros(1))
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must end in"):
        TrajectoryWriter([tmp_path / "a.trr"])
    with pytest.raises(ValueError, match="HDF5 needs the topology"):
        TrajectoryWriter([tmp_path / "a.h5"])


def test_hdf5_is_that_of_the_conventions(tmp_path):
    """Coordinates in nm, times in ps, the topology as JSON: Pande 1.1."""
    frames = np.stack([random_chain(5, seed) for seed in range(70)]).astype(np.float32)
    path = tmp_path / "a.h5"
    with TrajectoryWriter([path], [TOPOLOGY]) as writer:
        writer.write(0, frames[:3], np.arange(3))
        writer.write(0, frames[3:], np.arange(3, 70))
    with h5py.File(path) as file:
        assert file.attrs["conventions"] == b"Pande" and file.attrs["conventionVersion"] == b"1.1"
        assert file["coordinates"].attrs["units"] == b"nanometers"  # pyright: ignore[reportAttributeAccessIssue] - a dataset
        np.testing.assert_allclose(np.asarray(file["coordinates"]), frames / 10.0, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(file["time"]), np.arange(70))
        topology = json.loads(np.asarray(file["topology"])[0])
    assert topology["bonds"] == [[0, 1], [1, 2], [3, 4]]
    assert [r["resSeq"] for c in topology["chains"] for r in c["residues"]] == [5, 6, 7, 20, 21]
    np.testing.assert_allclose(read_frames(path, path), frames, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("suffix", ["dcd", "xtc", "h5"])
def test_a_full_disk_leaves_no_file(tmp_path, suffix):
    """Cut while frames are written, and cut by the very last bytes, of which the C libraries say nothing."""
    frames = np.random.default_rng(0).normal(size=(40, 5, 3)).astype(np.float32)
    path = tmp_path / f"a.{suffix}"
    with TrajectoryWriter([path], [TOPOLOGY]) as writer:
        writer.write(0, frames, np.arange(40))
    size = path.stat().st_size
    path.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with (
                pytest.raises(InputError, match="could not be written whole"),
                TrajectoryWriter([path], [TOPOLOGY]) as writer,
            ):
                writer.write(0, frames, np.arange(40))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert list(tmp_path.iterdir()) == []
