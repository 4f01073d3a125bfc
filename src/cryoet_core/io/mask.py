"""Masks that users give: MRC files whose values must say what is inside (1) and outside (0)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.mrc import read_mrc

_OVERSHOOT = 0.05  # of soft edges that were interpolated or filtered
_BYTE = 255.0


@dataclass(frozen=True)
class GivenMask:
    """values: (nz, ny, nx) float32, 0 to 1. warnings: what was changed, what looks odd."""

    values: np.ndarray
    warnings: tuple[str, ...] = ()


def read_mask(path: str | os.PathLike, field: str, pixel_size_angst: float) -> GivenMask:
    """The mask of an MRC file, in which 1 is inside and 0 outside; `field` is the key that names it.

    Two values, 0 and another, and bytes from 0 to 255 are scaled to 0..1, overshoot of soft edges is cut: both with a
    warning. So is a pixel size other than `pixel_size_angst`, that of the volume it masks (1 A is what programs write
    that know none).

    Raises UserInputError E-MASK-01 for other values and for a mask with nothing inside, and what read_mrc raises.
    """
    values, pixel = read_mrc(path)
    mask, warnings = _zero_to_one(values, path, field)
    if pixel not in (0.0, 1.0) and abs(pixel / pixel_size_angst - 1) > 0.01:
        warnings = (
            *warnings,
            f"the mask {path} has pixels of {pixel:g} A, what it masks {pixel_size_angst:g} A: was it made for this?",
        )
    return GivenMask(mask, warnings)


def _zero_to_one(values: np.ndarray, path, field: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(the values scaled to 0..1, what was changed or looks odd). Raises UserInputError E-MASK-01."""
    low, high = float(values.min()) + 0.0, float(values.max()) + 0.0  # no "-0" in messages
    found = f"values {low:g} to {high:g}"
    if low >= 0 and 0.5 < high <= 1:
        return values, _full(low, path)
    if low == 0 and high > 0 and bool(np.all((values == 0) | (values == high))):
        return (values > 0).astype(np.float32), (
            f"the mask {path} has the values 0 and {high:g}: {high:g} is taken as 1 (inside)",
        )
    if low == 0 and high == _BYTE and bool(np.all(values == np.rint(values))):
        return values / np.float32(_BYTE), (f"the mask {path} has bytes from 0 to 255: they are divided by 255",)
    if -_OVERSHOOT <= low and 0.5 < high <= 1 + _OVERSHOOT:
        return np.clip(values, 0, 1), (f"the mask {path} has {found}: they are cut to 0..1", *_full(low, path))
    distinct = np.unique(values[: min(len(values), 64)])
    if len(distinct) <= 8:
        found += f" ({', '.join(f'{v + 0.0:g}' for v in distinct)})"
    raise UserInputError(
        "E-MASK-01",
        "nothing is inside this mask" if low == high == 0 else "these are not the values of a mask",
        file=os.fspath(path),
        field=field,
        found=found,
        expected="0 outside, 1 inside, between them at a soft edge",
        fix="write the mask with values from 0 to 1; of several labels, with 1 where particles may be and 0 elsewhere",
    )


def _full(low: float, path) -> tuple[str, ...]:
    return (f"the mask {path} leaves nothing out: its smallest value is {low:g}",) if low > 0.5 else ()
