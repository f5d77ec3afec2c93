"""kill -9 during `prepare` at random moments; the resumed data set must be byte-identical. JSON.

    python scripts/bench/prepare_kill.py [--kills 20] [--domains 24] [--workers 2] [--kind windowed]

Each round starts `cgrefine prepare` in a process group of its own, kills all of the group after a random
time, and runs it again to the end. Compared are dataset.json and every file below domains/. Times are drawn
in turn from the whole of an uninterrupted run, and from the part of it in which proteins are finished.
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

import yaml

from cgrefine.data.synthetic import make_domain, write_domain

PREPARE = [sys.executable, "-c", "from cgrefine.cli.main import main; main()", "prepare"]


def digests(folder: Path) -> dict[str, str]:
    """Hash of every file of the store."""
    files = [folder / "dataset.json", *sorted(p for p in (folder / "domains").rglob("*") if p.is_file())]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def finished_domains(out: Path) -> int:
    folder = out / ".prepare.partial" / "domains"
    return sum(not path.name.startswith(".") for path in folder.iterdir()) if folder.is_dir() else 0


def finishing_span(store: Path, began: float, seconds: float) -> tuple[float, float]:
    """From when the first protein was finished to when the last one was, in seconds after the start."""
    times = [path.stat().st_mtime - began for path in (store / "domains").glob("*/entry.json")]
    return max(min(times), 0.0), min(max(times), seconds)


def killed(command: list[str], after: float) -> bool:
    """Start, and kill the whole process group after so many seconds; False when it had ended by itself."""
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(timeout=after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--domains", type=int, default=24)
    parser.add_argument("--residues", type=int, default=60)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kind", default="windowed", choices=["basic", "optimal", "windowed", "pooled"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "raw").mkdir()
        for k in range(args.domains):
            name = f"0k{k:02d}A00"
            domain = make_domain(args.residues, seed=k, name=name)
            path = root / "raw" / f"{name}.h5"
            write_domain(path, domain, temperatures_K=(320, 450), replicas=2, frames=args.frames, seed=k)
        config = {
            "data": {"raw": [str(root / "raw")], "split": {"by": "replica", "validation_fraction": 0.5}},
            "force_map": {"kind": args.kind},
            "store": {"forces": "float16"},
            "cluster": {"kind": "local" if args.workers else "inline", "workers": args.workers or None},
        }
        file = root / "config.yaml"
        file.write_text(yaml.safe_dump(config))

        def command(out: Path) -> list[str]:
            return [*PREPARE, str(file), "--out", str(out), "--quiet"]

        start = time.perf_counter()
        subprocess.run(command(root / "whole"), check=True, stdout=subprocess.DEVNULL)
        whole_seconds = time.perf_counter() - start
        finishing = finishing_span(root / "whole" / "prepare", time.time() - whole_seconds, whole_seconds)
        expected = digests(root / "whole" / "prepare")
        rounds = []
        while len(rounds) < args.kills:
            out = root / "killed"
            after = rng.uniform(*((0.0, whole_seconds), finishing)[len(rounds) % 2])
            if killed(command(out), after):
                done = finished_domains(out)
                subprocess.run(command(out), check=True, stdout=subprocess.DEVNULL)
                same = digests(out / "prepare") == expected
                rounds.append({"after_s": round(after, 2), "finished": done, "identical": same})
            shutil.rmtree(out, ignore_errors=True)
        print(
            json.dumps(
                {
                    "benchmark": "prepare_kill",
                    "kind": args.kind,
                    "domains": args.domains,
                    "seconds_uninterrupted": round(whole_seconds, 2),
                    "kills": len(rounds),
                    "killed_with_some_but_not_all_finished": sum(
                        0 < r["finished"] < args.domains for r in rounds
                    ),
                    "identical": sum(r["identical"] for r in rounds),
                    "rounds": rounds,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
