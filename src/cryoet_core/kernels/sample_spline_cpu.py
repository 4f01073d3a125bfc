"""Numba cubic B-splines: the image padded with zeros and turned so that a step along a row of the result moves along memory."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoet_core.kernels.back_project_cpu import clip_range
from cryoet_core.kernels.threads import for_blocks, spans

PAD = 4  # zero pixels on every side: two for the spline, one for floor, one for rounding of the clipped range
BLOCK = 32  # rows of the result per call


def sample_spline(coefficients, matrix, offset, out):
    """See :func:`cryoet_core.kernels.sample_spline.sample_spline`; adds to ``out``."""
    matrix, offset = matrix.copy(), offset.copy()
    if abs(matrix[0, 1]) > abs(matrix[1, 1]):
        coefficients, matrix, offset = coefficients.T, matrix[::-1].copy(), offset[::-1].copy()
    padded = np.pad(coefficients, PAD)
    for_blocks(lambda r0, r1: sample_rows(padded, matrix, offset + PAD, out, r0, r1), spans(0, out.shape[0], BLOCK))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def spline_weights(f):
    """Weights of the four pixels at floor - 1 .. floor + 2 for the fraction f."""
    g = np.float32(1) - f
    sixth, two_thirds, half = np.float32(1 / 6), np.float32(2 / 3), np.float32(0.5)
    return g * g * g * sixth, two_thirds - f * f * (np.float32(1) - half * f), two_thirds - g * g * (np.float32(1) - half * g), f * f * f * sixth


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def sample_rows(padded, matrix, offset, out, r0, r1):
    """Add samples to out[r0:r1]; ``offset`` counts in the padded image."""
    high, wide = padded.shape
    dv, du = matrix[0, 1], matrix[1, 1]
    for r in range(r0, r1):
        v0, u0 = matrix[0, 0] * r + offset[0], matrix[1, 0] * r + offset[1]
        first, end = clip_range(v0, dv, 1.5, high - 3.0, 0, out.shape[1])
        first, end = clip_range(u0, du, 1.5, wide - 3.0, first, end)
        for c in range(first, end):
            v, u = v0 + dv * c, u0 + du * c
            j, k = int(math.floor(v)), int(math.floor(u))
            a0, a1, a2, a3 = spline_weights(np.float32(u - k))
            b0, b1, b2, b3 = spline_weights(np.float32(v - j))
            p0, p1, p2, p3 = padded[j - 1], padded[j], padded[j + 1], padded[j + 2]
            s0 = a0 * p0[k - 1] + a1 * p0[k] + a2 * p0[k + 1] + a3 * p0[k + 2]
            s1 = a0 * p1[k - 1] + a1 * p1[k] + a2 * p1[k + 1] + a3 * p1[k + 2]
            s2 = a0 * p2[k - 1] + a1 * p2[k] + a2 * p2[k + 1] + a3 * p2[k + 2]
            s3 = a0 * p3[k - 1] + a1 * p3[k] + a2 * p3[k + 1] + a3 * p3[k + 2]
            out[r, c] += b0 * s0 + b1 * s1 + b2 * s2 + b3 * s3
