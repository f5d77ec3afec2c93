"""Force maps: correctness against a QP solver, time and memory at 500 residues, bias. One JSON object.

    python scripts/bench/force_map.py [--raw FILE.h5] [--residues 500] [--frames 11600] [--parts qp dense ...]

qp: objective of the closed form against OSQP on the embedded sample (and --raw), largest relative excess.
dense: the whole dense map of a synthetic domain, five folds: Gram matrices, cross-fit, map on all frames;
peak memory of the process; one OSQP solve a bead (a few beads, extrapolated to all).
window: fit and application of the windowed map, beside a copy of the same bytes, in turns.
bias: share of the known mean force that each map keeps, with standard errors. Times are wall time; each
ratio is of work done in turns in one run. Parts run one after another in processes of their own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import osqp
import scipy.sparse as sp
from scipy.linalg import get_blas_funcs

from cgrefine.data import force_map, force_pooled, force_window
from cgrefine.data.mdcath import domain_names, expand, read_domain
from cgrefine.data.source import first_valid_frame, frame_blocks, valid_frames
from cgrefine.data.synthetic import SyntheticDomain, atom_frames, make_domain, mean_forces, sample
from cgrefine.data.topology import bonds_from_geometry, constraint_groups, map_to_beads

RIDGE = 1e-3
FOLDS = 5
BLOCK = 64
MOST_QP_FRAMES = 2000
PARTS = ("qp", "dense", "window", "bias")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", nargs="*", default=[], help="mdCATH files for the QP comparison")
    parser.add_argument("--residues", type=int, default=500)
    parser.add_argument("--frames", type=int, default=11600, help="of the dense map: 5 T x 5 replicas x 464")
    parser.add_argument("--osqp-beads", type=int, default=1)
    parser.add_argument("--window", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--inline", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inline:
        print(json.dumps(globals()[f"part_{given.parts[0]}"](given)))
        return
    report = {"benchmark": "force_map", "residues": given.residues, "cpus": os.cpu_count()}
    for part in given.parts:
        rest = [
            f"--{name.replace('_', '-')}={value}"
            for name, value in vars(given).items()
            if name in ("residues", "frames", "osqp_beads", "window")
        ]
        command = [sys.executable, __file__, "--inline", "--parts", part, *rest, "--raw", *given.raw]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        report[part] = json.loads(found.stdout)
    print(json.dumps(report, indent=1))


def part_qp(given: argparse.Namespace) -> dict[str, Any]:
    files = [*expand(["sample"]), *(Path(path) for path in given.raw)]
    rows = {}
    for path in files:
        domain = read_domain(path, domain_names(path)[0])
        n_frames = sum(run.n_frames for run in domain.runs)
        stride = max(1, n_frames // MOST_QP_FRAMES)
        frame, _ = first_valid_frame(domain, domain.runs, 1e4, 1, BLOCK)
        bonds = bonds_from_geometry(domain.atoms, frame) if domain.bonds is None else domain.bonds
        groups, ca = constraint_groups(domain.atoms, bonds), map_to_beads(domain.atoms, bonds, frame).ca
        blocks = (block for run in domain.runs for block in frame_blocks(domain, run, stride, BLOCK))
        forces = np.concatenate([b.forces[valid_frames(b.coords, b.forces, 1e4)] for b in blocks])
        plan = force_map.summation(groups)
        state = force_map.gram_init(plan.n_groups)
        ones = np.ones(len(forces))
        state = force_map.gram_step(state, force_map.group_forces(forces, plan), ones)
        weights = force_map.optimal_map(state, groups, ca, RIDGE)
        rows[domain.name] = {
            "atoms": len(groups),
            "beads": len(ca),
            "frames": len(forces),
            "largest_relative_difference_of_objective": _qp_difference(forces, groups, ca, weights),
            "mean_square_over_basic": force_map.mean_square(force_map.apply(weights, forces))
            / force_map.mean_square(force_map.apply(force_map.basic_map(groups, ca), forces)),
            "identity_residual": force_map.identity_residual(weights, ca),
            "constraint_residual": force_map.constraint_residual(weights, groups),
        }
    return {"note": "independent QP over atoms, every condition a constraint, at most 2000 frames", **rows}


def _qp_difference(forces: np.ndarray, groups: np.ndarray, ca: np.ndarray, weights: np.ndarray) -> float:
    """Largest |ours / OSQP − 1| over beads, of Σ |W F|² + ridge."""
    n = len(groups)
    flat = forces.astype(np.float64).transpose(1, 0, 2).reshape(n, -1)
    first = np.unique(groups, return_index=True)[1]
    free = np.setdiff1d(groups, groups[ca])
    size = np.mean([np.square(flat[groups == g].sum(axis=0)).sum() for g in free])
    penalty = np.zeros(n)
    penalty[first[free]] = RIDGE * size
    quadratic = flat @ flat.T + np.diag(penalty)
    followers = np.setdiff1d(np.arange(n), first)
    rows = np.zeros((len(ca) + len(followers), n))
    rows[np.arange(len(ca)), ca] = 1.0
    rows[len(ca) + np.arange(len(followers)), followers] = 1.0
    rows[len(ca) + np.arange(len(followers)), first[groups[followers]]] -= 1.0
    worst = 0.0
    for bead in range(len(ca)):
        best, _ = _osqp(2.0 * quadratic / size, rows, bead, 1e-9, 20000)
        ours = weights[bead]
        worst = max(worst, abs(ours @ quadratic @ ours / (best @ quadratic @ best) - 1.0))
    return float(worst)


def _osqp(p: np.ndarray, rows: np.ndarray, bead: int, eps: float, most: int) -> tuple[np.ndarray, float]:
    """Solution and seconds of one bead's QP: rows w = unit vector of the bead."""
    target = np.zeros(len(rows))
    target[bead] = 1.0
    upper, a = sp.csc_matrix(np.triu(p)), sp.csc_matrix(rows)
    start = time.perf_counter()
    solver = osqp.OSQP()
    solver.setup(
        upper, np.zeros(len(p)), a, target, target,
        eps_abs=eps, eps_rel=eps, max_iter=most, polishing=True, verbose=False,
    )  # fmt: skip
    found = solver.solve(raise_error=False).x
    return found, time.perf_counter() - start


