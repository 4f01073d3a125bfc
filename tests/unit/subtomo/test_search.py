"""Pose searches on analytic data with known poses."""

import dataclasses

import numpy as np
import pytest
from blob_phantom import chiral_blobs, simulate_series

from cryoet_core.geometry import (
    angular_distance_deg,
    point_group,
    random_rotations,
    rotation_vector_to_matrix,
    so3_grid,
)
from cryoet_core.subtomo.likelihood import whiten
from cryoet_core.subtomo.mstep import Reference
from cryoet_core.subtomo.poses import PosePrior, Poses, refine_poses, weigh_modes
from cryoet_core.subtomo.search import (
    SearchPlan,
    asymmetric_unit,
    calibrated,
    expectation,
    expectation_of_all,
    translation_grid,
)

BOX, PIXEL, N = 20, 25.0, 16
TILTS = tuple(range(-60, 61, 8))


@pytest.fixture(scope="module")
def reference():
    return Reference.of_map(chiral_blobs().density(BOX, PIXEL))


@pytest.fixture(scope="module")
def data():
    return simulate_series(
        chiral_blobs(), N, box=BOX, pixel_angst=PIXEL, tilts_deg=TILTS, noise_sigma=0.004, offset_sigma_px=1.0
    )


def plan(**values):
    return SearchPlan(max_shell=9, box_angst=BOX * PIXEL, diameter_angst=300.0, **values)


def start(n=N, rotations=None, shifts=None):
    turned = np.tile(np.eye(3), (n, 1, 1)) if rotations is None else rotations
    return Poses(np.arange(n), turned, np.zeros((n, 3)) if shifts is None else shifts, np.zeros(n))


def test_planted_poses_are_found_from_nothing(data, reference):
    posterior = expectation(data.images, data.sigma2, reference, start(), plan())
    angle = angular_distance_deg(posterior.best.rotations, data.rotations)
    shift = np.linalg.norm(posterior.best.shifts_px - data.offsets_px, axis=1)
    assert np.median(angle) < 3.0 and np.sum(angle > 10) <= 1
    assert np.median(shift) < 0.2
    # Laplace's expected errors are the real ones
    assert 0.6 < np.median(angle) / np.median(posterior.angle_error_deg) < 1.6
    assert 0.6 < np.median(shift) / np.median(posterior.shift_error_px) < 1.6
    assert np.all(posterior.log_likelihood > 50)
    sums = np.bincount(posterior.poses.particle, weights=posterior.weight)
    assert np.allclose(sums, 1)


def test_an_offset_of_three_pixels_is_found_in_one_iteration(reference):
    offset = np.array([[3.0, 0, 0], [0, -3.0, 0], [0, 0, 3.0], [0, 0, -3.0]])
    rotations = random_rotations(4, np.random.default_rng(3))
    moved = simulate_series(
        chiral_blobs(), 4, box=BOX, pixel_angst=PIXEL, tilts_deg=TILTS, noise_sigma=0.003, rotations=rotations
    )
    from cryoet_core.subtomo.likelihood import SeriesImages, shift_phases

    ramp = shift_phases(moved.images.frequencies, moved.images.view_rotations, -offset)  # moves content by +offset
    images = SeriesImages(
        moved.images.rows, moved.images.view_rotations, moved.images.masked * ramp, moved.images.unmasked * ramp,
        moved.images.ctf, moved.images.frequencies,
    )
    for search in (plan(), plan(range_deg=15.0, step_deg=7.5)):
        begin = start(4, rotation_vector_to_matrix([[5.0, -4.0, 3.0]]) @ rotations)
        posterior = expectation(images, moved.sigma2, reference, begin, search)
        assert np.all(np.linalg.norm(posterior.best.shifts_px - offset, axis=1) < 0.5)
        assert np.all(angular_distance_deg(posterior.best.rotations, rotations) < 8)


def test_local_search_returns_to_the_truth(data, reference):
    rng = np.random.default_rng(5)
    turned = rotation_vector_to_matrix(rng.standard_normal((N, 3)) * 5) @ data.rotations
    begin = start(rotations=turned, shifts=data.offsets_px + rng.standard_normal((N, 3)) * 0.5)
    for range_deg in (15.0, 0.0):  # grid first, and continuous refinement alone
        found = expectation(data.images, data.sigma2, reference, begin, plan(range_deg=range_deg, step_deg=7.5)).best
        assert np.median(angular_distance_deg(found.rotations, data.rotations)) < 3.0
        assert np.median(np.linalg.norm(found.shifts_px - data.offsets_px, axis=1)) < 0.2


