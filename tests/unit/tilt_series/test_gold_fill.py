"""Beads taken out of views: what is left of them, of their fringes and of the noise, with the same view without beads
as truth."""

import numpy as np
import pytest
from gold_phantom import Phantom
from phantom_series import make_series

from cryoet_core.tilt_series.gold import Gold
from cryoet_core.tilt_series.gold_file import read_gold, write_gold
from cryoet_core.tilt_series.gold_fill import BeadEraser, covered_radius_angst, fill_discs
from cryoet_core.tilt_series.gold_spots import Beam

PIXEL = 5.0


def with_and_without(dose, defocus=30000.0):
    """The same view of a clean specimen with its beads, 600 A apart, and without; phantom and places of the beads."""
    rng = np.random.default_rng(1)
    places = np.array([(x, y, 0.0) for x in (-600, 0, 600) for y in (-600, 0, 600)][:8]) + rng.uniform(-40, 40, (8, 3))
    phantom = Phantom(
        rng, ribosomes=0, vesicles=0, crystals=0, aggregates=0, dark_crystals=0, carbon=False, positions=places
    )
    views = []
    for _ in range(2):
        views.append(phantom.view(np.random.default_rng(2), 20.0, dose=dose, defocus=defocus))
        phantom.spheres = phantom.spheres[8:]
    return *views, phantom, phantom.seen(20.0)


