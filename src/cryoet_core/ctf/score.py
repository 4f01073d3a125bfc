"""How well a defocus explains the rings of one view: a log-likelihood ratio with its gradient.

Model of a spectrum divided by its smooth background b(k):  P / b = 1 + smooth(k, angle) + a * e(k) * CTF^2(k, angle) + noise,
with a >= 0 unknown, e(k) a known decay, and noise whose variance goes with the inverse number of averaged coefficients.
The smooth part is projected out of data and model, a is solved for, and what remains is

    L = 1/2 <t, m>^2 / (<m, m> sigma^2)   for <t, m> > 0, else 0

the gain in log-likelihood over "no rings". Working with CTF^2 and a projection replaces the usual fits of a background through
the minima, which need a first idea of the defocus. The window of the tiles makes neighbouring radii correlate; rings are wider than
that, so sigma^2 is the variance times the sum of that correlation, and L and the errors derived from it are honest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.ctf.model import Optics, phase_aberration
from cryoet_core.ctf.spectra import PolarGrid, ViewSpectra, defocus_spread_damping

BACKGROUND_DEGREE = 6  # of the smooth curve that is divided out, and of what is then projected out: it may follow wide rings
CORRELATED_RADII = 1 + 2 * (2 / 3) ** 2 + 2 * (1 / 6) ** 2  # sum over lags of the correlation of power under a Hann window


def _polynomials(k, degree: int):
    """(n, degree + 1) Legendre polynomials of sqrt(k) over its range."""
    x = np.sqrt(k)
    return np.polynomial.legendre.legvander(2 * (x - x[0]) / max(x[-1] - x[0], 1e-12) - 1, degree)


def smooth_background(k, power, weights, degree: int = BACKGROUND_DEGREE) -> np.ndarray:
    """Smooth positive curve through ``power`` (n,) over ``k`` (n,): polynomial in sqrt(k) of log power, weighted."""
    basis = _polynomials(k, min(degree, max(1, len(k) // 8)))
    root = np.sqrt(weights)[:, None]
    logs = np.log(np.maximum(power, 1e-12 * max(power.max(), 1e-30)))
    return np.exp(basis @ np.linalg.lstsq(root * basis, root[:, 0] * logs, rcond=None)[0])


def _basis(k, angles):
    """Smooth functions of radius, and of cos, sin of twice the angle, (n_angles * n_radii, n_basis)."""
    radial = _polynomials(k, BACKGROUND_DEGREE)
    columns = [np.broadcast_to(c, (len(angles), len(k))).ravel() for c in radial.T]
    for wave in (np.cos(2 * angles), np.sin(2 * angles)):
        columns += [(wave[:, None] * c[None]).ravel() for c in radial.T[:2]]
    return np.stack(columns, axis=1)


@dataclass
class ViewScore:
    """Data of one view prepared for fast scoring; make it with :func:`prepare_view`.

    target : (n_strips, n_bins) weighted, background-free data. root : (n_strips, n_bins) square roots of the weights.
    basis : (n_bins, n_basis) orthonormal smooth functions, weighted as one tile is. k2, k2_cos, k2_sin, decay : (n_bins,).
    depth_angst : (n_strips,). sigma2 : variance of target, over the independent share of its values.
    """

    target: np.ndarray
    root: np.ndarray
    basis: np.ndarray
    k2: np.ndarray
    k2_cos: np.ndarray
    k2_sin: np.ndarray
    damping: np.ndarray
    depth_angst: np.ndarray
    sigma2: float
    optics: Optics

    def _project(self, values):
        """Remove the smooth part of ``values`` (..., n_strips, n_bins)."""
        return values - (values @ self.basis) @ self.basis.T

    def _decay(self, b_factor):
        return np.exp(-0.5 * b_factor * self.k2) * self.damping

    def _gamma(self, defocus, astig_cos, astig_sin, phase_rad, handedness):
        z = defocus + handedness * self.depth_angst  # (n_strips,)
        zk2 = z[:, None] * self.k2 + 0.5 * (astig_cos * self.k2_cos + astig_sin * self.k2_sin)
        return phase_aberration(zk2, self.k2, self.optics) + phase_rad

    def scan(self, defocus_angst, handedness: int, b_factor: float, phases_rad=0.0) -> np.ndarray:
        """L without astigmatism at every defocus (n,) and phase shift (number or (p,)), (n,) or (n, p).

        sin^2(gamma + phase) = 1/2 - cos(2 phase) cos(2 gamma)/2 + sin(2 phase) sin(2 gamma)/2: all phases follow from the inner
        products of three curves.
        """
        phases = np.atleast_1d(phases_rad)
        mix = 0.5 * np.stack([np.ones(len(phases)), -np.cos(2 * phases), np.sin(2 * phases)])  # (3, p)
        product, norm = self._scan_products(np.asarray(defocus_angst, float), handedness, b_factor)
        product = product @ mix
        norm = np.einsum("ip,mij,jp->mp", mix, norm, mix, optimize=True)
        out = 0.5 * np.maximum(product, 0.0) ** 2 / (np.maximum(norm, 0.0) + 1e-30) / self.sigma2
        return out if np.ndim(phases_rad) else out[:, 0]

    def _scan_products(self, defocus_angst, handedness, b_factor):
        """Inner products of the curves 1, cos 2 gamma, sin 2 gamma (times the decay): with the target (m, 3), among each other (m, 3, 3).

        exp(2i gamma) is that of the view's own defocus times that of the strip's depth, so everything is a product of one matrix
        (m, n_bins) with a few columns per strip.
        """
        zk2 = defocus_angst[:, None] * self.k2
        wave = np.exp(2j * phase_aberration(zk2, self.k2, self.optics))  # (m, n_bins)
        depth = handedness * self.depth_angst[:, None] * self.k2
        strips = np.exp(2j * np.pi * self.optics.wavelength_angst * depth)  # (n_strips, n_bins)
        envelope = self._decay(b_factor) * self.root
        first = wave @ (strips * envelope * self.target).sum(axis=0)  # (m,)
        second = wave**2 @ (strips**2 * envelope**2).sum(axis=0)
        smooth = np.einsum("sn,sn,nb->nsb", strips, envelope, self.basis).reshape(len(self.k2), -1)
        smooth = wave @ smooth  # (m, n_strips * n_basis): coefficients of the smooth part
        flat = (envelope @ self.basis).ravel()
        power, m = (envelope**2).sum(), len(defocus_angst)
        linear = wave @ (strips * envelope**2).sum(axis=0)
        parts = np.stack([np.broadcast_to(flat, smooth.shape), smooth.real, smooth.imag], axis=1)  # (m, 3, s * b)
        norm = np.empty((m, 3, 3))
        norm[:, 0, 0], norm[:, 0, 1], norm[:, 0, 2] = power, linear.real, linear.imag
        norm[:, 1, 1], norm[:, 1, 2], norm[:, 2, 2] = 0.5 * (power + second.real), 0.5 * second.imag, 0.5 * (power - second.real)
        norm[:, 1, 0], norm[:, 2, 0], norm[:, 2, 1] = norm[:, 0, 1], norm[:, 0, 2], norm[:, 1, 2]
        product = np.stack([np.full(m, (envelope * self.target).sum()), first.real, first.imag], axis=1)
        return product, norm - parts @ parts.transpose(0, 2, 1)

    def _derivatives(self, gamma, envelope):
        """(5, n_strips, n_bins): of the model, before projection, by defocus, astig_cos, astig_sin, phase and decay."""
        turning = envelope * np.sin(2 * gamma)
        wave = np.pi * self.optics.wavelength_angst
        columns = (wave * self.k2, 0.5 * wave * self.k2_cos, 0.5 * wave * self.k2_sin, np.ones_like(self.k2))
        return np.stack([turning * c for c in columns] + [-0.5 * self.k2 * envelope * np.sin(gamma) ** 2])

    def _amplitude(self, model):
        """(amplitude of the rings, <model, model>); the amplitude is 0 where they would be inverted."""
        product, norm = float((self.target * model).sum()), float((model**2).sum()) + 1e-30
        return max(product, 0.0) / norm, norm

    def evaluate(self, defocus, astig_cos, astig_sin, phase_rad, b_factor, handedness: int):
        """L and its gradient (5,) with respect to (defocus, astig_cos, astig_sin, phase_rad, b_factor)."""
        gamma = self._gamma(defocus, astig_cos, astig_sin, phase_rad, handedness)
        envelope = self._decay(b_factor) * self.root
        wave = np.sin(gamma)
        model = self._project(envelope * wave**2)
        amplitude, norm = self._amplitude(model)
        if amplitude <= 0:
            return 0.0, np.zeros(5)
        # dL = amplitude * (<t, dm> - amplitude <m, dm>); target and model are already projected
        pull = (self.target - amplitude * model) * envelope * wave
        turn = (pull * np.cos(gamma)).sum(axis=0) * 2  # sin 2 gamma
        unit = np.pi * self.optics.wavelength_angst
        gradient = np.array([
            unit * (turn @ self.k2), 0.5 * unit * (turn @ self.k2_cos), 0.5 * unit * (turn @ self.k2_sin), turn.sum(),
            -0.5 * float((pull * wave).sum(axis=0) @ self.k2),
        ])
        return 0.5 * amplitude**2 * norm / self.sigma2, amplitude / self.sigma2 * gradient

    def information(self, defocus, astig_cos, astig_sin, phase_rad, b_factor, handedness: int) -> np.ndarray:
        """(5, 5) expected information about the numbers of :meth:`evaluate`, the amplitude of the rings being fitted too."""
        gamma = self._gamma(defocus, astig_cos, astig_sin, phase_rad, handedness)
        envelope = self._decay(b_factor) * self.root
        model = self._project(envelope * np.sin(gamma) ** 2)
        amplitude, norm = self._amplitude(model)
        change = self._project(self._derivatives(gamma, envelope)).reshape(5, -1)
        along = change @ model.ravel()
        return amplitude**2 / self.sigma2 * (change @ change.T - np.outer(along, along) / norm)

    def depth_terms(self, defocus, astig_cos, astig_sin, phase_rad, b_factor, handedness: int):
        """L, its gradient by the defocus of every strip (n_strips,), and the expected information about them (n_strips, n_strips)."""
        gamma = self._gamma(defocus, astig_cos, astig_sin, phase_rad, handedness)
        envelope = self._decay(b_factor) * self.root
        model = self._project(envelope * np.sin(gamma) ** 2)
        amplitude, norm = self._amplitude(model)
        change = self._project(envelope * np.sin(2 * gamma) * np.pi * self.optics.wavelength_angst * self.k2)
        along = (change * model).sum(axis=1)
        gradient = ((self.target - amplitude * model) * change).sum(axis=1)
        own = np.diag((change**2).sum(axis=1)) - np.outer(along, along) / norm
        scale = amplitude / self.sigma2
        return 0.5 * amplitude**2 * norm / self.sigma2, scale * gradient, scale * amplitude * own

    def rings_and_data(self, defocus, astig_cos, astig_sin, phase_rad, b_factor, handedness: int):
        """Fitted rings (without their mean) and the data around the fit, per strip and bin, weighted.

        The data are the fitted rings plus what the fit leaves over. Comparing the projected data and model themselves would find
        them alike where there are no rings: the same smooth curve was taken from both.
        """
        gamma = self._gamma(defocus, astig_cos, astig_sin, phase_rad, handedness)
        envelope = self._decay(b_factor) * self.root
        model = self._project(envelope * np.sin(gamma) ** 2)
        amplitude, _ = self._amplitude(model)
        rings = -0.5 * envelope * np.cos(2 * gamma)
        return rings, self.target + amplitude * (rings - model)

    def expected_target(self, defocus, astig_cos, astig_sin, phase_rad, b_factor, handedness: int):
        """What ``target`` would be for rings of amplitude 1 and no noise."""
        gamma = self._gamma(defocus, astig_cos, astig_sin, phase_rad, handedness)
        return self._project(self._decay(b_factor) * self.root * np.sin(gamma) ** 2)


def prepare_view(spectra: ViewSpectra, grid: PolarGrid, radii: slice, window_angst: float, optics: Optics,
                 *, radial: bool = False) -> ViewScore:
    """Scoring data of one view over the radii in ``radii``.

    radial : average over angles first (a fast 1-D scan that knows no astigmatism). window_angst : side of a tile.
    """
    counts = grid.counts[:, radii].astype(float)
    power = spectra.polar[:, :, radii]
    k = grid.k[radii]
    ring = (power * counts * spectra.n_tiles[:, None, None]).sum(axis=(0, 1))
    weight = counts.sum(axis=0) * spectra.n_tiles.sum()
    background = smooth_background(k, ring / np.maximum(weight, 1), np.maximum(weight, 1e-9))
    data = power / background - 1
    columns = [grid.k2[:, radii], grid.k2_cos[:, radii], grid.k2_sin[:, radii]]
    angles = (np.arange(counts.shape[0]) + 0.5) * np.pi / counts.shape[0]
    if radial:
        total = np.maximum(counts.sum(axis=0), 1e-9)
        data = (data * counts).sum(axis=1, keepdims=True) / total
        columns = [(c * counts).sum(axis=0, keepdims=True) / total for c in columns]
        counts, angles = counts.sum(axis=0, keepdims=True), np.zeros(1)
    basis = _basis(k, angles)
    basis = basis[:, : BACKGROUND_DEGREE + 1] if radial else basis
    root = np.sqrt(spectra.n_tiles[:, None] * counts.ravel()[None])
    n_strips = len(spectra.depth_angst)
    damping = np.broadcast_to(
        defocus_spread_damping(k, spectra.slope, window_angst, optics.wavelength_angst), counts.shape
    )
    score = ViewScore(
        np.empty(0), root, np.linalg.qr(np.sqrt(counts.ravel())[:, None] * basis)[0], *(c.ravel() for c in columns), damping.ravel(),
        spectra.depth_angst, 1.0, optics,
    )
    score.target = score._project(data.reshape(n_strips, -1) * root)
    used = (root > 0).sum()
    variance = float((score.target**2).sum()) / max(1, used - n_strips * basis.shape[1])
    score.sigma2 = max(CORRELATED_RADII * variance, 1e-30)
    return score
