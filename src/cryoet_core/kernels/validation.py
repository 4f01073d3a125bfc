"""Argument checks shared by the kernel contracts: shapes and types are settled before a loop without checks runs."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy


def dense(name, array, ndim, dtype=np.float32):
    """``array`` as a C-contiguous array of ``dtype`` on its own device; ValueError when ndim differs or it is empty."""
    xp = array_namespace(array)
    array = xp.ascontiguousarray(xp.asarray(array), dtype=dtype)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"{name} must have {ndim} dimensions and no empty axis, found shape {array.shape}")
    return array


def host(name, array, shape):
    """Small geometry as C-contiguous float64 in host memory; ``None`` in ``shape`` matches any length."""
    array = np.ascontiguousarray(asnumpy(array), dtype=np.float64)
    fits = array.ndim == len(shape) and all(w in (None, s) for s, w in zip(array.shape, shape, strict=True))
    if not fits:
        raise ValueError(f"{name} must have shape {shape}, found {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite")
    return array


def rotation_rows(rotations, n):
    """First two rows of ``n`` rotation matrices, (n, 2, 3) float64; accepts (n, 3, 3) or (n, 2, 3)."""
    rotations = np.asarray(asnumpy(rotations), dtype=np.float64)
    if rotations.ndim == 3 and rotations.shape[1:] == (3, 3):
        rotations = rotations[:, :2]
    return host("rotations", rotations, (n, 2, 3))


def depth_rows(rotations, windows, n):
    """Third rows (n, 3) of the rotations; zeros without windows, when they are not needed."""
    return np.zeros((n, 3)) if windows is None else host("rotations", rotations, (n, 3, 3))[:, 2]


def depth_windows_of(windows, n):
    """(n, 2) centre and half width in px, half widths positive (infinity: no window); None stays None."""
    if windows is None:
        return None
    windows = np.ascontiguousarray(asnumpy(windows), dtype=np.float64)
    if windows.shape != (n, 2) or not np.isfinite(windows[:, 0]).all() or not (windows[:, 1] > 0).all():
        raise ValueError(f"depth_windows must be ({n}, 2): finite centres, positive half widths; found {windows.shape}")
    return windows


def volume_shape(shape):
    """(nz, ny, nx) as positive Python ints."""
    shape = tuple(int(s) for s in shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be three positive lengths (z, y, x), found {shape}")
    return shape


def y_slices(y_range, ny):
    """(first, end) of the y slices asked for; None means all."""
    first, end = (0, ny) if y_range is None else (int(y_range[0]), int(y_range[1]))
    if not 0 <= first < end <= ny:
        raise ValueError(f"y_range must lie in 0..{ny}, found {y_range}")
    return first, end


def output(out, shape, dtype, like, zero=True, part=False):
    """``out`` after checking it (it is added to), or a new array of zeros on the device of ``like``.

    part : in host memory ``out`` may be a part of a larger array, contiguous along its last axis.
    """
    xp = array_namespace(like)
    if out is None:
        return xp.zeros(shape, dtype) if zero else xp.empty(shape, dtype)
    in_place("out", out, shape, dtype, like, part)
    return out


def in_place(name, array, shape, dtype, like, part=False):
    """Raise ValueError or TypeError unless ``array`` can be written in place by a kernel; part: see :func:`output`."""
    xp = array_namespace(array, like)
    fits = array.flags.c_contiguous or (part and xp is np and array.strides[-1] == array.itemsize)
    if array.shape != tuple(shape) or array.dtype != np.dtype(dtype) or not fits:
        raise ValueError(
            f"{name} must be C-contiguous {np.dtype(dtype)} of shape {tuple(shape)}, "
            f"found {array.dtype} {array.shape}"
        )


def transform_box(name, shape):
    """Box size n of a half-complex cube (n, n, n//2 + 1)."""
    n = shape[0]
    if len(shape) != 3 or shape != (n, n, n // 2 + 1):
        raise ValueError(f"{name} must have shape (n, n, n//2 + 1), found {shape}")
    return n
