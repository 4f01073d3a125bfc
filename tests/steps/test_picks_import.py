"""match_template with another program's picks: written by hand from the truth, taken over, extracted and averaged, against the truth.

The files are made from the phantom's own rotation matrices with scipy; nothing of the library's writers is used.
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from phantom_series import draw_views, make_series, particle_matrix, truth_map
from scipy.spatial.transform import Rotation
from script_runner import run_script

from cryoet_core.config.extract_subtomos import ExtractSubtomos
from cryoet_core.config.reconstruct_particle import ReconstructParticle
from cryoet_core.errors import UserInputError
from cryoet_core.fsc import fourier_shell_correlation
from cryoet_core.io.images import image_names
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.picks import Grid, Tomogram, read_picks
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import Particles, read_particles, write_particles, write_tilt_series
from cryoet_core.report.results import Results
from cryoet_core.report.tomograms import picking
from cryoet_core.subtomo.reconstruct import taper_to_sphere

SHAPE, PIXEL, BINNING = (240, 240), 4.0, 2
TOMOGRAM = (32, 120, 120)  # z, y, x in voxels of 8 A: centre (60, 60, 16)
EXTRACT = {"binning": 1, "box_px": 64, "crop_px": 32}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Views of eight particles, the table of the raw views, and that of a tomogram binned twice (only its header counts here)."""
    folder = tmp_path_factory.mktemp("import")
    before = Path.cwd()
    os.chdir(folder)
    rng = np.random.default_rng(11)
    series = make_series(np.linspace(-54, 54, 13), 85.0, SHAPE, PIXEL, shifts=rng.uniform(-8, 8, (13, 2)), dose_step=0.5)
    x, y = np.meshgrid([-270.0, -90.0, 90.0, 270.0], [-180.0, 180.0])
    positions = np.stack([x.ravel(), y.ravel(), np.zeros(8)], 1) + rng.uniform(-12, 12, (8, 3))
    angles = np.stack([rng.uniform(-180, 180, 8), rng.uniform(10, 170, 8), rng.uniform(-180, 180, 8)], 1)
    write_mrc("raw/TS_01.mrc", draw_views(series, positions, angles, SHAPE), PIXEL, stack=True)
    write_tilt_series(series.with_columns(image=image_names(13, "raw/TS_01.mrc")), "TS_01_raw.star")
    write_tilt_series(dataclasses.replace(series, pixel_size_angst=BINNING * PIXEL), "TS_01.star")
    write_mrc("reconstruct_tomogram/TS_01/TS_01.mrc", rng.normal(0, 1, TOMOGRAM).astype(np.float32), BINNING * PIXEL)
    yield positions, np.array([particle_matrix(*a) for a in angles])
    os.chdir(before)


def voxels(positions):
    """0-based index in the tomogram."""
    return positions / (BINNING * PIXEL) + [60, 60, 16]


def dynamo(positions, matrices, path):
    eulers = Rotation.from_matrix(matrices).inv().as_euler("zxz", degrees=True)
    rows = [[i + 1, 1, 1, 0, 0, 0, *e, 0.5, *[0] * 9, 3, 0, 1, 0, *(v + 1), *[0] * 9] for i, (e, v) in enumerate(zip(eulers, voxels(positions), strict=True))]
    Path(path).write_text("".join(" ".join(f"{x:.6g}" for x in row) + "\n" for row in rows))


def stopgap(positions, matrices, path):
    eulers = Rotation.from_matrix(matrices).as_euler("zxz", degrees=True)
    labels = "motl_idx tomo_num object subtomo_num halfset orig_x orig_y orig_z score x_shift y_shift z_shift phi the psi class".split()
    text = "\ndata_stopgap_motivelist\n\nloop_\n" + "".join(f"_{label}\n" for label in labels)
    for i, (e, v) in enumerate(zip(eulers, voxels(positions) + 1, strict=True), 1):
        text += " ".join(map(str, [i, 3, 1, i, "A", *np.round(v), 0.5, *(v - np.round(v)), *e, 1])) + "\n"
    Path(path).write_text(text)


