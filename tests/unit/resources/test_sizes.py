"""Sizes of the data before the first job: from mdoc and movie, stack, simulator; particles from what is there."""

import json

import numpy as np
import pytest

from cryoet_core.config import load_config
from cryoet_core.io.mrc import write_mrc
from cryoet_core.resources.sizes import DataSizes, SeriesSize, series_size
from cryoet_core.tomogram.size import tomogram_size
from cryoet_core.workflow import Run

MDOC = "PixelSpacing = 1.5\nVoltage = 300\nImageSize = 300 200\n[T = Tilt axis angle = 85.0, binning = 1]\n"
VIEW = "[ZValue = {z}]\nTiltAngle = {z}\nExposureDose = 3.0\nSubFramePath = X:\\f\\m{z}.mrc\nNumSubFrames = 6\n"


@pytest.fixture(autouse=True)
def started_there(tmp_path, monkeypatch):
    """Data and results in the folder that the run is started in."""
    monkeypatch.chdir(tmp_path)


def mdoc(folder, n_views=7):
    (folder / "TS.mdoc").write_text(MDOC + "".join(VIEW.format(z=z) for z in range(n_views)))
    return folder / "TS.mdoc"


def run_of(folder, **config):
    write_mrc(folder / "map.mrc", np.ones((8, 8, 8), np.float32), 2.0)
    data = {"mdoc": str(folder / "*.mdoc"), "reference": str(folder / "map.mrc")}
    return Run(load_config({"results_dir": str(folder / "results"), "data": data, **config}))


def test_the_first_movie_that_is_there_tells_the_size(tmp_path):
    mdoc(tmp_path)
    write_mrc(tmp_path / "m3.mrc", np.ones((5, 24, 36), np.float32), 1.5, stack=True)
    run = run_of(tmp_path, import_tilt_series={"pixel_size_angst": 3.0, "tilt_axis_deg": 12.0})
    assert DataSizes(run).series("TS") == SeriesSize(36, 24, 5, 7, 3.0, 12.0)


def test_without_movies_the_mdoc_tells_it(tmp_path):
    mdoc(tmp_path)
    assert DataSizes(run_of(tmp_path)).series("TS") == SeriesSize(300, 200, 6, 7, 1.5, 85.0)


def test_a_broken_mdoc_gives_a_usual_size_and_no_error(tmp_path):
    mdoc(tmp_path).write_text("[ZValue = x]\n")
    assert DataSizes(run_of(tmp_path)).series("TS") == SeriesSize()


def test_a_ready_stack(tmp_path):
    write_mrc(tmp_path / "a.st", np.ones((4, 10, 20), np.float32), 2.5, stack=True)
    config = load_config({"data": {"stacks": str(tmp_path / "*.st")}})
    source = {"kind": "stack", "stack": str(tmp_path / "a.st"), "tilts": ""}
    assert series_size(source, config) == SeriesSize(20, 10, 1, 4, 2.5, 0.0)


def test_the_simulator_s_own_numbers():
    config = load_config({"data": {"simulate": True}, "simulate": {"image_width_px": 64, "image_height_px": 48, "max_tilt_deg": 30, "tilt_step_deg": 10}})
    found = series_size({}, config)
    assert (found.width_px, found.height_px, found.n_views, found.n_frames) == (64, 48, 7, 4)


@pytest.mark.parametrize(("keys", "pixels"), [({"thickness": 40}, 40), ({"thickness_angst": 90.0}, 30), ({"thickness": "auto"}, 1000)])
def test_the_tomogram_is_as_large_as_the_step_makes_it(tmp_path, keys, pixels):
    mdoc(tmp_path)
    run = run_of(tmp_path, preprocess_tilt_series={"binning": 2}, reconstruct_tomogram=keys)
    expected = tomogram_size((150, 100), [85.0], pixels)
    assert DataSizes(run).tomogram_px("TS") == expected
    sizes = DataSizes(run).of_series("TS")
    assert sizes["tomogram"] == pytest.approx(np.prod(expected) * 4 / 2**20)
    assert sizes["stack"] == pytest.approx(7 * 300 * 200 * 4 / 2**20) and sizes["movies"] == pytest.approx(6 * sizes["stack"])


def test_an_automatic_thickness_follows_the_alignment(tmp_path):
    mdoc(tmp_path)
    run = run_of(tmp_path, preprocess_tilt_series={"binning": 2}, reconstruct_tomogram={"thickness": "auto"})
    folder = tmp_path / "results/align_tilt_series/TS"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"thickness_angst": 900.0}))
    assert DataSizes(run).tomogram_px("TS")[2] == 2 * round(1350 / 3 / 2)


def test_particles_count_as_picked_once_they_are(tmp_path):
    mdoc(tmp_path)
    averaging = [{"name": "one", "reference": "template", "extract_subtomos": {"box_px": 32, "crop_px": 16}}]
    run = run_of(tmp_path, match_template={"max_particles": 500}, averaging=averaging)
    before = DataSizes(run).of_round("one")
    folder = tmp_path / "results/match_template/TS"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"n_picks": 50}))
    after = DataSizes(run).of_round("one")
    assert (before["particles"], after["particles"]) == (500, 50)
    assert before["particle_images"] == pytest.approx(10 * after["particle_images"]) == pytest.approx(500 * 7 * 16**2 * 4 / 2**20)


def test_matching_needs_what_the_particle_and_the_step_need(tmp_path):
    mdoc(tmp_path)

    def sizes(**config):
        sections = {"import_tilt_series": {"pixel_size_angst": 2.0, "tilt_axis_deg": 0.0}, "reconstruct_tomogram": {"thickness": 100},
                    "preprocess_tilt_series": {"binning": 1}}  # fmt: skip
        return DataSizes(run_of(tmp_path, **sections, match_template=config)).of_series("TS")

    whole = 300 * 200 * 100 * 4 / 2**20
    small, large = sizes(particle_diameter_angst=46.0), sizes(particle_diameter_angst=460.0)
    assert small["scored"] == pytest.approx(whole)  # 23 voxels already
    assert large["scored"] == pytest.approx(whole / 10**3)
    assert large["searched"] <= large["scored"] and large["match_seconds"] < small["match_seconds"]
    fine = sizes(particle_diameter_angst=460.0, angular_step_deg=3.0)
    assert fine["searched"] > 10 * large["searched"] and fine["match_seconds"] > 10 * large["match_seconds"]
