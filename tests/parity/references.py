"""What every kernel must compute, written plainly in float64 NumPy, sharing no code with the library."""

from __future__ import annotations

import itertools
import math

import numpy as np


def bilinear(image, u, v):
    """Bilinear samples of ``image`` [v, u] at arrays of index coordinates; pixels outside are zero."""
    total = np.zeros(np.broadcast(u, v).shape)
    u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
    for du, dv in itertools.product((0, 1), (0, 1)):
        a, b = u0 + du, v0 + dv
        inside = (a >= 0) & (a < image.shape[1]) & (b >= 0) & (b < image.shape[0])
        weight = (1 - np.abs(u - a)) * (1 - np.abs(v - b))
        total[inside] += (weight * image[np.where(inside, b, 0), np.where(inside, a, 0)])[inside]
    return total


def centred_points(shape, offset=(0, 0, 0)):
    """(x, y, z) of every voxel, three arrays of ``shape``."""
    z, y, x = np.meshgrid(*[np.arange(s) - s // 2 for s in shape], indexing="ij")
    return x + offset[0], y + offset[1], z + offset[2]


def back_project(images, rotations, shifts_px, weights, shape, centre_offset_px=(0, 0, 0), depth_windows=None):
    x, y, z = centred_points(shape, centre_offset_px)
    total = np.zeros(shape)
    h, w = images.shape[1:]
    windows = [(0.0, np.inf)] * len(images) if depth_windows is None else depth_windows
    for image, r, s, weight, (centre, width) in zip(images.astype(float), rotations, shifts_px, weights, windows, strict=True):
        u = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z + s[0] + w // 2
        v = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z + s[1] + h // 2
        depth = r[2, 0] * x + r[2, 1] * y + r[2, 2] * z
        total += weight * np.maximum(1 - np.abs(depth - centre) / width, 0) * bilinear(image, u, v)
    return total


def forward_project(volume, rotations, shifts_px, image_shape, centre_offset_px=(0, 0, 0)):
    x, y, z = centred_points(volume.shape, centre_offset_px)
    h, w = image_shape
    images = np.zeros((len(rotations), h, w))
    for image, r, s in zip(images, rotations, shifts_px, strict=True):
        u = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z + s[0] + w // 2
        v = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z + s[1] + h // 2
        u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
        for du, dv in itertools.product((0, 1), (0, 1)):
            a, b = u0 + du, v0 + dv
            inside = (a >= 0) & (a < w) & (b >= 0) & (b < h)
            weight = (1 - np.abs(u - a)) * (1 - np.abs(v - b)) * volume
            np.add.at(image, (b[inside], a[inside]), weight[inside])
    return images


def tilt_matrix(tilt_deg):
    t = np.deg2rad(tilt_deg)
    return np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]])


def back_project_aligned(rows, tilts_deg, shape, weights, shifts_px, centre_offset_px=(0, 0, 0), depth_windows=None, samples_per_px=1):
    rotations = [np.array([[samples_per_px], [1], [1]]) * tilt_matrix(t) for t in tilts_deg]
    shifts = [(samples_per_px * s, 0.0) for s in shifts_px]
    return back_project(rows.transpose(0, 2, 1), rotations, shifts, weights, shape, centre_offset_px, depth_windows)


def forward_project_aligned(volume, tilts_deg, image_shape, shifts_px, centre_offset_px=(0, 0, 0)):
    rotations = [tilt_matrix(t) for t in tilts_deg]
    shifts = [(s, 0.0) for s in shifts_px]
    images = forward_project(volume.astype(float), rotations, shifts, image_shape, centre_offset_px)
    return images.transpose(0, 2, 1)


def trilinear_ft(half, kx, ky, kz):
    """Transform at one frequency, from the eight neighbours, Friedel mate for kx < 0."""
    if kx < 0:
        return np.conj(trilinear_ft(half, -kx, -ky, -kz))
    n, c = half.shape[0], half.shape[0] // 2
    total = 0j
    x0, y0, z0 = (int(np.floor(k)) for k in (kx, ky, kz))
    for dz, dy, dx in itertools.product((0, 1), repeat=3):
        a, b, d = x0 + dx, y0 + dy + c, z0 + dz + c
        if 0 <= a < half.shape[2] and 0 <= b < n and 0 <= d < n:
            tent = (1 - abs(kx - x0 - dx)) * (1 - abs(ky - y0 - dy)) * (1 - abs(kz - z0 - dz))
            total += tent * half[d, b, a]
    return total


