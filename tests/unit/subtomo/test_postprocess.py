"""Postprocessing against maps whose FSC, mask and B-factor are known."""

import numpy as np
import pytest

from cryoet_core.config.postprocess import Postprocess
from cryoet_core.errors import UserInputError
from cryoet_core.fourier import radial_frequency
from cryoet_core.masks import soft_sphere
from cryoet_core.subtomo.particle_mask import automatic_mask, otsu_threshold
from cryoet_core.subtomo.postprocess import (
    fit_bfactor,
    fsc_table,
    fsc_weight,
    guinier_table,
    postprocess,
    read_mtf,
    sharpen,
)

N, PIXEL = 48, 3.0


def particle(rng, radius=14):
    """White density inside a ball: a particle with flat power."""
    return (rng.standard_normal((N, N, N)) * soft_sphere((N,) * 3, radius, 2) + 2 * soft_sphere((N,) * 3, radius, 2)).astype(
        np.float32
    )


def half_maps(rng, noise_at):
    """Two maps of one particle with noise that grows so that signal and noise are equal (FSC 0.5) at shell ``noise_at``."""
    signal = particle(rng)
    k = radial_frequency((N,) * 3, 1.0 / N)
    spectrum = np.fft.rfftn(signal)
    reference = np.abs(spectrum[(k > 2) & (k < N / 2)]).std()
    halves = []
    for _ in range(2):
        noise = np.fft.rfftn(rng.standard_normal((N, N, N)))
        noise *= reference / np.abs(noise).std() * (k / noise_at) ** 4
        halves.append(np.fft.irfftn(spectrum + noise, s=(N,) * 3, axes=(0, 1, 2)).astype(np.float32))
    return signal, halves


def test_resolution_is_where_the_noise_takes_over(rng):
    _, (a, b) = half_maps(rng, 12)
    result = postprocess(a, b, PIXEL, Postprocess(mask_diameter_angst=95.0), rng)
    at_half = N * PIXEL / result.resolution_half_angst
    assert 11 < at_half < 16.5  # the mask removes noise outside the particle: a little beyond shell 12
    assert result.resolution_angst < result.resolution_half_angst
    assert result.resolution_angst < result.resolution_unmasked_angst
    assert result.sharpening.source in ("none", "fitted")
    assert result.mask_source == "sphere"
    assert result.fsc.corrected[0] == 1


def test_pure_noise_has_no_resolution(rng):
    a, b = (rng.standard_normal((N, N, N)).astype(np.float32) for _ in range(2))
    result = postprocess(a, b, PIXEL, Postprocess(mask_diameter_angst=90.0), rng)
    assert not result.resolution_angst < 4 * N * PIXEL / 8
    assert result.fsc.corrected[4:].max() < 0.3


def test_map_is_weighted_and_ends_at_the_resolution(rng):
    _, (a, b) = half_maps(rng, 12)
    result = postprocess(a, b, PIXEL, Postprocess(mask_diameter_angst=95.0, bfactor_angst2=0.0), rng)
    spectrum = np.abs(np.fft.rfftn(result.map))
    shell = radial_frequency((N,) * 3, 1.0 / N)
    limit = N * PIXEL / result.resolution_angst
    assert spectrum[shell > limit + 2].max() < 1e-3 * spectrum[shell < 4].max()
    mean = np.abs(np.fft.rfftn(0.5 * (a + b)))
    low = (shell > 1) & (shell < 5)
    assert np.median(spectrum[low] / mean[low]) == pytest.approx(1, abs=0.05)


