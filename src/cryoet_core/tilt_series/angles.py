"""Tilt axis, tilt-angle offset and tilt about x together with the shifts: Newton's method on the likelihood of the slab model.

Badness is compared between geometries, so all must look at the same matter. Turning the axis also turns the picture that all views have in
common, and with it the window: the power that happens to enter or leave is worth several standard errors. The common motion is
therefore taken out of the sampling (plane.common_motion), and heights are then displaced along a slightly slanted direction instead.
Derivatives are central differences over the angles; shifts enter with their exact gradient and Fisher information.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.tilt_series import slab_model
from cryoet_core.tilt_series.plane import PlaneViews, common_motion, plane_spectra
from cryoet_core.tilt_series.refine_alignment import Band, add_plane_shift, recentre, turned
from cryoet_core.tilt_series.slab_model import SlabPrior

ANGLES = ("axis", "offset", "x_tilt")


@dataclass(frozen=True)
class AngleStep:
    """change_deg, error_deg : (k,) of the free angles; errors are standard errors with the shifts and the other angles free. shift_angst :
    (n, 2) in-plane, what the shifts do meanwhile.
    """

    change_deg: np.ndarray
    error_deg: np.ndarray
    shift_angst: np.ndarray


def _evaluate(views, geometry, reference, band: Band, prior: SlabPrior):
    """Badness, gradient of the shifts (n, 2), spectra and model of ``geometry``, looking at the same matter as ``reference``."""
    data = plane_spectra(views, geometry, max_frequency=1 / band.high_angst, warp=common_motion(geometry, reference))
    model = slab_model.precision(data, prior, signed=True)
    product, _ = slab_model.weighted(data, model)
    return slab_model.badness(data, model, product), slab_model.shift_gradient(data, product), data, model


def badness_at(views: PlaneViews, geometry, reference, band: Band, prior: SlabPrior) -> float:
    """Badness of ``geometry``, comparable with that of others that look at the same matter as ``reference``."""
    return _evaluate(views, geometry, reference, band, prior)[0]


def angle_step(views: PlaneViews, geometry, band: Band, prior: SlabPrior, free, width_deg: float) -> AngleStep:
    """One Newton step of the angles ``free`` (names of ANGLES); differences are taken over +-``width_deg``."""
    k, h = len(free), width_deg

    def at(*steps):
        turn = {}
        for name, x in steps:
            turn[f"{name}_deg"] = x * h
        return _evaluate(views, turned(geometry, **turn), geometry, band, prior)

    middle, pull, data, model = at()
    inverse = slab_model.inverse_information(slab_model.fisher_information(data, model))
    ends = [(at((name, -1))[:2], at((name, 1))[:2]) for name in free]  # their models would take the memory of the whole step again
    gradient = np.array([(up[0] - down[0]) / (2 * h) for down, up in ends])
    coupling = np.array([(up[1] - down[1]) / (2 * h) for down, up in ends])  # (k, n, 2)
    hessian = np.diag([(up[0] - 2 * middle + down[0]) / h**2 for down, up in ends])
    for a in range(k):
        for b in range(a):
            corner = at((free[a], 1), (free[b], 1))[0]
            hessian[a, b] = hessian[b, a] = (corner - ends[a][1][0] - ends[b][1][0] + middle) / h**2
    follow = np.einsum("xij,kjx->kix", inverse, coupling)  # shifts per degree, sign reversed
    gradient = gradient - np.einsum("kix,ix->k", follow, pull)
    hessian = hessian - np.einsum("kix,lix->kl", follow, coupling)
    change, error = _newton(gradient, hessian, h)
    settle = -np.einsum("xij,jx->ix", inverse, pull) - np.einsum("k,kix->ix", change, follow)
    return AngleStep(change, error, settle - settle.mean(axis=0))


def _newton(gradient, hessian, h):
    """Step no longer than 2 h per angle, and standard errors; downhill by h, without errors, where the curvature is not positive."""
    size = np.sqrt(np.maximum(np.diag(hessian), 1e-30))
    values = np.linalg.eigvalsh(hessian / size[:, None] / size)
    if np.any(np.diag(hessian) <= 0) or values[0] < 0.02:
        bent = np.diag(hessian) > 0
        alone = np.where(bent, -gradient / np.where(bent, np.diag(hessian), 1.0), -h * np.sign(gradient))
        return np.clip(alone, -h, h), np.full(len(gradient), np.nan)
    covariance = np.linalg.inv(hessian)
    return np.clip(-covariance @ gradient, -2 * h, 2 * h), np.sqrt(2 * np.diag(covariance))


def settle_angles(views: PlaneViews, geometry, band: Band, prior: SlabPrior, free, width_deg: float, iterations: int, limit_deg: float):
    """Newton steps until no angle changes by more than 0.02 degrees or a tenth of its error.

    Returns
    -------
    geometry, total change (k,) and standard errors (k,) in degrees. ``limit_deg`` bounds each total change.
    """
    total, error = np.zeros(len(free)), np.full(len(free), np.nan)
    for _ in range(iterations):
        step = angle_step(views, geometry, band, prior, free, width_deg)
        change = np.clip(total + step.change_deg, -limit_deg, limit_deg) - total
        length = np.linalg.norm(step.shift_angst, axis=1).max()
        shift = step.shift_angst * min(1.0, band.high_angst / max(length, 1e-9))
        geometry = turned(geometry, **{f"{name}_deg": float(x) for name, x in zip(free, change, strict=True)})
        geometry = recentre(add_plane_shift(geometry, shift))
        total, error = total + change, step.error_deg
        if np.all(np.abs(change) < np.fmax(0.02, 0.1 * np.nan_to_num(error))):
            break
        width_deg = float(np.clip(2 * np.abs(change).max(), 0.1, width_deg))
    return geometry, total, error
