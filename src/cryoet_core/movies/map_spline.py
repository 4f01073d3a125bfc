"""Cubic B-splines through a stack of equally sampled maps, each evaluated at one place (a single map: at many) with its derivatives."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import spline_filter


def cubic_weights(t):
    """(..., 4) weights of the nodes -1, 0, 1, 2 at the fraction ``t``, with their first and second derivatives."""
    s = 1 - t
    value = np.stack([s**3, 4 - 3 * t * t * (2 - t), 4 - 3 * s * s * (2 - s), t**3], axis=-1) / 6
    slope = np.stack([-(s**2), t * (3 * t - 4), s * (4 - 3 * s), t**2], axis=-1) / 2
    bend = np.stack([s, 3 * t - 2, 3 * s - 2, t], axis=-1)
    return value, slope, bend


class MapSplines:
    """maps (n, m, m) [y, x], all sampled at ``axis`` (m,), evenly spaced."""

    def __init__(self, maps, axis):
        filtered = [spline_filter(m, order=3, mode="mirror") for m in maps]
        inner = np.array(filtered, dtype=np.float64).reshape(len(filtered), len(axis), len(axis))
        self._nodes = np.pad(inner, ((0, 0), (1, 1), (1, 1)), mode="reflect")  # the neighbours beyond the first and last sample
        self._first, self._step, self._last = axis[0], axis[1] - axis[0], len(axis) - 2

    def _local(self, xy):
        """The 4 x 4 nodes (n, 4, 4) about xy (n, 2) and the weights along y and x."""
        position = (np.asarray(xy, dtype=np.float64) - self._first) / self._step
        left = np.clip(np.floor(position).astype(int), 0, self._last)
        columns, rows = (left[:, axis, None] + np.arange(4) for axis in (0, 1))
        which = np.arange(len(left)) if len(self._nodes) > 1 else np.zeros(len(left), int)
        nodes = self._nodes[which[:, None, None], rows[:, :, None], columns[:, None, :]]
        along = cubic_weights(position - left)
        return nodes, [w[:, 1] for w in along], [w[:, 0] for w in along]

    @staticmethod
    def _sum(nodes, along_y, along_x):
        return np.einsum("nij,ni,nj->n", nodes, along_y, along_x)

    def value(self, xy):
        """(n,) map i at xy[i] (n, 2); one map: at every place of xy."""
        nodes, y, x = self._local(xy)
        return self._sum(nodes, y[0], x[0])

    def value_and_slope(self, xy):
        """(n,) values and (n, 2) derivatives along x and y."""
        nodes, y, x = self._local(xy)
        return self._sum(nodes, y[0], x[0]), np.stack([self._sum(nodes, y[0], x[1]), self._sum(nodes, y[1], x[0])], axis=1) / self._step

    def bend(self, xy):
        """(n, 2) second derivatives along x and y."""
        nodes, y, x = self._local(xy)
        return np.stack([self._sum(nodes, y[0], x[2]), self._sum(nodes, y[2], x[0])], axis=1) / self._step**2
