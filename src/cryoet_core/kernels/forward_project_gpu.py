"""CUDA projection: launches ``forward_project.cu`` and turns its fixed-point sums into float32."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda
from cryoet_core.kernels.affine import index_map


def forward_project(volume, rows, shifts_px, offset_px, out):
    """See :func:`cryoet_core.kernels.forward_project.forward_project`; adds to ``out``."""
    xp = array_namespace(volume)
    coefficients = index_map(rows, shifts_px, volume.shape, offset_px, out.shape[1:])
    scale = cuda.fixed_scale(float(abs(volume).max()), volume.size)
    sums = xp.zeros(out.shape, xp.int64)
    arguments = (
        volume,
        cuda.to_namespace(xp, cuda.fixed_point(coefficients), np.int64),
        sums,
        np.float64(scale),
        *map(np.int64, (*out.shape, *volume.shape)),
    )
    cuda.launch("forward_project", "forward_project", volume.size, arguments)
    out += (sums * (1.0 / scale)).astype(xp.float32)
