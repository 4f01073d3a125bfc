"""How much memory a refinement needs, planned before anything is allocated.

The particles' Fourier coefficients (two of complex64, one of float32 per kept coefficient, view and particle) dominate; the
search works in tiles of a fixed share of the budget; maps and sums are a few padded boxes. When the coefficients do not fit
beside the rest they are kept in scratch files that the system pages in as they are read: slower, the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoet_core.backend import asnumpy
from cryoet_core.io.atomic import reserve
from cryoet_core.subtomo.stacks import ParticleVolumes

BASE_MB = 350.0  # interpreter, libraries, compiled kernels
BYTES_PER_COEFFICIENT = 20
SHARE_OF_SEARCH = 8  # tiles of one thread take this fraction of the budget
_PADDED_BOXES = 5  # accumulators and transforms alive at once, each float64 x 4 on the doubled grid


@dataclass(frozen=True)
class MemoryPlan:
    """MB: data, search (all threads), maps, and whether the data are to lie on disk."""

    data_mb: float
    search_mb: float
    maps_mb: float
    budget_mb: float

    @property
    def total_mb(self) -> float:
        return BASE_MB + self.data_mb + self.search_mb + self.maps_mb

    @property
    def on_disk(self) -> bool:
        return self.total_mb > self.budget_mb

    def sentence(self) -> str:
        where = "in scratch files" if self.on_disk else "in memory"
        return (
            f"memory: {self.data_mb:.0f} MB of particle images ({where}), {self.search_mb:.0f} MB for the search, "
            f"{self.maps_mb:.0f} MB for maps; budget {self.budget_mb:.0f} MB"
        )


def search_tile_mb(budget_mb: float) -> float:
    """Memory of the search's tiles in one thread; it depends on the budget alone, so that results do not on threads."""
    return float(np.clip(budget_mb / SHARE_OF_SEARCH, 64, 600))


def plan_memory(sizes, box_px: int, n_coefficients: int, budget_mb: float, n_threads: int) -> MemoryPlan:
    """sizes : (particles, views) of every tilt series. n_coefficients : kept of every image (FrequencyList)."""
    images = sum(p * f for p, f in sizes)
    return MemoryPlan(
        data_mb=images * n_coefficients * BYTES_PER_COEFFICIENT / 2**20,
        search_mb=n_threads * search_tile_mb(budget_mb),
        maps_mb=_PADDED_BOXES * (2 * box_px) ** 2 * (box_px + 1) * 32 / 2**20,
        budget_mb=float(budget_mb),
    )


def stack_sizes(stacks):
    """(particles, views) of every tilt series of a ParticleStacks; of all ParticleVolumes, which have one "view"."""
    if isinstance(stacks, ParticleVolumes):
        return [(stacks.n_particles, 1)]
    return [(np.unique(s.particle).size, np.unique(s.view).size) for s in stacks.series]


class Scratch:
    """Makes zeroed arrays: in memory, or mapped from files in ``folder`` (removed by :meth:`close`)."""

    def __init__(self, folder: Path | None = None):
        self.folder, self._files = folder, []

    def zeros(self, shape, dtype, xp=np):
        """Zeros of ``shape``; files are used for host arrays only."""
        if self.folder is None or xp is not np:
            return xp.zeros(shape, dtype=dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"images{len(self._files)}.bin"
        self._files.append(path)
        with open(path, "w+b") as file:
            # a full disk is noticed here, not by a signal later
            reserve(file, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            return np.memmap(file, dtype=dtype, mode="r+", shape=tuple(shape))

    def close(self) -> None:
        """Remove the files; arrays that are still mapped stay readable."""
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()
        if self.folder is not None and self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def contiguous(index):
    """A slice when the indices (n,) are consecutive (so that arrays are viewed, not copied), else the indices."""
    index = asnumpy(index)
    if index.size and np.array_equal(index, np.arange(index[0], index[0] + index.size)):
        return slice(int(index[0]), int(index[0]) + index.size)
    return index
