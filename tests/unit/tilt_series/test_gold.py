import numpy as np
from scipy.ndimage import gaussian_filter

from cryoet_core.tilt_series.gold import bead_positions, erase_gold, fill_gold, find_gold

PIXEL = 10.0


def view_with_beads(rng, shape=(240, 260)):
    """Noise, protein-like blobs (1.5 sigma dark, 250 A), a soft brightness step, and 100 A beads (8 sigma dark)."""
    image = 300 + 10 * rng.standard_normal(shape).astype(np.float32)
    image += 40 * gaussian_filter((np.arange(shape[1]) >= 150).astype(np.float32), 4)  # the edge of a cell, 16 px wide
    y, x = np.mgrid[: shape[0], : shape[1]]
    blobs = np.zeros(shape)
    blobs[tuple(rng.integers(20, 220, (2, 30)))] = 1
    image -= 15 * np.clip(gaussian_filter(blobs, 6) * 2 * np.pi * 36, 0, 1).astype(np.float32)
    beads = np.zeros(shape, bool)
    centres = [(30, 40), (100, 150), (200, 60), (120, 230)]
    for cy, cx in centres:
        beads |= (y - cy) ** 2 + (x - cx) ** 2 <= 5**2
    return np.where(beads, image - 80, image).astype(np.float32), image, beads


def test_beads_are_found_and_protein_is_left(rng):
    image, _, beads = view_with_beads(rng)
    gold = find_gold(image, PIXEL)
    assert gold[beads].all()
    assert (gold & ~beads).mean() < 6 * beads.mean()  # grown by more than a radius, nothing else
    assert not find_gold(view_with_beads(rng)[1], PIXEL).any()


def test_fill_has_the_mean_and_noise_of_the_surroundings(rng):
    image, clean, beads = view_with_beads(rng)
    filled = erase_gold(image[None], PIXEL, [rng], 100.0)[0]
    assert abs(filled[beads].mean() - clean[beads].mean()) < 5
    assert 0.7 < filled[beads].std() / clean[beads].std() < 1.5
    untouched = ~find_gold(image, PIXEL)
    np.testing.assert_array_equal(filled[untouched], image[untouched])


def test_halves_are_filled_at_the_same_pixels_with_their_own_noise(rng):
    image, _, _ = view_with_beads(rng)
    images = np.stack([image, 0.5 * image, 0.5 * image])
    gold = find_gold(image, PIXEL)
    filled = fill_gold(images, gold, PIXEL, rng)
    np.testing.assert_array_equal((filled != images).any(axis=0), gold)
    assert abs(np.corrcoef(filled[1][gold] - filled[1][gold].mean(), filled[2][gold])[0, 1]) < 0.9


def test_no_diameter_means_no_beads(rng):
    images = view_with_beads(rng)[0][None]
    assert erase_gold(images, PIXEL, rng, None) is images


def test_positions_of_beads_are_better_than_a_pixel_and_leave_the_border_out(rng):
    centres = np.array([(60.3, -41.8), (-33.6, 12.2), (5.4, 77.9)])  # x, y in px from the centre
    y, x = np.mgrid[:240, :260] - np.array([120, 130])[:, None, None]
    image = 10 * rng.standard_normal(x.shape)
    for cx, cy in [*centres, (-128, 30)]:  # the last one is cut
        image -= 80 * np.clip(5.5 - np.hypot(x - cx, y - cy), 0, 1)
    found = bead_positions(image.astype(np.float32), PIXEL) / PIXEL
    order = [np.argmin(np.linalg.norm(found - c, axis=1)) for c in centres]
    assert len(found) == 3
    assert np.abs(found[order] - centres).max() < 0.25
