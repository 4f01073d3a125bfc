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


GAP = [1.0] * 9 + [0.76, 0.42, 0.17, 0.11, 0.24, 0.47, 0.54, 0.51, 0.39, 0.22, 0.06, 0.02, 0.06, 0.1, 0.05, 0.0]


def test_a_zero_of_the_ctf_does_not_end_the_signal():
    box, pixel = 48, 7.64
    assert box * pixel / fsc.resolution_at(GAP, pixel, box) == pytest.approx(11 + (0.17 - 0.143) / 0.06)
    assert box * pixel / fsc.signal_limit_at(GAP, pixel, box, 0.09) == pytest.approx(18 + (0.22 - 0.143) / 0.16)
    # the same rise where the mask leaves so little of the box that noise could make it
    assert fsc.signal_limit_at(GAP, pixel, box, 0.0009) == fsc.resolution_at(GAP, pixel, box)
    spike = GAP[:13] + [0.0] * 3 + [0.9, 0.9] + [0.0] * 7
    assert fsc.signal_limit_at(spike, pixel, box, 0.09) == fsc.resolution_at(spike, pixel, box)
    smooth = np.linspace(1, 0, 25)
    assert fsc.signal_limit_at(smooth, pixel, box) == fsc.resolution_at(smooth, pixel, box)
    assert fsc.signal_limit_at(np.ones(25), pixel, box) == 2 * pixel


def test_noise_has_no_signal_beyond_its_first_shells(rng):
    mask = masks.soft_sphere((48,) * 3, 12, 3)
    for _ in range(20):
        curve = fsc.fourier_shell_correlation(*(rng.normal(size=(48,) * 3).astype(np.float32) for _ in range(2)), mask)
        limit = fsc.signal_limit_at(curve, 1.0, 48, float(mask.mean()))
        assert limit == fsc.resolution_at(curve, 1.0, 48) and limit > 48 / 4
