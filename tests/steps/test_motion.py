"""correct_motion as a step: movies with known drift, gain and dead pixels; and ready stacks."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eer_files import write_eer
from script_runner import run_script

from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import read_header, read_mrc, write_mrc
from cryoet_core.io.star import read_star
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import TiltSeries, read_tilt_series, write_tilt_series
from cryoet_core.movies.motion_file import read_fields
from cryoet_core.report.movies import local_figure

SHAPE, PIXEL, N_FRAMES = (144, 160), 4.0, 4
TILTS = (-3.0, 0.0, 3.0)
TILT_IDS = (3, 1, 2)


def _scene(shift_xy, seed=5):
    """Gaussian blobs of real space moved by ``shift_xy``, mean 1."""
    rng = np.random.default_rng(seed)
    centres, widths = rng.uniform(-20, 180, (400, 2)), rng.uniform(1.5, 4, 400)
    heights = 0.3 * rng.standard_normal(400)
    y, x = np.arange(SHAPE[0])[None], np.arange(SHAPE[1])[None]
    column = np.exp(-((x - centres[:, :1] - shift_xy[0]) ** 2) / (2 * widths[:, None] ** 2))
    row = np.exp(-((y - centres[:, 1:] - shift_xy[1]) ** 2) / (2 * widths[:, None] ** 2))
    return np.clip(1 + np.einsum("n,ny,nx->yx", heights, row, column), 0, None)


def _table(**columns):
    tilts = pd.DataFrame({
        "tilt_id": TILT_IDS, **columns, "nominal_tilt_deg": TILTS, "pre_exposure_e_per_a2": [6.0, 0.0, 3.0],
        "x_tilt_deg": 0.0, "y_tilt_deg": TILTS, "z_rot_deg": 85.0, "x_shift_angst": 0.0, "y_shift_angst": 0.0,
        "excluded": 0, "exclude_reason": "none",
    })
    return TiltSeries("TS_01", 300.0, 2.7, 0.1, PIXEL, PIXEL, -1, SHAPE[::-1], (0, 0, 0), tilts)


def _movement(tilt_id):
    track = np.linspace(0, 1, N_FRAMES)[:, None] * np.array([2.0 * tilt_id - 3, 1.0 - tilt_id])
    return track - track.mean(axis=0)


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("movies")
    rng = np.random.default_rng(11)
    gain = rng.uniform(0.8, 1.25, SHAPE).astype(np.float32)
    gain /= gain.mean()
    rate = 60 / gain
    gain[20, 30] = rate[20, 30] = 0
    write_mrc(folder / "gain.mrc", gain, PIXEL)
    paths = []
    for tilt_id in TILT_IDS:
        frames = [rng.poisson(rate * _scene(shift)) for shift in _movement(tilt_id)]
        paths.append(str(folder / f"movie_{tilt_id}.mrc"))
        write_mrc(paths[-1], np.array(frames), PIXEL, stack=True, dtype="uint8")
    series = _table(movie=paths, n_frames=N_FRAMES)
    write_tilt_series(series, folder / "in.star")
    return folder


def _run(folder, out, config=None, gain=True, **inputs):
    outputs = {
        "table": f"{out}/TS_01.star", "stack": f"{out}/TS_01.mrc", "even": f"{out}/TS_01_even.mrc",
        "odd": f"{out}/TS_01_odd.mrc", "motion": f"{out}/TS_01_motion.star", "summary": f"{out}/summary.json",
    }
    inputs |= {"table": str(folder / "in.star")} | ({"gain": str(folder / "gain.mrc")} if gain else {})
    run_script("correct_motion", inputs, outputs, config or {})
    return outputs


def test_movies_become_views_with_known_motion(movies, tmp_path):
    out = _run(movies, tmp_path, {"format": "float32"})
    series = read_tilt_series(out["table"])
    assert series.tilts["tilt_id"].tolist() == list(TILT_IDS) and series.pixel_size_angst == PIXEL
    image, even, odd = (load_images(series, c) for c in ("image", "image_even", "image_odd"))
    assert image.shape == (3, *SHAPE)
    assert np.allclose(even + odd, image, atol=1e-2)
    still = 60 * N_FRAMES * _scene((0, 0))
    inside = (slice(None), slice(12, -12), slice(12, -12))
    assert abs(image[inside].mean() / still.mean() - 1) < 0.03
    truth = still[12:-12, 12:-12].ravel()
    limit = np.sqrt(truth.var() / (truth.var() + truth.mean()))  # what counting noise alone leaves
    for view in image:
        assert np.corrcoef(view[12:-12, 12:-12].ravel(), truth)[0, 1] > 0.97 * limit
        assert abs(view[20, 30] - 240) < 150  # the dead pixel is filled
    motion = read_star(out["motion"])["motion"]
    assert len(motion) == 3 * N_FRAMES
    for tilt_id in TILT_IDS:
        rows = motion[motion["tlTiltId"] == tilt_id]
        assert rows["tlFrame"].tolist() == [1, 2, 3, 4]
        assert np.abs(rows[["tlShiftXPx", "tlShiftYPx"]].to_numpy() - _movement(tilt_id)).max() < 0.15
    summary = read_summary(out["summary"])
    assert summary["halves"] == "frames" and summary["n_accepted"] == 3 and len(summary["motion_rms_angst"]) == 3


def test_half_precision_adds_next_to_no_noise(movies, tmp_path):
    half, single = (_run(movies, tmp_path / name, {"format": name}) for name in ("float16", "float32"))
    for name, counts in (("stack", 60 * N_FRAMES), ("even", 30 * N_FRAMES), ("odd", 30 * N_FRAMES)):
        assert read_header(half[name]).mode == 12 and read_header(single[name]).mode == 2
        assert Path(half[name]).stat().st_size < 0.51 * Path(single[name]).stat().st_size
        error = read_mrc(half[name])[0] - read_mrc(single[name])[0]
        assert 0 < np.sqrt(np.mean(error**2)) < 0.005 * np.sqrt(counts)
    assert Path(half["table"]).read_text().replace("/float16/", "/float32/") == Path(single["table"]).read_text()


@pytest.mark.parametrize(("scale", "fits"), [(300.0, True), (1500.0, False)])
def test_counts_of_an_integrating_camera_become_float32_where_they_must(tmp_path, rng, capsys, scale, fits):
    """60 electrons of 300 counts are rounded as finely as 60 of one; 60 of 1500 are beyond 65504 in the second view."""
    stack = (scale * rng.poisson(np.array([level * _scene((0, 0)) for level in (12, 60, 20)]))).astype(np.float32)
    write_mrc(tmp_path / "stack.mrc", stack, PIXEL, stack=True)
    write_tilt_series(_table(image=[f"{i + 1:06d}@{tmp_path}/stack.mrc" for i in range(3)]), tmp_path / "in.star")
    out = _run(tmp_path, tmp_path / "out", gain=False)
    image, even, odd = (read_mrc(out[name])[0] for name in ("stack", "even", "odd"))
    assert {read_header(out[name]).mode for name in ("stack", "even", "odd")} == {12 if fits else 2}
    assert ("view 2 needs more than half precision" in capsys.readouterr().err) == (not fits)
    assert fits or np.allclose(image[1:], stack[1:], rtol=1e-6)
    noise = scale * np.sqrt(12)
    assert np.abs(image[0] - stack[0]).std() < 0.02 * noise and np.abs((even + odd - image)[0]).std() < 0.02 * noise
    assert read_header(out["stack"]).n_sections == 3 and image[2].mean() == pytest.approx(stack[2].mean(), rel=1e-4)


def test_same_input_same_bytes(movies, tmp_path):
    first, second = (_run(movies, tmp_path / name) for name in "ab")
    for name in ("stack", "even", "odd", "motion"):
        with open(first[name], "rb") as one, open(second[name], "rb") as two:
            assert one.read() == two.read()


def test_binning_changes_pixel_and_size(movies, tmp_path):
    out = _run(movies, tmp_path, {"binning": 2})
    series = read_tilt_series(out["table"])
    assert series.pixel_size_angst == 2 * PIXEL and series.movie_pixel_size_angst == PIXEL
    images, pixel = read_mrc(out["stack"])
    assert images.shape[1:] == series.image_size_px[::-1] == (72, 80) and pixel == pytest.approx(8.0)


def test_gain_of_another_camera_stops_the_step(movies, tmp_path, capsys):
    folder = tmp_path / "wrong"
    folder.mkdir()
    (folder / "in.star").write_bytes((movies / "in.star").read_bytes())
    write_mrc(folder / "gain.mrc", np.ones(SHAPE[::-1], np.float32), PIXEL)
    with pytest.raises(SystemExit) as stopped:
        _run(folder, tmp_path / "out")
    assert stopped.value.code == 2 and not list((tmp_path / "out").glob("*.mrc"))
    assert "gain_transpose" in capsys.readouterr().err


def _with_cut_movies(movies, folder, *tilt_ids):
    """The series with these movies cut in the middle of their data."""
    series = read_tilt_series(movies / "in.star")
    paths = []
    for tilt_id, path in zip(TILT_IDS, series.tilts["movie"], strict=True):
        with open(path, "rb") as whole:
            data = whole.read()
        paths.append(str(folder / f"movie_{tilt_id}.mrc"))
        with open(paths[-1], "wb") as copy:
            copy.write(data[: len(data) // 2] if tilt_id in tilt_ids else data)
    write_tilt_series(series.with_columns(movie=paths), folder / "in.star")
    (folder / "gain.mrc").write_bytes((movies / "gain.mrc").read_bytes())


def test_one_unreadable_movie_costs_one_view(movies, tmp_path, capsys):
    _with_cut_movies(movies, tmp_path, 1)
    whole, out = _run(movies, tmp_path / "whole"), _run(tmp_path, tmp_path / "out")
    assert "view 1 is left out: E-M" in capsys.readouterr().err
    series, stack = read_tilt_series(out["table"]), read_mrc(out["stack"])[0]
    assert series.tilts["exclude_reason"].tolist() == ["none", "unreadable_movie", "none"]
    assert series.tilts["excluded"].tolist() == [0, 1, 0]
    assert not stack[1].any() and np.array_equal(stack[[0, 2]], read_mrc(whole["stack"])[0][[0, 2]])
    summary = read_summary(out["summary"])
    assert [view["tilt_id"] for view in summary["unreadable"]] == [1] and summary["motion_tilt_id"] == [3, 2]
    assert "movie_1.mrc" in summary["unreadable"][0]["error"]


def test_most_movies_unreadable_stops_the_step(movies, tmp_path, capsys):
    _with_cut_movies(movies, tmp_path, 1, 2)
    with pytest.raises(SystemExit) as stopped:
        _run(tmp_path, tmp_path / "out")
    assert stopped.value.code == 2 and not list((tmp_path / "out").glob("*.mrc"))
    assert "movie_2.mrc" in capsys.readouterr().err


def test_listed_defects_are_filled(movies, tmp_path):
    (tmp_path / "boxes.txt").write_text("40 50 3 20\n")
    plain, out = _run(movies, tmp_path / "plain"), _run(movies, tmp_path / "out", defects=str(tmp_path / "boxes.txt"))
    assert read_summary(out["summary"])["max_defects"] == read_summary(plain["summary"])["max_defects"] + 60


def test_ready_stack_passes_through_with_independent_halves(tmp_path, rng):
    clean = np.array([level * _scene((0, 0)) for level in (60, 80, 100)])
    stack = (0.4 * rng.poisson(clean)).astype(np.float32)
    write_mrc(tmp_path / "stack.mrc", stack, PIXEL, stack=True)
    names = [f"{i + 1:06d}@{tmp_path}/stack.mrc" for i in range(3)]
    write_tilt_series(dataclasses.replace(_table(image=names)), tmp_path / "in.star")
    out = _run(tmp_path, tmp_path / "out", {"format": "float32"}, gain=False)
    image, even, odd = (read_mrc(out[name])[0] for name in ("stack", "even", "odd"))
    assert np.allclose(image, stack, atol=1e-4) and np.allclose(even + odd, image, atol=1e-4)
    noise = np.corrcoef((even - 0.2 * clean).ravel(), (odd - 0.2 * clean).ravel())[0, 1]
    assert abs(noise) < 0.04
    summary = read_summary(out["summary"])
    assert summary["halves"] == "noise split (scaled_counts)"
    assert summary["counts_per_electron"] == pytest.approx(0.4, rel=0.1)


@pytest.fixture(scope="module")
def stretching(tmp_path_factory):
    """Movies of 12 e/A^2 whose content is pulled apart along x: the left edge moves left, the right edge right, by 2 px from first to last frame."""
    folder = tmp_path_factory.mktemp("stretching")
    shape, rng = (288, 320), np.random.default_rng(4)
    centres, widths = rng.uniform(-20, 340, (1500, 2)), rng.uniform(1.5, 4, 1500)
    heights, paths = 0.3 * rng.standard_normal(1500), []
    for tilt_id in TILT_IDS:
        frames = []
        for f in range(N_FRAMES):
            x = centres[:, 0] + 4 * (f / (N_FRAMES - 1) - 0.5) * (centres[:, 0] / 160 - 1) / 2
            column = np.exp(-((np.arange(320)[None] - x[:, None]) ** 2) / (2 * widths[:, None] ** 2))
            row = np.exp(-((np.arange(288)[None] - centres[:, 1:]) ** 2) / (2 * widths[:, None] ** 2))
            frames.append(rng.poisson(48 * np.clip(1 + (heights[:, None] * row).T @ column, 0, None)))
        paths.append(str(folder / f"movie_{tilt_id}.mrc"))
        write_mrc(paths[-1], np.array(frames), PIXEL, stack=True, dtype="uint8")
    series = dataclasses.replace(_table(movie=paths, n_frames=N_FRAMES, exposure_e_per_a2=12.0), image_size_px=shape[::-1])
    write_tilt_series(series, folder / "in.star")
    return folder


def test_local_motion_of_a_given_grid(stretching, tmp_path):
    out = _run(stretching, tmp_path, {"grid": [3, 3, 4]}, gain=False)
    summary, fields = read_summary(out["summary"]), read_fields(out["motion"])
    assert summary["n_local"] == 3 and summary["local_model"] == ["accepted"] * 3 and summary["local_grid"] == [[3, 3, 4]] * 3
    assert sorted(fields) == sorted(TILT_IDS) and read_tilt_series(out["table"]).tilts["motion_model"].str.endswith("+local").all()
    points = np.array([[40, 144], [160, 144], [280, 144]])
    for field, expected in zip((fields[i] for i in TILT_IDS), summary["local_rms_angst"], strict=True):
        moved = field.at(points)[-1] - field.at(points)[0]
        assert moved[:, 0] == pytest.approx(2 * (points[:, 0] / 160 - 1), abs=0.35) and np.abs(moved[:, 1]).max() < 0.35
        assert PIXEL * field.rms_px == pytest.approx(expected, rel=1e-3)
        assert 1.0 < expected < 2.2  # truth: 1.7 A
    assert all(0.01 < e < 1 for e in summary["local_predicted_error_angst"])
    arrows = local_figure(read_tilt_series(out["table"]), 1, fields[1], summary).axes[0].collections[0]
    assert np.sqrt(np.mean((arrows.U - 2 * (arrows.X / 160 - 1)) ** 2)) < 0.25 and np.sqrt(np.mean(arrows.V**2)) < 0.25


def test_rejected_local_motion_gives_the_images_of_whole_frames(movies, tmp_path):
    """Content that moves as one: the grid is obeyed as the model, the test says no, and the summary says so."""
    whole, out = (_run(movies, tmp_path / name, {"grid": grid}) for name, grid in (("w", [1, 1, 4]), ("l", [3, 3, 4])))
    summary = read_summary(out["summary"])
    assert summary["local_model"] == ["rejected"] * 3 and read_summary(whole["summary"])["local_model"] == ["off"] * 3
    for name in ("stack", "even", "odd", "motion"):
        with open(out[name], "rb") as one, open(whole[name], "rb") as two:
            assert one.read() == two.read()
    assert max(summary["local_held_out_gain_sigma"]) < 3


def test_dose_weighting_needs_the_exposure_and_keeps_the_halves(movies, stretching, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        _run(movies, tmp_path / "unknown", {"dose_weighting": True})
    assert stopped.value.code == 2 and "E-MOVIE-06" in capsys.readouterr().err
    plain, out = (_run(stretching, tmp_path / str(on), {"dose_weighting": on, "grid": [1, 1, 4], "format": "float32"}, gain=False) for on in (False, True))
    image, even, odd = (read_mrc(out[name])[0] for name in ("stack", "even", "odd"))
    assert np.allclose(even + odd, image, atol=1e-2)
    before = read_mrc(plain["stack"])[0]
    assert image.mean() == pytest.approx(before.mean(), rel=1e-4) and 0.02 < (image - before).std() / before.std() < 0.5
    assert image[:, ::2].std() == pytest.approx(before[:, ::2].std(), rel=0.03)


def test_super_resolved_eer_keeps_what_lies_inside_a_camera_pixel(tmp_path):
    """Left halves of the camera's pixels get three times the events of right ones, and half the pixels are half as sensitive."""
    h, w, n_frames, rng = 64, 80, 120, np.random.default_rng(0)
    gain = np.where(rng.random((h, w)) < 0.5, 1.0, 2.0)
    paths = []
    for tilt_id in TILT_IDS:
        events = rng.random((n_frames, h, w)) < 0.3 / gain[::-1]  # the file's first row is the top one
        x = np.where(rng.random(events.shape) < 0.75, 0, 2) + rng.integers(0, 2, events.shape)
        places = (x ^ 2) | (rng.integers(0, 4, events.shape) << 2)
        paths.append(str(tmp_path / f"movie_{tilt_id}.eer"))
        write_eer(Path(paths[-1]), events, places=places)
    write_mrc(tmp_path / "gain.mrc", gain.astype(np.float32), PIXEL)
    series = dataclasses.replace(_table(movie=paths, n_frames=n_frames), image_size_px=(2 * w, 2 * h), pixel_size_angst=PIXEL / 2,
                                 movie_pixel_size_angst=PIXEL / 2, eer_super_resolution=2)
    write_tilt_series(series, tmp_path / "in.star")
    out = _run(tmp_path, tmp_path / "out", {"eer_fractions": 4})
    images, pixel = read_mrc(out["stack"])
    assert images.shape == (3, 2 * h, 2 * w) and pixel == pytest.approx(PIXEL / 2)
    evidence = read_summary(out["summary"])["gain"]
    assert evidence["decided"] and not (evidence["flip_x"] or evidence["flip_y"] or evidence["transpose"] or evidence["inverse"])
    left, right = images[:, :, ::2].mean(), images[:, :, 1::2].mean()
    assert left / right == pytest.approx(3, rel=0.02)
    coarse = images.reshape(3, h, 2, w, 2).sum(axis=(2, 4))
    assert coarse[:, gain == 1].mean() / coarse[:, gain == 2].mean() == pytest.approx(1, abs=0.02)


def test_a_missing_movie_becomes_a_view_of_zeros_and_keeps_its_reason(movies, tmp_path, capsys):
    series = read_tilt_series(movies / "in.star")
    paths = [p if i != 3 else str(tmp_path / "nowhere.mrc") for i, p in zip(TILT_IDS, series.tilts["movie"], strict=True)]
    lost = series.with_columns(movie=paths, excluded=[1, 0, 0], exclude_reason=["missing_movie", "none", "none"])
    write_tilt_series(lost, tmp_path / "in.star")
    (tmp_path / "gain.mrc").write_bytes((movies / "gain.mrc").read_bytes())
    whole, out = _run(movies, tmp_path / "whole"), _run(tmp_path, tmp_path / "out")
    stack, complete = read_mrc(out["stack"])[0], read_mrc(whole["stack"])[0]
    assert not stack[0].any() and np.array_equal(stack[1:], complete[1:])
    tilts = read_tilt_series(out["table"]).tilts
    assert tilts["exclude_reason"].tolist() == ["missing_movie", "none", "none"] and tilts["excluded"].tolist() == [1, 0, 0]
    assert "nowhere.mrc" in read_summary(out["summary"])["unreadable"][0]["error"]
    assert "view 3 is left out" in capsys.readouterr().err
