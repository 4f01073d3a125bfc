"""An image sampled on a turned, shifted grid by cubic B-splines.

    out[r, c] = sum over (j, k) of B(v - j) B(u - k) coefficients[j, k],    (v, u) = matrix . (r, c) + offset

B is the cubic B-spline (support (-2, 2)); coefficients outside the image are zero. They are those of the spline, not the image's values:
dividing a spectrum by (2 + cos(2 pi k)) / 3 on each axis gives them.
"""

from __future__ import annotations

from cryoet_core.backend import is_gpu_array
from cryoet_core.kernels import sample_spline_cpu, sample_spline_gpu
from cryoet_core.kernels.validation import dense, host, output


def sample_spline(coefficients, matrix, offset, shape, out=None):
    """Samples float32 of ``shape`` (rows, columns), on the device of ``coefficients``.

    Parameters
    ----------
    coefficients : (h, w) real.
    matrix : (2, 2) and offset : (2,), from (row, column) of the result to (v, u) of the image, px.
    out : float32 array of ``shape`` to add to; zeros when None.

    Raises
    ------
    ValueError when a shape does not fit.
    """
    coefficients = dense("coefficients", coefficients, 2)
    matrix, offset = host("matrix", matrix, (2, 2)), host("offset", offset, (2,))
    rows, columns = (int(n) for n in shape)
    out = output(out, (rows, columns), "float32", coefficients)
    implementation = sample_spline_gpu if is_gpu_array(coefficients) else sample_spline_cpu
    implementation.sample_spline(coefficients, matrix, offset, out)
    return out
