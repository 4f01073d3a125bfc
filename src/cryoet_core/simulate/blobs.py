"""A specimen of Gaussian blobs and its exact projections: formulas that share nothing with the code they test."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates


def project(points_px, geometry, pixel):
    """(n, m, 2): where points are seen, px from the image's centre; the model written out angle by angle."""
    x, y, z = points_px.T
    seen = []
    for i in range(len(geometry)):
        t, a, b = np.deg2rad([geometry.y_tilt_deg[i], geometry.z_rot_deg[i], geometry.x_tilt_deg[i]])
        yy, zz = y * np.cos(b) - z * np.sin(b), y * np.sin(b) + z * np.cos(b)
        across = x * np.cos(t) + zz * np.sin(t)
        shift = np.array([geometry.x_shift_angst[i], geometry.y_shift_angst[i]]) / pixel
        seen.append(np.stack([across * np.cos(a) - yy * np.sin(a), across * np.sin(a) + yy * np.cos(a)], axis=1) + shift)
    return np.array(seen)


def views(points_px, masses, sigmas, geometry, pixel, shape):
    """(n, h, w) float32: line integrals, in density x px, of dark blobs of height ``masses`` and width ``sigmas`` (px)."""
    y, x = (np.arange(n) - n // 2 for n in shape)
    images = np.zeros((len(geometry), *shape))
    for image, seen in zip(images, project(points_px, geometry, pixel), strict=True):
        for (u, v), mass, s in zip(seen, masses, sigmas, strict=True):
            gy, gx = (np.exp(-((a - c) ** 2) / (2 * s * s)) for a, c in ((y, v), (x, u)))
            image -= mass * np.sqrt(2 * np.pi) * s * gy[:, None] * gx
    return images.astype(np.float32)


def volume(points_px, masses, sigmas, size_px):
    """The blobs in a volume (nz, ny, nx)."""
    axes = [np.arange(n) - n // 2 for n in size_px]
    total = np.zeros(size_px[::-1])
    for point, mass, s in zip(points_px, masses, sigmas, strict=True):
        gx, gy, gz = (np.exp(-((a - c) ** 2) / (2 * s * s)) for a, c in zip(axes, point, strict=True))
        total -= mass * gz[:, None, None] * gy[:, None] * gx
    return total


def crowd(rng, count, box_px):
    """(points, masses, sigmas) of random blobs in a box (x, y, z)."""
    return rng.uniform(-0.5, 0.5, (count, 3)) * box_px, rng.uniform(0.5, 1.5, count), rng.uniform(1.3, 3.0, count)


def balanced_crowd(rng, count, box_px):
    """A :func:`crowd` with bright surroundings that cancel the blobs: no slow densities, which a slab would not keep."""
    points, masses, sigmas = crowd(rng, count, box_px)
    return np.concatenate([points, points]), np.concatenate([masses, -masses / 8]), np.concatenate([0.7 * sigmas, 1.4 * sigmas])


def sums_along_rays(volume_zyx, tilt_deg):
    """(every third row from 8 to ny - 8, nx): a view of (nz, ny, nx) at axis 0 deg, by splines of SciPy in steps of half a pixel."""
    nz, ny, nx = volume_zyx.shape
    t, x, r = np.deg2rad(tilt_deg), np.arange(nx) - nx // 2, np.arange(-nx, nx + 1) * 0.5
    along_x = x * np.cos(t) - r[:, None] * np.sin(t) + nx // 2
    along_z = x * np.sin(t) + r[:, None] * np.cos(t) + nz // 2
    return np.array([0.5 * map_coordinates(volume_zyx[:, y], [along_z, along_x], order=3).sum(axis=0) for y in range(8, ny - 8, 3)])
