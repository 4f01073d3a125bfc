import numpy as np
import pytest

from cryoet_core.movies.halves import noise_floor, noise_model, split_image


def _specimen(shape=(160, 192)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return 1 + 0.1 * np.sin(x / 9) * np.sin(y / 13)


def _noise_correlation(image, clean, model, rng):
    even, odd = split_image(image.astype(np.float32), model, rng)
    assert np.allclose(even + odd, image, atol=1e-3)
    return np.corrcoef((even - clean / 2).ravel(), (odd - clean / 2).ravel())[0, 1]


def test_integer_counts_are_thinned_exactly(rng):
    clean = [_specimen() * level for level in (4.0, 20.0, 60.0)]
    views = [rng.poisson(c).astype(np.float32) for c in clean]
    model = noise_model(views)
    assert model.kind == "counts" and model.unit == pytest.approx(1, abs=0.05)
    for view, mean in zip(views, clean, strict=True):
        even, odd = split_image(view, model, rng)
        assert (even >= 0).all() and (odd == np.rint(odd)).all()
        assert abs(_noise_correlation(view, mean, model, rng)) < 0.02


def test_scaled_counts_give_independent_halves(rng):
    clean = [_specimen() * level for level in (40.0, 80.0, 120.0)]
    views = [(0.37 * rng.poisson(c)).astype(np.float32) for c in clean]
    model = noise_model(views)
    assert model.kind == "scaled_counts" and model.unit == pytest.approx(0.37, rel=0.05)
    for view, mean in zip(views, clean, strict=True):
        assert abs(_noise_correlation(view, 0.37 * mean, model, rng)) < 0.03


def test_normalised_images_fall_back_to_constant_noise(rng):
    clean = [_specimen() - 1] * 2
    views = [(c + 0.5 * rng.standard_normal(c.shape)).astype(np.float32) for c in clean]
    model = noise_model(views)
    assert model.kind == "constant"
    assert noise_floor(views[0]) == pytest.approx(0.25, rel=0.1)
    assert abs(_noise_correlation(views[0], clean[0], model, rng)) < 0.03


def test_halves_share_the_specimen(rng):
    clean = _specimen() * 400
    model = noise_model([rng.poisson(clean).astype(np.float32)])
    even, odd = split_image(rng.poisson(clean).astype(np.float32), model, rng)
    for half in (even, odd):
        assert np.corrcoef(half.ravel(), clean.ravel())[0, 1] > 0.5
        assert half.mean() == pytest.approx(200, rel=0.02)
