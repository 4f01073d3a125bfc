"""Images that tables name: "000003@folder/stack.mrc" is section 3 (counted from 1) of that stack."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.mrc import iter_sections, read_header, read_section
from cryoet_core.io.repairs import read_repairs

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


def _check_size(image: np.ndarray, shape: tuple[int, int], path: str) -> None:
    if image.shape != shape:
        raise UserInputError(
            "E-IMG-02", "images of one series differ in size", file=path, field="size (h, w)",
            found=str(image.shape), expected=str(shape), fix="exclude this image or import the series again",
        )


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
            _check_size(image, shape, path)
            images[row] = image
        start = stop
    return images


COLUMNS = ("image", "image_even", "image_odd")
REPAIRS = "xray_repairs"  # column that names the list of repaired pixels of a row's images


class Views:
    """Images (h, w) that are read when they are asked for, one at a time; a sequence, so that every pass over them reads them again.

    shape : (n, h, w). read : row -> image.
    """

    def __init__(self, shape: tuple[int, int, int], read: Callable[[int], np.ndarray]) -> None:
        self.shape, self._read = shape, read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self._read(int(row))

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._read, range(len(self)))

    def map(self, change: Callable) -> Views:
        """The same views, each given to ``change(row, image)`` when it is read."""
        return Views(self.shape, lambda row: change(row, self._read(row)))


def series_views(series: TiltSeries, column: str = "image") -> Views:
    """Images named in a column (image, image_even, image_odd) of a tilt series, float32, their listed pixels repaired.

    The only place that knows of repairs. Raises UserInputError E-IMG-01 (no rows), E-IMG-03 (no such column), E-IMG-04 to 06 (the list of repairs,
    which is read here, is missing or wrong); while reading E-IMG-02 (sizes differ), E-IMG-05 and the errors of io.mrc.
    """
    if column not in series.tilts.columns:
        raise UserInputError(
            "E-IMG-03", "the table names no such images", field=column, found=", ".join(series.tilts.columns),
            expected=column, fix="run the step that makes these images first",
        )
    if len(series) == 0:
        raise UserInputError("E-IMG-01", "no images to load", fix="check that the table has rows")
    parts = [split_image_name(str(name)) for name in series.tilts[column]]
    lists = series.tilts[REPAIRS].tolist() if REPAIRS in series.tilts else [None] * len(series)
    repairs = {path: read_repairs(path) for path in dict.fromkeys(lists) if path is not None}  # missing ones are errors
    shape = read_header(parts[0][1]).shape[1:]

    def read(row: int) -> np.ndarray:
        section, path = parts[row]
        image = read_section(path, section)
        _check_size(image, shape, path)
        if lists[row] is None:
            return image
        return repairs[lists[row]].apply(image, path, int(series.tilts["tilt_id"].iloc[row]), COLUMNS.index(column))

    return Views((len(series), *shape), read)


def load_images(series: TiltSeries, column: str = "image") -> np.ndarray:
    """All :func:`series_views` at once, (n_rows, h, w) float32: for images that are small."""
    views = series_views(series, column)
    images = np.empty(views.shape, dtype=np.float32)  # (n, h, w)
    for row, image in enumerate(views):
        images[row] = image
    return images
