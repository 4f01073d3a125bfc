import numpy as np
import pytest
from rings import ctf_image, flat_series, tilted_image

from cryoet_core.ctf.estimate import CtfSettings, ctf_summary, estimate_ctf, neighbour_values, series_with_ctf
from cryoet_core.ctf.fit import compare_hands, fit_series, smooth_path
from cryoet_core.ctf.quality import resolution_limit
from cryoet_core.ctf.score import prepare_view
from cryoet_core.ctf.spectra import PolarGrid, tile_starts, usable_window, view_spectra
from cryoet_core.errors import DataQualityError, UserInputError

PIXEL, SHAPE = 3.5, (512, 576)
SETTINGS = CtfSettings(window_px=256, defocus_range_angst=(5000, 60000))


def _noisy(rng, image, ratio=1.0):
    return (image / image.std() + ratio * rng.standard_normal(image.shape)).astype(np.float32)


def _angle_distance(a, b):
    return abs((a - b + 90) % 180 - 90)


@pytest.mark.parametrize(
    "u, v, angle", [(31000, 29500, 20.0), (31000, 29500, 110.0), (18500, 17000, 160.0), (52000, 51000, 65.0)]
)
def test_planted_defocus_and_astigmatism(rng, u, v, angle):
    image = _noisy(rng, ctf_image(rng.standard_normal(SHAPE), PIXEL, u, v, angle))
    series = flat_series([0.0], SHAPE, PIXEL)
    estimate = estimate_ctf(series, [image], SETTINGS)
    row = series_with_ctf(series, estimate).tilts.iloc[0]
    assert row.defocus_u_angst >= row.defocus_v_angst
    assert 0.5 * (row.defocus_u_angst + row.defocus_v_angst) == pytest.approx(0.5 * (u + v), abs=100)
    assert row.defocus_u_angst - row.defocus_v_angst == pytest.approx(u - v, abs=250)
    assert 0 <= row.defocus_angle_deg < 180
    assert _angle_distance(row.defocus_angle_deg, angle) < 6
    assert row.ctf_score > 0.7 and row.ctf_max_resolution_angst < 12 and row.ctf_restrained == 0
    assert row.defocus_error_angst < 100


def test_errors_agree_with_the_predicted_ones(rng):
    tilts = np.zeros(10)
    true = rng.uniform(29500, 30500, len(tilts))
    images = [_noisy(rng, ctf_image(rng.standard_normal((320, 320)), PIXEL, z, z, 0), 3.0) for z in true]
    fit = estimate_ctf(flat_series(np.arange(10) * 0.1, (320, 320), PIXEL), images, SETTINGS).fit
    scaled = (fit.defocus_angst - true) / fit.error_angst
    assert 0.4 < np.sqrt(np.mean(scaled**2)) < 2.0


@pytest.mark.parametrize("sign", [-1, 1])
def test_tilted_plane_and_its_sign(rng, sign):
    tilts = [-55.0, -40.0, 0.0, 30.0, 50.0]
    true = np.array([30400.0, 30000, 29700, 30100, 30600])
    images = [
        _noisy(rng, tilted_image(rng, SHAPE, PIXEL, z, t, sign, astigmatism=800, angle_deg=35))
        for z, t in zip(true, tilts, strict=True)
    ]
    series = flat_series(tilts, SHAPE, PIXEL)
    estimate = estimate_ctf(series, images, SETTINGS)
    assert estimate.evidence.decided == sign and estimate.fit.handedness == sign
    assert np.abs(estimate.fit.defocus_angst - true).max() < 200
    assert np.hypot(*estimate.fit.astigmatism.T) == pytest.approx(800, abs=200)
    obeyed = estimate_ctf(series, images, CtfSettings(256, defocus_range_angst=(5000, 60000), handedness=-sign))
    assert obeyed.fit.handedness == -sign  # a given value is obeyed even against the evidence
    assert obeyed.fit.gain.sum() < estimate.fit.gain.sum() - 20


@pytest.mark.parametrize("blank", [False, True])
def test_a_view_without_rings_takes_its_neighbours_value(rng, blank):
    true = np.array([20000.0, 21000, 22000, 23000, 24000])
    images = [_noisy(rng, ctf_image(rng.standard_normal(SHAPE), PIXEL, z, z, 0)) for z in true]
    images[2] = np.zeros(SHAPE, np.float32) if blank else rng.standard_normal(SHAPE).astype(np.float32)
    series = flat_series([-4.0, -2.0, 0.0, 2.0, 4.0], SHAPE, PIXEL)
    estimate = estimate_ctf(series, images, SETTINGS)
    assert estimate.restrained.tolist() == [False, False, True, False, False]
    assert estimate.fit.defocus_angst[2] == pytest.approx(22000, abs=200)
    assert estimate.score[2] < 0.5 < estimate.score[0]
    table = series_with_ctf(series, estimate)
    assert table.tilts["ctf_restrained"].tolist() == [0, 0, 1, 0, 0]
    summary = ctf_summary(table, estimate)
    assert summary["n_restrained"] == 1 and summary["fitted"]


