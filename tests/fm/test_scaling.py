"""Laws of scaling: exact times give back the share they were made with, and one device is needed."""

import numpy as np
import pytest

from cgrefine.fm.scaling import amdahl, gustafson

DEVICES = [1, 2, 4, 8, 24]


def test_amdahl_of_exact_times():
    n = np.array(DEVICES, float)
    found = amdahl(DEVICES, (3.7 * (0.08 + 0.92 / n)).tolist())
    assert found.serial == pytest.approx(0.08, rel=1e-12) and found.residual < 1e-12


def test_gustafson_of_exact_times():
    n = np.array(DEVICES, float)
    speed = n - 0.05 * (n - 1)
    found = gustafson(DEVICES, (2.0 * n / speed).tolist())
    assert found.serial == pytest.approx(0.05, rel=1e-12) and found.residual < 1e-12


def test_ideal_and_useless_devices():
    assert amdahl([1, 2, 4], [4.0, 2.0, 1.0]).serial == 0.0
    assert amdahl([1, 2, 4], [1.0, 1.0, 1.0]).serial == pytest.approx(1.0)
    assert gustafson([1, 2, 4], [1.0, 1.0, 1.0]).serial == 0.0
    assert gustafson([1, 2, 4], [1.0, 2.0, 4.0]).serial == pytest.approx(1.0)
    assert amdahl([1, 2], [1.0, 3.0]).serial == 1.0, "slower than one device: no share above 1"


def test_one_device_is_needed():
    with pytest.raises(ValueError, match=r"needs the time of one device; there are those of \[2, 4\]"):
        amdahl([2, 4], [1.0, 0.5])
