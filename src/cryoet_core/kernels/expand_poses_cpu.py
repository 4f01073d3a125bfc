"""Numba expansion of poses: one pass over the list per pose and view, sums in registers."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoet_core.kernels.sample_points_cpu import inner_length2, rows_order
from cryoet_core.kernels.threads import for_blocks, spans


def expand_poses(volume_ft, matrices, tangents, points, data, weight, particle, shifts_px, box_px, out):
    """See :func:`cryoet_core.kernels.expand_poses.expand_poses`; overwrites ``out``."""
    pairs, values = volume_ft.view(np.float32).reshape(*volume_ft.shape, 2), data.view(np.float32).reshape(*data.shape, 2)
    inner = inner_length2(matrices.reshape(-1, 3, 3), volume_ft.shape[0]).reshape(matrices.shape[:2])
    scan, listed = rows_order(points), points.astype(np.float32)
    for_blocks(
        lambda a, b: expand_block(
            pairs, matrices[a:b], tangents[a:b], inner[a:b], listed, scan, values, weight, particle[a:b], shifts_px[a:b], box_px, out[a:b]
        ),
        spans(0, len(matrices), 16),
    )


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"}, inline="always")
def corner(pairs, x, y, z, part):
    """One number of the transform at whole voxels; zero where nothing is stored."""
    n, _, half, _ = pairs.shape
    if 0 <= x < half and 0 <= y < n and 0 <= z < n:
        return pairs[z, y, x, part]
    return np.float32(0.0)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"}, inline="always")
def in_cell(v000, v100, v010, v110, v001, v101, v011, v111, fx, fy, fz):
    """(value, slopes along x, y, z) of the trilinear interpolant of eight corners; vXYZ."""
    d00, d10, d01, d11 = v100 - v000, v110 - v010, v101 - v001, v111 - v011
    e00, e10, e01, e11 = v000 + fx * d00, v010 + fx * d10, v001 + fx * d01, v011 + fx * d11
    f0, f1, h0, h1 = e10 - e00, e11 - e01, d00 + fy * (d10 - d00), d01 + fy * (d11 - d01)
    low, high = e00 + fy * f0, e01 + fy * f1
    return low + fz * (high - low), h0 + fz * (h1 - h0), f0 + fz * (f1 - f0), high - low


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def phase_table(shift, step, reach):
    """cos and sin of step * shift * k for k = -reach .. reach, (2 reach + 1, 2)."""
    out = np.empty((2 * reach + 1, 2), np.float32)
    for k in range(-reach, reach + 1):
        out[k + reach, 0], out[k + reach, 1] = math.cos(step * shift * k), math.sin(step * shift * k)
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def expand_block(pairs, matrices, tangents, inner, points, scan, data, weight, particle, shifts, box, out):
    """Fill out (m, F, 28)."""
    flat, n, half = pairs.reshape(-1), pairs.shape[0], pairs.shape[2]
    jump_y, jump_z, two = np.uint64(2 * half), np.uint64(2 * half * n), np.uint64(2)
    centre, one, zero = np.float32(n // 2), np.float32(1.0), np.float32(0.0)
    reach, step = int(np.abs(points).max()), 2 * math.pi / box
    for i in range(matrices.shape[0]):
        for f in range(matrices.shape[1]):
            m, t, limit = matrices[i, f].astype(np.float32), tangents[i, f].astype(np.float32), inner[i, f]
            t0, t1, t2 = t[0], t[1], t[2]
            ex, ey, ez = (phase_table(shifts[i, f, 0], step, reach), phase_table(shifts[i, f, 1], step, reach),
                          phase_table(shifts[i, f, 2], step, reach))
            d, w_line = data[particle[i], f], weight[particle[i], f]
            value, r0, r1, r2, g0, g1, g2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            h00, h01, h02, h11, h12, h22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            m00, m01, m02, m10, m11, m12, m20, m21, m22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            q00, q01, q02, q11, q12, q22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for s in range(scan.size):
                j = scan[s]
                a, b, c = points[j, 0], points[j, 1], points[j, 2]
                w = w_line[j]
                x = m[0, 0] * a + m[0, 1] * b + m[0, 2] * c
                y = m[1, 0] * a + m[1, 1] * b + m[1, 2] * c
                z = m[2, 0] * a + m[2, 1] * b + m[2, 2] * c
                flip = one if x >= zero else -one
                x, y, z = flip * x, flip * y + centre, flip * z + centre
                ix, iy, iz = int(x), int(math.floor(y)), int(math.floor(z))
                fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
                if a * a + b * b + c * c <= limit:
                    k = np.uint64(iz) * jump_z + np.uint64(iy) * jump_y + two * np.uint64(ix)
                    u = np.uint64(1)
                    ky, kz, kyz = k + jump_y, k + jump_z, k + jump_y + jump_z
                    re, xr, yr, zr = in_cell(flat[k], flat[k + two], flat[ky], flat[ky + two], flat[kz], flat[kz + two], flat[kyz],
                                             flat[kyz + two], fx, fy, fz)
                    k, ky, kz, kyz = k + u, ky + u, kz + u, kyz + u
                    im, xi, yi, zi = in_cell(flat[k], flat[k + two], flat[ky], flat[ky + two], flat[kz], flat[kz + two], flat[kyz],
                                             flat[kyz + two], fx, fy, fz)
                else:
                    jx, jy, jz = ix + 1, iy + 1, iz + 1
                    re, xr, yr, zr = in_cell(
                        corner(pairs, ix, iy, iz, 0), corner(pairs, jx, iy, iz, 0), corner(pairs, ix, jy, iz, 0), corner(pairs, jx, jy, iz, 0),
                        corner(pairs, ix, iy, jz, 0), corner(pairs, jx, iy, jz, 0), corner(pairs, ix, jy, jz, 0), corner(pairs, jx, jy, jz, 0),
                        fx, fy, fz)
                    im, xi, yi, zi = in_cell(
                        corner(pairs, ix, iy, iz, 1), corner(pairs, jx, iy, iz, 1), corner(pairs, ix, jy, iz, 1), corner(pairs, jx, jy, iz, 1),
                        corner(pairs, ix, iy, jz, 1), corner(pairs, jx, iy, jz, 1), corner(pairs, ix, jy, jz, 1), corner(pairs, jx, jy, jz, 1),
                        fx, fy, fz)
                # conj F(-k) on the mirrored side: the sign of the imaginary value turns, and that of the real slopes
                im *= flip
                xr, yr, zr = flip * xr, flip * yr, flip * zr
                tx, ty, tz = (t0[0, 0] * a + t0[0, 1] * b + t0[0, 2] * c, t0[1, 0] * a + t0[1, 1] * b + t0[1, 2] * c,
                              t0[2, 0] * a + t0[2, 1] * b + t0[2, 2] * c)
                s0r, s0i = xr * tx + yr * ty + zr * tz, xi * tx + yi * ty + zi * tz
                tx, ty, tz = (t1[0, 0] * a + t1[0, 1] * b + t1[0, 2] * c, t1[1, 0] * a + t1[1, 1] * b + t1[1, 2] * c,
                              t1[2, 0] * a + t1[2, 1] * b + t1[2, 2] * c)
                s1r, s1i = xr * tx + yr * ty + zr * tz, xi * tx + yi * ty + zi * tz
                tx, ty, tz = (t2[0, 0] * a + t2[0, 1] * b + t2[0, 2] * c, t2[1, 0] * a + t2[1, 1] * b + t2[1, 2] * c,
                              t2[2, 0] * a + t2[2, 1] * b + t2[2, 2] * c)
                s2r, s2i = xr * tx + yr * ty + zr * tz, xi * tx + yi * ty + zi * tz
                pa, pb, pc = int(a) + reach, int(b) + reach, int(c) + reach
                pr, pi = ex[pa, 0] * ey[pb, 0] - ex[pa, 1] * ey[pb, 1], ex[pa, 0] * ey[pb, 1] + ex[pa, 1] * ey[pb, 0]
                pr, pi = pr * ez[pc, 0] - pi * ez[pc, 1], pr * ez[pc, 1] + pi * ez[pc, 0]
                dr, di = d[j, 0] * pr - d[j, 1] * pi, d[j, 0] * pi + d[j, 1] * pr
                er, ei = dr - w * re, di - w * im
                power = re * re + im * im
                value += dr * re + di * im - np.float32(0.5) * w * power
                r0 += er * s0r + ei * s0i
                r1 += er * s1r + ei * s1i
                r2 += er * s2r + ei * s2i
                turn = er * im - ei * re
                g0 += a * turn
                g1 += b * turn
                g2 += c * turn
                h00 += w * (s0r * s0r + s0i * s0i)
                h01 += w * (s0r * s1r + s0i * s1i)
                h02 += w * (s0r * s2r + s0i * s2i)
                h11 += w * (s1r * s1r + s1i * s1i)
                h12 += w * (s1r * s2r + s1i * s2i)
                h22 += w * (s2r * s2r + s2i * s2i)
                turn = w * (s0r * im - s0i * re)
                m00 += a * turn
                m01 += b * turn
                m02 += c * turn
                turn = w * (s1r * im - s1i * re)
                m10 += a * turn
                m11 += b * turn
                m12 += c * turn
                turn = w * (s2r * im - s2i * re)
                m20 += a * turn
                m21 += b * turn
                m22 += c * turn
                power *= w
                q00 += power * a * a
                q01 += power * a * b
                q02 += power * a * c
                q11 += power * b * b
                q12 += power * b * c
                q22 += power * c * c
            line = out[i, f]
            line[0], line[1], line[2], line[3], line[4], line[5], line[6] = value, r0, r1, r2, g0, g1, g2
            line[7], line[8], line[9], line[10], line[11], line[12] = h00, h01, h02, h11, h12, h22
            line[13], line[14], line[15], line[16], line[17], line[18] = m00, m01, m02, m10, m11, m12
            line[19], line[20], line[21] = m20, m21, m22
            line[22], line[23], line[24], line[25], line[26], line[27] = q00, q01, q02, q11, q12, q22
