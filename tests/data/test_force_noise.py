"""The noise report equals mean squares of forces that are mapped frame by frame."""

import numpy as np
import pytest

from cgrefine.data import force_map as fm
from cgrefine.data import force_window as fw
from cgrefine.data.force_noise import noise_report
from tests.data.linear_anchors import toy, trajectory

RIDGE = 1e-4


@pytest.fixture(scope="module")
def case():
    """A toy, its forces in three folds of unequal size, and their Gram matrices, weighted by 1/T."""
    molecule = toy("AGAPSAGA")
    forces = trajectory(molecule, 90, 5)[0]
    parts = np.split(np.arange(90), [20, 50])
    plan = fm.summation(molecule.groups)
    states = [
        fm.gram_step(
            fm.gram_init(plan.n_groups), fm.group_forces(forces[part], plan), np.full(len(part), 1 / 320)
        )
        for part in parts
    ]
    return molecule, forces, parts, states


def report(case, pooled=None):
    molecule, _, _, states = case
    rows = noise_report(
        states, molecule.groups, molecule.mapping.ca, molecule.atoms.residue, RIDGE, 1, pooled
    )
    return {row.name: row for row in rows}


def test_report_equals_mapping_frame_by_frame(case):
    molecule, forces, parts, states = case
    groups, ca = molecule.groups, molecule.mapping.ca
    rows = report(case)
    assert list(rows) == [
        "basic", "optimal", "optimal, cross-fitted", "windowed ±1", "windowed ±1, cross-fitted",
    ]  # fmt: skip
    basic = fm.basic_map(groups, ca)
    assert rows["basic"].held_out == pytest.approx(fm.mean_square(fm.apply(basic, forces)), rel=1e-9)
    band = fw.make_band(molecule.atoms.residue, groups, ca, 1)
    bands = [fw.band_step(band, fw.band_init(band), forces[part], 1 / 320) for part in parts]
    windowed = fw.cross_fit(band, bands, RIDGE)
    dense = fm.cross_fit(states, groups, ca, RIDGE)
    maps = {
        "optimal": (dense.folds, dense.all, 1e-9),
        "windowed ±1": ([fw.to_dense(m) for m in windowed.folds], fw.to_dense(windowed.all), 1e-5),
    }
    for name, (folds, every, rel) in maps.items():
        assert rows[name].held_out is None
        assert rows[name].in_sample == pytest.approx(fm.mean_square(fm.apply(every, forces)), rel=rel)
        held = np.concatenate([fm.apply(w, forces[part]) for w, part in zip(folds, parts, strict=True)])
        crossed = rows[f"{name}, cross-fitted"]
        assert crossed.held_out == pytest.approx(fm.mean_square(held), rel=rel)
        inside = [
            fm.mean_square(fm.apply(w, np.delete(forces, part, axis=0)))
            for w, part in zip(folds, parts, strict=True)
        ]
        assert crossed.in_sample == pytest.approx(np.average(inside, weights=[20, 30, 40]), rel=rel)
        assert crossed.in_sample is not None and crossed.held_out is not None
        assert crossed.in_sample < crossed.held_out
    assert all(row.identity < 1e-10 and row.constraint < 1e-10 for row in rows.values())


def test_share_removed_is_free_groups_over_samples(case):
    rows = report(case)
    assert rows["basic"].removed == 0.0
    assert rows["optimal"].removed == pytest.approx(32 / 270)
    assert rows["optimal, cross-fitted"].removed == pytest.approx(np.mean([32 / 210, 32 / 180, 32 / 150]))
    assert rows["windowed ±1"].removed == pytest.approx((6 * 12 + 2 * 8) / 8 / 270)


def test_a_given_pooled_map_is_judged_too(case):
    molecule, forces, _, _ = case
    band = fw.make_band(molecule.atoms.residue, molecule.groups, molecule.mapping.ca, 1)
    local = fw.local_map(band, [np.full(len(band.window(b)), 0.3) for b in range(8)])
    row = report(case, local)["pooled"]
    assert row.held_out == pytest.approx(fm.mean_square(fw.apply_local(local, forces)), rel=1e-5)
    assert row.in_sample is None and row.removed == 0.0


def test_one_fold_is_refused(case):
    molecule, _, _, states = case
    with pytest.raises(ValueError, match="needs at least 2"):
        noise_report(states[:1], molecule.groups, molecule.mapping.ca, molecule.atoms.residue, RIDGE, 1, None)
