"""Numba back-projection: images padded with zeros and turned so that x runs along memory, range-clipped rows."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoet_core.kernels.affine import index_map, swap_to_fast_axis
from cryoet_core.kernels.threads import for_blocks, spans

PAD = 2  # zero pixels on every side: one for the interpolation, one for rounding of the clipped range
CHUNK = 32  # voxels per float32 run: coordinates are rebased in float64 at its start
TILE_Z, TILE_Y = 4, 8


def back_project(images, rows, shifts_px, weights, hats, shape, offset_px, out, first_y):
    """See :func:`cryoet_core.kernels.back_project.back_project`; adds to ``out``."""
    n, h, w = images.shape
    coefficients = index_map(rows, shifts_px, shape, offset_px, (h, w))
    swap = swap_to_fast_axis(coefficients)
    coefficients[:, :, 3] += PAD
    coefficients[swap] = coefficients[swap][:, ::-1]
    flat = np.zeros((n, (h + 2 * PAD) * (w + 2 * PAD)), np.float32)
    for i in range(n):
        size = (w, h) if swap[i] else (h, w)
        padded = flat[i].reshape(size[0] + 2 * PAD, size[1] + 2 * PAD)
        padded[PAD : PAD + size[0], PAD : PAD + size[1]] = images[i].T if swap[i] else images[i]
    limits = np.where(swap[:, None], (h, w), (w, h)).astype(np.int64)  # (n, 2): length along c, along r
    factors = weights.astype(np.float32)
    blocks = [(z, y) for z in spans(0, out.shape[0], TILE_Z) for y in spans(0, out.shape[1], TILE_Y)]
    groups = [blocks[a:b] for a, b in spans(0, len(blocks), 64)]

    def run(*group):
        for (z0, z1), (y0, y1) in group:
            gather_tile(flat, limits, coefficients, factors, hats, out, z0, z1, y0, y1, first_y)

    for_blocks(run, groups)


@njit(cache=True, nogil=True, error_model="numpy")
def clip_range(start, step, low, high, first, end):
    """Indices x of [first, end) with low <= start + step*x <= high, for a linear coordinate."""
    if abs(step) < 1e-12:
        return (first, end) if low <= start <= high else (first, first)
    a = (low - start) / step
    b = (high - start) / step
    if a > b:
        a, b = b, a
    if b < first or a > end:
        return first, first
    return max(first, int(math.ceil(a))), min(end, int(math.floor(b)) + 1)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def gather_tile(flat, limits, coefficients, weights, hats, out, z0, z1, y0, y1, first_y):
    """Add all images to the voxels out[z0:z1, y0:y1]; ``coefficients`` are those of the padded, turned images."""
    nx = out.shape[2]
    values = np.empty(CHUNK, np.float32)
    for i in range(flat.shape[0]):
        image = flat[i]
        stride = limits[i, 0] + 2 * PAD
        c_step, r_step = coefficients[i, 0, 0], coefficients[i, 1, 0]
        p_step, windowed = hats[i, 0], np.any(hats[i] != 0.0)
        for z in range(z0, z1):
            for y in range(y0, y1):
                yy = y + first_y
                c0 = coefficients[i, 0, 1] * yy + coefficients[i, 0, 2] * z + coefficients[i, 0, 3]
                r0 = coefficients[i, 1, 1] * yy + coefficients[i, 1, 2] * z + coefficients[i, 1, 3]
                first, end = clip_range(c0, c_step, PAD - 1.0, PAD + limits[i, 0], 0, nx)
                first, end = clip_range(r0, r_step, PAD - 1.0, PAD + limits[i, 1], first, end)
                p0 = hats[i, 1] * yy + hats[i, 2] * z + hats[i, 3]
                if windowed:
                    first, end = clip_range(p0, p_step, -1.0, 1.0, first, end)
                for x0 in range(first, end, CHUNK):
                    length = min(CHUNK, end - x0)
                    sample_run(image, stride, c0 + c_step * x0, c_step, r0 + r_step * x0, r_step, length, values)
                    row = out[z, y, x0 : x0 + length]
                    if windowed:
                        hat_run(values, p0 + p_step * x0, p_step, length)
                    for k in range(length):
                        row[k] += weights[i] * values[k]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def hat_run(values, p, p_step, length):
    """Multiply a run of samples by max(0, 1 - |p|), p linear along the run."""
    start, step = np.float32(p), np.float32(p_step)
    for k in range(length):
        values[k] *= max(np.float32(0), np.float32(1) - abs(start + np.float32(k) * step))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def sample_run(image, stride, c, c_step, r, r_step, length, values):
    """Bilinear samples along a line of at most CHUNK points of a padded flat image."""
    c_base = int(math.floor(min(c, c + c_step * (length - 1))))
    r_base = int(math.floor(min(r, r + r_step * (length - 1))))
    base = r_base * stride + c_base
    last = image.size
    view = image[base:last]
    cf, rf = np.float32(c - c_base), np.float32(r - r_base)
    dc, dr = np.float32(c_step), np.float32(r_step)
    jump = np.uint32(stride)
    one = np.uint32(1)
    for k in range(length):
        t = np.float32(k)
        ck = cf + t * dc
        rk = rf + t * dr
        ci = np.int32(ck)
        ri = np.int32(rk)
        fc = ck - np.float32(ci)
        fr = rk - np.float32(ri)
        p = np.uint32(ri) * jump + np.uint32(ci)
        top = view[p] + fc * (view[p + one] - view[p])
        p += jump
        low = view[p] + fc * (view[p + one] - view[p])
        values[k] = top + fr * (low - top)
