"""Running maximum over orientations: the inner step of template matching.

    where scores * norm > best:   best = scores * norm,  best_index = index

A tie keeps the earlier index and NaN never wins, so the result does not depend on how the volume is tiled.
"""

from __future__ import annotations

from cryoet_core.backend import array_namespace, is_gpu_array
from cryoet_core.kernels import max_update_cpu, max_update_gpu
from cryoet_core.kernels.validation import in_place


def max_update(scores, best, best_index, index, norm=None):
    """Update ``best`` (float32) and ``best_index`` (int32) in place.

    Parameters
    ----------
    scores : float32 C-contiguous, any shape.
    best, best_index : same shape, float32 and int32.
    index : the number of this orientation.
    norm : None (1), a number, or a float32 array of the same shape (for example 1 / local standard deviation).

    Raises
    ------
    ValueError when a shape or type does not fit (nothing is converted: these arrays are large).
    """
    array_namespace(scores, best, best_index)
    in_place("scores", scores, scores.shape, "float32", scores)
    in_place("best", best, scores.shape, "float32", scores)
    in_place("best_index", best_index, scores.shape, "int32", scores)
    scale = 1.0
    if getattr(norm, "ndim", 0) > 0:
        in_place("norm", norm, scores.shape, "float32", scores)
    else:
        scale, norm = 1.0 if norm is None else float(norm), None
    implementation = max_update_gpu if is_gpu_array(scores) else max_update_cpu
    implementation.max_update(scores, best, best_index, int(index), norm, scale)
