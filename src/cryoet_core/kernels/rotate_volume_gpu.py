"""CUDA rotation: launches ``rotate_volume.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda


def rotate_volume(volume, rotations, radius_px, out):
    """See :func:`cryoet_core.kernels.rotate_volume.rotate_volume`; overwrites ``out``."""
    xp = array_namespace(volume)
    matrices = cuda.to_namespace(xp, rotations.reshape(-1, 9), np.float32)
    arguments = (volume, matrices, out, np.float64(radius_px**2 + 1e-6), *map(np.int64, (*out.shape, *volume.shape)))
    cuda.launch("rotate_volume", "rotate_volume", out.size, arguments)
