"""Splits by domain, replica and temperature: whole, deterministic, and never empty on either side."""

import random

import pytest

from cgrefine.data.splits import RunKey, validation_runs
from cgrefine.errors import InputError

RUNS = [RunKey(f"d{d}", t, r) for d in range(6) for t in (320.0, 379.0, 450.0) for r in range(5)]


def held(by, fraction=0.2, seed=0, runs=RUNS):
    return {run for run, flag in zip(runs, validation_runs(runs, by, fraction, seed), strict=True) if flag}


def test_by_domain_holds_out_whole_domains():
    chosen = {run.domain for run in held("domain")}
    assert len(chosen) == 2  # ⌈0.2 · 6⌉
    assert held("domain") == {run for run in RUNS if run.domain in chosen}


def test_by_replica_holds_out_the_last_of_each_domain():
    assert held("replica") == {run for run in RUNS if run.replica == 4}
    assert held("replica", 0.21) == {run for run in RUNS if run.replica >= 3}


def test_by_temperature_holds_out_the_highest():
    assert held("temperature", 0.3) == {run for run in RUNS if run.temperature_K == 450.0}


@pytest.mark.parametrize("by", ["domain", "replica", "temperature"])
def test_order_of_the_runs_does_not_matter(by):
    mixed = random.Random(3).sample(RUNS, len(RUNS))
    assert held(by) == held(by, runs=mixed)


def test_seed_chooses_other_domains():
    assert len({frozenset(run.domain for run in held("domain", seed=s)) for s in range(10)}) > 1


@pytest.mark.parametrize("by", ["domain", "replica", "temperature"])
@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_neither_side_is_empty(by, fraction):
    assert 0 < len(held(by, fraction)) < len(RUNS)


def test_rounding_does_not_add_a_domain():
    runs = [RunKey(f"d{d}", 320.0, 0) for d in range(100)]
    assert len(held("domain", 0.07, runs=runs)) == 7  # 0.07 · 100 is 7.000000000000001


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("domain", "only one domain"),
        ("replica", "only one replica of domain d"),
        ("temperature", "only one temperature"),
    ],
)
def test_one_of_a_kind_cannot_be_split(by, message):
    with pytest.raises(InputError, match=message):
        validation_runs([RunKey("d", 320.0, 0)], by, 0.2, 0)
