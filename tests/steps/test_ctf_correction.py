"""The scripts of correct_ctf and preprocess_tilt_series on a small series of noise."""

import numpy as np
import pytest
from script_runner import run_script
from small_series import small_series

from cryoet_core.ctf.model import ctf_2d
from cryoet_core.errors import UserInputError
from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import read_header, read_mrc
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.subtomo.extract import ExtractionSettings, check_ctf
from cryoet_core.tilt_series.exclude import mark_excluded

TILTS = np.array([-40.0, 0.0, 40.0])


def outputs(folder):
    names = {"table": "TS_01.star", "stack": "TS_01.mrc", "even": "TS_01_even.mrc", "odd": "TS_01_odd.mrc"}
    return {key: folder / name for key, name in names.items()} | {"summary": folder / "summary.json"}


@pytest.fixture(scope="module")
def corrected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctf")
    rng = np.random.default_rng(4)
    halves = rng.normal(50, 5, (3, 2, 120, 128)).astype(np.float32)
    table, _ = small_series(folder, TILTS, halves, pixel=4.0)
    series = read_tilt_series(table)
    defocus = np.array([0.0, 25000.0, 25000.0])
    write_tilt_series(series.with_columns(defocus_u_angst=defocus, defocus_v_angst=defocus), table)
    files, binned = outputs(folder / "c"), outputs(folder / "p")
    run_script("correct_ctf", {"table": table}, files, {"defocus_tolerance_angst": 100.0})  # at full size
    run_script("preprocess_tilt_series", {"table": files["table"]}, binned, {"binning": 4})
    return table, files, binned


def outputs_without_views(folder):
    return {name: path for name, path in outputs(folder).items() if name in ("table", "summary")}


@pytest.fixture(scope="module")
def binned_first(tmp_path_factory, corrected):
    """(input table, outputs of correct_ctf with binning 4, of preprocess_tilt_series), the first view excluded."""
    folder = tmp_path_factory.mktemp("binned")
    series = mark_excluded(read_tilt_series(corrected[0]), {0: "listed"})
    write_tilt_series(series, folder / "in.star")
    files, table = outputs(folder / "c"), outputs_without_views(folder / "p")
    run_script("correct_ctf", {"table": folder / "in.star"}, files, {"defocus_tolerance_angst": 100.0}, binning=4, gold_diameter_angst=None)
    run_script("preprocess_tilt_series", {"table": files["table"]}, table, {"binning": 4})
    return folder / "in.star", files, table


def test_untilted_view_is_flipped_where_the_ctf_is_negative(corrected):
    table, files, _ = corrected
    raw, fixed = (load_images(read_tilt_series(path))[1] for path in (table, files["table"]))
    c = ctf_2d(raw.shape, 4.0, 25000.0, 25000.0, 0.0, read_tilt_series(table).optics)
    agreement = (np.fft.rfft2(raw) * np.conj(np.fft.rfft2(fixed))).real * np.sign(c)
    assert agreement[np.abs(c) > 0.5].sum() > 0.9 * np.abs(np.fft.rfft2(raw)[np.abs(c) > 0.5] ** 2).sum()


def test_choice_is_recorded_and_unknown_defocus_is_left_alone(corrected):
    table, files, _ = corrected
    series = read_tilt_series(files["table"])
    assert series.tilts["ctf_correction"].tolist() == ["none", "phase_flip", "phase_flip"]
    raw = load_images(read_tilt_series(table))
    np.testing.assert_array_equal(load_images(series)[0], raw[0])
    summary = read_summary(files["summary"])
    assert summary["n_corrected"] == 2 and summary["mode"] == "phase_flip"
    assert summary["defocus_copies_per_view"][2] > summary["defocus_copies_per_view"][1]


def test_halves_are_corrected_like_the_full_view(corrected):
    series = read_tilt_series(corrected[1]["table"])
    total = load_images(series, "image_even") + load_images(series, "image_odd")
    np.testing.assert_allclose(total, load_images(series), atol=2e-3)


