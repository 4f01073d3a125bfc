"""Numba slice gathering, one thread: only the voxels within one plane distance of a slice are visited."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


def gather_slices(slices, weights, matrices, radii, accumulator):
    """See :func:`cryoet_core.kernels.gather_slices.gather_slices`; adds to ``accumulator``."""
    pairs = slices.view(np.float32).reshape(*slices.shape, 2)
    gather_all(pairs, weights, np.ascontiguousarray(matrices), radii, accumulator)


@njit(cache=True, nogil=True, error_model="numpy")
def gather_all(pairs, weights, matrices, radii, accumulator):
    """``matrices`` (m, 3, 3) take voxels of the padded grid to slice pixels; ``radii`` are in voxels."""
    n, half3 = accumulator.shape[0], accumulator.shape[2]
    for i in range(len(pairs)):
        a, limit = matrices[i], radii[i] * radii[i] + 1e-6
        for z in range(n):
            for y in range(n):
                ky, kz = y - n // 2, z - n // 2
                rest = limit - ky * ky - kz * kz
                if rest < 0:
                    continue
                first, last = 0, min(half3 - 1, int(math.sqrt(rest)))
                depth = a[2, 1] * ky + a[2, 2] * kz
                if abs(a[2, 0]) > 1e-12:
                    one, two = (-1.0 - depth) / a[2, 0], (1.0 - depth) / a[2, 0]
                    first = max(first, int(max(-1.0, min(one, two))))
                    last = min(last, int(min(max(one, two), half3 + 1.0)) if max(one, two) >= 0 else -1)
                for x in range(first, last + 1):
                    g = 1.0 - abs(a[2, 0] * x + depth)
                    if g > 0.0:
                        u = a[0, 0] * x + a[0, 1] * ky + a[0, 2] * kz
                        v = a[1, 0] * x + a[1, 1] * ky + a[1, 2] * kz
                        read(pairs[i], weights[i], u, v, g, accumulator[z, y, x])


@njit(cache=True, nogil=True, error_model="numpy")
def read(pairs, weights, u, v, g, cell):
    """Add ``g`` times the bilinear value of a half-complex slice at (u, v) to ``cell``."""
    h, half, _ = pairs.shape
    sign = 1.0
    if u < 0:
        u, v, sign = -u, -v, -1.0
    low_u, low_v = int(u), int(math.floor(v))
    fu, fv = u - low_u, v - low_v
    for dv in range(2):
        for du in range(2):
            share = g * (fv if dv else 1.0 - fv) * (fu if du else 1.0 - fu)
            row, column = (low_v + dv) % h, low_u + du
            if share == 0.0:
                continue
            if column >= half:
                column = half - 2  # as RELION
            cell[0] += share * pairs[row, column, 0]
            cell[1] += sign * share * pairs[row, column, 1]
            cell[2] += share * weights[row, column]
