"""Numba slice extraction on interleaved float32 pairs (complex arithmetic is slower in numba)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoet_core.kernels.threads import for_blocks, spans


def extract_slices(volume_ft, rotations, radius_px, pad, out):
    """See :func:`cryoet_core.kernels.extract_slices.extract_slices`; overwrites ``out``."""
    pairs, target = _pairs(volume_ft), _pairs(out)
    scaled = np.ascontiguousarray(rotations[:, :2] * pad)
    inside = radius_px * pad <= volume_ft.shape[0] // 2 - 1 and volume_ft.shape[0] >= 4
    fill, source = (slice_block_inside, pairs.reshape(-1)) if inside else (slice_block, pairs)
    shape = np.array(volume_ft.shape)
    for_blocks(
        lambda a, b: fill(source, shape, scaled[a:b], radius_px, target[a:b]), spans(0, len(rotations), 64)
    )


def extract_points(volume_ft, coords, pad, out):
    """See :func:`cryoet_core.kernels.extract_slices.extract_points`; overwrites ``out``."""
    pairs, target = _pairs(volume_ft), _pairs(out)
    scale = np.float32(pad)
    for_blocks(
        lambda a, b: point_block(pairs, coords[a:b], scale, target[a:b]), spans(0, len(coords), 65536)
    )


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
def slice_block(pairs, shape, rows, radius_px, out):
    """Fill out (m, size, size//2 + 1, 2); ``rows`` (m, 2, 3) are the image axes times the oversampling."""
    m, size, half, _ = out.shape
    for i in range(m):
        ax, ay, az = np.float32(rows[i, 0, 0]), np.float32(rows[i, 0, 1]), np.float32(rows[i, 0, 2])
        bx, by, bz = np.float32(rows[i, 1, 0]), np.float32(rows[i, 1, 1]), np.float32(rows[i, 1, 2])
        for j in range(size):
            q = j if j < (size + 1) // 2 else j - size
            rest = radius_px * radius_px + 1e-6 - q * q
            line = out[i, j]
            end = min(half, int(math.sqrt(rest)) + 1) if rest >= 0 else 0
            ky = np.float32(q)
            for p in range(end):
                kx = np.float32(p)
                re, im = sample(pairs, kx * ax + ky * bx, kx * ay + ky * by, kx * az + ky * bz)
                line[p, 0] = re
                line[p, 1] = im
            line[end:] = 0


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def slice_block_inside(flat, shape, rows, radius_px, out):
    """The same where no sample reaches the border: rows cut where kx changes sign, no tests per pixel."""
    m, size, half, _ = out.shape
    for i in range(m):
        for j in range(size):
            q = j if j < (size + 1) // 2 else j - size
            rest = radius_px * radius_px + 1e-6 - q * q
            end = min(half, int(math.sqrt(rest)) + 1) if rest >= 0 else 0
            start, step = q * rows[i, 1, 0], rows[i, 0, 0]
            turn = end if step == 0 else min(max(math.ceil(-start / step), 0.0), float(end))
            turn = int(turn)
            first_negative = start < 0 or (start == 0 and step < 0)
            line_inside(flat, shape, rows[i], q, 0, turn, -1.0 if first_negative else 1.0, out[i, j])
            line_inside(flat, shape, rows[i], q, turn, end, -1.0 if step < 0 else 1.0, out[i, j])
            out[i, j, end:] = 0


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def line_inside(flat, shape, rows, q, first, end, sign, line):
    """Pixels first..end-1 of a slice row, all with sign * kx >= 0 (up to rounding)."""
    n, half = shape[0], shape[2]
    centre = n // 2
    sx, sy, sz = np.float32(sign * rows[0, 0]), np.float32(sign * rows[0, 1]), np.float32(sign * rows[0, 2])
    ox, oy, oz = np.float32(sign * q * rows[1, 0]), np.float32(sign * q * rows[1, 1]), np.float32(sign * q * rows[1, 2])
    oy += np.float32(centre)
    oz += np.float32(centre)
    flip, one = np.float32(sign), np.float32(1.0)
    jump_y, jump_z = np.uint64(2 * half), np.uint64(2 * half * n)
    low, high_x, high_y = np.int32(0), np.int32(half - 2), np.int32(n - 2)
    for p in range(first, end):
        k = np.float32(p)
        x, y, z = k * sx + ox, k * sy + oy, k * sz + oz
        ix, iy, iz = min(np.int32(x), high_x), min(np.int32(y), high_y), min(np.int32(z), high_y)
        ix = max(ix, low)
        fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
        a = np.uint64(iz) * jump_z + np.uint64(iy) * jump_y + np.uint64(2) * np.uint64(ix)
        b, c = a + jump_y, a + jump_z
        d = c + jump_y
        wd = fy * fz
        wb, wc = fy - wd, fz - wd
        wa = one - fy - wc
        re0 = wa * flat[a] + wb * flat[b] + wc * flat[c] + wd * flat[d]
        t = np.uint64(1)
        im0 = wa * flat[a + t] + wb * flat[b + t] + wc * flat[c + t] + wd * flat[d + t]
        t = np.uint64(2)
        re1 = wa * flat[a + t] + wb * flat[b + t] + wc * flat[c + t] + wd * flat[d + t]
        t = np.uint64(3)
        im1 = wa * flat[a + t] + wb * flat[b + t] + wc * flat[c + t] + wd * flat[d + t]
        line[p, 0] = re0 + fx * (re1 - re0)
        line[p, 1] = flip * (im0 + fx * (im1 - im0))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def point_block(pairs, coords, pad, out):
    """Fill out (m, 2) with the transform at coords (m, 3) times ``pad``."""
    for i in range(coords.shape[0]):
        re, im = sample(pairs, pad * coords[i, 0], pad * coords[i, 1], pad * coords[i, 2])
        out[i, 0] = re
        out[i, 1] = im
