"""Reconstruction against known points and known densities."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryoet_core.errors import DataQualityError
from cryoet_core.geometry import TiltGeometry
from cryoet_core.simulate import blobs
from cryoet_core.tomogram.blocks import assembled, with_sum
from cryoet_core.tomogram.frame import make_frame, to_frame
from cryoet_core.tomogram.reconstruct import back_project_views, extended_view, filter_views, reconstruct_tomogram
from cryoet_core.tomogram.size import moved_specimen, size_in_movie_pixels, tomogram_size
from cryoet_core.tomogram.view_filters import (
    FilterOptions,
    adjacent_weights_rad,
    effective_iterations,
    imod_sirt_factor,
    sirt_weights,
    view_filter,
)

PIXEL = 10.0


def blob_views(geometry, points_angst, shape, sigma=1.5):
    """Dark Gaussian blobs where TiltGeometry puts the points."""
    h, w = shape
    y, x = np.mgrid[:h, :w]
    uv, _ = geometry.project(points_angst)
    images = np.zeros((len(geometry), h, w), dtype=np.float32)
    for image, spots in zip(images, uv / PIXEL, strict=True):
        for u, v in spots:
            image -= np.exp(-((x - w // 2 - u) ** 2 + (y - h // 2 - v) ** 2) / (2 * sigma**2))
    return images


def peak_position(volume, near_px):
    """Centred (x, y, z) of the darkest point near ``near_px``, parabola along each axis."""
    centre = np.array(volume.shape) // 2
    start = np.round(near_px[::-1]).astype(int) + centre
    window = tuple(slice(c - 3, c + 4) for c in start)
    local = -volume[window]
    peak = np.array(np.unravel_index(local.argmax(), local.shape))
    position = peak.astype(float)
    for axis in range(3):
        line = [local[tuple(peak + step * np.eye(3, dtype=int)[axis])] for step in (-1, 0, 1)]
        position[axis] += 0.5 * (line[0] - line[2]) / (line[0] - 2 * line[1] + line[2])
    return (position + start - 3 - centre)[::-1]


@pytest.mark.parametrize(("axis", "x_tilt", "shift"), [(0, 0, 0), (85, 0, 30), (-95, 3, -20), (170, -4, 12), (45, 0, 5)])
@pytest.mark.parametrize("method", ["wbp", "sirt_like"])
def test_points_are_reconstructed_in_their_place(axis, x_tilt, shift, method):
    geometry = TiltGeometry.nominal(np.arange(-60, 61, 4.0), axis)
    geometry = geometry.replace(x_tilt_deg=x_tilt, x_shift_angst=shift, y_shift_angst=-shift / 2)
    points = np.array([[0.0, 0, 0], [101, -53, 37], [-120, 60, -66]])
    images = blob_views(geometry, points, (64, 72))
    size = tomogram_size((72, 64), geometry.z_rot_deg, 32)
    volume = reconstruct_tomogram(images, geometry, PIXEL, size, FilterOptions(method=method))
    assert volume.shape == size[::-1]
    assert volume.dtype == np.float32
    for point in points / PIXEL:
        np.testing.assert_allclose(peak_position(volume, point), point, atol=0.1)


@pytest.mark.parametrize("weights", ["adjacent", "exact"])
@pytest.mark.parametrize("super_sampling", [1, 2])
def test_projections_of_the_reconstruction_are_the_views_again(weights, super_sampling):
    tilts = np.arange(-89.0, 90)
    geometry = TiltGeometry.nominal(tilts, 0.0)
    crowd = blobs.balanced_crowd(np.random.default_rng(1), 100, [80, 30, 24])
    images = blobs.views(*crowd, geometry, PIXEL, (48, 160))
    options = FilterOptions(method="wbp", angular_weights=weights, radial_cutoff=0.5)
    volume = reconstruct_tomogram(images, geometry, PIXEL, (160, 48, 64), options, super_sampling=super_sampling)
    for i in (89, 64):
        again, view = blobs.sums_along_rays(volume, tilts[i])[:, 45:-45], images[i][8:-8:3, 45:-45]
        assert abs(float((again * view).sum() / (view * view).sum()) - 1) < 0.02
        assert np.corrcoef(again.ravel(), view.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("axis", "x_tilt"), [(85.0, 0.0), (0.0, 3.0)])
@pytest.mark.parametrize("super_sampling", [1, 2])
def test_densities_are_those_of_the_truth(axis, x_tilt, super_sampling):
    geometry = TiltGeometry.nominal(np.arange(-89.0, 90, 2.0), axis).replace(x_tilt_deg=x_tilt, x_shift_angst=17.0)
    crowd = blobs.balanced_crowd(np.random.default_rng(2), 60, [50, 40, 20])
    images = blobs.views(*crowd, geometry, PIXEL, (120, 120))
    options = FilterOptions(method="wbp", radial_cutoff=0.5)
    volume = reconstruct_tomogram(images, geometry, PIXEL, (72, 60, 36), options, super_sampling=super_sampling)
    truth = blobs.volume(*crowd, (72, 60, 36))
    assert np.linalg.norm(volume - truth) / np.linalg.norm(truth) < 0.08
    assert abs(float((volume * truth).sum() / (truth * truth).sum()) - 1) < 0.03


def test_radial_cutoff_and_falloff_of_the_tomogram():
    """What a narrow blob keeps at every frequency, where all directions are measured: 1 to the cutoff, then ramp frozen and Gaussian."""
    geometry = TiltGeometry.nominal(np.arange(-89.5, 90, 1.0), 0.0)
    blob = (np.zeros((1, 3)), [1.0], [0.8])
    images = blobs.views(*blob, geometry, PIXEL, (96, 96))
    volume = reconstruct_tomogram(images, geometry, PIXEL, (64, 64, 64), FilterOptions("wbp", angular_weights="adjacent", radial_cutoff=0.3, radial_falloff=0.05))
    ratio = (np.fft.rfftn(volume) / np.fft.rfftn(blobs.volume(*blob, (64, 64, 64)))).real
    f = np.fft.fftfreq(64)
    for k, expected in ((0.2, 1.0), (0.28, 1.0), (0.36, 0.3 / 0.36 * np.exp(-0.5 * (0.06 / 0.05) ** 2)), (0.45, 0.3 / 0.45 * np.exp(-0.5 * 3**2))):
        j = int(np.argmin(np.abs(f - k)))
        for where in ((0, 0, j), (j, 0, 0)):
            assert ratio[where] == pytest.approx(expected, abs=0.05), (k, where)


@pytest.mark.parametrize("x_tilt", [0.0, 3.0])
@pytest.mark.parametrize("super_sampling", [1, 2])
def test_blocks_do_not_change_the_result(x_tilt, super_sampling):
    rng = np.random.default_rng(2)
    geometry = TiltGeometry.nominal(np.arange(-50, 51, 10.0), 88.0).replace(x_tilt_deg=x_tilt)
    images = gaussian_filter(rng.standard_normal((len(geometry), 40, 140)), (0, 2, 2)).astype(np.float32)
    size = (40, 140, 36)
    options = FilterOptions()
    views = filter_views(images, geometry, PIXEL, size, options, super_sampling)
    whole, blocks = (list(back_project_views(views, size, memory_mb)) for memory_mb in (512, 0.1))
    assert len(whole) == 1
    blocks = [(b.z0, b.y0) for b in blocks]
    assert blocks == [(z, y) for y in (0, 64, 128) for z in (0, 16, 32)]
    whole, parts = (reconstruct_tomogram(images, geometry, PIXEL, size, super_sampling=super_sampling, memory_mb=mb) for mb in (512, 0.1))
    np.testing.assert_allclose(parts, whole, atol=(1e-5 if x_tilt else 1e-6) * np.abs(whole).max())


def test_super_sampling_comes_closer_to_views_without_pixels():
    """Sums over views whose rows are band-limited functions, not pixels: trigonometric polynomials, evaluated by a formula at every voxel."""
    rng, tilts, (nx, ny, nz) = np.random.default_rng(6), np.arange(-60, 61, 6.0), (48, 2, 24)
    geometry = TiltGeometry.nominal(tilts, 0.0)
    images = rng.standard_normal((len(tilts), ny, 144)).astype(np.float32)
    images -= images.mean(axis=(1, 2), keepdims=True)
    views = filter_views(images, geometry, PIXEL, (nx, ny, nz), FilterOptions("wbp"))
    z, x = np.mgrid[:nz, :nx] - np.array([nz // 2, nx // 2])[:, None, None]
    samples = views.images.shape[3]
    k = np.fft.rfftfreq(samples)[: samples // 2]
    exact = np.zeros((nz, nx))
    transfer = np.sinc(k) ** 2  # filters make up for it when rows are not sampled finer: taken back here
    for tilt, image in zip(np.deg2rad(tilts), views.images[0], strict=True):
        u = x * np.cos(tilt) + z * np.sin(tilt) + samples // 2
        spectrum = np.fft.rfft(image[0])[: samples // 2] * transfer * np.where(k > 0, 2, 1) / samples
        exact += (np.exp(2j * np.pi * u[..., None] * k) @ spectrum).real
    errors = []
    for super_sampling in (1, 2, 3):
        found = reconstruct_tomogram(images, geometry, PIXEL, (nx, ny, nz), FilterOptions("wbp"), super_sampling=super_sampling)[:, 0]
        errors.append(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    assert errors[0] > 0.1  # the figures below say something
    assert errors[1] < 0.02 and errors[2] < 0.011


def test_full_tomogram_is_the_sum_of_its_halves_in_one_pass():
    rng = np.random.default_rng(3)
    geometry = TiltGeometry.nominal(np.arange(-50, 51, 10.0), 5.0)
    halves = rng.standard_normal((2, len(geometry), 48, 40)).astype(np.float32)
    size = (40, 48, 20)
    views = filter_views(iter(halves.transpose(1, 0, 2, 3)), geometry, PIXEL, size, FilterOptions())
    full, even, odd = assembled(with_sum(back_project_views(views, size)), size)
    for volume, images in ((full, halves.sum(axis=0)), (even, halves[0]), (odd, halves[1])):
        alone = assembled(back_project_views(filter_views(images, geometry, PIXEL, size, FilterOptions()), size), size)[0]
        np.testing.assert_allclose(volume, alone, atol=2e-6 * np.abs(alone).max())


@pytest.mark.parametrize("shift_px", [(0.0, 0.0), (2.0, -3.0), (1.3, -2.6)])
def test_views_that_need_no_turn_agree_with_turned_ones(shift_px):
    """A view of blobs, moved by a phase ramp, against the same view turned by next to nothing with splines and against the blobs themselves."""
    points = np.array([[-40.0, 60.0, 0.0], [90.0, -30.0, 0.0]])
    geometry = TiltGeometry.nominal([0.0, 1.0], 0.0).replace(x_shift_angst=np.full(2, PIXEL * shift_px[0]), y_shift_angst=np.full(2, PIXEL * shift_px[1]))
    images = blob_views(geometry, points, (48, 64))
    placed = []
    for turn in (0.0, 1e-7):
        frame = make_frame(geometry.replace(z_rot_deg=np.full(2, turn)), (48, 64), PIXEL, (64, 48, 16), 16)
        placed.append(to_frame(extended_view(images[0], 16), frame, 0))
    truth = blob_views(TiltGeometry.nominal([0.0], 0.0), points, placed[0].shape)[0]
    assert np.abs(placed[0] - placed[1]).max() < 0.01 and np.abs(placed[0] - truth).max() < 0.005


def test_ramp_runs_across_the_tilt_axis():
    geometry = TiltGeometry.nominal(np.arange(-60, 61, 3.0), 90.0)
    options = FilterOptions(method="wbp", angular_weights="adjacent")
    window = view_filter((64, 64), geometry, 20, 40.0, options)
    # tilt axis along image x: frequencies along x carry no ramp, along y they do
    assert window[0, 12] < 0.05 * window[12, 0]
    assert window[12, 0] == pytest.approx(np.deg2rad(3) * 12 / 64, rel=1e-5)
    assert window[32, 0] < 1e-3 * window[12, 0]  # low-pass


def test_angular_weights():
    weights = np.rad2deg(adjacent_weights_rad([0, 3, 6, 12, 12]))
    np.testing.assert_allclose(weights, [3, 3, 4.5, 3, 3], atol=1e-4)
    with pytest.raises(DataQualityError, match="E-REC-01"):
        adjacent_weights_rad([5.0, 5.0])


def test_sirt_like_weights_have_the_limits_of_sirt():
    tilts = tuple(np.deg2rad(np.linspace(-60, 60, 41)))
    cosines = np.cos(tilts)
    once = sirt_weights(tilts, 50.0, 1)  # one iteration is a back-projection itself, with path lengths as weights
    np.testing.assert_allclose(once.weights, np.repeat((cosines / (41 * 50))[:, None], len(once.kx), 1), rtol=1e-6)
    tens = sirt_weights(tilts, 50.0, 10)
    alone = tens.kx > 0.6  # where no two views meet every view converges by itself
    np.testing.assert_allclose(tens.weights[:, alone], np.repeat((cosines / 50 * (1 - (1 - 1 / 41) ** 10))[:, None], alone.sum(), 1), rtol=0.15)
    assert [effective_iterations(n) for n in (10, 20, 40)] == [10.0, 19.0, 33.0]
    low, high = imod_sirt_factor(np.array([1e-4, 0.4]), 10)
    assert low == pytest.approx(1.0) and high == pytest.approx(1 - (1 - 0.00195 / 0.4) ** 10.3, rel=1e-4)


def test_views_of_a_slab_come_back_at_the_ends_of_the_tilt_range_too():
    """Slope of re-projections against the views; rays are taken that cross the specimen from end to end."""
    tilts, thickness, half = np.arange(-60, 61, 4.0), 32, 100
    geometry = TiltGeometry.nominal(tilts, 0.0)
    images = blobs.views(*blobs.balanced_crowd(np.random.default_rng(4), 250, [2 * half, 26, 24]), geometry, PIXEL, (40, 2 * half))
    slopes = {}
    for weights in ("adjacent", "exact"):
        options = FilterOptions("wbp", angular_weights=weights, radial_cutoff=0.5)
        volume = reconstruct_tomogram(images, geometry, PIXEL, (2 * half, 40, thickness), options, super_sampling=1)
        slopes[weights] = []
        for i in (0, 5, 10, 15, 30):
            t = np.deg2rad(abs(tilts[i]))
            inner = slice(half - (width := int((half - 10) * np.cos(t) - thickness / 2 * np.sin(t))), half + width)
            again, view = blobs.sums_along_rays(volume, tilts[i])[:, inner], images[i][8:-8:3, inner]
            slopes[weights].append(float((again * view).sum() / (view * view).sum()))
    assert np.abs(np.array(slopes["exact"]) - 1).max() < 0.03, slopes
    assert min(slopes["adjacent"]) < 0.8  # the figure above says something


def test_tomogram_size_follows_the_axis_and_is_even():
    assert tomogram_size((160, 150), [85.0, 84.5], 43) == (150, 160, 44)
    assert tomogram_size((160, 150), [-5.0], 43, width_px=101) == (102, 150, 44)
    assert size_in_movie_pixels((150, 160, 44), 21.0, 3.5) == (900, 960, 264)


def test_moved_specimen_moves_the_content():
    geometry = TiltGeometry.nominal(np.arange(-60, 61, 10.0), 80.0).replace(x_shift_angst=7.0)
    point = np.array([[30.0, -20.0, 55.0]])
    moved, depth = moved_specimen(geometry, (12.0, 0.0, -40.0))
    before, depth_before = geometry.project(point)
    after, depth_after = moved.project(point + [12.0, 0.0, -40.0])
    np.testing.assert_allclose(after, before, atol=1e-9)
    np.testing.assert_allclose(depth_after[:, 0] + depth, depth_before[:, 0], atol=1e-9)
    tilted, _ = moved_specimen(geometry, (0, 0, 0), 2.5)
    np.testing.assert_allclose(tilted.y_tilt_deg - geometry.y_tilt_deg, 2.5)
