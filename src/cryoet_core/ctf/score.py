"""How well a defocus explains the rings of one view: a log-likelihood ratio with its gradient.

Model of a spectrum divided by its smooth background b(k):  P / b = 1 + smooth(k, angle) + a * e(k) * CTF^2(k, angle) + noise,
with a >= 0 unknown, e(k) a known decay, and independent noise whose variance is the inverse number of averaged coefficients.
The smooth part is projected out of data and model, a is solved for, and what remains is

    L = 1/2 <t, m>^2 / (<m, m> sigma^2)   for <t, m> > 0, else 0

the gain in log-likelihood over "no rings". Working with CTF^2 and a projection replaces the usual fits of a background through
the minima, which need a first idea of the defocus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.ctf.model import Optics, phase_aberration
from cryoet_core.ctf.spectra import PolarGrid, ViewSpectra, defocus_spread_damping

BACKGROUND_DEGREE = 5


def smooth_background(k, power, weights, degree: int = 6) -> np.ndarray:
    """Smooth positive curve through ``power`` (n,) over ``k`` (n,): polynomial in sqrt(k) of log power, weighted."""
    x = np.sqrt(k)
    x = 2 * (x - x[0]) / max(x[-1] - x[0], 1e-12) - 1
    basis = np.polynomial.legendre.legvander(x, min(degree, max(1, len(k) // 8)))
    root = np.sqrt(weights)[:, None]
    logs = np.log(np.maximum(power, 1e-12 * max(power.max(), 1e-30)))
    return np.exp(basis @ np.linalg.lstsq(root * basis, root[:, 0] * logs, rcond=None)[0])


def _basis(k, angles):
    """Smooth functions of radius, and of cos, sin of twice the angle, (n_angles * n_radii, n_basis)."""
    x = 2 * (k - k[0]) / max(k[-1] - k[0], 1e-12) - 1
    radial = np.polynomial.legendre.legvander(x, BACKGROUND_DEGREE)
    columns = [np.broadcast_to(c, (len(angles), len(k))).ravel() for c in radial.T]
    for wave in (np.cos(2 * angles), np.sin(2 * angles)):
        columns += [(wave[:, None] * c[None]).ravel() for c in radial.T[:2]]
    return np.stack(columns, axis=1)


@dataclass
class ViewScore:
    """Data of one view prepared for fast scoring; make it with :func:`prepare_view`.

    target : (n_strips, n_bins) weighted, background-free data. root : (n_strips, n_bins) square roots of the weights.
    basis : (n_strips, n_bins, n_basis) orthonormal smooth functions. k2, k2_cos, k2_sin, decay : (n_bins,).
    depth_angst : (n_strips,). sigma2 : variance of target.
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
        inner = np.einsum("snb,...sn->...sb", self.basis, values)
        return values - np.einsum("snb,...sb->...sn", self.basis, inner)

    def _decay(self, b_factor):
        return np.exp(-0.5 * b_factor * self.k2) * self.damping

    def _gamma(self, defocus, handedness, astig_cos, astig_sin, phase_rad):
        z = defocus + handedness * self.depth_angst  # (n_strips,)
        zk2 = z[:, None] * self.k2 + 0.5 * (astig_cos * self.k2_cos + astig_sin * self.k2_sin)
        return phase_aberration(zk2, self.k2, self.optics) + phase_rad

    def scan(self, defocus_angst, handedness: int, b_factor: float, phase_rad: float = 0.0) -> np.ndarray:
        """L at every defocus (n,) without astigmatism, (n,)."""
        out = np.empty(len(defocus_angst))
        envelope = self._decay(b_factor) * self.root
        for i, z in enumerate(defocus_angst):
            model = self._project(envelope * np.sin(self._gamma(z, handedness, 0, 0, phase_rad)) ** 2)
            out[i] = self._ratio(model)
        return out

    def _ratio(self, model) -> float:
        product = float((self.target * model).sum())
        return 0.5 * max(product, 0.0) ** 2 / (float((model**2).sum()) + 1e-30) / self.sigma2

    def evaluate(self, defocus, handedness, astig_cos, astig_sin, phase_rad, b_factor):
        """L and its gradient with respect to (defocus, astig_cos, astig_sin, phase_rad)."""
        gamma = self._gamma(defocus, handedness, astig_cos, astig_sin, phase_rad)
        envelope = self._decay(b_factor) * self.root
        model = self._project(envelope * np.sin(gamma) ** 2)
        product, norm = float((self.target * model).sum()), float((model**2).sum()) + 1e-30
        if product <= 0:
            return 0.0, np.zeros(4)
        # dL = product/norm * (<t, dm> - product/norm <m, dm>); target and model are already projected
        residual = (self.target - product / norm * model) * envelope * np.sin(2 * gamma)
        wave = np.pi * self.optics.wavelength_angst
        columns = (wave * self.k2, 0.5 * wave * self.k2_cos, 0.5 * wave * self.k2_sin, np.ones_like(self.k2))
        gradient = np.array([float((residual * c).sum()) for c in columns])
        return 0.5 * product**2 / norm / self.sigma2, product / norm / self.sigma2 * gradient

    def model_and_target(self, defocus, handedness, astig_cos, astig_sin, phase_rad, b_factor):
        """Fitted and measured values per strip and bin with the smooth part removed, unweighted."""
        gamma = self._gamma(defocus, handedness, astig_cos, astig_sin, phase_rad)
        model = self._project(self._decay(b_factor) * self.root * np.sin(gamma) ** 2)
        return model, self.target


def _orthonormal(basis, root):
    """(n_strips, n_bins, n_basis) orthonormal columns of root * basis."""
    return np.stack([np.linalg.qr(r[:, None] * basis)[0] for r in root])


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
        np.empty(0), root, _orthonormal(basis, root), *(c.ravel() for c in columns), damping.ravel(),
        spectra.depth_angst, 1.0, optics,
    )
    score.target = score._project(data.reshape(n_strips, -1) * root)
    used = (root > 0).sum()
    score.sigma2 = max(float((score.target**2).sum()) / max(1, used - n_strips * basis.shape[1]), 1e-30)
    return score
