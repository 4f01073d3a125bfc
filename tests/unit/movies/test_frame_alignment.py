import numpy as np
import pytest
from blobs import make_movie

from cryoet_core.errors import DataQualityError
from cryoet_core.io.gain import Gain
from cryoet_core.movies.correct import MotionSettings, correct_movie
from cryoet_core.movies.motion import group_frames, node_matrix, ungroup_track
from cryoet_core.movies.pair_correlation import PairMaps

PIXEL = 4.0


def _error(track, movement):
    difference = track.movement_px - (movement - movement.mean(axis=0))
    return np.sqrt((difference**2).sum(axis=1).mean())


def _correct(frames, **settings):
    return correct_movie(lambda: iter(frames), PIXEL, settings=MotionSettings(**settings), seed=3)


def test_known_subpixel_movement_is_found_to_a_twentieth_of_a_pixel(rng):
    movement = np.array([[0.0, 0.0], [1.3, -0.4], [1.9, -1.2], [2.1, -1.45], [2.6, -1.5]])
    result = _correct(make_movie(rng, movement))
    assert result.track.model == "free"
    assert _error(result.track, movement) < 0.05
    # the sign: content of the last frame lies to the right of and below that of the first
    last_minus_first = result.track.movement_px[-1] - result.track.movement_px[0]
    assert last_minus_first == pytest.approx([2.6, -1.5], abs=0.1)


def test_sum_is_sharper_than_the_raw_sum(rng):
    movement = np.linspace(0, 1, 6)[:, None] * np.array([9.0, -6.0])
    frames = make_movie(rng, movement)
    still = make_movie(np.random.default_rng(7), movement * 0 + movement.mean(axis=0), counts=3000)
    inside = (slice(15, -15), slice(15, -15))
    reference = np.mean(still, axis=0)[inside].ravel()
    corrected = np.corrcoef(_correct(frames).image[inside].ravel(), reference)[0, 1]
    raw = np.corrcoef(np.sum(frames, axis=0)[inside].ravel(), reference)[0, 1]
    assert 1 - corrected < 0.5 * (1 - raw)


def test_large_drift_is_inside_the_capture_range(rng):
    movement = np.linspace(0, 1, 6)[:, None] * np.array([-15.0, 9.0]) + rng.normal(0, 0.5, (6, 2))
    assert _error(_correct(make_movie(rng, movement)).track, movement) < 0.1


def test_one_jump_of_the_stage(rng):
    movement = np.array([[0, 0], [0, 0], [0, 0], [9.0, 7.0], [9.0, 7.0], [9.0, 7.0]])
    assert _error(_correct(make_movie(rng, movement)).track, movement) < 0.1


def test_reversed_frames_give_reversed_movement(rng):
    movement = np.array([[0.0, 0.0], [1.5, 0.5], [2.0, 2.0], [2.2, 3.0]])
    frames = make_movie(rng, movement)
    forward, backward = _correct(frames).track.movement_px, _correct(frames[::-1]).track.movement_px
    assert np.allclose(forward, backward[::-1], atol=0.03)


@pytest.mark.parametrize("seed", range(6))
def test_pure_noise_is_left_alone(seed):
    frames = make_movie(np.random.default_rng(seed), np.zeros((4, 2)), contrast=0.0, counts=10)
    track = _correct(frames).track
    assert track.rms_px < 0.5


@pytest.mark.parametrize("contrast", [0.0, 0.01, 0.03])
def test_never_clearly_worse_than_no_correction(contrast):
    """Over several movies at hopeless to poor signal, the corrected tracks are as good as staying put, or better."""
    corrected, raw = [], []
    for seed in range(6):
        rng = np.random.default_rng(100 + seed)
        movement = np.cumsum(rng.normal(0, 0.5, (5, 2)), axis=0)
        movement -= movement.mean(axis=0)
        track = _correct(make_movie(rng, movement, contrast=contrast, counts=8)).track
        corrected.append(_error(track, movement) ** 2)
        raw.append((movement**2).sum(axis=1).mean())
    assert np.mean(corrected) < 1.25 * np.mean(raw)