@pytest.mark.parametrize("defocus", [15000.0, 30000.0, 50000.0])
def test_nothing_of_a_bead_or_its_fringes_is_left(defocus):
    """Nearly without noise: means over rings about the beads after filling, against the view without beads."""
    view, truth, phantom, (inside, uv) = with_and_without(3e4, defocus=defocus)
    radius = covered_radius_angst(phantom.bead_diameter, Beam(3.0, defocus))
    filled = fill_discs(view[None], PIXEL, uv, radius, np.random.default_rng(0))[0]
    y, x = ((np.arange(n) - n // 2) * PIXEL for n in view.shape)
    rings = [[], []]
    for u, v in uv[inside]:
        ring = (np.hypot(x[None] - u, y[:, None] - v) / 15).astype(int)
        for means, image in zip(rings, (filled, view), strict=True):
            means.append(
                np.bincount(ring.ravel(), ((image - truth) / truth.mean()).ravel())[:13]
                / np.bincount(ring.ravel())[:13]
            )
    after, before = (np.mean(means, axis=0) for means in rings)
    assert len(rings[0]) >= 6
    assert np.abs(before).max() > 0.3
    assert np.abs(after).max() < 0.02  # ribosomes have 0.03 and more


def test_filled_places_have_the_noise_of_the_view():
    view, truth, phantom, (inside, uv) = with_and_without(3.0)
    radius = covered_radius_angst(phantom.bead_diameter, Beam(3.0, 30000.0))
    filled = fill_discs(view[None], PIXEL, uv, radius, np.random.default_rng(0))[0]
    changed = filled != view
    y, x = ((np.arange(n) - n // 2) * PIXEL for n in view.shape)
    discs = np.zeros(view.shape, bool)
    for (u, v), r in zip(uv, radius, strict=True):
        discs |= np.hypot(x[None] - u, y[:, None] - v) <= r
    assert not (changed & ~discs).any() and changed[discs].mean() > 0.85  # counts may happen to be the same
    assert filled[discs].mean() == pytest.approx(truth[discs].mean(), abs=0.5)
    assert filled[discs].std() == pytest.approx(truth[discs].std(), rel=0.06)
    low = [
        np.std(
            [
                image[j : j + 8, i : i + 8].mean()
                for j in range(0, 392, 8)
                for i in range(0, 432, 8)
                if discs[j : j + 8, i : i + 8].all()
            ]
        )
        for image in (filled, truth)
    ]
    assert low[0] < 1.6 * low[1]  # no spots, dark or bright


def test_halves_stay_independent_and_add_up():
    view, _, phantom, (_, uv) = with_and_without(3.0)
    rng = np.random.default_rng(3)
    even = rng.binomial(view.astype(int), 0.5).astype(np.float32)
    images = np.stack([view, even, view - even])
    filled = fill_discs(images, PIXEL, uv, covered_radius_angst(phantom.bead_diameter, Beam()), rng)
    np.testing.assert_allclose(filled[1] + filled[2], filled[0], atol=1e-4)
    discs = (filled != images).any(axis=0)
    residual = filled[1:, discs] - filled[1:, discs].mean(axis=1, keepdims=True)
    assert abs(np.corrcoef(residual)[0, 1]) < 0.1


def test_beads_at_the_border_and_everywhere():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 60, 70)).astype(np.float32)
    corner = fill_discs(image, PIXEL, np.array([(-180.0, -150.0), (1e4, 0.0)]), np.array([60.0, 60.0]), rng)
    assert (corner != image)[0, :8, :8].mean() > 0.5 and not (corner != image)[0, 30:].any()
    crowded = fill_discs(image, PIXEL, rng.uniform(-170, 170, (60, 2)), np.full(60, 60.0), rng)
    assert np.isfinite(crowded).all() and abs(crowded).max() < 30
    assert fill_discs(image, PIXEL, np.zeros((0, 2)), np.zeros(0), rng) is image


@pytest.fixture
def series_with_gold(tmp_path):
    """A series of two views, gold.star with one bead in each, and an image with a bead at that place and another of
    its size elsewhere."""
    series = make_series([0.0, 30.0], 86.0, (200, 220), PIXEL, dose_step=3.0)
    gold = Gold(
        np.array([100.0]),
        np.array([(100.0, 50, 20)]),
        np.array([98.0]),
        np.array([2]),
        np.array([1, 2]),
        np.array([0, -1]),
        np.array([(100.0, 50), (80, 50)]),
        np.array([98.0, 100]),
        np.array([True, False]),
    )
    path = tmp_path / "gold.star"
    write_gold(gold, "TS_01", path)
    series.gold_file = str(path)
    y, x = ((np.arange(n) - n // 2) * PIXEL for n in (200, 220))
    image = np.full((200, 220), 75.0)
    for u, v in ((100, 50), (-200, -150)):
        image *= np.exp(-0.0043 * 2 * np.sqrt(np.clip(2500 - (x[None] - u) ** 2 - (y[:, None] - v) ** 2, 0, None)))
    return series, np.random.default_rng(1).poisson(image).astype(np.float32), gold


def test_gold_file_keeps_everything(series_with_gold):
    series, _, gold = series_with_gold
    back = read_gold(series.gold_file)
    for name, value in vars(gold).items():
        np.testing.assert_allclose(getattr(back, name), value, err_msg=name)
    assert len(read_gold("").position_angst) == 0


def test_auto_erases_what_was_found_and_a_number_what_looks_like_it(series_with_gold):
    series, image, _ = series_with_gold
    known, other = (slice(105, 116), slice(125, 136)), (slice(65, 76), slice(65, 76))
    dark = {}
    for diameter in ("auto", 100.0, None):
        out = BeadEraser(series, diameter)(0, image)
        dark[diameter] = [out[place].mean() < 60 for place in (known, other)]
    assert dark == {"auto": [False, True], 100.0: [False, False], None: [True, True]}
    assert BeadEraser(series, None)(0, image) is image


def test_a_fill_depends_on_its_view_alone(series_with_gold):
    series, image, _ = series_with_gold
    whole, part = BeadEraser(series, "auto"), BeadEraser(series.select([1]), "auto")
    np.testing.assert_array_equal(whole(1, image), part(0, image))
    np.testing.assert_array_equal(whole(1, image), BeadEraser(series, "auto")(1, image[None])[0])
    assert (whole(0, image) != whole(1, image)).any()


def test_without_a_gold_file_auto_changes_nothing(series_with_gold):
    series, image, _ = series_with_gold
    series.gold_file = ""
    assert BeadEraser(series, "auto")(0, image) is image
