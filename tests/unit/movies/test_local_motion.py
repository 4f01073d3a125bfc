"""Local motion against truth: blobs drawn at places moved by a known field, Poisson counts. No warp and no Fourier transform in the simulation."""

import numpy as np
import pytest
from blobs import blob_image, make_movie

from cryoet_core.movies.correct import MotionSettings, correct_movie
from cryoet_core.movies.local_field import LocalField, automatic_grid, spline_basis, without_shared_part
from cryoet_core.movies.local_motion import estimate_local
from cryoet_core.movies.motion import MotionTrack
from cryoet_core.movies.motion_file import motion_blocks, read_fields, read_tracks
from cryoet_core.movies.patch_correlation import PatchMaps
from cryoet_core.movies.warp import sum_warped_halves

PIXEL, SHAPE, N_FRAMES = 2.0, (448, 480), 6


def _doming(points, amplitude):
    """(frames, points, 2): points pushed outwards from the middle, fast at first; mean over frames 0; amplitude from first to last frame at the edge."""
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    r = (points - middle) / middle
    t = 1 - np.exp(-np.arange(N_FRAMES) / 2)
    t = t / t[-1] - (t / t[-1]).mean()
    return amplitude * t[:, None, None] * (r * (1.2 - 0.2 * (r**2).sum(axis=1, keepdims=True)))[None]


def _drift():
    track = np.linspace(0, 1, N_FRAMES)[:, None] * np.array([4.0, -2.5])
    return track - track.mean(axis=0)


def _movie(rng, amplitude, contrast=0.3, counts=60.0, drift=None):
    centres = rng.uniform(-30, np.array(SHAPE[::-1]) + 30, (2500, 2))
    widths, heights = rng.uniform(1.5, 4, 2500), contrast * rng.standard_normal(2500)
    moved = centres + _doming(centres, amplitude) + (_drift() if drift is None else drift)[:, None]
    images = [blob_image(SHAPE, place, widths, heights, (0, 0)) for place in moved]
    still = blob_image(SHAPE, centres, widths, heights, (0, 0))
    return [rng.poisson(np.clip(counts * image, 0, None)).astype(np.float32) for image in images], still


def _points():
    x, y = np.meshgrid(np.linspace(0, SHAPE[1] - 1, 15), np.linspace(0, SHAPE[0] - 1, 15))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _error_angst(track, amplitude, drift=None):
    """Rms over frames and image of the vector error of track and field."""
    points = _points()
    truth = _doming(points, amplitude) + (_drift() if drift is None else drift)[:, None]
    found = track.movement_px[:, None] + (0 if track.local is None else track.local.at(points))
    return PIXEL * np.sqrt(((found - truth) ** 2).sum(axis=2).mean())


def _correct(frames, grid_xy, **keywords):
    return correct_movie(lambda: iter(frames), PIXEL, settings=MotionSettings(grid_xy=grid_xy, **keywords), seed=3)


@pytest.fixture(scope="module")
def domed():
    frames, still = _movie(np.random.default_rng(5), 3.0)
    return frames, still, _correct(frames, (4, 4)), _correct(frames, (1, 1))


def test_doming_of_three_pixels_is_found_to_half_an_angstrom(domed):
    _, _, local, whole = domed
    assert local.track.local_model == "accepted" and whole.track.local_model == "off"
    assert _error_angst(whole.track, 3.0) > 1.2
    assert _error_angst(local.track, 3.0) < 0.5
    # outwards: content at the right edge has moved to the right from the first to the last frame, at the left edge to the left
    ends = np.array([[0.15, 0.5], [0.85, 0.5], [0.5, 0.15], [0.5, 0.85]]) * SHAPE[::-1]
    found, truth = (moved[-1] - moved[0] for moved in (local.track.local.at(ends), _doming(ends, 3.0)))
    assert np.abs(found - truth).max() < 0.35 and truth[1, 0] > 2 and truth[0, 0] < -2


def test_expected_error_is_that_of_the_field(domed):
    track, points = domed[2].track, _points()
    truth = _doming(points, 3.0)
    actual = np.sqrt(((track.local.at(points) - (truth - truth.mean(axis=1, keepdims=True))) ** 2).mean())
    assert 0.3 < actual / track.local.predicted_error_px < 3


