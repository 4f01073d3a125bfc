"""CUDA running maximum: launches ``max_update.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.kernels import cuda


def max_update(scores, best, best_index, index, norm, scale):
    """See :func:`cryoet_core.kernels.max_update.max_update`."""
    mapped = norm is not None
    arguments = (
        scores,
        norm if mapped else scores,
        best,
        best_index,
        np.float32(scale),
        np.int32(mapped),
        np.int32(index),
        np.int64(scores.size),
    )
    cuda.launch("max_update", "max_update", scores.size, arguments)
