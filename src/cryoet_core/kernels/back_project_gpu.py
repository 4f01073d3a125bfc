"""CUDA back-projection: launches ``back_project.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda
from cryoet_core.kernels.affine import index_map


def back_project(images, rows, shifts_px, weights, hats, shape, offset_px, out, first_y):
    """See :func:`cryoet_core.kernels.back_project.back_project`; adds to ``out``."""
    xp = array_namespace(images)
    coefficients = index_map(rows, shifts_px, shape, offset_px, images.shape[1:])
    arguments = (
        images,
        cuda.to_namespace(xp, cuda.fixed_point(coefficients), np.int64),
        cuda.to_namespace(xp, weights, np.float32),
        cuda.to_namespace(xp, hats, np.float32),
        out,
        *map(np.int64, (*images.shape, *out.shape, first_y)),
    )
    cuda.launch("back_project", "back_project", out.size, arguments)
