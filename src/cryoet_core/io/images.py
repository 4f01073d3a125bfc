"""Images that tables name: "000003@folder/stack.mrc" is section 3 (counted from 1) of that stack."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.mrc import iter_sections, read_header

if TYPE_CHECKING:
    from cryoet_core.metadata import TiltSeries

_SECTION = re.compile(r"(\d+)@(.+)$", re.DOTALL)


def image_name(index: int, path: str | os.PathLike) -> str:
    """Name of section `index` (0-based) of a stack: "000001@path" for index 0."""
    return f"{index + 1:06d}@{os.fspath(path)}"


def image_names(count: int, path: str | os.PathLike) -> list[str]:
    """Names of the first `count` sections of a stack, in order."""
    return [image_name(index, path) for index in range(count)]


def split_image_name(name: str) -> tuple[int, str]:
    """(0-based section, path); a name without "n@" is section 0 of that file."""
    match = _SECTION.match(name)
    return (int(match[1]) - 1, match[2]) if match else (0, name)


def load_named_images(names: list[str]) -> np.ndarray:
    """(n, h, w) float32 in the order of `names`. Each file is opened once for its consecutive names.

    Raises UserInputError E-IMG-01 (no names), E-IMG-02 (sizes differ), and the errors of io.mrc.
    """
    if len(names) == 0:
        raise UserInputError("E-IMG-01", "no images to load", fix="check that the table has rows")
    parts = [split_image_name(str(name)) for name in names]
    shape = read_header(parts[0][1]).shape[1:]
    images = np.empty((len(parts), *shape), dtype=np.float32)  # (n, h, w)
    start = 0
    while start < len(parts):
        path = parts[start][1]
        stop = start
        while stop < len(parts) and parts[stop][1] == path:
            stop += 1
        sections = [section for section, _ in parts[start:stop]]
        for row, image in zip(range(start, stop), iter_sections(path, sections), strict=True):
            if image.shape != shape:
                raise UserInputError(
                    "E-IMG-02", "images of one series differ in size", file=path, field="size (h, w)",
                    found=str(image.shape), expected=str(shape), fix="exclude this image or import the series again",
                )
            images[row] = image
        start = stop
    return images


def load_images(series: TiltSeries, column: str = "image") -> np.ndarray:
    """Images named in a column (image, image_even, image_odd) of a tilt series -> (n_rows, h, w) float32.

    Raises UserInputError E-IMG-03 when the table has no such column; see load_named_images.
    """
    if column not in series.tilts.columns:
        raise UserInputError(
            "E-IMG-03", "the table names no such images", field=column, found=", ".join(series.tilts.columns),
            expected=column, fix="run the step that makes these images first",
        )
    return load_named_images(series.tilts[column].tolist())
