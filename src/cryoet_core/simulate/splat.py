"""Gaussian beads onto pixel grids: the real-space projector. Each bead adds exactly its weight."""

from __future__ import annotations

import math

import numba
import numpy as np

SUBPIXEL_STEPS = 256


def gaussian_table(sigma_px: float) -> np.ndarray:
    """(SUBPIXEL_STEPS, 2r+1) float32 weights of a Gaussian at sub-pixel offsets in [-0.5, 0.5) px; rows sum to one."""
    radius = max(1, math.ceil(4.0 * sigma_px))
    offset = (np.arange(SUBPIXEL_STEPS) + 0.5) / SUBPIXEL_STEPS - 0.5
    distance = np.arange(-radius, radius + 1)[None, :] - offset[:, None]
    weights = np.exp(-0.5 * (distance / sigma_px) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@numba.njit(cache=True)
def splat_image(image, points_px, weights, table):
    """Add beads to ``image`` (h, w) in place; ``points_px`` (n, 2) are (x, y) as array indices. Outside is dropped."""
    height, width = image.shape
    size = table.shape[1]
    radius = size // 2
    for bead in range(points_px.shape[0]):
        x, y = points_px[bead, 0], points_px[bead, 1]
        ix, iy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        if ix < -radius or iy < -radius or ix >= width + radius or iy >= height + radius:
            continue
        wx = table[min(SUBPIXEL_STEPS - 1, int((x - ix + 0.5) * SUBPIXEL_STEPS))]
        wy = table[min(SUBPIXEL_STEPS - 1, int((y - iy + 0.5) * SUBPIXEL_STEPS))]
        first, last = max(0, radius - ix), min(size, width + radius - ix)
        for j in range(max(0, radius - iy), min(size, height + radius - iy)):
            value = weights[bead] * wy[j]
            row = iy + j - radius
            for i in range(first, last):
                image[row, ix + i - radius] += value * wx[i]


@numba.njit(cache=True)
def project_beads(images, beads_angst, weights, matrices, offsets_px, pixel_size_angst, table):
    """Project rotated copies of one molecule, one image each, in place.

    images (n, h, w) float32; beads_angst (b, 3) (x, y, z); matrices (n, 3, 3) turn molecule into camera axes, only
    their first two rows (u, v) matter; offsets_px (n, 2) is the index (x, y) where the molecule's origin lands.
    """
    points = np.empty((beads_angst.shape[0], 2), np.float32)
    for copy in range(images.shape[0]):
        m = (matrices[copy] / pixel_size_angst).astype(np.float32)
        ox, oy = np.float32(offsets_px[copy, 0]), np.float32(offsets_px[copy, 1])
        for b in range(beads_angst.shape[0]):
            x, y, z = beads_angst[b, 0], beads_angst[b, 1], beads_angst[b, 2]
            points[b, 0] = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + ox
            points[b, 1] = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + oy
        splat_image(images[copy], points, weights, table)


@numba.njit(cache=True)
def splat_blobs(image, points_px, weights, sigma_px):
    """Add Gaussians of individual width: image (h, w) in place, points (n, 2) (x, y) indices, sigma (n,) px."""
    height, width = image.shape
    for blob in range(points_px.shape[0]):
        x, y, sigma = points_px[blob, 0], points_px[blob, 1], sigma_px[blob]
        reach = 3.5 * sigma
        x0, x1 = int(max(0, np.ceil(x - reach))), int(min(width - 1, np.floor(x + reach)))
        y0, y1 = int(max(0, np.ceil(y - reach))), int(min(height - 1, np.floor(y + reach)))
        scale = weights[blob] / (2 * np.pi * sigma * sigma)
        along_x = np.exp(-0.5 * ((np.arange(x0, x1 + 1) - x) / sigma) ** 2)
        for row in range(y0, y1 + 1):
            along_y = scale * np.exp(-0.5 * ((row - y) / sigma) ** 2)
            for i in range(along_x.size):
                image[row, x0 + i] += along_y * along_x[i]


@numba.njit(cache=True)
def splat_discs(image, point_px, profile, steps_per_px):
    """Add a round object to ``image`` (h, w) in place: its value at distance r px of ``point_px`` (x, y) is ``profile``
    at r * ``steps_per_px``, between entries by a straight line, beyond the last zero."""
    height, width = image.shape
    x, y = point_px[0], point_px[1]
    last = profile.size - 1
    reach = last / steps_per_px
    for row in range(int(max(0, np.ceil(y - reach))), int(min(height - 1, np.floor(y + reach))) + 1):
        half = np.sqrt(max(0.0, reach**2 - (row - y) ** 2))
        for col in range(int(max(0, np.ceil(x - half))), int(min(width - 1, np.floor(x + half))) + 1):
            at = np.sqrt((row - y) ** 2 + (col - x) ** 2) * steps_per_px
            low = min(int(at), last - 1)
            image[row, col] += profile[low] + (at - low) * (profile[low + 1] - profile[low])


@numba.njit(cache=True)
def splat_volume(volume, points_px, weights, table):
    """Add beads to ``volume`` (z, y, x) in place; ``points_px`` (n, 3) are (x, y, z) as array indices."""
    depth, height, width = volume.shape
    size = table.shape[1]
    radius = size // 2
    for bead in range(points_px.shape[0]):
        x, y, z = points_px[bead, 0], points_px[bead, 1], points_px[bead, 2]
        ix, iy, iz = int(np.floor(x + 0.5)), int(np.floor(y + 0.5)), int(np.floor(z + 0.5))
        wx = table[min(SUBPIXEL_STEPS - 1, int((x - ix + 0.5) * SUBPIXEL_STEPS))]
        wy = table[min(SUBPIXEL_STEPS - 1, int((y - iy + 0.5) * SUBPIXEL_STEPS))]
        wz = table[min(SUBPIXEL_STEPS - 1, int((z - iz + 0.5) * SUBPIXEL_STEPS))]
        for k in range(max(0, radius - iz), min(size, depth + radius - iz)):
            for j in range(max(0, radius - iy), min(size, height + radius - iy)):
                value = weights[bead] * wz[k] * wy[j]
                for i in range(max(0, radius - ix), min(size, width + radius - ix)):
                    volume[iz + k - radius, iy + j - radius, ix + i - radius] += value * wx[i]
