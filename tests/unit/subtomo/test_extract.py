"""Extraction: centres, signs, CTF, visibility, and equality with RELION's own output on a small cut of a project."""

from pathlib import Path

import numpy as np
import pytest
from phantom_series import (
    BLOBS_PX,
    MASSES,
    SIGMA_PX,
    ctf_image,
    dose_image,
    draw_views,
    gaussians,
    make_series,
    particle_matrix,
    view_matrix,
)

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.subtomo.extract import (
    ExtractionSettings,
    crop_to_disc,
    cut_boxes,
    extract_stacks,
    find_views,
)
from cryoet_core.subtomo.volumes import extract_volumes, sum_views

RELION = np.load(Path(__file__).parents[2] / "data" / "relion_extract.npz")


def relion_case():
    """One particle, four views cut from a larger project, and RELION's 2D stack (--bin 2 --b 64 --crop 32 --stack2d)."""
    views = RELION["views"].astype(np.float32) * float(RELION["scale"]) + float(RELION["mean"])
    series = make_series(RELION["y_tilt_deg"], 85.0, views.shape[1:], 4.0)
    columns = ("x_shift_angst", "y_shift_angst", "pre_exposure_e_per_a2", "ctf_scale")
    series = series.with_columns(
        defocus_u_angst=RELION["defocus_angst"],
        defocus_v_angst=RELION["defocus_angst"],
        **{name: RELION[name] for name in columns},
    )
    return series, views, RELION["position_angst"][None]


