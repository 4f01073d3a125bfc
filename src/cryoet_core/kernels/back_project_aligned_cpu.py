"""Numba: blocks of 64 y share one interpolation weight, so the inner loop is contiguous SIMD arithmetic."""

from __future__ import annotations

import numpy as np
from numba import njit

from cryoet_core.kernels.back_project_cpu import clip_range
from cryoet_core.kernels.threads import for_blocks, spans

BLOCK = 64  # y slices per pass
PAD = 2  # zero rows on either side: interpolation and rounding of the clipped range


def back_project_aligned(rows, coefficients, weights, y_offset, hats, out, first_y):
    """See :func:`cryoet_core.kernels.back_project_aligned.back_project_aligned`; adds to ``out``."""
    factors = weights.astype(np.float32)
    for_blocks(
        lambda start, end: gather_block(rows, coefficients, factors, hats, start + first_y + y_offset, out, start, end),
        spans(0, out.shape[1], BLOCK),
    )


@njit(cache=True, nogil=True)
def padded_block(rows, first, count):
    """Image rows first..first+count-1 (zero outside the images) as (n, w + 2 PAD, BLOCK)."""
    n, w, h = rows.shape
    block = np.zeros((n, w + 2 * PAD, BLOCK), np.float32)
    low, high = max(0, -first), min(count, h - first)
    for i in range(n):
        if rows.strides[1] >= rows.strides[2]:
            for u in range(w):
                for y in range(low, high):
                    block[i, u + PAD, y] = rows[i, u, y + first]
        else:
            for y in range(low, high):
                for u in range(w):
                    block[i, u + PAD, y] = rows[i, u, y + first]
    return block


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def gather_block(rows, coefficients, weights, hats, first_row, out, y0, y1):
    """Add all images to out[:, y0:y1]."""
    block = padded_block(rows, first_row, y1 - y0)
    n, wide = block.shape[:2]
    nx = out.shape[2]
    plane = np.empty((nx, BLOCK), np.float32)
    for z in range(out.shape[0]):
        plane[:] = 0
        for i in range(n):
            step = coefficients[i, 0]
            start = coefficients[i, 1] * z + coefficients[i, 2] + PAD
            first, end = clip_range(start, step, PAD - 1.0, wide - PAD, 0, nx)
            p_step, p0 = hats[i, 0], hats[i, 1] * z + hats[i, 2]
            first, end = clip_range(p0, p_step, -1.0, 1.0, first, end)
            for x in range(first, end):
                u = start + step * x
                iu = int(u)
                weight = np.float32(weights[i] * (1.0 - abs(p0 + p_step * x)))
                b = np.float32(weight * (u - iu))
                a = weight - b
                left, right, target = block[i, iu], block[i, iu + 1], plane[x]
                for y in range(BLOCK):
                    target[y] += a * left[y] + b * right[y]
        for y in range(y0, y1):
            for x in range(nx):
                out[z, y, x] += plane[x, y - y0]
