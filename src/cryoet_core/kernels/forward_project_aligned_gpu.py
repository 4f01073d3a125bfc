"""CUDA projection along y-parallel tilt axes: launches ``forward_project_aligned.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda


def forward_project_aligned(volume, coefficients, y_offset, out):
    """See :func:`cryoet_core.kernels.forward_project_aligned.forward_project_aligned`; adds to ``out``."""
    xp = array_namespace(volume)
    arguments = (
        xp.ascontiguousarray(volume.transpose(0, 2, 1)),
        cuda.to_namespace(xp, cuda.fixed_point(coefficients), np.int64),
        out,
        *map(np.int64, (*out.shape, *volume.shape, y_offset)),
    )
    cuda.launch("forward_project_aligned", "forward_project_aligned", out.size, arguments)
