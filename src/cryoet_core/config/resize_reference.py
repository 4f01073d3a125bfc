"""Config of resize_reference: the reference on the tomogram's grid, and its mask."""

from __future__ import annotations

from typing import ClassVar

from cryoet_core.config.base import StepModel, key


class ResizeReference(StepModel):
    """Keys of the step."""

    version: ClassVar[int] = 1
    box_px: int | None = key(None, unit="px", meaning="box at the tomogram's pixel size, even; empty = twice the particle", ge=8)
    low_pass_angst: float | None = key(None, unit="A", meaning="low-pass; empty = twice the tomogram's pixel size", gt=0)
    mask_dilate_px: float = key(1.0, unit="px", meaning="the mask is this much wider than the particle", ge=0)
    mask_edge_px: float = key(3.0, unit="px", meaning="width of the mask's soft edge", ge=0)
