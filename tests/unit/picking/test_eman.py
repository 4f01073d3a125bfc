"""The tutorial's picker on copies of a particle at known places, drawn here."""

import numpy as np
from scipy.ndimage import gaussian_filter

from cryoet_core.picking.eman import full_size, match_like_eman2, regions


def particle(n=20):
    z, y, x = np.indices((n, n, n)) - n // 2
    spots = [(4, 0, 0), (-3, 3, 0), (0, -4, 1), (0, 2, 4), (-2, -2, -4)]
    return sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 8) for a, b, c in spots).astype(np.float32)


def tomogram(places, noise=0.15):
    rng = np.random.default_rng(1)
    volume = noise * gaussian_filter(rng.standard_normal((48, 80, 80)), 0.6).astype(np.float32)
    for z, y, x in places:
        volume[z - 10 : z + 10, y - 10 : y + 10, x - 10 : x + 10] -= particle()
    return volume


PLACES = np.array([(24, 20, 20), (20, 20, 60), (28, 60, 20), (24, 60, 58)])


def test_particles_are_found_and_kept_to_the_number():
    found = match_like_eman2(tomogram(PLACES), particle(), 14.0, n_sigma=5.0)
    distance = np.linalg.norm(found.position_px[:, None] - PLACES, axis=2)
    assert sorted(distance[:4].argmin(axis=1)) == [0, 1, 2, 3] and (distance[:4].min(axis=1) < 3).all()
    assert (found.score[4:] < 0.05 * found.score[3]).all()  # side lobes: EMAN2 keeps them while the number allows
    assert (np.diff(found.score) <= 0).all() and found.rotation.shape == (len(found.score), 3, 3)
    assert len(match_like_eman2(tomogram(PLACES), particle(), 14.0, n_sigma=5.0, max_particles=2).score) == 2
    inner = match_like_eman2(tomogram(PLACES), particle(), 14.0, n_sigma=5.0, remove_edge_px=24).position_px[:, 1:]
    assert ((inner >= 24) & (inner < 56)).all()


def test_no_picks_in_noise_at_the_tutorial_threshold():
    assert len(match_like_eman2(tomogram([]), particle(), 14.0, n_sigma=6.0).score) == 0


def test_touching_regions_are_one_pick_scored_by_its_sum():
    sigma_map = np.zeros((10, 10, 10), dtype=np.float32)
    sigma_map[2, 2, 2:6] = 7, 9, 8, 7
    sigma_map[8, 8, 8] = 6.5
    places, sums = regions(sigma_map, 6.0, 8)
    assert places.tolist() == [[2, 2, 3], [8, 8, 8]] and sums.tolist() == [31.0, 6.5]


def test_shrunk_maps_come_back_on_the_grid_of_the_tomogram():
    large = full_size(np.arange(8.0).reshape(2, 2, 2), 2, (5, 4, 4))
    assert large.shape == (5, 4, 4) and large[3, 3, 3] == 7 and large[4].max() == 0
