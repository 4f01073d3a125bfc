"""Defect maps of a camera: an image (non-zero = defect), MotionCor's text file of boxes, or SerialEM's list of defects."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.io.gain import Gain, read_gain_image, repeat_pixels

_IMAGES = {".mrc", ".mrcs", ".st", ".map", ".tif", ".tiff", ".dm3", ".dm4"}
MAX_DEFECT_FRACTION = 0.05


def _bad_line(path, number: int, line: str, expected: str) -> UserInputError:
    return UserInputError("E-DEF-02", "not a list of defects", file=path, field=f"line {number}", found=line[:60] or "an empty file",
                          expected=expected, fix="correct this line, or give a map (MRC, TIFF)")


def _integers(path, number: int, line: str, words: list[str]) -> list[int]:
    try:
        values = [int(word) for word in words]
    except ValueError:
        values = [-1]
    if min(values, default=-1) < 0:
        raise _bad_line(path, number, line, "whole numbers, not negative")
    return values


def _boxes(path, lines, shape: tuple[int, int]) -> np.ndarray:
    """MotionCor's boxes "x y w h" on a movie of ``shape``; (x, y) from 0 is the corner nearest to the first pixel of row 0."""
    bad = np.zeros(shape, dtype=bool)
    for number, line in lines:
        values = _integers(path, number, line, re.split(r"[\s,]+", line))
        if len(values) != 4:
            raise _bad_line(path, number, line, "x y w h")
        x, y, w, h = values
        if x + w > shape[1] or y + h > shape[0]:
            raise _wrong_size(path, f"line {number}: x to {x + w}, y to {y + h}", shape, "give the boxes for this movie's size")
        bad[y : y + h, x : x + w] = True
    return bad


def _mark(bad: np.ndarray, key: str, values: list[int]) -> bool:
    """Mark one entry of SerialEM's list (rows from the top) on ``bad``; False if its numbers do not fit the keyword."""
    if key == "badcolumns":
        bad[:, values] = True
    elif key == "badrows":
        bad[values] = True
    elif key == "badpixels" and len(values) % 2 == 0:
        bad[values[1::2], values[::2]] = True
    elif key == "partialbadcolumn" and len(values) == 4:
        column, width, first, last = values
        bad[first : last + 1, column : column + width] = True
    elif key == "partialbadrow" and len(values) == 4:
        row, height, first, last = values
        bad[row : row + height, first : last + 1] = True
    else:
        return False
    return True


_SERIALEM_LISTS = ("badcolumns", "badrows", "badpixels", "partialbadcolumn", "partialbadrow")


def _serialem(path, lines, shape: tuple[int, int]) -> np.ndarray:
    """SerialEM's list on its own camera size, which must be that of movies of ``shape``, or twice or half of it. Its
    y counts from the top of the image (IMOD flips it too); the result has row 0 at the bottom."""
    size, entries = {}, []
    for number, line in lines:
        key, *words = line.split()
        if key.lower() in ("camerasizex", "camerasizey"):
            size[key.lower()[-1]] = (_integers(path, number, line, words) or [0])[0]
        elif key.lower() in _SERIALEM_LISTS:
            entries.append((number, line, key.lower(), _integers(path, number, line, words)))
    if not (size.get("x") and size.get("y")):
        raise _bad_line(path, *lines[0], "CameraSizeX and CameraSizeY in the file")
    if not any((size["y"] * a, size["x"] * a) == (shape[0] * b, shape[1] * b) for a, b in ((1, 1), (1, 2), (2, 1))):
        raise _not_this_camera(path, (size["y"], size["x"]), shape)  # before memory is asked for
    bad = np.zeros((size["y"], size["x"]), dtype=bool)
    for number, line, key, values in entries:
        try:
            fits = _mark(bad, key, values)
        except IndexError:
            fits = False
        if not fits:
            raise _bad_line(path, number, line, f"{key} inside {size['x']} x {size['y']} pixels")
    return bad[::-1]


def _wrong_size(path, found: str, shape, fix: str) -> UserInputError:
    return UserInputError("E-DEF-01", "defects and movies differ in size", file=path, field="size (w x h)", found=found,
                          expected=f"{shape[1]} x {shape[0]}", fix=fix)


def _to_shape(bad: np.ndarray, shape: tuple[int, int], path, may_be_coarser: bool) -> np.ndarray:
    h, w = shape
    if bad.shape == (h, w):
        return np.ascontiguousarray(bad)
    if bad.shape == (2 * h, 2 * w):  # a binned pixel with one bad part is bad
        return bad.reshape(h, 2, w, 2).any(axis=(1, 3))
    if may_be_coarser and (2 * bad.shape[0], 2 * bad.shape[1]) == (h, w):
        return bad.repeat(2, axis=0).repeat(2, axis=1)
    raise _not_this_camera(path, bad.shape, shape)


def _not_this_camera(path, found, shape) -> UserInputError:
    return _wrong_size(
        path, f"{found[1]} x {found[0]}", shape, "give the defects of this camera and mode in data.defects, not turned"
    )


def read_defects(path: str | os.PathLike, movie_shape: tuple[int, int], super_resolution: int = 1) -> np.ndarray:
    """(h, w) bool of defective pixels of movies of ``movie_shape``, row 0 at the bottom, as the raw frames lie (never turned).

    An image (MRC, TIFF; non-zero = defect) or SerialEM's list may be of twice the movie's size; SerialEM's list also of half
    (super-resolution movies). MotionCor's boxes count y from the first row in memory, which is the bottom one here.
    super_resolution: of EER movies, whose defects are given for the camera's pixels.

    Raises UserInputError E-FILE-01, E-DEF-01 (size), E-DEF-02 (text not understood), DataQualityError E-DEF-03 (more than 5 %).
    """
    if not Path(path).is_file():
        raise UserInputError("E-FILE-01", "no such file", file=os.fspath(path), fix="check data.defects in the config")
    if super_resolution > 1:
        camera = (movie_shape[0] // super_resolution, movie_shape[1] // super_resolution)
        return repeat_pixels(read_defects(path, camera), super_resolution)
    if Path(path).suffix.lower() in _IMAGES:
        bad = _to_shape(read_gain_image(path, "map of defects") != 0, movie_shape, path, False)
    else:
        text = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
        stripped = [(n, line.split("#")[0].strip()) for n, line in enumerate(text, 1)]
        lines = [(n, line) for n, line in stripped if line]
        if not lines:
            raise _bad_line(path, 1, "", "x y w h on every line, or SerialEM's keywords")
        named = lines[0][1][0].isalpha()
        bad = (
            _to_shape(_serialem(path, lines, movie_shape), movie_shape, path, True)
            if named
            else _boxes(path, lines, movie_shape)
        )
    if bad.mean() > MAX_DEFECT_FRACTION:
        raise DataQualityError(
            "E-DEF-03", "too many defects", file=os.fspath(path), found=f"{100 * bad.mean():.1f} %",
            expected=f"at most {100 * MAX_DEFECT_FRACTION:g} %", fix="check that non-zero means defect in this map",
        )
    return bad


def with_defects(gain: Gain | None, defects: np.ndarray) -> Gain:
    """The gain with further defects; without a gain (movies already corrected) one that only marks them."""
    if gain is None:
        return Gain(np.ones(defects.shape, dtype=np.float32), defects)
    return Gain(gain.factor, gain.defects | defects)
