import numpy as np
import pytest

from cryoet_core.tilt_series.preprocess import preprocess_view, scale_views


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
