"""Tables, lines and figures that raw files and data sets have in common."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cgrefine.data.force_statistics import ForceSums, size_of
from cgrefine.report.page import Table, figure
from cgrefine.residues import ONE_LETTER, RESIDUES

COLUMNS = ("residue", "vectors", "mean |F|", "max |F|", "RMS per component")


def force_table(sums: ForceSums) -> Table:
    """One row a residue type that occurs, and one for all. sums: by species."""
    rows: list[tuple[object, ...]] = [
        (RESIDUES[kind], *size_of(sums, kind)) for kind in range(len(RESIDUES)) if sums.count[kind]
    ]
    return Table(COLUMNS, [*rows, ("all", *size_of(sums))])


def forces_figure(sums: ForceSums) -> str:
    """Root mean square force component of each residue type, as a data URI."""
    kinds = np.flatnonzero(sums.count)
    fig = Figure(figsize=(7, 2.8), layout="constrained")
    axes = fig.subplots()
    axes.bar([RESIDUES[k] for k in kinds], [size_of(sums, int(k)).rms_component for k in kinds], alpha=0.7)
    axes.set_ylabel("RMS per component, kcal/mol/Å")
    axes.tick_params(axis="x", rotation=60)
    return figure(fig)


def lengths_figure(lengths: Sequence[int]) -> str:
    """Histogram of the numbers of residues, as a data URI."""
    fig = Figure(figsize=(5, 2.5), layout="constrained")
    axes = fig.subplots()
    axes.hist(lengths, bins=min(40, max(len(set(lengths)), 2)), alpha=0.7)
    axes.set(xlabel="residues", ylabel="molecules")
    return figure(fig)


def sequence_line(
    species: np.ndarray, breaks: Sequence[int], temperatures_K: Sequence[float], replicas: Sequence[int]
) -> str:
    """One-letter sequence with a slash at each chain break, temperatures and replicas."""
    sequence = "".join(("/" if i in breaks else "") + ONE_LETTER[s] for i, s in enumerate(species))
    at = " ".join(f"{t:g}" for t in sorted(set(temperatures_K)))
    return f"{sequence}; {at} K, replicas {' '.join(str(r) for r in sorted(set(replicas)))}"
