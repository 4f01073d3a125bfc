"""correct_motion and exclude_views on movies and stacks that are not as usual: packed counts, one frame, frames that
do not divide, stored offsets."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import tifffile
from eer_files import write_eer
from script_runner import run_script

from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import TiltSeries, read_tilt_series, write_tilt_series
from cryoet_core.movies.correct import MotionSettings, correct_movie
from cryoet_core.movies.frame_dose import weighted_frames

SHAPE, PIXEL = (96, 128), 4.0
FILES = {
    "table": "TS_01.star",
    "stack": "TS_01.mrc",
    "even": "TS_01_even.mrc",
    "odd": "TS_01_odd.mrc",
    "motion": "TS_01_motion.star",
    "summary": "summary.json",
}


def table(tilts=(-3.0, 0.0, 3.0), shape=SHAPE, **columns):
    n = len(tilts)
    rows = pd.DataFrame(
        {
            "tilt_id": np.argsort(np.argsort(np.abs(tilts), kind="stable"), kind="stable") + 1,
            **columns,
            "nominal_tilt_deg": tilts,
            "pre_exposure_e_per_a2": np.zeros(n),
            "exposure_e_per_a2": 3.0,
            "x_tilt_deg": 0.0,
            "y_tilt_deg": tilts,
            "z_rot_deg": 85.0,
            "x_shift_angst": 0.0,
            "y_shift_angst": 0.0,
            "excluded": 0,
            "exclude_reason": "none",
        }
    )
    return TiltSeries("TS_01", 300.0, 2.7, 0.1, PIXEL, PIXEL, -1, shape[::-1], (0, 0, 0), rows)


def corrected(series, folder, **config):
    write_tilt_series(series, folder / "in.star")
    out = {key: folder / "out" / name for key, name in FILES.items()}
    run_script("correct_motion", {"table": folder / "in.star"}, out, {"format": "float32", **config})
    return {key: read_mrc(out[key])[0] for key in ("stack", "even", "odd")}, read_summary(out["summary"]), out


def independent(even, odd, mean):
    """Correlation of two halves of flat counts; 0 where they share no noise."""
    return float(np.corrcoef((even - mean / 2).ravel(), (odd - mean / 2).ravel())[0, 1])


def test_packed_counts_give_the_same_views(tmp_path, rng):
    paths, packed = [], []
    for i in range(3):
        counts = rng.poisson(3, (4, *SHAPE)).clip(0, 15).astype(np.uint8)
        for name, data, kept in (
            ("plain", counts, paths),
            ("packed", counts[..., ::2] | counts[..., 1::2] << 4, packed),
        ):
            kept.append(str(tmp_path / f"{name}_{i}.tif"))
            tifffile.imwrite(kept[-1], data[:, ::-1], photometric="minisblack")
    folders = [tmp_path / "a", tmp_path / "b"]
    results = []
    for folder, movies in zip(folders, (paths, packed), strict=True):
        folder.mkdir()
        results.append(corrected(table(movie=movies), folder)[0])
    assert all(np.array_equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize("counts, kind", [(True, "counts"), (False, "scaled_counts")])
def test_one_frame_gives_independent_halves(tmp_path, rng, capsys, counts, kind):
    """Of counts exactly (binomially), of scaled ones by the Gaussian limit: mean and variance of a half are those of
    half the electrons."""
    frames = (1.0 if counts else 0.4) * rng.poisson(20, (3, 1, *SHAPE))
    paths = [str(tmp_path / f"m{i}.mrc") for i in range(3)]
    for path, movie in zip(paths, frames, strict=True):
        write_mrc(path, movie.astype(np.float32), PIXEL, stack=True, dtype="uint8" if counts else "float32")
    images, summary, out = corrected(table(movie=paths), tmp_path)
    unit = frames.mean() / 20
    assert np.allclose(images["stack"], frames[:, 0], atol=1e-3) and np.allclose(
        images["even"] + images["odd"], images["stack"], atol=1e-3
    )
    for half in (images["even"], images["odd"]):
        assert half.mean() == pytest.approx(10 * unit, rel=0.01) and half.var() == pytest.approx(10 * unit**2, rel=0.05)
    assert abs(independent(images["even"][1], images["odd"][1], 20 * unit)) < 0.04
    assert summary["halves"] == f"noise split ({kind})" and [entry["tilt_id"] for entry in summary["halves_split"]] == [
        1,
        2,
        3,
    ]
    assert "views 1, 2, 3: one half of the frames holds nothing" in capsys.readouterr().err


def test_one_eer_fraction_and_an_empty_frame(tmp_path, rng):
    """eer_fractions: 1 uses all frames; of two frames one of which is blank the halves are split too, and only
    there."""
    events = rng.random((40, 64, 64)) < 0.03  # few per pixel and frame, as in a camera that counts
    write_eer(tmp_path / "a.eer", events)
    series = table((0.0,), (64, 64), movie=[str(tmp_path / "a.eer")])
    images, summary, _ = corrected(series, tmp_path, eer_fractions=1)
    assert np.mean(images["stack"][0] == events.sum(axis=0)[::-1]) > 0.995 and summary["n_frames_used"] == [
        40
    ]  # but for outliers that are filled
    assert abs(independent(images["even"][0], images["odd"][0], events.sum(axis=0).mean())) < 0.06
    blank = np.stack([rng.poisson(9, SHAPE), np.zeros(SHAPE)]).astype(np.float32)
    done = correct_movie(lambda: iter(blank), PIXEL, settings=MotionSettings(align=False))
    assert done.halves == "noise split (counts)" and np.allclose(done.image, blank[0], atol=1e-3)
    assert done.even.mean() == pytest.approx(4.5, rel=0.02) and done.odd.mean() == pytest.approx(4.5, rel=0.02)
    both = np.stack([rng.poisson(9, SHAPE)] * 2).astype(np.float32)
    assert correct_movie(lambda: iter(both), PIXEL, settings=MotionSettings(align=False)).halves == "frames"


def test_eer_frames_that_do_not_divide_are_all_used(tmp_path, rng):
    events = rng.random((7, 64, 64)) < 0.2
    write_eer(tmp_path / "a.eer", events)
    images, summary, _ = corrected(
        table((0.0,), (64, 64), movie=[str(tmp_path / "a.eer")]), tmp_path, eer_fractions=3, max_shift_angst=1.0
    )
    assert images["stack"].sum() == pytest.approx(events.sum(), rel=1e-4) and summary["n_frames_used"] == [7]
    assert len(summary["halves_split"]) == 0 and summary["halves"] == "frames"


def test_weights_of_frames_of_unequal_dose():
    """Items of 1, 2 and 2 raw frames: each at the middle of its own dose, noise (which goes with the counts) kept
    white."""
    shape, dose, raw = (64, 80), 50.0, (1, 2, 2)
    ones = [np.ones((64, 41), np.complex64)] * 3
    found = np.array(list(weighted_frames(iter(ones), 3, shape, 2.0, dose, 300.0, raw))).real
    k = np.hypot(np.fft.fftfreq(64, 2.0)[:, None], np.fft.rfftfreq(80, 2.0)[None])
    with np.errstate(divide="ignore"):
        critical = 0.24499 * k**-1.6649 + 2.8141
    left = np.exp(-np.array([5.0, 20.0, 40.0])[:, None, None] / (2 * critical))
    share = np.array(raw)[:, None, None] / 5
    assert np.allclose(found, left / np.sqrt((share * left**2).sum(axis=0)), rtol=2e-4)
    even = [np.array(list(weighted_frames(iter(ones), 3, shape, 2.0, dose, 300.0, r))) for r in (None, (2, 2, 2))]
    assert np.array_equal(*even)


TILTS = np.arange(-30.0, 31.0, 6.0)


def ready_stack(folder, rng, value, dtype, dark=None):
    counts = rng.poisson(40, (len(TILTS), *SHAPE)).astype(np.float64)
    if dark is not None:
        counts[dark] = rng.poisson(2, SHAPE)
    write_mrc(folder / "stack.mrc", (counts + value).astype(np.float32), PIXEL, stack=True, dtype=dtype)
    return counts, table(tuple(TILTS), image=[f"{i + 1:06d}@{folder}/stack.mrc" for i in range(len(TILTS))])


def excluded(table_path, folder, **config):
    out = {"table": folder / "e/TS_01.star", "thumbnails": folder / "e/t.mrc", "summary": folder / "e/summary.json"}
    run_script("exclude_views", {"table": table_path}, out, config)
    return read_tilt_series(out["table"]).tilts, read_summary(out["summary"])


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_counts_stored_less_32768_become_counts_again(tmp_path, rng, capsys, dtype):
    counts, series = ready_stack(tmp_path, rng, -32768, dtype, dark=3)
    images, summary, out = corrected(series, tmp_path)
    assert np.array_equal(images["stack"], counts) and summary["offset_undone"] == 32768
    assert summary["halves"] == "noise split (counts)" and "less 32768: that is undone" in capsys.readouterr().err
    tilts, found = excluded(out["table"], tmp_path)
    assert (
        tilts["exclude_reason"].tolist() == ["dark" if row == 3 else "none" for row in range(len(TILTS))]
        and found["darkness_judged"]
    )


@pytest.mark.parametrize("value, dtype", [(-40, "float32"), (-1000, "int16"), (0, "uint16")])
def test_other_values_stay_and_what_cannot_be_judged_is_said(tmp_path, rng, capsys, value, dtype):
    counts, series = ready_stack(tmp_path, rng, value, dtype)
    images, summary, out = corrected(series, tmp_path)
    assert np.allclose(images["stack"], counts + value, atol=1e-3) and summary["offset_undone"] == 0
    capsys.readouterr()
    found = excluded(out["table"], tmp_path)[1]
    assert found["darkness_judged"] == (value == 0) and ("dark views cannot be told" in capsys.readouterr().err) == (
        value != 0
    )


def test_a_series_without_movies_of_its_size_is_still_refused(tmp_path, rng):
    write_mrc(tmp_path / "m.mrc", rng.poisson(3, (2, 96, 60)).astype(np.float32), PIXEL, stack=True, dtype="uint8")
    with pytest.raises(SystemExit):
        corrected(dataclasses.replace(table((0.0,), movie=[str(tmp_path / "m.mrc")])), tmp_path)
