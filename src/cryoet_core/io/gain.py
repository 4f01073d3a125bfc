"""Gain references: read, put into the orientation of the movies, check, and turn into factors and defects."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.io.movies import open_movie
from cryoet_core.io.mrc import read_section

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


def read_gain_image(path: str | os.PathLike) -> np.ndarray:
    """First image of an MRC or TIFF (.gain is TIFF), row 0 at the bottom; NaN is left for the defect map."""
    if Path(path).suffix.lower() in (".mrc", ".mrcs", ".st", ".map"):
        return read_section(path, 0)
    if Path(path).suffix.lower() == ".gain":
        import tifffile

        with tifffile.TiffFile(path) as tiff:
            return tiff.pages[0].asarray().astype(np.float32)[::-1]
    return next(iter(open_movie(path)))


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
