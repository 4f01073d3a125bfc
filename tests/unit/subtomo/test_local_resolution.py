"""Local resolution against maps whose two sides are known to be good to different frequencies."""

import numpy as np
import pytest

from cryoet_core.fourier import radial_frequency
from cryoet_core.masks import soft_sphere
from cryoet_core.subtomo.local_resolution import band_centres, band_weights, default_window_angst, local_resolution

N, PIXEL, WINDOW = 80, 3.0, 54.0


def upto(spectrum, last_shell):
    """Real map of a spectrum up to a shell, with an edge of about a shell."""
    k = radial_frequency((N,) * 3, 1.0 / N).astype(float)
    limited = spectrum * 0.5 * (1 - np.tanh((k - last_shell) / 0.6))
    return np.fft.irfftn(limited, s=(N,) * 3, axes=(0, 1, 2))


def two_sided(rng, left, right, noise=1.0):
    """Signal to shell ``left`` for x < n/2 and to ``right`` beyond, and the same white noise everywhere: two halves."""
    x = np.arange(N) - N / 2
    side = 1 / (1 + np.exp(-x / 1.0))
    spectrum = np.fft.rfftn(rng.standard_normal((N,) * 3))
    coarse, fine = (upto(spectrum, shell) for shell in (left, right))
    signal = coarse * (1 - side) + fine * side
    return signal, [(signal + noise * rng.standard_normal(signal.shape)).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize(("left", "right"), [(10, 28), (16, 36)])
def test_each_side_gets_its_own_resolution(left, right):
    rng = np.random.default_rng(left)
    _, (a, b) = two_sided(rng, left, right)
    mask = soft_sphere((N,) * 3, 34, 2)
    found = local_resolution(a, b, mask, PIXEL, rng, window_angst=WINDOW)
    shells = np.where(found.resolution_angst > 0, N * PIXEL / np.maximum(found.resolution_angst, 1e-3), np.nan)
    assert np.nanmedian(shells[:, :, 14:26]) == pytest.approx(left, abs=N * PIXEL / WINDOW)  # half a band
    assert np.nanmedian(shells[:, :, 54:66]) == pytest.approx(right, abs=N * PIXEL / WINDOW)
    assert np.all(found.resolution_angst[mask < 0.5] == 0)
    best, middle, worst = found.quantiles()
    assert best < middle < worst


def test_pure_noise_has_only_the_coarsest_resolution():
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((N,) * 3).astype(np.float32) for _ in range(2))
    found = local_resolution(a, b, np.ones((N,) * 3), PIXEL, rng, window_angst=WINDOW)
    assert np.median(found.resolution_angst) > 0.6 * N * PIXEL / 2.7
    assert np.mean(found.resolution_angst < 4 * PIXEL) < 0.01


def test_local_filter_is_nearer_the_truth_than_the_mean_of_the_halves():
    rng = np.random.default_rng(4)
    signal, (a, b) = two_sided(rng, 10, 28)
    mask = soft_sphere((N,) * 3, 34, 2)
    found = local_resolution(a, b, mask, PIXEL, rng, window_angst=WINDOW)
    inside = mask > 0.5
    error, before = (np.linalg.norm((m - signal)[inside]) for m in (found.map, 0.5 * (a + b)))
    assert error < 0.7 * before


def test_bands_add_up_to_everything():
    shells = radial_frequency((N,) * 3, 1.0 / N)
    centres = band_centres(N, 5.3)
    assert centres[0] >= 2 and centres[-1] == N / 2
    total = sum(band_weights(shells, centres, 5.3))
    assert np.allclose(total[shells <= N / 2], 1, atol=1e-5)


def test_window_follows_resolution_and_box():
    assert default_window_angst(10.0, 2.0, 128) == 60.0
    assert default_window_angst(3.8, 2.0, 128) == 24.0
    assert default_window_angst(60.0, 2.0, 128) == pytest.approx(256 / 3)
    assert np.isfinite(default_window_angst(float("inf"), 2.0, 128))
