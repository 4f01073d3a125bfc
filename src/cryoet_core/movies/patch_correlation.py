"""Correlation maps of frame pairs in overlapping patches: all that the estimation of local motion needs to know about a movie.

The objective is that of the whole frame (pair_correlation.py), one sum per patch: C_pfg(delta) of patch p and frames f < g, each moved back
by the whole-frame track before the patch is cut, so that only small shifts are left. Patches overlap by half and are weighted by a Hann
window. A half of the frequencies (for the held-out test) is cut out of the whole frame before patches are: frequencies of a patch
share noise with their neighbours through its window, those of the frame do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter, spline_filter1d

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import frequency_grid
from cryoet_core.movies.map_spline import spline_sums
from cryoet_core.movies.pair_correlation import STEP, MapSampler, band_weights

PATCH_ANGST = 1500.0  # side; Warp's patches are 768 px
REACH_ANGST = 30.0  # largest local shift between two frames
# Hann window w along one axis, a = mean w^4 / mean(w^2)^2 = 35/18: the noise of a windowed product is larger than that of independent frequencies by
WINDOW_NOISE = (35 / 18) ** 2
# the variance of a sum over half-overlapping patches, against that of independent ones: (1 + 2 c)^2 with c = mean(sin^4 cos^4)/2 / mean(sin^8)
OVERLAP = (1 + 2 * 3 / 70) ** 2


@dataclass(frozen=True)
class PatchLayout:
    """Patches of ``side`` (y, x) band pixels whose first pixels are ``rows`` x ``columns`` of the band image."""

    side: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray

    def corners(self):
        """(row, column) of every patch, row by row."""
        return [(int(r), int(c)) for r in self.rows for c in self.columns]

    def centres_px(self, scale_xy) -> np.ndarray:
        """(patches, 2) x, y in movie pixels."""
        corners = np.array(self.corners(), dtype=np.float64)
        middle = corners + (np.array(self.side) - 1) / 2
        return middle[:, ::-1] * scale_xy


def patch_layout(band, pixel_yx, grid_xy) -> PatchLayout:
    """Patches of about PATCH_ANGST, overlapping by half; at least three along an axis and one more than it has nodes."""
    sides, starts = [], []
    for n, pixel, nodes in zip(band, pixel_yx, grid_xy[::-1], strict=True):
        count = max(3, int(np.ceil(2 * n * pixel / PATCH_ANGST)) - 1, nodes + 1)
        side = min(n, 2 * next_fast_len(int(np.ceil(n / (count + 1)))))
        sides.append(side)
        starts.append(np.rint(np.linspace(0, n - side, count)).astype(int))
    return PatchLayout(tuple(sides), *starts)


@dataclass
class PatchMaps:
    """Correlation maps of all patches and frame pairs, and what noise does to them.

    coefficients : (patches, pairs, m, m) cubic B-spline coefficients of C_pfg, [y, x], sampled every ``step_px`` about zero.
    first, second : (pairs,) frames. noise2 : (patches, pairs) variance of a map where there is no signal.
    likeness : (m, m) B-spline coefficients of that noise's correlation with itself at a distance. centres_px : (patches, 2) x, y.
    """

    coefficients: np.ndarray
    first: np.ndarray
    second: np.ndarray
    step_px: float
    noise2: np.ndarray
    likeness: np.ndarray
    centres_px: np.ndarray

    @property
    def reach_px(self) -> float:
        """Beyond it a map counts as flat; two samples of the border are spared for the spline."""
        return (self.coefficients.shape[-1] // 2 - 2) * self.step_px

    def differences(self, movement_px):
        """(patches, pairs, 2) shift of the second against the first frame; movement_px (frames, patches, 2) x, y."""
        return (movement_px[self.second] - movement_px[self.first]).transpose(1, 0, 2)

    def value(self, movement_px) -> float:
        """Sum of all maps at the movement of every frame and patch."""
        return float(_evaluate(self.coefficients, self.differences(movement_px) / self.step_px, ((0, 0),))[0].sum())

    def value_and_gradient(self, movement_px):
        """The sum and its gradient (frames, patches, 2)."""
        value, dx, dy = _evaluate(self.coefficients, self.differences(movement_px) / self.step_px, ((0, 0), (1, 0), (0, 1)))
        slope = np.stack([dx, dy], axis=2).transpose(1, 0, 2) / self.step_px  # (pairs, patches, 2)
        gradient = np.zeros_like(movement_px)
        np.add.at(gradient, self.second, slope)
        np.subtract.at(gradient, self.first, slope)
        return float(value.sum()), gradient

    def curvature(self, movement_px):
        """(patches, pairs, 2): minus the second derivative of every map along x and y."""
        second = _evaluate(self.coefficients, self.differences(movement_px) / self.step_px, ((2, 0), (0, 2)))
        return -np.stack(second, axis=2) / self.step_px**2

    def gradient_variance(self):
        """(patches, pairs, 2): variance, without signal, of the slope of every map along x and y."""
        bend = _evaluate(self.likeness[None, None], np.zeros((1, 1, 2)), ((2, 0), (0, 2)))
        return self.noise2[:, :, None] * -np.array([float(b[0, 0]) for b in bend]) / self.step_px**2

    def noise_of_gain(self, movement_px, against_px) -> float:
        """Standard deviation, without signal, of value(movement) - value(against)."""
        apart = self.differences(movement_px - against_px) / self.step_px
        alike = _evaluate(self.likeness[None, None], apart, ((0, 0),))[0]
        return float(np.sqrt(OVERLAP * (2 * self.noise2 * np.clip(1 - alike, 0, None)).sum()))

    def smoothed(self, sigma_px: float) -> PatchMaps:
        """The same with every map blurred."""
        sigma = sigma_px / self.step_px
        blurred = gaussian_filter(self.coefficients, (0, 0, sigma, sigma), mode="nearest")
        return PatchMaps(blurred, self.first, self.second, self.step_px, self.noise2, self.likeness, self.centres_px)


def _evaluate(coefficients, shift, orders):
    """Maps (P, Q, m, m) at ``shift`` (P, Q, 2) x, y in samples from the centre: one (P, Q) array per (order x, order y).

    Shifts beyond the maps take the value at the border; there slopes and curvatures are 0.
    """
    m, shape = coefficients.shape[-1], shift.shape[:-1]
    limit = m // 2 - 2
    shift = shift.reshape(-1, 2)
    place = np.clip(shift, -limit, limit) + m // 2
    base = np.floor(place).astype(int)
    inside = np.abs(shift) <= limit
    out = []
    for result, order in zip(spline_sums(coefficients.reshape(-1, m, m), base - 1, place - base, orders), orders, strict=True):
        flat = ~(inside | (np.array(order) == 0)).all(axis=1)
        out.append(np.where(flat, 0, result).reshape(shape))
    return out


def _moved_back(spectrum, movement_band_xy, columns, band):
    """Real band image (h, w) of the chosen columns of a band spectrum, its content moved back by the track."""
    xp = array_namespace(spectrum)
    ky, kx = frequency_grid(band, 1.0, xp)
    phase = xp.exp(2j * np.pi * (kx * float(movement_band_xy[0]) + ky * float(movement_band_xy[1])))
    part = spectrum * (phase * xp.asarray(columns)).astype(xp.complex64)
    return fft_module(xp).irfft2(part, s=tuple(band)).astype(xp.float32, copy=False)


def _windowed(stack, window):
    """Patches (n, h, w) without their weighted mean, times the window."""
    mean = (stack * window).sum(axis=(1, 2), keepdims=True) / window.sum()
    return (stack - mean) * window


def _hann(side, xp):
    along = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in side]
    return xp.asarray(np.multiply.outer(*along).astype(np.float32))


class _Sampler:
    """Turns the spectra of one patch into correlation maps: matrices of the map's sampling, weights, frame pairs."""

    def __init__(self, side, scale_xy, weights, reach_px, n_frames, xp):
        self.step = STEP * min(scale_xy)
        self.half = max(8, int(np.ceil(reach_px / self.step)) + 2)
        axis = self.step * np.arange(-self.half, self.half + 1)
        ky, kx = (asnumpy(k).ravel().astype(np.float64) for k in frequency_grid(side, 1.0))
        used = np.flatnonzero(asnumpy(weights).any(axis=0))
        self.columns = slice(0, int(used[-1]) + 1 if len(used) else 1)
        self.sample = MapSampler(ky / scale_xy[1], kx[self.columns] / scale_xy[0], axis, xp)
        self.weights = weights[:, self.columns].astype(xp.float32)
        self.first, self.second = np.triu_indices(n_frames, 1)

    def maps(self, spectra):
        """Maps (pairs, m, m) and their noise variance (pairs,) of spectra (n, h, w//2+1); mean power squared (h, columns)."""
        xp = array_namespace(spectra)
        spectra = spectra[:, :, self.columns]
        power = self.weights * (spectra.real**2 + spectra.imag**2)
        maps = []
        for f in range(len(spectra) - 1):
            product = (xp.conj(spectra[f]) * self.weights) * spectra[f + 1 :]
            maps.append(self.sample(product).astype(np.float32))
        flat = power.reshape(len(power), -1).astype(xp.float64)
        noise2 = 0.5 * WINDOW_NOISE * asnumpy(flat @ flat.T)[self.first, self.second]
        return np.concatenate(maps), noise2, power.mean(axis=0) ** 2

    def likeness(self, power2):
        """(m, m) correlation of the noise of a map with itself, from the mean of the squared power."""
        xp = array_namespace(power2)
        alike = self.sample(power2.astype(xp.complex64))
        return alike / alike[self.half, self.half]


