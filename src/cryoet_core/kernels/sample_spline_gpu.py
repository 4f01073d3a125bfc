"""CUDA cubic B-splines: launches ``sample_spline.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda


def sample_spline(coefficients, matrix, offset, out):
    """See :func:`cryoet_core.kernels.sample_spline.sample_spline`; adds to ``out``."""
    xp = array_namespace(coefficients)
    lines = np.concatenate([matrix, offset[:, None]], axis=1)  # (2, 3): v and u from row, column, 1
    arguments = (
        coefficients,
        cuda.to_namespace(xp, cuda.fixed_point(lines), np.int64),
        out,
        *map(np.int64, (*coefficients.shape, *out.shape)),
    )
    cuda.launch("sample_spline", "sample_spline", out.size, arguments)
