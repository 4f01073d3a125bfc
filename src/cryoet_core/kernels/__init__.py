"""Loops that need two hand-written implementations, each behind one contract.

``<name>.py`` holds the mathematics, the checks and the choice by array type; ``<name>_cpu.py`` is numba,
``<name>_gpu.py`` launches the CUDA source ``<name>.cu``. :data:`KERNELS` lists them for the tests that run every kernel
on every device, compile every CUDA source, and time them.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryoet_core.kernels.back_project import back_project
from cryoet_core.kernels.back_project_aligned import back_project_aligned
from cryoet_core.kernels.expand_poses import expand_poses
from cryoet_core.kernels.forward_project import forward_project
from cryoet_core.kernels.forward_project_aligned import forward_project_aligned
from cryoet_core.kernels.gather_slices import gather_slices
from cryoet_core.kernels.insert_slices import insert_slices, insert_turned, new_accumulator, split_accumulator
from cryoet_core.kernels.max_update import max_update
from cryoet_core.kernels.phase_shift_accumulate import phase_shift_accumulate
from cryoet_core.kernels.rotate_volume import rotate_volume
from cryoet_core.kernels.sample_points import extract_points, sample_turned
from cryoet_core.kernels.sample_spline import sample_spline
from cryoet_core.kernels.warp_accumulate import spline_response, warp_accumulate


@dataclass(frozen=True)
class Kernel:
    """One contract (the public function), its module name, and the modules of its two implementations."""

    name: str
    contract: object
    module: str

    @property
    def cpu(self) -> str:
        return f"cryoet_core.kernels.{self.module}_cpu"

    @property
    def gpu(self) -> str:
        return f"cryoet_core.kernels.{self.module}_gpu"


_CONTRACTS = (
    (back_project, "back_project"),
    (back_project_aligned, "back_project_aligned"),
    (forward_project, "forward_project"),
    (forward_project_aligned, "forward_project_aligned"),
    (expand_poses, "expand_poses"),
    (extract_points, "sample_points"),
    (sample_turned, "sample_points"),
    (insert_slices, "insert_slices"),
    (insert_turned, "insert_slices"),
    (gather_slices, "gather_slices"),
    (rotate_volume, "rotate_volume"),
    (sample_spline, "sample_spline"),
    (max_update, "max_update"),
    (phase_shift_accumulate, "phase_shift_accumulate"),
    (warp_accumulate, "warp_accumulate"),
)
KERNELS = tuple(Kernel(function.__name__, function, module) for function, module in _CONTRACTS)

__all__ = [
    "KERNELS",
    "Kernel",
    "back_project",
    "back_project_aligned",
    "expand_poses",
    "extract_points",
    "forward_project",
    "forward_project_aligned",
    "gather_slices",
    "insert_slices",
    "insert_turned",
    "max_update",
    "new_accumulator",
    "phase_shift_accumulate",
    "rotate_volume",
    "spline_response",
    "sample_spline",
    "sample_turned",
    "split_accumulator",
    "warp_accumulate",
]
