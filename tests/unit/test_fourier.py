import numpy as np
import pytest

from cryoet_core import fourier


def blob(shape, offset, sigma=3.0):
    """A Gaussian whose centre is ``offset`` (y, x) from index n//2."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    r2 = (y - shape[0] // 2 - offset[0]) ** 2 + (x - shape[1] // 2 - offset[1]) ** 2
    return np.exp(-r2 / (2 * sigma**2)).astype(np.float32)


def centroid(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum(dtype=np.float64)
    return (
        (image * (y - image.shape[0] // 2)).sum(dtype=np.float64) / total,
        (image * (x - image.shape[1] // 2)).sum(dtype=np.float64) / total,
    )


@pytest.mark.parametrize("shape", [(16, 16), (15, 16), (9, 7)])
def test_centred_transform_round_trip_and_phase_origin(shape, rng):
    image = rng.normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(fourier.irfft_centred(fourier.rfft_centred(image), shape), image, atol=1e-5)
    delta = np.zeros(shape, np.float32)
    delta[shape[0] // 2, shape[1] // 2] = 1
    np.testing.assert_allclose(fourier.rfft_centred(delta), 1, atol=1e-6)


@pytest.mark.parametrize("shape, binning", [((60, 72), 3), ((61, 70), 2), ((64, 96), 4), ((122, 134), 6)])
def test_binning_keeps_centre_and_mean(shape, binning):
    image = blob(shape, (-4.0, 6.0), sigma=1.2 * binning + 2) + 2
    binned = fourier.bin_images(image, binning)
    assert all(n % 2 == 0 for n in binned.shape)
    y, x = centroid(binned - 2)
    assert y * binning == pytest.approx(-4.0, abs=0.05)
    assert x * binning == pytest.approx(6.0, abs=0.05)


@pytest.mark.parametrize("old, new", [((16, 16), (20, 24)), ((15, 17), (22, 21)), ((14, 15), (15, 16))])
def test_pad_then_crop_is_identity_below_nyquist(old, new, rng):
    image = fourier.lowpass(rng.normal(size=old).astype(np.float32), 4.0, 1.0, 2)
    back = fourier.fourier_crop(fourier.fourier_pad(image, new), old)
    np.testing.assert_allclose(back, image, atol=2e-3 * image.std() + 1e-5)


def test_shift_moves_content_by_plus_shift():
    moved = fourier.fourier_shift(blob((64, 64), (0, 0)), (2.5, -1.25))
    y, x = centroid(moved)
    assert (x, y) == (pytest.approx(2.5, abs=1e-3), pytest.approx(-1.25, abs=1e-3))


def test_centre_crop_or_pad_keeps_index():
    for old, new in [(7, 4), (4, 7), (8, 5), (5, 8), (6, 6)]:
        values = np.arange(old) + 1
        out = fourier.centre_crop_or_pad(values, (new,), 1)
        assert out.shape == (new,)
        assert out[new // 2] == values[old // 2]


def test_lowpass_removes_what_is_beyond(rng):
    noise = rng.normal(size=(32, 32, 32)).astype(np.float32)
    power = np.abs(np.fft.rfftn(fourier.lowpass(noise, 16.0, 2.0))) ** 2
    k = fourier.radial_frequency(noise.shape, 2.0)
    assert power[k > 1 / 16 + 2 / 64].max() < 1e-6 * power.max()


def test_radial_average_counts_both_halves():
    shape = (16, 16, 16)
    values = np.ones((16, 16, 9), np.float32)
    np.testing.assert_allclose(fourier.radial_average(values, 3, shape), 1)
    weight = np.broadcast_to(fourier.half_complex_multiplicity(shape), values.shape)
    assert weight.sum() == 16**3
