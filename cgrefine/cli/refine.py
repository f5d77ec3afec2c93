"""`cgrefine refine`: the trained model, corrected in simulation until it is stable, and judged.

Below OUT/refine/: forcefield/ (the refined model), pre/ and control/ (that it started from, and that which
the same number of updates by forces alone gave), checkpoints/cycle{i}_epoch{j}/ (after each epoch of
learning), evaluation/ (replicas of each from held-out starts), log.csv, final_metrics.json, tensorboard/,
report.html.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from cgrefine.artifacts import Stage, write_json
from cgrefine.boltzmann.refine import Phase, State
from cgrefine.cli import refine_state
from cgrefine.cli.console import Console
from cgrefine.cli.refine_judge import judge
from cgrefine.cli.refine_log import course, entry_of, scalars_of, sentence, write_csv
from cgrefine.cli.refine_report import write_report
from cgrefine.cli.refine_setup import Setup, setup
from cgrefine.cli.signals import asked_to_end
from cgrefine.cli.simulate import unfinished
from cgrefine.cli.tensorboard import board
from cgrefine.config.schema import Config
from cgrefine.errors import Interrupted
from cgrefine.fm import forcefield
from cgrefine.fm.forcefield import ForceField

STATE = "state.npz"


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/ and train/, refine, and judge.

    Goes on with an interrupted refinement of the same work, window by window. Raises Interrupted after a
    signal, with the state of the last window written.
    """
    made = setup(config, root, console, lambda packs: unfinished(stage, packs, pieces=True))
    state, log = _refined(stage, made, console)
    pre, fit = made.force_field, state.fit
    fields = {"pre": pre, "post": _with(pre, fit.params)}
    if fit.control is not None:
        fields["control"] = _with(pre, fit.control.params)
    for name, folder in (("pre", "pre"), ("post", "."), ("control", "control")):
        if name in fields:
            forcefield.save(stage.path / folder / "forcefield", fields[name])
    found = judge(stage, config, made, fields, console)
    write_csv(stage.path / "log.csv", log)
    simulator = made.refinement.simulator
    told = course(log, len(made.refinement.starts), simulator.steps)
    write_json(stage.path / "final_metrics.json", {**found.content, "course": told})
    write_report(stage, made, log, found)


def _refined(stage: Stage, made: Setup, console: Console) -> tuple[State, list[dict[str, Any]]]:
    """The loop, from where it is."""
    refinement, path = made.refinement, stage.scratch / STATE
    known = refine_state.found(path, refinement, stage.fingerprint)
    state, log = (refinement.init(), []) if known is None else known
    if log:
        console.say(f"going on after {len(log)} windows")
    with asked_to_end() as asked, board(stage.path / "tensorboard") as write:
        while Phase(int(state.counters.phase)) != Phase.DONE:
            state, info = refinement.step(state)
            log.append(entry_of(info))
            console.result(sentence(info))
            if info.phase == Phase.LEARN:
                place = stage.path / "checkpoints" / f"cycle{info.cycle}_epoch{info.epoch}"
                forcefield.save(place / "forcefield", _with(made.force_field, state.fit.params))
            write(info.window, scalars_of(log[-1]))
            refine_state.save(path, state, log, stage.fingerprint)
            signal = asked()
            if signal is not None:
                told = f"refinement was ended by a signal after window {info.window}, its state is written"
                raise Interrupted(signal, told)
    return state, log


def _with(start: ForceField, params: Any) -> ForceField:
    return ForceField(start.facts, jax.tree.map(np.asarray, params))
