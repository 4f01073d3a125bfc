"""Masks that users give: MRC files whose values must say what is inside (1) and outside (0)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from cryoet_core.io.mrc import read_mrc
from cryoet_core.masks import scaled_mask


@dataclass(frozen=True)
class GivenMask:
    """values: (nz, ny, nx) float32, 0 to 1. warnings: what was changed, what looks odd."""

    values: np.ndarray
    warnings: tuple[str, ...] = ()


def read_mask(path: str | os.PathLike, field: str, pixel_size_angst: float) -> GivenMask:
    """The mask of an MRC file; `field` is the key that names it, `pixel_size_angst` that of the volume it masks.

    Its values are brought to 0..1 (see masks.scaled_mask). A warning says so; and where it leaves nothing out, or has other
    pixels than what it masks (1 A is what programs write that know none).

    Raises UserInputError E-MASK-01 for values of no mask, and what read_mrc raises.
    """
    stored, pixel = read_mrc(path)
    values, changed = scaled_mask(stored, field, os.fspath(path))
    warnings = [changed] if changed else []
    if (least := float(values.min())) > 0.5:
        warnings.append(f"the mask {path} leaves nothing out: its smallest value is {least:g}")
    if pixel not in (0.0, 1.0) and abs(pixel / pixel_size_angst - 1) > 0.01:
        warnings.append(
            f"the mask {path} has pixels of {pixel:g} A, what it masks {pixel_size_angst:g} A: was it made for this?"
        )
    return GivenMask(values, tuple(warnings))
