"""The scripts of import_reference, resize_reference and match_template on blobs drawn by formulas of the test's own."""

import numpy as np
import pytest
from phantom_series import draw_views, make_series, truth_map
from script_runner import run_script

from cryoet_core.errors import UserInputError
from cryoet_core.fourier import fourier_pad
from cryoet_core.geometry import angular_distance_deg, euler_to_matrix, matrix_to_euler, random_rotations
from cryoet_core.io.images import image_names
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.star import read_star
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import read_particles, write_tilt_series

PIXEL = 16.0
SHAPE = (72, 80)
PLACES = np.array([[x, y, z] for x, y, z in [(0, 0, 0), (280, -300, 60), (-300, 320, -60), (260, 240, -40), (-250, -280, 40),
                                             (0, 430, 30), (10, -430, -20), (-330, 20, 20), (330, -20, -30)]], float)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Noisy views of nine particles -> reconstruct_tomogram; a reference on a grid twice as fine, dark."""
    folder = tmp_path_factory.mktemp("pick")
    rng = np.random.default_rng(3)
    angles = matrix_to_euler(random_rotations(len(PLACES), rng))
    series = make_series(np.arange(-60.0, 61, 5), -4.0, SHAPE, PIXEL, defocus=30000.0, dose_step=2.0)
    images = draw_views(series, PLACES, angles, SHAPE)
    images += rng.normal(0, 0.03, images.shape).astype(np.float32)
    write_mrc(folder / "views.mrc", images, PIXEL, stack=True)
    write_tilt_series(series.with_columns(image=image_names(len(images), folder / "views.mrc")), folder / "in.star")
    out = {"table": folder / "TS_01.star", "raw_table": folder / "raw.star", "tomogram": folder / "TS_01.mrc", "summary": folder / "rec.json"}
    run_script("reconstruct_tomogram", {"table": folder / "in.star", "aligned": folder / "in.star"}, out, {"thickness": 36})
    fine = fourier_pad(truth_map(28).astype(np.float32), (56, 56, 56), 3)
    write_mrc(folder / "map.mrc", 5.0 - fine, PIXEL / 2)
    return folder, angles


def reference(folder, name, **config):
    files = {"reference": folder / f"{name}.mrc", "summary": folder / f"{name}.json"}
    run_script("import_reference", {"map": folder / "map.mrc"}, files, config)
    return files


def test_reference_is_imported_resized_and_found(run_folder):
    folder, angles = run_folder
    imported = reference(folder, "imported", invert=True)
    resized = {"reference": folder / "small.mrc", "mask": folder / "mask.mrc", "summary": folder / "small.json"}
    run_script("resize_reference", {"reference": imported["reference"], "table": folder / "TS_01.star"}, resized, {})
    small, pixel = read_mrc(resized["reference"])
    assert pixel == PIXEL and small.shape[0] % 2 == 0
    mask, _ = read_mrc(resized["mask"])
    assert mask.shape == small.shape and mask.max() == 1

    picked = {"particles": folder / "particles.star", "scores": folder / "scores.mrc", "summary": folder / "tm.json",
              "orientations": folder / "orientations.mrc", "orientation_list": folder / "orientations.star"}
    inputs = {"tomogram": folder / "TS_01.mrc", "table": folder / "TS_01.star", "reference": resized["reference"]}
    config = {"angular_step_deg": 24, "edge_margin_angst": 80, "max_particles": 10, "ctf": "none"}
    run_script("match_template", inputs, picked, config)
    particles = read_particles(picked["particles"])
    distance = np.linalg.norm(particles.positions_angst[:, None] - PLACES, axis=2)
    found = distance.min(axis=0) < 0.5 * PIXEL
    assert found.sum() >= len(PLACES) - 1
    assert len(particles) <= len(PLACES) + 1
    error = angular_distance_deg(particles.rotations[distance.argmin(axis=0)], euler_to_matrix(*angles.T))
    assert np.median(error[found]) < 6
    summary = read_summary(picked["summary"])
    assert summary["hand"]["verdict"] == "right"
    assert summary["n_picks"] == len(particles)
    assert (particles.table["score"].diff().dropna() <= 0).all()
    (index, voxel), (scores, same) = read_mrc(picked["orientations"]), read_mrc(picked["scores"])
    assert voxel == same == pytest.approx(summary["search_pixel_angst"])
    assert np.abs(np.array(scores.shape) * voxel - np.array(read_mrc(folder / "TS_01.mrc")[0].shape) * PIXEL).max() < 12 * voxel
    angles_list = read_star(picked["orientation_list"])["orientations"]
    assert index.shape == scores.shape and index.max() < len(angles_list) == summary["n_rotations"]
    best = particles.positions_angst[0] / voxel + np.array(index.shape[::-1]) // 2
    row = angles_list.iloc[int(index[tuple(np.rint(best[::-1]).astype(int))])]
    mapped = euler_to_matrix(*(float(row[f"rlnAngle{name}"]) for name in ("Rot", "Tilt", "Psi")))
    assert angular_distance_deg(mapped, particles.rotations[0]) < 24


def test_dark_reference_stops_with_the_key_to_set(run_folder):
    with pytest.raises(SystemExit) as stopped:
        reference(run_folder[0], "wrong")
    assert stopped.value.code == UserInputError.exit_code


def test_a_search_mask_of_bytes_holds_and_one_of_another_size_is_refused(run_folder, capsys):
    """0/255 is 1 inside, with a warning in log and summary; a mask of another size is refused, binned or not."""
    folder, _ = run_folder
    imported = reference(folder, "masked", invert=True)
    resized = {"reference": folder / "m_small.mrc", "mask": folder / "m_mask.mrc", "summary": folder / "m_small.json"}
    run_script("resize_reference", {"reference": imported["reference"], "table": folder / "TS_01.star"}, resized, {})
    shape = read_mrc(folder / "TS_01.mrc")[0].shape
    inside = np.zeros(shape, dtype=np.uint8)
    inside[:, : shape[1] // 2 - 6] = 255  # y below -96 A: three of the particles
    write_mrc(folder / "half.mrc", inside, PIXEL, dtype="uint8")
    write_mrc(folder / "binned.mrc", inside[::2, ::2, ::2], 2 * PIXEL, dtype="uint8")
    picked = {"particles": folder / "m.star", "scores": folder / "m_scores.mrc", "summary": folder / "m.json",
              "orientations": folder / "m_orientations.mrc", "orientation_list": folder / "m_orientations.star"}
    inputs = {"tomogram": folder / "TS_01.mrc", "table": folder / "TS_01.star", "reference": resized["reference"]}
    config = {"angular_step_deg": 24, "edge_margin_angst": 80, "max_particles": 3, "ctf": "none"}
    config |= {"background": "none", "n_sigma": 4.0}
    run_script("match_template", inputs | {"search_mask": folder / "half.mrc"}, picked, config)
    positions = read_particles(picked["particles"]).positions_angst
    assert sorted(np.linalg.norm(positions[:, None] - PLACES, axis=2).argmin(axis=1)) == [1, 4, 6]
    assert positions[:, 1].max() < -96
    assert "0 and 255" in read_summary(picked["summary"])["search_mask_warnings"][0]
    with pytest.raises(SystemExit) as stopped:
        run_script("match_template", inputs | {"search_mask": folder / "binned.mrc"}, picked, config)
    assert stopped.value.code == UserInputError.exit_code
    assert "E-PICK-04" in capsys.readouterr().err
