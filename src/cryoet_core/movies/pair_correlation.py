"""Correlation maps of every pair of frames: all that motion estimation needs to know about a movie.

The joint objective of whole-frame alignment, |sum_f F_f exp(2 pi i k d_f)|^2 summed over k with weights (the one Warp
minimises: WarpLib/Movie, option fs_motion), contains the frames only through

    C_fg(delta) = sum_k w(k) Re[ conj(F_f) F_g exp(2 pi i k delta) ] ,   maximal at delta = m_g - m_f

(m = movement of the content). C_fg is band-limited, so it is evaluated once on a small grid about zero, by two matrix
products per pair, and every later step (start, refinement, held-out test) interpolates it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len
from scipy.interpolate import RectBivariateSpline

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import crop_spectrum, frequency_grid, half_complex_multiplicity
from cryoet_core.masks import taper_window

STEP = 0.5  # map sampling in band pixels: twice finer than the band limit asks for
TAPER = 0.06  # of the short side


def band_shape(shape, pixel_size_angst: float, resolution_angst: float):
    """Smallest fast even (h, w) whose Nyquist frequency still holds ``resolution_angst``; never more than ``shape``."""
    sizes = []
    for n in shape:
        wanted = 2 * next_fast_len(int(np.ceil(n * pixel_size_angst / resolution_angst)))
        sizes.append(int(min(n - n % 2, max(32, wanted))))
    return tuple(sizes)


def band_spectrum(spectrum, shape, band):
    """rfft2 of a frame (h, w//2+1) -> rfft2 of the same frame low-passed to ``band`` (h, w), mean-free, edges tapered.

    The taper removes the cross that image borders leave in the transform and that would pin every shift to zero.
    """
    xp = array_namespace(spectrum)
    fft = fft_module(xp)
    small = fft.irfft2(crop_spectrum(spectrum, shape, band), s=band)
    window = taper_window(band, TAPER * min(band), xp)
    small = (small - (small * window).sum() / window.sum()) * window
    return fft.rfft2(small.astype(xp.float32))


def band_weights(band, pixel_size_angst, resolution_range_angst, b_factor_angst2, xp=np):
    """w(k) on the half-complex grid of ``band``: exp(-|B|/2 k^2) inside the range, doubled where k stands for -k too.

    pixel_size_angst : (y, x) of the band images. B acts on amplitudes as exp(-|B|/4 k^2), hence twice on a product.
    """
    ky, kx = frequency_grid(band, 1.0, xp)
    k2 = (ky / pixel_size_angst[0]) ** 2 + (kx / pixel_size_angst[1]) ** 2
    low, high = 1 / max(resolution_range_angst), 1 / min(resolution_range_angst)
    inside = (k2 >= low * low) & (k2 < high * high) & (k2 > 0)
    return xp.where(inside, xp.exp(-0.5 * abs(b_factor_angst2) * k2), 0) * half_complex_multiplicity(band, xp)


def split_frequencies(band, rng: np.random.Generator, block: int = 4):
    """Random half of the columns of the half-complex grid (bool, (w//2+1,)): to test on one half what the other says.

    Of every two neighbouring stripes of ``block`` columns one goes to each half, so both see the same range of frequencies and
    both directions. Whole columns, because a half then costs half of the matrix products.
    """
    columns = band[1] // 2 + 1
    pairs = -(-columns // (2 * block))
    first = rng.random(pairs) < 0.5
    return np.repeat(np.stack([first, ~first], axis=1).ravel(), block)[:columns]


@dataclass
class PairMaps:
    """Correlation maps of frame pairs f < g.

    maps : (n_pairs, m, m) float64, C_fg sampled at ``axis_px`` (m,) in pixels of the movie, [y, x].
    first, second : (n_pairs,) frame indices. n_frames : number of frames.
    noise : (n_pairs,) standard deviation of a map where there is no signal.
    noise_correlation : (m, m) correlation of that noise with itself at a distance, 1 at the centre (None: white).
    unit : what maps and noise were divided by.
    """

    maps: np.ndarray
    first: np.ndarray
    second: np.ndarray
    axis_px: np.ndarray
    n_frames: int
    noise: np.ndarray
    noise_correlation: np.ndarray | None = None
    unit: float = 1.0

    def __post_init__(self):
        self._splines = [RectBivariateSpline(self.axis_px, self.axis_px, m, s=0) for m in self.maps]
        self.reach_px = float(self.axis_px[-1])
        likeness = self.noise_correlation
        self._noise = None if likeness is None else RectBivariateSpline(self.axis_px, self.axis_px, likeness, s=0)

    def value_and_gradient(self, movement_px):
        """sum over pairs of C_fg(m_g - m_f) and its gradient.

        movement_px : (n_frames, 2) x, y. Returns (float, (n_frames, 2)).
        """
        total, gradient = 0.0, np.zeros_like(movement_px)
        delta = np.clip(movement_px[self.second] - movement_px[self.first], -self.reach_px, self.reach_px)
        for spline, f, g, (x, y) in zip(self._splines, self.first, self.second, delta, strict=True):
            total += float(spline.ev(y, x))
            slope = np.array([float(spline.ev(y, x, dy=1)), float(spline.ev(y, x, dx=1))])
            gradient[g] += slope
            gradient[f] -= slope
        return total, gradient

    def value(self, movement_px) -> float:
        delta = np.clip(movement_px[self.second] - movement_px[self.first], -self.reach_px, self.reach_px)
        return float(sum(s.ev(y, x) for s, (x, y) in zip(self._splines, delta, strict=True)))

    def noise_of_gain(self, movement_px) -> float:
        """Standard deviation, without signal, of value(movement) - value(no movement); neighbouring values are alike."""
        delta = np.clip(movement_px[self.second] - movement_px[self.first], -self.reach_px, self.reach_px)
        alike = np.zeros(len(delta)) if self._noise is None else self._noise.ev(delta[:, 1], delta[:, 0])
        return float(np.sqrt((2 * self.noise**2 * np.clip(1 - alike, 0, None)).sum()))

    def gradient_variance(self):
        """(n_frames, 2): variance, without signal, of the gradient of the sum along x and y of each frame."""
        bend = -np.array([float(self._noise.ev(0, 0, dy=2)), float(self._noise.ev(0, 0, dx=2))])
        per_frame = np.zeros(self.n_frames)
        np.add.at(per_frame, self.first, self.noise**2)
        np.add.at(per_frame, self.second, self.noise**2)
        return per_frame[:, None] * bend

    def curvature(self, movement_px):
        """Minus the second derivatives of the sum along x and y of each frame, (n_frames, 2)."""
        bend = np.zeros_like(movement_px)
        delta = np.clip(movement_px[self.second] - movement_px[self.first], -self.reach_px, self.reach_px)
        for spline, f, g, (x, y) in zip(self._splines, self.first, self.second, delta, strict=True):
            second = np.array([float(spline.ev(y, x, dy=2)), float(spline.ev(y, x, dx=2))])
            bend[f] -= second
            bend[g] -= second
        return bend


def _sampling_matrix(frequencies, axis_px, xp):
    phase = 2 * np.pi * np.outer(axis_px, frequencies)
    return xp.asarray(np.exp(1j * phase).astype(np.complex64))


def pair_maps(spectra, band, scale_xy, weights, *, reach_px: float, subset=None):
    """All pairwise correlation maps.

    Parameters
    ----------
    spectra : list of (h, w//2+1) complex from :func:`band_spectrum`. band : (h, w). scale_xy : movie pixels per band
    pixel (x, y). weights : half-complex grid. reach_px : largest shift between two frames, movie pixels.
    subset : (w//2+1,) bool; only these columns of the half-complex grid are used (None: all).

    Returns
    -------
    PairMaps; values are divided by the noise of a typical map, so that noise has standard deviation near 1.
    """
    xp = array_namespace(spectra[0])
    step = STEP * min(scale_xy)
    half = max(8, int(np.ceil(reach_px / step)))
    axis = step * np.arange(-half, half + 1)
    ky, kx = (asnumpy(k).ravel().astype(np.float64) for k in frequency_grid(band, 1.0))
    columns = np.ones(len(kx), bool) if subset is None else subset
    ex = _sampling_matrix(kx[columns] / scale_xy[0], axis, xp)  # (m, columns)
    ey = _sampling_matrix(ky / scale_xy[1], axis, xp)  # (m, h)
    chosen = xp.asarray(columns)
    used = weights[:, chosen].astype(xp.float32)
    parts = [s[:, chosen] for s in spectra]
    power = [used * (s.real**2 + s.imag**2) for s in parts]
    maps, first, second, noise = [], [], [], []
    for f in range(len(parts)):
        weighted = xp.conj(parts[f]) * used
        for g in range(f + 1, len(parts)):
            product = weighted * parts[g]
            maps.append(asnumpy(((ey @ product) @ ex.T).real).astype(np.float64))
            noise.append(float(xp.sqrt(0.5 * (power[f] * power[g]).sum(dtype=xp.float64))))
            first.append(f)
            second.append(g)
    mean_power = sum(power) / len(power)
    alike = asnumpy((ey @ ((mean_power**2).astype(xp.complex64) @ ex.T)).real).astype(np.float64)
    noise = np.array(noise)
    unit = np.median(noise) if len(noise) else 1.0
    stack = np.array(maps).reshape(len(maps), len(axis), len(axis)) / unit
    return PairMaps(stack, np.array(first, int), np.array(second, int), axis, len(spectra), noise / unit,
                    alike / alike[half, half], unit)


def joined_maps(one: PairMaps, two: PairMaps) -> PairMaps:
    """The maps of two disjoint sets of frequencies together: they and the variances of their noise add."""
    noise = np.hypot(one.noise * one.unit, two.noise * two.unit)
    unit = np.median(noise) if len(noise) else 1.0
    # the noise's own correlation weighs each half by its share of the variance
    shares = [(m.noise**2).sum() * m.unit**2 for m in (one, two)]
    alike = (shares[0] * one.noise_correlation + shares[1] * two.noise_correlation) / max(sum(shares), 1e-300)
    maps = (one.maps * one.unit + two.maps * two.unit) / unit
    return PairMaps(maps, one.first, one.second, one.axis_px, one.n_frames, noise / unit, alike, unit)
