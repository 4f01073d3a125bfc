"""Alignment against truth, on series projected without the library."""

import dataclasses

import numpy as np
import pytest
from synthetic_series import blob_series

from cryoet_core.config.align_tilt_series import AlignTiltSeries
from cryoet_core.errors import DataQualityError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series import slab_model
from cryoet_core.tilt_series.align import _relink, align_tilt_series, given_geometry
from cryoet_core.tilt_series.alignment_state import AlignmentSettings, State, settings_from_config
from cryoet_core.tilt_series.angles import angle_step, settle_angles
from cryoet_core.tilt_series.coarse import solve_links
from cryoet_core.tilt_series.evaluate import geometry_error, specimen_grid
from cryoet_core.tilt_series.plane import common_motion, in_plane, plane_spectra, prepare_views, resample_to_plane
from cryoet_core.tilt_series.refine_alignment import (
    Band,
    add_plane_shift,
    recentre,
    scoring_steps,
    spectra_in_band,
    turned,
)
from cryoet_core.tilt_series.screening import retry_views, screen_views
from cryoet_core.tilt_series.working_views import alignment_binning

PIXEL = 14.0


@pytest.fixture(scope="module")
def series():
    """A field of 2,500 A: in one of 1,600 A, with 17 views, the axis is only good to a degree."""
    images, tilts, shifts = blob_series(np.random.default_rng(5), shape=(176, 184), tilts=np.arange(-60, 61, 6.0), n_blobs=1800, noise=1.0)
    truth = TiltGeometry(0.0, tilts + 2.0, 86.0, shifts[:, 0], shifts[:, 1])
    return images, TiltGeometry.nominal(tilts, 84.0), truth


@pytest.fixture(scope="module")
def aligned(series):
    images, nominal, _ = series
    return align_tilt_series(images, nominal, PIXEL, AlignmentSettings())


def test_alignment_reaches_truth(series, aligned):
    error = geometry_error(aligned.geometry, series[2], specimen_grid((550, 550, 300)))
    assert error.rms_angst < 4.0
    assert abs(error.axis_deg) < 0.3
    assert abs(error.tilt_offset_deg) < 1.5
    start = geometry_error(series[1], series[2], specimen_grid((550, 550, 300)))
    assert start.rms_angst > 50


def test_alignment_reports_what_it_did(aligned):
    assert aligned.correlation.min() > 0.1
    assert 350 < aligned.thickness_angst < 900
    assert 0 < np.median(aligned.shift_error_angst) < 10
    assert aligned.history[-1]["largest_update_angst"] < 0.2 * aligned.pixel_size_angst


def test_combined_is_no_worse_and_reports_residuals(series, aligned):
    images, nominal, truth = series
    combined = align_tilt_series(images, nominal, PIXEL, AlignmentSettings(mode="combined"))
    grid = specimen_grid((550, 550, 300))
    assert geometry_error(combined.geometry, truth, grid).rms_angst < 1.1 * geometry_error(aligned.geometry, truth, grid).rms_angst
    assert np.all(combined.residual_px < 2) and np.isnan(aligned.residual_px).all()
    assert combined.method == ("patch_tracking" if combined.patches["accepted"] else "projection_matching")


def test_specimen_centre_stays_near_the_field_centre(aligned):
    moved = recentre(aligned.geometry)
    np.testing.assert_allclose(moved.shift_angst, aligned.geometry.shift_angst, atol=1e-6)


def test_excluded_views_are_as_if_never_there(series):
    images, nominal, _ = series
    included = np.ones(len(nominal), bool)
    included[[0, 5]] = False
    spoilt = images.copy()
    spoilt[~included] = 1e6
    settings = AlignmentSettings(refine_axis=False, refine_offset=False, thickness_angst=600.0, resolution_angst=60.0)
    part = align_tilt_series(images[included], nominal.select(included), PIXEL, settings)
    whole = align_tilt_series(spoilt, nominal, PIXEL, settings, included)
    np.testing.assert_array_equal(whole.geometry.shift_angst[included], part.geometry.shift_angst)
    np.testing.assert_array_equal(whole.geometry.shift_angst[~included], 0)
    assert np.isnan(whole.correlation[~included]).all()


