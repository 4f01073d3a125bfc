"""A small tilt series made without the library: Gaussian blobs in a slab, projected one by one."""

import numpy as np


def view_axes(tilt_deg, axis_deg):
    """(n, 2, 3): how (x, y, z) of the specimen maps to image (u, v), written out by hand."""
    t, a = np.deg2rad(np.asarray(tilt_deg, float)), np.deg2rad(axis_deg)
    rows = []
    for angle in t:
        across = np.array([np.cos(angle), 0.0, np.sin(angle)])
        along = np.array([0.0, 1.0, 0.0])
        rows.append([across * np.cos(a) - along * np.sin(a), across * np.sin(a) + along * np.cos(a)])
    return np.array(rows)


def blob_series(rng, *, shape=(112, 120), pixel=14.0, tilts=None, axis=86.0, offset=2.0, thickness=600.0,
                n_blobs=700, max_shift=90.0, noise=2.0):
    """Dark blobs on counts-free background. Returns images (n, h, w) float32, nominal tilts, true shifts (n, 2) in A."""
    tilts = np.arange(-48, 49, 6.0) if tilts is None else np.asarray(tilts, float)
    reach = 1.3 * max(shape) * pixel
    points = rng.uniform(-0.5, 0.5, (n_blobs, 3)) * [2 * reach, 2 * reach, thickness]
    sigma, weight = rng.uniform(12, 35, n_blobs), rng.uniform(0.5, 1.5, n_blobs)
    shifts = rng.uniform(-max_shift, max_shift, (tilts.size, 2))
    v = (np.arange(shape[0]) - shape[0] // 2) * pixel
    u = (np.arange(shape[1]) - shape[1] // 2) * pixel
    images = np.zeros((tilts.size, *shape), np.float32)
    for i, axes in enumerate(view_axes(tilts + offset, axis)):
        x, y = axes @ points.T + shifts[i][:, None]
        in_u = np.exp(-((u[None] - x[:, None]) ** 2) / (2 * sigma[:, None] ** 2))
        in_v = np.exp(-((v[None] - y[:, None]) ** 2) / (2 * sigma[:, None] ** 2))
        images[i] = -(in_v * weight[:, None]).T @ in_u
    images += noise * images.std() * rng.standard_normal(images.shape, dtype=np.float32)
    return images, tilts, shifts
