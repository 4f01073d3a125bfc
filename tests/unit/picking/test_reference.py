"""Reference import and resizing: contrast, grey values, exact pixel size, mask."""

import numpy as np
import pytest

from cryoet_core.errors import UserInputError
from cryoet_core.picking.reference import (
    particle_diameter_angst,
    prepare_reference,
    resample_map,
    resize_reference,
)


def blobs(n, pixel, centres_angst, sigma_angst):
    """Gaussian blobs at centred positions (x, y, z) in A."""
    axis = (np.arange(n) - n // 2) * pixel
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return sum(
        np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * sigma_angst**2)) for cx, cy, cz in centres_angst
    ).astype(np.float32)


CENTRES = [(40.0, -20.0, 10.0), (-60.0, 30.0, -35.0), (0.0, 0.0, 55.0)]


@pytest.mark.parametrize(("pixel_out", "box"), [(21.0, 20), (13.3, 30), (10.0, 40), (7.0, 56)])
def test_resampled_map_is_exact_at_any_ratio_of_pixel_sizes(pixel_out, box):
    volume = blobs(44, 10.0, CENTRES, 25.0)
    expected = blobs(box, pixel_out, CENTRES, 25.0)
    np.testing.assert_allclose(resample_map(volume, 10.0, pixel_out, box), expected, atol=0.01)


def test_prepared_reference_is_bright_on_zero_in_an_even_cube():
    volume = blobs(41, 10.0, CENTRES, 25.0)[:, :39]
    for sign in (1, -1):
        reference = prepare_reference(sign * volume + 7.0, invert=sign < 0)
        assert reference.shape == (42, 42, 42)
        assert abs(np.median(reference)) < 1e-3
        assert reference.max() == pytest.approx(volume.max(), rel=1e-3)
    with pytest.raises(UserInputError, match="E-REF-01.*invert: true"):
        prepare_reference(-volume)
    with pytest.raises(UserInputError, match="E-REF-02"):
        prepare_reference(np.zeros((8, 8, 8)))


def test_centre_of_mass_is_moved_to_the_centre():
    volume = blobs(48, 10.0, [(31.0, -47.0, 22.0)], 25.0)
    moved = prepare_reference(volume, centre="mass")
    np.testing.assert_allclose(moved, blobs(48, 10.0, [(0, 0, 0)], 25.0), atol=0.03)


def test_resized_reference_and_mask():
    axis = (np.arange(64) - 32) * 5.0
    radius = np.sqrt(sum(g**2 for g in np.meshgrid(axis, axis, axis)))
    ball = (radius < 100).astype(np.float32)
    assert particle_diameter_angst(ball, 5.0) == pytest.approx(200, abs=10)
    reference, mask = resize_reference(ball, 5.0, 12.5)
    assert reference.shape == mask.shape == (34, 34, 34)
    assert mask[17, 17, 17] == 1.0
    assert mask[17, 17, 2] == 0.0
    assert float(reference.sum()) * 12.5**3 == pytest.approx(float(ball.sum()) * 5**3, rel=0.02)
    with pytest.raises(UserInputError, match="E-REF-03"):
        resize_reference(ball, 5.0, 12.5, box_px=12)


@pytest.mark.parametrize(
    "volume, words",
    [
        (np.ones((1, 1, 1)), "1 x 1 x 1.*at least 4"),
        (np.ones((1, 32, 32)), "32 x 32 x 1"),
        (np.full((8, 8, 8), 1e38), "1e.38 to 1e.38"),
        (1e38 * blobs(16, 10.0, CENTRES, 25.0), "1e.10"),
        (1e-30 * blobs(16, 10.0, CENTRES, 25.0), "e-3"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_reference_is_refused(volume, words):
    with pytest.raises(UserInputError, match=f"E-REF-05.*data.reference.*{words}.*Fix: "):
        prepare_reference(volume)
