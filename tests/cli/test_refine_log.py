"""The log of a refinement by hand: two windows, one with updates, as entries, table, scalars, sentences."""

import csv
import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cgrefine.boltzmann.learning import Update
from cgrefine.boltzmann.refine import Info, Phase
from cgrefine.cli.refine_log import COLUMNS, entry_of, losses_of, mean_of, scalars_of, sentence, write_csv
from cgrefine.cli.tensorboard import board

NAN = float("nan")


def update(kish: float, signal: float, loss: float) -> Update:
    return Update(
        losses={"a": {"P(r)": loss, "strain": 0.5}, "b": {"P(r)": 3.0 * loss, "strain": 0.5}},
        signal=signal, own=2.0, forces=4.0, agreement=-0.5, force_loss=1.5, growth=0.01, kish=kish,
        entropy=0.9, spread=0.3, step=0.25, n_eff=NAN, told=2,
    )  # fmt: skip


EXPLORED = Info(
    phase=Phase.EXPLORE, cycle=0, epoch=0, window=1, failed=0.25, since=0.75, statuses={"BOND": 2},
    rejected="", sent_back=1, updates=[], error=4.0, rate=1.0, multiplier=1.0, next=Phase.LEARN,
)  # fmt: skip
LEARNED = Info(
    phase=Phase.LEARN, cycle=1, epoch=1, window=2, failed=0.5, since=0.75, statuses={"BOND": 3, "OVERLAP": 1},
    rejected="", sent_back=0, updates=[update(0.9, NAN, 4.0), update(0.7, 0.5, 1.0)], error=2.25, rate=0.5,
    multiplier=0.8, next=Phase.DONE,
)  # fmt: skip
LOG = [entry_of(EXPLORED), entry_of(LEARNED)]


def test_an_entry_is_json_and_comes_back():
    assert json.loads(json.dumps(LOG, allow_nan=False)) == LOG
    assert LOG[1]["updates"][0]["signal"] is None and LOG[1]["updates"][1]["signal"] == 0.5
    assert (LOG[0]["phase"], LOG[0]["next"], LOG[1]["next"]) == ("explore", "learn", "done")


def test_means_are_over_updates_and_losses_are_those_of_the_first():
    assert mean_of(LOG[1], "kish") == pytest.approx(0.8) and mean_of(LOG[1], "signal") == 0.5
    assert math.isnan(mean_of(LOG[0], "kish")) and math.isnan(mean_of(LOG[1], "n_eff"))
    assert losses_of(LOG[1]) == {"P(r)": 8.0, "strain": 0.5} and losses_of(LOG[0]) == {}


def test_the_table_has_a_row_a_window(tmp_path):
    write_csv(tmp_path / "log.csv", LOG)
    with (tmp_path / "log.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert tuple(rows[0]) == COLUMNS and [row["window"] for row in rows] == ["1", "2"]
    first, second = rows
    assert first["phase"] == "explore" and first["kish"] == first["loss"] == "" and first["updates"] == "0"
    numbers = {
        name: float(second[name]) for name in ("failed", "failed_since", "force_mse", "rate", "multiplier")
    }
    assert numbers == {"failed": 0.5, "failed_since": 0.75, "force_mse": 2.25, "rate": 0.5, "multiplier": 0.8}
    means = {name: float(second[name]) for name in ("signal", "own", "agreement", "kish", "step", "loss")}
    assert means == {"signal": 0.5, "own": 2.0, "agreement": -0.5, "kish": 0.8, "step": 0.25, "loss": 8.5}
    assert second["n_eff"] == "" and second["updates"] == "2"
    assert not (tmp_path / "log.csv.tmp").exists()


def test_a_window_in_words():
    assert sentence(EXPLORED) == "window 1, exploring: 25% failed, 75% so far"
    assert sentence(LEARNED) == (
        "window 2, cycle 1, epoch 1: 50% failed, 2 updates, force MSE 2.25 (kcal/mol/Å)², Kish 0.80"
    )
    back = LEARNED._replace(updates=[], rejected="60% of the replicas failed, 20% before")
    assert sentence(back) == (
        "window 2, cycle 1, epoch 1: 50% failed, 0 updates, force MSE 2.25 (kcal/mol/Å)²; the epoch is taken "
        "back: 60% of the replicas failed, 20% before"
    )


def test_tensorboard_reads_what_is_finite(tmp_path):
    for entry in LOG:  # as a run does that was interrupted in between
        with board(tmp_path) as write:
            write(entry["window"], scalars_of(entry))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    failed = read.Scalars("failed/window")
    assert [(e.step, e.value) for e in failed] == [(1, 0.25), (2, 0.5)]
    assert failed[0].wall_time > 1.6e9
    assert [e.value for e in read.Scalars("forces/held_out_rmse")] == [2.0, 1.5]
    assert [(e.step, e.value) for e in read.Scalars("update/kish")] == [(2, pytest.approx(0.8))]
    assert [e.value for e in read.Scalars("loss/P(r)")] == [8.0]
    assert "update/n_eff" not in read.Tags()["scalars"]
