"""Numba rotation: zero-padded source, rows clipped to the sphere and to the source box."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoet_core.kernels.back_project_cpu import CHUNK, PAD, clip_range
from cryoet_core.kernels.threads import for_blocks, spans


def rotate_volume(volume, rotations, radius_px, out):
    """See :func:`cryoet_core.kernels.rotate_volume.rotate_volume`; overwrites ``out``."""
    padded = np.pad(volume, PAD)
    for i, rotation in enumerate(rotations):
        target = out[i]
        for_blocks(
            lambda a, b, r=rotation, t=target: rotate_planes(padded, r, radius_px, t, a, b),
            spans(0, target.shape[0], max(16, (1 << 21) // target[0].size)),
        )


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def rotate_planes(padded, rotation, radius_px, out, z0, z1):
    """Fill out[z0:z1]; the source coordinate is R^T X, so a step along x moves along the first row of R."""
    oz, oy, ox = out.shape[0] // 2, out.shape[1] // 2, out.shape[2] // 2
    nz, ny, nx = padded.shape[0] - 2 * PAD, padded.shape[1] - 2 * PAD, padded.shape[2] - 2 * PAD
    cz, cy, cx = nz // 2, ny // 2, nx // 2
    dx, dy, dz = rotation[0, 0], rotation[0, 1], rotation[0, 2]
    for iz in range(z0, z1):
        for iy in range(out.shape[1]):
            y, z = iy - oy, iz - oz
            row = out[iz, iy]
            row[:] = 0
            rest = radius_px * radius_px + 1e-6 - y * y - z * z
            if rest < 0:
                continue
            reach = int(math.sqrt(rest))
            first, end = max(0, ox - reach), min(out.shape[2], ox + reach + 1)
            sx = rotation[1, 0] * y + rotation[2, 0] * z - dx * ox + cx + PAD
            sy = rotation[1, 1] * y + rotation[2, 1] * z - dy * ox + cy + PAD
            sz = rotation[1, 2] * y + rotation[2, 2] * z - dz * ox + cz + PAD
            first, end = clip_range(sx, dx, PAD - 1.0, PAD + nx, first, end)
            first, end = clip_range(sy, dy, PAD - 1.0, PAD + ny, first, end)
            first, end = clip_range(sz, dz, PAD - 1.0, PAD + nz, first, end)
            for x0 in range(first, end, CHUNK):
                x1 = min(end, x0 + CHUNK)
                trilinear_run(padded, sx + dx * x0, dx, sy + dy * x0, dy, sz + dz * x0, dz, row[x0:x1])


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def trilinear_run(padded, x, dx, y, dy, z, dz, values):
    """Trilinear samples along a line of at most CHUNK points, all inside the padded volume."""
    last = values.size - 1
    bx = int(math.floor(min(x, x + dx * last)))
    by = int(math.floor(min(y, y + dy * last)))
    bz = int(math.floor(min(z, z + dz * last)))
    source = padded[bz:, by:, bx:]
    xf, yf, zf = np.float32(x - bx), np.float32(y - by), np.float32(z - bz)
    ax, ay, az = np.float32(dx), np.float32(dy), np.float32(dz)
    one = np.uint32(1)
    for k in range(values.size):
        t = np.float32(k)
        px, py, pz = xf + t * ax, yf + t * ay, zf + t * az
        ix, iy, iz = np.uint32(px), np.uint32(py), np.uint32(pz)
        fx, fy, fz = px - np.float32(ix), py - np.float32(iy), pz - np.float32(iz)
        jx, jy, jz = ix + one, iy + one, iz + one
        a = source[iz, iy, ix] + fx * (source[iz, iy, jx] - source[iz, iy, ix])
        b = source[iz, jy, ix] + fx * (source[iz, jy, jx] - source[iz, jy, ix])
        c = source[jz, iy, ix] + fx * (source[jz, iy, jx] - source[jz, iy, ix])
        d = source[jz, jy, ix] + fx * (source[jz, jy, jx] - source[jz, jy, ix])
        a += fy * (b - a)
        c += fy * (d - c)
        values[k] = a + fz * (c - a)
