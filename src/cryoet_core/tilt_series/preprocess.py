"""Binning and grey values of views, and aligned stacks; halves are treated with the factors of the full view.

Binned views are stored with mean 0 and standard deviation 1 in half precision, and their table holds what they were.

Grey values are changed by one line per view, full' = gain (full - mean) + level; a half becomes gain (half - its mean) + level / 2, so
that even + odd stays the full view. The modes are those of IMOD's newstack (-FloatDensities, man page) in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, ndimage_module
from cryoet_core.fourier import bin_images, binned_shape

SERIES_MODES = ("common_mean", "common_range")  # need the statistics of all views first


@dataclass(frozen=True)
class GreyValues:
    """What was measured on a binned full view, and what was done: old value = (new - level) / gain + mean."""

    mean: float
    std: float
    low: float = 0.0
    high: float = 0.0
    gain: float = 1.0
    level: float | None = None  # None: unchanged, the mean

    @property
    def new_mean(self) -> float:
        """Mean of the full view afterwards."""
        return self.mean if self.level is None else self.level


@dataclass(frozen=True)
class GreyTarget:
    """Where grey values are to go. mode: see config/preprocess_tilt_series.py.

    mean, std : for mean_std. low, high : for range and common_range. series_mean, series_low, series_high : of all used views, the
    latter two after the shift to the common mean; see :func:`series_target`.
    """

    mode: str = "mean0_std1"
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 255.0
    series_mean: float = 0.0
    series_low: float = 0.0
    series_high: float = 1.0


def bin_views(images, binning: int):
    """Fourier-crop (m, h, w) by a whole number, one view at a time."""
    xp = array_namespace(images)
    return xp.stack([bin_images(image.astype(xp.float32, copy=False), binning) for image in images])


def binned_size(shape, binning: int) -> tuple[int, int]:
    """(h, w) of :func:`bin_views`; without binning sizes stay, odd ones too."""
    return tuple(shape) if binning == 1 else binned_shape(shape, binning)


def measured(image) -> GreyValues:
    """Mean, standard deviation and range of a full view (h, w)."""
    xp = array_namespace(image)
    return GreyValues(
        float(image.mean(dtype=xp.float64)), float(image.std(dtype=xp.float64)), float(image.min()), float(image.max())
    )


def series_target(target: GreyTarget, views: list[GreyValues]) -> GreyTarget:
    """``target`` with the common mean and range of the views that are used."""
    mean = float(np.mean([v.mean for v in views]))
    low = min(v.low - v.mean for v in views) + mean
    high = max(v.high - v.mean for v in views) + mean
    return GreyTarget(target.mode, target.mean, target.std, target.low, target.high, mean, low, high)


def gain_and_level(grey: GreyValues, target: GreyTarget):
    """(gain, level) of a view; a view without contrast keeps gain 1."""
    mode, spread = target.mode, grey.high - grey.low
    if mode == "mean0":
        return 1.0, 0.0
    if mode in ("mean0_std1", "mean_std"):
        mean, std = (target.mean, target.std) if mode == "mean_std" else (0.0, 1.0)
        return (std / grey.std if grey.std > 0 else 1.0), mean
    if mode == "range":
        gain = (target.high - target.low) / spread if spread > 0 else 1.0
        return gain, target.low + gain * (grey.mean - grey.low)
    if mode == "common_mean":
        return 1.0, target.series_mean
    gain = (target.high - target.low) / max(target.series_high - target.series_low, 1e-30)  # common_range
    return gain, target.low + gain * (target.series_mean - target.series_low)


def scale_views(images, target: GreyTarget | str):
    """Grey values of full, even and odd images of ONE view, (m, h, w), the full one first; see the module.

    Returns the images and the :class:`GreyValues` of the full view.
    """
    target = GreyTarget(target) if isinstance(target, str) else target
    xp = array_namespace(images)
    grey = measured(images[0])
    if target.mode == "none":
        return images, grey
    gain, level = gain_and_level(grey, target)
    means = images.mean(axis=(1, 2), keepdims=True, dtype=xp.float64).astype(xp.float32)
    share = xp.asarray([level] + [0.5 * level] * (len(images) - 1), dtype=xp.float32)[:, None, None]
    scaled = (images - means) * xp.float32(gain) + share
    return scaled.astype(xp.float32), GreyValues(grey.mean, grey.std, grey.low, grey.high, float(gain), float(level))


GREY_COLUMNS = ("grey_mean", "grey_std", "grey_gain", "grey_level")


def with_grey_values(series, greys: list[GreyValues]):
    """The series with the grey values of its views in use; of the others 0, and gain 1."""
    unused = GreyValues(0.0, 0.0, level=0.0)
    used = iter(greys)
    rows = [next(used) if included else unused for included in series.included]
    values = [(g.mean, g.std, g.gain, g.new_mean) for g in rows]
    return series.with_columns(**dict(zip(GREY_COLUMNS, np.array(values, dtype=np.float64).reshape(-1, 4).T, strict=True)))


def recorded_grey_values(series) -> list[GreyValues] | None:
    """What :func:`with_grey_values` recorded, of every row; None when the grey values were not changed."""
    if not set(GREY_COLUMNS) <= set(series.tilts):
        return None
    rows = series.tilts[list(GREY_COLUMNS)].to_numpy(np.float64)
    return [GreyValues(mean, std, gain=gain, level=level) for mean, std, gain, level in rows]


def original_values(images, grey: GreyValues):
    """Full, even and odd images of one view before :func:`scale_views`; every half with half of the full view's mean."""
    xp = array_namespace(images)
    share = xp.asarray([1.0] + [0.5] * (len(images) - 1), dtype=xp.float32)[:, None, None]
    return ((images - share * xp.float32(grey.new_mean)) * xp.float32(1 / grey.gain) + share * xp.float32(grey.mean)).astype(xp.float32)


def preprocess_view(images, binning: int, target: GreyTarget | str):
    """:func:`bin_views`, then :func:`scale_views`."""
    return scale_views(bin_views(images, binning), target)


def aligned_shape(shape, z_rot_deg) -> tuple[int, int]:
    """(h, w) of aligned views: exchanged when the axis is nearer to x than to y."""
    h, w = shape
    return (w, h) if 45.0 < np.mod(np.median(z_rot_deg), 180.0) < 135.0 else (h, w)


def aligned_view(image, z_rot_deg: float, shift_px, shape):
    """A view (h, w) turned so that its tilt axis is +y and moved so that the specimen's centre is at index n//2: IMOD's aligned stack.

    Interpolated once, by cubic splines, from the image given; beyond it the image's mean. shift_px : (x, y) where the specimen's centre
    lies in the image, from its index n//2. A point p of the result is read at Rz(z_rot) p + shift.
    """
    xp = array_namespace(image)
    c, s = np.cos(np.deg2rad(z_rot_deg)), np.sin(np.deg2rad(z_rot_deg))
    index = np.array([[c, s], [-s, c]])  # (row, column) = (v, u) from (y, x)
    centre = np.array([n // 2 for n in image.shape]) + np.asarray(shift_px, float)[::-1]
    offset = centre - index @ np.array([n // 2 for n in shape])
    mean = float(image.mean(dtype=xp.float64))
    turned = ndimage_module(xp).affine_transform(
        image - xp.float32(mean), xp.asarray(index), offset=tuple(offset), output_shape=tuple(shape), order=3, mode="constant",
        output=xp.float32,
    )  # fmt: skip
    return turned + xp.float32(mean)
