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


def spline_sums(nodes, first, fraction, orders):
    """Splines of nodes (n, k, k) [y, x], or of one (1, k, k) at n places: one (n,) array per (order x, order y) of the derivative, per sample.

    first : (n, 2) x, y of the first of the four nodes about each place. fraction : (n, 2) distance beyond the second, 0 to 1.
    """
    which = np.arange(len(first)) if len(nodes) > 1 else np.zeros(len(first), int)
    columns, rows = (first[:, axis, None] + np.arange(4) for axis in (0, 1))
    values = nodes[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    along = cubic_weights(fraction)
    return [np.einsum("nij,ni,nj->n", values, along[order_y][:, 1], along[order_x][:, 0]) for order_x, order_y in orders]


class MapSplines:
    """maps (n, m, m) [y, x], all sampled at ``axis`` (m,), evenly spaced."""

    def __init__(self, maps, axis):
        filtered = [spline_filter(m, order=3, mode="mirror") for m in maps]
        inner = np.array(filtered, dtype=np.float64).reshape(len(filtered), len(axis), len(axis))
        self._nodes = np.pad(inner, ((0, 0), (1, 1), (1, 1)), mode="reflect")  # the neighbours beyond the first and last sample
        self._first, self._step, self._last = axis[0], axis[1] - axis[0], len(axis) - 2

    def _sums(self, xy, orders):
        position = (np.asarray(xy, dtype=np.float64) - self._first) / self._step
        left = np.clip(np.floor(position).astype(int), 0, self._last)
        return spline_sums(self._nodes, left, position - left, orders)

    def value(self, xy):
        """(n,) map i at xy[i] (n, 2); one map: at every place of xy."""
        return self._sums(xy, ((0, 0),))[0]

    def value_and_slope(self, xy):
        """(n,) values and (n, 2) derivatives along x and y."""
        value, *slope = self._sums(xy, ((0, 0), (1, 0), (0, 1)))
        return value, np.stack(slope, axis=1) / self._step

    def bend(self, xy):
        """(n, 2) second derivatives along x and y."""
        return np.stack(self._sums(xy, ((2, 0), (0, 2))), axis=1) / self._step**2
