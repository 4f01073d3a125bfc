"""Numba warp: blocks of rows of the sum; 36 taps per pixel, the periodic border handled apart."""

from __future__ import annotations

import numpy as np
from numba import njit

from cryoet_core.kernels.threads import for_blocks, spans


def warp_accumulate(coefficients, table, out):
    """See :func:`cryoet_core.kernels.warp_accumulate.warp_accumulate`; adds to ``out``."""
    for_blocks(lambda a, b: add_rows(coefficients, table, out, a, b), spans(0, out.shape[0], 64))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def taps(t, w):
    """The six values of the B-spline at fraction ``t`` for the pixels -2 .. 3 from the one before it."""
    scale, s = np.float32(1 / 120), np.float32(1) - t
    t2, s2 = t * t, s * s
    w[0] = scale * s2 * s2 * s
    w[1] = scale * (26 + t * (-50 + t * (20 + t * (20 + t * (-20 + 5 * t)))))
    w[2] = scale * (66 + t2 * (-60 + t2 * (30 - 10 * t)))
    w[3] = scale * (66 + s2 * (-60 + s2 * (30 - 10 * s)))
    w[4] = scale * (26 + s * (-50 + s * (20 + s * (20 + s * (-20 + 5 * s)))))
    w[5] = scale * t2 * t2 * t


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def add_rows(coefficients, table, out, y0, y1):
    """Add rows y0..y1-1 of the warped image."""
    h, w = out.shape
    gy, gx = table.shape[1], table.shape[2]
    step_y = np.float32((gy - 1) / (h - 1)) if h > 1 and gy > 1 else np.float32(0)
    step_x = np.float32((gx - 1) / (w - 1)) if w > 1 and gx > 1 else np.float32(0)
    wx, wy = np.empty(6, np.float32), np.empty(6, np.float32)
    line = np.empty((2, gx), np.float32)
    for y in range(y0, y1):
        v = np.float32(y) * step_y
        j = min(int(v), max(gy - 2, 0))
        below, part = min(j + 1, gy - 1), v - np.float32(j)
        for axis in range(2):
            for i in range(gx):
                line[axis, i] = table[axis, j, i] + part * (table[axis, below, i] - table[axis, j, i])
        for x in range(w):
            u = np.float32(x) * step_x
            i = min(int(u), max(gx - 2, 0))
            right, part_x = min(i + 1, gx - 1), u - np.float32(i)
            dx = line[0, i] + part_x * (line[0, right] - line[0, i])
            dy = line[1, i] + part_x * (line[1, right] - line[1, i])
            floor_x, floor_y = np.floor(dx), np.floor(dy)
            taps(dx - floor_x, wx)
            taps(dy - floor_y, wy)
            first_x, first_y = x + int(floor_x) - 2, y + int(floor_y) - 2
            total = np.float32(0)
            if first_x >= 0 and first_y >= 0 and first_x + 6 <= w and first_y + 6 <= h:
                for b in range(6):
                    row = coefficients[first_y + b]
                    total += wy[b] * (
                        wx[0] * row[first_x] + wx[1] * row[first_x + 1] + wx[2] * row[first_x + 2]
                        + wx[3] * row[first_x + 3] + wx[4] * row[first_x + 4] + wx[5] * row[first_x + 5]
                    )
            else:
                for b in range(6):
                    row = coefficients[(first_y + b) % h]
                    part_sum = np.float32(0)
                    for a in range(6):
                        part_sum += wx[a] * row[(first_x + a) % w]
                    total += wy[b] * part_sum
            out[y, x] += total
