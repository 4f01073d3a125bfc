"""How far the fitted rings can be trusted, and a picture to check them by eye."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter1d

from cryoet_core.ctf.model import Optics, ctf_2d
from cryoet_core.ctf.score import ViewScore, smooth_background
from cryoet_core.fourier import radial_frequency

GOOD_CORRELATION = 0.5
LIMITS = ("data", "pixel_size", "window")
MIN_RING_BINS = 3.0
PICTURE_PX = 256


def ring_profiles(view: ViewScore, k, defocus, handedness, astigmatism, phase_rad, b_factor):
    """Measured and fitted rings as functions of radius, astigmatism and defocus gradient undone.

    Every bin moves to the radius where the mean defocus has the same phase (k sqrt(z_bin / z)); strips and angles are
    averaged there. Returns measured, fitted (n_radii,), both without the smooth background.
    """
    rings, data = view.rings_and_data(defocus, *astigmatism, phase_rad, b_factor, handedness)
    z = defocus + handedness * view.depth_angst[:, None]
    local = z * view.k2 + 0.5 * (astigmatism[0] * view.k2_cos + astigmatism[1] * view.k2_sin)
    safe = defocus if abs(defocus) > 1 else 1.0
    radius = np.sqrt(np.clip(local / safe, 0, None))
    step = k[1] - k[0]
    index = np.rint((radius - k[0]) / step).astype(np.int64)
    inside = (index >= 0) & (index < len(k)) & (view.root > 0)
    weight = np.bincount(index[inside], weights=view.root[inside] ** 2, minlength=len(k))

    def mean(values):
        total = np.bincount(index[inside], weights=(values * view.root)[inside], minlength=len(k))
        return total / np.maximum(weight, 1e-12)

    return mean(data), mean(rings)


def local_correlation(measured, fitted, k, defocus, wavelength_angst) -> np.ndarray:
    """Correlation of the two curves around every radius, in windows of one and a half rings (at least 12 bins)."""
    step = k[1] - k[0]
    period = 1 / np.maximum(wavelength_angst * abs(defocus) * k, 1e-9) / step
    widths = np.clip(np.rint(1.5 * period), 12, max(12, len(k) // 2)).astype(int)
    out = np.zeros(len(k))
    for i, width in enumerate(widths):
        low = int(np.clip(i - width // 2, 0, max(0, len(k) - width)))
        a, b = measured[low : low + width], fitted[low : low + width]
        a, b = a - a.mean(), b - b.mean()
        out[i] = (a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-30)
    return out


def _last_good(correlation, k) -> int:
    """Index of the last radius before the smoothed correlation falls below 0.5 for good; 0 where the rings never fit."""
    smooth = uniform_filter1d(correlation, 5, mode="nearest")
    below = smooth < GOOD_CORRELATION
    start = int(np.argmax(~below)) if (~below).any() else len(k)
    if start > len(k) // 4:
        return 0
    fails = np.flatnonzero(below[start:])
    return max(0, start + int(fails[0]) - 1 if len(fails) else len(k) - 1)


def fit_resolution(correlation, k) -> float:
    """Resolution (A) to which the fit holds: the last radius before the smoothed correlation falls below 0.5 for good."""
    return float(1 / k[_last_good(correlation, k)])


def resolution_limit(correlation, k, defocus_angst: float, wavelength_angst: float) -> str:
    """What ends the resolution of :func:`fit_resolution`, one of LIMITS.

    pixel_size: the rings fit to the finest radius there is (almost Nyquist). window: they end where one ring is narrower than
    MIN_RING_BINS pixels of the spectrum, so that a larger window might show more. data: the rings themselves end.
    """
    last = _last_good(correlation, k)
    if last == len(k) - 1 and last > 0:
        return "pixel_size"
    period = 1 / (wavelength_angst * max(abs(defocus_angst), 1.0) * k[last]) / (k[1] - k[0]) if last else np.inf
    return "window" if period < MIN_RING_BINS else "data"


def _full_plane(half, n):
    """Half-complex (n, n//2+1) -> centred full plane (n, n), origin at index n//2."""
    rows, columns = np.meshgrid((np.arange(n) - n // 2) % n, np.arange(n) - n // 2, indexing="ij")
    mirrored = columns < 0
    return half[np.where(mirrored, (-rows) % n, rows), np.abs(columns)]


def spectrum_picture(mean_power, pixel_size_angst: float, defocus_u, defocus_v, angle_deg, phase_deg, optics: Optics,
                     edge_angst: float = 0.0):
    """256 x 256 float32: left half the measured power, right half |CTF|, origin at (128, 128).

    edge_angst : resolution at the edge of the picture, Nyquist where that is coarser.

    The measured half is divided by its smooth radial background, averaged over +-6 degrees along the rings, and scaled so
    that +-3 robust standard deviations fill 0 to 1; the fitted half is |CTF|. Row index grows with +ky.
    """
    n = mean_power.shape[0]
    k = radial_frequency((n, n))
    shell = np.rint(k * n).astype(np.int64)
    counts = np.maximum(np.bincount(shell.ravel()), 1)
    profile = np.bincount(shell.ravel(), weights=mean_power.ravel().astype(np.float64)) / counts
    radii = np.arange(2, n // 2 + 1)
    curve = profile.copy()
    curve[2 : n // 2 + 1] = smooth_background(radii / n, profile[2 : n // 2 + 1], counts[2 : n // 2 + 1])
    curve[:2] = profile[:2].max()
    relative = mean_power / np.maximum(curve[np.minimum(shell, n // 2)], 1e-30) - 1
    fitted = np.abs(ctf_2d((n, n), pixel_size_angst, defocus_u, defocus_v, angle_deg, optics, phase_deg))
    relative[0, 0] = relative[0, 1]
    share = min(1.0, 2 * pixel_size_angst / edge_angst) if edge_angst > 0 else 1.0
    measured, fitted = (_to_picture(_centre(_full_plane(half, n), share)) for half in (relative, fitted))
    measured = _smooth_along_rings(measured)
    radius = np.hypot(*(np.mgrid[:PICTURE_PX, :PICTURE_PX] - PICTURE_PX // 2))
    measured = measured * np.maximum(radius, 12.0) ** 0.25  # fewer values were averaged near the origin
    inside = _to_picture(_centre(_full_plane(((k > 0.03) & (k < 0.45)).astype(np.float32), n), share)) > 0.5
    values = measured[inside]
    spread = 1.4826 * np.median(np.abs(values - np.median(values))) + 1e-12
    measured = np.clip(0.5 + (measured - np.median(values)) / (6 * spread), 0, 1)
    out = measured
    out[:, PICTURE_PX // 2 :] = fitted[:, PICTURE_PX // 2 :]
    return out.astype(np.float32)


def _centre(plane, share: float):
    """The inner ``share`` of a centred plane (n, n), origin kept at the middle index."""
    n = plane.shape[0]
    half = max(16, int(round(share * n / 2)))
    return plane[n // 2 - half : n // 2 + half, n // 2 - half : n // 2 + half] if 2 * half < n else plane


def _smooth_along_rings(picture, half_width_deg: float = 6.0):
    """Average a centred picture along circles: rings of weak contrast become visible, astigmatism stays."""
    n_angles, centre = 360, PICTURE_PX // 2
    angle = 2 * np.pi * np.arange(n_angles) / n_angles
    radius = np.arange(0, int(1.5 * centre))
    at = [centre + radius * f(angle)[:, None] for f in (np.sin, np.cos)]
    polar = map_coordinates(picture, at, order=1, mode="nearest")
    polar = uniform_filter1d(polar, int(2 * half_width_deg) + 1, axis=0, mode="wrap")
    y, x = np.mgrid[:PICTURE_PX, :PICTURE_PX] - centre
    back = [np.rad2deg(np.arctan2(y, x)) % 360, np.hypot(y, x)]
    polar = np.concatenate([polar, polar[:1]])
    return map_coordinates(polar, back, order=1, mode="nearest").astype(np.float32)


def _to_picture(plane):
    """Resample a centred (n, n) plane to 256 x 256 by averaging (n a multiple of 256) or linear interpolation."""
    n = plane.shape[0]
    if n == PICTURE_PX:
        return plane.astype(np.float32)
    if n == 2 * PICTURE_PX:
        padded = np.pad(plane, ((0, 1), (0, 1)), mode="edge")
        smooth = 0.25 * (padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:])
        return smooth[::2, ::2].astype(np.float32)
    at = (np.arange(PICTURE_PX) - PICTURE_PX // 2) * n / PICTURE_PX + n // 2
    grid = np.meshgrid(at, at, indexing="ij")
    return map_coordinates(plane.astype(np.float32), grid, order=1, mode="nearest")
