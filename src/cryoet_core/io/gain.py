"""Gain references: read, put into the orientation of the movies, check, and turn into factors and defects."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.io.movies import LARGEST_FRAME, open_tiff
from cryoet_core.io.mrc import read_header, read_section

_MAX_DEFECT_FRACTION = 0.05


@dataclass(frozen=True)
class Gain:
    """factor (h, w) float32: multiply a raw frame by it (mean 1 over good pixels, 1 at defects); defects (h, w)
    bool: pixels that must be replaced."""

    factor: np.ndarray
    defects: np.ndarray


def orient(image: np.ndarray, *, flip_x: bool = False, flip_y: bool = False, transpose: bool = False,
           rotate_quarters: int = 0) -> np.ndarray:
    """Flip along x, then along y, then transpose (Warp's order), then turn by quarters counter-clockwise (y up).

    image: (h, w) with row 0 at the bottom.
    """
    if flip_x:
        image = image[:, ::-1]
    if flip_y:
        image = image[::-1]
    if transpose:
        image = image.T
    # np.rot90 turns counter-clockwise for row 0 at the top, clockwise for row 0 at the bottom
    return np.ascontiguousarray(np.rot90(image, k=-rotate_quarters))


@dataclass(frozen=True)
class Reference:
    """An image of the camera (gain reference, map of defects) whose size is known before it is read. shape: (h, w);
    read() gives (h, w) float32 or whole numbers, row 0 at the bottom."""

    path: str
    shape: tuple[int, int]
    read: Callable[[], np.ndarray]


_MRC_STAMP = slice(208, 211)  # "MAP"
_DM_VERSIONS = (b"\0\0\0\3", b"\0\0\0\4")


def open_reference(path: str | os.PathLike, what: str = "gain reference") -> Reference:
    """First image of an MRC file, a TIFF (.gain is TIFF) or a DigitalMicrograph file (.dm3, .dm4); the content says
    which of them it is.

    Raises UserInputError E-FILE-01 (absent), E-GAIN-03 (cannot be read), E-GAIN-04 (a package for it is missing),
    E-MRC-*.
    """
    where = os.fspath(path)
    if not Path(path).is_file():
        raise UserInputError("E-FILE-01", "no such file", file=where, fix=f"check where the config says the {what} is")
    with open(path, "rb") as stream:
        start = stream.read(256)
    if start[_MRC_STAMP] == b"MAP" or Path(path).suffix.lower() in (".mrc", ".mrcs", ".st", ".map"):
        return Reference(where, _checked_shape(read_header(path).shape[1:], where, what), lambda: read_section(path, 0))
    if start[:4] in _DM_VERSIONS:
        image = _dm_image(where, what)
        # Like TIFF, Gatan's files begin with the top row
        return Reference(where, _checked_shape(image.shape, where, what), lambda: np.asarray(image)[::-1])
    if start[:2] not in (b"II", b"MM"):
        raise _unreadable(where, what, "none of these formats")
    try:
        movie = open_tiff(where)
    except UserInputError as error:
        raise _unreadable(where, what, error.found) from error
    return Reference(where, _checked_shape(movie.shape, where, what), lambda: _first_page(movie, where, what))


def _first_page(movie, where: str, what: str) -> np.ndarray:
    try:
        return next(iter(movie))
    except UserInputError as error:
        raise _unreadable(where, what, error.found) from error


def _dm_image(where: str, what: str):
    """The largest image of a DigitalMicrograph file, (h, w), not yet read."""
    try:
        from rsciio.digitalmicrograph import file_reader
    except ImportError as error:
        raise UserInputError(
            "E-GAIN-04",
            f"reading a {what} of DigitalMicrograph needs the package rosettasciio",
            file=where,
            fix="pip install rosettasciio, or convert the file to MRC (IMOD: dm2mrc)",
        ) from error
    try:
        images = [entry["data"] for entry in file_reader(where, lazy=True)]
    except Exception as error:  # a foreign reader: whatever it stumbles over, the file is not one that it understands
        raise _unreadable(where, what, f"{type(error).__name__}: {error}"[:200]) from error
    images = [image[0] if image.ndim == 3 and image.shape[0] == 1 else image for image in images]
    images = [image for image in images if image.ndim == 2 and image.dtype.kind in "iuf"]
    if not images:
        raise _unreadable(where, what, "no image in it")
    return max(images, key=lambda image: image.size)


def _checked_shape(shape, where: str, what: str) -> tuple[int, int]:
    if not 0 < shape[0] * shape[1] <= LARGEST_FRAME:
        raise _unreadable(where, what, f"an image of {shape[1]} x {shape[0]} pixels")
    return int(shape[0]), int(shape[1])


def _unreadable(where: str, what: str, found) -> UserInputError:
    return UserInputError(
        "E-GAIN-03",
        f"this {what} cannot be read",
        file=where,
        found=found,
        expected="an image as MRC, TIFF (.tif, .gain), .dm3 or .dm4",
        fix="copy the file again, or convert it to MRC",
    )


def read_gain_image(path: str | os.PathLike, what: str = "gain reference") -> np.ndarray:
    """Image of :func:`open_reference`, row 0 at the bottom; NaN is left for the defect map."""
    return open_reference(path, what).read()


def check_gain_fits(gain_shape: tuple[int, int], movie_shape: tuple[int, int], path: str) -> None:
    """Raises UserInputError E-GAIN-01 unless the reference is 1, 2, 4 or 8 times the size of the movies, turned or
    not."""
    for shape in (gain_shape, gain_shape[::-1]):
        if any(tuple(shape) == (factor * movie_shape[0], factor * movie_shape[1]) for factor in (1, 2, 4, 8)):
            return
    check_gain_shape(gain_shape, movie_shape, path)


def _advice(found: tuple[int, int], expected: tuple[int, int]) -> str:
    if found == expected[::-1]:
        return "set gain_transpose: true (the sizes match when x and y are exchanged)"
    for a, b, text in ((found, expected, "the gain is {}x larger: bin it (super-resolution gain, binned movies)"),
                       (expected, found, "the movies are {}x larger (super-resolution): give the gain of that mode (EER: see import_tilt_series.eer_super_resolution)")):
        for factor in (2, 4):
            if a == (factor * b[0], factor * b[1]):
                return text.format(factor)
    return "give the gain reference that was taken with this camera and mode"


def check_gain_shape(gain_shape: tuple[int, int], movie_shape: tuple[int, int], path: str | os.PathLike = "") -> None:
    """Raises UserInputError E-GAIN-01, with advice, unless both (h, w) agree."""
    if tuple(gain_shape) != tuple(movie_shape):
        raise UserInputError(
            "E-GAIN-01", "gain reference and movies differ in size", file=os.fspath(path), field="size (w x h)",
            found=f"{gain_shape[1]} x {gain_shape[0]}", expected=f"{movie_shape[1]} x {movie_shape[0]}",
            fix=_advice(tuple(gain_shape), tuple(movie_shape)),
        )


def _binned_to(image: np.ndarray, movie_shape: tuple[int, int], inverse: bool) -> np.ndarray:
    """A super-resolution reference for binned movies: a binned pixel counts what its parts count, so sensitivities are averaged."""
    factor = image.shape[0] // movie_shape[0]
    if factor not in (2, 4, 8) or image.shape != (factor * movie_shape[0], factor * movie_shape[1]):
        return image
    good = np.isfinite(image) & (image > 0)
    values = np.where(good, image, 1.0).astype(np.float64)
    sensitivity = np.where(good, values if inverse else 1 / values, 0.0)
    blocks = (movie_shape[0], factor, movie_shape[1], factor)
    parts = good.reshape(blocks).sum(axis=(1, 3))
    mean = sensitivity.reshape(blocks).sum(axis=(1, 3)) / np.maximum(parts, 1)
    usable = parts == factor**2  # a dead part makes the whole pixel count too little
    mean = np.where(usable, mean, 0.0)
    return mean if inverse else np.where(usable, 1 / np.where(usable, mean, 1.0), 0.0)


def repeat_pixels(image: np.ndarray, times: int) -> np.ndarray:
    """Every pixel of (h, w) as a block of times x times equal ones: all parts of a camera pixel share its properties."""
    return image if times == 1 else image.repeat(times, axis=0).repeat(times, axis=1)


def _repeated_to(image: np.ndarray, movie_shape: tuple[int, int], super_resolution: int) -> np.ndarray:
    """A reference of the camera's pixels (or of 2 x 2 parts) for EER movies drawn finer; others pass."""
    factor = movie_shape[0] // image.shape[0]
    if factor not in (2, 4) or factor > super_resolution or movie_shape != (factor * image.shape[0], factor * image.shape[1]):
        return image
    return repeat_pixels(image, factor)


def read_gain(
    path: str | os.PathLike, movie_shape: tuple[int, int] | None = None, *, flip_x: bool = False,
    flip_y: bool = False, transpose: bool = False, rotate_quarters: int = 0, inverse: bool = False,
    super_resolution: int = 1,
) -> Gain:
    """Read a gain reference that multiplies raw counts (inverse=True: one that divides them).

    Pixels that are zero, negative or not finite become defects. movie_shape: (h, w) to compare with; a reference 2, 4 or 8 times
    larger (super-resolution) is binned to it. super_resolution: of EER movies; a reference up to as much smaller is repeated.

    Raises UserInputError E-GAIN-01 (size), DataQualityError E-GAIN-02 (more than 5 % defects), and read errors.
    """
    image = orient(read_gain_image(path), flip_x=flip_x, flip_y=flip_y, transpose=transpose,
                   rotate_quarters=rotate_quarters)
    if movie_shape is not None:
        image = _repeated_to(_binned_to(image, movie_shape, inverse), tuple(movie_shape), super_resolution)
        check_gain_shape(image.shape, movie_shape, path)
    defects = ~(np.isfinite(image) & (image > 0))
    if defects.mean() > _MAX_DEFECT_FRACTION:
        raise DataQualityError(
            "E-GAIN-02", "too many dead pixels in the gain reference", file=os.fspath(path), field="values <= 0",
            found=f"{100 * defects.mean():.1f} %", expected=f"at most {100 * _MAX_DEFECT_FRACTION:g} %",
            fix="check that this is the gain reference and not a dark image",
        )
    factor = np.ones(image.shape, dtype=np.float64)
    good = image[~defects].astype(np.float64)
    factor[~defects] = 1.0 / good if inverse else good
    factor[~defects] /= factor[~defects].mean()
    return Gain(factor.astype(np.float32), defects)
