"""Noise spectra of the raw (un-premultiplied) particle images: one curve per tilt series and view.

sigma2[f, shell] is the variance of the real (equally: imaginary) part of one Fourier coefficient. From premultiplied
data X = c x it is the ratio  sum |X - c^2 P|^2 / (2 sum c^2), which needs no division by the zeros of the CTF.
"""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy


def shell_sums(values, frequencies):
    """Sum of (..., F, K) over particles and shells -> (F, n_shells) float64 (host)."""
    xp = array_namespace(values)
    total = asnumpy(values.sum(axis=tuple(range(values.ndim - 2)), dtype=xp.float64))
    shell = frequencies.shell
    return np.stack([np.bincount(shell, weights=row, minlength=frequencies.n_shells) for row in total])


def smooth_spectra(power, weight, floor: float = 1e-6):
    """sigma2 (F, n_shells) from sums of residual power and of 2 c^2; shells without weight take their neighbour's value.

    Views without data get the mean curve. ``floor`` (of the median) keeps every value positive.
    """
    total = power.sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-30)
    seen = weight.sum(axis=0) > 0
    shells = np.arange(total.size)
    total = np.interp(shells, shells[seen], total[seen]) if seen.any() else np.ones(total.size)
    # a prior of a few coefficients' worth of the mean curve steadies shells with little data
    prior = 0.02 * weight.mean(axis=0, keepdims=True) + 1e-30
    sigma2 = (power + prior * total) / (weight + prior)
    return np.maximum(sigma2, floor * np.median(sigma2))


def initial_spectra(images):
    """First guess: all power of the images is noise. images: SeriesImages -> (F, n_shells)."""
    power = shell_sums(np.abs(images.masked) ** 2, images.frequencies)
    return smooth_spectra(power, shell_sums(2 * images.ctf**2, images.frequencies))


def residual_sums(images, rows, slices, phases):
    """Sums of |X e^{+i phi} - c^2 P|^2 and of 2 c^2 for particles ``rows`` at their poses: two (F, n_shells) arrays.

    slices : (M, F, K) at the poses; phases : (M, F, K) that undo the particles' shifts.
    """
    ctf2 = images.ctf[rows] ** 2
    residual = images.masked[rows] * phases - ctf2 * slices
    power = residual.real**2 + residual.imag**2
    return shell_sums(power, images.frequencies), shell_sums(2 * ctf2, images.frequencies)
