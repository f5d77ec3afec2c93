"""What refinement makes of a model that fails: configs/refine_broken.yaml with several seeds; prints JSON.

    python scripts/bench/refine_broken.py --out DIR [--seeds 0 1 2] [--modes refine stable] [--set KEY=VALUE]

The priors are fitted once, a network is trained for each seed, and each mode refines it in a folder of its
own, DIR/MODE-SEED. A folder that is complete is not computed again. Of each: the failed fraction in the
phases of exploring and learning, median survival and stable replicas of start, refined model and control from
held-out starts, growth of the force error on all validation frames with its 95 % interval, observables
(distance and its error over the noise floor, of all frames and of the time in which the same replica of every
model is alive; those held out apart), windows, updates, forces of beads for dynamics, wall time.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "refine_broken.yaml"


def cgrefine(*words: str) -> None:
    """Run a command; its output goes to stderr."""
    program = Path(sys.executable).with_name("cgrefine")
    subprocess.run([program, *words], check=True, stdout=sys.stderr)


def read(path: Path):
    """JSON of a file."""
    return json.loads(path.read_text())


def run(out: Path, mode: str, seed: int, overrides: list[str]) -> Path:
    """The refinement of one seed in one mode: its folder. What stages have in common is copied."""
    common = out / f"trained-{seed}"
    for stage in ("prepare", "priors"):  # no seed of training is in them
        first = next(out.glob(f"trained-*/{stage}"), None)
        if first is not None and not (common / stage).is_dir():
            shutil.copytree(first, common / stage)
    given = [*overrides, f"train.seed={seed}", f"refine.seed={seed}"]
    words = [word for one in given for word in ("--set", one)]
    for stage in ("prepare", "priors", "train"):
        if not (common / stage).is_dir():
            ungated = ["--allow-ungated"] if stage == "train" else []
            cgrefine(stage, str(CONFIG), "--out", str(common), *words, *ungated)
    folder = out / f"{mode}-{seed}"
    for stage in ("prepare", "priors", "train"):
        if not (folder / stage).is_dir():
            shutil.copytree(common / stage, folder / stage)
    cgrefine("refine", str(CONFIG), "--out", str(folder), *words, "--set", f"refine.mode={mode}")
    return folder


def over_floor(observables: dict) -> dict[str, list[float]]:
    """Distance from the reference and its error, over the noise floor."""
    return {
        name: [round(o[key] / o["floor"], 2) for key in ("distance", "stderr")]
        for name, o in observables.items()
        if o["distance"] is not None and o["floor"]
    }


def result(folder: Path) -> dict:
    """What a finished refinement says of itself."""
    refine = folder / "refine"
    final, provenance = read(refine / "final_metrics.json"), read(refine / "provenance.json")
    models = final["models"]
    start = models["pre"]["force_mse"]["value"]
    return {
        "models": {
            name: {
                "stable": f"{m['stable']} of {m['replicas']}",
                "median_survival_ps": m["median_survival_ps"],
                "hazard_per_ns": m["hazard_per_ns"],
                "force_mse": m["force_mse"],
                "force_mse_growth": None
                if m["force_mse_difference"] is None
                else {k: m["force_mse_difference"][k] / start for k in ("value", "low", "high")},
                "distance_over_floor": over_floor(m["observables"]),
                "distance_over_floor_together": over_floor(m["observables_together"]),
            }
            for name, m in models.items()
        },
        "held_out_observables": final["held_out_observables"],
        "log_rank_p": final["comparison"]["against_first"]["post"]["log_rank"]["p"],
        "course": final["course"],
        "wall_seconds": provenance["wall_seconds"],
    }


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", default=["refine", "stable"])
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    found = {
        f"{mode}-{seed}": result(run(given.out, mode, seed, given.overrides))
        for seed in given.seeds
        for mode in given.modes
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
