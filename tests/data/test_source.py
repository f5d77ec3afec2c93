"""Which frames count as valid."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrefine.data.source import valid_frames

LIMIT = 100.0
ODD = (0.0, 99.0, -100.0, 100.1, 1e-30, 1e30, -3e38, np.nan, np.inf, -np.inf)


def by_definition(coords, forces):
    """The rule, frame by frame and atom by atom."""
    good = []
    for x, f in zip(coords, forces, strict=True):
        at_origin = sum((row == 0.0).all() for row in x)
        good.append(
            bool(
                np.isfinite(x).all()
                and np.isfinite(f).all()
                and (np.abs(x) <= LIMIT).all()
                and at_origin < 2
                and (f != 0.0).any()
            )
        )
    return good


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_valid_frames_are_those_of_the_definition(data):
    """Random frames with odd numbers put in at random places; atoms at the origin are written as +0."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x, f = rng.uniform(-90, 90, (2, 4, 12, 3)).astype(np.float32)
    for values in (x, f):
        for _ in range(data.draw(st.integers(0, 3))):
            place = tuple(data.draw(st.integers(0, n - 1)) for n in values.shape)
            values[place] = data.draw(st.sampled_from(ODD))
    for values in (x, f):
        frame = data.draw(st.integers(0, 3))
        values[frame, data.draw(st.integers(0, 12)) :] = 0.0
    assert valid_frames(x, f, LIMIT).tolist() == by_definition(x, f)


def test_many_atoms_near_the_limit_are_valid():
    """The sum of squares exceeds the squared limit, no coordinate does."""
    x = np.full((1, 50, 3), 99.9, np.float32)
    assert valid_frames(x, np.ones_like(x), LIMIT).tolist() == [True]