def copick(positions, matrices, path):
    points = []
    for m, v in zip(matrices, voxels(positions) * BINNING * PIXEL, strict=True):
        transform = np.eye(4)
        transform[:3, :3] = m
        points.append({"location": dict(zip("xyz", v.tolist(), strict=True)), "transformation_": transform.tolist(), "score": 0.5})
    Path(path).write_text(json.dumps({"unit": "angstrom", "run_name": "TS_01", "points": points}))


def relion4(positions, matrices, path):
    eulers = Rotation.from_matrix(matrices).inv().as_euler("ZYZ", degrees=True)
    labels = "TomoName CoordinateX CoordinateY CoordinateZ AngleRot AngleTilt AnglePsi LCCmax".split()
    text = "\ndata_particles\n\nloop_\n" + "".join(f"_rln{label}\n" for label in labels)
    for e, p in zip(eulers, positions / PIXEL + [120, 120, 32], strict=True):
        text += " ".join(map(str, ["TS_01", *p, *e, 0.5])) + "\n"
    Path(path).write_text(text)


WRITERS = {"tbl": (dynamo, "picks_{ts}.tbl", {}), "all.star": (stopgap, "all.star", {"picks_tomograms": {"TS_01": 3}}),
           "json": (copick, "{ts}.json", {}), "star": (relion4, "particles.star", {})}


def imported(path, export=(), **config):
    """Run the script -> (particles, summary)."""
    files = {"particles": "match_template/TS_01/particles.star", "summary": "match_template/TS_01/summary.json",
             "exported": [f"match_template/TS_01/{name}" for name in export]}
    inputs = {"tomogram": "reconstruct_tomogram/TS_01/TS_01.mrc", "table": "TS_01.star", "reference": [], "picks": path.replace("{ts}", "TS_01")}
    run_script("match_template", inputs, files, {"picks": path, **config})
    return read_particles(files["particles"]), read_summary(files["summary"])


def average():
    """FSC with the true density of what extraction and reconstruction make of match_template's table."""
    inputs = {"particles": ["match_template/TS_01/particles.star"], "tilt_series": ["TS_01_raw.star"]}
    run_script("extract_subtomos", inputs, {"particles": "x/particles.star", "images": "x/images", "summary": "x/summary.json"}, EXTRACT)
    particles = read_particles("x/particles.star")
    assert len(particles) == 8 and read_summary("x/summary.json")["n_images"] == 8 * 13
    write_particles(particles.with_columns(random_subset=[1, 2] * 4), "x/particles.star")
    outputs = {name: f"r/{name}.mrc" for name in ("half1", "half2", "map")} | {"summary": "r/summary.json"}
    inputs = {"particles": "x/particles.star", "tilt_series": ["TS_01_raw.star"]}
    run_script("reconstruct_particle", inputs, outputs, ReconstructParticle(taper_px=4.0).model_dump(), extraction=ExtractSubtomos(**EXTRACT).model_dump())
    return fourier_shell_correlation(read_mrc("r/map.mrc")[0], taper_to_sphere(truth_map(32).astype(np.float32), 4))


@pytest.fixture(scope="module")
def best(project):
    """The FSC that the true table reaches."""
    positions, matrices = project
    table = dict(zip(("x_angst", "y_angst", "z_angst"), positions.T, strict=True))
    angles = Rotation.from_matrix(matrices).inv().as_euler("ZYZ", degrees=True)
    table |= dict(zip(("rot_deg", "tilt_deg", "psi_deg"), angles.T, strict=True))
    Path("match_template/TS_01").mkdir(parents=True, exist_ok=True)
    write_particles(Particles(pd.DataFrame(table).assign(tomo_name="TS_01")), "match_template/TS_01/particles.star")
    return average()


