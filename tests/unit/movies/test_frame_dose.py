"""Dose weights inside a tilt: by the published formula, written out here, and what they do to noise and signal."""

import numpy as np
import pytest

from cryoet_core.movies.correct import MotionSettings, correct_movie
from cryoet_core.movies.frame_dose import weighted_frames

SHAPE, PIXEL, DOSE, N = (64, 80), 2.0, 40.0, 5


def _critical(kv):
    k = np.hypot(np.fft.fftfreq(SHAPE[0], PIXEL)[:, None], np.fft.rfftfreq(SHAPE[1], PIXEL)[None])
    with np.errstate(divide="ignore"):
        return (0.24499 * k**-1.6649 + 2.8141) * (0.8 if kv == 200 else 1.0)


def _remaining(kv):
    """(N, h, w//2+1): share of the signal's amplitude left in the middle of every frame."""
    middle = DOSE / N * (np.arange(N) + 0.5)
    return np.exp(-middle[:, None, None] / (2 * _critical(kv)))


@pytest.mark.parametrize("kv", [200, 300])
def test_weights_are_those_of_the_paper_and_keep_noise_white(kv):
    ones = [np.ones((SHAPE[0], SHAPE[1] // 2 + 1), np.complex64)] * N
    found = np.array(list(weighted_frames(iter(ones), N, SHAPE, PIXEL, DOSE, kv))).real
    left = _remaining(kv)
    assert np.allclose(found, left / np.sqrt((left**2).mean(axis=0)), rtol=2e-4)
    assert np.allclose((found**2).mean(axis=0), 1, rtol=1e-4)
    assert np.allclose(found[:, 0, 0], 1)


def test_sum_gains_signal_against_noise_and_halves_add_up(rng):
    """A specimen that fades as the formula says, in white noise: the weighted sum is more like it, its noise as strong as before."""
    clean = np.fft.rfft2(rng.standard_normal(SHAPE))
    fading = [100 + np.fft.irfft2(clean * left, SHAPE) for left in _remaining(300)]
    frames = [(f + 3 * rng.standard_normal(SHAPE)).astype(np.float32) for f in fading]
    results = {
        weighted: correct_movie(lambda: iter(frames), PIXEL, settings=MotionSettings(align=False, dose_weighting=weighted), exposure_e_per_a2=DOSE)
        for weighted in (False, True)
    }
    fine = np.hypot(np.fft.fftfreq(SHAPE[0])[:, None], np.fft.rfftfreq(SHAPE[1])[None]) > 0.2
    likeness = {}
    for weighted, result in results.items():
        spectrum = np.fft.rfft2(result.image)[fine]
        likeness[weighted] = (spectrum * clean[fine].conj()).real.sum() / np.linalg.norm(spectrum) / np.linalg.norm(clean[fine])
        assert np.allclose(result.even + result.odd, result.image)
        assert result.image.mean() == pytest.approx(500, rel=1e-2)
    assert likeness[True] > 1.15 * likeness[False]
    assert not np.allclose(results[True].even, results[False].even, atol=1)
