"""The likelihood against direct sums, against analytic truth, and the noise spectra against planted noise."""

import numpy as np
import pytest
from blob_phantom import Blobs, chiral_blobs, simulate_series

from cryoet_core.fourier import irfft_centred, rfft_centred
from cryoet_core.fsc import fourier_shell_correlation
from cryoet_core.geometry import random_rotations
from cryoet_core.subtomo.likelihood import (
    FrequencyList,
    SeriesImages,
    log_likelihoods,
    log_sum_exp,
    masked_images,
    shift_phases,
    whiten,
)
from cryoet_core.subtomo.mstep import Accumulator, Reference, insert_particles, recentre, ssnr_from_fsc
from cryoet_core.subtomo.noise import initial_spectra, residual_sums, smooth_spectra

BOX, PIXEL, TILTS = 20, 25.0, (-48, -24, 0, 24, 48)


@pytest.fixture(scope="module")
def data():
    return simulate_series(
        chiral_blobs(), 12, box=BOX, pixel_angst=PIXEL, tilts_deg=TILTS, noise_sigma=0.002, offset_sigma_px=1.0
    )


@pytest.fixture(scope="module")
def reference():
    return Reference.of_map(chiral_blobs().density(BOX, PIXEL))


def test_frequency_list_is_sorted_complete_and_has_one_of_each_pair():
    frequencies = FrequencyList.of_box(BOX)
    assert np.all(np.diff(frequencies.kx**2 + frequencies.ky**2) >= 0)
    pairs = {(int(a), int(b)) for a, b in zip(frequencies.kx, frequencies.ky, strict=True)}
    assert len(pairs) == frequencies.kx.size and not any((-a, -b) in pairs for a, b in pairs)
    full = sum(
        0 < a * a + b * b and np.rint(np.hypot(a, b)) <= 6 for a in range(-9, 10) for b in range(-9, 10)
    )
    assert 2 * frequencies.count(6) == full


def test_scatter_is_the_inverse_of_gather():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((3, BOX, BOX)).astype(np.float32)
    frequencies = FrequencyList.of_box(BOX)
    values = frequencies.gather(rfft_centred(image, 2))
    spectrum = frequencies.scatter(values)
    assert np.allclose(frequencies.gather(spectrum), values)
    # both mates of the column kx = 0 are filled: the spectrum is that of a real image
    back = rfft_centred(irfft_centred(spectrum, (BOX, BOX), 2), 2)
    assert np.allclose(back, spectrum, atol=1e-3)
    small = frequencies.upto(4)
    assert np.allclose(small.gather(small.scatter(values[:, : small.kx.size])), values[:, : small.kx.size])


def test_matrix_product_agrees_with_the_direct_sum(data, reference):
    """C - N of the product form = difference of squared distances, summed pixel by pixel in float64."""
    rng = np.random.default_rng(1)
    orientations, shifts = random_rotations(7, rng), rng.uniform(-2, 2, (5, 3))
    frequencies = data.images.frequencies.upto(8)
    n = frequencies.kx.size
    white = whiten(data.images, data.sigma2, 8)
    slices = reference.view_slices(data.images.view_rotations, orientations, frequencies)
    phases = shift_phases(frequencies, data.images.view_rotations, shifts)
    fast = log_likelihoods(white, slices, phases)
    worst = 0.0
    for p in range(3):
        c = data.images.ctf[p, :, :n].astype(float)
        x = data.images.masked[p, :, :n].astype(complex) / c  # un-premultiplied images
        for t in range(5):
            u = np.einsum("fij,j->fi", data.images.view_rotations[:, :2], shifts[t])
            ramp = np.exp(-2j * np.pi / BOX * (u[:, :1] * frequencies.kx + u[:, 1:] * frequencies.ky))
            for o in range(7):
                model = c * slices[o].astype(complex) * ramp
                s2 = data.sigma2[:, frequencies.shell]
                direct = 0.5 * np.sum((np.abs(x) ** 2 - np.abs(x - model) ** 2) / s2)
                worst = max(worst, abs(direct - fast[p, t, o]))
    assert np.ptp(fast) > 50
    assert worst < 1e-3


def test_slices_agree_with_the_analytic_projection(data, reference):
    slices = reference.view_slices(data.images.view_rotations, data.rotations[:, :, :], data.images.frequencies)
    clean = data.clean * shift_phases(data.images.frequencies, data.images.view_rotations, data.offsets_px)
    low = data.images.frequencies.shell <= 6
    error = np.linalg.norm((slices - clean)[..., low]) / np.linalg.norm(clean[..., low])
    assert error < 0.02


