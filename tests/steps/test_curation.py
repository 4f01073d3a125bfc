"""The scripts of exclude_views and erase_xrays on a small stack with planted faults."""

import re

import numpy as np
import pytest
from script_runner import run_script
from small_series import PIXEL, small_series

from cryoet_core.errors import UserInputError
from cryoet_core.io.images import image_names, load_images, series_views, split_image_name
from cryoet_core.io.mrc import read_mrc
from cryoet_core.io.relion import with_own_stack
from cryoet_core.io.repairs import read_repairs
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.report.views import caption, known_scores, score_figure
from cryoet_core.tilt_series.exclude import mark_excluded
from cryoet_core.tilt_series.halves import iter_views, pointing_to, write_views
from cryoet_core.tilt_series.view_scores import CRITERIA


def erased(folder, stack=False):
    """Outputs of erase_xrays."""
    stacks = {"stack": folder / "TS_01.mrc", "even": folder / "TS_01_even.mrc", "odd": folder / "TS_01_odd.mrc"} if stack else {}
    return {"table": folder / "TS_01.star", "repairs": folder / "TS_01_repairs.star", "strongest": folder / "strongest.mrc",
            "summary": folder / "summary.json", **stacks}  # fmt: skip


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curation")
    rng = np.random.default_rng(3)
    tilts = np.arange(-60, 61, 8.0)
    mean = 40 * np.exp(-0.5 / np.cos(np.deg2rad(tilts)))
    mean[[0, 15]] *= 0.1
    halves = np.stack([rng.poisson(0.5 * m, (2, 64, 72)) for m in mean]).astype(np.float32)
    halves[4, 0, 20, 30] += 200
    halves[7, 1, 0, 5] += 150
    table, stacks = small_series(folder, tilts, halves)
    out = folder / "exclude_views"
    run_script("exclude_views", {"table": table, "stack": stacks[0], "file": []},
               {"table": out / "TS_01.star", "summary": out / "summary.json", "thumbnails": out / "thumbnails.mrc"}, {"first_negative": 2})  # fmt: skip
    files = erased(folder / "x")
    run_script("erase_xrays", {"table": out / "TS_01.star", "stack": stacks[0], "even": stacks[1], "odd": stacks[2]}, files, {})
    return read_tilt_series(table), out, files


def test_rows_are_marked_with_their_reason(curated):
    _, out, _ = curated
    series = read_tilt_series(out / "TS_01.star")
    assert len(series) == 16
    assert series.tilts["exclude_reason"].tolist() == ["first_negative"] * 2 + ["none"] * 13 + ["dark"]
    summary = read_summary(out / "summary.json")
    assert summary["n_excluded"] == 3
    assert summary["views"]["intensity_over_law"][0] < 0.2


def test_hits_are_gone_from_all_three_images_of_a_view(curated):
    before, _, files = curated
    after = read_tilt_series(files["table"])
    assert after.pixel_size_angst == PIXEL
    raw, clean = load_images(before), load_images(after)
    even, odd = load_images(after, "image_even"), load_images(after, "image_odd")
    for view, y, x in ((4, 20, 30), (7, 0, 5)):
        assert abs(clean[view, y, x] - np.median(clean[view])) < 40
        assert even[view, y, x] < 60 and odd[view, y, x] < 60
        assert raw[view, y, x] > 100
    assert (clean != raw).sum() < 30
    assert read_summary(files["summary"])["n_pixels"] >= 2


def test_the_same_run_gives_the_same_bytes(curated, tmp_path):
    _, out, files = curated
    again = erased(tmp_path)
    run_script("erase_xrays", {"table": out / "TS_01.star"}, again, {})
    assert again["repairs"].read_bytes() == files["repairs"].read_bytes()


def test_the_list_and_the_stacks_are_the_same_views(curated, tmp_path):
    before, out, files = curated
    stacked = erased(tmp_path, stack=True)
    run_script("erase_xrays", {"table": out / "TS_01.star"}, stacked, {"stack": True})
    listed, written = read_tilt_series(files["table"]), read_tilt_series(stacked["table"])
    assert listed.tilts["image"].tolist() == before.tilts["image"].tolist()
    assert "xray_repairs" in listed.tilts and "xray_repairs" not in written.tilts
    for column in ("image", "image_even", "image_odd"):
        assert np.array_equal(load_images(listed, column), load_images(written, column))
        assert not np.array_equal(load_images(listed, column), load_images(before, column))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_view_is_repaired_as_all_are_and_as_its_stack_could_hold_it(curated, tmp_path, dtype):
    """Values in the list are rounded as the stacks are; a row that is read alone has its own repairs."""
    before, out, _ = curated
    paths = [str(tmp_path / f"{name}.mrc") for name in ("full", "even", "odd")]
    write_views(paths, iter_views(before), before.pixel_size_angst, dtype)
    write_tilt_series(pointing_to(read_tilt_series(out / "TS_01.star"), paths), tmp_path / "in.star")
    files = erased(tmp_path / "x")
    run_script("erase_xrays", {"table": tmp_path / "in.star"}, files, {})
    series = read_tilt_series(files["table"])
    images = load_images(series, "image_even")
    assert np.array_equal(images, images.astype(dtype))
    assert np.array_equal(series_views(series.select([7, 4]), "image_even")[1], images[4])
    assert np.array_equal(series_views(series, "image_even").map(lambda row, image: image + row)[4], images[4] + 4)


