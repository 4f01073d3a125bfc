"""CUDA back-projection of aligned stacks: launches ``back_project_aligned.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda


def back_project_aligned(rows, coefficients, weights, y_offset, hats, out, first_y):
    """See :func:`cryoet_core.kernels.back_project_aligned.back_project_aligned`; adds to ``out``."""
    xp = array_namespace(rows)
    arguments = (
        xp.ascontiguousarray(rows),
        cuda.to_namespace(xp, cuda.fixed_point(coefficients), np.int64),
        cuda.to_namespace(xp, weights, np.float32),
        cuda.to_namespace(xp, hats, np.float32),
        out,
        *map(np.int64, (*rows.shape, *out.shape, first_y + y_offset)),
    )
    cuda.launch("back_project_aligned", "back_project_aligned", out.size, arguments)
