"""Sizes of pairs are quantiles within limits; charges are those of the residues."""

import numpy as np
import pytest

from cgrefine import residues
from cgrefine.config.priors import Electrostatics, ExcludedVolume, Priors, Repulsion
from cgrefine.errors import InputError
from cgrefine.fm.priors import marginals, pairs


def test_sigma_is_the_quantile_within_limits():
    """Uniform distances on (3.9, 5.9): the 1 % quantile is 3.92 Å; a rare pair takes the common value."""
    size = residues.N_SPECIES
    distance = marginals.empty().distance
    counts = np.zeros(distance.counts.shape)
    counts[size * 2 + 5] = 1e6 * ((distance.centres > 3.9) & (distance.centres < 5.9))
    counts[size * 0 + 1, np.searchsorted(distance.edges, 3.7)] = 1.0
    distance = distance._replace(counts=counts)
    limits = Repulsion(quantile=0.01, sigma_min_A=3.6, sigma_max_A=4.2)
    sigma = pairs.fit_sigma(distance, limits, n0=300.0)
    assert sigma == pytest.approx(np.full((size, size), 3.92), abs=1e-3)
    assert np.array_equal(sigma, sigma.T)
    own = pairs.fit_sigma(distance, limits, n0=0.0)
    assert own[0, 1] == own[1, 0] == pytest.approx(3.7, abs=0.021)
    half = pairs.fit_sigma(distance, limits, n0=0.01)
    assert half[0, 1] == pytest.approx(0.5 * (own[0, 1] + own[0, 0]))
    assert pairs.fit_sigma(distance, Repulsion(quantile=0.01, sigma_min_A=4.0), 300.0).min() == 4.0
    assert pairs.fit_sigma(distance, Repulsion(quantile=0.01, sigma_max_A=3.8), 0.0).max() == 3.8


def test_no_contacts_are_an_error():
    with pytest.raises(InputError, match="separation 3 or more"):
        pairs.fit_sigma(marginals.empty().distance, Repulsion(), 300.0)


def test_optional_terms_take_their_values_from_the_configuration():
    distance = marginals.empty().distance
    distance = distance._replace(counts=np.ones(distance.counts.shape))
    assert set(pairs.pair_params(distance, Priors())) == {"repulsion"}
    cfg = Priors(
        excluded_volume=ExcludedVolume(sigma_A=3.5), electrostatics=Electrostatics(histidine_charge=0.4)
    )
    found = pairs.pair_params(distance, cfg)
    assert np.all(found["excluded_volume"]["sigma"] == 3.5)
    charge = dict(zip(residues.ONE_LETTER, found["electrostatics"]["charge"], strict=True))
    assert {k: v for k, v in charge.items() if v} == {"R": 1.0, "K": 1.0, "D": -1.0, "E": -1.0, "H": 0.4}