@pytest.mark.parametrize("name", WRITERS)
def test_imported_picks_average_to_the_truth(project, best, name):
    positions, matrices = project
    write, pattern, config = WRITERS[name]
    write(positions, matrices, pattern.replace("{ts}", "TS_01"))
    particles, summary = imported(pattern, **config)
    np.testing.assert_allclose(particles.positions_angst, positions, atol=2e-2)  # six digits in the table
    np.testing.assert_allclose(particles.rotations, matrices, atol=2e-5)
    assert particles.table["particle_name"].tolist() == [f"TS_01/{i + 1}" for i in range(8)]
    assert summary["imported"]["oriented"] and summary["n_picks"] == 8 and summary["hand"]["verdict"] == "imported"
    assert not Path("match_template/TS_01/TS_01_scores.mrc").exists()
    # eight particles fill five shells; what is beyond is as good as it is with the true table
    fsc = average()
    assert fsc[1:6].min() > 0.99
    np.testing.assert_allclose(fsc[1:], best[1:], atol=2e-3)  # shell 0 is the sign of a mean that the views do not hold: rounding decides it


def test_the_average_tells_a_wrong_sense_of_the_angles(project):
    """The same, with every rotation the other way round: the test above would not pass by accident."""
    positions, matrices = project
    dynamo(positions, np.swapaxes(matrices, 1, 2), "wrong_TS_01.tbl")
    imported("wrong_{ts}.tbl")
    assert average()[1:6].min() < 0.6


def test_centres_alone_are_taken_and_said_to_have_no_angles(project):
    positions, _ = project
    Path("TS_01.coords").write_text("".join("{} {} {}\n".format(*v) for v in voxels(positions)))
    particles, summary = imported("{ts}.coords")
    np.testing.assert_allclose(particles.positions_angst, positions, atol=1e-6)
    np.testing.assert_array_equal(particles.rotations, np.broadcast_to(np.eye(3), (8, 3, 3)))
    assert not summary["imported"]["oriented"] and "refine.start: global" in summary["imported"]["warnings"][0]


def test_picks_are_exported_beside_ours(project):
    positions, matrices = project
    dynamo(positions, matrices, "picks_TS_01.tbl")
    formats = ["stopgap", "relion4", "copick", "imod", "eman2"]
    names = ["a.star", "b.star", "c.json", "d.mod", "e.json"]
    _, summary = imported("picks_{ts}.tbl", names, export_picks=formats)
    assert summary["exported"]["lost"] == ["imod: orientations", "imod: scores", "eman2: orientations"]
    tomogram = Tomogram("TS_01", Grid(TOMOGRAM[::-1], BINNING * PIXEL), Grid((240, 240, 64), PIXEL))
    for name in names:
        back = read_picks(f"match_template/TS_01/{name}", tomogram).picks
        np.testing.assert_allclose(back.positions_angst, positions, atol=2e-2)
        if name in ("a.star", "b.star", "c.json"):
            np.testing.assert_allclose(back.rotations, matrices, atol=2e-5)


def test_picks_of_another_binning_stop_the_step(project, capsys):
    positions, _ = project
    Path("unbinned_TS_01.coords").write_text("".join("{} {} {}\n".format(*v) for v in positions / PIXEL + [120, 120, 32]))
    with pytest.raises(SystemExit) as stopped:
        imported("unbinned_{ts}.coords")
    assert stopped.value.code == UserInputError.exit_code
    assert "E-PICKS-08" in capsys.readouterr().err
    particles, _ = imported("unbinned_{ts}.coords", picks_pixel_size_angst=PIXEL)
    np.testing.assert_allclose(particles.positions_angst, positions, atol=1e-6)


def test_the_report_shows_the_picks_without_scores(project):
    positions, matrices = project
    dynamo(positions, matrices, "picks_TS_01.tbl")
    imported("picks_{ts}.tbl")
    Path("match_template/TS_01/TS_01_scores.mrc").write_bytes(b"left over from an earlier run")
    html = "".join(picking(Results(".", ("TS_01",), (), False), {}).parts)
    Path("match_template/TS_01/TS_01_scores.mrc").unlink()
    assert "Imported, not matched: 8 picks in the file (dynamo)." in html
    assert "Positions are counted in voxels of 8 A, assumed" in html
    assert html.count("<img") == 1 and "8 particles" in html
