"""Gold-standard refinement: improves poses and map, stays honest on noise, repeats to the bit."""

import dataclasses

import numpy as np
import pytest
from blob_phantom import chiral_blobs, simulate_series

from cryoet_core.fourier import lowpass
from cryoet_core.fsc import fourier_shell_correlation
from cryoet_core.geometry import angular_distance_deg, point_group, random_rotations, rotation_vector_to_matrix
from cryoet_core.subtomo.evaluate import (
    align_map_to,
    match_particles,
    mirror,
    pose_errors,
    resample,
    resample_map,
    symmetry_axes,
)
from cryoet_core.subtomo.noise import initial_spectra
from cryoet_core.subtomo.refine import RefineSettings, _groups, grey_scale, half_sets, refine
from cryoet_core.subtomo.refine_run import CLEAR_NATS, diameter_warning, lowpass_warning

BOX, PIXEL, N = 20, 25.0, 32
SETTINGS = RefineSettings(
    PIXEL, BOX, initial_lowpass_angst=100.0, mask_diameter_angst=320.0, offset_range_px=3.0, max_iterations=5
)


@pytest.fixture(scope="module")
def truth():
    return chiral_blobs().density(BOX, PIXEL)


@pytest.fixture(scope="module")
def data():
    parts = [
        simulate_series(
            chiral_blobs(), N // 2, box=BOX, pixel_angst=PIXEL, tilts_deg=range(-60, 61, 8), noise_sigma=0.003,
            offset_sigma_px=0.8, seed=seed, first_row=seed * N // 2, axis_deg=80.0 + 5 * seed,
        )
        for seed in (0, 1)
    ]
    rotations = np.concatenate([p.rotations for p in parts])
    return [p.images for p in parts], rotations, np.concatenate([p.offsets_px for p in parts])


def test_global_refinement_from_a_blurred_map_of_any_grey_scale(data, truth):
    images, rotations, offsets = data
    result = refine(images, half_sets(range(N), 0), truth * 1234.0, SETTINGS)
    errors = pose_errors(result.rotations, result.offsets_px, rotations, offsets)
    assert errors.median_angle_deg < 3 and np.sum(errors.angle_deg > 10) <= 2
    assert errors.median_position_angst < 0.2  # px here
    first = lowpass(truth, 100.0, PIXEL)
    assert np.all(fourier_shell_correlation(result.map, truth)[1:9] > 0.9)
    assert np.corrcoef(result.map.ravel(), truth.ravel())[0, 1] > np.corrcoef(first.ravel(), truth.ravel())[0, 1]
    assert result.iterations[-1].resolution_angst <= result.iterations[0].resolution_angst
    slope = np.sum(result.map * truth) / np.sum(truth**2)
    assert 0.8 < slope < 1.1
    assert not result.diffuse.any()


def test_given_poses_are_improved_locally_and_repeat_to_the_bit(data, truth):
    images, rotations, offsets = data
    rng = np.random.default_rng(3)
    turned = rotation_vector_to_matrix(rng.standard_normal((N, 3)) * 6) @ rotations
    settings = dataclasses.replace(SETTINGS, start="given_poses", max_iterations=3)
    first, second = (refine(images, half_sets(range(N), 0), truth, settings, turned) for _ in range(2))
    before = np.median(angular_distance_deg(turned, rotations))
    assert pose_errors(first.rotations, first.offsets_px, rotations, offsets).median_angle_deg < 0.4 * before
    assert np.array_equal(first.map, second.map) and np.array_equal(first.rotations, second.rotations)
    assert all(i.search.startswith("local") for i in first.iterations)


def test_halves_of_pure_noise_do_not_correlate_beyond_the_first_reference(data, truth):
    images, _, _ = data
    rng = np.random.default_rng(4)
    noise = []
    for part in images:
        shape = part.masked.shape
        values = part.ctf * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * 0.05
        values = values.astype(np.complex64)
        noise.append(dataclasses.replace(part, masked=values, unmasked=values))
    settings = dataclasses.replace(SETTINGS, initial_lowpass_angst=200.0, max_iterations=2, join_halves_angst=1e4)
    result = refine(noise, half_sets(range(N), 0), truth, settings)
    assert np.max(result.fsc[5:]) < 0.3 and np.mean(result.fsc[5:]) < 0.143
    assert result.iterations[0].resolution_angst > 90


def test_grey_scale_is_found_by_regression(truth):
    part = simulate_series(
        chiral_blobs(), 30, box=BOX, pixel_angst=PIXEL, tilts_deg=range(-60, 61, 15), noise_sigma=0.003
    )
    sigma2 = [initial_spectra(part.images)]
    groups = _groups([part.images], half_sets(range(30), 0), part.rotations)
    for known, tolerance in ((True, 0.05), (False, 0.15)):
        factor = grey_scale(groups, sigma2, truth / 50.0, SETTINGS, known)
        assert abs(factor / 50.0 - 1) < tolerance
    assert grey_scale(groups, sigma2, -truth, SETTINGS, True) == 1.0


