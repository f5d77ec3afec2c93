"""The bundle of lammps-jax, called as by its pair style: ghosts, rooms, platforms, and what is refused."""

import base64
import json
import sys
from dataclasses import replace
from typing import Literal

import jax
import numpy as np
import pytest

from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.export import domains
from cgrefine.export.domains import Host
from cgrefine.export.lammps_jax import FILE, Rooms, check, load, rooms_for, write_lammps_jax
from cgrefine.export.verify import TermValues, term_values
from cgrefine.fm.models.registry import network_term
from tests.export import density, toy

BOX = np.array([22.0, 12.0, 11.0])
SKIN_A = 1.0
ROOMS = Rooms(600, 9000)


def exact_of(term, params):
    model = SumOfTerms((term,))
    return term_values(model, {term.name: params}, toy.topology(), toy.frames())[term.name]


def written(path, term, params, platform: Literal["cpu", "cuda"] = "cpu", rooms=None):
    exact = exact_of(term, params)
    return write_lammps_jax(path, term, params, toy.topology(), toy.frames(), exact, platform, rooms)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A network of two hops, with room for the ghosts of a small box."""
    path = tmp_path_factory.mktemp("lammps_jax") / FILE
    written(path, density.network(2, cutoff_A=4.0), density.params(), rooms=ROOMS)
    return path


def in_box(program, term, **host):
    """Largest error over two domains of a box: of forces over their rms, and of the energy per bead."""
    x = density.scattered(tuple(BOX), seed=4, apart_A=3.0)[:40]
    x[::3] += BOX * [1, -2, 1]
    species = np.random.default_rng(1).integers(0, 20, len(x))
    energy, forces = density.reference(term, density.params(), x, species, BOX)
    found = domains.run(program, x, species, Host(True, skin_A=SKIN_A, seed=3, **host), box_A=BOX)
    errors = np.abs(found.forces - forces).max() / np.sqrt(np.mean(forces**2))
    return max(errors, abs(found.energy - energy) / len(x))


@pytest.mark.parametrize("hops", [1, 2])
def test_two_domains_with_ghosts_are_the_whole_periodic_system(tmp_path, hops):
    term = density.network(hops, cutoff_A=4.0)
    written(tmp_path / FILE, term, density.params(), rooms=ROOMS)
    assert in_box(load(tmp_path / FILE), term) < 1e-5


def test_ghosts_of_one_cutoff_would_be_too_few(deep):
    """Planted: the range that one hop needs."""
    program, term = load(deep), density.network(2, cutoff_A=4.0)
    short = replace(program, container=program.container._replace(nbr_order=(1, 1)))
    assert in_box(program, term) < 1e-5
    assert in_box(short, term) > 1e-2


NETWORKS = {
    "allegro": {"channels": 2, "hidden": 8, "layers": 2, "l_max": 1, "parity": "o3",
                "products": "channelwise", "species_pair": True},
    "mace": {"channels": 2, "hidden": 4, "layers": 2, "l_max": 1, "l_hidden": 1, "correlation": 3,
             "parity": "so3"},
}  # fmt: skip


@pytest.mark.stages
@pytest.mark.parametrize("name, platform", [("allegro", "cuda"), ("mace", "cpu")])
def test_every_network_leaves(tmp_path, name, platform):
    """The program for CUDA is run on the CPU: it is StableHLO alone."""
    facts = {"name": name, "cutoff_A": 8.0, "avg_neighbors": 6.0, "n_bessel": 4, "envelope_p": 6}
    term = network_term({**facts, **NETWORKS[name]})
    params = jax.tree.map(lambda leaf: 1.2 * np.asarray(leaf), term.init(jax.random.key(2)))
    found = written(tmp_path / FILE, term, params, platform)
    assert found.passed and found.force > 0.0
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["export_info"]["platform"] == platform
    contract = kept["contract"]
    assert (contract["unit_style"], contract["n_species"], contract["cutoff"]) == ("real", 20, 8.0)
    assert (contract["n_hops"], contract["newton"], contract["max_atoms"]) == (2, "on", 48)


def test_another_network_fails_the_check_and_is_not_left(tmp_path):
    term, params = density.network(1), density.params()
    exact = exact_of(term, params)
    other = {**params, "b": 1.001 * params["b"]}
    with pytest.raises(ValueError, match="is not the network"):
        write_lammps_jax(tmp_path / FILE, term, other, toy.topology(), toy.frames(), exact, "cpu")
    assert not list(tmp_path.iterdir())


def test_too_little_room_is_told(tmp_path, deep):
    with pytest.raises(InputError, match=r"a domain has \d+ edges, the bundle of lammps-jax has room for 20"):
        written(tmp_path / FILE, density.network(1), density.params(), rooms=Rooms(48, 20))
    assert not list(tmp_path.iterdir())
    program = replace(load(deep), rooms=Rooms(30, ROOMS.edges))
    with pytest.raises(InputError, match=r"a domain has \d+ beads, the bundle of lammps-jax has room for 30"):
        in_box(program, density.network(2, cutoff_A=4.0))


def test_rooms_hold_the_ghosts_and_edges_of_the_densest_frame():
    x = np.stack([np.arange(6)[:, None] * [a, 0.0, 0.0] for a in (4.0, 2.0)])
    # within 3 + 2 Å: five bonds, and four of the next but one, in both directions
    assert rooms_for(x, 3.0) == Rooms(12, 4 * 18)
    assert rooms_for(x, 3.0, beads=6) == Rooms(6, 2 * 18)
    assert rooms_for(x, 3.0, beads=6, edges=5) == Rooms(6, 5)


def damaged(path, to, change):
    found = json.loads(path.read_text())
    change(found)
    to.write_text(json.dumps(found))
    return to


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda f: f.update(format="lammps-jax-json"), "format, layout, precision and newton are"),
        (lambda f: f["contract"].update(newton="off"), "format, layout, precision and newton are"),
        (lambda f: f["contract"].pop("cutoff"), "no bundle of lammps-jax .KeyError"),
        (
            lambda f: f["programs"].update(
                energy_and_forces_mlir_b64=base64.b64encode(b"nothing").decode("ascii")
            ),
            "no portable StableHLO",
        ),
    ],
)
def test_what_is_no_such_bundle_is_refused(deep, tmp_path, change, reason):
    with pytest.raises(InputError, match=reason):
        load(damaged(deep, tmp_path / FILE, change))


def test_text_that_is_no_bundle_and_no_file_are_refused(tmp_path):
    (tmp_path / FILE).write_text("{")
    for path in (tmp_path / FILE, tmp_path / "nothing.json"):
        with pytest.raises(InputError, match="no bundle of lammps-jax"):
            load(path)


def test_without_the_package_the_command_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps_jax.export", None)
    with pytest.raises(InputError, match=r'pip install "cgrefine\[lammps-jax\]"'):
        written(tmp_path / FILE, density.network(1), density.params())


def test_a_network_of_temperatures_needs_one(tmp_path):
    term = replace(density.network(1), reference_K=300.0)
    values = TermValues(np.zeros(4), np.zeros((4, 24, 3)), np.zeros((4, 3, 3)))
    with pytest.raises(ValueError, match="conditioned on temperature"):
        write_lammps_jax(tmp_path / FILE, term, density.params(), toy.topology(), toy.frames(), values, "cpu")


def test_the_check_sees_other_forces(deep):
    term = density.network(2, cutoff_A=4.0)
    exact = exact_of(term, density.params())
    assert check(deep, toy.topology(), toy.frames(), exact).passed
    other = exact._replace(forces=1.001 * exact.forces)
    assert not check(deep, toy.topology(), toy.frames(), other).passed