def test_repairs_are_never_passed_over(curated, tmp_path):
    _, _, files = curated
    series = read_tilt_series(files["table"])
    with pytest.raises(UserInputError, match="E-IMG-04.*erase_xrays"):
        series_views(series.with_columns(xray_repairs=str(tmp_path / "lost.star")))
    write_views([tmp_path / f"{n}.mrc" for n in "feo"], iter_views(series), PIXEL)
    moved = series.with_columns(image=image_names(len(series), tmp_path / "f.mrc"))
    with pytest.raises(UserInputError, match="E-IMG-05"):
        load_images(moved)
    text = files["repairs"].read_text()
    (tmp_path / "wrong.star").write_text(re.sub(r"(_tlImageSizeX +)72", r"\g<1>144", text))
    with pytest.raises(UserInputError, match="E-IMG-05"):
        load_images(series.with_columns(xray_repairs=str(tmp_path / "wrong.star")))
    (tmp_path / "cut.star").write_text(text.replace("_tlValueOdd", "_tlOther"))
    with pytest.raises(UserInputError, match="E-IMG-06"):
        load_images(series.with_columns(xray_repairs=str(tmp_path / "cut.star")))
    assert "xray_repairs" not in pointing_to(series, [tmp_path / f"{n}.mrc" for n in "feo"]).tilts


def test_relion_gets_one_stack_of_repaired_views(curated, tmp_path):
    _, _, files = curated
    series = read_tilt_series(files["table"])
    run_script("relion_stack", {"table": files["table"], "stack": split_image_name(series.tilts["image"].iloc[0])[1]}, {"stack": tmp_path / "TS_01.mrcs"}, {})
    theirs = with_own_stack(series, tmp_path / "TS_01.mrcs")
    assert not {"image_even", "image_odd", "xray_repairs"} & set(theirs.tilts)
    assert np.array_equal(load_images(theirs), load_images(series))


def test_pictures_for_the_report(curated, tmp_path):
    before, out, files = curated
    raw, clean = read_mrc(files["strongest"])[0]
    row, column = 20, 24  # of the hit at (20, 30) of view 5, in a window that begins at the border and at column 6
    assert raw[row, column] == raw.max() == load_images(before)[4].max() > clean.max()
    thumbnails = read_mrc(out / "thumbnails.mrc")[0]
    np.testing.assert_allclose(thumbnails.mean(axis=(1, 2)), load_images(before).mean(axis=(1, 2)), rtol=0.01)
    nothing = erased(tmp_path)
    run_script("erase_xrays", {"table": out / "TS_01.star"}, nothing, {"find_peaks": False})
    assert len(read_repairs(nothing["repairs"])) == 0 and np.array_equal(*read_mrc(nothing["strongest"])[0])
    assert np.array_equal(load_images(read_tilt_series(nothing["table"])), load_images(before))


def test_views_of_unreadable_movies_keep_their_reason(tmp_path):
    rng = np.random.default_rng(4)
    tilts = np.arange(-30, 31, 10.0)
    halves = rng.poisson(20 / np.cos(np.deg2rad(tilts))[:, None, None, None], (7, 2, 64, 72)).astype(np.float32)
    halves[3] = 0
    table, stacks = small_series(tmp_path, tilts, halves)
    write_tilt_series(mark_excluded(read_tilt_series(table), {3: "unreadable_movie"}), table)
    out = {"table": tmp_path / "exclude/TS_01.star", "summary": tmp_path / "exclude/summary.json", "thumbnails": tmp_path / "exclude/thumbnails.mrc"}
    run_script("exclude_views", {"table": table, "stack": stacks[0], "file": []}, out, {})
    assert read_tilt_series(out["table"]).tilts["exclude_reason"].tolist() == ["none"] * 3 + ["unreadable_movie"] + ["none"] * 3
    assert read_summary(out["summary"])["excluded"] == [{"tilt_id": 4, "nominal_tilt_deg": 0.0, "reason": "unreadable_movie"}]
    files = erased(tmp_path / "x")
    run_script("erase_xrays", {"table": out["table"]}, files, {})
    images = load_images(read_tilt_series(files["table"]))
    assert np.isfinite(images).all() and not images[3].any()


def test_a_viewers_file_per_series_is_obeyed_and_all_views_are_scored(curated, tmp_path):
    _, out, _ = curated
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/TS_01.yaml").write_text("tilt_series:\n- {tilt_id: 9, reason: ice on it}\n")
    files = {"table": tmp_path / "TS_01.star", "summary": tmp_path / "summary.json", "thumbnails": tmp_path / "thumbnails.mrc"}
    run_script("exclude_views", {"table": out / "TS_01.star"}, files, {"file": str(tmp_path / "lists/{ts}.yaml")})
    assert read_tilt_series(files["table"]).tilts.set_index("tilt_id")["exclude_reason"][9] == "viewer_ice_on_it"
    summary = read_summary(files["summary"])
    views = summary["views"]
    assert views["reason"][8] == "viewer_ice_on_it" and len(views["nominal_tilt_deg"]) == 16
    assert all(len(views[c.score]) == 16 for c in CRITERIA)
    assert all(v is not None for name in ("intensity_over_law", "blocked_fraction", "neighbour_correlation") for v in views[name])
    assert summary["limits"]["blocked_fraction"] == 0.25 and summary["limits"]["field_of_view"] is None


def test_the_report_draws_every_score_with_its_limit(curated):
    _, out, _ = curated
    summary = read_summary(out / "summary.json")
    figure = score_figure(summary)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == len(known_scores(summary)) == 6
    intensity = panels[0]
    assert sorted(len(line.get_xdata()) for line in intensity.lines[:3]) == [1, 3, 13]  # dark, all excluded, used
    assert intensity.lines[3].get_ydata()[0] == 0.5
    assert "informs only" in panels[3].get_title()
    assert "2 first_negative" in caption(summary)