def test_the_true_pose_is_more_likely_than_any_near_one(data, reference):
    white = whiten(data.images, data.sigma2, 8)
    for p in range(4):
        slices = reference.view_slices(white.view_rotations, data.rotations[p : p + 1], white.frequencies)
        near = data.offsets_px[p] + np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
        shifts = np.concatenate([near, -data.offsets_px[p : p + 1]])  # the wrong sign is among them
        phases = shift_phases(white.frequencies, white.view_rotations, shifts)
        scores = log_likelihoods(white.take(slice(p, p + 1)), slices, phases)[0, :, 0]
        assert scores.argmax() == 0 and scores[0] > 10


def test_missing_views_count_for_nothing(data, reference):
    images = data.images
    hidden = SeriesImages(
        images.rows, images.view_rotations, images.masked.copy(), images.unmasked, images.ctf.copy(), images.frequencies
    )
    hidden.masked[:, 1], hidden.ctf[:, 1] = 0, 0
    keep = [0, 2, 3, 4]
    fewer = SeriesImages(
        images.rows, images.view_rotations[keep], images.masked[:, keep], images.unmasked[:, keep], images.ctf[:, keep],
        images.frequencies,
    )
    scores = []
    for part, sigma2 in ((hidden, data.sigma2), (fewer, data.sigma2[keep])):
        white = whiten(part, sigma2, 8)
        slices = reference.view_slices(white.view_rotations, data.rotations, white.frequencies)
        phases = shift_phases(white.frequencies, white.view_rotations, np.zeros((1, 3)))
        scores.append(log_likelihoods(white, slices, phases))
    assert np.allclose(*scores, atol=2e-3)


def test_log_sum_exp_survives_any_range():
    values = np.array([[1e5, 1e5 - 1.0], [-1e5, -1e5]], dtype=np.float32)
    expected = [1e5 + np.log1p(np.exp(-1.0)), -1e5 + np.log(2)]
    assert np.allclose(log_sum_exp(values, 1), expected, rtol=0, atol=1e-3)


def test_noise_spectra_are_those_planted(data, reference):
    slices = reference.view_slices(data.images.view_rotations, data.rotations, data.images.frequencies)
    phases = shift_phases(data.images.frequencies, data.images.view_rotations, data.offsets_px)
    estimated = smooth_spectra(*residual_sums(data.images, np.arange(12), slices, phases))
    ratio = (estimated / data.sigma2)[:, 2:9]
    assert abs(ratio.mean() - 1) < 0.06
    assert np.all(np.abs(ratio.mean(axis=1) - 1) < 0.2)  # each view has its own
    assert initial_spectra(data.images)[:, 2:4].mean() > 1.5 * data.sigma2.mean()  # signal counts as noise at first


def test_reconstruction_from_true_poses_gives_the_density(data):
    many = simulate_series(chiral_blobs(), 60, box=BOX, pixel_angst=PIXEL, noise_sigma=0.001, offset_sigma_px=1.0)
    accumulator = Accumulator(BOX)
    insert_particles(
        accumulator, many.images, many.sigma2, np.arange(60), many.rotations, many.offsets_px, np.ones(60)
    )
    truth = chiral_blobs().density(BOX, PIXEL)
    for ssnr in (None, np.full(BOX // 2 + 1, 1e4)):
        volume = accumulator.sums().reconstruct(ssnr)
        assert np.all(fourier_shell_correlation(volume, truth)[1:8] > 0.97)
        slope = np.sum(volume * truth) / np.sum(truth * truth)
        assert abs(slope - 1) < 0.05  # the grey scale is that of the density
    strong = accumulator.sums().reconstruct(np.full(BOX // 2 + 1, 0.01))
    assert np.abs(strong).max() < 0.1 * np.abs(volume).max()


def test_masked_images_remove_the_background():
    mask = np.zeros((8, 8), np.float32)
    mask[2:6, 2:6] = 1
    image = np.full((2, 8, 8), 7.0, np.float32)
    image[:, 4, 4] = 9.0
    out = masked_images(image, mask)
    assert out[0, 4, 4] == pytest.approx(2.0) and abs(out).sum() == pytest.approx(4.0)


def test_recentre_finds_the_centre_of_mass():
    shifted = Blobs(chiral_blobs().centres + [50.0, -25.0, 10.0], chiral_blobs().mass, 14.0).density(BOX, PIXEL)
    assert np.allclose(recentre(shifted, np.ones_like(shifted)), [2.0, -1.0, 0.4], atol=0.05)


def test_ssnr_of_the_joined_map_is_twice_that_of_a_half():
    single, joined = ssnr_from_fsc([1.0, 0.5]), ssnr_from_fsc([1.0, 0.5], joined=True)
    assert single[1] == pytest.approx(1.0) and joined[1] == pytest.approx(2.0)
