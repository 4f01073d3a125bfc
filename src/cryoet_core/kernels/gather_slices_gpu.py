"""CUDA slice gathering: launches ``gather_slices.cu``, one thread per voxel."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda


def gather_slices(slices, weights, matrices, radii, accumulator):
    """See :func:`cryoet_core.kernels.gather_slices.gather_slices`; adds to ``accumulator``."""
    xp = array_namespace(slices)
    m, size, _ = slices.shape
    n = accumulator.shape[0]
    arguments = (
        slices,
        weights,
        cuda.to_namespace(xp, np.ascontiguousarray(matrices), np.float64),
        cuda.to_namespace(xp, radii, np.float64),
        accumulator,
        *map(np.int64, (m, size, n)),
    )
    cuda.launch("gather_slices", "gather_slices", n * n * (n // 2 + 1), arguments)
