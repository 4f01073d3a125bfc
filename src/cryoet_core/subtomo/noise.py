"""Noise spectra of the raw (un-premultiplied) particle images: one curve per tilt series and view.

sigma2[f, shell] is the variance of the real (equally: imaginary) part of one Fourier coefficient. From premultiplied
data X = c x it is the ratio  sum |X - c^2 P|^2 / (2 sum c^2), which needs no division by the zeros of the CTF.

For ``likelihood="relion"`` it is RELION 5's: the variance of the premultiplied coefficients themselves, one curve for all views of
a series, sum |X - c^2 P|^2 / (2 n) over the n coefficients of visible views.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def spectra(power, weight, likelihood: str = "exact"):
    """Noise spectra (F, n_shells) from sums of residual power and of their weights, as the likelihood needs them."""
    if likelihood == "exact":
        return smooth_spectra(power, weight)
    shared = smooth_spectra(power.sum(axis=0, keepdims=True), weight.sum(axis=0, keepdims=True))
    return np.repeat(shared, len(power), axis=0)


def initial_spectra(images, likelihood: str = "exact"):
    """First guess: all power of the images is noise. images: SeriesImages -> (F, n_shells)."""
    power = weight = 0
    for p in range(0, len(images), 64):  # in parts: scratch files need not come into memory at once
        rows = slice(p, p + 64)
        part = images.masked[rows]
        power = power + shell_sums((part.real**2 + part.imag**2) * _inverse_multiplicity(images, rows, likelihood), images.frequencies)
        weight = weight + shell_sums(_variance_weight(images.ctf[rows], likelihood) * _mask_power(images, likelihood), images.frequencies)
    return spectra(power, weight, likelihood)


def _inverse_multiplicity(images, rows, likelihood):
    """1; in RELION's model of 3D sums the variance of a coefficient grows with the number of samples in it."""
    return np.float32(1) if likelihood == "exact" else images.inverse_multiplicity(rows)


def _mask_power(images, likelihood):
    """Share of the noise that the mask leaves. RELION takes the spectrum of the masked images as it is."""
    return np.float32(images.mask_power if likelihood == "exact" else 1.0)


def _variance_weight(ctf, likelihood):
    """Expected |residual|^2 of a premultiplied coefficient in units of sigma2: 2 c^2, or 2 where there are data."""
    if likelihood == "exact":
        return 2 * ctf**2
    xp = array_namespace(ctf)
    return 2 * (ctf != 0).astype(xp.float32)


def residual_sums(images, rows, slices, phases, likelihood: str = "exact"):
    """Sums of |X e^{+i phi} - a c^2 P|^2 / nu and of their weights at the poses of ``rows``: two (F, n_shells) arrays.

    slices : (M, F, K) at the poses; phases : (M, F, K) that undo the particles' shifts; a, nu the particles' factors.
    """
    power = residual_power(images, rows, slices, phases) / images.factors()[1][rows] * _inverse_multiplicity(images, rows, likelihood)
    weight = _variance_weight(images.ctf[rows], likelihood) * _mask_power(images, likelihood)
    return shell_sums(power, images.frequencies), shell_sums(weight, images.frequencies)


def residual_power(images, rows, slices, phases):
    """|X e^{+i phi} - a c^2 P|^2 -> (M, F, K) float32."""
    residual = images.masked[rows] * phases - images.factors()[0][rows] * images.ctf[rows] ** 2 * slices
    return residual.real**2 + residual.imag**2


@dataclass(frozen=True)
class CorrectionSums:
    """What the corrections of some particles are made of: (n,) float64 each, over shells up to ``max_shell``.

    cross, norm : Re sum X* P / sigma^2 and sum c^2 |P|^2 / sigma^2 (their ratio is the amplitude); residual, weight : sums of
    |X - a c^2 P|^2 / sigma^2 and of its expectation (their ratio is the noise factor).
    """

    cross: np.ndarray
    norm: np.ndarray
    residual: np.ndarray
    weight: np.ndarray

    def take(self, index) -> CorrectionSums:
        """Sums of some of the particles."""
        return CorrectionSums(self.cross[index], self.norm[index], self.residual[index], self.weight[index])


