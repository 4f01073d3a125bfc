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
MAX_STRIPS, MAX_PARTS = 9, 5  # of a view across and along its tilt axis
INCLINATION_DEG = 5.0  # tiles are kept apart where a plane inclined by this would have them at different depths
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


@dataclass(frozen=True)
class TileCells:
    """Spectra of one view averaged over cells of neighbouring tiles, small enough for any plausible plane of the specimen.

    polar : (n_cells, n_angles, n_radii) mean power. position_angst : (n_cells, 2) mean (x, y) from the image's centre.
    n_tiles : (n_cells,). mean_power : (window, window//2+1) float32, mean over all tiles.
    """

    polar: np.ndarray
    position_angst: np.ndarray
    n_tiles: np.ndarray
    mean_power: np.ndarray

    def as_spectra(self, depth_slope) -> ViewSpectra:
        """Every cell for itself, at its depth on the plane with this slope (2,)."""
        slope = np.asarray(depth_slope, float)
        return ViewSpectra(self.polar, self.position_angst @ slope, self.n_tiles, self.mean_power, float(np.hypot(*slope)))

    def strips(self, depth_slope) -> ViewSpectra:
        """Cells averaged in strips of equal depth on the plane with this slope (2,), where there are more cells than that takes."""
        cells = self.as_spectra(depth_slope)
        if len(self.n_tiles) <= MAX_STRIPS:
            return cells
        levels = 1 if np.ptp(cells.depth_angst) < 1 else 2  # cells lie in the middle of their strips: one strip more than widths
        strip = _even_bins(cells.depth_angst, STRIP_DEPTH_ANGST, MAX_STRIPS, extra=levels - 1)
        members = [np.flatnonzero(strip == i) for i in np.unique(strip)]
        weights = [self.n_tiles[m] / self.n_tiles[m].sum() for m in members]
        return ViewSpectra(
            np.array([np.tensordot(w, self.polar[m], 1) for w, m in zip(weights, members, strict=True)]),
            np.array([w @ cells.depth_angst[m] for w, m in zip(weights, members, strict=True)]),
            np.array([self.n_tiles[m].sum() for m in members]), self.mean_power, cells.slope,
        )


def _even_bins(values, width: float, most: int, least: int = 1, extra: int = 0):
    """(n,) int: index of ``values`` in even bins over their range, about ``width`` wide, between ``least`` and ``most`` of them."""
    reach = np.ptp(values)
    count = int(np.clip(np.ceil(reach / width) + extra, least, most))
    return np.minimum(((values - values.min()) / max(reach, 1e-9) * count).astype(int), count - 1)


def tile_cells(image, pixel_size_angst: float, depth_slope, axis_deg: float, grid: PolarGrid, window: int) -> TileCells:
    """Spectra of one image (h, w) in cells across and along the tilt axis.

    Parameters
    ----------
    depth_slope : (2,) gradient of depth over (x, y) of the image (TiltGeometry.depth_plane). axis_deg : tilt axis, from +y
    counter-clockwise. grid : bins for ``window``.

    Tiles whose variance is far from the others' (edges of a grid bar, empty corners) are left out.
    """
    tiles = list(_tile_powers(image, window))
    centre = pixel_size_angst * np.array([[x - image.shape[1] // 2, y - image.shape[0] // 2] for y, x, _, _ in tiles])
    variance = np.array([v for _, _, v, _ in tiles])
    level = np.log(np.maximum(variance, 1e-30))
    spread = 1.4826 * np.median(np.abs(level - np.median(level)))
    good = (np.abs(level - np.median(level)) <= _OUTLIER * max(spread, 0.05)) & (variance > 0)
    if not good.any():
        good[:] = True
    cell = _cell_of(centre, np.asarray(depth_slope, float), axis_deg)
    polar, position, counts, mean_power = [], [], [], 0
    for number in np.unique(cell[good]):
        members = np.flatnonzero((cell == number) & good)
        power = sum(tiles[i][3] / max(variance[i], 1e-30) for i in members)
        polar.append(grid.average(power) / len(members))
        position.append(centre[members].mean(axis=0))
        counts.append(len(members))
        mean_power = mean_power + asnumpy(power)
    mean_power = (mean_power / sum(counts)).astype(np.float32)
    return TileCells(np.array(polar), np.array(position), np.array(counts), mean_power)


def _cell_of(centre, slope, axis_deg: float):
    """(n,) int, cell of every tile: strips of equal nominal depth, divided further where an inclination would spread the depth."""
    turn = np.deg2rad(axis_deg)
    across, along = centre @ [np.cos(turn), np.sin(turn)], centre @ [-np.sin(turn), np.cos(turn)]
    steepness = np.hypot(*slope)
    inclined = np.tan(np.deg2rad(INCLINATION_DEG))
    least = int(np.clip(np.ceil(np.ptp(across) * inclined / STRIP_DEPTH_ANGST), 1, MAX_STRIPS))
    strip = _even_bins(centre @ slope if steepness > 0 else across * 1e-9, STRIP_DEPTH_ANGST, MAX_STRIPS)
    if least > strip.max() + 1:
        strip = _even_bins(across, np.inf, MAX_STRIPS, least)
    part = _even_bins(along * inclined * np.sqrt(1 + steepness**2), STRIP_DEPTH_ANGST, MAX_PARTS)
    return strip * MAX_PARTS + part


def view_spectra(image, pixel_size_angst: float, depth_slope, grid: PolarGrid, window: int) -> ViewSpectra:
    """Spectra of one image (h, w) in strips of equal depth; see :func:`tile_cells`."""
    slope = np.asarray(depth_slope, float)
    axis_deg = float(np.rad2deg(np.arctan2(slope[1], slope[0])))
    return tile_cells(image, pixel_size_angst, slope, axis_deg, grid, window).strips(slope)
