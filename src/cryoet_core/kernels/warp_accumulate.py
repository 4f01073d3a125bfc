"""Sum of images warped by a smooth displacement, read with a B-spline of degree 5.

    out(y, x) += sum_ab B5(y + dy - a) B5(x + dx - b) coefficients(a, b),        indices periodic

so content that lies at (x + dx, y + dy) is moved to (x, y). The displacement is given on a coarse table whose corners are the centres
of the corner pixels, linear in between. The coefficients are the image divided, in Fourier space, by
:func:`spline_response`: then a displacement by whole pixels changes no value (Unser 1999, IEEE Signal Processing Magazine 16(6), 22).
"""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import is_gpu_array
from cryoet_core.kernels import warp_accumulate_cpu, warp_accumulate_gpu
from cryoet_core.kernels.validation import dense, host, output


def warp_accumulate(coefficients, displacement_px, out=None):
    """Add the warped image to ``out``.

    Parameters
    ----------
    coefficients : float32 (h, w), B-spline coefficients of degree 5 of the image.
    displacement_px : (2, gy, gx), (dx, dy) on a table over the image: where the content of each pixel of ``out`` is read.
    out : float32 (h, w) to add to; zeros when None.

    Raises
    ------
    ValueError when a shape does not fit or a displacement is not finite.
    """
    coefficients = dense("coefficients", coefficients, 2)
    table = host("displacement_px", displacement_px, (2, None, None))
    if min(table.shape) == 0:
        raise ValueError(f"displacement_px must not be empty, found shape {table.shape}")
    out = output(out, coefficients.shape, "float32", coefficients)
    implementation = warp_accumulate_gpu if is_gpu_array(coefficients) else warp_accumulate_cpu
    implementation.warp_accumulate(coefficients, table.astype(np.float32), out)
    return out


def spline_response(frequencies):
    """What sampling a B-spline of degree 5 does to a frequency (cycles/px); divide by it along x and y to get coefficients."""
    angle = 2 * np.pi * np.asarray(frequencies, dtype=np.float64)
    return (66 + 52 * np.cos(angle) + 2 * np.cos(2 * angle)) / 120