def test_automatic_mask_covers_the_particle_and_little_more(rng):
    truth = soft_sphere((N,) * 3, 12, 1)
    volume = (truth + 0.3 * rng.standard_normal((N, N, N))).astype(np.float32)
    mask = automatic_mask(volume, PIXEL, lowpass_angst=15.0)
    assert mask[truth > 0.9].min() > 0.9
    r = np.linalg.norm(np.mgrid[:N, :N, :N] - N // 2, axis=0)
    assert mask[r > 12 + 2 + 4 + 3].max() == 0


def test_mask_of_the_result_comes_from_the_map(rng):
    signal, (a, b) = half_maps(rng, 16)
    result = postprocess(a, b, PIXEL, Postprocess(), rng)
    assert result.mask_source == "map"
    assert result.mask[soft_sphere((N,) * 3, 12, 1) > 0.99].mean() > 0.95
    assert not result.warnings


def test_given_mask_is_used_and_must_fit(rng):
    _, (a, b) = half_maps(rng, 12)
    mask = soft_sphere((N,) * 3, 16, 3)
    assert postprocess(a, b, PIXEL, Postprocess(), rng, mask=mask).mask_source == "file"
    with pytest.raises(UserInputError, match="E-POST-01"):
        postprocess(a, b, PIXEL, Postprocess(), rng, mask=mask[:20, :20, :20])


@pytest.mark.parametrize("bfactor", [-80.0, -200.0])
def test_bfactor_is_fitted_and_undone(bfactor, rng):
    pixel = 1.5
    flat = rng.standard_normal((64, 64, 64)).astype(np.float32)
    blurred = sharpen(flat, pixel, bfactor_angst2=-bfactor)
    guinier = guinier_table(blurred, pixel, np.ones(33))
    fitted = fit_bfactor(guinier, 3.1)
    assert fitted == pytest.approx(bfactor, rel=0.05)
    again = sharpen(blurred, pixel, bfactor_angst2=fitted)
    assert np.corrcoef(again.ravel(), flat.ravel())[0, 1] > 0.99


def test_bfactor_is_not_fitted_at_low_resolution(rng):
    _, (a, b) = half_maps(rng, 12)
    result = postprocess(a, b, 8.0, Postprocess(mask_diameter_angst=250.0), rng)
    assert result.sharpening.source == "none" and result.sharpening.bfactor_angst2 == 0
    given = postprocess(a, b, 8.0, Postprocess(mask_diameter_angst=250.0, bfactor_angst2=-150.0), rng)
    assert given.sharpening.source == "given" and given.sharpening.bfactor_angst2 == -150
    with pytest.raises(ValueError, match="shells"):
        fit_bfactor(result.guinier, 20.0)


def test_fsc_weight_is_the_figure_of_merit():
    weight = fsc_weight([1, 1, 0.5, 0.143, -0.1, 0.4])
    assert weight == pytest.approx([1, 1, np.sqrt(2 / 3), np.sqrt(0.286 / 1.143), 0, 0])


def test_otsu_separates_two_classes(rng):
    values = np.concatenate([rng.normal(0, 1, 5000), rng.normal(8, 1, 500)])
    assert 2 < otsu_threshold(values) < 6


def test_mtf_file_divides_the_map(tmp_path, rng):
    path = tmp_path / "mtf.star"
    rows = "\n".join(f"{k:.3f} {np.exp(-3 * k):.6f}" for k in np.linspace(0, 0.5, 26))
    path.write_text(f"data_\n\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n{rows}\n")
    mtf = read_mtf(path, 2.0)
    assert mtf(0.1) == pytest.approx(np.exp(-0.6), rel=1e-3)
    flat = rng.standard_normal((32, 32, 32)).astype(np.float32)
    divided = sharpen(flat, 2.0, mtf=mtf)
    k = radial_frequency((32,) * 3, 2.0)
    ring = (k > 0.15) & (k < 0.16)
    ratio = np.median(np.abs(np.fft.rfftn(divided))[ring] / np.abs(np.fft.rfftn(flat))[ring])
    assert ratio == pytest.approx(np.exp(3 * 2 * 0.155), rel=0.05)


def test_fsc_table_has_relions_labels(rng):
    _, (a, b) = half_maps(rng, 12)
    result = postprocess(a, b, PIXEL, Postprocess(mask_diameter_angst=95.0), rng)
    table = fsc_table(result, PIXEL)
    assert len(table) == N // 2 + 1
    assert table["rlnAngstromResolution"].iloc[24] == pytest.approx(2 * PIXEL)
    assert table["rlnFourierShellCorrelationCorrected"].to_numpy() == pytest.approx(result.fsc.corrected)
    assert result.summary()["mask_fraction"] == pytest.approx(result.mask.mean(), rel=1e-4)


def test_corrected_fsc_is_that_of_the_signal_and_noise_inside_the_mask(rng):
    """Truth: S / (S + N) of the masked signal and the masked noise, shell by shell, from what was planted."""
    truth, (a, b) = half_maps(rng, 14)
    mask = soft_sphere((N,) * 3, 15, 2)
    result = postprocess(a, b, PIXEL, Postprocess(local_resolution=False), rng, mask=mask)
    k = np.rint(radial_frequency((N,) * 3, 1.0 / N)).astype(int)
    power = [
        np.bincount(k.ravel(), (np.abs(np.fft.rfftn(v * mask)) ** 2).ravel(), minlength=N)[: N // 2 + 1]
        for v in (truth, a - truth, b - truth)
    ]
    expected = power[0] / (power[0] + 0.5 * (power[1] + power[2]))
    independent = 0.5 * np.bincount(k.ravel(), minlength=N)[: N // 2 + 1] * 2 * mask.mean()  # half plane doubled, the mask's share
    error = (1 - expected**2) / np.sqrt(independent)
    score = ((result.fsc.corrected - expected) / np.maximum(error, 1e-3))[3:]
    assert np.sqrt(np.mean(score**2)) < 1.5 and np.abs(score.mean()) < 0.7  # no more than chance, and no bias
    wrong = ((result.fsc.masked - 0.1 - expected) / np.maximum(error, 1e-3))[3:]
    assert np.sqrt(np.mean(wrong**2)) > 1.5  # the measure would notice 0.1


def test_a_tight_mask_makes_noise_correlate_and_the_correction_takes_it_away(rng):
    a, b = (rng.standard_normal((N, N, N)).astype(np.float32) + 3.0 for _ in range(2))
    mask = soft_sphere((N,) * 3, 5, 0.5)
    result = postprocess(a, b, PIXEL, Postprocess(local_resolution=False), rng, mask=mask)
    assert result.fsc.masked[4:12].mean() > 0.25  # the shape of the mask itself
    assert np.abs(result.fsc.corrected[4:].mean()) < 0.1


def test_bfactor_of_noisy_halves_is_the_one_planted(rng):
    pixel, planted = 1.5, -120.0
    flat = rng.standard_normal((64, 64, 64)).astype(np.float32)
    signal = sharpen(flat, pixel, bfactor_angst2=-planted)
    halves = [(signal + 0.15 * rng.standard_normal(signal.shape)).astype(np.float32) for _ in range(2)]
    config = Postprocess(mask_diameter_angst=90.0, local_resolution=False)
    result = postprocess(*halves, pixel, config, rng)
    assert result.sharpening.source == "fitted"
    assert result.resolution_angst < 6
    assert result.sharpening.bfactor_angst2 == pytest.approx(planted, rel=0.1)


def test_local_resolution_is_part_of_the_result(rng):
    _, (a, b) = half_maps(rng, 12)
    result = postprocess(a, b, PIXEL, Postprocess(mask_diameter_angst=95.0), rng)
    numbers = result.summary()
    assert numbers["local_resolution_best_angst"] <= numbers["local_resolution_median_angst"]
    assert 0.6 < numbers["local_resolution_median_angst"] / result.resolution_angst < 1.5
    assert postprocess(a, b, PIXEL, Postprocess(local_resolution=False), rng).local is None


MTF = "data_\n\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n"


@pytest.mark.parametrize(
    "text, words",
    [
        ("data_\n\nloop_\n_rlnResolutionInversePixel\n_rlnOther\n0 1\n", "columns.*rlnMtfValue"),
        (MTF, "0 values"),
        (MTF + "0 1\n", "1 values"),
        (MTF + "0 1\n0.3 0.5\n0.2 0.4\n", "rising"),
        (MTF + "0 1\n0 0.9\n0.5 0.4\n", "rising"),
        (MTF + "-0.1 1\n0.5 0.4\n", "-0.1 to 0.5"),
        (MTF + "0 1\n25 0.8\n500 0.4\n", "0 to 500"),
        (MTF + "0 1\n0.5 nan\n", "rlnMtfValue.*nan"),
        (MTF + "0 1\n0.5 half\n", "rlnMtfValue.*half"),
        (MTF + "0 1\n0.5 " + "9" * 400 + "\n", "rlnMtfValue"),
        (MTF + "0 1\n0.5 -0.2\n", "rlnMtfValue.*-0.2 to 1"),
        (MTF + "0 100\n0.5 40\n", "rlnMtfValue.*40 to 100"),
        (MTF + "0 0\n0.5 0\n", "rlnMtfValue.*0 to 0"),
    ],
)
def test_what_is_no_mtf_is_refused(tmp_path, text, words):
    path = tmp_path / "mtf.star"
    path.write_text(text)
    with pytest.raises(UserInputError, match=f"E-POST-02.*mtf.star.*{words}.*Fix: "):
        read_mtf(path, 2.0)


def test_a_mask_of_bytes_is_the_mask_and_other_values_are_refused():
    _, (a, b) = half_maps(np.random.default_rng(0), 12)
    mask = (soft_sphere((N,) * 3, 16, 3) > 0.5).astype(np.float32)
    config = Postprocess(local_resolution=False)
    one, byte = (postprocess(a, b, PIXEL, config, np.random.default_rng(1), mask=m) for m in (mask, 255 * mask))
    assert np.array_equal(byte.mask, mask) and byte.resolution_angst == one.resolution_angst
    assert "0 and 255" in byte.warnings[0] and one.warnings == byte.warnings[1:]
    with pytest.raises(UserInputError, match="E-MASK-01.*postprocess.mask.*-128 to -127"):
        postprocess(a, b, PIXEL, config, np.random.default_rng(1), mask=mask - 128)
