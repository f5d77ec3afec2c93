"""The whole inversion on frames: which frames are read, what is made of them, and with which errors."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import residues
from cgrefine.config.priors import (
    AnglePrior,
    BondPrior,
    DihedralPrior,
    Electrostatics,
    EnergyWeights,
    ExcludedVolume,
    Priors,
    Repulsion,
    Walls,
)
from cgrefine.data.store import Dataset, in_memory
from cgrefine.energy import PairTerm
from cgrefine.errors import InputError
from cgrefine.fm.priors import classes, diagnostics, fit, forms, marginals
from cgrefine.fm.priors.classes import Kind
from cgrefine.fm.priors.facts import facts_of, weighted
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal
from tests.fm.histograms import counts


def domain(n_frames=40, temperature_K=320.0, validation=False, bond=3.8, seed=0, replicas=2, cis=()):
    """Frames with bonds near `bond`, 2.95 Å where cis; in memory; no proline."""
    species = residues.species_from_sequence("AGTALKAEAV")
    rng, n = np.random.default_rng(seed), len(species)
    centres = np.where(np.isin(np.arange(1, n), cis), 2.95, bond)
    frames = [
        chain_from_internal(
            rng.normal(centres, 0.05), rng.normal(1.9, 0.2, n - 2), rng.normal(0.9, 0.8, n - 3)
        )
        for _ in range(n_frames)
    ]
    x = np.asarray(frames, np.float32)
    arrays = {
        "positions": x,
        "forces": np.zeros_like(x),
        "temperature_K": np.full(n_frames, temperature_K),
        "replica": np.sort(np.arange(n_frames) % replicas),
        "frame": np.arange(n_frames),
        "validation": np.full(n_frames, validation),
    }
    return in_memory("toy", topology_from_species(species, cis=cis), arrays)


def dataset(*domains):
    return Dataset(Path("."), domains, {})


CFG = Priors(angle=AnglePrior(knots=10), bootstrap=3)


@pytest.fixture(scope="module")
def alone():
    return fit.fit_priors(dataset(domain()), CFG)


def test_only_training_frames_at_the_lowest_temperature_are_read(alone):
    """Hot frames and validation frames, with another bond length, change nothing."""
    mixed = fit.fit_priors(
        dataset(
            domain(), domain(temperature_K=450.0, bond=4.1, seed=1), domain(validation=True, bond=3.6, seed=2)
        ),
        CFG,
    )
    assert mixed.temperature_K == 320.0 and mixed.diagnostics["frames"] == 40
    for name, group in alone.params.items():
        for key, value in group.items():
            assert np.array_equal(mixed.params[name][key], value)
            assert value.dtype == np.float64 and np.all(np.isfinite(value))


def test_params_have_their_shapes_and_bonds_before_proline_the_common_fit(alone):
    params, chosen = alone.params, alone.diagnostics["harmonics"]
    assert params["bond"]["x0"][0] == params["bond"]["x0"][1] == pytest.approx(3.8, abs=0.01)
    assert params["bond"]["x0"][2] == 2.95 and params["bond"]["k"][2] == params["bond"]["k"][0]
    assert params["angle"]["coefficients"].shape == (5, 10)
    assert params["dihedral"]["cos"].shape == (3, max(chosen["global"] + chosen["class"]))
    assert params["repulsion"]["sigma"].shape == (20, 20)


def test_errors_and_bands_belong_to_params(alone):
    assert alone.errors is not None and alone.bands is not None
    for name, group in alone.params.items():
        assert {key: value.shape for key, value in group.items()} == {
            key: value.shape for key, value in alone.errors[name].items()
        }
    for kind, (x, band) in alone.bands.items():
        assert band.shape == (len(classes.labels(kind, "class")), len(x))
        assert np.all(np.isfinite(band)) and np.all(band[0] >= 0.0) and band[0].max() > 0.0
    assert alone.errors["bond"]["x0"][0] < 0.02
    none = fit.fit_priors(dataset(domain()), CFG.model_copy(update={"bootstrap": 0}))
    assert none.errors is None and none.bands is None
    assert np.array_equal(none.params["dihedral"]["sin"], alone.params["dihedral"]["sin"])


def test_diagnostics_say_what_was_read(alone):
    report = json.loads(json.dumps(alone.diagnostics))
    assert (report["frames"], report["runs"], report["rounds"]) == (40, 2, 0)
    assert report["observations"]["dihedral"] == {"other": 240, "Gly": 40}
    assert report["observations"]["angle"] == {"other": 240, "Gly": 40, "beta-branched": 40}
    assert set(report["agreement"]["bond"]) == {"X-X"}
    assert report["bootstrap"] == {"resamples": 3, "used": 3, "blocks": 2, "unit": "runs"}
    assert set(report["weights"].values()) == {1.0}


def test_one_run_is_told_apart_from_runs():
    found = fit.fit_priors(dataset(domain(replicas=1)), CFG)
    assert found.diagnostics["bootstrap"]["unit"] == "pieces of one run"
    assert found.diagnostics["bootstrap"]["blocks"] == 8


def test_resamples_that_lack_a_kind_are_left_out_and_counted():
    """Of two runs only one has dihedrals: a quarter of the resamples is without, and said to be."""
    short = in_memory(
        "short",
        topology_from_species([0, 0, 0]),
        {
            "positions": chain_from_internal(np.full(2, 3.8), np.array([1.9]), np.zeros(0))[None].repeat(
                9, 0
            ),
            "forces": np.zeros((9, 3, 3)),
            "temperature_K": np.full(9, 320.0),
            "replica": np.zeros(9),
            "frame": np.arange(9),
            "validation": np.zeros(9, bool),
        },
    )
    data = dataset(domain(replicas=1), short)
    found = fit.fit_priors(data, CFG.model_copy(update={"bootstrap": 12}))
    assert 2 <= found.diagnostics["bootstrap"]["used"] < 12
    assert found.errors is not None and np.isfinite(found.errors["dihedral"]["cos"]).all()


def test_cis_bonds_have_their_own_row():
    found = fit.fit_priors(
        dataset(domain(n_frames=400, cis=(4,))),
        Priors(shrinkage_frames=10.0, bootstrap=0, bond=BondPrior(classes="type")),
    )
    assert found.params["bond"]["x0"][-1] == pytest.approx(2.95, abs=0.02)
    assert found.params["bond"]["x0"][0] == pytest.approx(3.8, abs=0.02)
    assert found.diagnostics["cis_bond_fraction"] == pytest.approx(1 / 9)
    assert found.diagnostics["observations"]["bond"]["cis"] == 400


EVERY = [
    ("spline", "spline", "power", "type"),
    ("polynomial", "periodic_sum", "wca", "class"),
    ("fourier", "fourier", "wca", "global"),
    ("harmonic", "fourier", "power", "type"),
]


@pytest.mark.parametrize(("angle", "dihedral", "repulsion", "scheme"), EVERY)
def test_every_form_is_fitted_as_terms_read_it(angle, dihedral, repulsion, scheme):
    """Facts and parameters make terms with finite energies at every place, row by row."""
    cfg = Priors(
        bond=BondPrior(classes=scheme),
        angle=AnglePrior(form=angle, classes=scheme),
        dihedral=DihedralPrior(form=dihedral, classes=scheme),
        repulsion=Repulsion(form=repulsion),
        excluded_volume=ExcludedVolume(),
        electrostatics=Electrostatics(),
        bootstrap=2,
    )
    found = fit.fit_priors(dataset(domain()), cfg)
    assert json.loads(json.dumps(found.facts)) == found.facts
    terms = {t.name: t for t in prior_terms(found.facts)}
    pairs = {name: term for name, term in terms.items() if isinstance(term, PairTerm)}
    assert list(terms) == ["bond", "angle", "dihedral", "repulsion", "excluded_volume", "electrostatics"]
    for name, term in diagnostics.bonded_terms(found.facts).items():
        x = getattr(found.marginals, name).centres
        u = diagnostics.term_energies(term, found.params[name], x)
        assert u.shape == (len(classes.labels(name, scheme)), len(x)) and np.all(np.isfinite(u))
    for name, term in pairs.items():
        u = term.scalar(found.params[name], jnp.array([3.0, 30.0]), jnp.array([11, 11]), jnp.array([6, 6]))
        assert np.all(np.isfinite(u)) and u[0] != 0.0 and u[1] == 0.0
    assert pairs["repulsion"].cutoff_A == (forms.WCA_CUTOFF * 4.2 if repulsion == "wca" else 6.5)
    assert pairs["excluded_volume"].max_separation == 5 and pairs["repulsion"].max_separation is None


def test_weights_multiply_energies_and_nothing_else():
    """Every energy is linear in what is multiplied: w U at any x, walls and phases included."""
    cfg = Priors(
        angle=AnglePrior(form="polynomial"),
        dihedral=DihedralPrior(form="periodic_sum"),
        weights=EnergyWeights(bond=0.5, angle=0.25, dihedral=2.0, repulsion=3.0),
        bootstrap=8,
    )
    plain = fit.fit_priors(dataset(domain()), cfg.model_copy(update={"weights": EnergyWeights()}))
    scaled = fit.fit_priors(dataset(domain()), cfg)
    assert scaled.diagnostics["weights"] == {"bond": 0.5, "angle": 0.25, "dihedral": 2.0, "repulsion": 3.0}
    assert scaled.errors is not None and plain.errors is not None
    for name, old in diagnostics.bonded_terms(plain.facts).items():
        new, w = diagnostics.bonded_terms(scaled.facts)[name], getattr(cfg.weights, name)
        x = getattr(plain.marginals, name).centres
        u = [diagnostics.term_energies(t, f.params[name], x) for t, f in ((old, plain), (new, scaled))]
        assert u[1] == pytest.approx(w * u[0], rel=1e-9, abs=1e-9)
        key = "coefficients" if name == "angle" else "k"
        assert np.all(plain.errors[name][key][0] > 0.0)
        assert scaled.errors[name][key] == pytest.approx(w * plain.errors[name][key])
    assert scaled.errors["dihedral"]["gamma"] == pytest.approx(plain.errors["dihedral"]["gamma"])
    assert np.array_equal(scaled.params["repulsion"]["sigma"], plain.params["repulsion"]["sigma"])
    assert scaled.facts["terms"][3]["epsilon"] == 3.0 and scaled.facts["terms"][1]["wall_k"] == 25.0


def test_weights_of_one_change_nothing():
    facts = facts_of(Priors(), 1.4, 2.6)
    assert weighted(facts, {}, EnergyWeights()) == (facts, {})


def test_angle_range_keeps_to_the_walls():
    """Data from 60 to 175° are cut at the walls; data from 90 to 120° end before them."""
    walls, degrees, empty = Walls(), np.degrees, marginals.empty().angle

    def of(values):
        return empty._replace(counts=counts(np.radians(values), "angle"))

    assert degrees(fit.angle_range(of(np.linspace(60, 175, 20000)), walls)) == pytest.approx([75.0, 160.0])
    narrow = fit.angle_range(of(np.linspace(90, 120, 20000)), walls)
    assert degrees(narrow) == pytest.approx([90.03, 119.97], abs=0.02)
    with pytest.raises(InputError, match="nothing to invert"):
        fit.angle_range(of(np.linspace(165, 175, 100)), walls)
    with pytest.raises(InputError, match="no domain has an angle"):
        fit.angle_range(empty, walls)


def test_the_temperature_must_be_there():
    data = dataset(domain(4, 320.0), domain(4, 450.0))
    assert fit.inversion_temperature(data, 450.2) == 450.0
    with pytest.raises(InputError, match=r"temperature_K = 400.*320, 450 K"):
        fit.inversion_temperature(data, 400.0)
    with pytest.raises(InputError, match="no training frames"):
        fit.inversion_temperature(dataset(domain(4, validation=True)), None)


def test_what_gives_no_estimate_is_an_error():
    """All bonds short and none flagged; angles in two peaks at the ends, as a parabola."""
    with pytest.raises(InputError, match="no trans bond"):
        fit.fit_priors(dataset(domain(bond=2.9)), CFG)
    cfg = Priors(angle=AnglePrior(form="harmonic"))
    q: dict[Kind, np.ndarray] = {"bond": np.ones((3, 2)), "angle": np.full((5, 2), np.nan)}
    with pytest.raises(InputError, match=r"priors\.angle\.form = harmonic"):
        fit.require_estimates(q, cfg)


def test_marginals_of_training_frames(alone):
    found, n_frames = fit.training_marginals(dataset(domain(), domain(validation=True)), 320.0, 3)
    assert n_frames == 40
    assert all(np.array_equal(a.counts, b.counts) for a, b in zip(found, alone.marginals, strict=True))
