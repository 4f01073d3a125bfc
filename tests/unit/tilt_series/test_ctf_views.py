"""CTF correction against images made with the local CTF of every pixel."""

import dataclasses

import numpy as np
import pytest

from cryoet_core.ctf.model import Optics, ctf_2d
from cryoet_core.ctf.treatment import CtfTreatment, correction_filter, remaining_ctf, treatment_of
from cryoet_core.fourier import bin_images, radial_frequency
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series.ctf_correction import (
    CtfCorrectionSettings,
    ViewCtf,
    correct_views,
    correctable,
    ctf_copies,
    defocus_offset,
    n_copies,
    tolerance_angst,
)

OPTICS = Optics(300.0, 2.7, 0.1)
SHAPE, PIXEL = (192, 160), 4.0


def tilted_view(tilt, axis=85.0, handedness=-1, defocus=30000.0, astigmatism=600.0):
    geometry = TiltGeometry(0.0, [tilt], axis, 40.0, -25.0)
    return geometry, ViewCtf(defocus + astigmatism / 2, defocus - astigmatism / 2, 30.0, 0.0, handedness,
                             geometry.depth_plane()[0], geometry.shift_angst[0])  # fmt: skip


def blurred(points, geometry, ctf, flip):
    """Points of the plane z = 0, each with the CTF of its own depth (or its absolute value), drawn by Fourier sum."""
    uv, depth = geometry.project(points)
    ky = np.fft.fftfreq(SHAPE[0], PIXEL)[:, None]
    kx = np.fft.rfftfreq(SHAPE[1], PIXEL)[None, :]
    total = np.zeros((SHAPE[0], SHAPE[1] // 2 + 1), complex)
    for (u, v), d in zip(uv[0], depth[0], strict=True):
        local = ctf.handedness * d
        c = ctf_2d(SHAPE, PIXEL, ctf.defocus_u_angst + local, ctf.defocus_v_angst + local, 30.0, OPTICS)
        x, y = u + SHAPE[1] // 2 * PIXEL, v + SHAPE[0] // 2 * PIXEL
        total -= (np.abs(c) if flip else c) * np.exp(-2j * np.pi * (kx * x + ky * y))
    return np.fft.irfft2(total * np.exp(-40 * (kx**2 + ky**2)), s=SHAPE).astype(np.float32)


def correlation(a, b):
    return float(np.corrcoef(a[24:-24, 24:-24].ravel(), b[24:-24, 24:-24].ravel())[0, 1])


@pytest.mark.parametrize(("tilt", "handedness"), [(0.0, -1), (45.0, -1), (-60.0, 1), (60.0, -1)])
def test_phase_flip_equals_the_local_ideal(rng, tilt, handedness):
    geometry, ctf = tilted_view(tilt, handedness=handedness)
    points = np.column_stack([rng.uniform(-900, 900, 160), rng.uniform(-500, 500, 160), np.zeros(160)])
    uv = geometry.project(points)[0][0]
    points = points[(np.abs(uv[:, 0]) < 230) & (np.abs(uv[:, 1]) < 290)]
    raw, ideal = blurred(points, geometry, ctf, False), blurred(points, geometry, ctf, True)
    fixed = correct_views(raw[None], ctf, PIXEL, OPTICS, CtfCorrectionSettings(defocus_tolerance_angst=200))[0]
    assert correlation(fixed, ideal) > 0.99
    assert correlation(raw, ideal) < 0.9
    if abs(tilt) > 50:
        wrong = ViewCtf(**{**vars(ctf), "handedness": -ctf.handedness})
        other = correct_views(raw[None], wrong, PIXEL, OPTICS, CtfCorrectionSettings(defocus_tolerance_angst=200))[0]
        assert correlation(other, ideal) < correlation(fixed, ideal) - 0.005


def test_offset_is_the_depth_of_the_plane():
    geometry, ctf = tilted_view(50.0)
    points = np.array([[200.0, 100.0, 0.0], [-150.0, 220.0, 0.0]])
    uv, depth = geometry.project(points)
    offset = defocus_offset(SHAPE, PIXEL, ctf)
    for (u, v), d in zip(uv[0], depth[0], strict=True):
        row, column = round(v / PIXEL) + SHAPE[0] // 2, round(u / PIXEL) + SHAPE[1] // 2
        assert offset[row, column] == pytest.approx(-d, abs=1.5 * PIXEL * 1.2)


def test_low_frequencies_keep_their_sign_and_the_mean_stays(rng):
    _, ctf = tilted_view(30.0)
    image = (100 + rng.normal(0, 1, SHAPE)).astype(np.float32)
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    image -= 20 * np.exp(-((x - 80) ** 2 + (y - 96) ** 2) / (2 * 12.0**2)).astype(np.float32)
    fixed = correct_views(image[None], ctf, PIXEL, OPTICS, CtfCorrectionSettings())[0]
    assert fixed.mean() == pytest.approx(image.mean(), abs=0.05)
    assert fixed[96, 80] < fixed.mean() - 15


def test_halves_add_up_to_the_full_view(rng):
    _, ctf = tilted_view(40.0)
    halves = rng.poisson(15, (2, *SHAPE)).astype(np.float32)
    images = np.concatenate([halves.sum(axis=0, keepdims=True), halves])
    fixed = correct_views(images, ctf, PIXEL, OPTICS, CtfCorrectionSettings())
    np.testing.assert_allclose(fixed[0], fixed[1] + fixed[2], atol=1e-3)


def test_modes():
    c = ctf_2d(SHAPE, PIXEL, 30000.0, 30000.0, 0.0, OPTICS)
    k = radial_frequency(SHAPE, PIXEL)
    flip = correction_filter(c, k, CtfCorrectionSettings(mode="phase_flip"))
    assert set(np.unique(flip)) == {-1.0, 1.0} and (flip * c >= 0).all()
    np.testing.assert_array_equal(correction_filter(c, k, CtfCorrectionSettings(mode="multiply")), c)
    wiener = correction_filter(c, k, CtfCorrectionSettings(mode="wiener", wiener_snr=1e4, wiener_falloff=0.0))
    strong = np.abs(c) > 0.3
    np.testing.assert_allclose(wiener[strong] * c[strong], 1, atol=0.01)
    _, ctf = tilted_view(30.0)
    image = np.ones((1, *SHAPE), np.float32)
    assert correct_views(image, ctf, PIXEL, OPTICS, CtfCorrectionSettings(mode="none")) is image


def test_views_without_defocus_are_left_alone():
    _, ctf = tilted_view(60.0, defocus=0.0, astigmatism=0.0)
    assert not correctable(ctf, CtfCorrectionSettings())
    assert n_copies(SHAPE, PIXEL, ctf, CtfCorrectionSettings()) == 0
    _, ctf = tilted_view(60.0)
    assert n_copies(SHAPE, PIXEL, ctf, CtfCorrectionSettings()) >= 3
    assert n_copies(SHAPE, PIXEL, ctf, CtfCorrectionSettings(max_tiles=2)) == 2


def test_copies_are_the_ctf_at_every_step():
    _, ctf = tilted_view(60.0)
    steps = np.linspace(-9000, 9000, 64)
    for step, copy in zip(steps, ctf_copies(SHAPE, PIXEL, ctf, OPTICS, steps), strict=True):
        direct = ctf_2d(SHAPE, PIXEL, ctf.defocus_u_angst + step, ctf.defocus_v_angst + step, 30.0, OPTICS)
        np.testing.assert_allclose(copy, direct, atol=2e-5)


@pytest.mark.parametrize("axis", [0.0, 45.0, 86.0, -120.0])
def test_blended_copies_equal_every_pixel_from_its_own_defocus(rng, axis):
    """With the tilt about x and the shift: against one correction per pixel column and row, done for a few pixels."""
    geometry = TiltGeometry(10.0, [55.0], axis, 40.0, -25.0)
    ctf = ViewCtf(30300.0, 29700.0, 30.0, 0.0, -1, geometry.depth_plane()[0], geometry.shift_angst[0])
    image = rng.normal(0, 1, SHAPE).astype(np.float32)
    multiply = CtfCorrectionSettings(mode="multiply", defocus_tolerance_angst=50)
    fixed = correct_views(image[None], ctf, PIXEL, OPTICS, multiply)[0]
    offset = defocus_offset(SHAPE, PIXEL, ctf)
    for y, x in ((96, 80), (60, 110), (130, 60)):
        whole = correct_views(image[None], ViewCtf(30300.0 + offset[y, x], 29700.0 + offset[y, x], 30.0, 0.0, -1, np.zeros(2),
                                                   np.zeros(2)), PIXEL, OPTICS, multiply)[0]  # fmt: skip
        assert fixed[y, x] == pytest.approx(whole[y, x], abs=0.01)


def test_borders_lose_no_more_than_the_detail_that_left_the_image(rng):
    """Noise filtered by the CTF, cut out of a larger field: the corrected border must follow the truth."""
    large, c = (352, 320), ctf_2d((352, 320), PIXEL, 30000.0, 30000.0, 0.0, OPTICS)
    band = radial_frequency(large, PIXEL) < 1 / 12
    truth = np.fft.irfft2(np.fft.rfft2(rng.normal(0, 1, large)) * band, s=large)
    image = np.fft.irfft2(np.fft.rfft2(truth) * -c, s=large)[80:-80, 80:-80].astype(np.float32)
    ctf = ViewCtf(30000.0, 30000.0, 0.0, 0.0, -1, np.zeros(2), np.zeros(2))
    fixed, truth = correct_views(image[None], ctf, PIXEL, OPTICS, CtfCorrectionSettings())[0], -truth[80:-80, 80:-80]
    border = np.ones(SHAPE, bool)
    border[16:-16, 16:-16] = False
    inner = np.corrcoef(fixed[~border], truth[~border])[0, 1]
    assert np.corrcoef(fixed[border], truth[border])[0, 1] > 0.9 * inner > 0.75


@pytest.mark.parametrize("mode", ["none", "phase_flip", "multiply", "wiener"])
def test_what_remains_is_what_corrected_images_carry(rng, mode):
    """remaining_ctf against the spectrum of a corrected point, for the treatment as the table records it."""
    _, ctf = tilted_view(0.0, astigmatism=0.0)
    settings = CtfCorrectionSettings(mode=mode, wiener_snr=7.0, wiener_falloff=0.2)
    c, k = ctf_2d(SHAPE, PIXEL, 30000.0, 30000.0, 0.0, OPTICS), radial_frequency(SHAPE, PIXEL)
    row = {"ctf_correction": mode, "ctf_wiener_snr": 7.0, "ctf_wiener_falloff": 0.2}
    remains = remaining_ctf(c, k, treatment_of(row))
    point = np.fft.fftshift(np.fft.irfft2(c, s=SHAPE)).astype(np.float32)
    fixed = correct_views(point[None], ctf, PIXEL, OPTICS, settings)[0]
    spectrum = np.fft.rfft2(np.fft.ifftshift(fixed))
    low = k < 0.06  # beyond, the point is spread past the border
    assert np.corrcoef(spectrum.real[low], remains[low])[0, 1] > 0.99
    assert treatment_of({}) == CtfTreatment("none")


@pytest.mark.parametrize("axis", [85.0, 40.0])
@pytest.mark.parametrize("tilt", [0.0, 55.0])
def test_binning_before_correction_equals_binning_afterwards(rng, tilt, axis):
    """Below the Nyquist frequency of the binned views, on white noise: multiplication is smooth, so that hardly anything may differ."""
    geometry, ctf = tilted_view(tilt, axis)
    views = rng.standard_normal((2, 480, 400)).astype(np.float32)
    settings = CtfCorrectionSettings(mode="multiply", defocus_tolerance_angst=100.0)
    after = bin_images(correct_views(views, ctf, 2.0, OPTICS, settings), 4)
    coarse = dataclasses.replace(settings, defocus_tolerance_angst=tolerance_angst(None, 8.0, OPTICS))
    assert coarse.defocus_tolerance_angst > 1000
    first = correct_views(bin_images(views, 4), ctf, 8.0, OPTICS, coarse)
    inner = np.s_[:, 12:-12, 12:-12]
    assert np.linalg.norm((first - after)[inner]) < 0.04 * np.linalg.norm(after[inner])
    assert np.linalg.norm((first - bin_images(views, 4))[inner]) > 0.5 * np.linalg.norm(after[inner])


@pytest.mark.parametrize("tilt", [0.0, -55.0])
def test_binned_views_are_flipped_as_well_as_views_at_full_size(rng, tilt):
    """A noisy phantom with a gradient of defocus, against the ideal: the absolute value of every point's own CTF."""
    geometry, ctf = tilted_view(tilt)
    points = np.column_stack([rng.uniform(-900, 900, 160), rng.uniform(-500, 500, 160), np.zeros(160)])
    uv = geometry.project(points)[0][0]
    points = points[(np.abs(uv[:, 0]) < 260) & (np.abs(uv[:, 1]) < 320)]
    raw, ideal = (bin_images(blurred(points, geometry, ctf, flip)[None], 2) if flip else blurred(points, geometry, ctf, flip)[None] for flip in (False, True))
    raw += 2 * raw.std() * rng.standard_normal(raw.shape).astype(np.float32)
    fine, coarse = (CtfCorrectionSettings(defocus_tolerance_angst=tolerance_angst(None, pixel, OPTICS)) for pixel in (PIXEL, 2 * PIXEL))
    after = bin_images(correct_views(raw, ctf, PIXEL, OPTICS, fine), 2)[0]
    first = correct_views(bin_images(raw, 2), ctf, 2 * PIXEL, OPTICS, coarse)[0]
    reached, uncorrected = correlation(after, ideal[0]), correlation(bin_images(raw, 2)[0], ideal[0])
    assert reached > 0.5 > 1.5 * uncorrected
    assert correlation(first, ideal[0]) > reached - 0.01
