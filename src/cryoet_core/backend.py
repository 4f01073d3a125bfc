"""Which array library, which device, how much memory: the only place (with kernels/*_gpu.py) that knows hardware.

The backend is inferred from the arrays themselves, never chosen globally, and CuPy is imported only when the
caller already holds CuPy arrays or asks for a CUDA device.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from cryoet_core.errors import ResourceError, UserInputError


def _cupy_loaded():
    return sys.modules.get("cupy")


def is_gpu_array(array) -> bool:
    """True when ``array`` lives on a CUDA device."""
    cupy = _cupy_loaded()
    return cupy is not None and isinstance(array, cupy.ndarray)


def array_namespace(*arrays):
    """Return numpy or cupy, whichever library ``arrays`` belong to; plain Python numbers belong to either.

    Raises
    ------
    TypeError
        when NumPy and CuPy arrays are mixed: data must be moved explicitly with :func:`to_device`.
    """
    on_gpu = [is_gpu_array(a) for a in arrays if hasattr(a, "dtype") and getattr(a, "ndim", 0) > 0]
    if any(on_gpu):
        if not all(on_gpu):
            raise TypeError("NumPy and CuPy arrays are mixed; move them with backend.to_device first")
        return _cupy_loaded()
    return np


def fft_module(xp):
    """scipy.fft for NumPy, cupyx.scipy.fft for CuPy. numpy.fft is several times slower and never used."""
    if xp is np:
        import scipy.fft

        return scipy.fft
    import cupyx.scipy.fft

    return cupyx.scipy.fft


def ndimage_module(xp):
    """scipy.ndimage or cupyx.scipy.ndimage."""
    if xp is np:
        import scipy.ndimage

        return scipy.ndimage
    import cupyx.scipy.ndimage

    return cupyx.scipy.ndimage


def asnumpy(array) -> np.ndarray:
    """Copy to host memory if needed."""
    return array.get() if is_gpu_array(array) else np.asarray(array)


def to_device(array, device: str):
    """Move ``array`` to ``device`` ("cpu" or "cuda:N")."""
    if device == "cpu":
        return asnumpy(array)
    import cupy

    with cupy.cuda.Device(int(device.split(":")[1])):
        return cupy.asarray(array)


def gpu_available() -> bool:
    """True when CuPy is installed and sees a working device (never raises)."""
    try:
        import cupy

        return bool(cupy.cuda.is_available())
    except Exception:  # a broken CUDA installation may fail in many ways; all of them mean "no GPU"
        return False


def n_gpus() -> int:
    """CUDA devices that this process sees (never raises)."""
    if not gpu_available():
        return 0
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


def resolve_device(device: str = "auto") -> str:
    """Turn the config's ``device`` into "cpu" or "cuda:N".

    "auto" takes the first visible CUDA device if there is one, else the CPU.
    """
    if device == "cpu":
        return "cpu"
    if device == "auto":
        return "cuda:0" if gpu_available() else "cpu"
    name, _, index = device.partition(":")
    if name != "cuda" or not (index or "0").isdigit():
        raise UserInputError(
            "E-DEV-01", "unknown device", field="device", found=device, expected="auto, cpu or cuda:N"
        )
    if not gpu_available():
        raise ResourceError(
            "E-DEV-02",
            "a CUDA device was asked for but none can be used",
            field="device",
            found=device,
            fix="install the gpu12 or gpu13 extra, check nvidia-smi, or set device: auto",
        )
    return f"cuda:{index or 0}"


def current_device() -> str:
    """The device that this thread computes on: "cpu" unless CuPy is in use."""
    cupy = _cupy_loaded()
    return "cpu" if cupy is None else f"cuda:{cupy.cuda.Device().id}"


def use_device(device: str) -> str:
    """Make ``device`` the one that this thread computes on from now, where it is a GPU; returns it."""
    if device != "cpu":
        import cupy

        cupy.cuda.Device(int(device.split(":")[1])).use()
    return device


def free_memory_mb(device: str = "cpu") -> float:
    """Memory that may be planned for, MB: free device memory, or what the machine reports as available."""
    if device != "cpu":
        import cupy

        with cupy.cuda.Device(int(device.split(":")[1])):
            return cupy.cuda.runtime.memGetInfo()[0] / 2**20
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (ValueError, OSError):
        return 2048.0


def tile_size(n_items: int, bytes_per_item: int, budget_mb: float) -> int:
    """How many of ``n_items`` fit into ``budget_mb`` at once (at least one)."""
    return int(max(1, min(n_items, budget_mb * 2**20 // max(1, bytes_per_item))))
