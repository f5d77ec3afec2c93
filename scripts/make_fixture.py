"""Make synthetic domains in the mdCATH schema, for scale tests; their true mean force is known.

    python scripts/make_fixture.py --out DIR [--domains N] [--residues N] [--frames N] [--seed N]

Without --residues the lengths are drawn from a log-normal mix like mdCATH's: median 131, sigma 0.5, 50 to
500. One file a domain, `mdcath_dataset_<name>.h5`; the same arguments give the same bytes of coordinates
and forces. `cgrefine.data.synthetic.make_domain(residues, seed, name)` makes the domain again, with the
numbers printed here, and `mean_forces` its mean force.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from cgrefine.data.synthetic import TEMPERATURES_K, make_domain, write_domain

MEDIAN, SIGMA, SHORTEST, LONGEST = 131.0, 0.5, 50, 500
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def lengths(n: int, seed: int) -> list[int]:
    """n lengths of the mix; values outside it are drawn again."""
    rng = np.random.default_rng(seed)
    found: list[int] = []
    while len(found) < n:
        length = round(float(rng.lognormal(np.log(MEDIAN), SIGMA)))
        if SHORTEST <= length <= LONGEST:
            found.append(length)
    return found


def domain_name(k: int) -> str:
    """A name of mdCATH's form; no PDB code starts with 0."""
    code = "".join(DIGITS[k // 36**power % 36] for power in (2, 1, 0))
    return f"0{code}A00"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--domains", type=int, default=1, help="number of files (default 1)")
    parser.add_argument("--residues", type=int, help="length of every domain (default: the log-normal mix)")
    parser.add_argument("--temperatures", type=int, nargs="+", default=list(TEMPERATURES_K), metavar="K")
    parser.add_argument("--replicas", type=int, default=5)
    parser.add_argument("--frames", type=int, default=88, help="frames of each run (default 88)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in ("domains", "replicas", "frames"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: must be at least 1")
    return args


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    sizes = [args.residues] * args.domains if args.residues else lengths(args.domains, args.seed)
    for k, n_residues in enumerate(sizes):
        start, seed = time.monotonic(), args.seed + k
        try:
            domain = make_domain(n_residues, seed, domain_name(k))
        except ValueError as error:
            raise SystemExit(f"--residues: {error}") from error
        path = args.out / f"mdcath_dataset_{domain.name}.h5"
        write_domain(path, domain, args.temperatures, args.replicas, args.frames, seed)
        print(
            f"{path}: {n_residues} residues, {len(domain.atoms)} atoms, seed {seed}, "
            f"{len(args.temperatures) * args.replicas} runs of {args.frames} frames, "
            f"{path.stat().st_size / 1e6:.1f} MB, {time.monotonic() - start:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
