"""Repaired pixels of a tilt series: a list beside its stacks, instead of stacks that differ from them in a few pixels.

A STAR file. data_global names the three stacks that it belongs to and the size of their images; data_repairs has one row per pixel:
the view, the place (tlColumn along x and tlRow along y, counted from 0, row 0 at the bottom) and the new values of the full, even and odd image.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.errors import UserInputError
from cryoet_core.io.star import find_block, read_star, write_star

_VALUES = ("tlValue", "tlValueEven", "tlValueOdd")
_STACKS = ("rlnMicrographName", "rlnMicrographNameEven", "rlnMicrographNameOdd")
_FIX = "run erase_xrays again"


@dataclass(frozen=True)
class Repairs:
    """tilt_id, row, column : (n,) int64. values : (n, 3) float32, of the full, even and odd image. stacks : their three files. size_px : (w, h)."""

    tilt_id: np.ndarray
    row: np.ndarray
    column: np.ndarray
    values: np.ndarray
    stacks: tuple[str, str, str]
    size_px: tuple[int, int]

    def __len__(self) -> int:
        return len(self.tilt_id)

    def of_view(self, tilt_id: int, part: int):
        """(rows, columns, values) of one view; part : 0 full, 1 even, 2 odd."""
        own = self.tilt_id == tilt_id
        return self.row[own], self.column[own], self.values[own, part]

    def apply(self, image: np.ndarray, stack: str, tilt_id: int, part: int) -> np.ndarray:
        """``image`` (h, w), which was read from ``stack``, with its pixels replaced, in place.

        Raises UserInputError E-IMG-05 when the list belongs to another stack, or to images of another size.
        """
        h, w = image.shape
        if stack != self.stacks[part] or (w, h) != self.size_px:
            raise UserInputError(
                "E-IMG-05", "the list of repaired pixels belongs to other images", file=stack, field="stack, size (w, h)",
                found=f"{stack}, {(w, h)}", expected=f"{self.stacks[part]}, {self.size_px}", fix=_FIX,
            )
        rows, columns, values = self.of_view(tilt_id, part)
        image[rows, columns] = values
        return image


def write_repairs(repairs: Repairs, path: str | os.PathLike) -> None:
    """Write the list, sorted by view, row and column, atomically."""
    order = np.lexsort((repairs.column, repairs.row, repairs.tilt_id))
    table = pd.DataFrame({"tlTiltId": repairs.tilt_id[order], "tlColumn": repairs.column[order], "tlRow": repairs.row[order]})
    table = table.assign(**dict(zip(_VALUES, repairs.values[order].T, strict=True)))
    about = {"tlImageSizeX": repairs.size_px[0], "tlImageSizeY": repairs.size_px[1], **dict(zip(_STACKS, repairs.stacks, strict=True))}
    write_star(path, {"global": about, "repairs": table})


def read_repairs(path: str | os.PathLike) -> Repairs:
    """Read the list. Raises UserInputError E-IMG-04 (absent), E-IMG-06 (a pixel outside the images), E-STAR-*."""
    path = os.fspath(path)
    if not Path(path).is_file():
        raise UserInputError("E-IMG-04", "the list of repaired pixels is missing", file=path, field="tlXrayRepairs", fix=_FIX)
    return _read(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: str, changed_ns: int) -> Repairs:
    """The list as it is since ``changed_ns``; full, even and odd views are read together and share it."""
    blocks = read_star(path)
    about, table = find_block(blocks, "global", path), find_block(blocks, "repairs", path)
    try:
        tilt_id, column, row = (table[label].to_numpy(np.int64) for label in ("tlTiltId", "tlColumn", "tlRow"))
        values = np.stack([table[label].to_numpy(np.float32) for label in _VALUES], axis=1)
        size = int(about["tlImageSizeX"]), int(about["tlImageSizeY"])
        stacks = tuple(str(about[label]) for label in _STACKS)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserInputError(
            "E-IMG-06", "this is not a list of repaired pixels", file=path, found=str(error), fix=_FIX,
        ) from error
    outside = (column < 0) | (column >= size[0]) | (row < 0) | (row >= size[1])
    if outside.any():
        first = int(np.argmax(outside))
        raise UserInputError(
            "E-IMG-06", "a repaired pixel lies outside the images", file=path, field="tlColumn, tlRow",
            found=f"{column[first]}, {row[first]}", expected=f"below {size[0]}, {size[1]}", fix=_FIX,
        )
    return Repairs(tilt_id, row, column, values, stacks, size)
