"""Score map against a direct evaluation, both routes, tiles, the missing wedge, and picks in a synthetic tomogram."""

import numpy as np
import pytest
from matching_scene import PIXEL, chiral_particle, make_series, setup
from scipy.ndimage import gaussian_filter

from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.errors import UserInputError
from cryoet_core.geometry import (
    angular_distance_deg,
    point_group,
    random_rotations,
    so3_grid,
    so3_grid_for_step,
)
from cryoet_core.picking.binned import binned_volume
from cryoet_core.picking.eigen import eigen_templates
from cryoet_core.picking.match import coarse_grid, match_template, unique_rotations
from cryoet_core.picking.peaks import local_maxima, robust_statistics
from cryoet_core.picking.plan import MatchPlan
from cryoet_core.picking.prepare import near_gold, searchable_tomogram, smooth_part
from cryoet_core.picking.scores import TileCorrelator, filter_tomogram, score_map
from cryoet_core.picking.specimen import gold_in_voxels
from cryoet_core.picking.template import rotated_rows
from cryoet_core.picking.transfer import match_filters, on_grid, patch_power, signal_transfer
from cryoet_core.tomogram.reconstruct import reconstruct_tomogram


def test_transfer_is_empty_in_the_missing_wedge_and_follows_the_axis():
    for axis in (0.0, 85.0):  # the tomogram's frame does not know the image's rotation
        transfer, coverage = signal_transfer(make_series(np.arange(-60, 61, 3.0), axis), 32, 300.0, dose=False)
        assert transfer[0, 0, 10] == pytest.approx(1.0, abs=1e-3)  # along x
        assert transfer[0, 10, 0] == pytest.approx(1.0, abs=1e-3)  # along the tilt axis
        assert transfer[12, 0, 0] == 0  # along the beam
        assert coverage[5, 0, 12] > 0.9
        assert coverage[14, 0, 2] == 0


def test_transfer_falls_with_dose_and_ctf():
    series = make_series(np.arange(-60, 61, 3.0), defocus=30000.0)
    full, _ = signal_transfer(series, 32, 300.0, ctf="ignore", dose=False)
    dosed, _ = signal_transfer(series, 32, 300.0, ctf="ignore", dose=True)
    ctf, _ = signal_transfer(series.with_columns(ctf_correction="phase_flip"), 32, 300.0, dose=False)
    signed, _ = signal_transfer(series, 32, 300.0, dose=False)
    squared, _ = signal_transfer(series, 32, 300.0, ctf="multiply", dose=False)
    np.testing.assert_allclose(np.abs(signed)[0, 0], ctf[0, 0], atol=0.05)
    assert squared[0, 0, 6] < ctf[0, 0, 6] < 1
    assert dosed[0, 0, 15] < 0.9 * full[0, 0, 15]
    assert ctf[0, 0, 1] < 0.2 < 0.8 < ctf[0, 0, 14]


def test_patch_power_of_white_noise_is_one():
    noise = np.random.default_rng(0).standard_normal((40, 60, 60)).astype(np.float32)
    power = patch_power(noise, 20, keep_fraction=1.0)
    assert power[2:, 2:, 2:].mean() == pytest.approx(1.0, abs=0.05)


def test_filters_are_interpolated_at_the_same_frequencies():
    tomogram = np.random.default_rng(0).standard_normal((32, 64, 64)).astype(np.float32)
    filters = match_filters(tomogram, make_series(np.arange(-60, 61, 3.0)), 32, 200.0, 50.0)
    np.testing.assert_allclose(on_grid(filters.expect, (32, 32, 32)), filters.expect, atol=1e-6)
    np.testing.assert_allclose(on_grid(filters.expect, (64, 64, 64))[::2, ::2, ::2], filters.expect, atol=1e-5)


def test_gold_and_slow_changes_are_removed_particles_stay():
    rng = np.random.default_rng(2)
    tomogram = rng.standard_normal((30, 50, 50)).astype(np.float32) + np.linspace(-20, 20, 50, dtype=np.float32)
    tomogram[10:13, 10:13, 10:13] -= 100.0
    tomogram[20, 30:33, 30:33] -= 8.0
    searchable = searchable_tomogram(tomogram, 8.0)
    bright = searchable[:, :, :]
    near = near_gold(gold_in_voxels(searchable, tomogram.shape, 1), 5.0)
    assert near[11, 11, 16] and not near[20, 31, 31]
    assert np.abs(bright[11, 11, 11]) < 1e-5
    assert bright.max() < 16
    assert bright[20, 31, 31] > 4
    assert abs(bright[:, :, 8:12].mean() - bright[:, :, 38:42].mean()) < 1  # 24 before
    assert searchable_tomogram(tomogram, 8.0, erase_gold=False)[11:12, 11:12, 11:12] > 10


def test_a_particle_of_little_noise_is_no_gold():
    """Its darkest voxel may just pass the limit for gold; a bead passes it by far or with several voxels."""
    noise = np.random.default_rng(3).standard_normal((30, 40, 50)).astype(np.float32)
    for depth, size, gold in ((22, 1, False), (30, 1, True), (22, 2, True)):
        tomogram = noise.copy()
        tomogram[10 : 10 + size, 20 : 20 + size, 25 : 25 + size] = -depth
        assert (searchable_tomogram(tomogram, 8.0).gold is not None) == gold


