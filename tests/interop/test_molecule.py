"""The chains of a PDB file: what its records say, and what its geometry says."""

import numpy as np
import pytest

from cgrefine.interop.molecule import chain

STEP = np.array([3.8, 0.0, 0.0])


def written(path, chains, ter):
    """Cα atoms in a row 3.8 Å apart, whatever the chains; an alternative location and water among them."""
    lines, i = [], 0
    for name, residues in chains:
        for residue in residues:
            x, y, z = i * STEP
            i += 1
            place = f"{name}{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"
            lines.append(f"ATOM  {i:5d}  CA A{residue} {place}")
            lines.append(f"ATOM  {i:5d}  CA B{residue} {place}")
        if ter:
            lines.append(f"TER   {i:5d}      {residue} {name}{i:4d}")
    lines.append("HETATM   99  O   HOH W  99       0.000   9.000   0.000  1.00  0.00           O")
    path.write_text("\n".join([*lines, "ENDMDL", *lines, ""]))
    return path


@pytest.mark.parametrize(
    ("names", "ter", "bonded"),
    [("AB", False, False), ("AA", True, False), ("AB", True, False), ("AA", False, True)],
)
def test_chains_that_touch_are_not_bonded(tmp_path, names, ter, bonded):
    parts = [(names[0], ["ALA", "GLY", "VAL"]), (names[1], ["LYS", "PRO"])]
    found = chain(written(tmp_path / "two.pdb", parts, ter))
    assert found.topology.n_beads == 5
    pairs = {tuple(pair) for pair in found.topology.bonds.tolist()}
    assert ((2, 3) in pairs) == bonded
    assert {(0, 1), (1, 2), (3, 4)} <= pairs
    assert found.topology.resid.tolist() == [1, 2, 3, 4, 5]
