"""Numba projection: one padded image per call, rows of voxels clipped to the range that hits it."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoet_core.kernels.affine import index_map, swap_to_fast_axis
from cryoet_core.kernels.back_project_cpu import CHUNK, PAD, clip_range
from cryoet_core.kernels.threads import for_blocks


def forward_project(volume, rows, shifts_px, offset_px, out):
    """See :func:`cryoet_core.kernels.forward_project.forward_project`; adds to ``out``."""
    n, h, w = out.shape
    coefficients = index_map(rows, shifts_px, volume.shape, offset_px, (h, w))
    swap = swap_to_fast_axis(coefficients)
    coefficients[:, :, 3] += PAD
    coefficients[swap] = coefficients[swap][:, ::-1]

    def run(i):
        size = (w, h) if swap[i] else (h, w)
        padded = np.zeros((size[0] + 2 * PAD, size[1] + 2 * PAD), np.float32)
        scatter_image(volume, coefficients[i], padded)
        inner = padded[PAD : PAD + size[0], PAD : PAD + size[1]]
        out[i] += inner.T if swap[i] else inner

    for_blocks(run, [(i,) for i in range(n)])


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def scatter_image(volume, coefficients, padded):
    """Add the projection of ``volume`` to one padded image."""
    nz, ny, nx = volume.shape
    high, wide = padded.shape
    c_step, r_step = coefficients[0, 0], coefficients[1, 0]
    for z in range(nz):
        for y in range(ny):
            c0 = coefficients[0, 1] * y + coefficients[0, 2] * z + coefficients[0, 3]
            r0 = coefficients[1, 1] * y + coefficients[1, 2] * z + coefficients[1, 3]
            first, end = clip_range(c0, c_step, PAD - 1.0, wide - PAD, 0, nx)
            first, end = clip_range(r0, r_step, PAD - 1.0, high - PAD, first, end)
            for x0 in range(first, end, CHUNK):
                x1 = min(end, x0 + CHUNK)
                splat_run(volume[z, y, x0:x1], c0 + c_step * x0, c_step, r0 + r_step * x0, r_step, padded)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def splat_run(values, c, c_step, r, r_step, padded):
    """Share a line of at most CHUNK voxels among the pixels along a line of the padded image."""
    length = values.size
    c_base = int(math.floor(min(c, c + c_step * (length - 1))))
    r_base = int(math.floor(min(r, r + r_step * (length - 1))))
    view = padded[r_base:, c_base:]
    cf, rf = np.float32(c - c_base), np.float32(r - r_base)
    dc, dr = np.float32(c_step), np.float32(r_step)
    one = np.uint32(1)
    for k in range(length):
        t = np.float32(k)
        ck = cf + t * dc
        rk = rf + t * dr
        ci, ri = np.uint32(ck), np.uint32(rk)
        fc = ck - np.float32(ci)
        fr = rk - np.float32(ri)
        low = fr * values[k]
        top = values[k] - low
        a, b = fc * top, fc * low
        view[ri, ci] += top - a
        view[ri, ci + one] += a
        view[ri + one, ci] += low - b
        view[ri + one, ci + one] += b
