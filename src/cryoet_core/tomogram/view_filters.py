"""Filters of the views for weighted back-projection: ramp or SIRT-like, angular weights, radial low-pass.

Frequencies are in cycles per pixel of the views. The ramp runs along the direction that is perpendicular to the tilt axis
in each raw image, so views need not be rotated before filtering. With weights in radians and the ramp in cycles per pixel a
back-projected sum has the physical grey scale: density per pixel, so that summing it along a ray gives the view again.

In a slab of thickness T without end, views i and j meet only where their waves have the same frequency kx = f cos(t) across the axis, and there

    S_ij(kx) = T sinc(T kx (tan t_i - tan t_j))

is the inner product of the two back-projected waves; S_ij / cos(t_j) is what view j sees of view i. "exact" weights and the SIRT-like filter are
solutions of small linear problems with this matrix, one per kx; see :func:`consistent_weights` and :func:`sirt_weights`.

Sources: Radermacher 1992 (weighted back-projection); Harauz & van Heel 1986 (weights from the overlap of views, of which ours are the
self-consistent form); IMOD tilt, autodoc of RADIAL and FakeSIRTiterations (parameters, the fixed SIRT-like curve).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from threadpoolctl import threadpool_limits

from cryoet_core.errors import DataQualityError
from cryoet_core.fourier import frequency_grid

IMOD_ALPHA = 0.00195
SPECIMEN = 0.75  # of the tomogram's thickness that the specimen is taken to fill; 0.6 to 0.9 change re-projections by less than 2 %
N_FREQUENCIES = 256  # of the tables, from 0.02/thickness to the corner of the spectrum, evenly spaced in their logarithm
CONSISTENT_PASSES = 50
STEEPEST_DEG = 75.0  # tilts beyond see no slab any more, but a specimen that ends: a cylinder about the tilt axis
BACK_PROJECTED = ("wbp", "sirt_like")  # methods of one filtered back-projection; the others project and correct repeatedly


@dataclass(frozen=True)
class FilterOptions:
    """Which filter: see config/reconstruct_tomogram.py for the meaning of every field."""

    method: str = "sirt_like"
    sirt_iterations: int = 10
    sirt_alpha: str = "auto"
    angular_weights: str = "exact"
    radial_cutoff: float = 0.35
    radial_falloff: float = 0.035


def adjacent_weights_rad(y_tilt_deg) -> np.ndarray:
    """Angle (rad) that each view stands for: half the gaps to its two neighbours, at the ends one whole gap -> (n,).

    Views at one angle share its weight. Raises DataQualityError E-REC-01 for fewer than two different angles.
    """
    angles = np.deg2rad(np.asarray(y_tilt_deg, dtype=np.float64))
    unique, index, count = np.unique(np.round(angles, 6), return_inverse=True, return_counts=True)
    if unique.size < 2:
        raise DataQualityError(
            "E-REC-01", "too few views to reconstruct", field="tilts", found=f"{unique.size} tilt angles",
            expected="at least 2", fix="include more views",
        )
    gaps = np.diff(unique)
    weights = 0.5 * (np.concatenate([gaps[:1], gaps]) + np.concatenate([gaps, gaps[-1:]]))
    return (weights / count)[index]


def across_axis_frequency(shape, z_rot_deg: float, xp=np):
    """Frequency across the tilt axis (cycles/px) on the half-complex grid of a raw view (h, w), one row where the axis is y."""
    ky, kx = frequency_grid(shape, 1.0, xp)
    if z_rot_deg == 0:
        return kx
    angle = np.deg2rad(z_rot_deg)
    # the tilt axis is Rz(z_rot) y, the direction across it Rz(z_rot) x
    return kx * np.float32(np.cos(angle)) + ky * np.float32(np.sin(angle))


def _ramp(k_across, shape, xp):
    # the mean of |k| over the Fourier pixel that holds 0, instead of 0: keeps slow changes along the axis
    return xp.maximum(xp.abs(k_across), np.float32(0.25 / max(shape)))


@dataclass(frozen=True)
class WeightTable:
    """Weights (n, m) of n views, per px of path, at frequencies ``kx`` (m,) = f cos(tilt) across the tilt axis, cycles/px."""

    kx: np.ndarray
    weights: np.ndarray
    cosines: np.ndarray

    def of(self, view: int, k_across, xp=np):
        """The weights of one view at frequencies ``k_across`` of its own."""
        k = xp.abs(k_across) * np.float32(self.cosines[view])
        return xp.interp(k, xp.asarray(self.kx), xp.asarray(self.weights[view])).astype(xp.float32)


def _slab(tilts_rad, thickness_px: float):
    """(kx (m,), products (m, n, n) T kx (tan t_i - tan t_j), cosines (n,)) of a slab.

    With tilts beyond STEEPEST_DEG those of a cylinder of diameter T: products T f sin(t_i - t_j), and 1 for the cosines, as kx is f.
    """
    tilts = np.asarray(tilts_rad)
    kx = np.concatenate([[0.0], np.geomspace(0.02 / thickness_px, 0.71, N_FREQUENCIES - 1)])
    if np.abs(tilts).max() > np.deg2rad(STEEPEST_DEG):
        return kx, thickness_px * kx[:, None, None] * np.sin(tilts[:, None] - tilts), np.ones(len(tilts))
    tangents = np.tan(tilts)
    return kx, thickness_px * kx[:, None, None] * (tangents[:, None] - tangents), np.cos(tilts)


@lru_cache(maxsize=8)
def consistent_weights(tilts_rad: tuple, thickness_px: float) -> WeightTable:
    """Weights with which the back-projection of a white specimen projects to each of its views with slope 1.

    With weights d_i and a specimen of thickness SPECIMEN T in a tomogram of thickness T, view j of the tomogram is the view again times
    sum_i P_ij T d_i / cos t_i, where P_ij = sinc(T kx (tan t_i - tan t_j)) sinc(SPECIMEN T kx (tan t_i - tan t_j)). d is made such that this is 1 for all j, by
    multiplicative corrections that keep it positive, starting from 1 / sum_j P_ij (Harauz & van Heel with another overlap). At the ends of
    the tilt range views have neighbours on one side only, which fixed angular weights do not know.
    """
    kx, phase, cosines = _slab(tilts_rad, thickness_px)
    overlap = np.sinc(phase) * np.sinc(SPECIMEN * phase)
    weight = 1 / overlap.sum(axis=2)
    for _ in range(CONSISTENT_PASSES):
        weight /= (overlap @ weight[..., None])[..., 0]
    return WeightTable(kx, (weight * cosines / thickness_px).T.copy(), cosines)


@lru_cache(maxsize=8)
def sirt_weights(tilts_rad: tuple, thickness_px: float, iterations: int) -> WeightTable:
    """Weights with which one back-projection comes closest to ``iterations`` of SIRT.

    In the slab SIRT is a matrix of views at each kx: x = A^T F b with F = sum_k (1 - S / (n T))^k R / n, R = cos t / T. Back-projection with one weight per
    view, x' = A^T D b, is closest to it, E|x - x'|^2 least, where (S o C) d = diag(S F C); C is the covariance of views of a
    white specimen with noise as strong as itself.
    """
    with threadpool_limits(1, user_api="blas"):  # the last bits of products depend on BLAS's threads
        return _sirt_weights(*_slab(tilts_rad, thickness_px), thickness_px, iterations)


def _sirt_weights(kx, phase, cosines, thickness_px: float, iterations: int) -> WeightTable:
    n, overlap = len(cosines), np.sinc(phase)  # S / T
    values, vectors = np.linalg.eigh(overlap / n)
    values = np.clip(values, 1e-12, 1.0)
    gains = (1 - (1 - values) ** iterations) / values
    matrix = (vectors * gains[:, None, :]) @ vectors.transpose(0, 2, 1) * cosines / (n * thickness_px)
    covariance = overlap / (cosines[:, None] * cosines) + np.diag(1 / cosines)
    wanted = ((overlap @ matrix) * covariance).sum(axis=2)  # covariance is symmetric
    return WeightTable(kx, np.linalg.solve(overlap * covariance, wanted[..., None])[..., 0].T.copy(), cosines)


def effective_iterations(iterations: int) -> float:
    """IMOD's map from the asked to the used number of SIRT-like iterations."""
    if iterations <= 15:
        return float(iterations)
    return 15 + 0.8 * (iterations - 15) if iterations <= 30 else 27 + 0.6 * (iterations - 30)


