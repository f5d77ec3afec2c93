"""Wall time of `cgrefine --help`, as JSON: median over runs, and the ratio to a bare Python start.

Runs of the two commands alternate, so that both see the same machine.
"""

import json
import statistics
import subprocess
import sys
import time

RUNS = 15
HELP = [sys.executable, "-c", "from cgrefine.cli.main import main; main()", "--help"]
BARE = [sys.executable, "-c", "pass"]


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    seconds(HELP)
    pairs = [(seconds(HELP), seconds(BARE)) for _ in range(RUNS)]
    print(
        json.dumps(
            {
                "benchmark": "help_start",
                "runs": RUNS,
                "help_seconds_median": round(statistics.median(h for h, _ in pairs), 3),
                "help_seconds_max": round(max(h for h, _ in pairs), 3),
                "ratio_to_bare_python_median": round(statistics.median(h / b for h, b in pairs), 2),
            }
        )
    )


if __name__ == "__main__":
    main()
