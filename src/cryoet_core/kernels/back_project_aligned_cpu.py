"""Numba: blocks of 64 y share one interpolation weight, so the inner loop is contiguous SIMD arithmetic.

Without depth windows two images are added at a time where both are seen: a voxel is then read and written half as often.
Tiles of TILE_Z x TILE_X x BLOCK voxels, and what an image shows of one, stay in the cache while all images are added.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cryoet_core.kernels.back_project_cpu import clip_range
from cryoet_core.kernels.threads import for_blocks, spans

BLOCK = 64  # y slices per pass
PAD = 2  # zero rows on either side: interpolation and rounding of the clipped range
TILE_Z, TILE_X = 16, 64


def back_project_aligned(rows, coefficients, weights, y_offset, hats, out, first_y):
    """See :func:`cryoet_core.kernels.back_project_aligned.back_project_aligned`; adds to ``out``."""
    factors = weights.astype(np.float32)
    windowed = bool(hats.any())
    gather, tables = (gather_windowed, (coefficients, factors, hats)) if windowed else (gather_all, (coefficients, factors))
    y_blocks, layers = spans(0, out.shape[1], BLOCK), spans(0, out.shape[0], TILE_Z)

    def add(y0, y1, each=None):
        block = padded_block(rows, y0 + first_y + y_offset, y1 - y0)
        if each is None:
            gather(block, *tables, out, y0, y1, 0, out.shape[0])
        else:
            each(lambda z0, z1: gather(block, *tables, out, y0, y1, z0, z1), layers)

    if len(y_blocks) > len(layers):  # threads take blocks of y or layers of z, whatever there is more of
        for_blocks(add, y_blocks)
    else:
        for y0, y1 in y_blocks:
            add(y0, y1, for_blocks)


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
def add_one(lines, start, step, weight, first, end, plane, x0):
    """Add a block of one image, lines (w, BLOCK), to voxels first..end of plane (:, BLOCK), which begins at x0; u = start + step x."""
    for x in range(first, end):
        u = start + step * x
        iu = int(u)
        b = np.float32(weight * (u - iu))
        a = weight - b
        left, right, target = lines[iu], lines[iu + 1], plane[x - x0]
        for y in range(BLOCK):
            target[y] += a * left[y] + b * right[y]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def add_two(lines1, start1, step1, weight1, lines2, start2, step2, weight2, first, end, plane, x0):
    """:func:`add_one` for two images at once."""
    for x in range(first, end):
        u1, u2 = start1 + step1 * x, start2 + step2 * x
        i1, i2 = int(u1), int(u2)
        b1, b2 = np.float32(weight1 * (u1 - i1)), np.float32(weight2 * (u2 - i2))
        a1, a2 = weight1 - b1, weight2 - b2
        left1, right1, left2, right2, target = lines1[i1], lines1[i1 + 1], lines2[i2], lines2[i2 + 1], plane[x - x0]
        for y in range(BLOCK):
            target[y] += (a1 * left1[y] + b1 * right1[y]) + (a2 * left2[y] + b2 * right2[y])


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def gather_all(block, coefficients, weights, out, y0, y1, z0, z1):
    """Add all images of ``block`` (n, w + 2 PAD, BLOCK) to out[z0:z1, y0:y1]."""
    n, wide = block.shape[:2]
    nx = out.shape[2]
    tile = np.empty((TILE_Z, TILE_X, BLOCK), np.float32)
    for za in range(z0, z1, TILE_Z):
        zb = min(za + TILE_Z, z1)
        for xa in range(0, nx, TILE_X):
            xb = min(xa + TILE_X, nx)
            tile[:] = 0
            for i in range(0, n, 2):
                for z in range(za, zb):
                    plane = tile[z - za]
                    step1, start1 = coefficients[i, 0], coefficients[i, 1] * z + coefficients[i, 2] + PAD
                    first1, end1 = clip_range(start1, step1, PAD - 1.0, wide - PAD, xa, xb)
                    if i + 1 == n:
                        add_one(block[i], start1, step1, weights[i], first1, end1, plane, xa)
                        continue
                    step2, start2 = coefficients[i + 1, 0], coefficients[i + 1, 1] * z + coefficients[i + 1, 2] + PAD
                    first2, end2 = clip_range(start2, step2, PAD - 1.0, wide - PAD, xa, xb)
                    first = max(first1, first2)
                    end = max(min(end1, end2), first)
                    add_one(block[i], start1, step1, weights[i], first1, min(first, end1), plane, xa)
                    add_one(block[i + 1], start2, step2, weights[i + 1], first2, min(first, end2), plane, xa)
                    add_two(block[i], start1, step1, weights[i], block[i + 1], start2, step2, weights[i + 1], first, end, plane, xa)
                    add_one(block[i], start1, step1, weights[i], end, end1, plane, xa)
                    add_one(block[i + 1], start2, step2, weights[i + 1], end, end2, plane, xa)
            add_tile(tile, out, za, zb, y0, y1, xa, xb)


@njit(cache=True, nogil=True)
def add_tile(tile, out, z0, z1, y0, y1, x0, x1):
    """Add a tile (:, :, BLOCK) to out[z0:z1, y0:y1, x0:x1]."""
    for z in range(z0, z1):
        for y in range(y0, y1):
            for x in range(x0, x1):
                out[z, y, x] += tile[z - z0, x - x0, y - y0]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def gather_windowed(block, coefficients, weights, hats, out, y0, y1, z0, z1):
    """Add all images, weighted by the depth windows ``hats``, to out[z0:z1, y0:y1]."""
    n, wide = block.shape[:2]
    nx = out.shape[2]
    tile = np.empty((TILE_Z, TILE_X, BLOCK), np.float32)
    for za in range(z0, z1, TILE_Z):
        zb = min(za + TILE_Z, z1)
        for xa in range(0, nx, TILE_X):
            xb = min(xa + TILE_X, nx)
            tile[:] = 0
            for i in range(n):
                step, p_step = coefficients[i, 0], hats[i, 0]
                for z in range(za, zb):
                    start = coefficients[i, 1] * z + coefficients[i, 2] + PAD
                    first, end = clip_range(start, step, PAD - 1.0, wide - PAD, xa, xb)
                    p0 = hats[i, 1] * z + hats[i, 2]
                    first, end = clip_range(p0, p_step, -1.0, 1.0, first, end)
                    for x in range(first, end):
                        u = start + step * x
                        iu = int(u)
                        weight = np.float32(weights[i] * (1.0 - abs(p0 + p_step * x)))
                        b = np.float32(weight * (u - iu))
                        a = weight - b
                        left, right, target = block[i, iu], block[i, iu + 1], tile[z - za, x - xa]
                        for y in range(BLOCK):
                            target[y] += a * left[y] + b * right[y]
            add_tile(tile, out, za, zb, y0, y1, xa, xb)
