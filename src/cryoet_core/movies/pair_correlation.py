"""Correlation maps of every pair of frames: all that motion estimation needs to know about a movie.

The joint objective of whole-frame alignment, |sum_f F_f exp(2 pi i k d_f)|^2 summed over k with weights (the one Warp
minimises: WarpLib/Movie, option fs_motion), contains the frames only through

    C_fg(delta) = sum_k w(k) Re[ conj(F_f) F_g exp(2 pi i k delta) ] ,   maximal at delta = m_g - m_f

(m = movement of the content). C_fg is band-limited, so it is evaluated once on a small grid about zero, by two matrix
products per pair, and every later step (start, refinement, held-out test) interpolates it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.fft import next_fast_len

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import crop_spectrum, frequency_grid, half_complex_multiplicity
from cryoet_core.movies.map_spline import MapSplines

CROSS = 2  # frequencies on either side of an axis that are left out
STEP = 0.5  # map sampling in band pixels: twice finer than the band limit asks for


def band_shape(shape, pixel_size_angst: float, resolution_angst: float):
    """Smallest fast even (h, w) whose Nyquist frequency still holds ``resolution_angst``; never more than ``shape``."""
    sizes = []
    for n in shape:
        wanted = 2 * next_fast_len(int(np.ceil(n * pixel_size_angst / resolution_angst)))
        sizes.append(int(min(n - n % 2, max(32, wanted))))
    return tuple(sizes)


@lru_cache(maxsize=2)
def _border_filters(shape, band, xp):
    """What one unit of jump across the lower/upper and the left/right border adds to the band's half-complex grid, two arrays."""
    q, r = (2 * np.pi * band_n / n * k.astype(np.float64) for k, n, band_n in zip(frequency_grid(band, 1.0), shape, band, strict=True))
    below = 2 * np.cos(q) + 2 * np.cos(r) - 4
    below[0, 0] = np.inf
    return tuple(xp.asarray(((1 - np.exp(1j * angle)) / below).astype(np.complex64)) for angle in (q, r))


