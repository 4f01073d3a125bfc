"""Where particles may lie, against planted slabs, membranes and carbon."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryoet_core.errors import UserInputError
from cryoet_core.geometry import TiltGeometry
from cryoet_core.picking.specimen import carbon, find_slab, given_mask, membranes, seen_share

SHAPE, DIAMETER = (64, 96, 96), 12.0


def noise(rng):
    return gaussian_filter(rng.standard_normal(SHAPE), 0.7).astype(np.float32)


def with_balls(volume, rng, first, last, n=60):
    """Balls of half a particle's size whose centres lie between the planes first and last."""
    z, y, x = np.indices(SHAPE)
    for _ in range(n):
        centre = [rng.integers(first, last), rng.integers(8, 88), rng.integers(8, 88)]
        r2 = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
        volume += 1.5 * np.exp(-r2 / (2 * 3.0**2))
    return volume


def views(tilts, shifts_px, size=(64, 48), pixel=10.0):
    geometry = TiltGeometry.nominal(tilts, 0.0).replace(x_shift_angst=pixel * np.asarray(shifts_px))
    n = len(tilts)
    series = SimpleNamespace(geometry=geometry, included=np.ones(n, bool), pixel_size_angst=pixel, image_size_px=size)
    series.select = lambda rows: series
    return series


def test_share_of_views_that_hold_a_place():
    # four views at 0 degrees, one of them shifted by 20 px: x_image = x + 20
    seen = seen_share(views([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 20]), (16, 48, 64), 4.0, step=1)
    assert seen.shape == (16, 48, 64)
    row = seen[8, 24]
    assert (row[5:40] == 1).all() and (row[44:59] == 0.75).all() and (row[:3] == 0.25).all() and (row[62:] == 0).all()
    assert (seen[8, :3] == 0).all() and (seen[:, 24, 30] == 1).all()
    # at 60 degrees x_image = x / 2 + z sin 60
    tilted = seen_share(views([0.0, 60.0], [0, 14]), (64, 48, 64), 0.0, step=1)
    assert tilted[32 + 30, 24, 32 + 20] == 0.5  # 10 + 26 + 14 = 50 px is outside
    assert tilted[32 - 30, 24, 32 + 20] == 1.0
    coarse = seen_share(views([0.0, 60.0], [0, 14]), (64, 48, 64), 0.0, step=4)
    assert np.mean(coarse != tilted) < 0.05


@pytest.mark.parametrize("first, last", [(20, 44), (10, 30)])
def test_slab_is_found_where_the_particles_are(first, last):
    volume = with_balls(noise(np.random.default_rng(1)), np.random.default_rng(2), first, last)
    slab = find_slab(volume, DIAMETER)
    assert slab.start <= first and slab.stop >= last
    assert first - slab.start < DIAMETER and slab.stop - last < DIAMETER


def test_no_slab_where_nothing_stands_out():
    assert find_slab(noise(np.random.default_rng(1)), DIAMETER) is None
    assert find_slab(with_balls(noise(np.random.default_rng(1)), np.random.default_rng(2), 0, 64, 150), DIAMETER) is None


def test_membranes_are_found_and_particles_are_not():
    rng = np.random.default_rng(3)
    z, y, x = np.indices(SHAPE)
    radius = np.sqrt((y - 48) ** 2 + (x - 48) ** 2)
    # a tube along z: two leaflets 40 A apart at 14 A/px blur into one sheet
    sheet = np.exp(-((radius - 26) ** 2) / (2 * 1.4**2))
    volume = noise(rng) * 0.3 + 1.5 * sheet.astype(np.float32)
    outside = np.zeros(SHAPE, dtype=np.float32)
    centres = [(c, a, b) for c in (12, 32, 52) for a, b in ((8, 8), (8, 88), (88, 8), (88, 88), (48, 48))]
    for centre in centres:
        outside += 2.0 * np.exp(-((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) / (2 * 3.5**2))
    excluded = membranes(volume + outside, 14.0, 14.0 * DIAMETER)
    ridge = (np.abs(radius - 26) < 1) & (z > 4) & (z < 60)
    assert excluded[ridge].mean() > 0.9
    assert not any(excluded[c] for c in centres)
    assert excluded[np.abs(radius - 26) > 9].mean() < 0.03


def test_carbon_is_found_and_particles_are_not():
    rng = np.random.default_rng(4)
    volume = with_balls(noise(rng), rng, 20, 44, 20)
    volume[:, :, :40] += 6 * gaussian_filter(rng.standard_normal((64, 96, 40)), 1.0).astype(np.float32)
    excluded = carbon(volume, 14.0, 14.0 * DIAMETER)
    assert excluded[:, :, :32].mean() > 0.9
    assert excluded[:, :, 54:].mean() < 0.02


def test_a_mask_of_another_size_is_refused():
    assert given_mask(np.ones((4, 5, 6)), (4, 5, 6)).all()
    with pytest.raises(UserInputError, match="E-PICK-04"):
        given_mask(np.ones((4, 5, 6)), (4, 5, 7))
