"""The script of reconstruct_tomogram on blobs drawn by formulas of the test's own."""

import numpy as np
import pytest
from phantom_series import draw_views, make_series, particle_matrix
from script_runner import run_script

from cryoet_core.errors import UserInputError
from cryoet_core.io.images import image_names
from cryoet_core.io.mrc import read_header, read_mrc, write_mrc
from cryoet_core.io.summary import read_summary, write_summary
from cryoet_core.metadata import read_tilt_series, write_tilt_series

PIXEL = 8.0
SHAPE = (60, 72)
PLACES = np.array([[0.0, 0, 0], [120, -100, 40], [-130, 110, -56]])
ANGLES = np.array([[0.0, 0, 0], [40, 70, 20], [-100, 130, 60]])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rec")
    shifts = np.random.default_rng(0).uniform(-20, 20, (25, 2))
    series = make_series(np.arange(-60.0, 61, 5), 86.0, SHAPE, PIXEL, shifts=shifts)
    images = draw_views(series, PLACES, ANGLES, SHAPE, with_ctf=False)
    images[3] += 100.0  # this view is bad, and excluded
    names = {}
    for column, weight in (("image", 1.0), ("image_even", 0.5), ("image_odd", 0.5)):
        path = folder / f"{column}.mrc"
        write_mrc(path, weight * images, PIXEL, stack=True)
        names[column] = image_names(len(images), path)
    excluded = np.zeros(len(images), np.int64)
    excluded[3] = 1
    write_tilt_series(series.with_columns(excluded=excluded, **names), folder / "in.star")
    raw = series.with_columns(excluded=excluded, image=image_names(len(images), folder / "raw.mrc"))
    write_tilt_series(raw, folder / "aligned.star")
    return folder


def run(folder, name, **config):
    files = {k: folder / name / v for k, v in {"table": "TS_01.star", "raw_table": "TS_01_raw.star", "tomogram": "TS_01.mrc", "even": "TS_01_even.mrc",
                                               "odd": "TS_01_odd.mrc", "summary": "summary.json"}.items()}
    inputs = {"table": folder / "in.star", "aligned": folder / "aligned.star", "alignment": folder / "alignment.json"}
    run_script("reconstruct_tomogram", inputs, files, config)
    return files


def test_tomogram_has_the_particles_in_place_dark_and_the_table_its_size(inputs):
    files = run(inputs, "a", thickness=40)
    volume, pixel = read_mrc(files["tomogram"])
    assert pixel == PIXEL
    assert volume.shape == (40, 72, 60)  # the axis lies near the image's x axis: sides exchanged
    assert read_header(files["tomogram"]).shape == volume.shape
    series = read_tilt_series(files["table"])
    assert series.tomogram_size_px == (60, 72, 40)
    centre = np.array(volume.shape) // 2
    for place, angles in zip(PLACES, ANGLES, strict=True):
        blob = particle_matrix(*angles) @ [2.0, -6.0, -4.0] + place / PIXEL  # two of the particle's blobs
        other = particle_matrix(*angles) @ [5.0, 0.0, 0.0] + place / PIXEL
        for x, y, z in (blob, other):
            value = volume[tuple(np.rint([z, y, x]).astype(int) + centre)]
            assert value < -5 * volume.std()
    even, odd = (read_mrc(files[k])[0] for k in ("even", "odd"))
    np.testing.assert_allclose(even + odd, volume, atol=1e-4 * np.abs(volume).max())
    summary = read_summary(files["summary"])
    assert summary["n_views"] == 24 and summary["size_px"] == [60, 72, 40]


def test_shifts_move_the_content_and_stay_consistent_with_the_table(inputs):
    plain = read_mrc(run(inputs, "b", thickness=40)["tomogram"])[0]
    files = run(inputs, "c", thickness_angst=40 * PIXEL, shift_z_angst=3 * PIXEL, shift_x_angst=-2 * PIXEL)
    moved = read_mrc(files["tomogram"])[0]
    a, b = plain[8:-8, :, 8:-8], np.roll(moved, (-3, 2), axis=(0, 2))[8:-8, :, 8:-8]
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98
    table = read_tilt_series(files["table"])
    before = read_tilt_series(inputs / "in.star")
    uv, depth = table.geometry.project(PLACES + [-2 * PIXEL, 0, 3 * PIXEL])
    uv_before, depth_before = before.geometry.project(PLACES)
    np.testing.assert_allclose(uv, uv_before, atol=1e-3)
    defocus = table.tilts["defocus_u_angst"].to_numpy()[:, None] + table.handedness * depth
    expected = before.tilts["defocus_u_angst"].to_numpy()[:, None] + before.handedness * depth_before
    np.testing.assert_allclose(defocus, expected, atol=0.01)