def test_preprocessing_bins_scales_and_updates_the_table(corrected):
    _, _, binned = corrected
    series = read_tilt_series(binned["table"])
    assert series.pixel_size_angst == 16.0
    images = load_images(series)
    assert series.image_size_px == images.shape[:0:-1] == (32, 30)
    assert read_header(binned["stack"]).pixel_size_angst == pytest.approx(16.0)
    np.testing.assert_allclose(images.mean(axis=(1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(images.std(axis=(1, 2)), 1, rtol=1e-3)
    even = load_images(series, "image_even")
    assert 0.5 < even.std() < 0.95
    assert read_summary(binned["summary"])["binning"] == 4


def test_corrected_images_are_not_corrected_again(corrected, tmp_path):
    _, files, _ = corrected
    with pytest.raises(SystemExit) as stopped:
        run_script("correct_ctf", {"table": files["table"]}, outputs(tmp_path), {"mode": "multiply"})
    assert stopped.value.code == 2 and not (tmp_path / "TS_01.mrc").exists()


@pytest.mark.parametrize("column", ["image", "image_even", "image_odd"])
def test_binning_first_gives_the_same_views(corrected, binned_first, column):
    """White noise fills also the frequencies where the CTF is zero and its sign means nothing, and the borders: what differs is theirs."""
    after, first = read_tilt_series(corrected[2]["table"]), read_tilt_series(binned_first[2]["table"])
    assert first.pixel_size_angst == after.pixel_size_angst and first.image_size_px == after.image_size_px
    one, other = load_images(after.select([1, 2]), column), load_images(first.select([1, 2]), column)
    for a, b in zip(one, other, strict=True):
        a, b = (image[4:-4, 4:-4] for image in (a, b))
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
        assert np.linalg.norm(a - b) < 0.12 * np.linalg.norm(a)


def test_only_views_in_use_are_written_in_half_precision(binned_first):
    _, files, table = binned_first
    assert read_header(files["stack"]).shape == (2, 30, 32) and read_header(files["stack"]).mode == 12
    for path in (files["table"], table["table"]):
        series = read_tilt_series(path)
        assert len(series) == 3 and series.included.tolist() == [False, True, True]
        assert series.tilts["image"].tolist() == ["none", f"000001@{files['stack']}", f"000002@{files['stack']}"]
    assert read_summary(table["summary"])["tilt_id"] == [2, 3]


def test_other_grey_values_come_from_the_same_corrected_views(corrected, binned_first, tmp_path):
    """Views that correct_ctf stored with mean 0 and standard deviation 1, against those that kept their grey values."""
    config = {"binning": 4, "grey_values": "common_range", "grey_range": [0.0, 100.0]}
    excluded = mark_excluded(read_tilt_series(corrected[1]["table"]), {0: "listed"})
    write_tilt_series(excluded, tmp_path / "after.star")
    results = []
    for name, table in (("after", tmp_path / "after.star"), ("first", binned_first[1]["table"])):
        files = outputs(tmp_path / name)
        run_script("preprocess_tilt_series", {"table": table}, files, config)
        series = read_tilt_series(files["table"])
        assert read_header(files["stack"]).mode == 2
        results.append((series, *(load_images(series.select(series.included), column) for column in ("image", "image_even", "image_odd"))))
    (_, *after), (series, full, even, odd) = results
    assert full.min() == pytest.approx(0, abs=1e-3) and full.max() == pytest.approx(100, rel=1e-4)
    np.testing.assert_allclose(even + odd, full, atol=0.1)  # rounding of half precision
    for a, b in zip(after, (full, even, odd), strict=True):
        np.testing.assert_allclose(a.mean(axis=(1, 2)), b.mean(axis=(1, 2)), rtol=0.05)
        np.testing.assert_allclose(a.std(axis=(1, 2)), b.std(axis=(1, 2)), rtol=0.1)
    old = (full - series.tilts["grey_level"].to_numpy()[1:, None, None]) / series.tilts["grey_gain"].to_numpy()[1:, None, None]
    np.testing.assert_allclose(old.std(axis=(1, 2)), series.tilts["grey_std"][1:], rtol=1e-3)
    assert series.tilts["grey_mean"][1:].to_numpy() == pytest.approx(100, rel=0.01)  # 50 electrons in either half


def test_particles_are_not_cut_from_corrected_views(corrected):
    series = read_tilt_series(corrected[1]["table"])
    with pytest.raises(UserInputError, match="E-CTF-05"):
        check_ctf(series, ExtractionSettings(box_px=16, crop_px=16, binning=1))


def test_aligned_stack_is_written_on_request(corrected, tmp_path):
    _, files, binned = corrected
    paths = outputs(tmp_path) | {"aligned": tmp_path / "TS_01_aligned.mrc", "aligned_tlt": tmp_path / "TS_01_aligned.tlt"}
    run_script("preprocess_tilt_series", {"table": files["table"]}, paths, {"binning": 4, "aligned_stack": True})
    header = read_header(paths["aligned"])
    assert header.shape == (3, 32, 30) and header.pixel_size_angst == pytest.approx(16.0)  # the axis at 85 degrees: sides exchanged
    np.testing.assert_allclose(np.loadtxt(paths["aligned_tlt"]), TILTS, atol=0.01)
    plain, again = (load_images(read_tilt_series(f["table"])) for f in (binned, paths))
    np.testing.assert_array_equal(plain, again)


@pytest.mark.parametrize(("shape", "binning", "size"), [((61, 75), 1, (76, 62, 20)), ((61, 75), 3, (26, 22, 20)), ((92, 130), 8, (18, 12, 20))])
def test_views_of_any_size_reach_the_tomogram(tmp_path, shape, binning, size):
    """Odd sizes, and sizes that are no multiple of the binning (as 4092 x 5760): a bead is where it was drawn, dark."""
    tilts, pixel = np.arange(-60.0, 61, 6), 4.0
    y, x = np.mgrid[: shape[0], : shape[1]] - np.array([shape[0] // 2, shape[1] // 2])[:, None, None]
    place, sigma = np.array([-16.0, 8.0]) / 2, 1.2 * binning + 1  # px of the raw views, on the tilt axis' plane z = 0
    views = [50 - 20 * np.exp(-((x - np.cos(np.deg2rad(t)) * place[0]) ** 2 + (y - place[1]) ** 2) / (2 * sigma**2)) for t in tilts]
    halves = np.stack([np.stack([v / 2, v / 2]) for v in views])
    halves += np.random.default_rng(3).normal(0, 0.5, halves.shape)
    table, _ = small_series(tmp_path, tilts, halves.astype(np.float32), pixel=pixel, axis=0.0)
    files, binned = outputs(tmp_path / "c"), outputs_without_views(tmp_path / "p")
    run_script("correct_ctf", {"table": table}, files, {"mode": "none"}, binning=binning, gold_diameter_angst=None)
    run_script("preprocess_tilt_series", {"table": files["table"]}, binned, {"binning": binning})
    folder = tmp_path / "r"
    rec = {"table": folder / "a.star", "raw_table": folder / "b.star", "tomogram": folder / "a.mrc", "even": folder / "even.mrc", "odd": folder / "odd.mrc",
           "summary": folder / "s.json"}  # fmt: skip
    run_script("reconstruct_tomogram", {"table": binned["table"], "aligned": table, "alignment": None}, rec, {"thickness": 20, "method": "wbp"})
    volume = read_mrc(rec["tomogram"])[0]
    assert volume.shape == size[::-1] == read_header(rec["odd"]).shape
    z, y, x = np.unravel_index(volume.argmin(), volume.shape) - np.array(volume.shape) // 2
    np.testing.assert_allclose([x, y, z], [place[0] / binning, place[1] / binning, 0], atol=0.6)
