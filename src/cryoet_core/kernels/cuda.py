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