def signed(index, size):
    return index if index < (size + 1) // 2 else index - size


def extract_points(volume_ft, coords, pad=1):
    return np.array([trilinear_ft(volume_ft, *(pad * k)) for k in coords.astype(float)])


def sample_turned(volume_ft, matrices, points):
    return np.array([[trilinear_ft(volume_ft, *(m @ k)) for k in points] for m in matrices])


def expand_poses(volume_ft, matrices, tangents, points, data, weight, particle, shifts_px, box_px, step=1e-6):
    """Slopes by central differences along the tangents, inside the cells of the grid (a step is far smaller than the distance to their walls)."""
    m, views = matrices.shape[:2]
    out, upper = np.zeros((m, views, 28)), np.triu_indices(3)
    for i, f in itertools.product(range(m), range(views)):
        p = sample_turned(volume_ft, matrices[i, f][None], points)[0]
        slopes = []
        for t in tangents[i, f]:
            ahead, behind = (sample_turned(volume_ft, (matrices[i, f] + sign * step * t)[None], points)[0] for sign in (1, -1))
            slopes.append((ahead - behind) / (2 * step))
        d = data[particle[i], f].astype(complex) * np.exp(2j * np.pi / box_px * (points @ shifts_px[i, f]))
        w = weight[particle[i], f].astype(float)
        jacobian = [*slopes, *(-1j * k * p for k in points.T)]
        curvature = np.array([[np.sum(w * a.conj() * b).real for b in jacobian] for a in jacobian])
        line = [np.sum((d - 0.5 * w * p).conj() * p).real, *(np.sum((d - w * p).conj() * j).real for j in jacobian)]
        out[i, f] = [*line, *curvature[:3, :3][upper], *curvature[:3, 3:].ravel(), *curvature[3:, 3:][upper]]
    return out


def insert_turned(values, weights, matrices, points, n):
    places = np.einsum("mij,kj->mki", matrices, points).reshape(-1, 3)
    return splatted(places, values.ravel(), weights.ravel(), n)


