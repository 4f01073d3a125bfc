"""Back-projection of unaligned tilt images: one interpolation from the raw, filtered view to the voxel.

For the voxel with centred coordinate X = (x, y, z) px (index - n//2 on each axis, plus ``centre_offset_px``)::

    (u, v) = (R_i X + s_i)[:2] + (w//2, h//2)          point in image i, px, R_i first two rows of rotations[i]
    V(X)   = sum_i weights[i] * I_i(u, v)              bilinear, pixels outside the image are zero

R_i is :attr:`cryoet_core.geometry.tilt_geometry.TiltGeometry.rotation` and s_i its shift divided by the pixel size.
With ``depth_windows`` the term of image i is multiplied by max(0, 1 - |d - centre_i| / half_width_i), where d is the third
component of R_i X: images that hold for one depth each (CTF-corrected at one defocus) are so interpolated along depth.
The exact adjoint (all weights one, no windows) is :func:`cryoet_core.kernels.forward_project.forward_project`.
"""

from __future__ import annotations

from cryoet_core.backend import is_gpu_array
from cryoet_core.kernels import back_project_cpu, back_project_gpu
from cryoet_core.kernels.affine import hat_map
from cryoet_core.kernels.validation import (
    dense,
    depth_rows,
    depth_windows_of,
    host,
    output,
    rotation_rows,
    volume_shape,
    y_slices,
)


def back_project(
    images, rotations, shifts_px, weights, shape, centre_offset_px=(0, 0, 0), out=None, y_range=None, depth_windows=None
):
    """Sum of the back-projected images, float32 (z, y, x), on the device of ``images``.

    Parameters
    ----------
    images : (n, h, w) real, already filtered, not aligned.
    rotations : (n, 3, 3) or (n, 2, 3), acting on (x, y, z) column vectors.
    shifts_px : (n, 2), (x, y) of the projected volume centre relative to index (w//2, h//2).
    weights : (n,) factor of each image, or None for ones.
    shape : (nz, ny, nx) of the whole volume.
    centre_offset_px : (x, y, z) added to the centred coordinate, for a box elsewhere in the specimen.
    out : float32 array of the returned shape to add to; zeros when None.
    y_range : (first, end): only these y slices are made; the result is then (nz, end - first, nx).
    depth_windows : (n, 2) centre and half width, px, of the depths that image i is used for (needs 3 x 3 rotations); infinite or
        None for all depths.

    Raises
    ------
    ValueError when a shape does not fit.
    """
    images = dense("images", images, 3)
    n = images.shape[0]
    nz, ny, nx = volume_shape(shape)
    first, end = y_slices(y_range, ny)
    rows = rotation_rows(rotations, n)
    shifts = host("shifts_px", shifts_px, (n, 2))
    weights = host("weights", [1.0] * n if weights is None else weights, (n,))
    offset = host("centre_offset_px", centre_offset_px, (3,))
    out = output(out, (nz, end - first, nx), "float32", images)
    hats = hat_map(depth_rows(rotations, depth_windows, n), depth_windows_of(depth_windows, n), (nz, ny, nx), offset)
    implementation = back_project_gpu if is_gpu_array(images) else back_project_cpu
    implementation.back_project(images, rows, shifts, weights, hats, (nz, ny, nx), offset, out, first)
    return out