def test_borders_fade_without_a_step():
    volume = np.full((8, 9, 10), 3.0, dtype=np.float32)
    part = smooth_part(volume, ((0, 8), (0, 9), (0, 10)), 7, 6)
    np.testing.assert_array_equal(part[7:15, 7:16, 7:17], volume)
    line = part[11, 11]
    assert np.abs(np.diff(line)).max() < 1.0
    assert line[0] == 0 and 0 < line[1] < 0.5
    ramp = np.arange(800, dtype=np.float32).reshape(8, 10, 10)
    np.testing.assert_array_equal(smooth_part(ramp, ((3, 5), (3, 5), (3, 5)), 2, 4), ramp[1:7, 1:7, 1:7])


def test_a_tomogram_filtered_in_tiles_is_the_same(scene):
    tomogram, series, *_ = scene
    bright = searchable_tomogram(tomogram, 12.0)[:, :, :]
    filters = match_filters(bright, series, 28, 150.0, 2 * PIXEL)
    whole, tiled = (filter_tomogram(bright, filters, 7.5, tile_px=n) for n in (256, 40))
    for a, b in ((whole.matched, tiled.matched), (whole.norm, tiled.norm)):
        assert np.sqrt(np.mean((a - b) ** 2)) < 0.02 * a.std()


def test_fft_route_equals_the_definition(scene):
    tomogram, series, *_ = scene
    template, filters, filtered = setup(tomogram, series)
    rotations = random_rotations(3, np.random.default_rng(1))
    region = tuple(slice(10, 20) for _ in range(3))
    found = score_map(filtered, template, rotations, filters, region)
    rows = rotated_rows(template, rotations)
    place, h = (13, 17, 11), template.half
    seen = filtered.matched[tuple(slice(p - h, p + h + 1) for p in place)][template.inside]
    # |G T| in the definition: filter the template as a volume and take its norm
    from cryoet_core.fourier import filter_real
    from cryoet_core.picking.template import embed

    norms = np.linalg.norm(filter_real(embed(rows, template, filters.box), filters.expect, 3).reshape(3, -1), axis=1)
    scores = rows @ seen / (norms * filtered.norm[place])
    assert found.score[place] == pytest.approx(scores.max(), rel=1e-3)
    assert found.orientation[place] == scores.argmax()
    assert (found.score[:10] == -1).all()


def test_correlations_of_any_tile_equal_the_sums():
    rng = np.random.default_rng(8)
    volume, small = (rng.standard_normal(n).astype(np.float32) for n in ((9, 14, 20), (5, 5, 5)))
    padded = np.pad(volume, 2)
    expected = np.array([
        [[(padded[z : z + 5, y : y + 5, x : x + 5] * small).sum() for x in range(20)] for y in range(14)] for z in range(9)
    ])
    for tile in (((0, 9), (0, 14), (0, 20)), ((1, 8), (0, 6), (5, 20)), ((4, 5), (3, 10), (7, 11))):
        found = TileCorrelator(volume, tile, 2).correlate(small)
        np.testing.assert_allclose(found, expected[tuple(slice(a, b) for a, b in tile)], atol=1e-4)


def test_tiles_do_not_change_the_scores_and_eigen_templates_hardly_do(scene):
    tomogram, series, *_ = scene
    template, filters, filtered = setup(tomogram, series)
    rotations = so3_grid(0)
    region = (slice(4, 28), slice(4, 60), slice(4, 60))
    whole = score_map(filtered, template, rotations, filters, region)
    tiled = score_map(filtered, template, rotations, filters, region, tile_px=20)
    np.testing.assert_allclose(tiled.score, whole.score, atol=1e-4)
    eigen = eigen_templates(template, rotations, filters, np.random.default_rng(0), 0.99)
    assert eigen.captured > 0.98
    low_rank = score_map(filtered, template, rotations, filters, region, eigen=eigen)
    inside = whole.score > -1
    difference = (low_rank.score - whole.score)[inside]
    assert np.sqrt(np.mean(difference**2)) < 0.3 * whole.score[inside].std()
    assert whole.score.max() <= 1.0


def test_chance_scores_at_the_sides_are_those_of_the_middle():
    """In a tomogram of noise, cut at its sides across the tilt axis, where whitening must not raise what the cut spreads over empty frequencies."""
    size = (112, 48, 32)
    series = make_series(np.arange(-60, 61, 3.0))
    images = np.random.default_rng(11).standard_normal((41, *size[1::-1])).astype(np.float32)
    template, filters, filtered = setup(reconstruct_tomogram(images, series.geometry, PIXEL, size), series)
    region = (slice(10, 22), slice(12, 36), slice(0, 112))
    score = score_map(filtered, template, so3_grid(0), filters, region).score[region]
    sides = np.concatenate([score[:, :, 4:10], score[:, :, -10:-4]])
    assert np.median(sides) < 1.15 * np.median(score[:, :, 28:-28])


