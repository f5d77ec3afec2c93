"""What is written opens in mdtraj with the same numbers."""

import mdtraj
import numpy as np
import pytest

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
