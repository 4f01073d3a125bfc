"""A movie for tests, made in real space: Gaussian blobs drawn at moved positions, Poisson counts. No Fourier transform."""

import numpy as np


def blob_image(shape, centres, widths, heights, shift_xy):
    """1 + sum of separable Gaussians at ``centres`` (n, 2) x, y moved by ``shift_xy``."""
    y = np.arange(shape[0])[None, :]
    x = np.arange(shape[1])[None, :]
    column = np.exp(-((x - centres[:, :1] - shift_xy[0]) ** 2) / (2 * widths[:, None] ** 2))
    row = np.exp(-((y - centres[:, 1:] - shift_xy[1]) ** 2) / (2 * widths[:, None] ** 2))
    return 1 + (heights[:, None] * row).T @ column


def make_movie(rng, movement, *, shape=(208, 240), counts=100.0, contrast=0.3, n_blobs=500):
    """List of frames (h, w) float32 whose content moves by ``movement`` (n, 2) x, y px."""
    margin = 30
    centres = rng.uniform(-margin, np.array(shape[::-1]) + margin, (n_blobs, 2))
    widths = rng.uniform(1.5, 5, n_blobs)
    heights = contrast * rng.standard_normal(n_blobs)
    frames = []
    for shift in movement:
        image = blob_image(shape, centres, widths, heights, shift)
        frames.append(rng.poisson(np.clip(counts * image, 0, None)).astype(np.float32))
    return frames