def test_refinement_never_goes_down_and_ends_at_a_maximum(data, reference):
    rng = np.random.default_rng(6)
    white, prior = whiten(data.images, data.sigma2, 9), PosePrior(np.zeros((N, 3)), 3.0)
    turned = rotation_vector_to_matrix(rng.standard_normal((N, 3)) * 3) @ data.rotations
    begin = start(rotations=turned, shifts=data.offsets_px + rng.standard_normal((N, 3)) * 0.3)
    scores = [refine_poses(white, reference, begin, prior, steps)[0].score for steps in (0, 1, 3, 6)]
    assert np.all(np.diff(scores, axis=0) >= -1e-6)
    assert np.median(scores[3] - scores[0]) > 5
    assert np.median(scores[3] - scores[2]) < 1


def test_images_of_nothing_are_diffuse_and_do_not_crash(data, reference):
    images = data.images.take(np.arange(3))
    images.masked[:] = 0
    images.ctf[2] = 0  # a particle without a single view
    posterior = expectation(images, data.sigma2, reference, start(3), plan())
    assert np.all(np.isfinite(posterior.weight)) and np.all(np.isfinite(posterior.best.rotations))
    assert posterior.angle_error_deg[2] > 90 and posterior.max_probability[2] < 0.9


def test_evidence_tells_particles_from_noise(data, reference):
    """Noise alone finds its best pose too, but not one that outweighs all the poses it could have had."""
    rng = np.random.default_rng(8)
    shape, sigma = data.images.masked.shape, np.sqrt(data.sigma2[:, 0])[:, None]
    noise = data.images.ctf * sigma * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    empty = dataclasses.replace(data.images, masked=noise.astype(np.complex64)).take(np.arange(8))
    faint = Reference.of_map(0.15 * chiral_blobs().density(BOX, PIXEL))  # as faint as what a refinement of noise makes
    with_particle = expectation(data.images, data.sigma2, reference, start(), plan())
    assert np.all(with_particle.log_evidence > 20)
    assert np.all(expectation(empty, data.sigma2, reference, start(8), plan()).log_evidence < 0)
    without = expectation(empty, data.sigma2, faint, start(8), plan())
    assert np.mean(without.log_likelihood > 0) > 0.8  # the likelihood of the best pose alone does not tell
    assert np.all(without.log_evidence < 3)
    nothing = dataclasses.replace(data.images.take(np.arange(2)), ctf=0 * data.images.ctf[:2], masked=0 * data.images.masked[:2])
    assert np.all(expectation(nothing, data.sigma2, reference, start(2), plan()).log_evidence < 2)


def test_the_same_input_gives_the_same_bits(data, reference):
    first, second = (
        expectation(data.images.take(np.arange(4)), data.sigma2, reference, start(4), plan()) for _ in range(2)
    )
    assert np.array_equal(first.poses.rotations, second.poses.rotations)
    assert np.array_equal(first.weight, second.weight)


def test_tiles_do_not_change_the_result(data, reference):
    small, large = (
        expectation(data.images.take(np.arange(5)), data.sigma2, reference, start(5), plan(memory_mb=m))
        for m in (5.0, 600.0)
    )
    assert np.allclose(small.best.rotations, large.best.rotations, atol=1e-3)


def test_asymmetric_unit_holds_its_share():
    grid = so3_grid(2)
    for name in ("C3", "D2", "O"):
        group = point_group(name)
        unit = asymmetric_unit(grid, group)
        assert abs(len(unit) * len(group) / len(grid) - 1) < 0.35
        # every orientation has a mate in the unit
        far = [angular_distance_deg(unit, a, group).min() for a in grid[::400]]
        assert max(far) < 15