def imod_sirt_factor(k_across, iterations: int, xp=np):
    """Factor on the ramp that imitates ``iterations`` of SIRT as IMOD does: 1 - (1 - alpha/f)^(n + 0.3) for f > alpha = 0.00195, 1 below."""
    ratio = xp.minimum(IMOD_ALPHA / xp.maximum(xp.abs(k_across), 1e-9), 1.0)
    return (1 - (1 - ratio) ** (effective_iterations(iterations) + 0.3)).astype(xp.float32)


@lru_cache(maxsize=4)
def low_pass(shape, cutoff: float, falloff: float, xp=np):
    """1 up to the radial ``cutoff``, then a Gaussian of sigma ``falloff`` (cycles/px)."""
    ky, kx = frequency_grid(shape, 1.0, xp)
    beyond = xp.maximum(xp.sqrt(kx * kx + ky * ky) - cutoff, 0)
    return xp.exp(-0.5 * (beyond / max(falloff, 1e-6)) ** 2).astype(xp.float32)


def view_filter(shape, geometry, view: int, thickness_px: float, options: FilterOptions, xp=np):
    """Filter of one view: (h, w//2 + 1) float32 for the half-complex transform of an image ``shape`` (h, w); for
    iterative methods the low-pass alone.

    geometry : TiltGeometry of all views that are used. thickness_px : of the tomogram, in pixels of the views.
    """
    if options.method not in BACK_PROJECTED:
        return low_pass(shape, options.radial_cutoff, options.radial_falloff, xp)
    k_across = across_axis_frequency(shape, float(geometry.z_rot_deg[view]), xp)
    tilts = tuple(np.deg2rad(geometry.y_tilt_deg).tolist())
    if options.method == "sirt_like" and options.sirt_alpha == "auto":
        weight = sirt_weights(tilts, float(thickness_px), options.sirt_iterations).of(view, k_across, xp)
    else:
        weight = _angular_weight(k_across, shape, geometry, view, tilts, thickness_px, options, xp)
        if options.method == "sirt_like":
            weight = weight * imod_sirt_factor(k_across, options.sirt_iterations, xp)
    return (weight * low_pass(shape, options.radial_cutoff, options.radial_falloff, xp)).astype(xp.float32)


def _angular_weight(k_across, shape, geometry, view: int, tilts, thickness_px: float, options: FilterOptions, xp):
    if options.angular_weights == "exact" and options.method == "wbp":  # IMOD's SIRT-like curve is made for a ramp
        return consistent_weights(tilts, float(thickness_px)).of(view, k_across, xp)
    angle = np.float32(adjacent_weights_rad(geometry.y_tilt_deg)[view])
    weight = _ramp(k_across, shape, xp) * angle
    # beyond the cutoff the ramp stays at its value there (IMOD's default) while the Gaussian takes it down
    return xp.minimum(weight, options.radial_cutoff * angle) if options.method == "wbp" else weight