def patch_maps(spectra, band, scale_xy, pixel_size_angst, movement_px, layout, columns, *, resolution_range_angst, b_factor_angst2) -> PatchMaps:
    """Correlation maps of all patches from the chosen columns of the frames' spectra.

    Parameters
    ----------
    spectra : list of n band spectra (pair_correlation.band_spectrum). band : their (h, w). scale_xy : movie pixels per band pixel (x, y).
    movement_px : (n, 2) whole-frame track, movie pixels, taken out first. layout : :func:`patch_layout`.
    columns : (w//2 + 1,) bool of the half-complex grid of the whole frame.

    Memory: n band images, and (patches, pairs, m, m) float32.
    """
    xp = array_namespace(spectra[0])
    pixel_yx = (pixel_size_angst * scale_xy[1], pixel_size_angst * scale_xy[0])
    weights = band_weights(layout.side, pixel_yx, resolution_range_angst, b_factor_angst2, xp)
    sampler = _Sampler(layout.side, scale_xy, weights, REACH_ANGST / pixel_size_angst, len(spectra), xp)
    images = xp.stack([_moved_back(s, m / np.array(scale_xy), columns, band) for s, m in zip(spectra, movement_px, strict=True)])
    window, fft = _hann(layout.side, xp), fft_module(xp)
    maps, noise2, power2 = [], [], 0
    for row, column in layout.corners():
        patch = images[:, row : row + layout.side[0], column : column + layout.side[1]]
        found, variance, squared = sampler.maps(fft.rfft2(_windowed(patch, window)))
        maps.append(found)
        noise2.append(variance)
        power2 = power2 + squared
    coefficients, likeness = np.array(maps), sampler.likeness(power2)
    for axis in (-2, -1):
        coefficients = spline_filter1d(coefficients, order=3, axis=axis, mode="mirror", output=np.float32)
        likeness = spline_filter1d(likeness, order=3, axis=axis, mode="mirror")
    return PatchMaps(coefficients, sampler.first, sampler.second, sampler.step, np.array(noise2), likeness, layout.centres_px(scale_xy))
