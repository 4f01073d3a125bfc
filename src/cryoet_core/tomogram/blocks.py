"""Tomograms in parts, as they are made and written, so that none needs to be in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Block:
    """Voxels from plane ``z0`` and row ``y0`` on of one or more tomograms of one series: values (planes, rows, nx) float32 each.

    squares : of iterative methods, sums over the rays of the block of the squared residuals before every pass (iterations,), of the first
    tomogram. rays : how many rays these are.
    """

    z0: int
    y0: int
    values: list[np.ndarray]
    squares: np.ndarray | float = 0.0
    rays: float = 0.0


def assembled(blocks, size_px):
    """(k, nz, ny, nx) float32 from all blocks of k tomograms of ``size_px`` (x, y, z)."""
    volumes = None
    for block in blocks:
        if volumes is None:
            volumes = np.empty((len(block.values), *size_px[::-1]), np.float32)
        for volume, part in zip(volumes, block.values, strict=True):
            volume[block.z0 : block.z0 + part.shape[0], block.y0 : block.y0 + part.shape[1]] = part
    return volumes


def with_sum(blocks):
    """Blocks of the even and the odd tomogram -> blocks of full = even + odd, even and odd; their memory is used again for the next."""
    full = None
    for block in blocks:
        even, odd = block.values
        if full is None or full.shape != even.shape:
            full = np.empty(even.shape, np.float32)
        yield Block(block.z0, block.y0, [np.add(even, odd, out=full), even, odd])


@dataclass
class BlockStatistics:
    """What blocks say of the first tomogram: grey values in the central third of its ``n_planes`` (percentiles from every fourth row and column),
    and of iterative methods the residuals."""

    n_planes: int
    count: int = 0
    total: float = 0.0
    total_squares: float = 0.0
    sample: list[np.ndarray] = field(default_factory=list)
    residual_squares: np.ndarray | float = 0.0
    rays: float = 0.0

    def noted(self, blocks):
        """The same blocks, each taken in as it passes."""
        for block in blocks:
            self.add(block)
            yield block

    def add(self, block: Block) -> None:
        """Take in one block."""
        self.residual_squares = self.residual_squares + block.squares
        self.rays += block.rays
        first, end = self.n_planes // 3, self.n_planes - self.n_planes // 3
        for plane in block.values[0][max(0, first - block.z0) : max(0, end - block.z0)]:
            values = plane.astype(np.float64)
            self.count += values.size
            self.total += float(values.sum())
            self.total_squares += float(np.square(values, out=values).sum())
            self.sample.append(plane[::4, ::4].flatten())

    @property
    def residual_rms(self):
        """(iterations,) rms residual before each pass; None when nothing was fitted."""
        return np.sqrt(self.residual_squares / self.rays) if self.rays else None

    def grey_values(self) -> dict:
        """mean, sd, 0.1 and 99.9 percentiles."""
        mean = self.total / self.count
        low, high = np.percentile(np.concatenate(self.sample), [0.1, 99.9])
        return {
            "mean": mean,
            "sd": float(np.sqrt(max(self.total_squares / self.count - mean * mean, 0.0))),
            "percentile_0_1": float(low),
            "percentile_99_9": float(high),
        }
