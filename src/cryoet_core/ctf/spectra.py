"""Power spectra for CTF estimation: windowed tiles of a tilted image, averaged in strips of equal depth, in polar bins.

On a tilted view the defocus changes across the image. Tiles at the same depth (a strip parallel to the tilt axis) see the
same defocus, so their spectra may be averaged without knowing it; the fit then uses defocus + handedness * depth per strip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import frequency_grid

STRIP_DEPTH_ANGST = 300.0
MAX_STRIPS = 9
N_ANGLES = 24
NYQUIST_SHARE = 0.95
_OUTLIER = 5.0


def tile_starts(n: int, window: int) -> np.ndarray:
    """First indices of tiles along an axis of ``n`` px: evenly spread, overlapping by half or a little more (int64)."""
    if n <= window:
        return np.zeros(1, dtype=np.int64)
    count = int(np.ceil((n - window) / (window / 2))) + 1
    return np.rint(np.linspace(0, n - window, count)).astype(np.int64)


def usable_window(shape, window: int) -> int:
    """``window``, or the largest even size that fits into an image of ``shape``."""
    return int(min(window, *(n - n % 2 for n in shape)))


def hann_window(n: int, xp=np):
    """(n, n) float32 separable Hann window, periodic."""
    line = 0.5 - 0.5 * xp.cos(2 * np.pi * (xp.arange(n) + 0.5) / n)
    return (line[:, None] * line[None, :]).astype(xp.float32)


def defocus_spread_damping(k_per_angst, slope: float, tile_angst: float, wavelength_angst: float):
    """Loss of ring contrast because the defocus varies inside a tile by ``slope`` * position.

    The mean of cos(2 gamma) over the tile is the transform of the squared Hann window at lambda k^2 slope cycles/A.
    """
    q = np.abs(wavelength_angst * np.asarray(k_per_angst, float) ** 2 * slope * tile_angst)
    terms = ((0.375, 0.0), (0.25, 1.0), (0.0625, 2.0))
    total = sum(a * (np.sinc(q - s) + np.sinc(q + s)) * (0.5 if s == 0 else 1) for a, s in terms)
    return np.clip(total / 0.375, 0.02, None)


@dataclass(frozen=True)
class PolarGrid:
    """Bins of a half-complex spectrum in angle and radius.

    index : (h, w//2+1) int64, bin of every coefficient, or n_angles * n_radii where none. counts : (n_angles, n_radii).
    k2, k2_cos, k2_sin : (n_angles, n_radii) means of k^2, kx^2-ky^2 and 2 kx ky over the bin, 1/A^2.
    k : (n_radii,) 1/A.
    """

    index: np.ndarray
    counts: np.ndarray
    k2: np.ndarray
    k2_cos: np.ndarray
    k2_sin: np.ndarray
    k: np.ndarray

    @property
    def shape(self):
        return self.counts.shape

    @classmethod
    def create(cls, window: int, pixel_size_angst: float, low_resolution_angst: float, n_angles: int = N_ANGLES):
        """Bins one Fourier pixel wide from ``low_resolution_angst`` to almost Nyquist; rows and columns through the origin,
        where readout artefacts live, are left out."""
        ky, kx = (g.astype(np.float64) for g in frequency_grid((window, window), pixel_size_angst))
        step = 1 / (window * pixel_size_angst)
        first = max(2, int(np.ceil(1 / (low_resolution_angst * step))))
        last = int(NYQUIST_SHARE * window / 2)
        k2 = kx**2 + ky**2
        radius = np.rint(np.sqrt(k2) / step).astype(np.int64) - first
        angle = np.floor((np.arctan2(ky, kx) % np.pi) / (np.pi / n_angles)).astype(np.int64) % n_angles
        n_radii = max(1, last - first + 1)
        inside = (radius >= 0) & (radius < n_radii) & (np.abs(kx) > 1.5 * step) & (np.abs(ky) > 1.5 * step)
        index = np.where(inside, angle * n_radii + radius, n_angles * n_radii)
        grid = cls(index, None, None, None, None, (first + np.arange(n_radii)) * step)
        shape = (n_angles, n_radii)
        counts = np.bincount(index.ravel(), minlength=n_angles * n_radii + 1)[:-1].reshape(shape)

        def mean(values):
            full = np.broadcast_to(values, index.shape).ravel()
            total = np.bincount(index.ravel(), weights=full, minlength=n_angles * n_radii + 1)[:-1]
            return total.reshape(shape) / np.maximum(counts, 1)

        return cls(index, counts, mean(k2), mean(kx**2 - ky**2), mean(2 * kx * ky), grid.k)

    def average(self, power) -> np.ndarray:
        """Mean of ``power`` (h, w//2+1) in every bin, (n_angles, n_radii) float64; 0 in empty bins."""
        total = np.bincount(self.index.ravel(), weights=asnumpy(power).ravel(), minlength=self.counts.size + 1)
        return total[:-1].reshape(self.shape) / np.maximum(self.counts, 1)


@dataclass(frozen=True)
class ViewSpectra:
    """Spectra of one view.

    polar : (n_strips, n_angles, n_radii) mean power. depth_angst : (n_strips,). n_tiles : (n_strips,).
    mean_power : (window, window//2+1) float32, mean over all tiles. slope : |gradient of depth| in the image.
    """

    polar: np.ndarray
    depth_angst: np.ndarray
    n_tiles: np.ndarray
    mean_power: np.ndarray
    slope: float


def _tile_powers(image, window: int):
    """Yield (centre_y, centre_x, power (window, window//2+1)) of every tile, power divided by the tile's variance."""
    xp = array_namespace(image)
    fft = fft_module(xp)
    taper = hann_window(window, xp)
    norm = float((taper**2).sum())
    columns = tile_starts(image.shape[1], window)
    for y in tile_starts(image.shape[0], window):
        tiles = xp.stack([image[y : y + window, x : x + window] for x in columns])
        tiles = tiles - (tiles * taper).sum(axis=(1, 2), keepdims=True) / taper.sum()
        powers = xp.abs(fft.rfft2((tiles * taper).astype(xp.float32))) ** 2 / norm
        for x, tile, power in zip(columns, tiles, powers, strict=True):
            yield y + window // 2, x + window // 2, float(tile.var()), power


def view_spectra(image, pixel_size_angst: float, depth_slope, grid: PolarGrid, window: int) -> ViewSpectra:
    """Spectra of one image (h, w).

    Parameters
    ----------
    depth_slope : (2,) gradient of depth over (x, y) of the image (TiltGeometry.depth_plane). grid : bins for ``window``.

    Tiles whose variance is far from the others' (edges of a grid bar, empty corners) are left out.
    """
    tiles = list(_tile_powers(image, window))
    centre = np.array([[x - image.shape[1] // 2, y - image.shape[0] // 2] for y, x, _, _ in tiles])
    depth = pixel_size_angst * centre @ np.asarray(depth_slope, float)
    variance = np.array([v for _, _, v, _ in tiles])
    level = np.log(np.maximum(variance, 1e-30))
    spread = 1.4826 * np.median(np.abs(level - np.median(level)))
    good = (np.abs(level - np.median(level)) <= _OUTLIER * max(spread, 0.05)) & (variance > 0)
    if not good.any():
        good[:] = True
    reach = np.ptp(depth)
    n_strips = int(np.clip(np.ceil(reach / STRIP_DEPTH_ANGST), 1, MAX_STRIPS))
    strip = np.minimum(((depth - depth.min()) / max(reach, 1e-9) * n_strips).astype(int), n_strips - 1)
    polar, depths, counts, mean_power = [], [], [], 0
    for s in range(n_strips):
        members = [i for i in np.flatnonzero((strip == s) & good)]
        if not members:
            continue
        power = sum(tiles[i][3] / max(variance[i], 1e-30) for i in members)
        polar.append(grid.average(power) / len(members))
        depths.append(depth[members].mean())
        counts.append(len(members))
        mean_power = mean_power + asnumpy(power)
    slope = float(np.hypot(*depth_slope))
    mean_power = (mean_power / sum(counts)).astype(np.float32)
    return ViewSpectra(np.array(polar), np.array(depths), np.array(counts), mean_power, slope)
