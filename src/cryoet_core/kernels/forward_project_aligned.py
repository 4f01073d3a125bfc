"""Projection along y-parallel tilt axes: the exact adjoint of ``back_project_aligned`` with unit weights.

    rows[i, u, y] = sum over (z, x) of V(z, y, x) * max(0, 1 - |u - u_i(x, z)|)

with u_i as in :mod:`cryoet_core.kernels.back_project_aligned`.
"""

from __future__ import annotations

from cryoet_core.backend import is_gpu_array
from cryoet_core.kernels import forward_project_aligned_cpu, forward_project_aligned_gpu
from cryoet_core.kernels.back_project_aligned import line_map
from cryoet_core.kernels.validation import dense, output


def forward_project_aligned(volume, tilts_deg, image_shape, shifts_px=None, centre_offset_px=(0, 0, 0), out=None):
    """Projections float32 (n, w, h), y innermost, on the device of ``volume``; transpose(0, 2, 1) gives images.

    Parameters
    ----------
    volume : (nz, ny, nx) real.
    tilts_deg : (n,) degrees.
    image_shape : (h, w).
    shifts_px : (n,) x shift of each image, px, or None.
    centre_offset_px : (x, y, z) added to the centred coordinate; y must be a whole number.
    out : float32 (n, w, h) to add to; zeros when None.

    Raises
    ------
    ValueError when a shape does not fit.
    """
    volume = dense("volume", volume, 3)
    h, w = (int(s) for s in image_shape)
    rows_shape = (len(tilts_deg), w, h)
    out = output(out, rows_shape, "float32", volume)
    coefficients, _, y_offset = line_map(tilts_deg, None, shifts_px, centre_offset_px, rows_shape, volume.shape)
    implementation = forward_project_aligned_gpu if is_gpu_array(volume) else forward_project_aligned_cpu
    implementation.forward_project_aligned(volume, coefficients, y_offset, out)
    return out