def test_rows_in_any_order_give_the_same_values(rng):
    true = np.array([20000.0, 20500, 21000])
    images = [_noisy(rng, ctf_image(rng.standard_normal((256, 256)), PIXEL, z, z, 0)) for z in true]
    forward = estimate_ctf(flat_series([-2.0, 0.0, 2.0], (256, 256), PIXEL), images, SETTINGS)
    order = [2, 0, 1]
    mixed = estimate_ctf(flat_series([2.0, -2.0, 0.0], (256, 256), PIXEL), [images[i] for i in order], SETTINGS)
    assert np.allclose(mixed.fit.defocus_angst, forward.fit.defocus_angst[order], atol=1)


def test_phase_shift(rng):
    true = [15000.0, 15300.0, 14800.0]
    images = [_noisy(rng, ctf_image(rng.standard_normal((384, 384)), PIXEL, z, z, 0, phase_deg=70.0), 0.5) for z in true]
    settings = CtfSettings(256, defocus_range_angst=(8000, 25000), fit_phase_shift=True)
    fit = estimate_ctf(flat_series([-2.0, 0.0, 2.0], (384, 384), PIXEL), images, settings).fit
    assert fit.phase_deg == pytest.approx(70, abs=12) and 0 < fit.phase_error_deg < 12
    assert np.abs(fit.defocus_angst - true).max() < 400


def test_no_rings_at_all_is_an_error(rng):
    images = [rng.standard_normal((256, 256)).astype(np.float32) for _ in range(3)]
    with pytest.raises(DataQualityError, match="E-CTF-03.*defocus_angst"):
        estimate_ctf(flat_series([-2.0, 0.0, 2.0], (256, 256), PIXEL), images, SETTINGS)


def test_coarse_pixels_need_a_given_defocus(rng):
    images = [rng.standard_normal((256, 256)).astype(np.float32)] * 2
    series = flat_series([-3.0, 3.0], (256, 256), 16.0)
    with pytest.raises(UserInputError, match="E-CTF-02.*defocus_angst"):
        estimate_ctf(series, images, SETTINGS)
    estimate = estimate_ctf(series, images, CtfSettings(256, defocus_angst=17000.0))
    table = series_with_ctf(series, estimate).tilts
    assert (table["defocus_u_angst"] == 17000).all() and (table["defocus_v_angst"] == 17000).all()
    assert (table["defocus_angle_deg"] == 0).all() and estimate.evidence is None
    assert not ctf_summary(series, estimate)["fitted"]


def test_score_gradient(rng):
    image = _noisy(rng, tilted_image(rng, SHAPE, PIXEL, 30000, 40, -1))
    grid = PolarGrid.create(256, PIXEL, 40)
    series = flat_series([40.0], SHAPE, PIXEL)
    spectra = view_spectra(image, PIXEL, series.geometry.depth_plane()[0], grid, 256)
    assert len(spectra.depth_angst) > 2
    view = prepare_view(spectra, grid, slice(5, 90), 256 * PIXEL, series.optics)
    at, step = np.array([29900.0, 150.0, -80.0, 0.1, 100.0]), np.array([1.0, 1.0, 1.0, 1e-4, 0.1])
    _, gradient = view.evaluate(*at, -1)
    for i in range(5):
        moved = [at + sign * step * (np.arange(5) == i) for sign in (1, -1)]
        high, low = (view.evaluate(*m, -1)[0] for m in moved)
        assert gradient[i] == pytest.approx((high - low) / (2 * step[i]), rel=1e-3, abs=1e-6)


def _tilted_view(rng, radial):
    image = _noisy(rng, tilted_image(rng, SHAPE, PIXEL, 30000, 40, -1))
    grid = PolarGrid.create(256, PIXEL, 40)
    series = flat_series([40.0], SHAPE, PIXEL)
    spectra = view_spectra(image, PIXEL, series.geometry.depth_plane()[0], grid, 256)
    return prepare_view(spectra, grid, slice(5, 90), 256 * PIXEL, series.optics, radial=radial)


