"""What Snakemake measured of every job of a finished run: the files under <results>/benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class RunTime:
    """One job. name : its series or round, "" for the whole run. seconds : wall time. peak_mb : resident memory."""

    rule: str
    name: str
    seconds: float
    cpu_seconds: float
    peak_mb: float


def read_run_times(results_dir) -> list[RunTime]:
    """All jobs of the run in ``results_dir``, in the order in which they ended. Empty where nothing was measured.

    Snakemake writes NA for jobs that ended before it looked: those values are NaN.
    """
    folder = Path(results_dir) / "benchmarks"
    found = []
    for path in sorted(folder.rglob("*.tsv"), key=lambda p: (p.stat().st_mtime, p)):
        row = pd.read_csv(path, sep="\t").iloc[-1]
        rule, name = (path.stem, "") if path.parent == folder else (path.relative_to(folder).parts[0], path.stem)
        seconds, cpu, peak = (float(pd.to_numeric(row[key], errors="coerce")) for key in ("s", "cpu_time", "max_rss"))
        found.append(RunTime(rule, name, seconds, cpu, peak))
    return found
