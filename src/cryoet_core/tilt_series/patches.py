"""Patch tracking: where pieces of the specimen land in every view, measured by cosine-stretched correlation.

Patches lie on an overlapping grid in the specimen plane. Around each, every view is seen in that plane (see plane.py), so rotation,
compression by cos(tilt) and the shifts known so far are undone before views are compared. Neighbours up to three places apart are
correlated in a band, both ways from the least tilted view, and the redundant links of one patch are solved together: a track has no
drifting chain and a wrong peak is outvoted. The slab model (slab_model.py) of the patch alone then settles its views against all others
and tells the error of each, which is the weight of the observation. The second round follows the depth that the first one found, so that at high tilt the
window still holds the same matter. Cosine-stretched tracking of patches: tiltxcorr of IMOD (Mastronarde & Held 2017).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cryoet_core.tilt_series.coarse import neighbour_links, solve_links
from cryoet_core.tilt_series.plane import PlaneViews, in_plane, parallax, plane_spectra, shift_spectra
from cryoet_core.tilt_series.refine_alignment import Band, scoring_steps, spectra_in_band

MIN_COVERAGE = 0.7  # share of a patch that must be inside a view
MIN_HEIGHT = 2.0  # peaks below this many rms of their correlation map count nothing


@dataclass(frozen=True)
class PatchTracks:
    """Observations, m rows.

    patch, view : (m,) int64, rows of ``points_angst`` and of the geometry. xy_px : (m, 2) x, y in raw pixels from the centre (index
    n//2) of the raw view. weight : (m,) relative inverse variance, median 1. points_angst : (p, 3) first guess of the patches.
    """

    patch: np.ndarray
    view: np.ndarray
    xy_px: np.ndarray
    weight: np.ndarray
    points_angst: np.ndarray

    def select(self, rows) -> PatchTracks:
        """Some of the observations (mask or index array); all patches stay."""
        return replace(self, patch=self.patch[rows], view=self.view[rows], xy_px=self.xy_px[rows], weight=self.weight[rows])


def patch_grid(field_angst, patch_angst: float, overlap: float = 0.5) -> np.ndarray:
    """(p, 2) centres x, y in A of patches that cover a field (x, y) and overlap by at least ``overlap`` of their size."""
    axes = []
    for length in field_angst:
        room = max(0.0, length - patch_angst)
        count = int(np.ceil(room / (patch_angst * (1 - overlap)))) + 1
        axes.append(np.linspace(-room / 2, room / 2, count) if count > 1 else np.zeros(1))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def coverage(landing_angst, geometry, shape, pixel_size_angst: float, patch_angst: float, n: int = 5) -> np.ndarray:
    """(n_views,) share of the window around ``landing_angst`` (n_views, 2) that lies inside images of ``shape``."""
    steps = patch_angst * np.linspace(-0.4, 0.4, n)
    corners = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    seen = landing_angst[:, None] + np.einsum("nij,cj->nci", in_plane(geometry), corners)
    half = 0.5 * pixel_size_angst * np.array(shape[::-1])
    return np.mean(np.all(np.abs(seen) < half, axis=2), axis=1)


def _track(views: PlaneViews, geometry, landing, band, prior, patch_angst, limit_angst, max_step):
    """In-plane displacements (n, 2) of one patch from ``landing`` (n, 2), A, and their weights (n,); 0 where not measured."""
    centred = geometry.replace(x_shift_angst=landing[:, 0], y_shift_angst=landing[:, 1])
    data = plane_spectra(views, centred, edge_px=views.plane_shape[0] / 4, max_frequency=1 / band.high_angst)
    pairs, moved, height = neighbour_links(data, prior, limit_angst, max_step)
    raw_shape = views.coefficients.shape[1:]
    held = coverage(landing, geometry, raw_shape, views.pixel_size_angst, patch_angst) >= MIN_COVERAGE
    usable = held[pairs].all(axis=1) & (height > MIN_HEIGHT)
    weight = np.zeros(len(geometry))
    if usable.sum() < len(geometry):
        return np.zeros_like(landing), weight
    position, _ = solve_links(pairs[usable], moved[usable], height[usable], len(geometry))
    polish, error, _ = scoring_steps(shift_spectra(data, position), prior, band.high_angst, steps=3)
    linked = held & np.isin(np.arange(len(geometry)), pairs[usable])
    weight[linked] = 1 / np.maximum(np.linalg.norm(error[linked], axis=1), 1e-3) ** 2
    return position + polish, weight


def fit_depth(displacement_angst, weight, slope) -> float:
    """Depth Z (A) of a patch from displacements along x: least squares of Z slope + constant, Cauchy weights."""
    robust = weight.copy()
    for _ in range(10):
        total = max(robust.sum(), 1e-30)
        s = slope - (robust * slope).sum() / total
        x = displacement_angst - (robust * displacement_angst).sum() / total
        depth = (robust * s * x).sum() / max((robust * s * s).sum(), 1e-30)
        residual = np.abs(x - depth * s)
        scale = 1.4826 * np.median(residual[weight > 0]) + 1e-6 if np.any(weight > 0) else 1.0
        robust = weight / (1 + (residual / (2 * scale)) ** 2)
    return float(depth)


def track_patches(views: PlaneViews, geometry, raw_pixel_size_angst: float, band: Band, thickness_angst: float,
                  patch_angst: float | None = None, overlap: float = 0.5, max_step: int = 3, rounds: int = 2) -> PatchTracks:  # fmt: skip
    """Track patches through all views.

    Parameters
    ----------
    views : prepared, binned views (see plane.prepare_views). geometry : alignment so far, of the same views. raw_pixel_size_angst : of
    the unbinned views. patch_angst : edge of a patch; None = a quarter of the smaller side of the field, at least 40 binned pixels.
    max_step : neighbours on each side. rounds : the later ones follow the depth found before.
    """
    shape, pixel = views.coefficients.shape[1:], views.pixel_size_angst
    patch_angst = patch_angst or max(0.25 * min(shape), 40.0) * pixel
    edge = 2 * int(np.ceil(patch_angst / pixel / 2))
    windows = replace(views, plane_shape=(edge, edge))
    prior = spectra_in_band(views, geometry, band, thickness_angst)[1]
    centres = patch_grid([n * pixel for n in views.plane_shape[::-1]], patch_angst, overlap)
    points = np.column_stack([centres, np.zeros(len(centres))])
    points = points[_seen_by_most(points, geometry, shape, pixel, patch_angst)]
    slope, rows = parallax(geometry), []
    for patch in range(len(points)):
        limit = 0.3 * patch_angst
        for _ in range(rounds):
            landing = geometry.project(points[patch])[0][:, 0]
            moved, weight = _track(windows, geometry, landing, band, prior, patch_angst, limit, max_step)
            depth = np.clip(points[patch, 2] + fit_depth(moved[:, 0], weight, slope), -thickness_angst, thickness_angst)
            measured = landing + np.einsum("nij,nj->ni", in_plane(geometry), moved)
            points[patch, 2], limit = depth, 0.5 * limit
        rows += [(patch, view, *measured[view], weight[view]) for view in np.flatnonzero(weight > 0)]
    return _tracks(np.array(rows).reshape(-1, 5), points, raw_pixel_size_angst)


def _seen_by_most(points, geometry, shape, pixel, patch_angst):
    """Patches inside at least two thirds of the views."""
    landing = geometry.project(points)[0]
    inside = [coverage(landing[:, p], geometry, shape, pixel, patch_angst) >= MIN_COVERAGE for p in range(len(points))]
    return np.mean(inside, axis=1) >= 2 / 3


def _tracks(rows, points, raw_pixel_size_angst) -> PatchTracks:
    weight = rows[:, 4] / (np.median(rows[:, 4]) if len(rows) else 1.0)
    return PatchTracks(rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, 2:4] / raw_pixel_size_angst, weight, points)
