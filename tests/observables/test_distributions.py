"""RDF and neighbours' angles where they are known exactly; smooth histograms; superposition; helices."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from cgrefine.config.running import Observables
from cgrefine.errors import InputError
from cgrefine.observables import histogram, internal, pairs, structure
from cgrefine.observables.catalogue import measures, standard
from cgrefine.observables.contacts import contact_map
from cgrefine.observables.secondary import HELIX, STRAND, secondary_structure
from cgrefine.observables.superposition import optimal_rotation, rmsd_to
from cgrefine.observables.triples import angular_distribution
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal, ideal_helix, random_chain
from tests.observables.sample import frames

BOX = np.array([10.0, 12.0, 14.0])


def every_pair(n):
    return np.stack(np.triu_indices(n, k=1), axis=1)


def test_rdf_of_an_ideal_gas_is_one():
    """Pairs of uniform beads fall into a shell independently of one another, two by two: binomial errors.

    Four of them, 20 shells: false alarm 1.3e-3.
    """
    n, n_frames = 80, 200
    o = pairs.radial_distribution(every_pair(n), BOX, 0.25)
    assert o.grid is not None and o.grid.count == 20 and o.grid.high == 5.0
    x = np.random.default_rng(0).uniform(0, 1, (n_frames, n, 3)) * BOX + np.array([100.0, -30.0, 0.0])
    g = o.of_mean(structure.frame_means(o, x))
    p = 4 / 3 * np.pi * np.diff(o.grid.edges**3) / BOX.prod()
    assert np.all(np.abs(g - 1) < 4 * np.sqrt((1 - p) / (n_frames * n * (n - 1) / 2 * p)))


def test_rdf_of_a_lattice_has_exact_shells():
    """Simple cubic, across the walls of the box: 6, 12, 8, 6, 24, 24 neighbours up to 2.5 spacings."""
    cells = np.array([5, 6, 7])
    sites = np.stack(np.meshgrid(*map(np.arange, cells), indexing="ij"), -1).reshape(-1, 3) * 2.0
    o = pairs.radial_distribution(every_pair(len(sites)), 2.0 * cells, 0.1)
    assert o.grid is not None
    g = o.of_mean(structure.frame_means(o, sites[None]))
    density = len(sites) / np.prod(2.0 * cells)
    # N(N-1)/2 pairs stand for N/2 neighbours a bead: hence the N/(N-1)
    shells = 4 / 3 * np.pi * np.diff(o.grid.edges**3)
    neighbours = g * shells * density * (len(sites) - 1) / len(sites)
    expected = np.zeros(o.grid.count)
    for squared, count in ((1, 6), (2, 12), (3, 8), (4, 6), (5, 24), (6, 24)):
        expected[int(2 * np.sqrt(squared) / 0.1 + 1e-6)] += count
    assert neighbours == pytest.approx(expected, abs=1e-9)


def test_rdf_beyond_half_the_box_is_refused():
    with pytest.raises(InputError, match=r"max_A = 5\.1 Å is beyond half the shortest edge of the box, 5 Å"):
        pairs.radial_distribution(every_pair(3), BOX, 0.1, max_A=5.1)


def test_angles_of_neighbours_on_a_square():
    """Four corners of a square of 2 Å: with the diagonal out of reach one right angle each."""
    square = np.array([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]])

    def found(*settings):
        return structure.frame_means(angular_distribution(4, *settings), square[None])

    assert found(2.5, 20.0)[1 + 4] == pytest.approx(1.0)
    # with the diagonal each corner has 90° once and 45° twice
    assert found(3.0, 20.0)[[1 + 4, 1 + 2]] == pytest.approx([1 / 3, 2 / 3])
    assert found(1.0, 20.0)[0] == 1.0 and found(1.0, 20.0).sum() == 1.0
    assert found(2.5, 20.0, 0.1, 5.0).sum() == pytest.approx(1.0)


GRIDS = [histogram.bins(0.0, 1.0, 0.1), histogram.bins(0.0, 1.0, 0.1, periodic=True)]


@pytest.mark.parametrize("grid", GRIDS, ids=["open", "periodic"])
def test_smeared_mass_is_that_of_normal_kernels(grid):
    values = np.array([0.03, 0.5, 0.98, 1.3, -0.2])
    found = np.asarray(histogram.mass(values, grid, 0.07))
    expected = np.zeros(12)
    for v in values:
        images = v - np.floor(v) + np.arange(-2, 3) if grid.periodic else [v]
        for image in images:
            below = norm.cdf(grid.edges, image, 0.07)
            expected[1:-1] += np.diff(below) / 5
            if not grid.periodic:
                expected[0] += below[0] / 5
                expected[-1] += (1 - below[-1]) / 5
    assert found == pytest.approx(expected, abs=1e-12)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=["open", "periodic"])
def test_a_narrow_kernel_gives_the_plain_histogram(grid):
    values = np.random.default_rng(0).uniform(-0.5, 1.5, 50)
    values = values[np.abs(values * 10 - np.round(values * 10)) > 1e-2]
    assert histogram.mass(values, grid, 1e-5) == pytest.approx(np.asarray(histogram.mass(values, grid)))


@pytest.mark.parametrize("grid", GRIDS, ids=["open", "periodic"])
def test_gradient_of_smeared_mass_is_that_of_finite_differences(grid):
    weights = np.random.default_rng(1).normal(size=grid.size)
    both = jax.jit(jax.value_and_grad(lambda v: jnp.dot(weights, histogram.mass(v, grid, 0.05))))
    x, h = np.array([0.21, 0.977]), 1e-6
    exact = both(x)[1]
    for i in range(2):
        ends = [float(both(x + s * np.eye(2)[i])[0]) for s in (h, -h)]
        assert float(exact[i]) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)


def test_a_kernel_wider_than_a_bin_is_refused():
    with pytest.raises(ValueError, match=r"smear = 0\.2: must be from 0 to the width of a bin, 0\.1"):
        histogram.mass(np.array([0.5]), GRIDS[0], 0.2)


def test_periodic_bins_wrap_and_lose_nothing():
    grid = histogram.bins(-180.0, 180.0, 60.0, periodic=True)
    found = np.asarray(histogram.mass(np.array([180.0, -180.0, 190.0, -180.0 - 1e-12, 539.0, 725.0]), grid))
    assert found * 6 == pytest.approx([0, 3, 0, 0, 1, 0, 2, 0])


@pytest.mark.parametrize("kind", ["bond", "angle", "dihedral"])
@pytest.mark.parametrize("smear", [0.0, 0.01])
def test_pooled_distributions_are_the_mean_of_those_of_each(kind, smear):
    topology, x = topology_from_species([0] * 9, breaks=[4]), random_chain(9, 0)[None]
    make = getattr(internal, f"{kind}_distribution")
    each = structure.frame_means(make(topology, 5.0 if kind != "bond" else 0.1, True, smear), x)
    assert each.shape[0] == len(getattr(topology, f"{kind}s")) and each.sum(1) == pytest.approx(1.0)
    pooled = structure.frame_means(make(topology, 5.0 if kind != "bond" else 0.1, False, smear), x)
    assert each.mean(0) == pytest.approx(pooled)


def test_distances_along_the_chain_by_hand():
    """Steps of 3 Å: i,i+2 is 6 Å everywhere, and no pair crosses the break."""
    topology = topology_from_species([0] * 8, breaks=[5])
    straight = np.arange(8)[:, None] * np.array([[3.0, 0, 0]])
    assert len(pairs.chain_pairs(topology, 2)) == 3 + 1
    o = pairs.neighbor_distribution(topology, 2, 0.5)
    assert o is not None and o.grid is not None
    found = structure.frame_means(o, straight[None] + 0.01)[1:-1]
    assert found[int(6.0 / o.grid.width + 1e-9)] == pytest.approx(1.0)
    assert pairs.neighbor_distribution(topology, 5, 0.5) is None


def test_soft_contacts_are_the_step_when_hard():
    topology, x = topology_from_species([0] * 12), random_chain(12, 3)[None]
    hard, soft, step = (contact_map(topology, 8.0, 4, s) for s in (1e-6, 0.5, 0.0))
    assert hard is not None and soft is not None and step is not None
    assert structure.frame_means(hard, x) == pytest.approx(structure.frame_means(step, x))
    r = np.linalg.norm(np.diff(x[0][pairs.separated_pairs(topology, 4)], axis=1)[:, 0], axis=1)
    assert structure.frame_means(soft, x) == pytest.approx(1 / (1 + np.exp((r - 8) / 0.5)))


def test_minimum_distance_between_molecules_by_hand():
    """Inside the molecules beads touch, between them 4 Å; across the wall of the box 2 Å."""
    x = jnp.array([[0.0, 0, 0], [1, 0, 0], [5, 0, 0], [8, 0, 0]])
    between = pairs.intermolecular_pairs(np.array([0, 0, 1, 1]))
    assert len(between) == 4
    assert float(pairs.minimum_distance(x, between)) == pytest.approx(4.0)
    box = np.array([10.0, 20.0, 20.0])
    assert float(pairs.minimum_distance(x, between, box)) == pytest.approx(2.0)
    smooth = float(pairs.minimum_distance(x, between, smear_A=0.1))
    assert 4.0 - 0.1 * np.log(4) <= smooth <= 4.0
    pull = jax.jit(jax.grad(lambda y: pairs.minimum_distance(y, between, smear_A=0.1)))(x)
    assert pull[:, 0] == pytest.approx([0, -1, 1, 0], abs=1e-3)


def test_superposition_finds_the_rotation_and_no_reflection():
    x = random_chain(10, 1)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    centred = x - x.mean(0)
    assert optimal_rotation(centred, centred @ turn.T) == pytest.approx(turn)
    assert float(rmsd_to(x)(jnp.asarray(x @ turn.T + 7.0))) < 1e-9
    mirror = centred * np.array([1.0, 1, -1])
    rotation = np.asarray(optimal_rotation(mirror, centred))
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    assert float(rmsd_to(x)(jnp.asarray(mirror))) > 1.0


def test_gradient_of_rmsd_is_that_of_finite_differences():
    """The rotation counts as a constant; at the reference itself, and on a line, the gradient is finite."""
    native, x, h = random_chain(6, 2), random_chain(6, 8), 1e-5
    both = jax.jit(jax.value_and_grad(rmsd_to(native)))
    exact = both(x)[1]
    for i, c in ((0, 0), (3, 2), (5, 1)):
        shift = np.zeros((6, 3))
        shift[i, c] = h
        slope = (both(x + shift)[0] - both(x - shift)[0]) / (2 * h)
        assert float(exact[i, c]) == pytest.approx(float(slope), rel=1e-6)
    line = np.arange(6.0)[:, None] * np.array([[3.8, 0.0, 0.0]])
    assert np.isfinite(both(line)[1]).all() and np.isfinite(both(native)[1]).all()


@cache
def secondary(n):
    o = secondary_structure(topology_from_species([0] * n))
    assert o is not None
    return o


def states(x):
    return structure.frame_means(secondary(len(x)), x[None]) > 0


def test_a_right_handed_helix_is_one_and_its_mirror_is_not():
    helix = ideal_helix(10)
    found = states(helix)
    assert found[HELIX, 1:7].all() and not found[STRAND].any()
    assert not states(helix * np.array([1.0, 1, -1])).any()


def test_an_extended_chain_is_a_strand():
    strand = chain_from_internal(np.full(9, 3.8), np.full(8, np.deg2rad(124)), np.full(7, np.deg2rad(-170)))
    found = states(strand)
    assert found[STRAND, 1:8].all() and not found[HELIX].any()
    # α = 160° is within 45° of -170°, 120° is not (and the distances, too, leave their range)
    around = chain_from_internal(np.full(9, 3.8), np.full(8, np.deg2rad(124)), np.full(7, np.deg2rad(160)))
    assert states(around)[STRAND].any()
    off = chain_from_internal(np.full(9, 3.8), np.full(8, np.deg2rad(105)), np.full(7, np.deg2rad(120)))
    assert not states(off)[STRAND].any()


def test_helices_of_the_sample_are_those_of_dssp():
    """Share of residues on which the Cα criterion and DSSP's H (of all atoms, in the file) agree."""
    topology, x, dssp = frames("helix25")
    o = secondary_structure(topology)
    assert o is not None
    found = np.asarray(o.of_frames(jnp.asarray(x)))[:, HELIX] > 0
    agree = np.mean(found == (dssp == "H"))
    assert agree > 0.85 and 0.2 < found.mean() < 0.9


