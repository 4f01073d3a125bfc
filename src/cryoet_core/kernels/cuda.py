"""Compile and launch CUDA C++ sources through CuPy (NVRTC, cached on disk by CuPy)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np

THREADS = 256


def source(name: str) -> str:
    """Text of the CUDA source ``<name>.cu`` of this package."""
    return files("cryoet_core.kernels").joinpath(f"{name}.cu").read_text(encoding="utf-8")


@cache
def _module(name: str, device: int):
    import cupy

    return cupy.RawModule(code=source(name), options=("--std=c++14",))


def launch(name: str, function: str, n_threads: int, arguments) -> None:
    """Run ``function`` of ``<name>.cu`` with one thread per item on the current device.

    Arguments are device arrays (passed as pointers) and NumPy scalars of exactly the type the source declares.
    """
    import cupy

    for argument in arguments:
        if not isinstance(argument, (cupy.ndarray, np.generic)):
            raise TypeError(f"{function}: {type(argument)} is neither a device array nor a NumPy scalar")
    kernel = _module(name, cupy.cuda.Device().id).get_function(function)
    kernel((-(-int(n_threads) // THREADS),), (THREADS,), tuple(arguments))


def to_namespace(xp, array, dtype):
    """Small host table as a contiguous array of ``xp`` (a copy to the device when ``xp`` is CuPy)."""
    return xp.asarray(np.ascontiguousarray(array, dtype=dtype))


def fixed_point(coordinates):
    """Index coordinates as int64 with 32 fraction bits, the form the projection sources take."""
    return np.rint(np.asarray(coordinates, np.float64) * 2.0**32).astype(np.int64)


def fixed_scale(largest: float, n_terms: int) -> float:
    """Power of two by which values up to ``largest`` may be multiplied so that ``n_terms`` of them fit into int64.

    Raises
    ------
    ValueError when ``largest`` is not finite: integers cannot carry NaN or infinity.
    """
    if not np.isfinite(largest):
        raise ValueError("values to be summed on the device must be finite")
    bound = largest * max(1, n_terms)
    return 1.0 if bound == 0 else 2.0 ** np.clip(np.floor(61.0 - np.log2(bound)), -1000, 1000)