def test_half_sets_depend_on_names_and_seed_only():
    names = [f"TS_01/{i}" for i in range(101)]
    halves = half_sets(names, 7)
    assert abs(np.sum(halves == 1) - np.sum(halves == 2)) <= 1
    order = np.random.default_rng(0).permutation(101)
    assert np.array_equal(half_sets([names[i] for i in order], 7), halves[order])
    assert not np.array_equal(half_sets(names, 8), halves)


def test_the_slip_of_a_digit_in_the_mask_is_noticed():
    assert "digit" in diameter_warning(35.0, 489.0)
    assert "larger" in diameter_warning(600.0, 489.0)
    assert diameter_warning(350.0, 489.0) is None
    assert lowpass_warning(40.0, 21.0) and lowpass_warning(60.0, 21.0) is None


def test_pose_errors_forget_the_frame_and_outliers():
    rng = np.random.default_rng(5)
    true, positions = random_rotations(60, rng), rng.uniform(-500, 500, (60, 3))
    frame, shift = random_rotations(1, rng)[0], np.array([12.0, -5.0, 7.0])
    estimated = rotation_vector_to_matrix(rng.standard_normal((60, 3))) @ true @ frame
    moved = positions + true @ shift
    estimated[:15] = random_rotations(15, rng)
    errors = pose_errors(estimated, moved, true, positions)
    assert errors.median_angle_deg < 2.5 and np.median(errors.angle_deg[:15]) > 60
    assert angular_distance_deg(errors.rotation, frame) < 1.0
    assert np.allclose(errors.shift_angst, shift, atol=1.0)


def test_match_particles_is_one_to_one():
    truth_positions = np.array([[0.0, 0, 0], [100, 0, 0], [200, 0, 0]])
    found = np.array([[5.0, 0, 0], [-20, 0, 0], [195, 0, 0], [500, 0, 0]])
    index, true = match_particles(found, truth_positions, 50)
    assert index.tolist() == [0, 2] and true.tolist() == [0, 2]


def test_alignment_finds_the_frame_and_tells_the_hand(truth):
    blobs = chiral_blobs()
    turn, shift = random_rotations(1, np.random.default_rng(6))[0], np.array([25.0, -40.0, 10.0])
    moved = type(blobs)(blobs.centres @ turn.T + shift, blobs.mass, blobs.width_angst).density(BOX, PIXEL)
    found = align_map_to(moved, truth)
    assert angular_distance_deg(found.rotation, turn) < 0.5
    assert np.allclose(found.shift_px * PIXEL, shift, atol=1.0)
    assert found.correlation > 0.95
    assert align_map_to(moved, mirror(truth)).correlation < found.correlation - 0.1


def test_a_map_is_resampled_to_any_box_and_pixel_size():
    blobs = chiral_blobs()
    out = resample_map(blobs.density(50, 10.0), 10.0, 36, 14.5)
    truth = blobs.density(36, 14.5) * (10.0 / 14.5) ** 0
    assert np.corrcoef(out.ravel(), truth.ravel())[0, 1] > 0.999
    assert np.all(fourier_shell_correlation(out, truth)[:14] > 0.99)


@pytest.mark.parametrize("name", ["C3", "D2"])
def test_symmetry_axes_are_found(name):
    blobs, operators = chiral_blobs(n=8), point_group(name)
    centres = np.concatenate([blobs.centres @ o.T for o in operators]) * [1, 1, 0.8]
    turn = random_rotations(1, np.random.default_rng(8))[0]
    volume = type(blobs)(centres @ turn.T, np.tile(blobs.mass, len(operators)), 14.0).density(BOX, PIXEL)
    turned = resample(volume, symmetry_axes(volume, operators), np.zeros(3))
    mean = sum(resample(turned, o, np.zeros(3)) for o in operators) / len(operators)
    assert np.corrcoef(mean.ravel(), turned.ravel())[0, 1] > 0.97
    wrong = sum(resample(volume, o, np.zeros(3)) for o in operators) / len(operators)
    assert np.corrcoef(wrong.ravel(), volume.ravel())[0, 1] < 0.9


def test_noise_turned_like_a_template_is_no_evidence_against_a_ball(data, truth):
    """Its own half's map gives such a particle evidence (its own noise is in it), the other half's does not."""
    images, _, _ = data
    rng = np.random.default_rng(3)
    noise = []
    for part in images:
        empty = rng.standard_normal((*part.masked.shape, 2)).astype(np.float32) @ np.array([1, 1j], np.complex64)
        empty = (0.1 * part.ctf * empty).astype(np.complex64)
        noise.append(dataclasses.replace(part, masked=empty, unmasked=empty))
    settings = dataclasses.replace(SETTINGS, max_iterations=2)
    found, lost = (refine(part, half_sets(range(N), 0), truth, settings) for part in (images, noise))
    assert np.median(found.over_ball) > 30 and (found.over_ball > CLEAR_NATS).mean() > 0.9
    assert not (lost.over_ball > CLEAR_NATS).any()  # what is left, 4 nats, is the template's own hold on both halves
