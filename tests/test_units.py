"""Units against values from elsewhere."""

import pytest

from cgrefine import units


def test_thermal_energy_and_time_unit():
    assert units.thermal_energy(298.15) == pytest.approx(0.59248, abs=1e-5)
    assert pytest.approx(48.88821, abs=1e-5) == units.FS_PER_TIME_UNIT
    assert units.to_fs(units.from_fs(4.0)) == pytest.approx(4.0)
    assert units.from_per_ps(1.0) * units.from_fs(1000.0) == pytest.approx(1.0)