def test_hierarchical_search_keeps_the_peaks_and_knows_the_level(scene):
    tomogram, series, *_ = scene
    template, filters, filtered = setup(tomogram, series)
    rotations = so3_grid_for_step(20.0)
    region = (slice(4, 28), slice(4, 60), slice(4, 60))
    eigen = eigen_templates(template, rotations, filters, np.random.default_rng(0), 0.95)
    plan = MatchPlan(280.0, 45.0, 20.0, 140.0, 70.0)
    coarse = coarse_grid(template, eigen, rotations, plan, MatchTemplate())
    assert len(coarse.rotations) < 0.2 * len(rotations)
    assert angular_distance_deg(rotations[coarse.nearest], coarse.rotations).max() < 20
    whole = score_map(filtered, template, rotations, filters, region, eigen=eigen)
    found = score_map(filtered, template, rotations, filters, region, eigen=eigen, coarse=coarse, tile_px=30)
    threaded = score_map(filtered, template, rotations, filters, region, eigen=eigen, coarse=coarse, tile_px=30, threads=2)
    np.testing.assert_array_equal(found.score, threaded.score)
    np.testing.assert_array_equal(found.orientation, threaded.orientation)
    # an orientation of the coarse grid may be the better one, nowhere by much
    assert (found.score <= whole.score + 1.5 * whole.score[region].std()).all()
    for peak in local_maxima(whole.score, 4, -1)[:10]:
        assert found.score[tuple(peak)] >= whole.score[tuple(peak)] - 1e-4
        both = [rotations[int(m.orientation[tuple(peak)])] for m in (found, whole)]
        assert angular_distance_deg(*both) < 40
    inside = whole.score[region]
    median, sigma = robust_statistics(inside)
    assert robust_statistics(found.sample)[0] == pytest.approx(median, abs=0.2 * sigma)
    assert robust_statistics(found.sample)[1] == pytest.approx(sigma, rel=0.15)


def test_particles_are_found_with_position_orientation_and_hand(scene):
    tomogram, series, positions, rotations = scene
    config = MatchTemplate(angular_step_deg=20, edge_margin_angst=40, max_particles=40, low_pass_angst=45)
    result = match_template(tomogram, chiral_particle(), PIXEL, series, config, np.random.default_rng(0))
    truth = (positions - np.array(tomogram.shape) // 2)[:, ::-1] * PIXEL
    found = result.particles.positions_angst
    distance = np.linalg.norm(found[:, None] - truth, axis=2)
    nearest = distance.argmin(axis=0)
    good = distance.min(axis=0) < PIXEL
    assert good.sum() >= len(truth) - 1
    assert len(found) <= len(truth) + 1
    error = angular_distance_deg(result.particles.rotations[nearest[good]], rotations[good])
    assert np.median(error) < 7
    assert np.median(distance.min(axis=0)[good]) < 0.3 * PIXEL
    assert result.summary["hand"]["verdict"] == "right"
    assert result.scores.shape == binned_volume(tomogram, result.map_pixel_angst / PIXEL).shape


def test_mirrored_template_is_noticed(scene):
    tomogram, series, *_ = scene
    mirrored = np.roll(chiral_particle()[:, :, ::-1], 1, axis=2)
    config = MatchTemplate(angular_step_deg=20, edge_margin_angst=40, max_particles=40, low_pass_angst=45, n_sigma=4)
    result = match_template(tomogram, mirrored, PIXEL, series, config, np.random.default_rng(0))
    assert result.summary["hand"]["verdict"] == "mirrored"


def test_wrong_references_are_refused(scene):
    tomogram, series, *_ = scene
    with pytest.raises(UserInputError, match="E-PICK-02"):
        match_template(tomogram, chiral_particle(), 10.0, series, MatchTemplate(), np.random.default_rng(0))
    with pytest.raises(UserInputError, match="E-PICK-03"):
        match_template(tomogram, -chiral_particle(), PIXEL, series, MatchTemplate(), np.random.default_rng(0))


@pytest.mark.parametrize("group, order", [("C4", 4), ("D2", 4), ("O", 24)])
def test_symmetry_leaves_one_of_equivalent_orientations(group, order):
    grid = so3_grid_for_step(30.0)
    unique = unique_rotations(30.0, group)
    assert len(unique) < 1.4 / order * len(grid)
    operators = point_group(group)
    nearest = [angular_distance_deg(unique, rotation, operators).min() for rotation in grid[::37]]
    assert max(nearest) < 30


def test_empty_tomogram_gives_no_picks():
    noise = gaussian_filter(np.random.default_rng(5).standard_normal((32, 48, 48)), 1).astype(np.float32)
    series = make_series(np.arange(-60, 61, 5.0))
    config = MatchTemplate(angular_step_deg=30, edge_margin_angst=40)
    result = match_template(noise, chiral_particle(), PIXEL, series, config, np.random.default_rng(0))
    assert len(result.particles) == 0
    assert result.summary["threshold_rule"] == "best_f1"
    assert result.summary["hand"]["verdict"] == "undecided"
