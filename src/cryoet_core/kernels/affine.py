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


def swap_to_fast_axis(coefficients):
    """Which images should be transposed so that a step along x moves mostly along their contiguous axis, (n,) bool."""
    return np.abs(coefficients[:, 1, 0]) > np.abs(coefficients[:, 0, 0])
