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


@pytest.mark.parametrize("size", [2, 3, 4, 6, 9])
def test_faint_hits_are_found_whole(rng, size):
    """5.5 sigma a pixel (5 where the background is high), single ones of which counting noise makes too."""
    views = smooth_views(rng, 4)
    hits = [plant(view, rng, 10, size, 5.5) for view in views]
    masks = find_xrays(views, XraySettings()).masks
    found = [masks[i][y + dy, x + dx] for i, (p, offsets) in enumerate(hits) for y, x in p for dy, dx in offsets]
    assert np.mean(found) >= 0.97
    assert masks.sum() - np.sum(found) <= 0.15 * len(found)


def test_a_single_faint_pixel_is_found_in_the_half_it_fell_into(rng):
    views = []
    for background in smooth_views(rng, 4, counts=15.0):
        even, odd = background, rng.poisson(15.0, SHAPE).astype(np.float32)
        views.append(np.stack([even + odd, even, odd]))
    for number, view in enumerate(views[1:]):
        view[:, 100, 120 + 9 * number] = 15 + 15 + 7.5 * np.sqrt(15), 15, 15 + 7.5 * np.sqrt(15)
    places = [100 * SHAPE[1] + 120 + 9 * number for number in range(3)]
    assert not any(place in found for place, found in zip(places, find_xrays([v[0] for v in views], XraySettings()).pixels[1:], strict=True))
    found = find_xrays(views, XraySettings())
    assert all(place in pixels for place, pixels in zip(places, found.pixels[1:], strict=True))
    assert found.masks.sum() <= 6


def test_dead_pixels_of_dim_views_are_defects(rng):
    """At 6 electrons nothing is 2.4 sigma, no outlier in any view."""
    views = smooth_views(rng, 12, counts=6.0)
    for view in views:
        view[60, 70] = 0
        view[0, 0] = 0
    found = find_xrays(views, XraySettings())
    assert found.defects[60, 70] and found.defects[0, 0] and found.defects.sum() == 2


def test_fringes_of_gold_are_left_alone(rng):
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    r = np.hypot(y - 120, x - 140)
    expected = 100.0 * (1 - 0.8 * (r < 14) + 0.3 * np.exp(-(((r - 17) / 1.5) ** 2)))
    views = [rng.poisson(expected).astype(np.float32) for _ in range(4)]
    assert find_xrays(views, XraySettings()).masks.sum() <= 1
    views[2][120 - 24 : 120 - 22, 140] += 30 * 10
    assert find_xrays(views, XraySettings()).mask(2)[120 - 24 : 120 - 22, 140].all()


def test_large_hits_are_found_by_the_giant_criterion(rng):
    views = smooth_views(rng, 3)
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    spot = np.hypot(y - 80, x - 90) < 6
    views[1][spot] += 30 * np.sqrt(30) * rng.uniform(0.7, 1.3, spot.sum()).astype(np.float32)
    masks = find_xrays(views, XraySettings()).masks
    assert masks[1][spot].mean() > 0.97
    assert masks.sum() < 1.2 * spot.sum()


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
