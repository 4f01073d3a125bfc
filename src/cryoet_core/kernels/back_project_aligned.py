"""Back-projection of a stack whose tilt axis runs along y: y innermost, no gather, the fastest form on a CPU.

With centred voxel coordinates (x, y, z) px and tilt angle t_i::

    u_i = samples_per_px (x cos t_i + z sin t_i + shift_i) + w//2,     V(z, y, x) = sum_i weights[i] * rows[i, u_i, y]

linear in u, zero outside; v is y itself (rows of image and volume meet at index n//2). Equal to
:func:`cryoet_core.kernels.back_project.back_project` with R_i = Ry(t_i) and shift (shift_i, 0) when there is one sample per pixel.
"""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, is_gpu_array
from cryoet_core.kernels import back_project_aligned_cpu, back_project_aligned_gpu
from cryoet_core.kernels.affine import hat_map
from cryoet_core.kernels.validation import depth_windows_of, host, output, volume_shape, y_slices


def back_project_aligned(
    rows, tilts_deg, shape, weights=None, shifts_px=None, centre_offset_px=(0, 0, 0), out=None, y_range=None, depth_windows=None,
    samples_per_px=1,
):
    """Sum of the back-projected images, float32 (z, y, x), on the device of ``rows``.

    Parameters
    ----------
    rows : (n, w, h) filtered images with y innermost; the view ``images.transpose(0, 2, 1)`` is fine (no copy needed).
    tilts_deg : (n,) stage angle (y_tilt), degrees.
    shape : (nz, ny, nx) of the whole volume.
    weights, shifts_px : (n,) factor and x shift (px) of each image; None for ones and zeros.
    centre_offset_px : (x, y, z) added to the centred coordinate; y must be a whole number.
    out : float32 array of the returned shape to add to, in host memory also a part of a larger one; zeros when None.
    y_range : (first, end): only these y slices are made.
    depth_windows : (n, 2) centre and half width, px, of the depths d_i = -x sin t_i + z cos t_i that image i is used for, with
        weight max(0, 1 - |d - centre| / half_width); infinite or None for all depths.
    samples_per_px : along u the images are sampled this many times finer than the volume.

    Raises
    ------
    ValueError when a shape does not fit or the y offset is not whole.
    """
    rows = array_namespace(rows).asarray(rows, dtype="float32")
    if rows.ndim != 3 or rows.size == 0:
        raise ValueError(f"rows must be (n, w, h), found {rows.shape}")
    nz, ny, nx = volume_shape(shape)
    first, end = y_slices(y_range, ny)
    out = output(out, (nz, end - first, nx), "float32", rows, part=True)
    lines = line_map(tilts_deg, weights, shifts_px, centre_offset_px, rows.shape, (nz, ny, nx), samples_per_px)
    implementation = back_project_aligned_gpu if is_gpu_array(rows) else back_project_aligned_cpu
    hats = aligned_hats(tilts_deg, depth_windows, (nz, ny, nx), centre_offset_px)
    implementation.back_project_aligned(rows, *lines, hats, out, first)
    return out


def aligned_hats(tilts_deg, depth_windows, shape, centre_offset_px):
    """(n, 3): distance from the centre of the depth window, p = c0 ix + c1 iz + c2; zeros without windows."""
    tilts = np.deg2rad(np.asarray(tilts_deg, dtype=np.float64))
    rows = np.stack([-np.sin(tilts), np.zeros_like(tilts), np.cos(tilts)], axis=1)
    hats = hat_map(rows, depth_windows_of(depth_windows, len(tilts)), shape, host("centre_offset_px", centre_offset_px, (3,)))
    return hats[:, [0, 2, 3]]


def line_map(tilts_deg, weights, shifts_px, centre_offset_px, rows_shape, shape, samples_per_px=1):
    """(coefficients (n, 3), weights (n,), y_offset): u index = c0 ix + c1 iz + c2, image row = iy + y_offset."""
    n, w, h = rows_shape
    nz, ny, nx = shape
    tilts = np.deg2rad(host("tilts_deg", tilts_deg, (n,)))
    weights = host("weights", np.ones(n) if weights is None else weights, (n,))
    shifts = host("shifts_px", np.zeros(n) if shifts_px is None else shifts_px, (n,))
    dx, dy, dz = host("centre_offset_px", centre_offset_px, (3,))
    if dy != round(dy):
        raise ValueError(f"the y part of centre_offset_px must be whole, found {dy}")
    cos, sin = samples_per_px * np.cos(tilts), samples_per_px * np.sin(tilts)
    start = (dx - nx // 2) * cos + (dz - nz // 2) * sin + samples_per_px * shifts + w // 2
    return np.stack([cos, sin, start], axis=1), weights, int(dy) - ny // 2 + h // 2
