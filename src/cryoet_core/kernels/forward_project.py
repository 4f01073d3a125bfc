"""Projection of a volume into unaligned views: the exact adjoint of back-projection with unit weights.

Every voxel value is shared among the four pixels around its image point (u, v) with the bilinear weights
of :mod:`cryoet_core.kernels.back_project`, so <P x, y> = <x, P^T y>. Units: sum of voxels along the ray
(the line integral in px divided by the voxel volume of 1).
"""

from __future__ import annotations

from cryoet_core.backend import is_gpu_array
from cryoet_core.kernels import forward_project_cpu, forward_project_gpu
from cryoet_core.kernels.validation import dense, host, output, rotation_rows


def forward_project(volume, rotations, shifts_px, image_shape, centre_offset_px=(0, 0, 0), out=None):
    """Projections float32 (n, h, w) of ``volume`` (z, y, x), on the device of ``volume``.

    Parameters
    ----------
    volume : (nz, ny, nx) real.
    rotations, shifts_px, centre_offset_px : as in :func:`cryoet_core.kernels.back_project.back_project`.
    image_shape : (h, w).
    out : float32 (n, h, w) to add to; zeros when None.

    On a GPU the sums are 64-bit fixed-point integers: the result does not depend on the order of the threads.

    Raises
    ------
    ValueError when a shape does not fit.
    """
    volume = dense("volume", volume, 3)
    n = len(rotations)
    rows = rotation_rows(rotations, n)
    shifts = host("shifts_px", shifts_px, (n, 2))
    offset = host("centre_offset_px", centre_offset_px, (3,))
    h, w = (int(s) for s in image_shape)
    out = output(out, (n, h, w), "float32", volume)
    implementation = forward_project_gpu if is_gpu_array(volume) else forward_project_cpu
    implementation.forward_project(volume, rows, shifts, offset, out)
    return out
