"""Splits by domain, replica and temperature: whole, deterministic, and never empty on either side."""

import random

import pytest

from cgrefine.data.cath import class_of, read_codes
from cgrefine.data.splits import RunKey, held_from
from cgrefine.errors import InputError

RUNS = [RunKey(f"d{d}", t, r, 20) for d in range(6) for t in (320.0, 379.0, 450.0) for r in range(5)]


def held(by, fraction=0.2, seed=0, runs=RUNS, classes=None):
    """The runs that are held out as a whole; the others must be whole in training."""
    first = held_from(runs, by, fraction, seed, classes)
    assert all(n in (0, run.n_frames) for run, n in zip(runs, first, strict=True))
    return {run for run, n in zip(runs, first, strict=True) if n == 0}


def test_by_domain_holds_out_whole_domains():
    chosen = {run.domain for run in held("domain", 0.4)}
    assert 0 < len(chosen) < 6
    assert held("domain", 0.4) == {run for run in RUNS if run.domain in chosen}


def test_the_fraction_of_domains_is_held_out():
    """Binomial(1000, 0.1): four standard deviations are 38 (false alarm 6e-5; the seed is fixed)."""
    runs = [RunKey(f"d{d}", 320.0, 0, 20) for d in range(1000)]
    assert abs(len(held("domain", 0.1, runs=runs)) - 100) < 38


@pytest.mark.parametrize("by", ["domain", "topology"])
def test_more_data_moves_nothing_to_the_other_side(by):
    runs = [RunKey(f"d{d}", 320.0, 0, 20) for d in range(200)]
    classes = {run.domain: f"c{i % 50}" for i, run in enumerate(runs)}
    few, many = held(by, runs=runs[:100], classes=classes), held(by, runs=runs, classes=classes)
    assert few == many & set(runs[:100])


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


def test_rounding_does_not_add_a_replica():
    runs = [RunKey("d", 320.0, r, 20) for r in range(100)]
    assert len(held("replica", 0.07, runs=runs)) == 7  # 0.07 · 100 is 7.000000000000001


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("domain", "only one domain"),
        ("replica", "only one replica of domain d"),
        ("temperature", "only one temperature"),
        ("frame", "run 320 K, replica 0 of domain d has only 1 frame"),
    ],
)
def test_one_of_a_kind_cannot_be_split(by, message):
    with pytest.raises(InputError, match=message):
        held_from([RunKey("d", 320.0, 0, 1)], by, 0.2, 0)


CLASSES = {"d0": "1.10", "d1": "1.10", "d2": "1.10", "d3": "2.40", "d4": "3.40", "d5": "3.40"}


@pytest.mark.parametrize("seed", range(8))
def test_by_topology_never_divides_a_class(seed):
    chosen = {run.domain for run in held("topology", 0.5, seed=seed, classes=CLASSES)}
    assert {d for d in CLASSES if CLASSES[d] in {CLASSES[c] for c in chosen}} == chosen
    assert 0 < len(chosen) < 6


def test_one_class_cannot_be_split():
    with pytest.raises(InputError, match=r"by topology: there is only one topology \(1\.10\)"):
        held("topology", classes=dict.fromkeys(CLASSES, "1.10"))


def test_by_frame_holds_out_the_end_of_each_run():
    runs = [RunKey("d", 320.0, 0, 20), RunKey("d", 320.0, 1, 7)]
    assert held_from(runs, "frame", 0.2, 0) == (16, 5)


CLF = "# comment\n12asA00     3    30   930    10     1     1     1     1     1   330 2.200\n"


@pytest.mark.parametrize("text", [CLF, "12asA00 3.30.930.10\n"])
def test_both_forms_of_list_give_the_code(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_text(text)
    codes = read_codes(path)
    assert codes == {"12asA00": (3, 30, 930, 10)}
    assert class_of("12asA00", codes, "topology") == "3.30.930"
    assert class_of("12asA00", codes, "superfamily") == "3.30.930.10"
    with pytest.raises(InputError, match="domain 1abcA00 is not among the 1 domains of the list"):
        class_of("1abcA00", codes, "topology")


@pytest.mark.parametrize("text", ["12asA00 3.30\n", "12asA00\n", "12asA00 3 x 930 10 1\n"])
def test_a_line_of_another_form_is_named(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_text(CLF + text)
    with pytest.raises(InputError, match=r"list\.txt: line 3: '12asA00"):
        read_codes(path)
