"""The scan for X-rays against plain array formulas, and for any number of threads."""

import numba
import numpy as np
import pytest
from scipy import ndimage

from cryoet_core.tilt_series.xray_scan import WINDOWS, Deviations, local_levels, scan_windows, window_means_at

SHAPE = (301, 203)


@pytest.fixture
def image(rng):
    return rng.gamma(9.0, 2.0, SHAPE).astype(np.float32)


def window_mean(image, window):
    """By scipy: about the pixel for three, from it on for two; mirrored about the outermost pixels."""
    kernel = np.zeros((3, 3))
    kernel[tuple(slice(0, 3) if n == 3 else slice(1, 1 + n) for n in window)] = 1 / np.prod(window)
    return ndimage.correlate(image.astype(np.float64), kernel, mode="mirror")


def test_levels_are_means_and_deviations_of_blocks(image):
    levels = local_levels(image, 100, -1e9, 1e9)
    mean, sigma = levels.at(slice(0, SHAPE[0]), slice(0, SHAPE[1]))
    assert mean.shape == SHAPE and abs(mean.mean() / image.mean() - 1) < 0.01 and abs(sigma.mean() / image.std() - 1) < 0.02
    rows, columns = levels.rows == 4, levels.columns == 2
    around = image[(levels.rows >= 3) & (levels.rows <= 5)][:, (levels.columns >= 1) & (levels.columns <= 3)]
    assert mean[rows][:, columns] == pytest.approx(around.mean(), rel=1e-2) and sigma[rows][:, columns] == pytest.approx(around.std(), rel=2e-2)
    places = np.array([3, 300]), np.array([7, 202])
    assert np.array_equal(levels.at(*places)[1], sigma[places])
    assert local_levels(image, 100, 0.0, 20.0).mean.max() < 20


@pytest.mark.parametrize("window", WINDOWS)
def test_window_means_at_pixels_and_beyond_the_border(image, window):
    y, x = np.mgrid[-1 : SHAPE[0] + 1, -1 : SHAPE[1] + 1]
    expected = np.pad(window_mean(image, window), 1, mode="reflect")
    np.testing.assert_allclose(window_means_at(image, window, y, x), expected, rtol=3e-6)


def test_the_scan_finds_every_highest_window_over_its_threshold(image):
    levels = local_levels(image, 100, -1e9, 1e9)
    mean, sigma = (v.astype(np.float64) for v in levels.at(slice(None), slice(None)))
    thresholds = [1.5, 1.2, np.inf, 0.8, 0.6]
    *found, high = scan_windows(image, levels, thresholds, 3.0)
    for window, threshold, (rows, columns) in zip([*WINDOWS, (1, 1)], [*thresholds, 3.0], [*found, high], strict=True):
        values = window_mean(image, window)
        best = values >= np.stack([np.pad(values, 1, mode="reflect")[1 + dy :, 1 + dx :][: SHAPE[0], : SHAPE[1]] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]).max(0)
        expected = np.argwhere(best & (values > mean + threshold * sigma))
        assert len(expected) > 10 or threshold == np.inf
        assert np.array_equal(np.stack([rows, columns], axis=1), expected)


def test_deviations_add_up_over_views(image, rng):
    views = [image, image[::-1].copy(), rng.gamma(9.0, 2.0, SHAPE).astype(np.float32)]
    sums, total, votes = Deviations(SHAPE, 1.5), 0.0, 0
    for view in views:
        levels = local_levels(view, 100, -1e9, 1e9)
        mean, sigma = (v.astype(np.float64) for v in levels.at(slice(None), slice(None)))
        clipped = np.clip(view, mean - 4 * sigma, mean + 4 * sigma)
        z = (view - (25 * ndimage.uniform_filter(clipped, 5, mode="mirror") - clipped) / 24) / sigma
        rows, columns, low = sums.add(view, levels)
        assert np.array_equal(np.stack([rows, columns], axis=1), np.argwhere(z < -1.5))
        np.testing.assert_allclose(low, z[z < -1.5], rtol=1e-4)
        total, votes = total + np.clip(z, -4, 4), votes + np.sign(z) * (np.abs(z) > 1.5)
    np.testing.assert_allclose(sums.total, total, atol=1e-4)
    assert np.array_equal(sums.votes, votes) and sums.n == 3


def test_any_number_of_threads_gives_the_same_bytes(rng):
    view = rng.gamma(9.0, 2.0, (900, 210)).astype(np.float32)
    before, results = numba.get_num_threads(), []
    try:
        for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
            numba.set_num_threads(threads)
            levels, sums = local_levels(view, 100, 0.0, 100.0), Deviations(view.shape, 2.0)
            parts = [levels.mean, levels.sigma, *sums.add(view, levels), sums.total, sums.votes]
            parts += [p for pair in scan_windows(view, levels, [2.0] * 5, 3.0) for p in pair]
            results.append(b"".join(p.tobytes() for p in parts))
    finally:
        numba.set_num_threads(before)
    assert results[0] == results[1]
