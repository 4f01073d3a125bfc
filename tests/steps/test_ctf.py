"""estimate_ctf as a step: images with a known CTF written by the test, and the ways to tell it the answer."""

import numpy as np
import pandas as pd
import pytest
from script_runner import run_script

from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import TiltSeries, read_tilt_series, write_tilt_series

SHAPE, PIXEL = (320, 384), 3.5
TILTS = (-40.0, 0.0, 40.0)
DEFOCUS = np.array([27000.0, 27500.0, 26500.0])
ASTIGMATISM, ANGLE = 900.0, 140.0


def _view(rng, defocus, tilt_deg):
    """Textbook CTF, tilt axis along image y, depth = -x tan(tilt), defocus - depth; nine slabs blended along x."""
    ky, kx = np.meshgrid(np.fft.fftfreq(SHAPE[0], PIXEL), np.fft.fftfreq(SHAPE[1], PIXEL), indexing="ij")
    k2, wave = kx**2 + ky**2, 0.0196875
    phi = np.arctan2(ky, kx)
    stretch = ASTIGMATISM / 2 * np.cos(2 * (phi - np.deg2rad(ANGLE)))
    spectrum = np.fft.fft2(rng.standard_normal(SHAPE)) / np.sqrt(1 + k2 / 0.03**2)
    x = (np.arange(SHAPE[1]) - SHAPE[1] // 2) * PIXEL
    here = defocus + x * np.tan(np.deg2rad(tilt_deg))
    levels = np.linspace(here.min() - 1, here.max() + 1, 9)
    place = (here - levels[0]) / (levels[1] - levels[0])
    total = 0
    for i, level in enumerate(levels):
        gamma = np.pi * wave * (level + stretch) * k2 - 0.5 * np.pi * 2.7e7 * wave**3 * k2**2 + np.arcsin(0.1)
        slab = np.fft.ifft2(-np.sin(gamma) * spectrum).real
        total = total + np.clip(1 - np.abs(place - i), 0, 1)[None] * slab
    return total / total.std() + rng.standard_normal(SHAPE)


@pytest.fixture(scope="module")
def series_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctf")
    rng = np.random.default_rng(3)
    stack = np.array([_view(rng, z, t) for z, t in zip(DEFOCUS, TILTS, strict=True)], np.float32)
    write_mrc(folder / "stack.mrc", stack, PIXEL, stack=True)
    tilts = pd.DataFrame({
        "tilt_id": [2, 1, 3], "image": [f"{i + 1:06d}@{folder}/stack.mrc" for i in range(3)],
        "nominal_tilt_deg": TILTS, "pre_exposure_e_per_a2": [3.0, 0.0, 6.0], "x_tilt_deg": 0.0, "y_tilt_deg": TILTS,
        "z_rot_deg": 0.0, "x_shift_angst": 0.0, "y_shift_angst": 0.0, "excluded": [1, 0, 0],
        "exclude_reason": ["by hand", "none", "none"],
    })
    series = TiltSeries("TS_01", 300.0, 2.7, 0.1, PIXEL, PIXEL, -1, SHAPE[::-1], (0, 0, 0), tilts)
    write_tilt_series(series, folder / "in.star")
    return folder / "in.star"


def _run(table, out, config):
    outputs = {name: str(out / file) for name, file in
               (("plus", "TS_01_plus.star"), ("minus", "TS_01_minus.star"), ("spectra", "TS_01_spectra.mrc"),
                ("summary", "summary.json"))}
    run_script("estimate_ctf", {"table": str(table)}, outputs, {"window_px": 256, **config})
    return read_tilt_series(outputs["minus"]), outputs


def _decide(fits, out, config=None):
    outputs = {"tables": [str(out / "TS_01.star")], "summary": str(out / "hand.json")}
    inputs = {"plus": [fits["plus"]], "minus": [fits["minus"]], "summaries": [fits["summary"]]}
    run_script("decide_handedness", inputs, outputs, config or {})
    return read_tilt_series(outputs["tables"][0]), read_summary(outputs["summary"])


def test_defocus_of_every_view_against_truth(series_file, tmp_path):
    series, out = _run(series_file, tmp_path, {})
    tilts = series.tilts
    assert tilts["tilt_id"].tolist() == [2, 1, 3] and tilts["excluded"].tolist() == [1, 0, 0]
    mean = 0.5 * (tilts["defocus_u_angst"] + tilts["defocus_v_angst"]).to_numpy()
    assert np.abs(mean - DEFOCUS).max() < 300
    assert np.allclose(tilts["defocus_u_angst"] - tilts["defocus_v_angst"], ASTIGMATISM, atol=250)
    assert np.abs((tilts["defocus_angle_deg"] - ANGLE + 90) % 180 - 90).max() < 8
    assert series.handedness == -1
    summary = read_summary(out["summary"])
    assert summary["hand_evidence"]["log_likelihood_plus_minus"] < -20
    assert summary["fitted"] and summary["n_restrained"] == 0
    pictures, pixel = read_mrc(out["spectra"])
    assert pictures.shape == (3, 256, 256) and pixel == pytest.approx(PIXEL)
    assert pictures.min() >= 0 and pictures.max() <= 1


def test_the_right_axis_stays(series_file, tmp_path):
    fitted, out = _run(series_file, tmp_path, {})
    series, hand = _decide(out, tmp_path)
    assert hand["decided_by_ctf"] == -1 and not hand["axis_turned_180"] and hand["series"]["TS_01"]["votes_minus"] >= 2
    assert series.handedness == -1 and (series.tilts["z_rot_deg"] == 0).all()
    assert np.allclose(series.tilts["defocus_u_angst"], fitted.tilts["defocus_u_angst"])


def test_a_wrong_axis_is_turned_and_said(series_file, tmp_path, capsys):
    series = read_tilt_series(series_file)
    write_tilt_series(series.with_columns(z_rot_deg=180.0), tmp_path / "turned.star")
    _, out = _run(tmp_path / "turned.star", tmp_path, {})
    found, hand = _decide(out, tmp_path)
    assert hand["axis_turned_180"] and hand["decided_by_ctf"] == 1
    assert found.handedness == -1 and (found.tilts["z_rot_deg"] == 0).all()
    assert "turned by 180 degrees" in capsys.readouterr().err
    obeyed, hand = _decide(out, tmp_path, {"handedness": "1"})
    assert obeyed.handedness == 1 and (obeyed.tilts["z_rot_deg"] == 180).all() and hand["decided_by_ctf"] == 1
    obeyed, _ = _decide(out, tmp_path, {"handedness": -1})
    assert obeyed.handedness == -1 and "was given, but" in capsys.readouterr().err


def test_given_defocus_wins(series_file, tmp_path):
    series, out = _run(series_file, tmp_path, {"defocus_angst": 17000.0})
    assert (series.tilts[["defocus_u_angst", "defocus_v_angst"]] == 17000).all().all()
    assert not read_summary(out["summary"])["fitted"]


def test_nothing_is_left_behind_when_there_are_no_rings(series_file, tmp_path, capsys):
    series = read_tilt_series(series_file)
    noise = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)
    write_mrc(tmp_path / "noise.mrc", noise, PIXEL, stack=True)
    names = [f"{i + 1:06d}@{tmp_path}/noise.mrc" for i in range(3)]
    write_tilt_series(series.with_columns(image=names), tmp_path / "noise.star")
    with pytest.raises(SystemExit) as stopped:
        _run(tmp_path / "noise.star", tmp_path / "out", {})
    assert stopped.value.code == 4 and not list((tmp_path / "out").iterdir())
    assert "E-CTF-03" in capsys.readouterr().err
