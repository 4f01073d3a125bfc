"""Where a run's results lie, and how to read them: the report's only knowledge of file names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cryoet_core.io.mrc import read_mrc
from cryoet_core.io.mrc_volume import MrcVolume
from cryoet_core.io.star import read_star
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import Particles, TiltSeries, read_particles, read_tilt_series


@dataclass(frozen=True)
class Results:
    """Outputs of a run in ``folder`` for tilt series ``series`` and averaging rounds ``rounds``."""

    folder: str
    series: tuple[str, ...]
    rounds: tuple[str, ...]
    simulated: bool

    def path(self, *parts: str) -> Path:
        return Path(self.folder).joinpath(*parts)

    def table(self, step: str, ts: str) -> TiltSeries:
        return read_tilt_series(self.path(step, ts, f"{ts}.star"))

    def summary(self, step: str, name: str) -> dict:
        """summary.json of a step, for a series or a round."""
        return read_summary(self.path(step, name, "summary.json"))

    def run_summary(self, step: str) -> dict:
        """summary.json of a step that works on all series at once."""
        return read_summary(self.path(step, "summary.json"))

    def stack(self, step: str, ts: str, suffix: str = "") -> np.ndarray:
        return read_mrc(self.path(step, ts, f"{ts}{suffix}.mrc"))[0]

    def volume(self, *parts: str) -> tuple[np.ndarray, float]:
        return read_mrc(self.path(*parts))

    def blocks(self, *parts: str) -> MrcVolume:
        """A tomogram of which only what is drawn is read."""
        return MrcVolume(self.path(*parts))

    def picks(self, ts: str) -> Particles:
        return read_particles(self.path("match_template", ts, "particles.star"))

    def refined(self, name: str) -> Particles:
        return read_particles(self.path("refine", name, "particles.star"))

    def star(self, *parts: str) -> dict:
        return read_star(self.path(*parts))

    def truth(self, ts: str) -> TiltSeries:
        return read_tilt_series(self.path("simulate", ts, "truth", f"{ts}.star"))

    def truth_json(self, ts: str) -> dict:
        return read_summary(self.path("simulate", ts, "truth", "truth.json"))

    def true_particles(self, ts: str) -> Particles:
        return read_particles(self.path("simulate", ts, "truth", "particles.star"))

    @cached_property
    def true_density(self) -> tuple[np.ndarray, float]:
        return read_mrc(self.path("simulate", "density.mrc"))

    def seconds(self) -> dict[str, float]:
        """Wall time of every step, summed over its jobs, from the benchmark files."""
        total: dict[str, float] = {}
        for path in sorted(self.path("benchmarks").glob("**/*.tsv")):
            step = path.relative_to(self.path("benchmarks")).parts[0].removesuffix(".tsv")
            total[step] = total.get(step, 0.0) + sum(_seconds(line) for line in path.read_text().splitlines()[1:])
        return total


def _seconds(line: str) -> float:
    try:
        return float(line.split("\t")[0])
    except ValueError:  # a job too short to be measured, or a line cut by a kill
        return 0.0
