"""Numba reading of transforms as interleaved float32 pairs (complex arithmetic is slower in numba)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoet_core.kernels.threads import for_blocks, spans


def extract_points(volume_ft, coords, pad, out):
    """See :func:`cryoet_core.kernels.sample_points.extract_points`; overwrites ``out``."""
    pairs, target = _pairs(volume_ft), _pairs(out)
    scale = np.float32(pad)
    for_blocks(
        lambda a, b: point_block(pairs, coords[a:b], scale, target[a:b]), spans(0, len(coords), 65536)
    )


def sample_turned(volume_ft, matrices, points, out):
    """See :func:`cryoet_core.kernels.sample_points.sample_turned`; overwrites ``out``."""
    pairs, target, scan, inner = _pairs(volume_ft), _pairs(out), rows_order(points), inner_length2(matrices, volume_ft.shape[0])
    for_blocks(
        lambda a, b: turned_block(pairs, matrices[a:b], inner[a:b], points, scan, target[a:b]), spans(0, len(matrices), 64)
    )


def rows_order(points):
    """Order of points (K, 3) along rows and planes: neighbours then share cache lines of the volume."""
    return np.lexsort((points[:, 0], points[:, 1], points[:, 2]))


def inner_length2(matrices, n):
    """(m,) squared length of the points whose eight neighbours are stored in a box of ``n``, whatever their direction."""
    return ((n // 2 - 1) / np.maximum(np.linalg.norm(matrices, ord=2, axis=(1, 2)), 1e-12)) ** 2


def _pairs(array):
    return array.view(np.float32).reshape(*array.shape, 2)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"}, inline="always")
def sample(pairs, kx, ky, kz):
    """(re, im) of a Hermitian half transform at an oversampled frequency; zero outside what is stored."""
    flip = np.float32(1.0)
    if kx < 0:
        kx, ky, kz, flip = -kx, -ky, -kz, np.float32(-1.0)
    n, _, half, _ = pairs.shape
    centre = np.float32(n // 2)
    y, z = ky + centre, kz + centre
    re, im = np.float32(0.0), np.float32(0.0)
    if not (y > -1 and z > -1 and y < n and z < n and kx < half):
        return re, im
    ix, iy, iz = int(kx), int(math.floor(y)), int(math.floor(z))
    fx, fy, fz = kx - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
    if ix + 1 < half and iy >= 0 and iz >= 0 and iy + 1 < n and iz + 1 < n:
        gx, gy = np.float32(1.0) - fx, np.float32(1.0) - fy
        for dz in range(2):
            wz = fz if dz else np.float32(1.0) - fz
            low, top = pairs[iz + dz, iy], pairs[iz + dz, iy + 1]
            re += wz * (gy * (gx * low[ix, 0] + fx * low[ix + 1, 0]) + fy * (gx * top[ix, 0] + fx * top[ix + 1, 0]))
            im += wz * (gy * (gx * low[ix, 1] + fx * low[ix + 1, 1]) + fy * (gx * top[ix, 1] + fx * top[ix + 1, 1]))
        return re, flip * im
    for dz in range(2):
        for dy in range(2):
            for dx in range(2):
                if 0 <= iz + dz < n and 0 <= iy + dy < n and ix + dx < half:
                    w = (fz if dz else 1 - fz) * (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
                    re += np.float32(w) * pairs[iz + dz, iy + dy, ix + dx, 0]
                    im += np.float32(w) * pairs[iz + dz, iy + dy, ix + dx, 1]
    return re, flip * im


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def point_block(pairs, coords, pad, out):
    """Fill out (m, 2) with the transform at coords (m, 3) times ``pad``."""
    for i in range(coords.shape[0]):
        re, im = sample(pairs, pad * coords[i, 0], pad * coords[i, 1], pad * coords[i, 2])
        out[i, 0] = re
        out[i, 1] = im


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def turned_block(pairs, matrices, inner, points, scan, out):
    """Fill out (m, K, 2)."""
    flat, n, half = pairs.reshape(-1), pairs.shape[0], pairs.shape[2]
    jump_y, jump_z, centre = np.uint64(2 * half), np.uint64(2 * half * n), np.float32(n // 2)
    one, zero = np.float32(1.0), np.float32(0.0)
    for i in range(len(matrices)):
        m, line, limit = matrices[i].astype(np.float32), out[i], inner[i]
        for s in range(scan.size):
            j = scan[s]
            a, b, c = np.float32(points[j, 0]), np.float32(points[j, 1]), np.float32(points[j, 2])
            x = m[0, 0] * a + m[0, 1] * b + m[0, 2] * c
            y = m[1, 0] * a + m[1, 1] * b + m[1, 2] * c
            z = m[2, 0] * a + m[2, 1] * b + m[2, 2] * c
            if a * a + b * b + c * c > limit:
                line[j, 0], line[j, 1] = sample(pairs, x, y, z)
                continue
            flip = one if x >= zero else -one
            x, y, z = flip * x, flip * y + centre, flip * z + centre
            ix, iy, iz = np.uint64(x), np.uint64(y), np.uint64(z)
            fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
            k = iz * jump_z + iy * jump_y + np.uint64(2) * ix
            wd = fy * fz
            wb, wc = fy - wd, fz - wd
            wa = one - fy - wc
            t = k + jump_y
            u = k + jump_z
            v = u + jump_y
            re0 = wa * flat[k] + wb * flat[t] + wc * flat[u] + wd * flat[v]
            p = np.uint64(1)
            im0 = wa * flat[k + p] + wb * flat[t + p] + wc * flat[u + p] + wd * flat[v + p]
            p = np.uint64(2)
            re1 = wa * flat[k + p] + wb * flat[t + p] + wc * flat[u + p] + wd * flat[v + p]
            p = np.uint64(3)
            im1 = wa * flat[k + p] + wb * flat[t + p] + wc * flat[u + p] + wd * flat[v + p]
            line[j, 0] = re0 + fx * (re1 - re0)
            line[j, 1] = flip * (im0 + fx * (im1 - im0))
