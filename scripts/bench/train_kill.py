"""kill -9 during `train` at random moments of each optimisation; the resumed run must be the same. JSON.

    python scripts/bench/train_kill.py [--kills 10] [--folder FOLDER]

Data and priors are made of the embedded sample (kept in --folder, if given). A checkpoint is written after
every update. Each round starts `cgrefine train` in a process group of its own, kills all of it within half a
second after the checkpoint of an update that is drawn from one optimisation, and runs it again to the end.
Compared with an uninterrupted run, bit for bit: parameters, their average, state of the optimiser, random
streams (by the hash of the last checkpoint, and its states of the lanes), the log without its times, and the
force field.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

CGREFINE = [sys.executable, "-c", "from cgrefine.cli.main import main; main()"]
CONFIG = {
    "data": {"raw": ["sample"], "split": {"by": "replica", "validation_fraction": 0.5}},
    "loader": {"stride": 4},
    "priors": {"gate": {"steps": 1000}},
    "model": {"name": "painn", "cutoff_A": 8.0, "hidden": 8, "layers": 1, "n_bessel": 4},
    "train": {
        "epochs": 2,
        "ema_decay": 0.99,
        "checkpoint_every_updates": 1,
        "keep_checkpoints": 10_000,
        "then": [
            {"epochs": 2, "optimizer": "yogi", "schedule": "plateau", "plateau_epochs": 1},
            {"epochs": 2, "optimizer": "sgd", "learning_rate": 1e-5, "schedule": "constant"},
        ],
    },
}
TIMES = ("seconds", "waiting")


def main() -> None:
    """Make the data, run it once undisturbed, then kill and resume."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="in each optimisation")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.folder or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        config = root / "config.yaml"
        config.write_text(yaml.safe_dump(CONFIG))
        whole, killed_run = root / "whole", root / "killed"
        for stage in ("prepare", "priors"):
            run([*CGREFINE, stage, str(config), "--out", str(whole), "--quiet"])
        run(train(config, whole))
        expected = facts(whole)
        spans = stage_updates(whole / "train" / "checkpoints")
        rng, rounds = random.Random(args.seed), []
        for stage, span in enumerate(spans):
            done = 0
            while done < args.kills:
                shutil.rmtree(killed_run, ignore_errors=True)
                killed_run.mkdir()
                for name in ("prepare", "priors"):
                    shutil.copytree(whole / name, killed_run / name)
                checkpoints = killed_run / ".train.partial" / "checkpoints"
                at, after = rng.choice(span), rng.uniform(0.0, 0.5)
                if not killed(train(config, killed_run), checkpoints, at, after):
                    continue
                updates = newest(checkpoints)
                run(train(config, killed_run))
                same = facts(killed_run) == expected
                rounds.append({"optimisation": stage + 1, "updates": updates, "same": same})
                print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
                done += 1
        shutil.rmtree(killed_run, ignore_errors=True)
        result = {
            "benchmark": "train_kill",
            "updates": newest(whole / "train" / "checkpoints"),
            "kills": len(rounds),
            "same": sum(r["same"] for r in rounds),
            "rounds": rounds,
        }
    print(json.dumps(result, indent=1))


def train(config: Path, out: Path) -> list[str]:
    """The command."""
    return [*CGREFINE, "train", str(config), "--out", str(out), "--quiet", "--allow-ungated", "--force"]


def run(command: list[str]) -> None:
    """To its end; an error is an error."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def killed(command: list[str], checkpoints: Path, updates: int, after: float) -> bool:
    """Start, and kill the whole process group `after` seconds after the checkpoint of so many updates; False
    when it had ended by itself."""
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and newest(checkpoints) < updates:
        time.sleep(0.01)
    try:
        process.wait(timeout=after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def progress(checkpoints: Path, updates: int) -> dict[str, Any]:
    """Facts of a checkpoint."""
    return json.loads((checkpoints / str(updates) / "facts" / "metadata").read_text())


def newest(checkpoints: Path) -> int:
    """Updates of the last checkpoint, 0 without one."""
    return max((int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()), default=0)


def stage_updates(checkpoints: Path) -> list[list[int]]:
    """The updates whose checkpoints each optimisation wrote."""
    stages: dict[int, list[int]] = {}
    for path in checkpoints.iterdir():
        if path.name.isdigit():
            at = progress(checkpoints, int(path.name))["progress"]
            stage = at["stage"] if at["updates"] else at["stage"] - (at["stage_epochs"] == 0)
            stages.setdefault(stage, []).append(int(path.name))
    return [sorted(updates) for _, updates in sorted(stages.items())]


def facts(out: Path) -> dict[str, Any]:
    """What must be the same."""
    folder = out / "train"
    last = progress(folder / "checkpoints", newest(folder / "checkpoints"))
    for row in last["progress"]["log"]:
        for name in TIMES:
            del row[name]
    # NaN is not equal to itself
    told = json.dumps({"progress": last["progress"], "sha256": last["sha256"]}, sort_keys=True)
    params = hashlib.sha256((folder / "forcefield" / "params.npz").read_bytes()).hexdigest()
    return {"last": told, "force_field": params}


if __name__ == "__main__":
    main()
