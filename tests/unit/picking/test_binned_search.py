"""A search in the binned tomogram: the same places in both, found particles posed as finely as by a search of the tomogram itself."""

import numpy as np
import pytest
from matching_scene import PIXEL, chiral_particle, make_series, setup
from scipy import ndimage

from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.geometry import angular_distance_deg, rotation_vector_to_matrix, so3_grid_for_step
from cryoet_core.picking.binned import binned_mask, binned_series, binned_volume, search_binning
from cryoet_core.picking.eigen import eigen_templates
from cryoet_core.picking.local_search import Pick, Search, mirrored_search, refine_peak
from cryoet_core.picking.match import match_template
from cryoet_core.picking.passes import FineScale, Pass, rescaled
from cryoet_core.picking.plan import MatchPlan
from cryoet_core.picking.pose import pose_in_tomogram
from cryoet_core.picking.prepare import _interpolated, searchable_tomogram


def test_binning_follows_from_what_the_step_resolves():
    assert search_binning(15.0, 286.0, 10.0) == 2.25
    assert search_binning(15.0, 303.0, 20.0) == 1.25
    assert search_binning(15.0, 296.0, 20.0) == 1
    assert search_binning(15.0, 100.0, 10.0) == 1
    for pixel in (3.0, 10.0, 14.0):  # the automatic step resolves what the tomogram holds
        assert search_binning(np.rad2deg(1.3 * 2.4 * pixel / 250.0), 250.0, pixel) == 1


@pytest.mark.parametrize("shape", [(24, 36, 40), (21, 35, 38)])
def test_a_place_is_the_same_in_both(shape):
    grids = np.indices(shape)
    places = np.array([[10.0, 15.0, 20.0], [11.0, 22.0, 11.0]])
    for place in places:
        volume = np.exp(-sum((g - p) ** 2 for g, p in zip(grids, place, strict=True)) / (2 * 3.0**2)).astype(np.float32)
        for binning in (2, 2.5, 3):
            small = binned_volume(volume, binning)
            centroid = np.array([(g * small).sum() for g in np.indices(small.shape)]) / small.sum()
            np.testing.assert_allclose(centroid, rescaled(place, shape, small.shape, 1 / binning), atol=0.02)
            assert small.sum() * binning**3 == pytest.approx(volume.sum(), rel=0.01)
            back = binned_mask(small, 1 / binning, shape)
            assert back.shape == shape
            top = np.argwhere(back == back.max()).mean(axis=0)
            assert np.abs(top - place).max() <= binning / 2 + 0.5
            mask = binned_mask(volume > 0.5, binning, small.shape)
            assert mask.shape == small.shape and mask[tuple(np.rint(centroid).astype(int))]


def test_series_of_the_binned_tomogram():
    series = binned_series(make_series(np.arange(-60, 61, 5.0)), 2)
    assert series.pixel_size_angst == 2 * PIXEL and series.image_size_px == (32, 32)


def test_a_broad_background_is_the_same_on_a_coarser_grid():
    z, y, x = np.indices((40, 61, 70)).astype(np.float32)
    volume = 0.3 * x + 4 * np.cos(y / 9) + 3 * np.sin(z / 7 + x / 11)
    exact = ndimage.gaussian_filter(volume, 26.0, mode="nearest")
    found = searchable_tomogram(volume, 26.0, erase_gold=False)
    assert found.step > 1
    assert np.abs(_interpolated(found.background, found.step, np.s_[0:40, 0:61, 0:70], np) - exact).max() < 0.01 * np.ptp(exact)


