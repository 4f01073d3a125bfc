import numpy as np
import pytest

from cryoet_core import fsc, masks


def test_fsc_of_a_map_with_itself_and_with_noise(rng):
    a = rng.normal(size=(32, 32, 32)).astype(np.float32)
    b = rng.normal(size=(32, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(fsc.fourier_shell_correlation(a, a), 1, atol=1e-6)
    curve = fsc.fourier_shell_correlation(a, b)
    counts = np.bincount(np.rint(np.sqrt(sum(g**2 for g in np.meshgrid(*[np.fft.fftfreq(32, 1 / 32)] * 3)))).astype(int).ravel())
    assert np.all(np.abs(curve[1:]) < 4 / np.sqrt(counts[1 : len(curve)] / 2))


def test_fsc_of_signal_plus_noise_has_the_expected_value(rng):
    signal = rng.normal(size=(48, 48, 48)).astype(np.float32)
    half1, half2 = (signal + rng.normal(size=signal.shape).astype(np.float32) for _ in range(2))
    assert np.mean(fsc.fourier_shell_correlation(half1, half2)[8:]) == pytest.approx(0.5, abs=0.02)


def test_resolution_is_interpolated():
    curve = np.array([1, 1, 0.9, 0.5, 0.1, 0.0])
    assert fsc.resolution_at(curve, 2.0, 10, 0.3) == pytest.approx(10 * 2.0 / 3.5)
    assert fsc.resolution_at(np.ones(6), 2.0, 10, 0.143) == 4.0
    assert fsc.resolution_at(np.array([1, 0.0, 0]), 2.0, 4, 0.143) == np.inf


def test_corrected_fsc_takes_out_the_masks_own_correlation(rng):
    half1, half2 = (rng.normal(size=(32, 32, 32)).astype(np.float32) for _ in range(2))
    mask = masks.soft_sphere((32, 32, 32), 6, 2)
    result = fsc.corrected_fsc(half1 + 0.3, half2 + 0.3, mask, rng)
    assert abs(result.corrected[6:].mean()) < 0.1


def test_sphere_is_centred_on_the_middle_index():
    sphere = masks.soft_sphere((16, 17, 18), 4, 2)
    assert sphere[8, 8, 9] == 1
    assert sphere[8, 8, 9 + 4] == 1 and sphere[8, 8, 9 + 7] == 0
    assert 0 < sphere[8, 8, 9 + 5] < 1


def test_mask_from_map_takes_the_largest_object():
    volume = np.zeros((24, 24, 24), np.float32)
    volume[8:16, 8:16, 8:16] = 1
    volume[1:3, 1:3, 1:3] = 1
    mask = masks.mask_from_map(volume, 0.5, dilate_px=1, edge_px=2)
    assert mask[12, 12, 12] == 1 and mask[7, 12, 12] == 1 and mask[2, 2, 2] == 0
    assert masks.mask_from_map(volume, 5.0).max() == 0
