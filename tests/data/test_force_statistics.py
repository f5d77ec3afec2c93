"""Sizes of forces: sums over blocks equal the direct numbers, and residue types are told apart."""

import numpy as np
import pytest

from cgrefine.data.force_statistics import size_of, sums_add, sums_init, sums_step

KIND = np.array([0, 2, 2, -1, 0])


def test_blocks_add_up_to_the_direct_numbers():
    f = np.random.default_rng(1).normal(0, [1.0, 2.0, 5.0], (12, 5, 3)).astype(np.float32)
    parts = [sums_step(sums_init(3), block, KIND) for block in np.split(f, 3)]
    sums = sums_add(sums_add(parts[0], parts[1]), parts[2])
    for kind in (0, 2):
        chosen = f[:, kind == KIND].astype(float)
        norm = np.linalg.norm(chosen, axis=-1)
        found = size_of(sums, kind)
        assert found.count == norm.size and found.max_norm == pytest.approx(norm.max())
        assert found.mean_norm == pytest.approx(norm.mean())
        assert found.rms_component == pytest.approx(np.sqrt(np.mean(chosen**2)))
    assert size_of(sums).count == 12 * 4 and size_of(sums, 1) == (0, 0.0, 0.0, 0.0)
