"""Numba running maximum: memory-bound, one pass, vectorised selects."""

from __future__ import annotations

import numpy as np
from numba import njit

from cryoet_core.kernels.threads import for_blocks, spans

BLOCK = 1 << 20


def max_update(scores, best, best_index, index, norm, scale):
    """See :func:`cryoet_core.kernels.max_update.max_update`."""
    flat, top, where = scores.reshape(-1), best.reshape(-1), best_index.reshape(-1)
    number, factor = np.int32(index), np.float32(scale)
    if norm is None:
        for_blocks(
            lambda a, b: update_scaled(flat[a:b], top[a:b], where[a:b], number, factor), spans(0, flat.size, BLOCK)
        )
    else:
        ratio = norm.reshape(-1)
        for_blocks(
            lambda a, b: update_mapped(flat[a:b], top[a:b], where[a:b], number, ratio[a:b]),
            spans(0, flat.size, BLOCK),
        )


@njit(cache=True, nogil=True)
def update_scaled(scores, best, best_index, index, scale):
    """Running maximum of scores * scale."""
    for i in range(scores.size):
        value = scores[i] * scale
        better = value > best[i]
        best[i] = value if better else best[i]
        best_index[i] = index if better else best_index[i]


@njit(cache=True, nogil=True)
def update_mapped(scores, best, best_index, index, norm):
    """Running maximum of scores * norm, voxel by voxel."""
    for i in range(scores.size):
        value = scores[i] * norm[i]
        better = value > best[i]
        best[i] = value if better else best[i]
        best_index[i] = index if better else best_index[i]
