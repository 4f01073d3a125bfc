"""Adjoints, known answers, accumulation, tiling and independence of the number of threads, on every device."""

from __future__ import annotations

import numpy as np
import pytest
import references
from devices import DEVICES, on_device
from test_kernels import complex_, hermitian_ft, random_rotations, real, rng, tilt_rotations

from cryoet_core import kernels, parallel


def planes(to, volume_ft, turns, radius, size, pad=1):
    """Central slices (m, size, size//2 + 1) in the layout of rfft2, zero beyond ``radius``."""
    ky, kx = np.meshgrid(np.fft.fftfreq(size, 1 / size), np.arange(size // 2 + 1), indexing="ij")
    inside = kx**2 + ky**2 <= radius**2
    points = np.stack([kx[inside], ky[inside], 0 * kx[inside]], axis=1)
    out = np.zeros((len(turns), *inside.shape), np.complex64)
    out[:, inside] = to.host(kernels.sample_turned(to.device(volume_ft), pad * np.swapaxes(turns, 1, 2), points))
    return out


devices = pytest.mark.parametrize("device", DEVICES)


def inner(a, b):
    return float(np.sum(a.astype(np.float64) * b))


@devices
def test_forward_projection_is_the_adjoint_of_back_projection(device):
    geometry, shifts = tilt_rotations([-60, -13, 41], 85.0), rng().normal(size=(3, 2)) * 3
    volume, images = real((7, 20, 23)), real((3, 18, 25))
    with on_device(device) as to:
        forward = to.host(kernels.forward_project(to.device(volume), geometry, shifts, (18, 25)))
        back = to.host(kernels.back_project(to.device(images), geometry, shifts, None, volume.shape))
    norm = np.linalg.norm(forward) * np.linalg.norm(images)
    assert abs(inner(forward, images) - inner(volume, back)) < 1e-5 * norm


@devices
def test_aligned_pair_is_adjoint_and_equals_the_general_pair(device):
    tilts, volume, images = np.array([-57.0, 3.0, 44.0]), real((9, 70, 21)), real((3, 70, 24))
    with on_device(device) as to:
        forward = to.host(kernels.forward_project_aligned(to.device(volume), tilts, (70, 24))).transpose(0, 2, 1)
        back = to.host(kernels.back_project_aligned(to.device(images).transpose(0, 2, 1), tilts, volume.shape))
        geometry = [references.tilt_matrix(t) for t in tilts]
        general = to.host(kernels.back_project(to.device(images), geometry, np.zeros((3, 2)), None, volume.shape))
    norm = np.linalg.norm(forward) * np.linalg.norm(images)
    assert abs(inner(forward, images) - inner(volume, back)) < 1e-5 * norm
    np.testing.assert_allclose(back, general, atol=2e-5)


@devices
@pytest.mark.parametrize(("n", "pad"), [(10, 1), (9, 1), (8, 2)])
def test_slice_insertion_is_the_adjoint_of_extraction(device, n, pad):
    volume_ft, turns = hermitian_ft(n * pad), random_rotations(3)
    slices = np.fft.rfft2(real((3, n, n), 11)).astype(np.complex64)
    radius = n // 2 - 1
    with on_device(device) as to:
        found = planes(to, volume_ft, turns, radius, n, pad)
        data, _ = to.host(
            kernels.insert_slices(
                to.device(slices), to.device(np.ones(slices.shape, np.float32)), turns, n, radius_px=radius, pad=pad
            )
        )
    plane = np.full(n // 2 + 1, 2.0)
    plane[0] = 1
    if n % 2 == 0:
        plane[-1] = 1
    space = np.full(n * pad // 2 + 1, 2.0)
    space[0] = 1
    if n * pad % 2 == 0:
        space[-1] = 1
    left = np.sum((found * slices.conj()).real * plane)
    right = np.sum((volume_ft * data.conj()).real * space)
    norm = np.linalg.norm(found) * np.linalg.norm(slices)
    assert abs(left - right) < 1e-5 * norm


@devices
def test_inserted_plane_kx_zero_is_exactly_hermitian(device):
    slices = np.fft.rfft2(real((6, 9, 9), 12)).astype(np.complex64)
    weights = np.ones(slices.shape, np.float32)
    with on_device(device) as to:
        data, weight = to.host(
            kernels.insert_slices(to.device(slices), to.device(weights), random_rotations(6), 9, radius_px=4)
        )
    np.testing.assert_allclose(data[::-1, ::-1, 0], data[:, :, 0].conj(), atol=1e-4)
    np.testing.assert_allclose(weight[::-1, ::-1, 0], weight[:, :, 0], atol=1e-5)


@devices
def test_slice_of_an_unrotated_volume_is_the_transform_of_its_projection(device):
    volume = real((12, 12, 12))
    volume_ft = np.fft.fftshift(np.fft.rfftn(np.fft.ifftshift(volume)), axes=(0, 1)).astype(np.complex64)
    expected = np.fft.rfft2(np.fft.ifftshift(volume.sum(axis=0)))
    with on_device(device) as to:
        found = planes(to, volume_ft, np.eye(3)[None], 5, 12)[0]
    ky, kx = np.meshgrid(np.fft.fftfreq(12, 1 / 12), np.arange(7), indexing="ij")
    inside = kx**2 + ky**2 <= 25
    np.testing.assert_allclose(found[inside], expected[inside], rtol=1e-4, atol=1e-3)


@devices
def test_rotation_moves_a_point_from_p_to_r_p(device):
    volume = np.zeros((11, 11, 11), np.float32)
    volume[5, 5, 8] = 1  # +3 along x
    quarter_about_z = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    with on_device(device) as to:
        found = to.host(kernels.rotate_volume(to.device(volume), quarter_about_z[None]))[0]
    assert np.unravel_index(found.argmax(), found.shape) == (5, 8, 5)  # +3 along y
    np.testing.assert_allclose(found.max(), 1, atol=1e-5)


@devices
def test_back_projection_hits_the_marker(device):
    point, tilts = np.array([6, -4, 3]), np.array([-50.0, -20, 10, 45])
    geometry = tilt_rotations(tilts, 85.0)
    shifts = np.array([[1.5, -2], [0, 3], [-1, 1], [2, 2]])
    images = np.zeros((4, 40, 40), np.float32)
    v, u = np.mgrid[:40, :40]
    for image, r, s in zip(images, geometry, shifts, strict=True):
        a, b = (r @ point)[:2] + s + 20
        image += np.exp(-((u - a) ** 2 + (v - b) ** 2) / 4)
    with on_device(device) as to:
        volume = to.host(kernels.back_project(to.device(images), geometry, shifts, None, (16, 24, 28)))
    z, y, x = np.unravel_index(volume.argmax(), volume.shape)
    assert (x - 14, y - 12, z - 8) == tuple(point)


@devices
def test_phase_shift_moves_content_by_plus_shift(device):
    image = np.zeros((9, 12), np.float32)
    image[4, 5] = 1
    spectrum = np.fft.rfft2(image)[None].astype(np.complex64)
    with on_device(device) as to:
        total = to.host(kernels.phase_shift_accumulate(to.device(spectrum), [[2, -3]], (9, 12)))
    moved = np.fft.irfft2(total, (9, 12))
    assert np.unravel_index(moved.argmax(), moved.shape) == (1, 7)


def spline_coefficients(image):
    response = np.multiply.outer(*(kernels.spline_response(np.fft.fftfreq(n)) for n in image.shape))
    return np.fft.ifft2(np.fft.fft2(image) / response).real.astype(np.float32)


@devices
def test_warp_by_whole_pixels_copies_and_reads_at_plus_displacement(device):
    image = real((12, 15))
    shift = np.zeros((2, 3, 3)) + np.array([2.0, -3.0])[:, None, None]
    with on_device(device) as to:
        moved = to.host(kernels.warp_accumulate(to.device(spline_coefficients(image)), shift))
    np.testing.assert_allclose(moved, np.roll(image, (3, -2), axis=(0, 1)), atol=1e-5)


@devices
def test_warp_of_waves_keeps_them_to_two_thirds_of_nyquist(device):
    """Half a pixel is the worst: 0.97 of the amplitude is left at 2/3 of Nyquist, 0.997 at half; cubic splines leave 0.88 and 0.98."""
    x, shift = np.arange(48), np.zeros((2, 1, 1)) + np.array([0.5, 0])[:, None, None]
    left = []
    for k in (12, 16):
        wave = np.cos(2 * np.pi * k * x / 48)[None].repeat(8, 0)
        with on_device(device) as to:
            moved = to.host(kernels.warp_accumulate(to.device(spline_coefficients(wave)), shift))
        left.append(2 * np.mean(moved * np.cos(2 * np.pi * k * (x + 0.5) / 48)))
    assert left == pytest.approx([0.9973, 0.969], abs=1e-3)


@devices
@pytest.mark.parametrize("norm", [None, 0.5, "map"])
def test_running_maximum(device, norm):
    scores = real((3, 5, 4, 7))
    scores[1, 0, 0, 0] = np.nan
    scores[2, 1] = scores[0, 1]  # ties keep the first
    factor = np.abs(real((5, 4, 7), 6)) if norm == "map" else norm
    best, index = np.full((5, 4, 7), -np.inf, np.float32), np.full((5, 4, 7), -1, np.int32)
    with on_device(device) as to:
        best, index = to.device(best), to.device(index)
        scale = to.device(factor) if norm == "map" else factor
        for number, score in enumerate(scores):
            kernels.max_update(to.device(score), best, index, number, scale)
        best, index = to.host((best, index))
    value = scores * (np.float32(1) if norm is None else np.float32(factor) if norm == 0.5 else factor)
    expected = np.where(np.isnan(value), -np.inf, value)
    np.testing.assert_array_equal(index, expected.argmax(axis=0))
    np.testing.assert_array_equal(best, expected.max(axis=0))


@devices
def test_slabs_and_batches_add_up(device):
    images, geometry = real((4, 20, 22)), tilt_rotations([-60, -20, 20, 60], 40.0)
    shifts, shape = rng().normal(size=(4, 2)), (5, 11, 13)
    with on_device(device) as to:
        whole = to.host(kernels.back_project(to.device(images), geometry, shifts, None, shape))
        total = None
        for part in (slice(0, 1), slice(1, 4)):
            images_part = to.device(images[part])
            total = kernels.back_project(images_part, geometry[part], shifts[part], None, shape, out=total)
        np.testing.assert_allclose(to.host(total), whole, atol=1e-5)
        slab = kernels.back_project(to.device(images), geometry, shifts, None, shape, y_range=(3, 8))
        np.testing.assert_array_equal(to.host(slab), whole[:, 3:8])
        rows = to.device(images).transpose(0, 2, 1)
        full = to.host(kernels.back_project_aligned(rows, [-60, -20, 20, 60], shape))
        slab = to.host(kernels.back_project_aligned(rows, [-60, -20, 20, 60], shape, y_range=(3, 8)))
        np.testing.assert_array_equal(slab, full[:, 3:8])


@devices
def test_insertion_in_batches_equals_one_call(device):
    slices, turns = complex_((5, 8, 5)), random_rotations(5)
    weights = rng().uniform(0, 1, slices.shape).astype(np.float32)
    with on_device(device) as to:
        whole = to.host(kernels.insert_slices(to.device(slices), to.device(weights), turns, 8, radius_px=3))
        total = None
        for part in (slice(0, 2), slice(2, 5)):
            part_slices, part_weights = to.device(slices[part]), to.device(weights[part])
            if total is None:
                total = kernels.new_accumulator(8, xp=np if not to.gpu else __import__("cupy"))
            kernels.insert_slices(part_slices, part_weights, turns[part], 8, radius_px=3, out=total)
        parts = to.host(kernels.split_accumulator(total))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_result_does_not_depend_on_the_number_of_threads():
    images, geometry = real((3, 70, 90)), tilt_rotations([-60, 0, 60], 85.0)
    volume, turns = real((40, 40, 40)), random_rotations(130)

    def results():
        return (
            kernels.back_project(images, geometry, np.zeros((3, 2)), None, (70, 80, 90)),
            kernels.back_project_aligned(images.transpose(0, 2, 1), [-60, 0, 60], (5, 200, 90)),
            kernels.forward_project(volume, geometry, np.zeros((3, 2)), (40, 40)),
            kernels.forward_project_aligned(volume, [-60, 0, 60], (40, 40)),
            kernels.sample_turned(hermitian_ft(12), turns, np.eye(3)),
            kernels.rotate_volume(volume, turns[:2]),
            kernels.sample_spline(images[0], 0.7 * np.eye(2), [3.0, 4.0], (80, 90)),
        )

    with parallel.limited(3):
        many = results()
    with parallel.limited(1):
        one = results()
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.back_project(real((2, 4, 4)), np.eye(3)[None], [[0, 0]], None, (4, 4, 4)), "rotations"),
        (lambda: kernels.back_project(real((1, 4, 4)), np.eye(3)[None], [[0, np.nan]], None, (4, 4, 4)), "finite"),
        (lambda: kernels.back_project(real((1, 4, 4)), np.eye(3)[None], [[0, 0]], None, (4, 0, 4)), "positive"),
        (
            lambda: kernels.back_project(
                real((1, 4, 4)), np.eye(3)[None], [[0, 0]], None, (4, 4, 4), out=np.zeros((4, 4, 4))
            ),
            "float32",
        ),
        (
            lambda: kernels.back_project(real((1, 4, 4)), np.eye(3)[None], [[0, 0]], None, (4, 4, 4), y_range=(2, 9)),
            "y_range",
        ),
        (
            lambda: kernels.back_project_aligned(real((1, 4, 4)), [0], (4, 4, 4), centre_offset_px=(0, 0.5, 0)),
            "whole",
        ),
        (lambda: kernels.sample_turned(complex_((4, 4, 4)), np.eye(3)[None], np.eye(3)), "n//2"),
        (lambda: kernels.insert_turned(complex_((2, 4)), real((2, 3)), np.eye(3)[None], np.eye(3), 4), "one shape"),
        (lambda: kernels.extract_points(hermitian_ft(4), real((5, 2))), "coords"),
        (
            lambda: kernels.insert_slices(complex_((1, 4, 4)), real((1, 4, 4)), np.eye(3)[None], 4, radius_px=1),
            "slices",
        ),
        (lambda: kernels.max_update(real(4), real(5), np.zeros(4, np.int32), 0), "best"),
        (lambda: kernels.phase_shift_accumulate(complex_((1, 4, 4)), [[0, 0]], (4, 4)), "spectra"),
        (lambda: kernels.warp_accumulate(real((4, 4)), np.zeros((3, 2, 2))), "displacement_px"),
    ],
)
def test_wrong_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@devices
def test_windows_that_add_up_to_one_change_nothing(device):
    """Equal copies at evenly spaced depths: their hats sum to one everywhere, so the result is the plain one."""
    image, tilts, shape = real((1, 70, 24)), [37.0], (12, 70, 22)
    centres = np.arange(-25.0, 26, 2.5)
    windows = np.stack([centres, np.full(len(centres), 2.5)], axis=1)
    copies, many = np.repeat(image, len(centres), axis=0), [37.0] * len(centres)
    with on_device(device) as to:
        rows, plain = to.device(copies).transpose(0, 2, 1), to.device(image).transpose(0, 2, 1)
        found = to.host(kernels.back_project_aligned(rows, many, shape, depth_windows=windows))
        expected = to.host(kernels.back_project_aligned(plain, tilts, shape))
        turns, shifts = np.array([references.tilt_matrix(37.0)] * len(centres)), np.zeros((len(centres), 2))
        general = to.host(kernels.back_project(to.device(copies), turns, shifts, None, shape, depth_windows=windows))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(general, expected, atol=2e-5)
