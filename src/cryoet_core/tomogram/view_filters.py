"""Filters of the views for weighted back-projection: ramp or SIRT-like, angular weights, radial low-pass.

Frequencies are in cycles per pixel of the views. The ramp runs along the direction that is perpendicular to the tilt axis
in each raw image, so views need not be rotated before filtering. With weights in radians and the ramp in cycles per pixel a
back-projected sum has the physical grey scale: density per pixel, so that summing it along a ray gives the view again.

Sources: Radermacher 1992 (weighted back-projection); Harauz & van Heel 1986 (exact filter); IMOD tilt, autodoc of
RADIAL and FakeSIRTiterations (parameters, SIRT-like curve); the auto alpha = 1/(thickness * angular range) follows from the
eigenvalue of back-projection times projection at frequency f, alpha/f.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.errors import DataQualityError
from cryoet_core.fourier import frequency_grid

IMOD_ALPHA = 0.00195
BACK_PROJECTED = ("wbp", "sirt_like")  # methods of one filtered back-projection; the others project and correct repeatedly


@dataclass(frozen=True)
class FilterOptions:
    """Which filter: see config/reconstruct_tomogram.py for the meaning of every field."""

    method: str = "sirt_like"
    sirt_iterations: int = 10
    sirt_alpha: str = "auto"
    angular_weights: str = "adjacent"
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
    """Frequency across the tilt axis (cycles/px) on the half-complex grid of a raw view (h, w)."""
    ky, kx = frequency_grid(shape, 1.0, xp)
    angle = np.deg2rad(z_rot_deg)
    # the tilt axis is Rz(z_rot) y, the direction across it Rz(z_rot) x
    return kx * np.float32(np.cos(angle)) + ky * np.float32(np.sin(angle))


def _ramp(k_across, shape, xp):
    # the mean of |k| over the Fourier pixel that holds 0, instead of 0: keeps slow changes along the axis
    return xp.maximum(xp.abs(k_across), np.float32(0.25 / max(shape)))


def _exact_weight(k_across, tilts_rad, view: int, thickness_px: float, xp):
    """1 / sum over views of their overlap with this one; a view is a central section 1/thickness thick."""
    overlap = 0.0
    for angle in tilts_rad:
        distance = thickness_px * abs(np.sin(angle - tilts_rad[view]))
        overlap = overlap + xp.maximum(1 - np.float32(distance) * xp.abs(k_across), 0)
    return 1 / (np.float32(thickness_px) * overlap)


def effective_iterations(iterations: int) -> float:
    """IMOD's map from the asked to the used number of SIRT-like iterations."""
    if iterations <= 15:
        return float(iterations)
    return 15 + 0.8 * (iterations - 15) if iterations <= 30 else 27 + 0.6 * (iterations - 30)


def sirt_factor(k_across, iterations: int, alpha: str, path_px: float, range_rad: float, xp=np):
    """Factor on the ramp that imitates ``iterations`` of SIRT: 1 - (1 - alpha/f)^n for f > alpha, 1 below.

    alpha "auto" = 1 / (path x angular range), where ``path_px`` is that of a ray of the view through the tomogram; "imod" = 0.00195
    with IMOD's map of the number of iterations.
    """
    if alpha == "imod":
        knee, power = IMOD_ALPHA, effective_iterations(iterations) + 0.3
    else:
        knee, power = 1 / (path_px * range_rad), float(iterations)
    ratio = xp.minimum(knee / xp.maximum(xp.abs(k_across), 1e-9), 1.0)
    return (1 - (1 - ratio) ** power).astype(xp.float32)


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
    tilts = np.deg2rad(geometry.y_tilt_deg)
    k_across = across_axis_frequency(shape, float(geometry.z_rot_deg[view]), xp)
    if options.angular_weights == "exact":
        weight = _exact_weight(k_across, tilts, view, thickness_px, xp)
    else:
        weight = _ramp(k_across, shape, xp) * np.float32(adjacent_weights_rad(geometry.y_tilt_deg)[view])
    if options.method == "sirt_like":
        span = float(tilts.max() - tilts.min()) * len(tilts) / max(len(tilts) - 1, 1)
        path = thickness_px / max(float(np.cos(tilts[view])), 0.1)
        weight = weight * sirt_factor(
            k_across, options.sirt_iterations, options.sirt_alpha, path, span, xp
        )
    # beyond the cutoff the ramp stays at its value there (IMOD's default) while the Gaussian takes it down
    if options.angular_weights == "adjacent" and options.method == "wbp":
        limit = options.radial_cutoff * np.float32(adjacent_weights_rad(geometry.y_tilt_deg)[view])
        weight = xp.minimum(weight, np.float32(limit))
    return (weight * low_pass(shape, options.radial_cutoff, options.radial_falloff, xp)).astype(xp.float32)