def splatted(places, values, weights, box):
    """Samples and their Friedel mates at ``places`` (x, y, z) on a whole cube with a margin; then kx >= 0 is kept."""
    margin = box + 2
    data = np.zeros((2 * margin + 1,) * 3, complex)
    weight = np.zeros((2 * margin + 1,) * 3)
    for place, value, w in zip(places, values, weights, strict=True):
        for sign, sample in ((1, value), (-1, np.conj(value))):
            k = sign * place[::-1]  # z, y, x
            low = np.floor(k).astype(int)
            for d in itertools.product((0, 1), repeat=3):
                g = low + d
                tent = np.prod(1 - np.abs(k - g))
                data[tuple(g + margin)] += tent * sample
                weight[tuple(g + margin)] += tent * w
    first = margin - box // 2
    keep = (slice(first, first + box), slice(first, first + box), slice(margin, margin + box // 2 + 1))
    return data[keep], weight[keep]


def insert_slices(slices, weights, rotations, n, radius_px, pad=1):
    """Every pixel of the whole plane; columns that hold both mates count half."""
    size, places, values, shares = slices.shape[1], [], [], []
    for i, r in enumerate(np.asarray(rotations)):
        for j, p in itertools.product(range(size), range(size // 2 + 1)):
            q = signed(j, size)
            if p * p + q * q > radius_px * radius_px:
                continue
            share = 0.5 if p == 0 or 2 * p == size else 1.0
            places.append(pad * (r.T @ [p, q, 0.0]))
            values.append(slices[i, j, p] * share)
            shares.append(weights[i, j, p] * share)
    return splatted(places, values, shares, n * pad)


def gather_slices(slices, weights, rotations, n, radii_px, pad=1):
    """Every voxel reads every plane near it, from dictionaries of whole planes."""
    box, size = n * pad, slices.shape[1]
    planes = []
    for image, w in zip(slices, weights, strict=True):
        plane = {}
        for p, j in itertools.product(range(size // 2 + 1), range(size)):
            plane[p, j] = complex(image[j, p]), w[j, p]
        planes.append(plane)
    data, weight = np.zeros((box, box, box // 2 + 1), complex), np.zeros((box, box, box // 2 + 1))
    for x, y, z in itertools.product(range(box // 2 + 1), range(box), range(box)):
        k = np.array([x, y - box // 2, z - box // 2]) / pad
        for plane, turn, radius in zip(planes, np.asarray(rotations), radii_px, strict=True):
            q = turn @ k
            if np.linalg.norm(k) > radius + 1e-9 or abs(q[2]) >= 1:
                continue
            u, v = q[:2] if q[0] >= 0 else -q[:2]
            for p, j in itertools.product((np.floor(u), np.floor(u) + 1), (np.floor(v), np.floor(v) + 1)):
                share = (1 - abs(q[2])) * (1 - abs(u - p)) * (1 - abs(v - j))
                if share > 0:
                    value, w = plane[int(p) if p <= size // 2 else size // 2 - 1, int(j) % size]
                    data[z, y, x] += share * (value if q[0] >= 0 else np.conj(value))
                    weight[z, y, x] += share * w
    return data, weight


def rotate_volume(volume, rotations, radius_px=None, box=None):
    box = box or volume.shape
    x, y, z = centred_points(box)
    nz, ny, nx = volume.shape
    out = np.zeros((len(rotations), *box))
    for target, r in zip(out, np.asarray(rotations), strict=True):
        sx, sy, sz = (r.T @ np.stack([x, y, z]).reshape(3, -1)).reshape(3, *box)
        sx, sy, sz = sx + nx // 2, sy + ny // 2, sz + nz // 2
        x0, y0, z0 = (np.floor(s).astype(int) for s in (sx, sy, sz))
        for dz, dy, dx in itertools.product((0, 1), repeat=3):
            a, b, c = x0 + dx, y0 + dy, z0 + dz
            inside = (a >= 0) & (a < nx) & (b >= 0) & (b < ny) & (c >= 0) & (c < nz)
            tent = (1 - abs(sx - a)) * (1 - abs(sy - b)) * (1 - abs(sz - c))
            target[inside] += (tent * volume[np.clip(c, 0, nz - 1), np.clip(b, 0, ny - 1), np.clip(a, 0, nx - 1)])[
                inside
            ]
        if radius_px is not None:
            target[x**2 + y**2 + z**2 > radius_px**2] = 0
    return out


def phase_shift_accumulate(spectra, shifts_px, shape, weights):
    h, w = shape
    ky = np.array([signed(j, h) for j in range(h)])[:, None]
    kx = np.arange(w // 2 + 1)
    total = np.zeros((h, w // 2 + 1), complex)
    for spectrum, (dx, dy), weight in zip(spectra, shifts_px, weights, strict=True):
        total += weight * spectrum * np.exp(-2j * np.pi * (kx * dx / w + ky * dy / h))
    return total


def warp_accumulate(coefficients, displacement_px):
    h, w = coefficients.shape
    dx, dy = (_stretched(table, h, w) for table in np.asarray(displacement_px, float))
    total = np.zeros((h, w))
    y, x = np.mgrid[:h, :w]
    v, u = y + dy, x + dx
    for b, a in itertools.product(range(-2, 4), repeat=2):
        row, column = np.floor(v) + b, np.floor(u) + a
        weight = _quintic(v - row) * _quintic(u - column)
        total += weight * coefficients[row.astype(int) % h, column.astype(int) % w]
    return total


def _quintic(distance):
    """B-spline of degree 5 by truncated powers."""
    return sum((-1) ** k * math.comb(6, k) * np.clip(distance + 3 - k, 0, None) ** 5 for k in range(7)) / 120


def _stretched(table, h, w):
    """Linear interpolation of ``table`` over (h, w) pixels, corner on corner."""
    rows = np.array([np.interp(np.linspace(0, len(line) - 1, w) if w > 1 else [0], np.arange(len(line)), line) for line in table])
    place = np.linspace(0, len(table) - 1, h) if h > 1 else [0]
    return np.array([np.interp(place, np.arange(len(table)), column) for column in rows.T]).T


def sample_spline(coefficients, matrix, offset, shape):
    """Every pixel of the image adds its own B-spline to every sample: no floor, no neighbours."""
    r, c = np.mgrid[: shape[0], : shape[1]]
    v, u = (m[0] * r + m[1] * c + o for m, o in zip(np.asarray(matrix), offset, strict=True))

    def bump(t):
        t = np.abs(t)
        return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0))

    total = np.zeros(shape)
    for (j, k), value in np.ndenumerate(coefficients.astype(float)):
        total += value * bump(v - j) * bump(u - k)
    return total
