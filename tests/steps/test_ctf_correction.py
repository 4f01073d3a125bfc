"""The scripts of correct_ctf and preprocess_tilt_series on a small series of noise."""

import numpy as np
import pytest
from script_runner import run_script
from small_series import small_series

from cryoet_core.ctf.model import ctf_2d
from cryoet_core.errors import UserInputError
from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import read_header
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.subtomo.extract import ExtractionSettings, check_ctf

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
    run_script("correct_ctf", {"table": table}, files, {"defocus_tolerance_angst": 100.0})
    run_script("preprocess_tilt_series", {"table": files["table"]}, binned, {"binning": 4})
    return table, files, binned


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


def test_particles_are_not_cut_from_corrected_views(corrected):
    series = read_tilt_series(corrected[1]["table"])
    with pytest.raises(UserInputError, match="E-CTF-05"):
        check_ctf(series, ExtractionSettings(box_px=16, crop_px=16, binning=1))
