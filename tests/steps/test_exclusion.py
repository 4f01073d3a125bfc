"""Excluding a view equals never having had it: the steps from erase_xrays to reconstruct_tomogram, run both ways."""

import numpy as np
import pytest
from script_runner import run_script
from small_series import small_series
from synthetic_series import blob_series, view_axes

from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import read_mrc
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.tilt_series.exclude import mark_excluded

BAD, PIXEL = 4, 14.0
GREY = {"binning": 1, "grey_values": "common_range", "grey_range": [0.0, 100.0]}


def stack_files(folder, **more):
    names = {"table": "TS_01.star", "stack": "TS_01.mrc", "even": "TS_01_even.mrc", "odd": "TS_01_odd.mrc", "summary": "summary.json"}
    return {key: folder / name for key, name in (names | more).items()}


def run_steps(folder, table):
    erased = {key: folder / "x" / name for key, name in (("table", "TS_01.star"), ("repairs", "r.star"), ("strongest", "s.mrc"), ("summary", "s.json"))}
    run_script("erase_xrays", {"table": table}, erased, {})
    aligned = {k: folder / "a" / f"TS_01.{k}" for k in ("xf", "tlt", "xtilt", "aln", "xml")}
    aligned |= {"table": folder / "a/TS_01.star", "gold": folder / "a/gold.star", "summary": folder / "a/summary.json"}
    run_script("align_tilt_series", {"table": erased["table"]}, aligned, {"max_sweeps": 3})
    corrected, binned = stack_files(folder / "c"), stack_files(folder / "p")
    run_script("correct_ctf", {"table": aligned["table"]}, corrected, {}, binning=1, gold_diameter_angst="auto")
    run_script("preprocess_tilt_series", {"table": corrected["table"]}, binned, GREY)
    rec = {"table": folder / "r/TS_01.star", "raw_table": folder / "r/raw.star", "tomogram": folder / "r/TS_01.mrc", "summary": folder / "r/s.json"}
    run_script("reconstruct_tomogram", {"table": binned["table"], "aligned": aligned["table"]}, rec, {"thickness": 40})
    return {"erased": erased, "aligned": aligned, "corrected": corrected, "binned": binned, "rec": rec}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(with the view excluded, without it): outputs of all steps. The bad view is bright noise with beads, hits and a dead row."""
    rng = np.random.default_rng(9)
    images, tilts, shifts = blob_series(rng, noise=0.6)
    mean = 30 * (1 + 0.05 * images / images.std())
    beads = np.array([(250.0, -300.0, 200.0), (-350.0, 200.0, -150.0), (50.0, 400.0, 100.0)])
    y, x = ((np.arange(n) - n // 2) * PIXEL for n in mean.shape[1:])
    for view, axes, shift in zip(mean, view_axes(tilts + 2.0, 86.0), shifts, strict=True):
        for u, v in beads @ axes.T + shift:
            view *= np.exp(-0.0045 * 2 * np.sqrt(np.clip(100.0**2 - (x[None] - u) ** 2 - (y[:, None] - v) ** 2, 0, None)))
    mean[BAD] = 300 * rng.random(mean[BAD].shape)
    halves = np.stack([rng.poisson(np.maximum(m, 0), (2, *m.shape)) for m in mean]).astype(np.float32)
    halves[2, 0, 50, 60] += 300
    halves[BAD, :, 30] = 0
    folder = tmp_path_factory.mktemp("exclusion")
    table, _ = small_series(folder, tilts, halves, pixel=PIXEL, axis=86.0)
    series = read_tilt_series(table).with_columns(defocus_u_angst=30000.0, defocus_v_angst=29500.0)
    kept = np.arange(len(series)) != BAD
    results = []
    for name, part in (("excluded", mark_excluded(series, {BAD: "listed"})), ("absent", series.select(kept))):
        (folder / name).mkdir()
        write_tilt_series(part, folder / name / "in.star")
        results.append(run_steps(folder / name, folder / name / "in.star"))
    return results


@pytest.mark.parametrize("step", ["erased", "binned"])
@pytest.mark.parametrize("column", ["image", "image_even", "image_odd"])
def test_images_of_the_other_views_are_the_same(both, step, column):
    one, other = (read_tilt_series(outputs[step]["table"]) for outputs in both)
    one, other = one.select(one.included), other.select(other.included)  # alignment may leave out a view, in both the same
    assert one.tilts["tilt_id"].tolist() == other.tilts["tilt_id"].tolist()
    np.testing.assert_allclose(load_images(one, column), load_images(other, column), rtol=1e-6, atol=1e-6)


def test_beads_are_found_and_erased_in_both(both):
    for outputs in both:
        assert read_summary(outputs["aligned"]["summary"])["gold"]["n_beads"] == 3
        used = read_tilt_series(outputs["aligned"]["table"]).included
        before, after = (load_images(read_tilt_series(outputs[step]["table"]).select(used)) for step in ("erased", "corrected"))
        for recorded, corrected in zip(before, after, strict=True):
            beads = recorded < 0.55 * np.median(recorded)
            darkness = [(np.mean(v) - np.mean(v[beads])) / np.std(v) for v in (recorded, corrected)]
            assert beads.mean() > 0.005 and darkness[0] > 2 and darkness[1] < 0.35 * darkness[0]


def test_geometry_is_the_same(both):
    one, other = (read_tilt_series(outputs["aligned"]["table"]) for outputs in both)
    one, other = one.select(one.included).geometry, other.select(other.included)
    assert len(one) >= 15
    assert np.abs(other.geometry.shift_angst).max() > 20
    np.testing.assert_allclose(one.shift_angst, other.geometry.shift_angst, atol=1e-6)
    np.testing.assert_allclose(one.rotation, other.geometry.rotation, atol=1e-9)


def test_tomogram_is_the_same(both):
    one, other = (read_mrc(outputs["rec"]["tomogram"])[0] for outputs in both)
    assert one.std() > 0
    np.testing.assert_allclose(one, other, atol=1e-6 * np.abs(other).max())
