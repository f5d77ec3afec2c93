"""Two domains with ghosts against the whole system in float64, and each fault of other exporters planted."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest

from cgrefine.energy import NetworkTerm, SumOfTerms
from cgrefine.export import deploy, domains
from cgrefine.export.domains import Host
from cgrefine.export.ptb import Container, encode
from cgrefine.export.verify import term_values
from cgrefine.fm.models.registry import network_term
from tests.export import density, toy

BOX = np.array([22.0, 12.0, 11.0])
SKIN_A = 1.0
TOLERANCE = 1e-5
ROOM = 600
"""For edges: enough for every domain here, so that it is compiled once."""


@dataclass(frozen=True)
class Case:
    """A periodic system and its energy and forces in float64, kcal/mol and Å."""

    program: Any
    x: np.ndarray
    species: np.ndarray
    energy: float
    forces: np.ndarray

    def run(self, host: Host, program: Any = None, **arguments) -> domains.HostValues:
        arguments = {"box_A": BOX, **arguments}
        return domains.run(program or self.program, self.x, self.species, host, **arguments)

    def error(self, values: domains.HostValues) -> float:
        """Largest difference of a force component over the rms force, or of the energy per bead."""
        energy = abs(values.energy - self.energy) / len(self.x)
        rms = np.sqrt(np.mean(self.forces**2))
        assert rms > 1.0
        return float(np.nan_to_num(max(energy, np.abs(values.forces - self.forces).max() / rms), nan=np.inf))


def case_of(term: NetworkTerm, params: Any) -> Case:
    """Beads at random in BOX, some of them outside of it as unwrapped coordinates are."""
    x = density.scattered((22.0, 12.0, 11.0), seed=4, apart_A=3.0)[:40]
    x[::3] += BOX * [1, -2, 1]
    species = np.random.default_rng(1).integers(0, 20, len(x))
    program = deploy.load(encode(deploy.container(term, params)))
    return Case(program, x, species, *density.reference(term, params, x, species, BOX))


@pytest.fixture(scope="module")
def local():
    """Strictly local: ghosts of one cutoff with newton on."""
    return case_of(density.network(1), density.params())


@pytest.fixture(scope="module")
def deep():
    """Two hops."""
    return case_of(density.network(2, cutoff_A=4.0), density.params())


@pytest.mark.parametrize("newton", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("padding", [1.0, 1.2, 1.5])
def test_two_domains_are_the_whole_system(local, newton, padding):
    """In any order of beads and pairs."""
    for seed in (None, 1, 2):
        values = local.run(Host(newton, padding=padding, skin_A=SKIN_A, seed=seed, room=ROOM))
        assert local.error(values) < TOLERANCE
        assert values.calls == (1, 1)


@pytest.mark.parametrize("newton", [True, False], ids=["on", "off"])
def test_the_buffer_of_edges_grows_from_one_to_what_is_asked_for(local, newton):
    values = local.run(Host(newton, skin_A=SKIN_A))
    assert local.error(values) < TOLERANCE
    assert values.calls == (2, 2)


@pytest.mark.parametrize("newton", [True, False], ids=["on", "off"])
def test_two_domains_of_a_network_with_messages(deep, newton):
    values = deep.run(Host(newton, skin_A=SKIN_A, seed=3, room=2 * ROOM))
    assert deep.error(values) < TOLERANCE


def test_a_list_holds_until_beads_have_moved_by_half_the_skin(local):
    """Lists and ghosts of earlier positions; a list that is older than that misses edges."""
    step = np.random.default_rng(2).normal(size=local.x.shape)
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    host = Host(True, skin_A=SKIN_A, room=ROOM)
    assert local.error(local.run(host, listed_at=local.x + 0.49 * SKIN_A * step)) < TOLERANCE
    assert local.error(local.run(host, listed_at=local.x + 4.0 * SKIN_A * step)) > 1e-2


@dataclass(frozen=True)
class Faulty:
    """A program that does something else on the way in or out."""

    program: deploy.DomainProgram
    fault: Any

    @property
    def container(self) -> Container:
        return self.program.container

    def __call__(self, *arguments):
        return self.fault(self.program, *arguments)


def energy_split_over_rows(program, x, *rest):
    """E/n for every row, padding included, summed over local rows."""
    values = program(x, *rest)
    share = rest[1] / len(x)
    return values._replace(forces=values.forces * share, energy=values.energy * share)


def padding_counts(program, x, species, n_local, n_ghost, *rest):
    values = program(x, species, n_local, n_ghost, *rest)
    alone = density.params()["a"][0] * (len(x) - n_local - n_ghost)
    return values._replace(energy=values.energy + alone)


def species_from_one(program, x, species, *rest):
    return program(x, np.maximum(species - 1, 0), *rest)


def half_list_not_mirrored(program, x, species, n_local, n_ghost, newton, *rest):
    return program(x, species, n_local, n_ghost, True, *rest)


def full_list_mirrored(program, x, species, n_local, n_ghost, newton, *rest):
    return program(x, species, n_local, n_ghost, False, *rest)


def forces_on_ghosts_lost(program, x, species, n_local, *rest):
    values = program(x, species, n_local, *rest)
    return values._replace(forces=np.where(np.arange(len(x))[:, None] < n_local, values.forces, 0.0))


def ghosts_wrapped_into_the_box(program, x, *rest):
    return program(x - np.floor(x / BOX) * BOX, *rest)


def edges_of_the_list_unused(program, x, species, n_local, n_ghost, newton, senders, receivers, room):
    """A list of its own in place of that of LAMMPS, which knows nothing of ghosts."""
    own = (senders < n_local) & (receivers < n_local)
    return program(
        x, species, n_local, n_ghost, newton,
        np.where(own, senders, len(x)), np.where(own, receivers, len(x)), room,
    )  # fmt: skip


def full_buffer_not_reported(program, *arguments):
    return program(*arguments)._replace(needed_edges=np.int32(1))


NEWTON_OFF = {half_list_not_mirrored}
FAULTS = [
    energy_split_over_rows,
    padding_counts,
    species_from_one,
    half_list_not_mirrored,
    full_list_mirrored,
    forces_on_ghosts_lost,
    ghosts_wrapped_into_the_box,
    edges_of_the_list_unused,
    full_buffer_not_reported,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_planted_fault_is_seen(local, fault):
    newton = fault not in NEWTON_OFF
    room = 1 if fault is full_buffer_not_reported else ROOM
    values = local.run(Host(newton, skin_A=SKIN_A, room=room), Faulty(local.program, fault))
    assert local.error(values) > 10 * TOLERANCE


@pytest.mark.parametrize("newton", [True, False], ids=["on", "off"])
def test_a_halo_of_one_hop_less_is_too_thin(local, deep, newton):
    """The range of ghosts that a network of fewer layers would ask for: [1, 1] fails with newton off, the
    [1, 2] of Allegro fails for two layers in both."""
    for case, order in ((local, (1, 1)), (deep, (1, 2))):
        if case is local and newton:
            continue
        asked = case.program.container._replace(nbr_order=order)
        values = case.run(Host(newton, skin_A=0.1, room=ROOM), replace(case.program, container=asked))
        assert case.error(values) > 10 * TOLERANCE


def test_special_neighbours_stay_in_the_list(local):
    """Marked in their upper bits, as hybrid/overlay with special_bonds 1e-50 does; a program that takes the
    bits for a part of the index loses these pairs."""
    special = {(i, j): 1 + (i + j) % 3 for i in range(40) for j in range(i + 1, 40)}
    host = Host(True, skin_A=SKIN_A, room=ROOM)
    assert local.error(local.run(host, special=special)) < TOLERANCE

    def bits_in_the_index(program, x, species, n_local, n_ghost, newton, senders, receivers, room):
        known = (receivers >= 0) & (receivers < len(x))
        return program(
            x, species, n_local, n_ghost, newton, senders, np.where(known, receivers, len(x)), room
        )

    assert local.error(local.run(host, Faulty(local.program, bits_in_the_index), special=special)) > 0.1


def test_a_topology_by_index_fails_as_soon_as_beads_are_sorted():
    """Bonds between rows i and i + 1: right in one order of beads, which LAMMPS does not keep."""
    term = density.network(1)

    def bonded(params, vectors, species, senders, receivers, edge_mask):
        energy = term.edge_energy(params, vectors, species, senders, receivers, edge_mask)
        r2 = (vectors * vectors).sum(axis=-1)
        bond = (edge_mask & (abs(senders - receivers) == 1)) * (r2 - 14.0) ** 2
        return energy.at[senders].add(bond)

    x, species = toy.frames()[0], toy.topology().species
    wrong = replace(term, edge_energy=bonded)
    program = deploy.load(encode(deploy.container(wrong, density.params())))
    energy, forces = density.reference(wrong, density.params(), x, species, None)
    kept, sorted_ = (
        domains.run(program, x, species, Host(True, domains=1, seed=s, room=ROOM)) for s in (None, 5)
    )
    assert np.abs(kept.forces - forces).max() < 1e-4 * np.abs(forces).max()
    assert kept.energy == pytest.approx(energy, rel=1e-5)
    assert np.abs(sorted_.forces - forces).max() > 0.1 * np.abs(forces).max()


def test_a_host_that_is_never_given_numbers_stops(local):
    def insatiable(program, *arguments):
        return program(*arguments)._replace(needed_edges=np.int32(1 << 20))

    with pytest.raises(RuntimeError, match="room for 1048576 edges"):
        local.run(Host(True, skin_A=SKIN_A, room=ROOM), Faulty(local.program, insatiable))


NETWORKS = {
    "allegro": {"channels": 2, "hidden": 8, "layers": 2, "l_max": 1, "parity": "o3",
                "products": "channelwise", "species_pair": True},
    "mace": {"channels": 2, "hidden": 4, "layers": 2, "l_max": 1, "l_hidden": 1, "correlation": 3,
             "parity": "so3"},
    "painn": {"hidden": 8, "layers": 2},
    "schnet": {"hidden": 8, "layers": 2},
}  # fmt: skip


@pytest.mark.stages
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_leaves_and_two_domains_are_the_whole_protein(name):
    """Free space, newton on and off, beads in any order; weights large enough to be seen."""
    facts = {
        "name": name,
        "cutoff_A": 7.0,
        "avg_neighbors": 6.0,
        "n_bessel": 4,
        "envelope_p": 6,
        **NETWORKS[name],
    }
    term = network_term(facts)
    params = jax.tree.map(lambda leaf: 1.2 * np.asarray(leaf), term.init(jax.random.key(2)))
    program = deploy.load(encode(deploy.container(term, params)))
    frame = toy.frames()[0]
    model = SumOfTerms((term,))
    exact = term_values(model, {"network": params}, toy.topology(), frame[None])["network"]
    rms = np.sqrt(np.mean(exact.forces**2))
    assert rms > 1e-3
    for newton in (True, False):
        values = domains.run(program, frame, toy.topology().species, Host(newton, seed=7, room=ROOM))
        error = np.abs(values.forces - exact.forces[0]).max()
        assert error < TOLERANCE and error < 1e-4 * rms
        assert values.energy == pytest.approx(exact.energy[0], abs=TOLERANCE * len(frame))
