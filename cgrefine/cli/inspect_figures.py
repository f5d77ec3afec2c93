"""Tables, lines and plots that raw files and data sets have in common."""

from collections.abc import Sequence

import numpy as np

from cgrefine.data.force_statistics import ForceSums, size_of
from cgrefine.report.page import Table
from cgrefine.report.plot import Axis, Bars, Histogram, Plot
from cgrefine.residues import ONE_LETTER, RESIDUES

COLUMNS = ("residue", "vectors", "mean |F|", "max |F|", "RMS per component")


def force_table(sums: ForceSums) -> Table:
    """One row a residue type that occurs, and one for all. sums: by species."""
    rows: list[tuple[object, ...]] = [
        (RESIDUES[kind], *size_of(sums, kind)) for kind in range(len(RESIDUES)) if sums.count[kind]
    ]
    return Table(COLUMNS, [*rows, ("all", *size_of(sums))])


def forces_plot(sums: ForceSums) -> Plot:
    """Root mean square force component of each residue type."""
    kinds = np.flatnonzero(sums.count)
    return Plot(
        "Force by residue",
        Axis("residue", names=[RESIDUES[k] for k in kinds]),
        Axis("RMS per component, kcal/mol/Å"),
        [Bars([size_of(sums, int(k)).rms_component for k in kinds])],
    )


def lengths_plot(lengths: Sequence[int]) -> Plot:
    """Histogram of the numbers of residues."""
    counts, edges = np.histogram(lengths, bins=min(40, max(len(set(lengths)), 2)))
    return Plot("Size of the molecules", Axis("residues"), Axis("molecules"), [Histogram(edges, counts)])


def sequence_line(
    species: np.ndarray, breaks: Sequence[int], temperatures_K: Sequence[float], replicas: Sequence[int]
) -> str:
    """One-letter sequence with a slash at each chain break, temperatures and replicas."""
    sequence = "".join(("/" if i in breaks else "") + ONE_LETTER[s] for i, s in enumerate(species))
    at = " ".join(f"{t:g}" for t in sorted(set(temperatures_K)))
    return f"{sequence}; {at} K, replicas {' '.join(str(r) for r in sorted(set(replicas)))}"
