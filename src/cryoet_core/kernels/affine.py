"""The affine map from voxel indices to image indices, shared by back- and forward projection."""

from __future__ import annotations

import numpy as np


def index_map(rows, shifts_px, shape, offset_px, image_shape):
    """Coefficients (n, 2, 4) float64: image index (u, v) = c[:, :, 0:3] . (ix, iy, iz) + c[:, :, 3].

    ``rows`` (n, 2, 3) projection rows, ``shifts_px`` (n, 2), ``shape`` (nz, ny, nx), ``offset_px`` (x, y, z),
    ``image_shape`` (h, w). The image index is that of the unpadded image.
    """
    nz, ny, nx = shape
    h, w = image_shape
    origin = np.array([-(nx // 2), -(ny // 2), -(nz // 2)], dtype=np.float64) + offset_px
    coefficients = np.empty((len(rows), 2, 4))
    coefficients[:, :, :3] = rows
    coefficients[:, :, 3] = rows @ origin + shifts_px + np.array([w // 2, h // 2])
    return coefficients


def hat_map(depth_rows, depth_windows, shape, offset_px):
    """Coefficients (n, 4) float64 of p = c[:, 0:3] . (ix, iy, iz) + c[:, 3], the distance of a voxel from the centre of its depth window.

    ``depth_rows`` (n, 3), ``depth_windows`` (n, 2) centre and half width (px) or None; p is 0 without a window or for an infinite one.
    """
    coefficients = np.zeros((len(depth_rows), 4))
    if depth_windows is None:
        return coefficients
    nz, ny, nx = shape
    origin = np.array([-(nx // 2), -(ny // 2), -(nz // 2)], dtype=np.float64) + offset_px
    finite = np.isfinite(depth_windows[:, 1])
    centre, half_width = depth_windows[finite].T
    coefficients[finite, :3] = depth_rows[finite] / half_width[:, None]
    coefficients[finite, 3] = (depth_rows[finite] @ origin - centre) / half_width
    return coefficients


def swap_to_fast_axis(coefficients):
    """Which images should be transposed so that a step along x moves mostly along their contiguous axis, (n,) bool."""
    return np.abs(coefficients[:, 1, 0]) > np.abs(coefficients[:, 0, 0])


def stretch(rows):
    """(largest length factor, smallest area factor) of the plane maps k -> kx rows[i, 0] + ky rows[i, 1].

    ``rows`` (m, 2, 3); both are 1 for rotations, and the values of the oversampling for oversampled transforms.
    """
    gram = np.einsum("nij,nkj->nik", rows, rows)
    a, b, c = gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]
    longest = np.sqrt((a + c) / 2 + np.hypot((a - c) / 2, b))
    area = np.sqrt(np.maximum(a * c - b * b, 0.0))
    return float(longest.max(initial=0.0)), float(area.min(initial=np.inf))