@pytest.mark.parametrize("background", ["auto", "none"])
def test_particles_found_in_the_binned_tomogram_are_posed_in_the_tomogram(scene, background):
    tomogram, series, positions, rotations = scene
    odd = tomogram[1:, 1:, 1:]  # the centre stays at the same point
    config = MatchTemplate(angular_step_deg=32, edge_margin_angst=40, max_particles=len(positions), low_pass_angst=45, background=background, max_false_fraction=1)
    result = match_template(odd, chiral_particle(), PIXEL, series, config, np.random.default_rng(0))
    assert result.summary["search_pixel_angst"] == result.map_pixel_angst == 2.5 * PIXEL
    truth = (positions - np.array(tomogram.shape) // 2)[:, ::-1] * PIXEL
    distance = np.linalg.norm(result.particles.positions_angst[:, None] - truth, axis=2)
    good = distance.min(axis=0) < PIXEL
    assert good.sum() >= len(truth) - 1
    error = angular_distance_deg(result.particles.rotations[distance.argmin(axis=0)[good]], rotations[good])
    assert np.median(error) < 7
    assert np.median(distance.min(axis=0)[good]) < 0.3 * PIXEL
    table = result.particles.table
    gap = (table["score"] - table["score_mirrored"]).to_numpy()[np.unique(distance.argmin(axis=0)[good])]
    assert np.median(gap) > result.summary["score_sigma"]
    assert result.scores.shape == result.orientation.shape == binned_volume(odd, 2.5).shape
    if background == "auto":
        assert result.summary["hand"]["verdict"] == "right"


def test_poses_from_the_tomogram_are_finer_than_those_they_start_from(scene):
    tomogram, series, positions, rotations = scene
    picks = [Pick(p + 0.5, rotation_vector_to_matrix([5, -5, 3]) @ r, 0.5) for p, r in zip(positions, rotations, strict=True)]
    plan = MatchPlan(250.0, 45.0, 24.0, 125.0, 60.0)
    searchable = searchable_tomogram(tomogram, 12.0)
    found, threaded = (
        pose_in_tomogram(searchable, chiral_particle(), series, picks, 8.0, plan, MatchTemplate(), np.random.default_rng(0), threads)
        for threads in (1, 2)
    )
    assert np.median([np.linalg.norm(pick.position_px - p) for pick, p in zip(found, positions, strict=True)]) < 0.3  # 0.87 before
    assert np.median(angular_distance_deg(np.array([pick.rotation for pick in found]), rotations)) < 4  # 7.7 before
    for a, b in zip(found, threaded, strict=True):
        np.testing.assert_array_equal(a.position_px, b.position_px)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_peak_with_a_wrong_pose_some_voxels_away_is_still_posed_in_the_tomogram(scene, mirrored):
    tomogram, series, positions, rotations = scene
    if mirrored:
        tomogram, positions = tomogram[:, :, :0:-1], (positions - [0, 0, 63]) * [1, 1, -1]  # x reversed and one voxel less: every second voxel from a peak is again a particle's
    template, filters, filtered = setup(tomogram, series)
    grid, half = so3_grid_for_step(24.0), tuple(n // 2 for n in tomogram.shape)
    search = Search(filtered, template, filters, eigen_templates(template, grid, filters, np.random.default_rng(0), 0.95), grid, 12.0)
    search = mirrored_search(search) if mirrored else search
    # of the search in the binned tomogram nothing but the peak is of use here: its own refinement, in the wrong volume, gives a wrong pose
    found = Pass(search, np.zeros(half, dtype=np.float32), np.zeros(half, dtype=int), (0, 1), mirrored, FineScale(search, 2, tomogram.shape, (0, 1)))
    wrong = rotation_vector_to_matrix([0, 0, 100.0])
    right, alone = [], []
    for position, rotation in zip(positions, rotations, strict=True):
        peak = np.rint(found.own(position)).astype(int) + [1, -1, 1]  # two voxels of the tomogram along each axis
        pick = found.refined(peak, wrong @ rotation)
        right.append(np.abs(pick.position_px - position).max() < 1 and angular_distance_deg(pick.rotation, rotation) < 8)
        lost = refine_peak(search, [(np.rint(found.in_fine(peak)).astype(int), wrong @ rotation)])
        alone.append(angular_distance_deg(lost.rotation, rotation) < 8)
    assert sum(right) >= len(positions) - 1
    assert not any(alone)


def test_the_hand_is_told_where_only_the_tomogram_itself_shows_it(scene):
    tomogram, series, *_ = scene
    config = MatchTemplate(angular_step_deg=48, edge_margin_angst=40, low_pass_angst=45)
    summary = match_template(tomogram, chiral_particle(), PIXEL, series, config, np.random.default_rng(0)).summary
    assert summary["search_pixel_angst"] == 3.75 * PIXEL  # four voxels across: its own mirror image
    assert summary["controls"] == ["mirror"] and summary["hand"]["verdict"] == "right"