def test_too_few_views_are_refused(series):
    images, nominal, _ = series
    included = np.arange(len(nominal)) < 4
    with pytest.raises(DataQualityError, match="E-TS-01"):
        align_tilt_series(images, nominal, PIXEL, AlignmentSettings(), included)


@pytest.mark.parametrize("views", ["noise", "one value"])
def test_views_with_nothing_in_common_are_refused(series, views, rng):
    images, nominal, _ = series
    empty = rng.normal(100, 5, images.shape) if views == "noise" else np.full(images.shape, 7.0)
    with pytest.raises(DataQualityError, match="E-TS-06"):
        align_tilt_series(empty.astype(np.float32), nominal, PIXEL, AlignmentSettings())


def test_plane_view_of_a_point_is_at_its_coordinates():
    geometry = TiltGeometry(0.0, [0.0, 40.0], 86.0, [30.0, -50.0], [-20.0, 10.0])
    point = np.array([[200.0, -150.0, 0.0]])
    uv = geometry.project(point)[0][:, 0]
    v, u = np.mgrid[0:96, 0:96] - 48
    images = np.stack([np.exp(-((u * 10 - x) ** 2 + (v * 10 - y) ** 2) / (2 * 25.0**2)) for x, y in uv]).astype(np.float32)
    plane = resample_to_plane(prepare_views(images, 10.0, 86.0), geometry)
    ny, nx = plane.shape[1:]
    for view in plane:
        y, x = np.mgrid[0:ny, 0:nx]
        total = view.sum()
        found = np.array([(x * view).sum() / total - nx // 2, (y * view).sum() / total - ny // 2]) * 10
        np.testing.assert_allclose(found, point[0, :2], atol=1.0)


def test_covariance_is_that_of_a_slab(rng):
    """Uniform random points in a slab: the correlation of V at two kz is sinc(T dkz)."""
    thickness, kx = 500.0, 1 / 150
    z = rng.uniform(-thickness / 2, thickness / 2, 200_000)
    parallax = np.array([0.0, 0.2, 0.5])
    measured = [np.exp(2j * np.pi * kx * z * (p - parallax[0])).mean().real for p in parallax]
    expected = slab_model.view_covariance(parallax, np.array([kx]), thickness)[0, 0]
    np.testing.assert_allclose(measured, expected, atol=0.01)


def test_gradient_of_badness_is_the_shift_step(series):
    """The Newton step from a small error brings the badness down and the shift back."""
    images, _, truth = series
    views = prepare_views(images - images.mean(), PIXEL, 86.0)
    data = plane_spectra(views, truth, max_frequency=1 / 50)
    prior = slab_model.estimate_signal_fraction(data, 600.0, 1 / 500, 1 / 50)
    settled = add_plane_shift(truth, scoring_steps(data, prior, 50.0, steps=6)[0])
    error = np.zeros((len(truth), 2))
    error[7] = 6.0, -5.0
    data = plane_spectra(views, add_plane_shift(settled, error), max_frequency=1 / 50)
    total, _, _ = scoring_steps(data, prior, 50.0, steps=6)
    back = total - total.mean(axis=0) + error - error.mean(axis=0)
    assert np.abs(back).max() < 0.6


def test_turning_the_specimen_changes_only_the_rigid_part():
    truth = TiltGeometry(0.0, np.arange(-60, 61, 10.0), 85.0, 3.0, -4.0)
    error = geometry_error(turned(truth, offset_deg=3.0), truth, specimen_grid((1000, 1000, 300)))
    assert error.rms_angst < 1e-3
    assert error.tilt_offset_deg == pytest.approx(3.0)
    points = np.array([[300.0, -200.0, 100.0], [-50.0, 10.0, -250.0]])
    found = turned(truth, offset_deg=3.0).project(error.found_from_true(points))[0]
    np.testing.assert_allclose(found, truth.project(points)[0], atol=1e-2)
    worse = geometry_error(turned(truth, axis_deg=0.5), truth, specimen_grid((1000, 1000, 300)))
    assert worse.rms_angst > 2.0


def test_links_with_a_wrong_peak_are_outvoted(rng):
    position = rng.normal(0, 50, (12, 2))
    pairs = np.array([(i + s, i) for s in (1, 2, 3) for i in range(12 - s)])
    measured = position[pairs[:, 0]] - position[pairs[:, 1]] + rng.normal(0, 0.5, (len(pairs), 2))
    measured[4] += 300
    found, residual = solve_links(pairs, measured, np.full(len(pairs), 8.0), 12)
    np.testing.assert_allclose(found, position - position.mean(axis=0), atol=2.0)
    assert residual[4] > 200


def test_coherence_is_that_of_matter_that_two_views_still_share(rng):
    """Random points in a slab of finite width, each view keeping those that land inside: formula against the drawn sum."""
    thickness, width, kx, difference = 800.0, 2000.0, 1 / 1000, 1.5
    x, z = rng.uniform(-4000, 4000, 2_000_000), rng.uniform(-thickness / 2, thickness / 2, 2_000_000)
    seen = [np.abs(x + p * z) < width / 2 for p in (0.0, difference)]
    phase = np.exp(2j * np.pi * kx * difference * z)
    measured = phase[seen[0] & seen[1]].sum().real / seen[0].sum()
    expected = slab_model.view_covariance(np.array([0.0, difference]), np.array([kx]), thickness, width)[0, 0, 1]
    assert measured == pytest.approx(expected, abs=0.01)
    assert abs(expected - np.sinc(thickness * kx * difference)) > 0.05


def test_wide_fields_give_the_sinc():
    kx, parallax = np.linspace(0, 0.02, 7), np.array([-1.0, 0.1, 1.4])
    wide = slab_model.view_covariance(parallax, kx, 700.0, 1e9)
    np.testing.assert_allclose(wide, slab_model.view_covariance(parallax, kx, 700.0), atol=1e-5)
    assert slab_model.view_covariance(np.array([0.0, 100.0]), kx, 700.0, 100.0)[0, 0, 1] == pytest.approx(0.5 * 100 / 35000)


def test_a_common_motion_of_all_views_is_taken_out():
    """Turning the axis moves what the views have in common; after the warp nothing of it is left on average."""
    reference = TiltGeometry.nominal(np.arange(-60, 61, 10.0), 86.0)
    geometry = turned(reference, axis_deg=0.5)
    warp = common_motion(geometry, reference)
    left = np.linalg.solve(in_plane(reference), in_plane(geometry) @ warp)
    np.testing.assert_allclose(left.mean(axis=0), np.eye(2), atol=1e-4)
    assert np.abs(np.linalg.solve(in_plane(reference), in_plane(geometry)).mean(axis=0) - np.eye(2)).max() > 5e-3


def test_angle_errors_are_those_the_likelihood_reports():
    """Newton steps of the axis from the truth scatter as predicted: neither biased nor several times wider."""
    steps, sigmas = [], []
    for seed in range(6):
        images, tilts, shifts = blob_series(np.random.default_rng(seed), noise=1.0)
        truth = TiltGeometry(0.0, tilts + 2.0, 86.0, shifts[:, 0], shifts[:, 1])
        views, band = prepare_views(images - images.mean(), PIXEL, 86.0), Band(400.0, 45.0)
        prior = spectra_in_band(views, truth, band, 600.0)[1]
        step = angle_step(views, truth, band, prior, ("axis", "offset"), 0.2)
        steps.append(step.change_deg[0])
        sigmas.append(step.error_deg[0])
    assert np.sqrt(np.mean((np.array(steps) / sigmas) ** 2)) < 1.7
    assert abs(np.mean(steps)) < 2.5 * np.mean(sigmas) / np.sqrt(6)


def test_the_axis_is_found_from_a_degree_away(series):
    images, _, truth = series
    views, band = prepare_views(images - images.mean(), PIXEL, 86.0), Band(400.0, 60.0)
    start = turned(truth, axis_deg=1.0, offset_deg=-1.5)
    prior = spectra_in_band(views, truth, band, 600.0)[1]
    _, change, error = settle_angles(views, start, band, prior, ("axis", "offset"), 0.6, 6, 5.0)
    assert abs(change[0] + 1.0) < max(3 * error[0], 0.2)
    assert abs(change[1] - 1.5) < 1.0


def test_spoilt_views_are_left_out_and_the_others_stay_good(series, aligned):
    images, nominal, truth = series
    spoilt, rng = images.copy(), np.random.default_rng(3)
    bad = [1, 6, 11]
    spoilt[bad[0]] = rng.standard_normal(images.shape[1:]) * images.std()
    spoilt[bad[1]] = images[bad[1]][::-1, ::-1]
    spoilt[bad[2]] = 0.01 * rng.standard_normal(images.shape[1:])
    found = align_tilt_series(spoilt, nominal, PIXEL, AlignmentSettings())
    assert np.flatnonzero(~found.used).tolist() == bad
    assert aligned.used.all()
    good = found.used
    error = geometry_error(found.geometry, truth, specimen_grid((550, 550, 300)), good)
    assert error.rms_angst < 4.0
    assert abs(error.axis_deg) < 0.3
    assert np.isnan(found.shift_error_angst[bad]).all() and np.all(found.correlation[bad] < 0.5 * np.median(found.correlation[good]))


def test_a_good_view_at_a_wrong_shift_is_taken_back(series):
    images, _, truth = series
    views, band = prepare_views(images - images.mean(), PIXEL, 86.0), Band(400.0, 60.0)
    away = np.zeros((len(truth), 2))
    away[5] = 180.0, -120.0
    data = plane_spectra(views, add_plane_shift(truth, away), max_frequency=1 / band.high_angst)
    prior = spectra_in_band(views, truth, band, 600.0)[1]
    used, correlation = screen_views(data, prior, 5)
    assert np.flatnonzero(~used).tolist() == [5]
    back, shift, value = retry_views(data, prior, used, correlation, 400.0)
    assert back[5] and value[5] > 2 * correlation[5]
    np.testing.assert_allclose(shift[5], -away[5], atol=6.0)


def test_a_group_of_views_behind_spoilt_ones_is_linked_again(series):
    images, _, truth = series
    views, band = prepare_views(images - images.mean(), PIXEL, 86.0), Band(400.0, 80.0)
    away, used = np.zeros((len(truth), 2)), np.ones(len(truth), bool)
    away[:2], used[2:4] = (150.0, -90.0), False
    moved = add_plane_shift(truth, away)
    found = _relink(views, moved, used, State(moved, 600.0), band, 600.0)
    left = np.linalg.solve(in_plane(truth), (found.shift_angst - truth.shift_angst)[..., None])[used][..., 0]
    assert np.abs(left - np.median(left, axis=0)).max() < 40


def test_settings_come_from_the_config():
    config = AlignTiltSeries(tilt_offset=False, tilt_axis="keep")
    settings = settings_from_config(config)
    assert not settings.refine_offset and not settings.refine_axis
    assert set(config.model_dump()) >= {f.name for f in dataclasses.fields(settings)} - {
        "refine_axis", "refine_offset", "level_x"}
    start = given_geometry(TiltGeometry(0.0, [0.0, 10.0], 85.0, 5.0, 5.0), AlignTiltSeries(tilt_offset=-4))
    np.testing.assert_allclose(start.y_tilt_deg, [-4, 6])
    np.testing.assert_allclose(start.shift_angst, 0)


@pytest.mark.parametrize(("pixel", "binning"), [(3.5, 4), (10.0, 2), (1.91, 8), (14.0, 1), (20.0, 1)])
def test_binning_comes_near_the_wanted_pixel(pixel, binning):
    assert alignment_binning(pixel, 14.0) == binning
