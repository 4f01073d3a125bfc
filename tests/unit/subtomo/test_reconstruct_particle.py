"""reconstruct_particle: a noise-free phantom comes back, with its grey scale, halves, symmetry and hand."""

import numpy as np
import pandas as pd
import pytest
from phantom_series import draw_views, make_series, particle_matrix, truth_map, view_matrix
from scipy.spatial.transform import Rotation

from cryoet_core.errors import DataQualityError
from cryoet_core.fsc import fourier_shell_correlation
from cryoet_core.metadata import Particles
from cryoet_core.subtomo.extract import ExtractionSettings
from cryoet_core.subtomo.reconstruct import (
    HalfSums,
    half_sets,
    insert_series,
    reconstruct_maps,
    taper_to_sphere,
)

SHAPE, PIXEL, CROP, N = (112, 112), 4.0, 32, 40


@pytest.fixture(scope="module")
def scenes():
    """40 small series of 15 views with one particle each, in random orientation and at its own defocus."""
    rng = np.random.default_rng(11)
    out = []
    for i in range(N):
        shifts = rng.uniform(-10, 10, (15, 2))
        series = make_series(
            np.linspace(-58, 58, 15), 85.0, SHAPE, PIXEL, shifts=shifts, dose_step=0.5, defocus=8000.0 + 400 * i
        )
        tilt = np.rad2deg(np.arccos(rng.uniform(-1, 1)))
        angles = np.array([[rng.uniform(-180, 180), tilt, rng.uniform(-180, 180)]])
        position = rng.uniform(-20, 20, (1, 3))
        out.append((series, position, angles, draw_views(series, position, angles, SHAPE)))
    return out


def table(positions, angles, subset=1):
    columns = dict(zip(("x_angst", "y_angst", "z_angst"), positions.T, strict=True))
    columns |= dict(zip(("rot_deg", "tilt_deg", "psi_deg"), angles.T, strict=True))
    return Particles(pd.DataFrame(columns).assign(tomo_name="TS_01", random_subset=subset))


def maps_of(scenes, *, turn=(0, 0, 0), symmetry="C1", snr=None, box=64, insertion="spread", **changes):
    sums = HalfSums(ExtractionSettings(1, box, CROP, **changes), symmetry, insertion)
    for i, (series, position, angles, images) in enumerate(scenes):
        insert_series(sums, images, series, table(position, angles + turn, 1 + i % 2))
    return reconstruct_maps(sums, wiener_snr=snr, taper_px=4)


@pytest.fixture(scope="module")
def maps(scenes):
    return maps_of(scenes)


def truth():
    return taper_to_sphere(truth_map(CROP).astype(np.float32), 4)


def test_noise_free_phantom_to_nine_tenths_of_nyquist(maps):
    fsc = fourier_shell_correlation(maps.merged, truth())
    assert fsc[1 : int(0.9 * CROP / 2) + 1].min() > 0.995


def test_gathering_gives_the_phantom_too(scenes, maps):
    gathered = maps_of(scenes, insertion="gather").merged
    fsc = fourier_shell_correlation(gathered, truth())
    assert fsc[1 : int(0.9 * CROP / 2) + 1].min() > 0.99
    t = truth().astype(float)
    assert (gathered * t).sum() / (maps.merged * t).sum() == pytest.approx(1, abs=0.01)


def test_hand_is_right(maps):
    mirrored = truth()[::-1]
    right = np.corrcoef(maps.merged.ravel(), truth().ravel())[0, 1]
    best_wrong = max(np.corrcoef(np.roll(mirrored, s, 0).ravel(), maps.merged.ravel())[0, 1] for s in (0, 1))
    assert right > 0.99
    assert best_wrong < 0.8


def test_grey_scale_is_the_density_times_root_of_the_box(maps):
    t = truth().astype(float)
    ratio = (maps.merged * t).sum() / (t * t).sum()
    assert ratio == pytest.approx(np.sqrt(64), rel=0.02)


def test_halves_are_independent_and_both_right(scenes, maps):
    for half in (maps.half1, maps.half2):
        assert np.corrcoef(half.ravel(), truth().ravel())[0, 1] > 0.99
    assert np.abs(maps.half1 - maps.half2).max() > 1e-3 * maps.merged.max()


def test_wrong_angles_do_not_give_the_map(scenes):
    wrong = maps_of(scenes, turn=(40.0, 25.0, -60.0))
    assert np.corrcoef(wrong.merged.ravel(), truth().ravel())[0, 1] < 0.8


def test_box_equal_to_the_map_is_padded(scenes):
    same = maps_of(scenes, box=CROP)
    # A box without room for the signal that defocus spreads loses some of it, but nothing wraps around.
    assert fourier_shell_correlation(same.merged, truth())[3:13].min() > 0.94


def test_wiener_filter_weakens_with_falling_snr(scenes, maps):
    strong, weak = (maps_of(scenes, snr=snr).merged for snr in (10.0, 0.01))
    assert np.linalg.norm(weak) < np.linalg.norm(strong) < 1.2 * np.linalg.norm(maps.merged)


def test_symmetry_averages_over_the_group(scenes):
    c2 = maps_of(scenes, symmetry="C2").merged
    turned = c2[:, ::-1, ::-1]  # (x, y) -> (-x, -y) about index n//2
    turned = np.roll(turned, (1, 1), (1, 2))
    assert np.corrcoef(c2[:, 2:, 2:].ravel(), turned[:, 2:, 2:].ravel())[0, 1] > 0.999


def test_half_sets_from_the_table_or_alternating():
    particles = table(np.zeros((4, 3)), np.zeros((4, 3)))
    assert half_sets(particles).tolist() == [0, 0, 0, 0]
    particles.table["random_subset"] = [2, 2, 1, 1]
    assert half_sets(particles).tolist() == [1, 1, 0, 0]
    assert half_sets(Particles(particles.table.drop(columns="random_subset"))).tolist() == [0, 1, 0, 1]


def test_empty_half_is_an_error(scenes):
    series, position, angles, images = scenes[0]
    sums = HalfSums(ExtractionSettings(1, 64, CROP))
    insert_series(sums, images, series, table(position, angles))
    with pytest.raises(DataQualityError, match="E-REC-04"):
        reconstruct_maps(sums)


def test_phantom_matrices_are_rotations():
    for matrix in (view_matrix(33, 80), particle_matrix(10, 50, -70)):
        assert Rotation.from_matrix(matrix).as_matrix() == pytest.approx(matrix)
