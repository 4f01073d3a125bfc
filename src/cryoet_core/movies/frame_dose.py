"""Dose weights of the frames inside one tilt.

Frame f of n, with dose d per frame, still has exp(-(pre + (f + 1/2) d) / (2 Ne(k))) of the signal. Weighting by it and dividing by the root of
the mean square weight keeps the noise white (Grant & Grigorieff 2015, eq. 9) and takes out everything that the frames have in common: the dose
before the tilt, and that of the tilt as a whole. What later steps weight a view with (its dose before, or to its middle) is therefore
still theirs to do, once; only how the frames of one tilt compare with each other is done here.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryoet_core.backend import array_namespace
from cryoet_core.ctf.model import dose_weight
from cryoet_core.fourier import radial_frequency


def weighted_frames(
    spectra, n_frames: int, shape, pixel_size_angst: float, exposure_e_per_a2: float, voltage_kv: float,
    raw_frames: Sequence[int] | None = None,
):
    """Yield the spectra of all frames, each times its weight w_f(k) with mean over frames of w_f^2 = 1.

    Parameters
    ----------
    spectra : iterable of ``n_frames`` rfft2 spectra (h, w//2+1), in the order of recording. shape : (h, w).
    exposure_e_per_a2 : of the whole tilt. raw_frames : how many frames of the camera each one sums, by which the dose
    is shared among them (EER); None for frames of equal dose.
    """
    if raw_frames is not None and len(set(raw_frames)) > 1:
        yield from _weighted_unequal(spectra, raw_frames, shape, pixel_size_angst, exposure_e_per_a2, voltage_kv)
        return
    weight = ratio = None
    for spectrum in spectra:
        if weight is None:
            weight, ratio = _first_weight(array_namespace(spectrum), n_frames, shape, pixel_size_angst, exposure_e_per_a2, voltage_kv)
        else:
            weight *= ratio
        yield spectrum * weight


def _first_weight(xp, n_frames, shape, pixel_size_angst, exposure_e_per_a2, voltage_kv):
    """Weight of the first frame, and the factor from one frame to the next: (h, w//2+1) float32 each."""
    k = radial_frequency(shape, pixel_size_angst, xp)
    ratio = dose_weight(k, exposure_e_per_a2 / n_frames, voltage_kv, xp=xp)
    mean, power = xp.ones_like(ratio), xp.ones_like(ratio)
    for _ in range(n_frames - 1):
        power *= ratio * ratio
        mean += power
    return 1 / xp.sqrt(mean / n_frames), ratio


def _weighted_unequal(spectra, raw_frames, shape, pixel_size_angst, exposure_e_per_a2, voltage_kv):
    """The same for frames of unequal dose: each at the dose of its middle, and the sum over frames of (dose share)
    w_f^2 = 1."""
    total, begun, weights, power = sum(raw_frames), 0, None, None
    for spectrum in spectra:
        if weights is None:
            k = radial_frequency(shape, pixel_size_angst, array_namespace(spectrum))
            middles = []
            for n in raw_frames:
                middles.append(exposure_e_per_a2 * (begun + n / 2) / total)
                begun += n
            weights = [dose_weight(k, dose - middles[0], voltage_kv, xp=array_namespace(spectrum)) for dose in middles]
            power = sum(n / total * w * w for n, w in zip(raw_frames, weights, strict=True)) ** 0.5
            weights = iter(weights)
        yield spectrum * (next(weights) / power)
