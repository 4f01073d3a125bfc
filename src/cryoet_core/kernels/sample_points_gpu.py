"""CUDA reading at points: launches ``sample_points.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda


def extract_points(volume_ft, coords, pad, out):
    """See :func:`cryoet_core.kernels.sample_points.extract_points`; overwrites ``out``."""
    arguments = (volume_ft, coords, out, np.float32(pad), *map(np.int64, (volume_ft.shape[0], len(coords))))
    cuda.launch("sample_points", "extract_points", len(coords), arguments)


def sample_turned(volume_ft, matrices, points, out):
    """See :func:`cryoet_core.kernels.sample_points.sample_turned`; overwrites ``out``."""
    xp = array_namespace(volume_ft)
    lists = [cuda.to_namespace(xp, a, np.float32) for a in (matrices, points)]
    arguments = (volume_ft, *lists, out, *map(np.int64, (volume_ft.shape[0], len(matrices), len(points))))
    cuda.launch("sample_points", "sample_turned", out.size, arguments)
