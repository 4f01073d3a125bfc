"""correct_motion as a step: movies with known drift, gain and dead pixels; and ready stacks."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eer_files import write_eer
from script_runner import run_script

from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.star import read_star
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import TiltSeries, read_tilt_series, write_tilt_series

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
    out = _run(movies, tmp_path)
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
    out = _run(tmp_path, tmp_path / "out", gain=False)
    image, even, odd = (read_mrc(out[name])[0] for name in ("stack", "even", "odd"))
    assert np.allclose(image, stack, atol=1e-4) and np.allclose(even + odd, image, atol=1e-4)
    noise = np.corrcoef((even - 0.2 * clean).ravel(), (odd - 0.2 * clean).ravel())[0, 1]
    assert abs(noise) < 0.04
    summary = read_summary(out["summary"])
    assert summary["halves"] == "noise split (scaled_counts)"
    assert summary["counts_per_electron"] == pytest.approx(0.4, rel=0.1)


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
