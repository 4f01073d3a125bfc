"""One pass over a view for what stands out of its surroundings: means of small windows, single pixels, deviations from the pixels around.

A scan leaves a few thousand places of sixteen million to be looked at closely (xrays.py). It works strip by strip on all threads that the job has,
each strip by itself, so that the result does not depend on their number. Beyond the border a view is mirrored about its outermost pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import ndimage

from cryoet_core.kernels.threads import for_blocks, spans

WINDOWS = ((1, 1), (1, 2), (2, 1), (2, 2), (3, 3))  # (rows, columns): about a pixel, or from it on where a length is even
_STRIP_ROWS = 128


@dataclass(frozen=True)
class LocalLevels:
    """Mean and standard deviation around every pixel, shared by the pixels of a block.

    mean, sigma : (n, m) float32 of every block. rows, columns : (h,) and (w,) int32, the block of every row and column.
    """

    mean: np.ndarray
    sigma: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    def at(self, rows, columns):
        """(mean, sigma) at pixels: arrays of any shape, or two slices for a part of the view."""
        if isinstance(rows, slice):
            rows, columns = self.rows[rows][:, None], self.columns[columns]
        else:
            rows, columns = self.rows[rows], self.columns[columns]
        place = rows * np.int32(self.mean.shape[1]) + columns
        return self.mean.take(place), self.sigma.take(place)


def local_levels(image, size_px: int, low: float, high: float) -> LocalLevels:
    """Levels of ``image`` (h, w) float32, its values clipped to low and high.

    Taken in blocks of a third of ``size_px`` and averaged over 3 x 3 blocks.
    """
    block = max(4, size_px // 3)
    edges = [np.linspace(0, n, max(1, round(n / block)) + 1).astype(np.int32) for n in image.shape]
    centre = 0.5 * (low + high)
    sums = np.empty((2, len(edges[0]) - 1, len(edges[1]) - 1))
    for_blocks(
        lambda first, end: _add_blocks(image, edges[0], edges[1], np.float32(low), np.float32(high), centre, sums, first, end),
        spans(0, len(edges[0]) - 1, 4),
    )
    counts = np.diff(edges[0])[:, None] * np.diff(edges[1])[None, :]
    mean, square = (ndimage.uniform_filter(s / counts, 3, mode="nearest") for s in sums)
    sigma = np.sqrt(np.maximum(square - mean * mean, 1e-12))
    index = [np.repeat(np.arange(len(e) - 1, dtype=np.int32), np.diff(e)) for e in edges]
    return LocalLevels((mean + centre).astype(np.float32), sigma.astype(np.float32), *index)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_blocks(image, row_edges, column_edges, low, high, centre, sums, first, end):
    """Sums of the values less ``centre``, and of their squares, in rows first..end-1 of blocks; along columns first, which runs in step."""
    w = image.shape[1]
    total, squares = np.empty(w), np.empty(w)
    for i in range(first, end):
        total[:], squares[:] = 0.0, 0.0
        for y in range(row_edges[i], row_edges[i + 1]):
            line = image[y]
            for x in range(w):
                value = np.float64(min(max(line[x], low), high)) - centre
                total[x] += value
                squares[x] += value * value
        for j in range(column_edges.size - 1):
            a, b = 0.0, 0.0
            for x in range(column_edges[j], column_edges[j + 1]):
                a += total[x]
                b += squares[x]
            sums[0, i, j], sums[1, i, j] = a, b


@njit(cache=True, nogil=True, error_model="numpy")
def _mirror(index, n):
    index = abs(index)
    return 2 * (n - 1) - index if index >= n else index


@njit(cache=True, nogil=True, error_model="numpy")
def _mean_at(image, y, x, kind):
    """Mean of window WINDOWS[kind] at (y, x), which may lie beyond the border; summed along columns first, as the scan does."""
    h, w = image.shape
    y, x = _mirror(y, h), _mirror(x, w)
    below, above, left, right = _mirror(y - 1, h), _mirror(y + 1, h), _mirror(x - 1, w), _mirror(x + 1, w)
    if kind == 0:
        return image[y, x]
    if kind == 1:
        return (image[y, x] + image[y, right]) * np.float32(0.5)
    if kind == 2:
        return (image[y, x] + image[above, x]) * np.float32(0.5)
    if kind == 3:
        return ((image[y, x] + image[above, x]) + (image[y, right] + image[above, right])) * np.float32(0.25)
    total = ((image[below, left] + image[y, left]) + image[above, left]) + ((image[below, x] + image[y, x]) + image[above, x])
    return (total + ((image[below, right] + image[y, right]) + image[above, right])) * np.float32(1 / 9)


@njit(cache=True, nogil=True, error_model="numpy")
def _means_at(image, rows, columns, kind, out):
    for i in range(rows.size):
        out[i] = _mean_at(image, rows[i], columns[i], kind)


def window_means_at(image, window, rows, columns):
    """Means of ``window`` (one of WINDOWS) at pixels, arrays of any shape; places beyond the border are mirrored."""
    rows, columns = np.broadcast_arrays(rows, columns)
    out = np.empty(rows.size, np.float32)
    _means_at(image, rows.ravel().astype(np.int64), columns.ravel().astype(np.int64), WINDOWS.index(window), out)
    return out.reshape(rows.shape)


def scan_windows(image, levels: LocalLevels, thresholds, giant_threshold: float):
    """Local maxima of window means, and of pixels, over thresholds in sigma of ``levels``.

    thresholds : one for each of WINDOWS, infinite for one that is not looked for. giant_threshold : another one for single pixels.

    Returns
    -------
    list of (rows, columns), one for every window, then that of giant_threshold; in the order of pixels.
    """
    asked = np.array([*thresholds, giant_threshold], np.float32)
    strips = spans(0, image.shape[0], _STRIP_ROWS)
    found = {}

    def scan(first, end):
        found[first] = _scan_strip(image, levels.mean, levels.sigma, levels.rows, levels.columns, asked, first, end)

    for_blocks(scan, strips)
    kind, rows, columns = (np.concatenate([found[first][k] for first, _ in strips]) for k in range(3))
    return [(rows[kind == k], columns[kind == k]) for k in range(asked.size)]


@njit(cache=True, nogil=True, error_model="numpy")
def _scan_strip(image, mean, sigma, row_block, column_block, asked, first, end):
    """(kind, rows, columns) of what :func:`scan_windows` finds in rows first..end-1."""
    h, w = image.shape
    half, quarter, ninth = np.float32(0.5), np.float32(0.25), np.float32(1 / 9)
    level = np.empty((6, w), np.float32)
    two, three = np.empty(w + 1, np.float32), np.empty(w + 2, np.float32)  # sums along columns, one more pixel where windows reach beyond
    line = np.empty(w + 1, np.float32)
    flags = np.zeros((w + 7) // 8 * 8, np.uint8)
    words = flags.view(np.uint64)
    kind, rows, columns, n = np.empty(256, np.int64), np.empty(256, np.int64), np.empty(256, np.int64), 0
    block = -1
    for y in range(first, end):
        if row_block[y] != block:
            block = row_block[y]
            for k in range(6):
                for x in range(w):
                    level[k, x] = mean[block, column_block[x]] + asked[k] * sigma[block, column_block[x]]
        below, here, above = image[_mirror(y - 1, h)], image[y], image[_mirror(y + 1, h)]
        for x in range(w):
            line[x] = here[x]
            two[x] = here[x] + above[x]
            three[x + 1] = (below[x] + here[x]) + above[x]
        line[w], two[w] = line[w - 2], two[w - 2]
        three[0], three[w + 1] = three[2], three[w - 1]
        for x in range(w):
            flags[x] = (
                (line[x] > level[0, x])
                | ((line[x] + line[x + 1]) * half > level[1, x])
                | (two[x] * half > level[2, x])
                | ((two[x] + two[x + 1]) * quarter > level[3, x])
                | (((three[x] + three[x + 1]) + three[x + 2]) * ninth > level[4, x])
                | (line[x] > level[5, x])
            )
        for word in range(words.size):
            if words[word] == 0:
                continue
            for x in range(8 * word, min(8 * word + 8, w)):
                for k in range(6):
                    window = 0 if k == 5 else k
                    if flags[x] and _mean_at(image, y, x, window) > level[k, x] and _is_highest(image, y, x, window):
                        if n == kind.size:
                            kind, rows, columns = _longer(kind), _longer(rows), _longer(columns)
                        kind[n], rows[n], columns[n] = k, y, x
                        n += 1
    return kind[:n], rows[:n], columns[:n]


@njit(cache=True, nogil=True, error_model="numpy")
def _longer(values):
    more = np.empty(2 * values.size, values.dtype)
    more[: values.size] = values
    return more


@njit(cache=True, nogil=True, error_model="numpy")
def _is_highest(image, y, x, kind):
    """No neighbour's window is higher."""
    height = _mean_at(image, y, x, kind)
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            if _mean_at(image, y + dy, x + dx, kind) > height:
                return False
    return True