def band_spectrum(spectrum, frame, band):
    """rfft2 of ``frame`` (h, w) -> rfft2 of the frame's periodic part, mean-free, low-passed to ``band`` (h, w).

    A transform takes an image for periodic; the jumps from each border to the opposite one add a cross to it that does not
    move with the content and would pin every shift to zero. They are those of the smooth image that solves Poisson's equation with
    the jumps as sources, which is subtracted here: no taper, so the edges' signal is kept, and no transform beyond two lines.
    Rows and columns of the camera that count differently along their whole length are lines in the transform; those next to the axes are left out.
    Source: Moisan, J. Math. Imaging Vision 39, 161 (2011).
    """
    xp = array_namespace(spectrum)
    fft = fft_module(xp)
    shape = frame.shape
    small = crop_spectrum(spectrum, shape, band)
    rows, columns = _border_filters(tuple(shape), tuple(band), xp)
    along_x = fft.rfft(frame[-1] - frame[0])[: small.shape[1]].astype(xp.complex64)
    full = fft.fft(frame[:, -1] - frame[:, 0]).astype(xp.complex64)
    along_y = xp.concatenate([full[: band[0] // 2], full[shape[0] - (band[0] - band[0] // 2) :]])
    small -= rows * along_x[None]
    small -= columns * along_y[:, None]
    small[: CROSS + 1] = small[-CROSS:] = small[band[0] // 2] = 0
    small[:, : CROSS + 1] = 0
    small[:, -1] = 0  # as in the crop: terms without a partner of opposite sign
    return small


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
        self._splines = MapSplines(self.maps, self.axis_px)
        self.reach_px = float(self.axis_px[-1])
        likeness = self.noise_correlation
        self._noise = None if likeness is None else MapSplines(likeness[None], self.axis_px)

    def _apart(self, movement_px):
        """(n_pairs, 2) m_g - m_f, inside the maps."""
        return np.clip(movement_px[self.second] - movement_px[self.first], -self.reach_px, self.reach_px)

    def _per_frame(self, per_pair, sign: int):
        """(n_frames, 2): for every frame the sum over its pairs, with ``sign`` where it is the first of the pair."""
        out = np.zeros((self.n_frames, 2))
        np.add.at(out, self.second, per_pair)
        np.add.at(out, self.first, sign * per_pair)
        return out

    def value_and_gradient(self, movement_px):
        """sum over pairs of C_fg(m_g - m_f) and its gradient.

        movement_px : (n_frames, 2) x, y. Returns (float, (n_frames, 2)).
        """
        value, slope = self._splines.value_and_slope(self._apart(movement_px))
        return float(value.sum()), self._per_frame(slope, -1)

    def value(self, movement_px) -> float:
        return float(self._splines.value(self._apart(movement_px)).sum())

    def noise_of_gain(self, movement_px) -> float:
        """Standard deviation, without signal, of value(movement) - value(no movement); neighbouring values are alike."""
        delta = self._apart(movement_px)
        alike = np.zeros(len(delta)) if self._noise is None else self._noise.value(delta)
        return float(np.sqrt((2 * self.noise**2 * np.clip(1 - alike, 0, None)).sum()))

    def gradient_variance(self):
        """(n_frames, 2): variance, without signal, of the gradient of the sum along x and y of each frame."""
        return self._per_frame((self.noise**2)[:, None] * -self._noise.bend(np.zeros((1, 2))), 1)

    def curvature(self, movement_px):
        """Minus the second derivatives of the sum along x and y of each frame, (n_frames, 2)."""
        return self._per_frame(-self._splines.bend(self._apart(movement_px)), 1)


class MapSampler:
    """Re sum_k P(k) exp(2 pi i k delta) at delta in axis x axis, for every P on a half-complex grid (..., h, columns) with h even.

    Terms of opposite ky are joined first: their sum meets a cosine and their difference a sine, for delta_y >= 0 only, so the
    products are real and four times smaller. The Nyquist row, whose sign of ky is not known, is left out.
    """

    def __init__(self, ky, kx, axis_px, xp):
        self.xp, self.middle = xp, len(ky) // 2
        phase = 2 * np.pi * np.outer(axis_px[len(axis_px) // 2 :], ky[: self.middle])
        self._cos, self._sin = (xp.asarray(f(phase).astype(np.float32)) for f in (np.cos, np.sin))
        along_x = np.exp(-2j * np.pi * np.outer(axis_px, kx)).astype(np.complex64)
        self._along_x = xp.asarray(along_x.view(np.float32).T.copy())  # (2 columns, m): real part of a product of complex numbers

    def __call__(self, product):
        xp, middle = self.xp, self.middle
        mirrored = product[..., :middle:-1, :]  # rows -1, -2, ..
        even, odd = (product[..., :middle, :].copy() for _ in range(2))
        even[..., 1:, :] += mirrored
        odd[..., 1:, :] -= mirrored
        cosine = (self._cos @ even.view(xp.float32)).view(xp.complex64)
        sine = 1j * (self._sin @ odd.view(xp.float32)).view(xp.complex64)
        rows = xp.concatenate([(cosine - sine)[..., :0:-1, :], cosine + sine], axis=-2)  # delta_y = -max .. max
        return asnumpy(rows.view(xp.float32) @ self._along_x).astype(np.float64)


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
    columns = np.arange(len(kx)) if subset is None else np.flatnonzero(subset)
    chosen = xp.asarray(columns)
    sample = MapSampler(ky / scale_xy[1], kx[columns] / scale_xy[0], axis, xp)
    used = xp.take(weights, chosen, axis=1).astype(xp.float32)
    parts = [xp.take(s, chosen, axis=1) for s in spectra]
    power = xp.stack([(used * (s.real**2 + s.imag**2)).ravel() for s in parts])
    typical = float(power.mean()) or 1.0  # squares of large counts would leave float32
    power /= typical
    shared = typical**2 * asnumpy(power @ power.T).astype(np.float64)  # sum over k of w^2 |F_f|^2 |F_g|^2
    pairs = [(f, g) for f in range(len(parts)) for g in range(f + 1, len(parts))]
    weighted = [xp.conj(s) * used for s in parts]
    maps = [sample(weighted[f] * parts[g]) for f, g in pairs]
    noise = [np.sqrt(0.5 * shared[pair]) for pair in pairs]
    first, second = (np.array([pair[i] for pair in pairs], int) for i in (0, 1))
    alike = sample((power.mean(axis=0) ** 2).reshape(used.shape).astype(xp.complex64))
    noise = np.array(noise)
    unit = np.median(noise) if len(noise) else 1.0
    stack = np.array(maps).reshape(len(maps), len(axis), len(axis)) / unit
    return PairMaps(stack, first, second, axis, len(spectra), noise / unit, alike / alike[half, half], unit)


def joined_maps(one: PairMaps, two: PairMaps) -> PairMaps:
    """The maps of two disjoint sets of frequencies together: they and the variances of their noise add."""
    noise = np.hypot(one.noise * one.unit, two.noise * two.unit)
    unit = np.median(noise) if len(noise) else 1.0
    # the noise's own correlation weighs each half by its share of the variance
    shares = [(m.noise**2).sum() * m.unit**2 for m in (one, two)]
    alike = (shares[0] * one.noise_correlation + shares[1] * two.noise_correlation) / max(sum(shares), 1e-300)
    maps = (one.maps * one.unit + two.maps * two.unit) / unit
    return PairMaps(maps, one.first, one.second, one.axis_px, one.n_frames, noise / unit, alike, unit)
