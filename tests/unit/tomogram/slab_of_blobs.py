"""Gaussian blobs and their exact projections, from formulas of the tests' own."""

import numpy as np


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