def test_no_short_chain_has_what_it_cannot_have():
    assert secondary_structure(topology_from_species([0] * 8, breaks=[4])) is None
    two = standard(topology_from_species([0, 0]), Observables(per_residue=True), np.zeros((2, 3)))
    assert [o.name for o in two] == ["bond", "RMSF", "Rg", "end-to-end", "RMSD", "bond of each residue"]


@pytest.mark.slow
def test_one_program_gives_the_same_means():
    """All observables and measures of a chain together, over several chunks, compiled once."""
    topology, x, _ = frames("gpturn10")
    cfg = Observables(neighbor_angle_cutoff_A=7.0, per_residue=True)
    x = x[:100]
    observables, named = standard(topology, cfg, x[0]), measures(topology, cfg, x[0])
    average = structure.averager(observables, named)
    found = average(x)
    assert {o.name for o in observables} > {
        "i,i+4",
        "angle of neighbours",
        "RMSF",
        "dihedral of each residue",
    }
    for o, mean in zip(observables[::4], found.means[::4], strict=True):
        assert mean == pytest.approx(structure.frame_means(o, x), abs=1e-12), o.name
    assert found.series["Rg"] == pytest.approx(np.sqrt(((x - x.mean(1, keepdims=True)) ** 2).sum(-1).mean(1)))
    assert set(found.series) >= {"RMSD", "end-to-end"} and all(len(s) == 100 for s in found.series.values())
    with pytest.raises(ValueError, match="no frames"):
        average(x[:0])


def test_values_are_those_of_each_frame():
    """Of 70 frames, more than a chunk has, of 1, and of none."""
    rg = structure.Observable("Rg", "Å", (), structure.radius_of_gyration)
    ends = structure.Observable("ends", "Å", (2, 3), lambda x: x[:2])
    frames = np.stack([random_chain(6, seed) for seed in range(70)])
    of_frames = structure.valuer([rg, ends])
    for count in (70, 1, 0):
        found = of_frames(frames[:count])
        x = frames[:count] - frames[:count].mean(axis=1, keepdims=True)
        np.testing.assert_allclose(found[0], np.sqrt((x**2).sum(axis=2).mean(axis=1)), rtol=1e-12)
        np.testing.assert_array_equal(found[1], frames[:count, :2])
        assert all(rows.dtype == np.float64 for rows in found)
