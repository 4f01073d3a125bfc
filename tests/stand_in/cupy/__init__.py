"""A stand-in for CuPy on the CPU, as strict as CuPy about what lives where.

Its arrays hold NumPy arrays but are none: mixing them with NumPy arrays, converting them silently, indexing with a 0-d
array or calling a function that CuPy lacks raises, as on a device. CUDA sources run through g++ (``cuda_shim``). It shows
that a step keeps to the device of its arrays; it says nothing about speed, or about races between threads.
"""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace

import numpy as np

from cupy._array import anywhere, device_only, ndarray, on_device

TYPES = ("bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", "complex64", "complex128")
CONSTANTS = ("newaxis", "pi", "inf", "nan", "e")
# Functions that CuPy 14 has; a new one is added here once CuPy is seen to have it, with the same keywords.
FUNCTIONS = """
abs all any arange argmax argmin argpartition argsort ascontiguousarray asarray array atleast_2d bincount broadcast_arrays broadcast_to
clip concatenate conj cos count_nonzero cumsum deg2rad diagonal dot einsum empty empty_like exp eye flatnonzero flip floor full full_like
hypot interp isfinite isnan linspace log log1p logical_and logical_not logical_or matmul max maximum mean median meshgrid min minimum
moveaxis nonzero ones ones_like outer pad percentile prod quantile rad2deg repeat reshape rint roll searchsorted sign sin sinc sort sqrt
square stack std sum take take_along_axis tensordot tile transpose triu unique unravel_index vdot where zeros zeros_like absolute angle arctan2
cosh tanh sinh tan expand_dims squeeze swapaxes var round nan_to_num isin ravel split diff amax amin fmod mod floor_divide divide multiply
add subtract negative power exp2 log2 log10 logaddexp greater less equal not_equal greater_equal less_equal bitwise_and bitwise_or invert
true_divide reciprocal real imag remainder ceil trunc sum cumprod copyto may_share_memory cross trace nanmean nansum nanmax nanmedian
""".split()
FROM_HOST = ("asarray", "array")  # they take NumPy arrays: that is how data come to the device

for _name in TYPES + CONSTANTS:
    globals()[_name] = getattr(np, _name)
for _name in FUNCTIONS:
    globals()[_name] = on_device(getattr(np, _name), _name, anywhere if _name in FROM_HOST else device_only)


def asnumpy(array):
    return array.get() if isinstance(array, ndarray) else np.asarray(array)


def _all(module, names):
    return SimpleNamespace(**{n: on_device(getattr(module, n), n) for n in names.split()})


linalg = _all(np.linalg, "qr eigh svd inv norm solve cholesky det")
fft = _all(np.fft, "fftfreq rfftfreq fftshift ifftshift")


class Device(contextlib.AbstractContextManager):
    def __init__(self, index=0):
        self.id = index

    def __exit__(self, *_):
        return None

    def synchronize(self):
        return None

    def use(self):
        return self


class Event:
    """A point in time of the host: the stand-in has done everything when a call returns."""

    def record(self, stream=None):
        self.time = time.perf_counter()

    def synchronize(self):
        return None


class RawModule:
    """The CUDA source compiled by g++."""

    def __init__(self, *, code, options=()):
        self.code = code

    def get_function(self, name):
        import cuda_shim

        def launch(blocks, threads, arguments):
            cuda_shim.run(self.code, name, blocks[0], threads[0], [a._host if isinstance(a, ndarray) else a for a in arguments])

        return launch


cuda = SimpleNamespace(
    Device=Device,
    Event=Event,
    get_elapsed_time=lambda start, end: 1e3 * (end.time - start.time),  # ms
    is_available=lambda: True,
    runtime=SimpleNamespace(
        getDeviceCount=lambda: 1, memGetInfo=lambda: (4 << 30, 4 << 30), deviceSynchronize=lambda: None,
        driverGetVersion=lambda: 0, runtimeGetVersion=lambda: 0,
        getDeviceProperties=lambda index: {"name": b"stand-in", "totalGlobalMem": 4 << 30, "multiProcessorCount": 1, "major": 0, "minor": 0},
    ),
)


def get_default_memory_pool():
    return SimpleNamespace(free_all_blocks=lambda: None, used_bytes=lambda: 0, total_bytes=lambda: 0)