@pytest.mark.parametrize("hand", [-1, 1])
def test_scan_of_all_phases_is_the_likelihood_of_each(rng, hand):
    view = _tilted_view(rng, radial=True)
    defoci, phases = np.array([9000.0, 29000.0, 30000.0, 47000.0]), np.array([0.0, 0.5, 2.0])
    expected = [[view.evaluate(z, 0, 0, p, 150.0, hand)[0] for p in phases] for z in defoci]
    np.testing.assert_allclose(view.scan(defoci, hand, 150.0, phases), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(view.scan(defoci, hand, 150.0), np.array(expected)[:, 0], rtol=1e-8, atol=1e-10)


def test_information_is_the_curvature_where_the_data_follow_the_model(rng):
    view = _tilted_view(rng, radial=False)
    at = np.array([30000.0, 300.0, -200.0, 0.1, 150.0])
    view.target = 2.0 * view.expected_target(*at, -1)
    steps, curvature = np.array([20.0, 20.0, 20.0, 2e-3, 2.0]), np.empty((5, 5))
    for i in range(5):
        high, low = (view.evaluate(*(at + s * steps * (np.arange(5) == i)), -1)[1] for s in (1, -1))
        curvature[i] = -(high - low) / (2 * steps[i])
    information = view.information(*at, -1)
    scale = np.sqrt(np.diag(information))
    assert np.abs((curvature - information) / np.outer(scale, scale)).max() < 0.02


def test_pictures_show_measured_rings_where_the_fit_has_them(rng):
    image = _noisy(rng, ctf_image(rng.standard_normal(SHAPE), PIXEL, 20000, 20000, 0), 0.3)
    picture = estimate_ctf(flat_series([0.0], SHAPE, PIXEL), [image], SETTINGS).pictures[0]
    assert picture.shape == (256, 256) and picture.dtype == np.float32
    assert picture.min() >= 0 and picture.max() <= 1
    left, right = picture[:, 1:128][:, ::-1], picture[::-1, 129:]
    y, x = np.mgrid[-128:128, 1:128]
    ring = (np.hypot(x, y) > 20) & (np.hypot(x, y) < 70)
    left = np.roll(left, 0, axis=0)
    assert np.corrcoef(left[ring], np.roll(right, 1, axis=0)[ring])[0, 1] > 0.6


def test_tiles_cover_the_image_with_half_overlap():
    starts = tile_starts(960, 512)
    assert starts[0] == 0 and starts[-1] == 448 and np.diff(starts).max() <= 256
    assert tile_starts(300, 512).tolist() == [0]
    assert usable_window((301, 640), 512) == 300


def test_smooth_path_follows_neighbours_where_a_view_knows_nothing():
    grid = np.arange(10000, 20000, 100.0)
    curves = np.array([50 - ((grid - z) / 200) ** 2 for z in (14000, 14200, 14400)])
    curves[1] = 0
    assert smooth_path(curves, grid)[1] == pytest.approx(14200, abs=250)


def test_hand_is_not_decided_without_tilt(rng):
    images = [_noisy(rng, ctf_image(rng.standard_normal((256, 256)), PIXEL, 20000, 20000, 0)) for _ in range(2)]
    series = flat_series([0.0, 0.5], (256, 256), PIXEL)
    grid = PolarGrid.create(256, PIXEL, 40)
    spectra = [view_spectra(i, PIXEL, s, grid, 256) for i, s in zip(images, series.geometry.depth_plane(), strict=True)]
    data = [
        [prepare_view(s, grid, slice(5, 90), 256 * PIXEL, series.optics, radial=r) for s in spectra] for r in (True, False)
    ]
    fits, evidence = fit_series(*data, (10000, 30000))
    assert evidence.decided == 0 and compare_hands(fits[1], fits[-1]) == evidence


@pytest.mark.parametrize("falloff, limit", [(20.0, "pixel_size"), (1200.0, "data")])
def test_what_ends_the_resolution_is_said(rng, falloff, limit):
    """The same rings, once strong to Nyquist (7 A) and once gone by about 12 A."""
    clean = ctf_image(rng.standard_normal(SHAPE), PIXEL, 20000, 20000, 0, falloff=falloff)
    series = flat_series([0.0], SHAPE, PIXEL)
    estimate = estimate_ctf(series, [_noisy(rng, clean, 0.1 if falloff < 100 else 0.3)], SETTINGS)
    table, summary = series_with_ctf(series, estimate).tilts, ctf_summary(series, estimate)
    assert table["ctf_limited_by"].tolist() == [limit] == summary["resolution_limited_by"]
    assert summary["n_limited_by_pixel_size"] == (limit == "pixel_size")
    resolution = table["ctf_max_resolution_angst"][0]
    assert resolution < 1.1 * 2 * PIXEL if limit == "pixel_size" else resolution > 1.2 * 2 * PIXEL


def test_rings_narrower_than_the_spectrum_can_show_are_limited_by_the_window():
    k = np.arange(10, 240) / (512 * 2.0)
    correlation = np.where(k < 0.15, 1.0, 0.0)
    wavelength = 0.0196875  # at 0.15 / A a ring is 1 / (wavelength defocus 0.15) wide: 1.7 spectrum pixels at 2e5 A, 12 at 3e4 A
    assert resolution_limit(correlation, k, 2e5, wavelength) == "window"
    assert resolution_limit(correlation, k, 3e4, wavelength) == "data"
    assert resolution_limit(np.ones_like(k), k, 3e4, wavelength) == "pixel_size"
    assert resolution_limit(np.zeros_like(k), k, 3e4, wavelength) == "data"


def test_neighbours_imply_a_line_and_no_view_counts_for_itself():
    tilts, truth = np.arange(-30.0, 31, 3), 20000 + 40 * np.arange(-30.0, 31, 3)
    values, weights = truth.copy(), np.ones(len(tilts))
    values[[0, 10]], weights[[0, 10]] = 60000.0, 0.0
    found = neighbour_values(values, tilts, weights)
    assert np.abs(found - truth).max() < 60 and abs(found[10] - truth[10]) < 1
    weights[:] = 0
    weights[4] = 1.0
    assert np.allclose(np.delete(neighbour_values(values, tilts, weights), 4), values[4])
