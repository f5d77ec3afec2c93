"""Speed and memory of `prepare` on one large raw file, as JSON.

    python scripts/bench/prepare_stream.py [--residues 500] [--megabytes 2000] [--folder DIR] [--dense]

A synthetic mdCATH file is made (and kept in --folder, if given). Its page cache is warm. In one process a
plain h5py read of all coordinates and forces alternates with the whole work of a `prepare` task (read,
check, map, write the store) by the pooled and the windowed map; memory is the peak of a process that does
only that task. --dense adds the dense map, beside the time that its floating-point operations take at the
rate of a matrix product in the same process.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from cgrefine.config.data import Data, ForceMap, Store
from cgrefine.data import jobs
from cgrefine.data.force_pooled_map import PooledMap
from cgrefine.data.plan import Source, survey, with_split
from cgrefine.data.synthetic import TEMPERATURES_K, make_domain, write_domain

ROUNDS = 3
REPLICAS = 5


def fixture(folder: Path, residues: int, megabytes: int) -> Path:
    """A file of about so many MB; made once."""
    path = folder / f"mdcath_dataset_{residues}_{megabytes}.h5"
    if not path.exists():
        domain = make_domain(residues, seed=1)
        runs = len(TEMPERATURES_K) * REPLICAS
        frames = round(megabytes * 1e6 / (24 * len(domain.atoms) * runs))
        partial = path.with_suffix(".partial")
        write_domain(partial, domain, replicas=REPLICAS, frames=frames, seed=1)
        partial.rename(path)
    return path


def plain_read(path: Path) -> float:
    """Seconds to read all coordinates and forces with h5py, run by run."""
    start = time.perf_counter()
    with h5py.File(path, "r") as file:
        for domain in file.values():
            for name, replicas in domain.items():
                if name.isdigit():
                    for run in replicas.values():
                        for key in ("coords", "forces"):
                            run[key][()]
    return time.perf_counter() - start


def task(path: Path, folder: Path, kind: str) -> jobs.MapJob:
    """The work of `prepare` on the file; a pooled map is fitted first, and not timed."""
    data = Data.model_validate({"raw": [str(path)], "split": {"by": "replica"}})
    options = ForceMap(kind=kind)
    plan = with_split(survey(Source(path, None), None), data.split)
    pooled = None
    if kind == "pooled":
        saved = folder / "pooled_map.json"
        if not saved.exists():
            sums = jobs.pooled_sums(jobs.SumsJob(plan[0], folder, data, options))
            jobs.pooled_fit([sums], options.ridge).save(saved)
        pooled = PooledMap.load(saved)
    return jobs.MapJob(
        plan[0], folder / "out", folder / "none", data, options, Store(forces="float16"), pooled
    )


def timed(job: jobs.MapJob) -> float:
    start = time.perf_counter()
    jobs.map_domain(job)
    seconds = time.perf_counter() - start
    shutil.rmtree(job.folder)
    return seconds


def matrix_rate(dtype: type) -> float:
    """Floating-point operations a second of a large matrix product."""
    a = np.random.default_rng(0).normal(size=(3000, 3000)).astype(dtype)
    a @ a
    start = time.perf_counter()
    for _ in range(3):
        a @ a
    return 3 * 2 * 3000.0**3 / (time.perf_counter() - start)


def dense_operations(path: Path, entry: dict) -> float:
    """Gram (one triangle), Cholesky of each fold and of all, solutions, and application, of the dense map."""
    n, beads = float(entry["n_groups"]), float(entry["n_beads"])
    fitted = entry["n_frames"] - entry["frames_validation"]
    folds = REPLICAS
    gram = 3.0 * fitted * n * (n + 1)
    solve = folds * ((n - beads) ** 3 / 3 + 2 * beads * (n - beads) ** 2)
    return gram + solve + 6.0 * entry["n_frames"] * beads * n


def child(args: argparse.Namespace) -> dict:
    """Measurements of one kind of map, in a process of its own."""
    path, folder = Path(args.file), Path(args.work)
    job = task(path, folder, args.child)
    if args.memory:
        timed(job)
        return {"peak_rss_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    rounds = 1 if args.child == "optimal" else ROUNDS
    plain_read(path)
    pairs = [(plain_read(path), timed(job)) for _ in range(rounds)]
    found = {
        "read_seconds": statistics.median(read for read, _ in pairs),
        "prepare_seconds": statistics.median(work for _, work in pairs),
        "speed_relative_to_h5py_read": statistics.median(read / work for read, work in pairs),
    }
    if args.child == "optimal":
        entry = jobs.map_domain(job)
        found["floating_point_operations"] = dense_operations(path, entry)
        found["seconds_at_float64_matrix_rate"] = found["floating_point_operations"] / matrix_rate(np.float64)
    return found


def measured(kind: str, path: Path, work: Path) -> dict:
    found: dict = {}
    for extra in ([], ["--memory"]):
        command = [
            sys.executable,
            __file__,
            "--child",
            kind,
            "--file",
            str(path),
            "--work",
            str(work),
            *extra,
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.update(json.loads(done.stdout))
    return {key: float(f"{value:.4g}") for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--residues", type=int, default=500)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="keep the raw file here")
    parser.add_argument("--dense", action="store_true", help="the dense map as well: minutes")
    for name in ("child", "file", "work"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = fixture(folder, args.residues, args.megabytes)
        kinds = ["pooled", "windowed"] + (["optimal"] if args.dense else [])
        found = {kind: measured(kind, path, Path(temporary)) for kind in kinds}
        print(
            json.dumps(
                {
                    "benchmark": "prepare_stream",
                    "residues": args.residues,
                    "raw_MB": round(path.stat().st_size / 1e6),
                    "rounds": ROUNDS,
                    "maps": found,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
