"""Where code can run in a test: the CPU, a stand-in for a GPU (CUDA sources under g++), a real GPU."""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cryoet_core import backend
from cryoet_core.kernels import cuda

DEVICES = [
    "cpu",
    pytest.param(
        "cuda source",
        marks=pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to run CUDA sources on the CPU"),
    ),
    pytest.param(
        "gpu",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not backend.gpu_available(), reason="no CUDA device (or no CuPy)"),
        ],
    ),
]


class Mover:
    """Moves test arrays to a device and results back."""

    def __init__(self, gpu: bool):
        self.gpu = gpu

    def device(self, array):
        return backend.to_device(array, "cuda:0") if self.gpu else np.array(array)

    def host(self, result):
        return tuple(map(backend.asnumpy, result)) if isinstance(result, tuple) else backend.asnumpy(result)

    def arguments(self, kernel, args):
        """Geometry stays on the host; per-pixel arrays go where the data are."""
        if kernel.name == "expand_poses":
            return [self.device(a) if i in (3, 4) else a for i, a in enumerate(args)]
        on_device = {"insert_slices": 1, "insert_turned": 1, "gather_slices": 1, "extract_points": 1}.get(kernel.name, 0)
        return [self.device(a) if i < on_device else a for i, a in enumerate(args)]


STAND_IN = Path(__file__).with_name("stand_in")
GPU_MODULES = ("cupy", "cupyx")


@contextmanager
def on_device(device):
    """Within the context code can run on ``device``; yields a :class:`Mover` to and from it."""
    if device != "cuda source":
        yield Mover(device == "gpu")
        return
    with stand_in_for_cupy():
        yield Mover(True)


@contextmanager
def stand_in_for_cupy():
    """``import cupy`` finds the stand-in of this folder, also where the real one is installed."""
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in GPU_MODULES}
    sys.path.insert(0, str(STAND_IN))
    cuda._module.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(STAND_IN))
        cuda._module.cache_clear()
        for name in [name for name in sys.modules if name.split(".")[0] in GPU_MODULES]:
            del sys.modules[name]
        sys.modules.update(others)