def relative_difference(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_equals_relion_when_cut_from_the_raw_views():
    series, views, position = relion_case()
    settings = ExtractionSettings(2, 64, 32, cut_from_raw=True)
    stacks = extract_stacks(views, series, position, settings)
    assert relative_difference(stacks.images, RELION["stack"]) < 1e-3  # sign, centre and grey scale together


def test_equals_relion_nearly_when_views_are_binned_once():
    series, views, position = relion_case()
    stacks = extract_stacks(views, series, position, ExtractionSettings(2, 64, 32))
    assert np.corrcoef(stacks.images.ravel(), RELION["stack"].ravel())[0, 1] > 0.998
    assert stacks.images.std() / RELION["stack"].std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("change", ["handedness", "defocus", "shift"])
def test_agreement_with_relion_notices_wrong_geometry(change):
    series, views, position = relion_case()
    if change == "handedness":
        series.handedness = 1
    elif change == "defocus":
        series = series.with_columns(defocus_u_angst=RELION["defocus_angst"] + 300)
    else:
        position = position + [4.0, 0, 0]
    stacks = extract_stacks(views, series, position, ExtractionSettings(2, 64, 32, cut_from_raw=True))
    assert relative_difference(stacks.images, RELION["stack"]) > 5e-3


def isolated(binning, from_raw):
    """One particle alone in every view."""
    series = make_series(
        [-50.0, 0.0, 35.0], 95.0, (200, 220), 3.0, shifts=[[4.3, -7.7], [0.4, 2.2], [-3.1, 5.9]]
    )
    position = np.array([[31.7, -44.1, 52.3]])
    images = np.zeros((3, 200, 220), np.float32)
    for f, row in series.tilts.iterrows():
        uv = (view_matrix(row["y_tilt_deg"], 95.0) @ position[0])[:2] + [row["x_shift_angst"], row["y_shift_angst"]]
        images[f] = -gaussians((200, 220), uv[None] / 3.0 + [110, 100], [100.0], 3.0)
    settings = ExtractionSettings(binning, 48, 32, ctf_premultiply=False, cut_from_raw=from_raw)
    return extract_stacks(images, series, position, settings)


@pytest.mark.parametrize(("binning", "from_raw"), [(1, False), (2, False), (2, True)])
def test_centre_of_mass_within_two_hundredths_of_a_pixel(binning, from_raw):
    stacks = isolated(binning, from_raw)
    assert stacks.images.shape == (3, 32, 32)
    y, x = np.mgrid[:32, :32] - 16
    for image in stacks.images:
        assert image.sum() > 0  # bright
        assert abs((image * x).sum() / image.sum()) < 0.02
        assert abs((image * y).sum() / image.sum()) < 0.02


def test_grey_values_are_the_binned_view_over_the_binning():
    peak = 100.0 / (2 * np.pi * 9)
    assert isolated(1, False).images.max() == pytest.approx(peak, rel=0.05)
    assert isolated(2, False).images.max() == pytest.approx(peak / 2, rel=0.05)


def test_image_is_multiplied_by_its_own_ctf_dose_and_scale():
    series = make_series([0.0, 30.0], 85.0, (256, 256), 4.0, defocus=15000.0, dose_step=20.0)
    position = np.array([[0.0, 0.0, 120.0]])
    images = draw_views(series, position, [[0, 0, 0]], (256, 256))
    settings = ExtractionSettings(1, 128, 128, circle_crop=False)
    stacks = extract_stacks(images, series, position, settings)
    for f, row in series.tilts.iterrows():
        depth = (view_matrix(row["y_tilt_deg"], 85.0) @ position[0])[2]
        c = ctf_image((128, 128), 4.0, row["defocus_u_angst"] - depth) * row["ctf_scale"]
        c = c * dose_image((128, 128), 4.0, row["pre_exposure_e_per_a2"])
        clean = draw_views(series, position, [[0, 0, 0]], (256, 256), with_ctf=False)[f]
        uv = (view_matrix(row["y_tilt_deg"], 85.0) @ position[0])[:2] / 4.0
        k = np.fft.fftfreq(256)
        phase = np.exp(2j * np.pi * (k[None, :] * uv[0] + k[:, None] * uv[1]))
        centred = np.real(np.fft.ifft2(np.fft.fft2(clean) * phase))[64:192, 64:192]
        expected = -np.real(np.fft.ifft2(np.fft.fft2(centred) * c**2))
        inner = (slice(32, 96), slice(32, 96))
        assert relative_difference(stacks.images[f][inner], expected[inner]) < 0.03


def test_visible_views_follow_border_dose_and_exclusion():
    series = make_series([-60.0, 0.0, 60.0], 0.0, (100, 100), 2.0, dose_step=10.0)
    positions = np.array([[0.0, 0, 0], [75.0, 0, 0], [0, 99.0, 0]])
    views = find_views(series, positions, (100, 100), 16.0)
    assert views.visible.tolist() == [[True] * 3, [True, False, True], [False] * 3]
    low_dose = find_views(series, positions, (100, 100), 16.0, max_dose_e_per_a2=10.0)
    assert low_dose.visible[0].tolist() == [True, True, False]
    assert not find_views(series, positions, (100, 100), 16.0, min_views=3).visible[1].any()
    excluded = series.with_columns(excluded=[0, 1, 0])
    assert find_views(excluded, positions, (100, 100), 16.0).visible[0].tolist() == [True, False, True]
    assert np.all(np.diff(views.particle) >= 0)


def test_outside_pixels_repeat_the_edge():
    image = np.arange(12.0, dtype=np.float32).reshape(1, 3, 4)
    box = cut_boxes(image, np.array([0]), np.array([[-2, 1]]), 4)[0]
    assert box.tolist() == [[4, 4, 4, 5], [8, 8, 8, 9], [8, 8, 8, 9], [8, 8, 8, 9]]


def test_disc_removes_the_outside_mean():
    image = np.full((1, 32, 32), 3.0, np.float32)
    image[0, 16, 16] = 10
    disc = crop_to_disc(image, 4)
    assert disc[0, 16, 16] == pytest.approx(7)
    assert np.abs(disc).sum() == pytest.approx(7, abs=1e-4)


def test_volume_agrees_with_its_own_weights_on_a_bright_point():
    series = make_series(np.arange(-60.0, 61, 5), 85.0, (128, 128), 4.0)
    position = np.array([[10.0, -7.0, 30.0]])
    images = np.zeros((len(series), 128, 128), np.float32)
    for f, row in series.tilts.iterrows():
        uv = (view_matrix(row["y_tilt_deg"], 85.0) @ position[0])[:2] / 4.0
        images[f] = -gaussians((128, 128), uv[None] + 64, [50.0], 1.5)
    settings = ExtractionSettings(1, 64, 32, ctf_premultiply=False)
    ((row, volume),) = extract_volumes(images, series, position, settings)
    assert row == 0
    assert volume.data.shape == (32, 32, 32)
    assert volume.weight.shape == volume.multiplicity.shape == (32, 32, 17)
    z, y, x = np.mgrid[:32, :32, :32] - 16
    core = np.where(x**2 + y**2 + z**2 < 36, volume.data, 0)
    for axis in (x, y, z):
        assert abs((core * axis).sum() / core.sum()) < 0.05
    assert np.unravel_index(volume.data.argmax(), volume.data.shape) == (16, 16, 16)
    # c = 1: the weight is the multiplicity; a slice through the origin is seen by all 25 views.
    np.testing.assert_allclose(volume.weight, volume.multiplicity, rtol=1e-4, atol=1e-4)
    assert volume.multiplicity[8, 0, 0] < 0.1 * volume.multiplicity[0, 8, 0]  # missing wedge is along z


def test_settings_are_checked():
    with pytest.raises(UserInputError, match="E-EXT-01"):
        ExtractionSettings(1, 33, 32)
    with pytest.raises(UserInputError, match="E-EXT-02"):
        ExtractionSettings(1, 32, 64)


def test_unknown_ctf_and_empty_result_are_errors():
    series = make_series([0.0], 0.0, (64, 64), 4.0)
    views = np.zeros((1, 64, 64), np.float32)
    with pytest.raises(DataQualityError, match="E-EXT-04"):
        extract_stacks(views, series, np.array([[500.0, 0, 0]]), ExtractionSettings(1, 32, 16))
    unknown = series.with_columns(defocus_u_angst=0.0)
    with pytest.raises(DataQualityError, match="E-EXT-03"):
        extract_stacks(views, unknown, np.zeros((1, 3)), ExtractionSettings(1, 32, 16))


def test_blob_masses_are_what_the_projection_sums_to():
    series = make_series([20.0], 85.0, (96, 96), 4.0)
    assert -draw_views(series, np.zeros((1, 3)), [[10, 20, 30]], (96, 96), with_ctf=False).sum() == pytest.approx(
        MASSES.sum(), rel=1e-5
    )


def relion_splat(values, rotations, n):
    """RELION 5's insertion written out pixel by pixel: (n, n, n//2 + 1), corner origin."""
    h, half = values.shape[1:]
    out = np.zeros((n, n, n // 2 + 1), values.dtype)
    for image, turn in zip(values, rotations, strict=True):
        for row in range(h):
            q = row if row < h // 2 else row - h
            for p in range(0 if row < h // 2 else 1, half):
                at, value = p * turn[0] + q * turn[1], image[row, p]
                if at[0] < 0:
                    at, value = -at, np.conj(value)
                low = np.floor(at).astype(int)
                for corner in np.ndindex(2, 2, 2):
                    x, y, z = low + corner
                    if x > n // 2 or not (-n // 2 <= y < n // 2 and -n // 2 <= z < n // 2):
                        continue
                    share = np.prod(1 - np.abs(at - [x, y, z])) * value
                    out[z, y, x] += share
                    if x == 0:
                        out[-z % n, -y % n, 0] += np.conj(share)
    return out


def test_volume_sums_are_relions_to_the_last_voxel():
    rng = np.random.default_rng(3)
    box, n, tilts = 16, 8, [-50, 0, 20, 64]
    spectra = np.fft.rfft2(rng.standard_normal((4, box, box))).astype(np.complex64)
    boxes = np.fft.fftshift(np.fft.irfft2(spectra, s=(box, box)), axes=(1, 2)).astype(np.float32)
    c = rng.uniform(0, 1, spectra.shape).astype(np.float32)
    c = 0.5 * (c + np.roll(c[:, ::-1], 1, axis=1))  # a transfer is even
    radius = np.hypot(np.fft.fftfreq(box, 1 / box)[:, None], np.arange(box // 2 + 1))
    used = np.broadcast_to(radius <= box / 2, spectra.shape)
    turns = np.array([view_matrix(t, 85.0) for t in tilts])
    volume = sum_views(boxes, c, used, turns, ExtractionSettings(1, box, n))
    ones = np.where(used, (n / box) ** 2, 0.0)
    for found, values in ((volume.multiplicity, ones), (volume.weight, ones * c**2)):
        np.testing.assert_allclose(found, relion_splat(values, turns * n / box, n), atol=1e-5)
    found = np.fft.rfftn(np.fft.ifftshift(volume.data))
    expected = relion_splat(ones * spectra, turns * n / box, n) * np.sqrt(n)
    # irfft halves what is not Hermitian; on the edge ky, kz = -n/2 and the last column it is RELION's own, too.
    real = np.fft.rfftn(np.fft.irfftn(expected, s=(n, n, n), axes=(0, 1, 2)))
    np.testing.assert_allclose(found, real, atol=1e-4 * np.abs(real).max())


def test_stacks_and_volumes_say_the_same_about_a_map():
    """The inner product with any map: sum over views of image . projection = pseudo-subtomogram . map."""
    series = make_series(np.arange(-60.0, 61, 6), 85.0, (128, 128), 4.0, dose_step=2.0)
    angles, position = np.array([[10.0, 40.0, -70.0]]), np.array([[12.0, -8.0, 20.0]])
    noise = np.random.default_rng(5).standard_normal((len(series), 128, 128)).astype(np.float32) * 1e-3
    views = draw_views(series, position, angles, (128, 128)) + noise
    settings = ExtractionSettings(1, 64, 32)
    images = extract_stacks(views, series, position, settings).images
    ((_, volume),) = extract_volumes(views, series, position, settings)
    envelope = np.sinc(np.hypot.reduce(np.mgrid[:32, :32, :32] / 32 - 0.5)) ** 2  # what trilinear insertion does to a map
    scale = 0.0
    for test_angles in angles, np.array([[-50.0, 100.0, 20.0]]):
        blobs = particle_matrix(*test_angles[0]) @ BLOBS_PX.T
        flat, solid = 0.0, np.zeros((32, 32, 32))
        for f, row in series.tilts.iterrows():
            at = (view_matrix(row["y_tilt_deg"], 85.0) @ blobs).T[:, :2] + 16
            flat += (images[f] * gaussians((32, 32), at, MASSES, SIGMA_PX)).sum()
        scale = scale or flat
        z, y, x = np.mgrid[:32, :32, :32] - 16
        for (bx, by, bz), mass in zip(blobs.T, MASSES, strict=True):
            r2 = (x - bx) ** 2 + (y - by) ** 2 + (z - bz) ** 2
            solid += mass * np.exp(-r2 / (2 * SIGMA_PX**2)) / (2 * np.pi * SIGMA_PX**2) ** 1.5
        solid_product = (volume.data * solid / envelope).sum() * np.sqrt(32)  # RELION's volumes hold the sum / sqrt(box)
        assert solid_product == pytest.approx(flat, abs=0.01 * scale)


def low_shells(images, share):
    """Coefficients of images (m, n, n) from shell 2 to ``share`` of the Nyquist limit."""
    n = images.shape[-1]
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n))
    return np.fft.rfft2(images)[:, (k > 1.5 / n) & (k <= 0.5 * share)]


@pytest.mark.parametrize("binning", [2, 4])
def test_both_ways_of_cutting_agree_below_three_quarters_of_nyquist(binning):
    """What the edge of a box spreads over the Nyquist limit differs, and stays in the last quarter of the shells."""
    series = make_series([0.0, 25.0], 85.0, (512, 512), 4.0, defocus=25000.0)
    views = np.random.default_rng(8).standard_normal((2, 512, 512)).astype(np.float32)
    positions = np.array([[0.0, 0, 0], [40, -60, 30], [-300, 100, 0]])
    raw, once = (
        extract_stacks(views, series, positions, ExtractionSettings(binning, 64, 32, cut_from_raw=c)).images
        for c in (True, False)
    )
    assert relative_difference(low_shells(once, 0.7), low_shells(raw, 0.7)) < 0.03
    assert relative_difference(once, raw) < 0.15