class Deviations:
    """Every pixel minus the mean of the 24 around it (clipped at 4 sigma), in local sigma, summed over views.

    total : (h, w) float32 sum of deviations, each clipped at 4. votes : (h, w) int16, bright views minus dark ones, of those beyond ``vote_sigma``.
    """

    def __init__(self, shape, vote_sigma: float):
        self.total, self.votes = np.zeros(shape, np.float32), np.zeros(shape, np.int16)
        self.vote_sigma, self.n = np.float32(vote_sigma), 0

    def add(self, image, levels: LocalLevels):
        """Take in a view; returns (rows, columns, deviations) of its pixels below -vote_sigma, in the order of pixels."""
        strips = spans(0, image.shape[0], _STRIP_ROWS)
        found = {}

        def scan(first, end):
            found[first] = _deviate_strip(
                image, levels.mean, levels.sigma, levels.rows, levels.columns, self.vote_sigma, self.total, self.votes, first, end
            )

        for_blocks(scan, strips)
        self.n += 1
        return tuple(np.concatenate([found[first][k] for first, _ in strips]) for k in range(3))


@njit(cache=True, nogil=True, error_model="numpy")
def _deviate_strip(image, mean, sigma, row_block, column_block, vote, total, votes, first, end):
    """Rows first..end-1 of :meth:`Deviations.add`. The loops are short and apart so that each runs in step."""
    h, w = image.shape
    lines = np.empty((5, w), np.float32)  # clipped rows y-2..y+2, row y' in line y' % 5
    column, z = np.empty(w + 4, np.float32), np.empty(w, np.float32)
    low, high, spread = np.empty(w, np.float32), np.empty(w, np.float32), np.empty(w, np.float32)
    low_pixels = np.zeros((w + 7) // 8 * 8, np.uint8)
    words = low_pixels.view(np.uint64)
    rows, columns, values, n = np.empty(256, np.int64), np.empty(256, np.int64), np.empty(256, np.float32), 0
    clipped_block, block = -1, -1
    for y in range(first - 2, end + 2):
        source = _mirror(y, h)
        if row_block[source] != clipped_block:
            clipped_block = row_block[source]
            _limits(mean[clipped_block], sigma[clipped_block], column_block, low, high)
        _clip_row(image[source], low, high, lines[y % 5])
        middle = y - 2
        if middle < first:
            continue
        if row_block[middle] != block:
            block = row_block[middle]
            for x in range(w):
                spread[x] = sigma[block, column_block[x]]
        _sum_of_rows(lines[(y - 4) % 5], lines[(y - 3) % 5], lines[(y - 2) % 5], lines[(y - 1) % 5], lines[y % 5], column)
        column[0], column[1], column[w + 2], column[w + 3] = column[4], column[3], column[w], column[w - 1]
        _mean_of_25(column, z)
        _minus_others(image[middle], lines[middle % 5], spread, z)
        _vote(z, vote, total[middle], votes[middle], low_pixels)
        for word in range(words.size):  # eight pixels at once: hardly any is low
            if words[word] == 0:
                continue
            for x in range(8 * word, min(8 * word + 8, w)):
                if low_pixels[x]:
                    if n == rows.size:
                        rows, columns, values = _longer(rows), _longer(columns), _longer(values)
                    rows[n], columns[n], values[n] = middle, x, z[x]
                    n += 1
    return rows[:n], columns[:n], values[:n]


@njit(cache=True, nogil=True, error_model="numpy")
def _limits(mean, sigma, column_block, low, high):
    """4 sigma below and above the mean of every column's block."""
    for x in range(low.size):
        centre, reach = mean[column_block[x]], np.float32(4) * sigma[column_block[x]]
        low[x], high[x] = centre - reach, centre + reach


@njit(cache=True, nogil=True, error_model="numpy")
def _clip_row(line, low, high, out):
    for x in range(out.size):
        out[x] = min(max(line[x], low[x]), high[x])


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_of_rows(a, b, c, d, e, column):
    for x in range(a.size):
        column[x + 2] = (((a[x] + b[x]) + c[x]) + d[x]) + e[x]


@njit(cache=True, nogil=True, error_model="numpy")
def _mean_of_25(column, z):
    for x in range(z.size):
        z[x] = ((((column[x] + column[x + 1]) + column[x + 2]) + column[x + 3]) + column[x + 4]) * np.float32(1 / 25)


@njit(cache=True, nogil=True, error_model="numpy")
def _minus_others(line, clipped, spread, z):
    """From the mean of 25 pixels to the deviation of the middle one from the other 24, in sigma."""
    for x in range(z.size):
        z[x] = (line[x] - (z[x] * np.float32(25) - clipped[x]) * np.float32(1 / 24)) / spread[x]


@njit(cache=True, nogil=True, error_model="numpy")
def _vote(z, vote, total, votes, low_pixels):
    for x in range(z.size):
        total[x] += min(max(z[x], np.float32(-4)), np.float32(4))
        votes[x] += np.int16(z[x] > vote) - np.int16(z[x] < -vote)
    for x in range(z.size):
        low_pixels[x] = z[x] < -vote
