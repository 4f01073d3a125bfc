"""CUDA slice insertion: launches ``insert_slices.cu`` and adds its fixed-point sums to the float64 accumulator."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda
from cryoet_core.kernels.affine import stretch

TERMS_PER_SLICE = 64  # a plane of unit pixels has fewer in the cube of side two around a grid point, mates included


def insert_slices(slices, weights, rotations, radius_px, pad, accumulator):
    """See :func:`cryoet_core.kernels.insert_slices.insert_slices`; adds to ``accumulator``."""
    xp = array_namespace(slices)
    m, size, _ = slices.shape
    rows = rotations[:, :2] * pad
    n_terms = int(min(2 * slices.size, TERMS_PER_SLICE * m / min(1.0, max(stretch(rows)[1], 1e-12))))
    geometry = (cuda.to_namespace(xp, rows, np.float64),)
    limits = (np.float64(radius_px * radius_px + 1e-6),)
    _add("insert_slices", slices, weights, geometry, limits, (m, size, accumulator.shape[0]), n_terms, accumulator)


def insert_turned(values, weights, matrices, points, accumulator):
    """See :func:`cryoet_core.kernels.insert_slices.insert_turned`; adds to ``accumulator``."""
    xp = array_namespace(values)
    geometry = tuple(cuda.to_namespace(xp, a, np.float64) for a in (matrices, points))
    sizes = (*values.shape, accumulator.shape[0])
    _add("insert_turned", values, weights, geometry, (), sizes, 2 * values.size, accumulator)


def _add(kernel, values, weights, geometry, limits, sizes, n_terms, accumulator):
    """Launch ``kernel`` on fixed-point sums that ``n_terms`` values cannot overflow, and add them to the accumulator."""
    xp = array_namespace(values)
    data_scale = cuda.fixed_scale(float(abs(values).max()), n_terms)
    weight_scale = cuda.fixed_scale(float(abs(weights).max()), n_terms)
    sums = xp.zeros(accumulator.shape, xp.int64)
    scales = (np.float64(data_scale), np.float64(weight_scale))
    arguments = (values, weights, *geometry, sums, *limits, *scales, *map(np.int64, sizes))
    cuda.launch("insert_slices", kernel, values.size, arguments)
    accumulator[..., :2] += sums[..., :2] * (1.0 / data_scale)
    accumulator[..., 2] += sums[..., 2] * (1.0 / weight_scale)
