import numpy as np
import pytest
from synthetic_series import view_axes

from cryoet_core.tilt_series.preprocess import (
    GreyTarget,
    aligned_shape,
    aligned_view,
    measured,
    preprocess_view,
    scale_views,
    series_target,
)


def test_binning_keeps_the_mean_and_the_centre():
    y, x = np.mgrid[0:96, 0:120]
    spot = np.exp(-((x - 60) ** 2 + (y - 48) ** 2) / (2 * 6.0**2)).astype(np.float32) + 5
    binned, _ = preprocess_view(spot[None], 4, "none")
    assert binned.shape == (1, 24, 30)
    assert np.unravel_index(binned[0].argmax(), (24, 30)) == (12, 15)
    assert binned.mean() == pytest.approx(spot.mean(), rel=1e-4)


def test_halves_are_divided_by_the_full_views_deviation(rng):
    halves = rng.normal(50, 4, (2, 64, 64)).astype(np.float32)
    images = np.concatenate([halves.sum(axis=0, keepdims=True), halves])
    scaled, grey = scale_views(images, "mean0_std1")
    assert scaled[0].std() == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(scaled.mean(axis=(1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled[0], scaled[1] + scaled[2], atol=1e-4)
    np.testing.assert_allclose(scaled[0] * grey.std + grey.mean, images[0], rtol=1e-4)
    assert scale_views(images, "none")[0] is images
    assert scale_views(images, "mean0")[0].std() == pytest.approx(images.std(axis=(1, 2)).mean(), rel=0.5)


@pytest.fixture
def two_views(rng):
    """(2 views, 3 images, h, w): halves that add up; the second view brighter and of more contrast."""
    halves = rng.normal([[[[20.0]]], [[[35.0]]]], [[[[2.0]]], [[[3.0]]]], (2, 2, 48, 40)).astype(np.float32)
    return np.concatenate([halves.sum(axis=1, keepdims=True), halves], axis=1)


def test_newstacks_modes_in_floating_point(two_views):
    for view in two_views:
        scaled, _ = scale_views(view, GreyTarget("mean_std", mean=10.0, std=3.0))
        assert (scaled[0].mean(), scaled[0].std()) == pytest.approx((10.0, 3.0), rel=1e-4)
        scaled, _ = scale_views(view, GreyTarget("range", low=5.0, high=100.0))
        assert (scaled[0].min(), scaled[0].max()) == pytest.approx((5.0, 100.0), rel=1e-4)
    target = series_target(GreyTarget("common_mean"), [measured(v[0]) for v in two_views])
    shifted = [scale_views(v, target)[0][0] for v in two_views]
    assert [s.mean() for s in shifted] == pytest.approx([np.mean(two_views[:, 0])] * 2, rel=1e-4)
    assert [s.std() for s in shifted] == pytest.approx([v[0].std() for v in two_views], rel=1e-4)
    target = series_target(GreyTarget("common_range", low=0.0, high=1.0), [measured(v[0]) for v in two_views])
    ranged = np.stack([scale_views(v, target)[0][0] for v in two_views])
    assert (ranged.min(), ranged.max()) == pytest.approx((0.0, 1.0), abs=1e-5)
    assert ranged[0].mean() == pytest.approx(ranged[1].mean(), abs=1e-4)
    assert ranged[1].std() / ranged[0].std() == pytest.approx(two_views[1, 0].std() / two_views[0, 0].std(), rel=1e-4)


@pytest.mark.parametrize("mode", ["mean0", "mean0_std1", "mean_std", "range", "common_mean", "common_range"])
def test_halves_add_up_and_old_values_can_be_given_back(two_views, mode):
    target = series_target(GreyTarget(mode, mean=7.0, std=2.0), [measured(v[0]) for v in two_views])
    for view in two_views:
        scaled, grey = scale_views(view, target)
        np.testing.assert_allclose(scaled[1] + scaled[2], scaled[0], atol=2e-4 * max(1, np.abs(scaled).max()))
        np.testing.assert_allclose((scaled[0] - grey.new_mean) / grey.gain + grey.mean, view[0], rtol=1e-3)


@pytest.mark.parametrize("axis", [0.0, 86.0, -120.0, 45.0])
def test_aligned_views_have_the_axis_upright_and_the_centre_in_the_centre(axis):
    """Points of a tilted specimen drawn by formula, in a view and where they must be in the aligned one: x = X cos t + Z sin t, y = Y."""
    points = np.array([[0.0, 0, 0], [14, 3, 5], [-12, 10, -4], [5, -15, 8]])
    tilt, shift, shape = 35.0, np.array([3.4, -2.7]), (72, 80)
    uv = points @ view_axes([tilt], axis)[0].T + shift

    def drawn(size, places):
        y, x = np.mgrid[0 : size[0], 0 : size[1]]
        weights = (1.0, 0.7, 0.5, 0.9)
        return sum(w * np.exp(-((x - size[1] // 2 - u) ** 2 + (y - size[0] // 2 - v) ** 2) / 8) for w, (u, v) in zip(weights, places, strict=True))

    size = aligned_shape(shape, axis)
    upright = np.column_stack([points[:, 0] * np.cos(np.deg2rad(tilt)) + points[:, 2] * np.sin(np.deg2rad(tilt)), points[:, 1]])
    view = drawn(shape, uv).astype(np.float32)
    aligned = aligned_view(view, axis, shift, size)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    inner = np.hypot(y - size[0] // 2, x - size[1] // 2) < 28  # inside the view at every axis
    np.testing.assert_allclose(aligned[inner], drawn(size, upright)[inner], atol=0.01)
