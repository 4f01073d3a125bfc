"""Fourier shell correlation, resolution, and the mask-corrected FSC by phase randomisation.

Sources: van Heel & Schatz 2005 (FSC); Chen et al. 2013, Ultramicroscopy 135:24 (high-resolution noise substitution).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, fft_module
from cryoet_core.fourier import half_complex_multiplicity, shell_index, shell_sum

RISEN_SHELLS = 3  # a rise of the FSC beyond a gap has so many shells
RISEN_SIGMA = 4.0  # and passes the threshold by so many standard errors


def fourier_shell_correlation(a, b, mask=None):
    """FSC of two maps (n, n, n), shells 0 .. n//2 -> float64 (n//2 + 1,), on the device of the maps.

    ``mask`` multiplies both maps first. Shells without signal give 0.
    """
    xp = array_namespace(a, b)
    if a.shape != b.shape:
        raise ValueError(f"maps differ in shape: {a.shape} and {b.shape}")
    if mask is not None:
        a, b = a * mask, b * mask
    fft = fft_module(xp)
    fa, fb = fft.rfftn(a), fft.rfftn(b)
    shells, n = shell_index(a.shape, xp), max(a.shape) // 2 + 1
    weight = half_complex_multiplicity(a.shape, xp)
    cross = shell_sum((fa * fb.conj()).real, shells, n, weight)
    power_a = shell_sum(xp.abs(fa) ** 2, shells, n, weight)
    power_b = shell_sum(xp.abs(fb) ** 2, shells, n, weight)
    norm = xp.sqrt(power_a * power_b)
    return xp.where(norm > 0, cross / xp.maximum(norm, 1e-300), 0.0)


def resolution_at(fsc, pixel_size_angst: float, box_px: int, threshold: float = 0.143) -> float:
    """Resolution in A where the FSC first falls below ``threshold``, linear between shells.

    The Nyquist limit is returned when it never does, infinity when already the first shell is below.
    """
    below = np.flatnonzero(np.asarray(fsc)[1:] < threshold)
    if below.size == 0:
        return 2.0 * pixel_size_angst
    shell = int(below[0]) + 1
    if shell == 1:
        return float("inf")
    high, low = float(fsc[shell - 1]), float(fsc[shell])
    crossing = shell - 1 + (high - threshold) / (high - low)
    return box_px * pixel_size_angst / crossing


def signal_limit_at(
    fsc, pixel_size_angst: float, box_px: int, mask_fraction: float = 1.0, threshold: float = 0.143
) -> float:
    """Finest detail in A that two half maps share: as :func:`resolution_at`, but a zero of the CTF is not its end.

    Particles of one defocus leave a gap in the FSC at every zero. Detail beyond a gap counts where at least RISEN_SHELLS shells in a row are
    above the threshold and their mean is so by RISEN_SIGMA standard errors of noise. A curve without gaps gives the resolution.

    mask_fraction : share of the box that the mask of the FSC leaves; it leaves a shell as many independent coefficients.
    """
    fsc = np.asarray(fsc, dtype=float)
    end = resolution_at(fsc, pixel_size_angst, box_px, threshold)
    above = np.concatenate([[False], fsc[1:] >= threshold, [False]])
    starts, stops = np.flatnonzero(above[1:] & ~above[:-1]) + 1, np.flatnonzero(above[:-1] & ~above[1:]) + 1
    for start, stop in zip(starts, stops, strict=True):
        shells = np.arange(start, stop)
        independent = float((2 * np.pi * shells**2).sum()) * mask_fraction  # half of a shell's coefficients repeat the other
        risen = fsc[start:stop].mean() > threshold + RISEN_SIGMA / np.sqrt(max(independent, 1e-9))
        if start > 1 and len(shells) >= RISEN_SHELLS and risen:
            # as far as this rise reaches
            end = resolution_at(np.concatenate([np.ones(start), fsc[start:]]), pixel_size_angst, box_px, threshold)
    return end


@dataclass(frozen=True)
class CorrectedFsc:
    """FSC curves over shells 0 .. n//2: unmasked, masked, of phase-randomised maps with the mask, and corrected."""

    unmasked: np.ndarray
    masked: np.ndarray
    randomised: np.ndarray
    corrected: np.ndarray
    randomised_from_shell: int


def randomise_phases(volume, from_shell: int, rng):
    """Replace the phases at and beyond ``from_shell`` by those of white noise; amplitudes stay."""
    xp = array_namespace(volume)
    fft = fft_module(xp)
    spectrum = fft.rfftn(volume)
    noise = fft.rfftn(xp.asarray(rng.standard_normal(volume.shape), dtype=volume.dtype))
    noise /= xp.maximum(xp.abs(noise), 1e-20)
    beyond = shell_index(volume.shape, xp) >= from_shell
    spectrum = xp.where(beyond, xp.abs(spectrum) * noise, spectrum)
    return fft.irfftn(spectrum, s=volume.shape).astype(volume.dtype)


def corrected_fsc(half1, half2, mask, rng, randomise_below: float = 0.8) -> CorrectedFsc:
    """FSC corrected for the correlation that the mask itself makes.

    Phases are randomised from the first shell where the unmasked FSC is below ``randomise_below``;
    corrected = (masked - random) / (1 - random) from two shells beyond it, the masked FSC before.
    """
    from cryoet_core.backend import asnumpy

    unmasked = asnumpy(fourier_shell_correlation(half1, half2))
    masked = asnumpy(fourier_shell_correlation(half1, half2, mask))
    below = np.flatnonzero(unmasked[1:] < randomise_below)
    start = int(below[0]) + 1 if below.size else len(unmasked)
    random = asnumpy(
        fourier_shell_correlation(randomise_phases(half1, start, rng), randomise_phases(half2, start, rng), mask)
    )
    corrected = masked.copy()
    tail = slice(start + 2, None)
    corrected[tail] = (masked[tail] - random[tail]) / np.maximum(1 - random[tail], 1e-6)
    return CorrectedFsc(unmasked, masked, random, corrected, start)
