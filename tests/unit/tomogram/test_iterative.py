"""SIRT and SART against blobs whose projections are written down exactly, and against the SIRT-like filter."""

import numpy as np
import pytest
from test_reconstruct import blob_views, peak_position

from cryoet_core.geometry import TiltGeometry
from cryoet_core.simulate import blobs
from cryoet_core.tomogram.iterative import IterativeOptions, padded_size, reconstruct_iteratively, view_subsets
from cryoet_core.tomogram.reconstruct import reconstruct_tomogram
from cryoet_core.tomogram.view_filters import FilterOptions

PIXEL = 10.0
SIRT = IterativeOptions(iterations=10)
SART = IterativeOptions(iterations=2, subset_size=5)


def correlation(a, b):
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize(("axis", "x_tilt"), [(85, 0), (-95, 0), (170, -4), (45, 0)])
@pytest.mark.parametrize("options", [SIRT, SART])
def test_points_are_reconstructed_in_their_place(axis, x_tilt, options):
    geometry = TiltGeometry.nominal(np.arange(-60, 61, 4.0), axis)
    geometry = geometry.replace(x_tilt_deg=x_tilt, x_shift_angst=20.0, y_shift_angst=-12.0)
    points = np.array([[0.0, 0, 0], [101, -53, 37], [-120, 60, -66]])
    images = blob_views(geometry, points, (64, 72))
    volume, residuals = reconstruct_iteratively(images, geometry, PIXEL, (64, 64, 32), options)
    assert volume.shape == (32, 64, 64) and volume.dtype == np.float32
    assert (np.diff(residuals) < 0).all()
    for point in points / PIXEL:
        np.testing.assert_allclose(peak_position(volume, point), point, atol=0.1)


@pytest.fixture(scope="module")
def slab():
    """Noisy views of a slab that reaches far beyond the tomogram in x, as specimens do."""
    rng = np.random.default_rng(3)
    geometry = TiltGeometry.nominal(np.linspace(-60, 60, 41), 3.0)
    images = blobs.views(*blobs.crowd(rng, 500, [400, 60, 86]), geometry, PIXEL, (80, 320))
    return geometry, images + 2 * rng.standard_normal(images.shape, dtype=np.float32), (160, 48, 96)


@pytest.mark.parametrize("iterations", [10, 30])
@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_sirt_like_filter_imitates_true_sirt_of_a_thin_slab(iterations, noise):
    rng = np.random.default_rng(8)
    geometry = TiltGeometry.nominal(np.linspace(-60, 60, 41), 0.0)
    images = blobs.views(*blobs.crowd(rng, 400, [400, 40, 28]), geometry, PIXEL, (48, 280))
    images += noise * rng.standard_normal(images.shape, dtype=np.float32)
    size = (140, 32, 32)
    true, _ = reconstruct_iteratively(images, geometry, PIXEL, size, IterativeOptions(iterations, padding=0))
    like = reconstruct_tomogram(images, geometry, PIXEL, size, FilterOptions("sirt_like", iterations), super_sampling=1)
    assert correlation(true, like) > 0.98


@pytest.mark.parametrize("iterations", [10, 30])
def test_sirt_like_filter_imitates_true_sirt(slab, iterations):
    geometry, images, size = slab
    true, _ = reconstruct_iteratively(images, geometry, PIXEL, size, IterativeOptions(iterations, padding=0))

    def like(number, alpha):
        return correlation(true, reconstruct_tomogram(images, geometry, PIXEL, size, FilterOptions("sirt_like", number, alpha), super_sampling=1))

    assert like(iterations, "auto") > 0.98
    # IMOD's constant is that of a slab of 245 px and its map shortens n > 15: the number that matches grows with 245/thickness
    matching = round(iterations * 245 / size[2] * np.mean(np.cos(np.deg2rad(geometry.y_tilt_deg))))
    assert like(matching, "imod") > 0.98
    ramp = FilterOptions("wbp", angular_weights="adjacent")
    plain = reconstruct_tomogram(images, geometry, PIXEL, size, ramp, super_sampling=1)
    assert correlation(true, plain) < 0.93  # the figure above says something


def test_subsets_reach_sirt_in_a_tenth_of_the_passes(slab):
    geometry, images, size = slab
    slow, _ = reconstruct_iteratively(images, geometry, PIXEL, size, IterativeOptions(10))
    fast, _ = reconstruct_iteratively(images, geometry, PIXEL, size, IterativeOptions(1, subset_size=5))
    assert correlation(slow, fast) > 0.99


def test_slabs_do_not_change_the_result(slab):
    geometry, images, _ = slab
    whole, residuals = reconstruct_iteratively(images, geometry, PIXEL, (48, 40, 24), SART)
    parts, again = reconstruct_iteratively(images, geometry, PIXEL, (48, 40, 24), SART, memory_mb=0.1)
    np.testing.assert_allclose(parts, whole, atol=1e-5 * np.abs(whole).max())
    np.testing.assert_allclose(again, residuals, rtol=1e-5)


def test_matter_outside_the_tomogram_does_not_end_up_inside():
    """A thin tomogram of a thicker and wider specimen, against the truth: padding explains the matter outside."""
    rng = np.random.default_rng(5)
    geometry = TiltGeometry.nominal(np.linspace(-60, 60, 41), 0.0)
    specimen = blobs.crowd(rng, 700, [500, 40, 60])
    images = blobs.views(*specimen, geometry, PIXEL, (56, 320))
    size = (96, 32, 36)
    truth = blobs.volume(*specimen, size)
    error = {}
    for padding in (0.0, 0.5):
        found, _ = reconstruct_iteratively(images, geometry, PIXEL, size, IterativeOptions(40, padding=padding))
        error[padding] = correlation(found, truth)
    assert error[0.5] > error[0.0] + 0.01, error
    sides = np.abs(found[:, :, [0, -1]]).mean() / np.abs(found[:, :, 30:-30]).mean()
    assert 0.7 < sides < 1.4  # no wall of density at the sides


def test_dark_constraint_leaves_nothing_bright(slab):
    geometry, images, _ = slab
    free, _ = reconstruct_iteratively(images, geometry, PIXEL, (48, 40, 24), SIRT)
    dark, _ = reconstruct_iteratively(images, geometry, PIXEL, (48, 40, 24), IterativeOptions(10, sign="dark"))
    assert free.max() > 0 and dark.max() <= 0
    assert correlation(free, dark) > 0.6


def test_subsets_hold_every_view_once_and_spread():
    tilts = np.array([3.0, -60, 60, 0, -3, 30, -30, 45, -45, 15, -15])
    subsets = view_subsets(tilts, 4)
    assert sorted(np.concatenate(subsets)) == list(range(11)) and len(subsets) == 3
    assert all(np.ptp(tilts[s]) >= 60 for s in subsets)
    assert len(view_subsets(tilts, None)) == 1


def test_padded_size_holds_every_ray_through_the_tomogram():
    nx, _, nz = padded_size((100, 50, 40), np.array([-60.0, 0, 50]), 0.1)
    assert nz == 48
    assert nx >= 100 + 2 * 48 * np.tan(np.deg2rad(60)) - 1e-6
