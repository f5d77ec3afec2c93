"""Which force map each frame of a molecule gets, by the kind that is configured; fitted in one reading."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from cgrefine.data import force_map, force_pooled, force_window
from cgrefine.data.force_pooled import PooledState
from cgrefine.data.force_pooled_map import PooledMap
from cgrefine.data.molecule import Molecule, fitting_blocks
from cgrefine.errors import InputError

Mapper = Callable[[np.ndarray], np.ndarray]
"""Atomic forces (f, atoms, 3) of a block to bead forces (f, beads, 3)."""


Residuals = tuple[float, float]
"""Largest violations of conditions (a) and (b) of `force_map`."""


class Maps(NamedTuple):
    """fitted: for each run, the map of the frames below fit_until; rest: of all other frames.

    in_sample: whether `fitted` maps saw the frames they are applied to. residuals: conditions (a), (b).
    """

    fitted: tuple[Mapper, ...]
    rest: Mapper
    in_sample: bool
    residuals: Residuals


def maps_of(molecule: Molecule, pooled: PooledMap | None, in_fit: bool) -> Maps:
    """The maps of the configured kind. in_fit: whether the pooled map was fitted on this molecule.

    Forces of a molecule that is coarse-grained already are taken as given: its map is the identity.
    Raises InputError when they cannot be fitted.
    """
    options = molecule.options
    if molecule.domain.coarse:
        return _same_for_all(molecule, lambda forces: forces, False, (0.0, 0.0))
    if options.kind == "basic":
        weights = force_map.basic_map(molecule.groups, molecule.mapping.ca)
        return _same_for_all(molecule, _dense(molecule, weights), False, _residuals(molecule, weights))
    if options.kind == "pooled":
        assert pooled is not None
        local = force_pooled.instantiate(pooled, molecule.domain.atoms, molecule.mapping, molecule.groups)
        return _same_for_all(molecule, _local(local), in_fit, _local_residuals(molecule, local))
    if options.kind == "windowed":
        return _windowed_maps(molecule)
    return _dense_maps(molecule)


def _windowed_maps(molecule: Molecule) -> Maps:
    options, band = molecule.options, _band(molecule)
    states = _band_states(molecule, band)
    with _told_of(molecule, [state.n_frames for state in states]):
        if not options.cross_fit:
            local = force_window.window_fit(band, force_window.band_total(states), options.ridge)
            return _same_for_all(molecule, _local(local), True, _local_residuals(molecule, local))
        fits = force_window.cross_fit(band, states, options.ridge)
    residuals = [_local_residuals(molecule, local) for local in (*fits.folds, fits.all)]
    return _by_fold(molecule, [_local(local) for local in fits.folds], _local(fits.all), residuals)


def _dense_maps(molecule: Molecule) -> Maps:
    options, ca, groups = molecule.options, molecule.mapping.ca, molecule.groups
    states = dense_states(molecule)
    with _told_of(molecule, [state.n_frames for state in states]):
        if not options.cross_fit:
            weights = force_map.optimal_map(force_map.gram_total(states), groups, ca, options.ridge)
            return _same_for_all(molecule, _dense(molecule, weights), True, _residuals(molecule, weights))
        fits = force_map.cross_fit(states, groups, ca, options.ridge)
    mappers = [_dense(molecule, weights) for weights in fits.folds]
    residuals = [_residuals(molecule, weights) for weights in (*fits.folds, fits.all)]
    return _by_fold(molecule, mappers, _dense(molecule, fits.all), residuals)


@contextmanager
def _told_of(molecule: Molecule, n_frames: Sequence[int]) -> Iterator[None]:
    """A fit that is not possible becomes an InputError that names the molecule."""
    if not sum(n_frames):
        n_runs = sum(until > 0 for until in molecule.fit_until)
        raise InputError(
            f"{molecule.domain.source}: no valid frame in the {n_runs} training runs to fit the force map on"
        )
    try:
        yield
    except ValueError as error:
        raise InputError(f"{molecule.domain.source}: {error}") from error


def _dense(molecule: Molecule, weights: np.ndarray) -> Mapper:
    """Applied to groups, half as many as atoms: the coefficients of a group are equal."""
    plan = force_map.summation(molecule.groups)
    _, first = np.unique(molecule.groups, return_index=True)
    by_group = np.ascontiguousarray(weights[:, first].T, np.float64)

    def mapper(forces: np.ndarray) -> np.ndarray:
        return (force_map.group_planes(forces, plan) @ by_group).transpose(0, 2, 1).astype(np.float32)

    return mapper


def _local(local: force_window.LocalMap) -> Mapper:
    return lambda forces: force_window.apply_local(local, forces)


def _same_for_all(molecule: Molecule, mapper: Mapper, in_sample: bool, residuals: Residuals) -> Maps:
    return Maps((mapper,) * len(molecule.runs), mapper, in_sample, residuals)


def _by_fold(
    molecule: Molecule, folds: Sequence[Mapper], rest: Mapper, residuals: Sequence[Residuals]
) -> Maps:
    worst = max(one for one, _ in residuals), max(two for _, two in residuals)
    return Maps(tuple(folds[fold] for fold in molecule.fold), rest, False, worst)


def _residuals(molecule: Molecule, weights: np.ndarray) -> Residuals:
    return (
        force_map.identity_residual(weights, molecule.mapping.ca),
        force_map.constraint_residual(weights, molecule.groups),
    )


def _local_residuals(molecule: Molecule, local: force_window.LocalMap) -> Residuals:
    return force_window.local_residuals(local, molecule.groups, molecule.mapping.ca)


def window_sums(molecule: Molecule) -> PooledState:
    """The molecule's share of the pooled map's normal equations, from its training frames."""
    band = _band(molecule)
    total = force_window.band_total(_band_states(molecule, band))
    return force_pooled.pooled_sums(band, total, molecule.domain.atoms, molecule.mapping)


def dense_states(molecule: Molecule) -> list[force_map.GramState]:
    """Dense Gram matrices of the frames that may be fitted on, one a fold."""
    plan = force_map.summation(molecule.groups)
    states = [force_map.gram_init(plan.n_groups) for _ in range(molecule.n_folds)]
    for fold, block, weights in fitting_blocks(molecule):
        states[fold] = force_map.gram_step(states[fold], force_map.group_forces(block.forces, plan), weights)
    return states


def _band(molecule: Molecule) -> force_window.Band:
    residue = force_window.residue_numbers(molecule.domain.atoms, molecule.mapping)
    return force_window.make_band(residue, molecule.groups, molecule.mapping.ca, molecule.options.window)


def _band_states(molecule: Molecule, band: force_window.Band) -> list[force_window.BandState]:
    states = [force_window.band_init(band) for _ in range(molecule.n_folds)]
    for fold, block, weights in fitting_blocks(molecule):
        if len(weights):
            states[fold] = force_window.band_step(band, states[fold], block.forces, float(weights[0]))
    return states