def test_still_movie_keeps_its_sum_and_halves_add_up(rng):
    frames = make_movie(rng, np.zeros((5, 2)))
    result = _correct(frames)
    assert result.track.rms_px < 0.05
    assert np.allclose(result.even + result.odd, result.image)
    still = correct_movie(lambda: iter(frames), PIXEL, settings=MotionSettings(align=False))
    assert np.allclose(still.odd, frames[0] + frames[2] + frames[4], rtol=1e-4)
    assert np.allclose(still.even, frames[1] + frames[3], rtol=1e-4)


def test_gain_and_defects(rng):
    h, w = 96, 128
    gain = rng.uniform(0.7, 1.4, (h, w)).astype(np.float32)
    frames = [rng.poisson(100 / gain).astype(np.float32) for _ in range(4)]
    dead, hot, ray = (10, 20), (40, 50), (70, 80)
    known = np.zeros((h, w), bool)
    known[dead] = True
    for frame in frames:
        frame[dead] = 0
        frame[hot] += 200
    frames[1][ray] += 900
    settings = MotionSettings(align=False)
    result = correct_movie(lambda: iter(frames), PIXEL, Gain(gain, known), settings)
    assert result.n_defects == 2
    assert abs(result.image[dead] - 400) < 120 and abs(result.image[hot] - 400) < 120
    assert result.image[ray] > 1000  # a cosmic ray is not a defect of the camera; erase_xrays takes it
    assert result.image.mean() == pytest.approx(400, rel=0.02)
    flat = correct_movie(lambda: iter(frames), PIXEL, None, settings).image
    assert result.image.std() < 0.5 * flat.std()


def test_same_bytes_every_time(rng):
    frames = make_movie(rng, np.array([[0, 0], [1.0, 1.0], [1.5, 1.2]]))
    frames[0][5, 5] = frames[1][5, 5] = frames[2][5, 5] = 5000
    one, two = _correct(frames), _correct(frames)
    assert one.n_defects == 1
    assert np.array_equal(one.image, two.image)


def test_many_frames_are_grouped_and_memory_limit_changes_nothing(rng, monkeypatch):
    movement = np.linspace(0, 1, 24)[:, None] * np.array([5.0, 3.0])
    frames = make_movie(rng, movement, shape=(128, 144), counts=60)
    kept = _correct(frames)
    assert kept.track.movement_px.shape == (24, 2)
    assert _error(kept.track, movement) < 0.15
    monkeypatch.setattr("cryoet_core.movies.correct.SPECTRA_BUDGET_MB", 0)
    assert np.allclose(_correct(frames).image, kept.image, atol=1e-3)


def test_time_nodes(rng):
    movement = np.linspace(0, 1, 7)[:, None] * np.array([3.0, -2.0])
    assert _error(_correct(make_movie(rng, movement), time_nodes=2).track, movement) < 0.05


def test_single_and_no_frames(rng):
    frame = make_movie(rng, np.zeros((1, 2)), shape=(64, 64))
    one = _correct(frame)
    assert np.allclose(one.even + one.odd, frame[0], rtol=1e-4, atol=0.1)  # halves from the counting noise of the one frame
    assert one.even.sum() == pytest.approx(one.odd.sum(), rel=0.02)
    assert one.track.movement_px.shape == (1, 2) and not one.track.accepted
    with pytest.raises(DataQualityError, match="E-MOV-10"):
        _correct([])


def test_gradient_of_the_pair_objective(rng):
    axis = np.linspace(-10, 10, 41)
    maps = np.exp(-((axis[:, None] - 1) ** 2 + (axis[None] + 2) ** 2) / 20)[None].repeat(3, 0)
    pairs = PairMaps(maps, np.array([0, 0, 1]), np.array([1, 2, 2]), axis, 3, np.ones(3), maps[0])
    at = rng.normal(0, 1, (3, 2))
    _, gradient = pairs.value_and_gradient(at)
    for f in range(3):
        for axis_index in range(2):
            step = np.zeros((3, 2))
            step[f, axis_index] = 1e-4
            numeric = (pairs.value(at + step) - pairs.value(at - step)) / 2e-4
            assert gradient[f, axis_index] == pytest.approx(numeric, abs=1e-5)


