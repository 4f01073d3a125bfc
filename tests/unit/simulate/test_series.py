"""The camera, the plan of a series and the files of a whole small series."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest

from cryoet_core.config.simulate import Simulate
from cryoet_core.io.mrc import read_header, read_mrc
from cryoet_core.metadata import read_particles, read_tilt_series
from cryoet_core.simulate.acquisition import dose_symmetric_tilts, frame_drift, movie_names, plan_views
from cryoet_core.simulate.detector import add_xrays, expose, make_camera
from cryoet_core.simulate.series import simulate_series, write_common
from cryoet_core.simulate.settings import SimulationSettings

SMALL = SimulationSettings(
    max_tilt_deg=12.0, image_width_px=160, image_height_px=128, pixel_size_angst=6.0, n_particles=3, n_decoys=2,
    n_crowders=20, n_dark_views=1, xrays_per_tilt=6.0, density_box_px=64, reference_box_px=40,
    reference_pixel_size_angst=9.0,
)  # fmt: skip


def test_dose_symmetric_order():
    assert dose_symmetric_tilts(12, 3) == [0, 3, -3, -6, 6, 9, -9, -12, 12]
    assert len(dose_symmetric_tilts(60, 4)) == 31


def test_movies_names_need_no_simulation():
    assert movie_names("TS_01", SMALL)[:3] == ["TS_01_001_0.0.mrc", "TS_01_002_4.0.mrc", "TS_01_003_-4.0.mrc"]


def test_plan_has_the_errors_asked_for():
    settings = SimulationSettings()
    views = plan_views(settings, "TS_01", seed=3)
    nominal = np.array([v.nominal_tilt_deg for v in views])
    error = np.array([v.y_tilt_deg for v in views]) - nominal
    assert 2.0 <= abs(error.mean()) <= 3.0
    assert np.abs(error - np.median(error)).max() <= 0.1
    assert all(v.z_rot_deg == 86.0 for v in views)
    shifts = np.array([[v.x_shift_angst, v.y_shift_angst] for v in views])
    field = 896 * 3.5
    assert 0.01 * field < shifts.std() < 0.08 * field
    assert np.abs(shifts).max() <= 0.08 * field
    assert [v.pre_exposure_e_per_a2 for v in views[:3]] == pytest.approx([0, 3.4, 6.8])
    dark = sorted(abs(v.nominal_tilt_deg) for v in views if v.dark)
    assert len(dark) == 2 and dark[0] > 55
    spread = np.array([v.defocus_u_angst - v.defocus_v_angst for v in views])
    assert 500 < spread.min() and spread.max() < 800


def test_drift_has_no_mean_and_slows_down():
    rng = np.random.default_rng(0)
    drifts = np.array([frame_drift(6, 8.0, rng) for _ in range(50)])
    assert np.abs(drifts.mean(axis=1)).max() < 1e-9
    steps = np.linalg.norm(np.diff(drifts, axis=1), axis=2).mean(axis=0)
    assert steps[0] > 2 * steps[-1]


def test_counts_have_the_dose_and_the_gain_flattens_them(clean, view):
    settings = replace(clean, image_width_px=256, image_height_px=256, n_dead_pixels=5, dose_per_tilt_e_per_a2=3.0)
    camera = make_camera(settings, seed=1)
    flat = np.ones((4, 256, 256), np.float32)
    raw, hits = expose(flat, view(), camera, settings, np.random.default_rng(0))
    assert raw.dtype == np.uint8 and hits == []
    alive = camera.gain > 0
    assert (~alive).sum() == 5 and not raw[:, ~alive].any()
    corrected = raw.sum(axis=0, dtype=np.float64) * camera.gain
    assert corrected[alive].mean() == pytest.approx(3.0 * 4.0**2, rel=0.002)  # dose * pixel^2
    # columns: strong structure before, only counting noise after
    before, after = raw.sum(axis=(0, 1), dtype=np.float64), corrected.sum(axis=0)
    assert before.std() / before.mean() > 0.03
    assert after.std() / after.mean() < 2 / np.sqrt(48 * 256)
    # Poisson: variance of the raw counts of one frame = their mean, pixel by pixel
    z = (raw[0] - 12.0 / np.where(alive, camera.gain, 1))[alive] / np.sqrt(12.0 / camera.gain[alive])
    assert z.var() == pytest.approx(1, abs=0.02)


def test_hot_pixels_and_dark_views(clean, view):
    settings = replace(clean, n_hot_pixels=6)
    camera = make_camera(settings, seed=1)
    flat = np.ones((2, *settings.image_shape), np.float32)
    raw, _ = expose(flat, view(dark=True), camera, settings, np.random.default_rng(0))
    bright, _ = expose(flat, view(), camera, settings, np.random.default_rng(0))
    normal = camera.hot == 0
    assert 0.1 < raw[:, normal].mean() / bright[:, normal].mean() < 0.3
    assert (~normal).sum() == 6 and raw[:, ~normal].min() > raw[:, normal].mean() + 10


def test_xrays_are_where_they_are_said_to_be():
    counts = np.zeros((3, 60, 70), np.int32)
    hits = add_xrays(counts, 20.0, np.random.default_rng(0))
    assert len(hits) > 5
    assert counts.sum() == sum(hit["counts"] for hit in hits)
    assert {hit["n_pixels"] for hit in hits} <= set(range(1, 13))
    assert all(counts[hit["frame"], hit["y_px"], hit["x_px"]] >= 25 for hit in hits)


def test_a_series_has_all_its_files_and_equal_seeds_give_equal_bytes(tmp_path):
    for run in ("a", "b"):
        facts = simulate_series(SMALL, "TS_01", 5, tmp_path / run)
    one, two = tmp_path / "a", tmp_path / "b"
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert {p.name for p in files} == {
        *movie_names("TS_01", SMALL), "TS_01.mdoc", "TS_01.star", "particles.star", "outside.star", "truth.json",
    }  # fmt: skip
    for path in files:
        if path.name != "TS_01.star":  # names its folder
            assert (one / path).read_bytes() == (two / path).read_bytes(), path
    simulate_series(SMALL, "TS_01", 6, tmp_path / "c")
    name = f"frames/{movie_names('TS_01', SMALL)[0]}"
    assert (tmp_path / "c" / name).read_bytes() != (one / name).read_bytes()

    series = read_tilt_series(one / "truth" / "TS_01.star")
    assert len(series) == facts["n_views"] == 7 and series.handedness == -1
    assert (np.diff(series.tilts.nominal_tilt_deg) > 0).all()
    truth = json.loads((one / "truth" / "truth.json").read_text())
    assert truth["dark_tilt_ids"] == sorted(series.tilts.tilt_id[~series.included])
    assert np.array(truth["frame_shifts_px"]["7"]).shape == (4, 2)
    header = read_header(series.tilts.movie[0])
    assert header.shape == (4, 128, 160) and header.mode == 0
    particles = read_particles(one / "truth" / "particles.star")
    assert (particles.table.species == "ribosome").sum() == 3 and len(particles) == 5


def test_mdoc_reads_like_serialem(tmp_path):
    simulate_series(replace(SMALL, n_particles=0, n_decoys=0), "TS_09", 5, tmp_path)
    text = (tmp_path / "frames" / "TS_09.mdoc").read_text()
    assert "[T =     Tilt axis angle = 85.0" in text and "RotationAngle = 175" in text
    angles = [float(a) for a in re.findall(r"^TiltAngle = (.*)$", text, re.M)]
    assert angles == pytest.approx([0, 4, -4, -8, 8, 12, -12], abs=0.02)
    movies = re.findall(r"^SubFramePath = (.*)$", text, re.M)
    assert all("\\" in m for m in movies)
    assert [m.rsplit("\\", 1)[1] for m in movies] == movie_names("TS_09", SMALL)
    assert re.findall(r"^PriorRecordDose = (.*)$", text, re.M)[:3] == ["0", "3.4", "6.8"]


def test_common_files(tmp_path):
    paths = [tmp_path / f"{n}.mrc" for n in ("gain", "reference", "density")]
    write_common(SMALL, 5, *paths)
    (gain, _), (reference, ref_pixel), (density, pixel) = (read_mrc(p) for p in paths)
    assert gain.shape == (1, 128, 160) and (gain == 0).sum() == SMALL.n_dead_pixels
    assert (ref_pixel, pixel) == (9.0, 6.0)
    assert reference.sum(dtype=float) * 9.0**3 == pytest.approx(density.sum(dtype=float) * 6.0**3, rel=1e-3)
    assert density.sum(dtype=float) * 6.0**3 == pytest.approx(3.0 * 2.24e6, rel=0.01)


def test_config_keys_are_the_settings():
    assert Simulate().settings() == SimulationSettings()
    keys = set(Simulate.model_fields) - {"n_series"}
    assert keys == {f.name for f in fields(SimulationSettings)}
    for name, field in Simulate.model_fields.items():
        assert field.description, name
