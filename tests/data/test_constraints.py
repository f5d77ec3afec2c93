"""Rigid X-H groups found in coordinates that are rounded to 0.01 Å."""

import numpy as np
import pytest

from cgrefine.data import constraints
from cgrefine.data.mdcath import domain_names, read_domain, sample_folder
from cgrefine.data.source import frame_blocks
from cgrefine.data.topology import constraint_groups
from tests.data.linear_anchors import toy

THRESHOLD_A = 0.012


def found_in(domain, stride, block):
    finder = None
    for run in domain.runs:
        for part in frame_blocks(domain, run, stride, block):
            if finder is None:
                finder = constraints.finder_init(domain.atoms, part.coords[0])
            finder = constraints.finder_step(finder, part.coords)
    assert finder is not None
    return finder


@pytest.mark.parametrize("path", sorted(sample_folder().glob("*.h5")), ids=lambda path: path.stem)
def test_groups_of_the_sample_are_those_of_its_topology(path):
    domain = read_domain(path, domain_names(path)[0])
    assert domain.bonds is not None
    finder = found_in(domain, 1, 64)
    exact = constraint_groups(domain.atoms, domain.bonds)
    assert np.array_equal(constraints.rigid_groups(finder, THRESHOLD_A), exact)
    assert constraints.rigid_groups(finder, 1e-3).max() == len(domain.atoms) - 1  # rounding hides them all
    deviation = constraints.deviations(finder)
    rigid = exact[finder.pairs[:, 0]] == exact[finder.pairs[:, 1]]
    bonded = rigid & (finder.first < 1.2)
    # h/√6, h = 0.01: twice its value bounds all, half of it the median
    assert np.median(deviation[bonded]) == pytest.approx(0.01 / np.sqrt(6), rel=0.2)
    assert len(finder.pairs) < 3 * len(domain.atoms)


def test_blocks_do_not_matter():
    path = sample_folder() / "mdcath_dataset_gpturn10.h5"
    domain = read_domain(path, domain_names(path)[0])
    one, other = found_in(domain, 2, 64), found_in(domain, 2, 7)
    assert one.n_frames == other.n_frames
    assert np.allclose(constraints.deviations(one), constraints.deviations(other), rtol=1e-9)


def test_few_frames_are_refused():
    case = toy("AG")
    frame = np.random.default_rng(0).uniform(0, 5, (18, 3))
    finder = constraints.finder_init(case.atoms, frame)
    finder = constraints.finder_step(finder, np.repeat(frame[None], 99, axis=0))
    with pytest.raises(ValueError, match=r"99 frames are too few .* 100 are needed"):
        constraints.rigid_groups(finder, THRESHOLD_A)


def test_deviation_is_that_of_the_distance():
    """Three atoms in a line: one pair rigid but turning, one stretching by 0.05 Å, exact to rounding."""
    case = toy("A")
    rng = np.random.default_rng(1)
    n = 400
    turn = rng.normal(size=(n, 3))
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    stretch = rng.normal(0, 0.05, n)
    coords = np.zeros((n, 9, 3))
    coords[:, 2:] = 100.0 + 10.0 * np.arange(7)[:, None]
    coords[:, 1] = 1.0 * turn
    coords[:, 3] = coords[:, 2] + (1.5 + stretch)[:, None] * turn
    finder = constraints.finder_init(case.atoms, coords[0])
    finder = constraints.finder_step(finder, coords)
    assert finder.pairs.tolist() == [[0, 1], [2, 3]]
    assert constraints.deviations(finder) == pytest.approx([0.0, stretch.std()], abs=1e-9)
    assert constraints.rigid_groups(finder, THRESHOLD_A).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7]