def test_sum_is_sharper_than_that_of_whole_frames_and_halves_add_up(domed):
    _, still, local, whole = domed
    inside = (slice(15, -15), slice(15, -15))
    likeness = [np.corrcoef(r.image[inside].ravel(), still[inside].ravel())[0, 1] for r in (local, whole)]
    counts = 60.0 * N_FRAMES
    signal = counts**2 * still[inside].var()
    limit = np.sqrt(signal / (signal + counts))  # what counting noise leaves
    assert limit - likeness[0] < 0.2 * (limit - likeness[1])
    assert np.array_equal(local.even + local.odd, local.image)
    assert local.even.sum() == pytest.approx(local.odd.sum(), rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_pure_noise_has_no_local_motion(seed):
    frames = make_movie(np.random.default_rng(seed), np.zeros((N_FRAMES, 2)), shape=SHAPE, contrast=0.0, counts=10)
    track = _correct(frames, (5, 5)).track
    assert track.local_model == "rejected" and track.local_gain < 3


def test_stiff_specimen_has_no_local_motion():
    """Plenty of signal that moves as one: a field could only fit noise."""
    frames, _ = _movie(np.random.default_rng(8), 0.0, counts=10)
    assert _correct(frames, (4, 4)).track.local is None


@pytest.mark.parametrize(("contrast", "counts"), [(0.02, 5.0), (0.05, 5.0), (0.1, 5.0)])
def test_never_worse_than_whole_frames_where_signal_is_poor(contrast, counts):
    for seed in range(2):
        frames, _ = _movie(np.random.default_rng([seed, 1]), 2.0, contrast=contrast, counts=counts)
        errors = [_error_angst(_correct(frames, grid).track, 2.0) for grid in ((3, 3), (1, 1))]
        assert errors[0] <= errors[1] + 0.05


def test_local_motion_without_any_of_the_whole_frame():
    frames, _ = _movie(np.random.default_rng(6), 3.0, drift=np.zeros((N_FRAMES, 2)))
    track = _correct(frames, (4, 4)).track
    assert track.accepted and _error_angst(track, 3.0, np.zeros((N_FRAMES, 2))) < 0.5


def test_grid_by_exposure():
    assert automatic_grid((4096, 4096), 1.9, 3.0) == (1, 1)  # a usual tilt
    assert automatic_grid((3710, 3838), 1.91, 3.0) == (1, 1)
    assert automatic_grid((4092, 5760), 1.0, 40.0) == (7, 5)
    assert automatic_grid((4096, 4096), 1.0, 15.0) == (3, 3)
    assert automatic_grid((4096, 4096), 1.9, float("nan")) == (1, 1)


def test_automatic_grid_at_low_exposure_gives_the_bytes_of_whole_frames(rng):
    frames, _ = _movie(rng, 0.0)
    plain = _correct(frames, (1, 1))
    automatic = correct_movie(lambda: iter(frames), PIXEL, seed=3, exposure_e_per_a2=3.0)
    assert np.array_equal(plain.even, automatic.even) and np.array_equal(plain.track.movement_px, automatic.track.movement_px)
    assert automatic.track.local_model == "off"


def test_grouped_frames_and_memory_limit(monkeypatch, domed):
    """12 frames estimated in 6 groups, the field at every frame; the second pass over the movie gives the same."""
    monkeypatch.setattr("cryoet_core.movies.correct.MAX_NODES", 6)
    rng, frames = np.random.default_rng(9), []
    for frame in domed[0]:
        first = rng.binomial(frame.astype(int), 0.5).astype(np.float32)
        frames += [first, frame - first]
    kept = _correct(frames, (4, 4))
    found = kept.track.movement_px[:, None] + kept.track.local.at(_points())
    truth = _doming(_points(), 3.0) + _drift()[:, None]
    assert found.shape == (12, 225, 2)
    assert PIXEL * np.sqrt(((found.reshape(6, 2, -1, 2).mean(axis=1) - truth) ** 2).sum(axis=2).mean()) < 0.6
    monkeypatch.setattr("cryoet_core.movies.correct.SPECTRA_BUDGET_MB", 0)
    assert np.allclose(_correct(frames, (4, 4)).image, kept.image, atol=1e-2)


def test_warped_sum_without_a_field_is_the_sum_of_shifted_frames(rng):
    from cryoet_core.movies.average import sum_halves

    spectra = [np.fft.rfft2(rng.standard_normal((40, 36))).astype(np.complex64) for _ in range(3)]
    movement = rng.normal(0, 2, (3, 2))
    for one, two in zip(sum_halves(spectra, movement, (40, 36)), sum_warped_halves(spectra, movement, np.zeros((3, 2, 2, 2)), (40, 36)), strict=True):
        assert np.allclose(one, two, atol=1e-4)


def test_gradient_and_curvature_of_the_patch_objective(rng):
    first, second = np.triu_indices(3, 1)
    maps = PatchMaps(rng.standard_normal((2, 3, 21, 21)), first, second, 0.7, np.ones((2, 3)), np.ones((21, 21)), np.zeros((2, 2)))
    at = rng.normal(0, 1, (3, 2, 2))
    _, gradient = maps.value_and_gradient(at)
    for place in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[place] = 1e-4
        numeric = (maps.value(at + step) - maps.value(at - step)) / 2e-4
        assert gradient[place] == pytest.approx(numeric, abs=1e-5)
    step = np.zeros_like(at)
    step[1, :, 0] = 1e-3  # frame 1 is in the pairs 0-1 and 1-2
    numeric = -(maps.value(at + step) - 2 * maps.value(at) + maps.value(at - step)) / 1e-6
    assert maps.curvature(at)[:, [0, 2], 0].sum() == pytest.approx(numeric, rel=1e-3)


def test_field_is_exact_for_polynomials_and_its_table_agrees(rng):
    n, shape = 6, (97, 129)
    t, y, x = np.meshgrid(np.linspace(0, 1, 4), np.linspace(0, 1, 4), np.linspace(0, 1, 4), indexing="ij")
    field = LocalField(np.stack([t**3 * (x**3 - y), t * x * y**2], axis=-1), shape, n)
    points = rng.uniform(0, 1, (20, 2)) * [128, 96]
    u, v, s = points[:, 0] / 128, points[:, 1] / 96, np.arange(n)[:, None] / 5
    truth = np.stack([s**3 * (u**3 - v), s * u * v**2], axis=-1)
    assert np.allclose(field.at(points), truth - truth.mean(axis=0), atol=1e-12)
    table = field.tables()
    assert table.shape == (n, 2, 5, 6)  # a node every 32 pixels or closer
    assert np.allclose(table[2, :, -1, -1], field.at([[128, 96]])[2, 0])
    nodes, mean = without_shared_part(field.nodes_px, shape)
    grid = np.stack(np.meshgrid(np.linspace(0, 128, 65), np.linspace(0, 96, 65)), axis=-1).reshape(-1, 2)
    assert np.abs(LocalField(nodes, shape, n).at(grid).mean(axis=1)).max() < 0.01
    assert np.allclose(field.nodes_px, nodes + mean[:, None, None])
    assert np.allclose(spline_basis(2, [0, 0.25, 1]), [[1, 0], [0.75, 0.25], [0, 1]])


def test_too_little_to_look_at(rng):
    spectra = [np.zeros((32, 17), np.complex64)]
    nothing = estimate_local(spectra, (32, 32), (32, 32), 4.0, np.zeros((1, 2)), [np.array([0])], (3, 3))
    assert nothing.field is None and not nothing.shared_px.any()


def test_motion_file_holds_tracks_and_fields(rng, tmp_path):
    from cryoet_core.io.star import write_star

    field = LocalField(rng.standard_normal((4, 2, 3, 2)), (50, 60), 7)
    track = MotionTrack(rng.standard_normal((7, 2)), "free", 5.0, 1.0, 2.0, 0.1, field, 6.0)
    plain = MotionTrack(np.zeros((7, 2)), "none", 0.0, 0.0, 0.0, 0.1)
    write_star(tmp_path / "motion.star", motion_blocks({9: track, 2: plain}))
    fields, points = read_fields(tmp_path / "motion.star"), rng.uniform(0, 50, (5, 2))
    assert list(fields) == [9] and fields[9].grid_xy == (3, 2)
    assert np.allclose(fields[9].at(points), field.at(points), atol=1e-5)
    assert np.allclose(read_tracks(tmp_path / "motion.star")[9], track.movement_px, atol=1e-5)
    write_star(tmp_path / "plain.star", motion_blocks({2: plain}))
    assert read_fields(tmp_path / "plain.star") == {}
    assert "local" not in (tmp_path / "plain.star").read_text()
