"""Scores of views: planted faults must stand out, good views must not."""

import numpy as np
import pytest
from synthetic_series import blob_series
from test_exclude import make_series

from cryoet_core.config.exclude_views import ExcludeViews
from cryoet_core.tilt_series.exclude import exclude_views, measure_views
from cryoet_core.tilt_series.view_scores import CRITERIA, failing, limits, neighbour_scores, thumbnail, trend_outlier

AXIS = 86.0


@pytest.fixture(scope="module")
def specimen():
    """Counted views of one specimen through ice, shifts up to 90 A, and the series."""
    rng = np.random.default_rng(11)
    images, tilts, shifts = blob_series(rng, noise=0.5)
    mean = 60 * np.exp(-0.5 / np.cos(np.deg2rad(tilts)))[:, None, None]
    counts = rng.poisson(np.maximum(mean * (1 + 0.05 * images / images.std()), 0)).astype(np.float32)
    series = make_series(tilts).with_columns(z_rot_deg=AXIS)
    return counts, series, shifts


def judged(views, series, **settings):
    statistics, thumbnails = measure_views(views)
    marked, _, scores = exclude_views(series, statistics, ExcludeViews(**settings), thumbnails=thumbnails)
    return marked, scores


def test_good_views_are_all_kept_and_scored(specimen):
    counts, series, _ = specimen
    marked, scores = judged(counts, series, neighbour_outlier_sigma=8.0, min_field_of_view=0.6)
    assert marked.included.all()
    assert set(scores) == {c.score for c in CRITERIA}
    for name in ("intensity_over_law", "blocked_fraction", "neighbour_correlation", "neighbour_outlier_sigma", "field_of_view"):
        assert np.isfinite(scores[name]).all()


def test_a_view_of_something_else_correlates_with_no_neighbour(specimen):
    counts, series, _ = specimen
    views = counts.copy()
    views[5] = np.random.default_rng(1).permutation(views[5].ravel()).reshape(views[5].shape)
    marked, scores = judged(views, series, neighbour_outlier_sigma=6.0)
    assert np.flatnonzero(~marked.included).tolist() == [5]
    assert marked.tilts["exclude_reason"].iloc[5] == "neighbours"
    good = np.delete(scores["neighbour_correlation"], 5)
    assert scores["neighbour_correlation"][5] < 0.6 * good.min()


def test_a_covered_corner_is_blocked_and_a_lamella_edge_in_all_views_is_not(specimen):
    counts, series, _ = specimen
    views = counts.copy()
    views[:, :, :25] *= 0.3
    assert judged(views, series)[0].included.all()
    views[8, :70] *= 0.3
    marked, scores = judged(views, series, dark=False)
    assert np.flatnonzero(~marked.included).tolist() == [8]
    assert marked.tilts["exclude_reason"].iloc[8] == "blocked"
    assert scores["blocked_fraction"][8] == pytest.approx(70 / 112 * (1 - 25 / 120), abs=0.06)


def test_field_of_view_follows_a_jump_of_the_stage():
    rng = np.random.default_rng(3)
    images, tilts, _ = blob_series(rng, shape=(160, 168), max_shift=0.0, noise=0.5)
    moved = images.copy()
    moved[-3:] = np.roll(images[-3:], 30, axis=2)
    series = make_series(tilts).with_columns(z_rot_deg=AXIS)
    field = neighbour_scores([thumbnail(m) for m in moved], series.geometry)[1]
    assert field[-3:] == pytest.approx(1 - 30 / 168, abs=0.05)
    assert field[: len(tilts) - 3].min() > 0.93


def test_blank_views_have_no_correlation(specimen):
    counts, series, _ = specimen
    views = counts.copy()
    views[4] = 0
    correlation, field = neighbour_scores([thumbnail(v) for v in views], series.geometry)
    assert np.isnan(correlation[4]) and np.isnan(field[4])
    assert np.isfinite(np.delete(correlation, 4)).all()


def test_outliers_are_measured_from_the_trend():
    tilt = np.arange(-60, 61, 3.0)
    values = 5 + 0.002 * tilt**2 + np.random.default_rng(0).normal(0, 0.1, tilt.size)
    values[[3, 20]] += [2.0, -3.0]
    z = trend_outlier(tilt, values, 0.01)
    assert z[3] > 10 and z[20] < -15
    assert np.abs(np.delete(z, [3, 20])).max() < 4.5
    values[7] = np.nan
    assert np.isnan(trend_outlier(tilt, values, 0.01)[7])


def test_a_limit_of_none_excludes_nothing():
    scores = {c.score: np.full(3, 1e9 if not c.low_is_bad else -1e9) for c in CRITERIA}
    nothing = ExcludeViews(max_blocked_fraction=None)
    assert failing(scores, nothing) == {}
    assert limits(nothing)["neighbour_correlation"] is None
    assert failing(scores, ExcludeViews()) == dict.fromkeys(range(3), "blocked")
    assert set(failing(scores, ExcludeViews(max_blocked_fraction=None, min_field_of_view=0.5)).values()) == {"field_of_view"}


def test_ctf_outliers_are_judged_against_their_trend(specimen):
    counts, series, _ = specimen
    tilt = series.tilts["nominal_tilt_deg"].to_numpy()
    resolution = 8 + 0.003 * tilt**2
    resolution[6] *= 2
    marked, _ = judged(counts, series.with_columns(ctf_max_resolution_angst=resolution), ctf_outlier_sigma=5.0)
    assert np.flatnonzero(~marked.included).tolist() == [6]
    assert marked.tilts["exclude_reason"].iloc[6] == "ctf_outlier"


def test_two_views_of_another_place_share_no_field(specimen):
    counts, series, _ = specimen
    other, _, _ = blob_series(np.random.default_rng(77), noise=0.5)
    mean = np.median(counts, axis=(1, 2))[:, None, None]
    views = counts.copy()
    views[[6, 7]] = (mean * (1 + 0.05 * other / other.std()))[[6, 7]]
    marked, scores = judged(views, series, min_field_of_view=0.5)
    assert np.flatnonzero(~marked.included).tolist() == [6, 7]
    assert scores["field_of_view"][[6, 7]].tolist() == [0, 0]
    assert np.nanmin(np.delete(scores["field_of_view"], [6, 7])) > 0.6