def test_groups_and_nodes_reproduce_a_straight_track():
    groups = group_frames(40, 16)
    assert len(groups) == 16 and np.concatenate(groups).tolist() == list(range(40))
    line = np.arange(40)[:, None] * np.array([0.5, -0.25])
    centres = np.array([line[g].mean(axis=0) for g in groups])
    assert np.allclose(ungroup_track(centres, groups, 40), line - line.mean(axis=0))
    assert np.allclose(node_matrix(5, 2) @ np.array([0.0, 4.0]), np.arange(5))


def test_maps_of_two_halves_of_the_frequencies_add_up_to_those_of_all(rng):
    from cryoet_core.movies.pair_correlation import (
        band_spectrum,
        band_weights,
        joined_maps,
        pair_maps,
        split_frequencies,
    )

    band, shape = (48, 64), (64, 96)
    frames = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
    spectra = [band_spectrum(np.fft.rfft2(f).astype(np.complex64), f, band) for f in frames]
    weights = band_weights(band, (3.0, 3.0), (100.0, 8.0), -200.0)
    half = split_frequencies(band, rng)
    whole, one, two = (pair_maps(spectra, band, (1.5, 1.5), weights, reach_px=6.0, subset=s) for s in (None, half, ~half))
    joined = joined_maps(one, two)
    assert np.allclose(joined.maps, whole.maps, atol=1e-4) and np.allclose(joined.noise, whole.noise, rtol=1e-4)
    assert np.allclose(joined.noise_correlation, whole.noise_correlation, atol=0.05)


def test_uneven_illumination_leaves_no_cross_in_the_band(rng):
    """A beam profile is not periodic; without its jumps at the borders nothing of it is left beyond the lowest frequencies."""
    from cryoet_core.fourier import crop_spectrum
    from cryoet_core.movies.pair_correlation import band_spectrum

    shape, band = (160, 192), (96, 120)
    y, x = np.mgrid[: shape[0], : shape[1]] / 192.0
    beam = (100 * (x - 0.5 * y) + 40 * (x - 0.3) ** 2).astype(np.float32)
    texture = sum(np.cos(2 * np.pi * (r * np.arange(160)[:, None] / 160 + c * np.arange(192) / 192)) for r, c in ((9, 14), (-20, 7)))
    both = (texture + beam).astype(np.float32)
    transform = np.fft.rfft2(both).astype(np.complex64)
    found = band_spectrum(transform, both, band)
    wanted = crop_spectrum(np.fft.rfft2(texture), shape, band)
    high = np.hypot(np.fft.fftfreq(96)[:, None] * 96, np.fft.rfftfreq(120)[None] * 120) > 6
    jumps = np.abs(crop_spectrum(transform, shape, band) - wanted)[high]
    assert np.abs(found - wanted)[high].max() < 0.02 * jumps.max()


def test_rows_and_columns_that_count_differently_do_not_hold_the_movie_still(rng):
    movement = np.linspace(0, 1, 5)[:, None] * np.array([6.0, -4.0])
    frames = make_movie(rng, movement, counts=60)
    for frame in frames:
        frame[-3:] *= 1.6
        frame[:, :5] *= 0.2
    assert _error(_correct(frames).track, movement) < 0.15


def test_pixels_that_are_no_numbers_are_filled_and_too_many_refused(rng):
    frames = [np.array(f, dtype=np.float32) for f in make_movie(rng, np.zeros((4, 2)))]
    frames[2][5:8, 10:20] = np.nan
    frames[1][30, 30] = np.inf
    done = _correct(frames)
    assert np.isfinite(done.image).all() and done.n_defects >= 31
    frames[0][:] = np.nan
    with pytest.raises(DataQualityError) as stopped:
        _correct(frames)
    assert stopped.value.code == "E-MOV-11"
