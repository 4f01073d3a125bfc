"""Numba slice insertion, one thread: real, imaginary and weight sums lie side by side, one vector add per corner."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoet_core.kernels.affine import stretch
from cryoet_core.kernels.sample_points_cpu import inner_length2, rows_order


def insert_slices(slices, weights, rotations, radius_px, pad, accumulator):
    """See :func:`cryoet_core.kernels.insert_slices.insert_slices`; adds to ``accumulator``."""
    pairs = slices.view(np.float32).reshape(*slices.shape, 2)
    rows = np.ascontiguousarray(rotations[:, :2] * pad)
    inner_px = max(0.0, (accumulator.shape[0] // 2 - 1) / max(stretch(rows)[0], 1e-6))
    insert_all(pairs, weights, rows, radius_px, inner_px, accumulator)


def insert_turned(values, weights, matrices, points, accumulator):
    """See :func:`cryoet_core.kernels.insert_slices.insert_turned`; adds to ``accumulator``."""
    pairs, inner = values.view(np.float32).reshape(*values.shape, 2), inner_length2(matrices, accumulator.shape[0])
    insert_points(pairs, weights, matrices, inner, points, rows_order(points), accumulator)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def insert_all(pairs, weights, rows, radius_px, inner_px, accumulator):
    """Insert every pixel within the radius; ``rows`` (m, 2, 3) are the image axes times the oversampling.

    Within ``inner_px`` no sample reaches the border of the box.
    """
    flat, box = accumulator.reshape(-1), accumulator.shape[0]
    m, size, half, _ = pairs.shape
    for i in range(m):
        ax, ay, az = rows[i, 0, 0], rows[i, 0, 1], rows[i, 0, 2]
        bx, by, bz = rows[i, 1, 0], rows[i, 1, 1], rows[i, 1, 2]
        for j in range(size):
            q = j if j < (size + 1) // 2 else j - size
            rest = radius_px * radius_px + 1e-6 - q * q
            if rest < 0:
                continue
            for p in range(min(half, int(math.sqrt(rest)) + 1)):
                re, im, w = np.float64(pairs[i, j, p, 0]), np.float64(pairs[i, j, p, 1]), np.float64(weights[i, j, p])
                if re == 0 and im == 0 and w == 0:
                    continue
                if p == 0 or 2 * p == size:  # the mate is another pixel of this column: half each
                    re, im, w = 0.5 * re, 0.5 * im, 0.5 * w
                x, y, z = p * ax + q * bx, p * ay + q * by, p * az + q * bz
                if x < 0:
                    x, y, z, im = -x, -y, -z, -im
                if x >= 1 and p * p + q * q <= inner_px * inner_px:
                    splat_inside(flat, box, x, y, z, re, im, w)
                else:
                    splat(accumulator, x, y, z, re, im, w)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def splat_inside(flat, box, x, y, z, re, im, w):
    """Add one sample whose eight neighbours are all stored and whose mate does not reach the plane x = 0."""
    y += box // 2
    z += box // 2
    ix, iy, iz = int(x), min(int(y), box - 2), min(int(z), box - 2)
    fx, fy, fz = x - ix, y - iy, z - iz
    jump_y, one = np.uint64(4 * (box // 2 + 1)), np.uint64(1)
    jump_z = jump_y * np.uint64(box)
    first = np.uint64(iz) * jump_z + np.uint64(iy) * jump_y + np.uint64(4) * np.uint64(ix)
    both = fy * fz
    corners = (
        (1.0 - fy - fz + both, np.uint64(0)),
        (fy - both, jump_y),
        (fz - both, jump_z),
        (both, jump_y + jump_z),
    )
    re1, im1, w1 = fx * re, fx * im, fx * w
    re0, im0, w0 = re - re1, im - im1, w - w1
    for t, jump in corners:
        k = first + jump
        flat[k] += t * re0
        flat[k + one] += t * im0
        flat[k + np.uint64(2)] += t * w0
        flat[k + np.uint64(4)] += t * re1
        flat[k + np.uint64(5)] += t * im1
        flat[k + np.uint64(6)] += t * w1


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def splat(accumulator, x, y, z, re, im, w):
    """Add one sample (x >= 0) to its eight neighbours, and its mate where that reaches the plane x = 0."""
    n, _, half, _ = accumulator.shape
    centre = n // 2
    ix, iy, iz = int(x), int(math.floor(y)), int(math.floor(z))
    fx, fy, fz = x - ix, y - iy, z - iz
    iy += centre
    iz += centre
    if ix >= half or iy < -1 or iz < -1 or iy > n or iz > n:
        return
    for dz in range(2):
        for dy in range(2):
            zz, yy = iz + dz, iy + dy
            t = (fz if dz else 1.0 - fz) * (fy if dy else 1.0 - fy)
            t1 = t * fx
            t0 = t - t1
            if 0 <= zz < n and 0 <= yy < n:
                cell = accumulator[zz, yy, ix]
                cell[0] += t0 * re
                cell[1] += t0 * im
                cell[2] += t0 * w
                if ix + 1 < half:
                    cell = accumulator[zz, yy, ix + 1]
                    cell[0] += t1 * re
                    cell[1] += t1 * im
                    cell[2] += t1 * w
            if ix == 0:
                zz, yy = 2 * centre - zz, 2 * centre - yy
                if 0 <= zz < n and 0 <= yy < n:
                    cell = accumulator[zz, yy, 0]
                    cell[0] += t0 * re
                    cell[1] -= t0 * im
                    cell[2] += t0 * w


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def insert_points(pairs, weights, matrices, inner, points, scan, accumulator):
    """Add every value to its eight neighbours, its mate where that reaches the plane kx = 0."""
    flat, box = accumulator.reshape(-1), accumulator.shape[0]
    for i in range(len(matrices)):
        m = matrices[i]
        for s in range(scan.size):
            j = scan[s]
            re, im, w = np.float64(pairs[i, j, 0]), np.float64(pairs[i, j, 1]), np.float64(weights[i, j])
            if re == 0 and im == 0 and w == 0:
                continue
            a, b, c = points[j, 0], points[j, 1], points[j, 2]
            x = m[0, 0] * a + m[0, 1] * b + m[0, 2] * c
            y = m[1, 0] * a + m[1, 1] * b + m[1, 2] * c
            z = m[2, 0] * a + m[2, 1] * b + m[2, 2] * c
            if x < 0:
                x, y, z, im = -x, -y, -z, -im
            if x >= 1 and a * a + b * b + c * c <= inner[i]:
                splat_inside(flat, box, x, y, z, re, im, w)
            else:
                splat(accumulator, x, y, z, re, im, w)
