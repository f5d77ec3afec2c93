"""Disagreement of members: by hand."""

import numpy as np
import pytest

from cgrefine.fm.ensemble import force_variance


def test_variance_by_hand():
    """Two members, two beads: ½ Σ (F1 - F2)²/3; and the unbiased estimate of three is numpy's."""
    forces = np.array([[[1.0, 0, 0], [0, 0, 3.0]], [[0, 2.0, 0], [0, 0, 3.0]]])
    assert np.allclose(force_variance(forces), [0.5 * 5.0 / 3.0, 0.0])
    three = np.random.default_rng(0).normal(size=(3, 4, 3))
    assert np.allclose(force_variance(three), three.var(0, ddof=1).mean(-1))


def test_one_member_cannot_disagree():
    with pytest.raises(ValueError, match="1 member cannot disagree"):
        force_variance(np.zeros((1, 2, 3)))