def test_thickness_in_angstrom_given_as_pixels_is_noticed(inputs):
    with pytest.raises(SystemExit) as stopped:
        run(inputs, "d", thickness=2000)
    assert stopped.value.code == UserInputError.exit_code


def test_raw_views_get_the_frame_of_the_moved_tomogram(inputs):
    """Where a particle is seen must not depend on which table says it: binned views or raw ones."""
    files = run(inputs, "e", thickness=40, shift_z_angst=3 * PIXEL, tilt_offset_deg=2.0)
    moved, raw = read_tilt_series(files["table"]), read_tilt_series(files["raw_table"])
    np.testing.assert_allclose(raw.geometry.project(PLACES)[0], moved.geometry.project(PLACES)[0], atol=1e-4)
    assert raw.tilts["image"].str.endswith("raw.mrc").all()
    assert raw.tomogram_size_px == moved.tomogram_size_px != (0, 0, 0)
    unmoved = read_tilt_series(inputs / "aligned.star").geometry.project(PLACES)[0]
    assert np.abs(raw.geometry.project(PLACES)[0] - unmoved).max() > 10


def test_3d_ctf_correction_is_recorded_and_refused_for_corrected_views(inputs, tmp_path):
    series = read_tilt_series(inputs / "in.star").with_columns(defocus_u_angst=40000.0, defocus_v_angst=40000.0)
    write_tilt_series(series, tmp_path / "in.star")
    write_tilt_series(series, tmp_path / "aligned.star")
    files = run(tmp_path, "a", thickness=40, ctf_3d="phase_flip")
    assert set(read_tilt_series(files["table"]).tilts["ctf_correction"]) == {"phase_flip"}
    assert "ctf_correction" not in read_tilt_series(files["raw_table"]).tilts  # averaging corrects the raw views itself
    assert read_summary(files["summary"])["ctf_3d"] == "phase_flip"
    plain = read_mrc(run(tmp_path, "b", thickness=40)["tomogram"])[0]
    corrected, even, odd = (read_mrc(files[k])[0] for k in ("tomogram", "even", "odd"))
    k = np.sqrt(sum(g**2 for g in np.ix_(*(np.fft.fftfreq(n, PIXEL) for n in plain.shape))))
    beyond = (k > 1 / 26) & (k < 1 / 19)  # the CTF turns at 1/28 and 1/16.5 A
    a, b = np.fft.fftn(plain)[beyond], np.fft.fftn(corrected)[beyond]
    assert (a * b.conj()).real.sum() < -0.6 * np.linalg.norm(a) * np.linalg.norm(b)
    np.testing.assert_allclose(even + odd, corrected, atol=1e-4 * np.abs(corrected).max())
    write_tilt_series(series.with_columns(ctf_correction="phase_flip"), tmp_path / "in.star")
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "c", thickness=40, ctf_3d="multiply")
    assert stopped.value.code == UserInputError.exit_code
    assert not (tmp_path / "c" / "TS_01.mrc").exists()
    run(tmp_path, "d", thickness=40)  # without 3-D correction they are welcome


@pytest.mark.parametrize("method", ["sirt", "sart"])
def test_iterative_methods_write_the_same_files_and_how_the_residual_fell(inputs, method):
    files = run(inputs, method, thickness=40, method=method, sirt_iterations=3, sign_constraint="dark", halves=True, format="float16")
    assert read_header(files["tomogram"]).mode == 12
    volume = read_mrc(files["tomogram"])[0]
    assert volume.max() <= 0
    centre = np.array(volume.shape) // 2
    x, y, z = particle_matrix(*ANGLES[1]) @ [5.0, 0.0, 0.0] + PLACES[1] / PIXEL
    assert volume[tuple(np.rint([z, y, x]).astype(int) + centre)] < -5 * volume.std()
    residuals = read_summary(files["summary"])["residual_rms"]
    assert len(residuals) == 3 and residuals[2] < residuals[1] < residuals[0]


def test_half_precision_files_hold_the_same_tomogram(inputs):
    single, half = (read_mrc(run(inputs, name, thickness=40, format=name)["tomogram"])[0] for name in ("float32", "float16"))
    np.testing.assert_allclose(half, single, rtol=1e-3, atol=1e-3 * np.abs(single).max())


def test_automatic_thickness_follows_the_aligned_slab(inputs):
    write_summary(inputs / "alignment.json", {"thickness_angst": 160.0})
    assert read_header(run(inputs, "auto", thickness="auto")["tomogram"]).shape[0] == 70  # (160 + 400) / 8
    write_summary(inputs / "alignment.json", {"mode": "skip"})
    with pytest.raises(SystemExit) as stopped:
        run(inputs, "auto2", thickness="auto")
    assert stopped.value.code == UserInputError.exit_code