def joined_sums(parts: list[CorrectionSums]) -> CorrectionSums:
    """Sums of consecutive particles as one."""
    names = ("cross", "norm", "residual", "weight")
    return CorrectionSums(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


def correction_sums(images, rows, slices, phases, sigma2, max_shell: int, likelihood: str = "exact") -> CorrectionSums:
    """Sums of particles ``rows`` at their poses for :func:`amplitude` and :func:`noise_factors`."""
    xp = array_namespace(slices)
    n = images.frequencies.count(max_shell)
    inverse = xp.asarray(1.0 / np.asarray(sigma2)[:, images.frequencies.shell], dtype=xp.float32)
    ctf2 = images.ctf[rows] ** 2
    counts = _inverse_multiplicity(images, rows, likelihood)
    power = residual_power(images, rows, slices, phases) * counts

    def total(values):
        return asnumpy((values * inverse[:, : values.shape[-1]]).sum(axis=(1, 2), dtype=xp.float64))

    low, low2 = slices[..., :n], ctf2[..., :n]
    share = 1 if likelihood == "exact" else low2 * (counts if images.multiplicity is None else counts[..., :n])
    cross = ((images.masked[rows][..., :n] * phases[..., :n]) * low.conj()).real * share
    norm = low2 * share * (low.real**2 + low.imag**2)
    expected = _variance_weight(images.ctf[rows], likelihood) * _mask_power(images, likelihood)
    expected = asnumpy(expected.sum(axis=(1, 2), dtype=xp.float64))
    return CorrectionSums(total(cross), total(norm), total(power), expected)


def group_amplitude(sums: list[CorrectionSums]) -> float:
    """Strength of a series' particles against the reference: regression over all of them; 1 when it is not positive."""
    cross, norm = (sum(float(getattr(s, name).sum()) for s in sums) for name in ("cross", "norm"))
    return cross / norm if cross > 0 and norm > 0 else 1.0


def balanced(values, weights):
    """Factors clipped to a fifth .. five times their median (RELION's limits) and divided by their weighted mean."""
    values = np.asarray(values, dtype=np.float64)
    middle = np.median(values)
    values = np.clip(values, middle / 5, 5 * middle)
    return values / np.average(values, weights=weights)


def noise_factors(sums: CorrectionSums):
    """Variance of every particle's noise against its series' (n,), mean 1."""
    seen = sums.weight > 0
    ratio = np.where(seen, sums.residual / np.where(seen, sums.weight, 1), 1.0)
    return balanced(ratio, np.maximum(sums.weight, 1e-30))


def score_excess(images, rows, slices, phases, tests, sigma2):
    """How much larger the variance of a score is than the noise spectra say: (n_shells,) float64, at least 1.

    The likelihood takes the noise of different views as independent. Whatever is around and across a particle is not: at low
    frequencies neighbouring views see the same density, and a score adds it up as if it were seen anew in every view. The
    residuals at the poses of ``rows`` (M,) (slices, phases (M, F, K)) are compared with other slices ``tests`` (T, F, K), to which
    they owe nothing: the mean square of Re sum r* P / sigma^2 over its expectation, sum c^2 |P|^2 / sigma^2, shell by shell.
    """
    xp = array_namespace(slices)
    n = slices.shape[-1]
    shell = images.frequencies.shell[:n]
    inverse = xp.asarray(1.0 / np.asarray(sigma2)[:, shell], dtype=xp.float32)
    edges = np.flatnonzero(np.diff(shell, prepend=-1))
    power = tests.real**2 + tests.imag**2
    square, expected = np.zeros(edges.size), np.zeros(edges.size)
    for row, own, move in zip(rows, slices, phases, strict=True):
        ctf2 = images.ctf[row, :, :n] ** 2
        residual = (images.masked[row, :, :n] * move - ctf2 * own) * inverse
        score = (residual.conj() * tests).real.sum(axis=1)
        square += (np.add.reduceat(asnumpy(score), edges, axis=1).astype(np.float64) ** 2).sum(axis=0)
        weight = asnumpy((power * (ctf2 * inverse)).sum(axis=1))
        expected += np.add.reduceat(weight, edges, axis=1).sum(axis=0)
    out = np.ones(images.frequencies.n_shells)
    out[shell[edges]] = np.maximum(square / np.maximum(expected, 1e-30), 1)
    out[shell[-1] + 1 :] = out[shell[-1]]
    return out
