"""The frame in which views are filtered and back-projected: tilt axis along y, no shift, index n//2 on the specimen's centre.

A view is brought there once: oversampled twofold by zero-padding of its spectrum, then sampled by cubic splines, which below the
low-pass of a reconstruction (0.35 cycles/px, 0.175 of the fine grid) change amplitudes by 0.2 %. In this frame a row of a
view sees one x-z plane of the specimen (unless there is a tilt about x), so rows can be treated one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft

from cryoet_core.backend import array_namespace, fft_module
from cryoet_core.fourier import (
    centre_crop_or_pad,
    crop_spectrum,
    fourier_shift,
    frequency_grid,
    radial_frequency,
    raised_cosine_window,
)
from cryoet_core.geometry import TiltGeometry
from cryoet_core.kernels.sample_spline import sample_spline

OVERSAMPLING = 2


@dataclass(frozen=True)
class Frame:
    """shape : (h, w) of the views in the frame. padded_shape : with at least ``margin`` more on every side.

    raw : geometry of the raw views, ``raw_shape`` (h, w) with pixels of ``pixel_size_angst``. geometry : what is left in the frame.
    """

    raw: TiltGeometry
    raw_shape: tuple[int, int]
    pixel_size_angst: float
    shape: tuple[int, int]
    padded_shape: tuple[int, int]
    margin: int

    @property
    def geometry(self) -> TiltGeometry:
        return self.raw.replace(z_rot_deg=0.0, x_shift_angst=0.0, y_shift_angst=0.0)

    @property
    def aligned(self) -> bool:
        """True when every row of a view sees one x-z plane: no tilt about x."""
        return bool((self.raw.x_tilt_deg == 0).all())

    def _turn(self, view: int):
        """(2, 2) matrix and (2,) shift in px: frame (x, y) -> raw image (x, y), both centred."""
        angle = np.deg2rad(self.raw.z_rot_deg[view])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return turn, self.raw.shift_angst[view] / self.pixel_size_angst


def _even(value: float) -> int:
    return 2 * int(np.ceil(value / 2))


def make_frame(geometry: TiltGeometry, raw_shape, pixel_size_angst: float, size_px, margin: int) -> Frame:
    """Frame just large enough for a tomogram of ``size_px`` (x, y, z), and no larger than the turned views."""
    half = np.asarray(size_px, dtype=np.float64) / 2
    diagonal = np.hypot(*raw_shape) + 2 * np.abs(geometry.shift_angst).max() / pixel_size_angst + 4
    rows = geometry.replace(z_rot_deg=0.0).rotation[:, :2]
    width, height = 2 * (np.abs(rows) @ half).max(axis=0) + 4
    if (geometry.x_tilt_deg == 0).all():
        height = float(size_px[1])  # the rows are those of the tomogram
    shape = _even(height), _even(min(width, diagonal))
    padded = tuple(2 * scipy.fft.next_fast_len(n // 2 + margin, real=True) for n in shape)
    return Frame(geometry, tuple(raw_shape), pixel_size_angst, shape, padded, margin)


def to_frame(extended, frame: Frame, view: int):
    """A raw view continued beyond its borders (any shape centred like the view) -> (padded_shape) float32 in the frame.

    A view that need not be turned is only shifted, by whole pixels as it is and else by a phase ramp.
    """
    turn, shift = frame._turn(view)
    if np.array_equal(turn, np.eye(2)):
        moved = extended if (shift == 0).all() else fourier_shift(extended, -shift)
        return centre_crop_or_pad(moved, frame.padded_shape, 2)
    shape = extended.shape
    fine = _fine_coefficients(extended)
    # rows and columns: (v, u) of the fine view = matrix . (y, x) of the frame + offset
    matrix = OVERSAMPLING * turn[::-1, ::-1]
    centre = np.array([n // 2 for n in frame.padded_shape])
    offset = OVERSAMPLING * shift[::-1] + OVERSAMPLING * np.array([n // 2 for n in shape]) - matrix @ centre
    return sample_spline(fine, matrix, offset, frame.padded_shape)


def _fine_coefficients(image):
    """Coefficients of cubic B-splines of an image (h, w) on a grid OVERSAMPLING times finer; index i of the image is index OVERSAMPLING i there."""
    xp = array_namespace(image)
    fft, (h, w) = fft_module(xp), image.shape
    rows, columns = _spline_prefilter((OVERSAMPLING * h, OVERSAMPLING * w), xp)
    spectrum = crop_spectrum(fft.rfft2(image) * _disc((h, w), xp), (h, w), (OVERSAMPLING * h, w)) * rows
    # the columns beyond the image's Nyquist frequency are empty and need no transform; irfft adds them
    spectrum = fft.ifft(spectrum, axis=0, overwrite_x=True) * columns[:, : spectrum.shape[1]]
    spectrum[:, -1] = 0
    return fft.irfft(spectrum, n=OVERSAMPLING * w, axis=1, overwrite_x=True)


@lru_cache(maxsize=4)
def _disc(shape, xp):
    """1 inside the circle of Nyquist frequency: what is in the corners would fold when the view is turned."""
    return raised_cosine_window(radial_frequency(shape, 1.0, xp), 0.5, 0.04, xp)


@lru_cache(maxsize=4)
def _spline_prefilter(fine_shape, xp):
    """Factors along both axes of a spectrum that give the B-spline coefficients of the oversampled image: 1 / (2/3 + cos(2 pi k) / 3)."""
    rows, columns = (3 / (2 + xp.cos(2 * np.pi * k)) for k in frequency_grid(fine_shape, 1.0, xp))
    return rows, columns * np.float32(OVERSAMPLING**2)


def inside_view(frame: Frame, view: int, rows, columns, xp=np):
    """1 where a point of the frame lies in the raw view, 0 outside, one pixel of ramp between: (len(rows), len(columns)) float32.

    rows, columns : centred coordinates in the frame, px.
    """
    turn, shift = frame._turn(view)
    y, x = xp.asarray(rows)[:, None], xp.asarray(columns)[None, :]
    mask = 1.0
    for axis, length in ((0, frame.raw_shape[1]), (1, frame.raw_shape[0])):
        position = turn[axis, 0] * x + turn[axis, 1] * y + shift[axis] + length // 2
        mask = mask * xp.clip(xp.minimum(position, length - 1 - position) + 1, 0, 1)
    return mask.astype(xp.float32)