def test_orientation_prior_decides_where_the_images_do_not_and_yields_where_they_do(data, reference):
    expected = rotation_vector_to_matrix(np.tile([[0.0, 0.0, 12.0]], (N, 1))) @ data.rotations
    empty = dataclasses.replace(data.images, masked=np.zeros_like(data.images.masked), ctf=1e-3 * data.images.ctf)
    for search in (plan(orientation_sigma_deg=4.0), plan(orientation_sigma_deg=4.0, range_deg=15.0, step_deg=7.5)):
        begin = start(rotations=expected)
        held = expectation(empty, data.sigma2, reference, begin, search, expected).best
        assert np.all(angular_distance_deg(held.rotations, expected) < 1.0)
    freed = expectation(data.images, data.sigma2, reference, start(rotations=expected), search, expected)
    assert np.median(angular_distance_deg(freed.best.rotations, data.rotations)) < 4.0


def test_orientation_prior_is_the_gaussian_of_the_nearest_mate():
    group = point_group("C4")
    expected = random_rotations(5, np.random.default_rng(1))
    prior = PosePrior(np.zeros((5, 3)), 1.0, expected, 5.0, group)
    turned = rotation_vector_to_matrix(np.tile([[3.0, 4.0, 0.0]], (5, 1))) @ expected @ group[2]
    assert np.allclose(prior.log_rotation(np.arange(5), turned), -0.5)  # 5 degrees of a width of 5
    assert np.allclose(np.diag(prior.log_grid(turned)), -0.5, atol=1e-4)


def test_relaxed_symmetry_leaves_a_mate_for_the_true_pose(data, reference):
    """Started at a symmetry mate of the truth, continuous refinement alone stays there; relaxed, it finds the truth."""
    group = point_group("C3")
    begin = start(rotations=data.rotations @ group[1], shifts=data.offsets_px)
    angles = []
    for relaxed in (None, group):
        best = expectation(data.images, data.sigma2, reference, begin, plan(range_deg=0.0, relaxed=relaxed)).best
        angles.append(angular_distance_deg(best.rotations, data.rotations))
    assert np.median(angles[0]) > 40 and np.median(angles[1]) < 3


def test_covariances_belong_to_their_modes(data, reference):
    posterior = expectation(data.images, data.sigma2, reference, start(), plan())
    turn = np.rad2deg(np.sqrt(np.einsum("mii->m", posterior.covariance[posterior.first, :3, :3])))
    assert np.allclose(turn, posterior.angle_error_deg)
    assert posterior.covariance.shape == (len(posterior.weight), 6, 6)
    expected = np.mean(data.offsets_px**2)
    assert 0.5 * expected < posterior.mean_square_offset_px2() < 2 * expected


def test_expected_errors_of_dim_particles_are_the_real_ones(reference):
    ratios, n = [], 64
    for noise in (0.002, 0.008):
        data = simulate_series(
            chiral_blobs(), n, box=BOX, pixel_angst=PIXEL, tilts_deg=TILTS, noise_sigma=noise, offset_sigma_px=1.0
        )
        jobs = [(data.images, data.sigma2, reference, start(n, data.rotations, data.offsets_px), plan(range_deg=0.0))]
        (before,) = expectation_of_all(jobs)
        (after,) = calibrated(jobs, [before])
        error = angular_distance_deg(before.best.rotations, data.rotations)
        ratios.append([np.sqrt(np.mean(error**2) / np.mean(p.angle_error_deg**2)) for p in (before, after)])
        factor = (after.angle_error_deg / before.angle_error_deg) ** 2
        assert np.allclose(after.covariance, before.covariance * factor[0])
        assert np.array_equal(after.poses.rotations, before.poses.rotations)
    # clear particles: Laplace's approximation holds and is left; dim ones: it is too narrow, and is mended
    assert ratios[0][0] / ratios[0][1] < 1.08
    assert ratios[1][0] > 1.1 and 0.92 < ratios[1][1] < 1.08


def test_duplicates_of_a_mode_are_merged():
    poses = Poses(np.zeros(3, int), rotation_vector_to_matrix([[0, 0, 0], [0.5, 0, 0], [30.0, 0, 0]]), np.zeros((3, 3)),
                  np.array([10.0, 9.0, 10.0]))
    posterior = weigh_modes(poses, np.tile(np.eye(6) * 100, (3, 1, 1)), 1)
    assert np.allclose(posterior.weight, [0.5, 0.5])


def test_translation_grid_is_a_ball():
    grid = translation_grid(5, 2)
    assert len(grid) == 81 and np.all(grid[0] == 0) and np.linalg.norm(grid, axis=1).max() <= 5
    assert len(translation_grid(0, 1)) == 1
