"""CUDA expansion of poses: one thread per pose, view and segment of the list; the segments are added in their order afterwards."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda

SEGMENT = 256  # points of one thread


def expand_poses(volume_ft, matrices, tangents, points, data, weight, particle, shifts_px, box_px, out):
    """See :func:`cryoet_core.kernels.expand_poses.expand_poses`; overwrites ``out``."""
    xp = array_namespace(volume_ft)
    m, views, n_sums = out.shape
    count = len(points)
    segments = -(-count // SEGMENT)
    parts = xp.zeros((m, views, segments, n_sums), "float64")
    geometry = [cuda.to_namespace(xp, a, np.float32) for a in (matrices, tangents, points, shifts_px * (2 * np.pi / box_px))]
    rows = cuda.to_namespace(xp, particle, np.int64)
    sizes = map(np.int64, (volume_ft.shape[0], m, views, count, segments, SEGMENT))
    cuda.launch("expand_poses", "expand_poses", m * views * segments, (volume_ft, *geometry, rows, data, weight, parts, *sizes))
    out[:] = parts.sum(axis=2)
