"""The likelihood against direct sums, against analytic truth, and the noise spectra against planted noise."""

import dataclasses

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
    norm_terms,
    shift_phases,
    whiten,
)
from cryoet_core.subtomo.mstep import Accumulator, Reference, insert_particles, recentre, ssnr_from_fsc
from cryoet_core.subtomo.noise import (
    correction_sums,
    group_amplitude,
    initial_spectra,
    noise_factors,
    residual_sums,
    smooth_spectra,
    spectra,
)

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


def test_relion_model_agrees_with_its_direct_sum(data, reference):
    """sum |X|^2 - |X - a c^2 P|^2 over 2 nu S^2 in float64, with the particle's amplitude a and noise factor nu."""
    rng = np.random.default_rng(2)
    orientations, shifts = random_rotations(5, rng), rng.uniform(-2, 2, (4, 3))
    frequencies = data.images.frequencies.upto(8)
    n, amplitude, noise = frequencies.kx.size, rng.uniform(0.5, 2, 12), rng.uniform(0.5, 2, 12)
    images = dataclasses.replace(data.images, amplitude=amplitude, noise_factor=noise)
    spectrum = np.repeat(rng.uniform(0.5, 2, (1, frequencies.n_shells)) * data.sigma2.mean() * 0.3, len(TILTS), axis=0)
    slices = reference.view_slices(images.view_rotations, orientations, frequencies)
    phases = shift_phases(frequencies, images.view_rotations, shifts)
    fast = log_likelihoods(whiten(images, spectrum, 8, likelihood="relion"), slices, phases)
    worst = 0.0
    for p in range(3):
        x, c2 = images.masked[p, :, :n].astype(complex), images.ctf[p, :, :n].astype(float) ** 2
        for t in range(4):
            u = np.einsum("fij,j->fi", images.view_rotations[:, :2], shifts[t])
            ramp = np.exp(-2j * np.pi / BOX * (u[:, :1] * frequencies.kx + u[:, 1:] * frequencies.ky))
            for o in range(5):
                model = amplitude[p] * c2 * slices[o].astype(complex) * ramp
                s2 = noise[p] * spectrum[:, frequencies.shell]
                direct = 0.5 * np.sum((np.abs(x) ** 2 - np.abs(x - model) ** 2) / s2)
                worst = max(worst, abs(direct - fast[p, t, o]))
    assert np.ptp(fast) > 10
    assert worst < 1e-3


def test_relion_spectrum_is_the_variance_of_the_premultiplied_noise(data, reference):
    slices = reference.view_slices(data.images.view_rotations, data.rotations, data.images.frequencies)
    phases = shift_phases(data.images.frequencies, data.images.view_rotations, data.offsets_px)
    sums = residual_sums(data.images, np.arange(12), slices, phases, "relion")
    found = spectra(*sums, "relion")
    assert np.all(found == found[:1])
    for shell in range(3, 9):
        mine = data.images.frequencies.shell == shell
        expected = np.mean(data.images.ctf[..., mine].astype(float) ** 2 * data.sigma2[:, shell][:, None])
        assert abs(found[0, shell] / expected - 1) < 0.15


def test_corrections_find_planted_strength_and_noise(data, reference):
    planted_noise = np.linspace(0.6, 1.4, 12)
    rng = np.random.default_rng(9)
    shape = data.images.masked.shape
    raw = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * np.sqrt(data.sigma2[:, 0])[:, None]
    ctf = data.images.ctf
    clean = data.clean * (ctf**2 * 1.7)
    noisy = (clean + ctf * raw * np.sqrt(planted_noise)[:, None, None]).astype(np.complex64)
    images = dataclasses.replace(data.images, masked=noisy, unmasked=noisy)
    slices = reference.view_slices(images.view_rotations, data.rotations, images.frequencies)
    phases = shift_phases(images.frequencies, images.view_rotations, data.offsets_px)
    rows = np.arange(12)
    for likelihood in ("exact", "relion"):
        sigma2 = data.sigma2 if likelihood == "exact" else np.full_like(data.sigma2, data.sigma2.mean())
        scale = group_amplitude([correction_sums(images, rows, slices, phases, sigma2, 8, likelihood)])
        assert abs(scale / 1.7 - 1) < 0.05
        scaled = dataclasses.replace(images, amplitude=np.full(12, scale))
        found = noise_factors(correction_sums(scaled, rows, slices, phases, sigma2, 8, likelihood))
        assert np.all(np.abs(found / (planted_noise / planted_noise.mean()) - 1) < 0.2)
        assert np.corrcoef(found, planted_noise)[0, 1] > 0.95


def test_scores_of_masked_noise_have_the_variance_that_the_likelihood_assumes():
    """Var(C) = 2 N for images of noise under the particle's mask: else posteriors are too sharp by the inverse of the mask's power."""
    rng, n, box = np.random.default_rng(12), 300, 32
    axis = np.arange(box) - box // 2
    mask = np.clip(11 + 0.5 - np.hypot(axis[:, None], axis[None]), 0, 1).astype(np.float32)
    noise = rng.standard_normal((n, 1, box, box)).astype(np.float32)
    ones = np.ones((n, 1, box, box // 2 + 1), np.float32)
    images = SeriesImages.from_images(noise, ones, np.eye(3)[None], np.arange(n), mask)
    small = Blobs(chiral_blobs().centres * 0.8, chiral_blobs().mass, 12.0).density(box, 14.0)
    slices = Reference.of_map(small).view_slices(np.eye(3)[None], random_rotations(40, rng), images.frequencies.upto(12))
    phases = shift_phases(images.frequencies.upto(12), images.view_rotations, np.zeros((1, 3)))
    ratio = {}
    for likelihood in ("exact", "relion"):
        white = whiten(images, initial_spectra(images, likelihood), 12, likelihood=likelihood)
        norm = norm_terms(white.weight, slices)
        cross = log_likelihoods(white, slices, phases)[:, 0] + norm
        ratio[likelihood] = np.mean(cross**2) / np.mean(2 * norm)
    assert abs(ratio["exact"] - 1) < 0.12
    assert abs(ratio["relion"] * images.mask_power - 1) < 0.12  # RELION's spectrum of masked images, as it is
    assert images.mask_power < 0.5


def test_corrected_particles_enter_the_map_at_its_grey_scale(data):
    """A series twice as strong, known as such, gives the same map as one of the common strength."""
    strong = dataclasses.replace(
        data.images, masked=2 * data.images.masked, unmasked=2 * data.images.unmasked, amplitude=np.full(12, 2.0),
        noise_factor=np.full(12, 4.0),
    )
    maps = []
    for images in (data.images, strong):
        accumulator = Accumulator(BOX)
        insert_particles(
            accumulator, images, data.sigma2, np.arange(12), data.rotations, data.offsets_px, np.ones(12)
        )
        maps.append(accumulator.sums().reconstruct(np.full(BOX // 2 + 1, 10.0)))
    assert np.allclose(*maps, atol=1e-4 * np.abs(maps[0]).max())


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
