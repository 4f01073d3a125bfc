"""Where a kernel can run in a test: numba, the CUDA source under g++, a real GPU."""

from __future__ import annotations

import importlib
import shutil
from contextlib import contextmanager
from unittest import mock

import cuda_shim
import numpy as np
import pytest

from cryoet_core import backend, kernels
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


@contextmanager
def on_device(device):
    """Within the context every contract runs on ``device``; yields a :class:`Mover`."""
    if device != "cuda source":
        yield Mover(device == "gpu")
        return
    with mock.patch.object(cuda, "launch", cuda_shim.launch):
        patches = [_use_gpu_module(module) for module in sorted({k.module for k in kernels.KERNELS})]
        try:
            yield Mover(False)
        finally:
            for patch in patches:
                patch.stop()


def _use_gpu_module(name):
    contract = importlib.import_module(f"cryoet_core.kernels.{name}")
    gpu = importlib.import_module(f"cryoet_core.kernels.{name}_gpu")
    patch = mock.patch.object(contract, f"{name}_cpu", gpu)
    patch.start()
    return patch
