"""Bundle adjustment against truth: landings written out here, with noise, outliers and a wrong start."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_series import blob_series, view_axes

from cryoet_core.errors import DataQualityError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series.bundle import (
    BundleModel,
    held_out_residuals,
    improvement,
    solve_bundle,
    solve_with_deformation,
)
from cryoet_core.tilt_series.evaluate import geometry_error, specimen_grid
from cryoet_core.tilt_series.patches import PatchTracks, fit_depth, patch_grid, track_patches
from cryoet_core.tilt_series.plane import parallax, prepare_views
from cryoet_core.tilt_series.refine_alignment import Band

PIXEL = 3.5
TILTS = np.arange(-60, 61, 3.0)


def observations(rng, *, axis=86.0, offset=5.0, noise_px=1.0, outliers=0.2, bend_px=0.0):
    """Tracks of 100 patches, the true geometry, and a start with shifts wrong by 20 A."""
    points = np.column_stack([patch_grid((6000, 6000), 1000, 0.45), np.zeros(121)])[:100]
    points = points - points.mean(axis=0)
    points[:, 2] = rng.uniform(-300, 300, len(points))
    points[:, 2] -= np.polyval(np.polyfit(points[:, 0], points[:, 2], 1), points[:, 0])
    shifts = rng.normal(0, 60, (TILTS.size, 2))
    seen = (np.einsum("nij,pj->npi", view_axes(TILTS + offset, axis), points) + shifts[:, None]) / PIXEL
    bend = bend_px * np.outer(TILTS / 60, points[:, 0] * points[:, 1] / 3000**2)
    seen[..., 0] += bend
    seen += rng.normal(0, noise_px, seen.shape)
    wrong = rng.random(seen.shape[:2]) < outliers
    seen[wrong] += rng.uniform(-60, 60, (wrong.sum(), 2))
    view, patch = (i.ravel() for i in np.indices(seen.shape[:2]))
    start = points * [1, 1, 0] + rng.normal(0, 30, points.shape) * [1, 1, 0]
    tracks = PatchTracks(patch, view, seen.reshape(-1, 2), np.ones(view.size), start)
    truth = TiltGeometry(0.0, TILTS + offset, axis, shifts[:, 0], shifts[:, 1])
    wrong_shifts = shifts + rng.normal(0, 20, shifts.shape)
    return tracks, truth, TiltGeometry(0.0, TILTS, axis - 2.0, wrong_shifts[:, 0], wrong_shifts[:, 1])


def test_bundle_finds_axis_offset_and_shifts_among_outliers():
    tracks, truth, start = observations(np.random.default_rng(3))
    found = solve_bundle(tracks, start, PIXEL, BundleModel(slab_sigma_angst=170))
    error = geometry_error(found.geometry, truth, specimen_grid((2500, 2500, 300)))
    assert error.rms_angst < 1.5  # 1 px of noise is 3.5 A; 80 good patches per view
    assert abs(error.axis_deg) < 0.02
    assert abs(error.tilt_offset_deg) < 0.6
    assert abs(error.axis_deg) < 4 * found.axis_error_deg < 0.1
    assert found.sigma_px == pytest.approx(1.2, abs=0.2)
    assert found.outlier_share == pytest.approx(0.2, abs=0.03)
    assert np.all(found.view_residual_px < 2)


def test_deformation_is_used_only_when_it_is_there():
    model = BundleModel(slab_sigma_angst=170, deformation_angst=10.5)
    rng = np.random.default_rng(4)
    bent = observations(rng, bend_px=6.0, outliers=0.1)
    with_it = solve_with_deformation(bent[0], bent[2], PIXEL, model)
    assert with_it.deformation is not None and with_it.held_out_px < 0.95 * with_it.held_out_rigid_px
    flat = observations(rng, outliers=0.1)
    assert solve_with_deformation(flat[0], flat[2], PIXEL, model).deformation is None


def test_deformation_says_where_patches_land():
    """Swelling with the tilt's size, which no rigid geometry and no depth explains; the geometry is known."""
    tracks, truth, _ = observations(np.random.default_rng(11), outliers=0.05)
    x, y = tracks.points_angst[tracks.patch, :2].T / 3000
    swelling = np.abs(TILTS[tracks.view] / 60) * np.stack([12 * x * y, 9 * (y * y - (y * y).mean())], axis=0)  # px
    tracks = replace(tracks, xy_px=tracks.xy_px + swelling.T)
    model = BundleModel(shifts=False, axis_order=None, offset=False, slab_sigma_angst=170, deformation_angst=30.0)
    found = solve_with_deformation(tracks, truth, PIXEL, model)
    rigid = solve_bundle(tracks, truth, PIXEL, replace(model, deformation_angst=None))
    landing = truth.project(found.points_angst)[0]
    error = [(uv[tracks.view, tracks.patch] / PIXEL - tracks.xy_px) for uv in (landing + found.deformation.at(landing), truth.project(rigid.points_angst)[0])]
    bent, plain = (np.median(np.linalg.norm(e, axis=1)) for e in error)
    assert bent == pytest.approx(1.18, abs=0.12)  # the median of 1 px of noise in x and y
    assert plain > 1.5


def test_held_out_residual_tells_a_better_geometry():
    tracks, _, start = observations(np.random.default_rng(5))
    fixed = BundleModel(shifts=False, axis_order=None, offset=False)
    before, after = (held_out_residuals(tracks, start, PIXEL, m) for m in (fixed, BundleModel()))
    assert improvement(before, after) > 5
    assert improvement(after, after) == 0


def test_too_few_patches_are_refused():
    tracks, _, start = observations(np.random.default_rng(6))
    with pytest.raises(DataQualityError, match="E-TS-01"):
        solve_bundle(tracks.select(tracks.patch < 3), start, PIXEL)


def test_grid_covers_the_field_and_overlaps():
    grid = patch_grid((2000, 1000), 500, 0.5)
    assert grid[:, 0].min() == -750 and grid[:, 0].max() == 750
    assert np.diff(np.unique(grid[:, 0])).max() <= 250
    np.testing.assert_array_equal(patch_grid((300, 300), 500), [[0, 0]])


def test_depth_survives_a_wrong_view(rng):
    slope = np.tan(np.deg2rad(TILTS))
    x = 120 * slope + 40 + rng.normal(0, 3, slope.size)
    x[[3, 20]] += 500
    assert fit_depth(x, np.ones(slope.size), slope) == pytest.approx(120, abs=4)


def test_tracks_and_bundle_recover_a_series():
    images, tilts, shifts = blob_series(np.random.default_rng(7), shape=(160, 168), n_blobs=2500, noise=1.0, offset=0.0)
    truth = TiltGeometry(0.0, tilts, 86.0, shifts[:, 0], shifts[:, 1])
    spoilt = shifts + np.random.default_rng(1).normal(0, 15, shifts.shape)
    start = TiltGeometry(0.0, tilts, 85.0, spoilt[:, 0], spoilt[:, 1])
    views = prepare_views(images - images.mean(), 14.0, 85.0)
    tracks = track_patches(views, start, 14.0, Band(600.0, 40.0), 600.0)
    found = solve_bundle(tracks, start, 14.0)
    grid = specimen_grid((800, 800, 300))
    before, after = (geometry_error(g, truth, grid) for g in (start, found.geometry))
    assert after.rms_angst < 5.0 < 20 < before.rms_angst
    assert abs(after.axis_deg) < 0.3
    assert found.points_angst[:, 2].std() < 200
    assert np.ptp(parallax(found.geometry)) > 2
