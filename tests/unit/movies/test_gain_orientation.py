"""All eight orientations of a gain reference, multiplying and dividing, from counts of one or a few tilts."""

from itertools import product

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryoet_core.movies.gain_orientation import Orientation, find_orientation


def _camera(rng, shape, spread=0.05):
    """Gain that multiplies: pixel scatter, column stripes, a smooth slope, some dead pixels."""
    h, w = shape
    y, x = np.mgrid[:h, :w]
    gain = 1 + spread * rng.standard_normal(shape) + 0.02 * rng.standard_normal(w)[None] + 0.1 * x / w - 0.05 * y / h
    gain[rng.random(shape) < 1e-4] = 0
    return gain.astype(np.float32)


def _counts(rng, gain, electrons=10.0, contrast=0.3):
    specimen = gaussian_filter(rng.standard_normal(gain.shape), 3)
    specimen = np.clip(1 + contrast * specimen / specimen.std(), 0.05, None)
    sensitivity = np.where(gain > 0, 1 / np.where(gain > 0, gain, 1), 0)
    return rng.poisson(electrons * specimen * sensitivity).astype(np.float32)


def _stored(gain, turn, inverse):
    """The file from which flip_x, flip_y, transpose give the camera's gain: their inverses in reverse order."""
    flip_x, flip_y, transpose = turn
    image = 1 / np.where(gain > 0, gain, np.inf) if inverse else gain
    image = image.T if transpose else image
    image = image[::-1] if flip_y else image
    return image[:, ::-1] if flip_x else image


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("turn", list(product((False, True), repeat=3)))
def test_all_orientations_of_a_square_camera(turn, inverse):
    rng = np.random.default_rng(1)
    gain = _camera(rng, (320, 320))
    found = find_orientation(_counts(rng, gain), _stored(gain, turn, inverse))
    assert found.decided and found.best == Orientation(*turn, inverse=inverse)


def test_a_camera_that_is_not_square_with_little_scatter():
    rng = np.random.default_rng(2)
    gain = _camera(rng, (256, 384), spread=0.03)
    for turn in ((False, True, True), (True, False, False)):
        found = find_orientation(_counts(rng, gain, electrons=6.0), _stored(gain, turn, False))
        assert found.decided and found.best == Orientation(*turn)


def test_corrected_movies_and_foreign_gains_decide_nothing():
    rng = np.random.default_rng(3)
    gain, other = _camera(rng, (256, 256)), _camera(rng, (256, 256))
    assert not find_orientation(_counts(rng, np.ones_like(gain)), gain).decided
    assert not find_orientation(_counts(rng, gain), other).decided
    assert not find_orientation(_counts(rng, gain), gain[:100]).decided  # no orientation fits its size


def test_the_given_orientation_is_judged_too():
    rng = np.random.default_rng(4)
    gain = _camera(rng, (256, 256))
    counts = _counts(rng, gain)
    assert find_orientation(counts, gain, Orientation()).given_significance > 20
    assert abs(find_orientation(counts, gain, Orientation(flip_x=True)).given_significance) < 20
    assert find_orientation(counts, gain, Orientation(inverse=True)).given_significance < -20


def test_a_super_resolution_gain_of_binned_movies():
    rng = np.random.default_rng(5)
    fine = _camera(rng, (512, 512))
    sensitivity = np.where(fine > 0, 1 / np.where(fine > 0, fine, 1), 0).reshape(256, 2, 256, 2).mean(axis=(1, 3))
    counts = _counts(rng, 1 / sensitivity)
    found = find_orientation(counts, _stored(fine, (True, False, True), False))
    assert found.decided and found.best == Orientation(True, False, True)
