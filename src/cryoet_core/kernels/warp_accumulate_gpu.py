"""CUDA warp: launches ``warp_accumulate.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda


def warp_accumulate(coefficients, table, out):
    """See :func:`cryoet_core.kernels.warp_accumulate.warp_accumulate`; adds to ``out``."""
    xp = array_namespace(coefficients)
    table = cuda.to_namespace(xp, table, np.float32)
    sizes = map(np.int64, (*out.shape, *table.shape[1:]))
    cuda.launch("warp_accumulate", "warp_accumulate", out.size, (coefficients, table, out, *sizes))
