"""Local resolution and local filtering by correlation of the half maps in bands, in a Gaussian window around every voxel.

For band i (centre c_i shells, triangular, a window wide in real space) with b_1, b_2 the band-passed half maps and G the window
```
cc_i(x) = G * (b_1 b_2) / sqrt( G * b_1^2 . G * b_2^2 )
```
is the FSC of the halves near x. The local resolution is where it first falls below the threshold, or below twice the spread
that the same bands of phase-randomised maps have (few Fourier coefficients per window make noise correlate by chance). No
mask multiplies the maps, so none correlates them. Idea: local FSC (Cardone, Heymann & Steven 2013, J Struct Biol 184:226); in
bands it takes a few transforms of the box per band instead of one per point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import radial_frequency
from cryoet_core.fsc import randomise_phases

FWHM = 2.3548  # of a Gaussian of sigma 1
SPREADS = 2.0


@dataclass(frozen=True)
class LocalResolution:
    """resolution_angst : (n, n, n) float32, 0 outside the mask; map : locally filtered; window_angst : full width at half height."""

    resolution_angst: np.ndarray
    map: np.ndarray
    window_angst: float

    def quantiles(self, shares=(0.05, 0.5, 0.95)) -> list[float]:
        """Resolution (A) of the best, middle and worst voxels inside the mask; NaN when the mask is empty."""
        inside = self.resolution_angst[self.resolution_angst > 0]
        return [float(v) for v in np.quantile(inside, shares)] if inside.size else [float("nan")] * len(shares)


def default_window_angst(resolution_angst: float, pixel_size_angst: float, box_px: int) -> float:
    """Six times the resolution of the whole, at least 12 px, at most a third of the box.

    The bands are as narrow as the window allows: half width (shells) = box / window. At a steep edge of the signal the result
    is finer than the truth by up to that.
    """
    reached = resolution_angst if np.isfinite(resolution_angst) else box_px * pixel_size_angst / 4
    longest = box_px * pixel_size_angst / 3
    return float(min(max(6 * reached, 12 * pixel_size_angst), longest))


def band_centres(box_px: int, half_width: float) -> np.ndarray:
    """Centres (shells) half a band apart, from one half width (at least 2) to the Nyquist shell."""
    first = max(2.0, half_width / 2)
    count = max(2, int(np.ceil((box_px / 2 - first) / (half_width / 2))) + 1)
    return np.linspace(first, box_px / 2, count)


def band_weights(shells, centres, half_width):
    """Triangles about the centres on |k| in shells, scaled to sum to 1 between the first and the last centre; a generator."""
    xp = array_namespace(shells)

    def triangle(centre):
        low = shells if centre != centres[0] else xp.maximum(shells, centre)  # everything coarser is in the first band
        return xp.clip(1 - xp.abs(low - centre) / half_width, 0, 1)

    total = sum(triangle(c) for c in centres)
    for centre in centres:
        yield triangle(centre) / xp.maximum(total, 1e-6)


class _Window:
    """Gaussian average over a box (periodic)."""

    def __init__(self, shape, sigma_px, xp):
        k = radial_frequency(shape, 1.0, xp)
        self.shape, self.transfer = shape, xp.exp(-2 * (np.pi * sigma_px * k) ** 2).astype(xp.float32)

    def __call__(self, values):
        fft = fft_module(array_namespace(values))
        return fft.irfftn(fft.rfftn(values) * self.transfer, s=self.shape)


def _correlation(a, b, window):
    xp = array_namespace(a)
    power = window(a * a) * window(b * b)
    return window(a * b) / xp.sqrt(xp.maximum(power, 1e-30 + 1e-12 * power.max()))


def local_resolution(
    half1, half2, mask, pixel_size_angst: float, rng, *, window_angst: float, threshold: float = 0.143, volume=None
) -> LocalResolution:
    """Local resolution of two half maps.

    Parameters
    ----------
    half1, half2 : (n, n, n) unfiltered. mask : (n, n, n), where it is above 0.5 the result is given. rng : for the random
    phases. window_angst : full width at half height of the Gaussian window. volume : the map to filter; default the mean.
    """
    xp = array_namespace(half1, half2)
    fft, shape, n = fft_module(xp), half1.shape, half1.shape[0]
    volume = 0.5 * (half1 + half2) if volume is None else volume
    inside = xp.asarray(mask) > 0.5
    half_width = max(2.0, n * pixel_size_angst / window_angst)
    centres = band_centres(n, half_width)
    window = _Window(shape, window_angst / pixel_size_angst / FWHM, xp)
    noise = [fft.rfftn(randomise_phases(h, 1, rng)) for h in (half1, half2)]
    spectra = [fft.rfftn(h) for h in (half1, half2, volume)]
    shells = radial_frequency(shape, 1.0 / n, xp)
    reached = xp.full(shape, centres[0], dtype=xp.float32)
    alive, before = xp.ones(shape, dtype=bool), None
    filtered = xp.zeros(shape, dtype=xp.float32)
    for i, weight in enumerate(band_weights(shells, centres, half_width)):
        first, second, band = (fft.irfftn(s * weight, s=shape) for s in spectra)
        chance = _correlation(*(fft.irfftn(s * weight, s=shape) for s in noise), window)
        limit = max(threshold, SPREADS * float(chance[inside].std()) if bool(inside.any()) else threshold)
        excess = _correlation(first, second, window) - limit
        alive_now = alive & (excess > 0)
        if i:
            share = xp.where(alive_now, 1.0, before / xp.maximum(before - excess, 1e-6))
            step = centres[i - 1] + xp.clip(share, 0, 1) * (centres[i] - centres[i - 1])
            reached = xp.where(alive, step, reached)
        alive, before = alive_now, excess
        cc = xp.clip(excess + limit, 0, 1)
        filtered += (band * xp.where(alive, xp.sqrt(2 * cc / (1 + cc)), 0)).astype(xp.float32)
    resolution = xp.where(inside, n * pixel_size_angst / reached, 0)
    return LocalResolution(
        asnumpy(resolution).astype(np.float32), asnumpy(filtered).astype(np.float32), float(window_angst)
    )
