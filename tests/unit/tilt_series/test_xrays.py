"""The eraser against planted hits."""

import numpy as np
import pytest

from cryoet_core.tilt_series.xrays import XraySettings, erase_view, fill, find_xrays

SHAPE = (256, 288)


def smooth_views(rng, n=6, counts=30.0):
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    background = counts * (1 + 0.1 * np.sin(x / 40) * np.cos(y / 55))
    return [rng.poisson(background).astype(np.float32) for _ in range(n)]


def plant(image, rng, n, size, sigmas):
    """Square-ish hits of ``size`` pixels, each ``sigmas`` noise sigmas bright; returns their positions."""
    offsets = [(dy, dx) for dy in range(3) for dx in range(3)][:size]
    positions = np.stack([rng.integers(2, SHAPE[0] - 5, n), rng.integers(2, SHAPE[1] - 5, n)], axis=1)
    for y, x in positions:
        for dy, dx in offsets:
            image[y + dy, x + dx] = 30 + sigmas * np.sqrt(30)
    return positions, offsets


@pytest.mark.parametrize(("size", "sigmas"), [(1, 9), (2, 9), (4, 9), (9, 10)])
def test_planted_hits_are_found(rng, size, sigmas):
    views = smooth_views(rng, 4)
    hits = [plant(view, rng, 12, size, sigmas) for view in views]
    masks = find_xrays(views, XraySettings()).masks
    found = sum(
        masks[i][y + dy, x + dx] for i, (positions, offsets) in enumerate(hits) for y, x in positions for dy, dx in offsets
    )
    total = 4 * 12 * size
    assert found >= 0.95 * total
    assert masks.sum() - found < 0.35 * total


def test_clean_views_stay_as_they_are(rng):
    views = smooth_views(rng, 4)
    assert find_xrays(views, XraySettings()).masks.sum() <= 2


def test_hits_at_the_border_are_found(rng):
    views = smooth_views(rng, 3)
    views[1][0, 100], views[1][255, 0], views[2][40, 287] = 120, 130, 125
    masks = find_xrays(views, XraySettings()).masks
    assert masks[1][0, 100] and masks[1][255, 0] and masks[2][40, 287]


def test_gold_is_spared(rng):
    views = smooth_views(rng, 3)
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    bead = (y - 120) ** 2 + (x - 140) ** 2 < 6**2
    for view in views:
        view[bead] = rng.poisson(4, bead.sum())
    masks = find_xrays(views, XraySettings()).masks
    assert masks[:, 110:131, 130:151].sum() <= 3


def test_weak_pixels_of_every_view_are_defects(rng):
    """A pixel 4.5 sigma low is no outlier of one view, but it is when all views agree."""
    views = smooth_views(rng, 12)
    for view in views:
        view[50, 60] = 30 - 4.5 * np.sqrt(30)
    found = find_xrays(views, XraySettings())
    assert found.defects[50, 60] and found.defects.sum() == 1
    assert found.masks[:, 50, 60].all()


def test_excluded_views_are_not_searched(rng):
    views = smooth_views(rng, 3)
    views[0][30, 30] = 500
    assert find_xrays(views, XraySettings(), [False, True, True]).masks[0].sum() == 0


def test_fill_keeps_level_and_noise(rng):
    image = rng.normal(40, 3, SHAPE).astype(np.float32)
    mask = rng.random(SHAPE) < 0.02
    spoilt = np.where(mask, 1000, image).astype(np.float32)
    filled = fill(spoilt, mask, rng)
    assert np.array_equal(filled[~mask], image[~mask])
    assert filled[mask].mean() == pytest.approx(40, abs=0.4)
    assert filled[mask].std() == pytest.approx(3, rel=0.15)


def test_halves_get_the_same_pixels_but_their_own_noise(rng):
    views = rng.normal(20, 2, (3, 64, 64)).astype(np.float32)
    mask = np.zeros((64, 64), bool)
    mask[10:14, 20:24] = True
    cleaned = erase_view(views, mask, [np.random.default_rng(k) for k in range(3)])
    changed = cleaned != views
    assert all(np.array_equal(c, mask) for c in changed)
    assert abs(np.corrcoef(cleaned[1][mask], cleaned[2][mask])[0, 1]) < 0.8