def _blocks(domain: SyntheticDomain, frames: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of atomic forces, at Cα positions near the reference."""
    rng = np.random.default_rng(seed)
    for first in range(0, frames, BLOCK):
        n = min(BLOCK, frames - first)
        beads = domain.reference + rng.normal(0, 0.1, (n, domain.n_beads, 3))
        yield atom_frames(domain, beads.astype(np.float32), 320.0, rng)[1]


def part_dense(given: argparse.Namespace) -> dict[str, Any]:
    domain = make_domain(given.residues, seed=1)
    groups, ca = domain.group, domain.heavy[domain.ca]
    plan = force_map.summation(groups)
    n = plan.n_groups
    states = [force_map.gram_init(n) for _ in range(FOLDS)]
    spent = {"group_sums": 0.0, "gram": 0.0}
    bare, peak = [], []
    (syrk, gemm) = get_blas_funcs(("syrk", "gemm"), dtype=np.float64)
    square = np.asfortranarray(np.random.default_rng(0).normal(size=(1500, 1500)))
    scratch = np.zeros((n, n), order="F")
    for count, forces in enumerate(_blocks(domain, given.frames, 2)):
        start = time.perf_counter()
        by_group = force_map.group_forces(forces, plan)
        middle = time.perf_counter()
        fold = count % FOLDS
        states[fold] = force_map.gram_step(states[fold], by_group, np.full(len(forces), 1 / 320))
        spent["group_sums"] += middle - start
        spent["gram"] += time.perf_counter() - middle
        if count % 16 == 0:
            rows = np.ascontiguousarray(by_group.transpose(0, 2, 1)).reshape(-1, n).T
            _, seconds = timed(lambda rows=rows: syrk(1.0, rows, beta=1.0, c=scratch, lower=1, overwrite_c=1))
            bare.append(n * (n + 1) * rows.shape[1] / seconds)
            _, seconds = timed(lambda: gemm(1.0, square, square))
            peak.append(2 * 1500**3 / seconds)
    del scratch
    maps, spent["cross_fit"] = timed(lambda: force_map.cross_fit(states, groups, ca, RIDGE))
    peak_GB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    once = timed(lambda: force_map.optimal_map(force_map.gram_total(states), groups, ca, RIDGE))[1]
    flops = n * (n + 1) * 3.0 * given.frames
    total = sum(spent.values())
    solves = _osqp_beads(states, groups, ca, maps.all, given.osqp_beads)
    return {
        "atoms": len(groups),
        "groups": n,
        "free_groups": n - len(ca),
        "frames": given.frames,
        "seconds": spent,
        "whole_map_with_cross_fit_seconds": total,
        "one_solution_seconds": once,
        "whole_map_without_cross_fit_seconds": total - spent["cross_fit"] + once,
        "peak_memory_GB": peak_GB,
        "gram_flops": flops,
        "gram_GFLOPS": flops / spent["gram"] / 1e9,
        "bare_dsyrk_GFLOPS_median": statistics.median(bare) / 1e9,
        "bare_dgemm_GFLOPS_median": statistics.median(peak) / 1e9,
        "gram_seconds_at_dgemm_rate": flops / statistics.median(peak),
        "osqp": {
            **solves,
            "extrapolated_seconds_all_beads": solves["seconds_a_bead"] * len(ca),
            "times_slower_than_whole_map_with_cross_fit": solves["seconds_a_bead"] * len(ca) / total,
            "times_slower_than_one_solution": solves["seconds_a_bead"] * len(ca) / once,
        },
        "identity_residual": force_map.identity_residual(maps.all, ca),
        "constraint_residual": force_map.constraint_residual(maps.all, groups),
    }


def _osqp_beads(
    states: list[force_map.GramState], groups: np.ndarray, ca: np.ndarray, weights: np.ndarray, beads: int
) -> dict[str, Any]:
    """OSQP on merged groups with aggforce's settings (eps 1e-7, 1000 iterations, polish)."""
    every = np.arange(len(states[0].gram))
    quadratic = force_map.sub_gram(force_map.gram_total(states), every, every)
    free = np.setdiff1d(every, groups[ca])
    size = np.diag(quadratic)[free].mean()
    quadratic[free, free] += RIDGE * size
    rows = np.zeros((len(ca), len(every)))
    rows[np.arange(len(ca)), groups[ca]] = 1.0
    by_group = weights[:, np.unique(groups, return_index=True)[1]]
    seconds, excess = [], []
    for bead in np.linspace(0, len(ca) - 1, beads + 2).astype(int)[1:-1]:
        best, took = _osqp(2.0 * quadratic / size, rows, int(bead), 1e-7, 1000)
        ours = by_group[bead]
        seconds.append(took)
        excess.append(best @ quadratic @ best / (ours @ quadratic @ ours) - 1.0)
    return {
        "note": "on merged groups, Gram matrix given: only the solve is timed",
        "beads": beads,
        "seconds_a_bead": statistics.mean(seconds),
        "objective_over_ours_minus_1": excess,
    }


def part_window(given: argparse.Namespace) -> dict[str, Any]:
    domain = make_domain(given.residues, seed=1)
    groups, ca = domain.group, domain.heavy[domain.ca]
    found: dict[str, Any] = {"window": given.window, "bytes_of_forces_a_frame": 12 * len(groups)}
    for frames in (BLOCK, 4 * BLOCK):
        forces = np.concatenate(list(_blocks(domain, frames, 3)))
        band = force_window.make_band(domain.atoms.residue, groups, ca, given.window)
        state = force_window.band_step(band, force_window.band_init(band), forces, 1 / 320)
        local, fit = timed(lambda band=band, state=state: force_window.window_fit(band, state, RIDGE))
        force_window.apply_local(local, forces)
        work: dict[str, Callable[[], object]] = {
            "copy": forces.copy,
            "fit_step": lambda b=band, s=state, f=forces: force_window.band_step(b, s, f, 1 / 320),
            "apply": lambda m=local, f=forces: force_window.apply_local(m, f),
        }
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(20):
            for name, call in work.items():
                seconds[name].append(timed(call)[1])
        row: dict[str, Any] = {"solve_seconds": fit}
        for name, took in seconds.items():
            for kind, value in (("median", statistics.median(took)), ("best", min(took))):
                row[f"{name}_us_a_frame_{kind}"] = 1e6 * value / frames
                row[f"{name}_GB_a_second_{kind}"] = forces.nbytes / value / 1e9
        found[f"blocks_of_{frames}_frames"] = row
    return found


def part_bias(given: argparse.Namespace) -> dict[str, Any]:
    """Slope of mapped forces on the true mean force: 1 when unbiased, 1 − p/N in-sample."""
    rng = np.random.default_rng(5)
    domain = make_domain(40, seed=11, name="0synB00")
    replicas, frames = 5, 80
    forces, exact, fold = _known(domain, replicas, frames, rng)
    groups, ca, k = domain.group, domain.heavy[domain.ca], given.window
    plan = force_map.summation(groups)
    parts = [fold == r for r in range(replicas)]
    states = [
        force_map.gram_step(
            force_map.gram_init(plan.n_groups),
            force_map.group_forces(forces[part], plan),
            np.ones(int(part.sum())),
        )
        for part in parts
    ]
    dense = force_map.cross_fit(states, groups, ca, RIDGE)
    band = force_window.make_band(domain.atoms.residue, groups, ca, k)
    sums = [force_window.band_step(band, force_window.band_init(band), forces[part], 1.0) for part in parts]
    local = force_window.cross_fit(band, sums, RIDGE)
    learnt = reduce(
        force_pooled.pooled_add,
        (_pooled_state(make_domain(80, seed=20 + i), k, rng) for i in range(12)),
        force_pooled.pooled_init(),
    ).fit(RIDGE)
    mapping = map_to_beads(domain.atoms, domain.bonds, domain_frame(domain))
    pooled = force_pooled.instantiate(learnt, domain.atoms, mapping, groups)
    crossed, crossed_local = np.empty_like(exact), np.empty_like(exact)
    for r, part in enumerate(parts):
        crossed[part] = force_map.apply(dense.folds[r], forces[part])
        crossed_local[part] = force_window.apply_local(local.folds[r], forces[part])
    n = 3 * len(forces)
    mapped = {
        "basic": force_map.apply(force_map.basic_map(groups, ca), forces),
        "dense in-sample": force_map.apply(dense.all, forces),
        "dense cross-fitted": crossed,
        "windowed in-sample": force_window.apply_local(local.all, forces),
        "windowed cross-fitted": crossed_local,
        "pooled from 12 other domains": force_window.apply_local(pooled, forces),
    }
    window = float(np.mean([len(band.window(b)) for b in range(len(ca))]))
    return {
        "beads": len(ca),
        "frames": len(forces),
        "expected_share_removed_dense": (plan.n_groups - len(ca)) / n,
        "expected_share_removed_windowed": window / n,
        "pooled_keys_known": force_pooled.coverage(learnt, domain.atoms, mapping, groups),
        "maps": {name: _slope(values, exact) for name, values in mapped.items()},
    }


def _known(
    domain: SyntheticDomain, replicas: int, frames: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atomic forces, true mean forces, and replica of each frame, 320 K."""
    beads = sample(domain, 320.0, replicas, frames, rng)
    blocks = [atom_frames(domain, part, 320.0, rng) for part in beads]
    ca = domain.heavy[domain.ca]
    exact = np.concatenate([mean_forces(domain, coords[:, ca]) for coords, _ in blocks])
    return np.concatenate([f for _, f in blocks]), exact, np.repeat(np.arange(replicas), frames)


def domain_frame(domain: SyntheticDomain) -> np.ndarray:
    """One frame of coordinates, Å."""
    rng = np.random.default_rng(0)
    return atom_frames(domain, domain.reference[None].astype(np.float32), 320.0, rng)[0][0]


def _pooled_state(domain: SyntheticDomain, k: int, rng: np.random.Generator) -> force_pooled.PooledState:
    forces, _, _ = _known(domain, 2, 60, rng)
    mapping = map_to_beads(domain.atoms, domain.bonds, domain_frame(domain))
    residue = force_window.residue_numbers(domain.atoms, mapping)
    band = force_window.make_band(residue, domain.group, mapping.ca, k)
    state = force_window.band_step(band, force_window.band_init(band), forces, 1 / 320)
    return force_pooled.pooled_sums(band, state, domain.atoms, mapping)


def _slope(mapped: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    size = np.square(exact).sum(axis=(1, 2)).mean()
    extra = ((mapped - exact) * exact).sum(axis=(1, 2)) / size
    error = float(extra.std(ddof=1) / np.sqrt(len(extra)))
    return {
        "share_of_mean_force_kept": 1.0 + float(extra.mean()),
        "standard_error": error,
        "standard_errors_from_1": float(extra.mean()) / error,
        "mean_square_error": force_map.mean_square(mapped - exact),
        "mean_square_of_mean_force": force_map.mean_square(exact),
    }


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Result and seconds."""
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


if __name__ == "__main__":
    main()
