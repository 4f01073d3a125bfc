"""CUDA slice extraction: launches ``extract_slices.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda


def extract_slices(volume_ft, rotations, radius_px, pad, out):
    """See :func:`cryoet_core.kernels.extract_slices.extract_slices`; overwrites ``out``."""
    xp = array_namespace(volume_ft)
    rows = cuda.to_namespace(xp, rotations[:, :2] * pad, np.float32)
    limit = np.float64(radius_px * radius_px + 1e-6)
    m, size, _ = out.shape
    arguments = (volume_ft, rows, out, limit, *map(np.int64, (volume_ft.shape[0], m, size)))
    cuda.launch("extract_slices", "extract_slices", out.size, arguments)


def extract_points(volume_ft, coords, pad, out):
    """See :func:`cryoet_core.kernels.extract_slices.extract_points`; overwrites ``out``."""
    arguments = (volume_ft, coords, out, np.float32(pad), *map(np.int64, (volume_ft.shape[0], len(coords))))
    cuda.launch("extract_slices", "extract_points", len(coords), arguments)


def sample_turned(volume_ft, matrices, points, out):
    """See :func:`cryoet_core.kernels.extract_slices.sample_turned`; overwrites ``out``."""
    xp = array_namespace(volume_ft)
    lists = [cuda.to_namespace(xp, a, np.float32) for a in (matrices, points)]
    arguments = (volume_ft, *lists, out, *map(np.int64, (volume_ft.shape[0], len(matrices), len(points))))
    cuda.launch("extract_slices", "sample_turned", out.size, arguments)
