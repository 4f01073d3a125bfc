"""Numba: the adjoint loops of back_project_aligned_cpu, 64 y at a time."""

from __future__ import annotations

import numpy as np
from numba import njit

from cryoet_core.kernels.back_project_aligned_cpu import BLOCK, PAD
from cryoet_core.kernels.back_project_cpu import clip_range
from cryoet_core.kernels.threads import for_blocks, spans


def forward_project_aligned(volume, coefficients, y_offset, out):
    """See :func:`cryoet_core.kernels.forward_project_aligned.forward_project_aligned`; adds to ``out``."""
    ny, h = volume.shape[1], out.shape[2]
    first, end = max(0, -y_offset), min(ny, h - y_offset)
    for_blocks(lambda y0, y1: scatter_block(volume, coefficients, y_offset, out, y0, y1), spans(first, end, BLOCK))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def scatter_block(volume, coefficients, y_offset, out, y0, y1):
    """Add the projections of volume[:, y0:y1]; all these y fall on rows of the images."""
    n, w = out.shape[:2]
    nz, _, nx = volume.shape
    block = np.zeros((n, w + 2 * PAD, BLOCK), np.float32)
    plane = np.zeros((nx, BLOCK), np.float32)
    for z in range(nz):
        for y in range(y0, y1):
            for x in range(nx):
                plane[x, y - y0] = volume[z, y, x]
        for i in range(n):
            step = coefficients[i, 0]
            start = coefficients[i, 1] * z + coefficients[i, 2] + PAD
            first, end = clip_range(start, step, PAD - 1.0, w + PAD, 0, nx)
            for x in range(first, end):
                u = start + step * x
                iu = int(u)
                b = np.float32(u - iu)
                a = np.float32(1.0) - b
                left, right, source = block[i, iu], block[i, iu + 1], plane[x]
                for y in range(BLOCK):
                    left[y] += a * source[y]
                for y in range(BLOCK):
                    right[y] += b * source[y]
    for i in range(n):
        for u in range(w):
            for y in range(y0, y1):
                out[i, u, y + y_offset] += block[i, u + PAD, y - y0]
