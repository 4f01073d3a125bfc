"""Tables of tilt series and particles, in memory and on disk."""

import numpy as np
import pandas as pd
import pytest

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.star import read_star
from cryoet_core.metadata import (
    PARTICLE_LABELS,
    TILT_LABELS,
    Particles,
    TiltSeries,
    column_to_label,
    label_to_column,
    read_particles,
    read_tilt_series,
    write_particles,
    write_tilt_series,
)


def make_series(n=5, name="TS_01"):
    tilts = np.linspace(-10, 10, n)
    order = np.argsort(np.argsort(np.abs(tilts) + 1e-3 * (tilts < 0))) + 1
    table = pd.DataFrame({
        "tilt_id": order, "image": [f"{i + 1:06d}@a b/{name}.mrc" for i in range(n)], "nominal_tilt_deg": tilts,
        "pre_exposure_e_per_a2": 3.0 * (order - 1), "exposure_e_per_a2": 3.0, "defocus_u_angst": 30000.0,
        "defocus_v_angst": 29000.0, "defocus_angle_deg": 12.5, "x_tilt_deg": 0.0, "y_tilt_deg": tilts + 2,
        "z_rot_deg": 84.123456, "x_shift_angst": np.arange(n) * 1.5, "y_shift_angst": -3.25,
        "excluded": [1] + [0] * (n - 1), "exclude_reason": ["too dark, #1"] + ["none"] * (n - 1),
        "peak_2_sigma": 1.0, "my_note": ["001", "1e5", "", "a#b 'c'", "x"][:n],
    })
    return TiltSeries(name, 300.0, 2.7, 0.1, 7.0, 3.5, -1, (480, 448), (960, 896, 256), table)


def test_tilt_series_round_trip(tmp_path):
    series = make_series()
    write_tilt_series(series, tmp_path / "TS_01.star")
    back = read_tilt_series(tmp_path / "TS_01.star")
    pd.testing.assert_frame_equal(back.tilts[series.tilts.columns], series.tilts, check_dtype=False)
    assert back.tilts["exposure_e_per_a2"].dtype == np.float64 and back.tilts["tilt_id"].dtype == np.int64
    for field in ("name", "voltage_kv", "pixel_size_angst", "movie_pixel_size_angst", "handedness", "image_size_px",
                  "tomogram_size_px", "amplitude_contrast", "spherical_aberration_mm"):
        assert getattr(back, field) == getattr(series, field)
    first = (tmp_path / "TS_01.star").read_bytes()
    write_tilt_series(back, tmp_path / "TS_01.star")
    assert (tmp_path / "TS_01.star").read_bytes() == first


def test_tilt_series_file_has_relion_blocks_and_labels(tmp_path):
    write_tilt_series(make_series(), tmp_path / "x.star")
    blocks = read_star(tmp_path / "x.star")
    assert list(blocks) == ["global", "TS_01"]
    assert blocks["global"]["rlnTomoTiltSeriesStarFile"].tolist() == ["x.star"]
    assert {"rlnTomoHand", "rlnTomoSizeZ", "rlnOpticsGroupName", "rlnMicrographOriginalPixelSize"} <= set(blocks["global"])
    assert {"rlnTomoYTilt", "rlnMicrographPreExposure", "tlTiltId", "tlExcludeReason", "tlMyNote"} <= set(blocks["TS_01"])


def test_series_properties():
    series = make_series()
    assert series.included.tolist() == [False, True, True, True, True]
    assert isinstance(series.geometry, TiltGeometry) and len(series.geometry) == 5
    np.testing.assert_array_equal(series.geometry.y_tilt_deg, series.tilts["y_tilt_deg"])
    assert series.optics.voltage_kv == 300.0
    chosen = series.select(series.included)
    assert len(chosen) == 4 and chosen.tilts.index.tolist() == [0, 1, 2, 3] and len(series) == 5
    assert series.select([3, 1]).tilts["tilt_id"].tolist() == series.tilts["tilt_id"].iloc[[3, 1]].tolist()
    changed = series.with_columns(z_rot_deg=80.0)
    assert changed.tilts["z_rot_deg"].eq(80).all() and series.tilts["z_rot_deg"].ne(80).all()
    moved = series.with_geometry(TiltGeometry.nominal(series.tilts["y_tilt_deg"], 10.0))
    assert moved.tilts["z_rot_deg"].eq(10).all() and moved.tilts["x_shift_angst"].eq(0).all()


@pytest.mark.parametrize("change, message", [
    (dict(y_tilt_deg=1.5e24), "E-TAB-02.*y_tilt_deg"), (dict(pre_exposure_e_per_a2=-1.0), "E-TAB-02.*pre_exposure"),
    (dict(tilt_id=3), "E-TAB-04.*tilt_id"), (dict(x_shift_angst=np.nan), "E-TAB-02.*row 1"),
    (dict(excluded=2), "E-TAB-02.*excluded"),
])
def test_impossible_values_are_not_written(tmp_path, change, message):
    with pytest.raises(UserInputError, match=message):
        write_tilt_series(make_series().with_columns(**change), tmp_path / "a.star")
    assert list(tmp_path.iterdir()) == []


def test_impossible_values_are_not_read(tmp_path):
    path = tmp_path / "a.star"
    write_tilt_series(make_series(), path)
    path.write_text(path.read_text().replace(" 300.0 2.7 ", " 3.0 2.7 "))
    with pytest.raises(UserInputError, match="E-TAB-02.*voltage_kv.*found 3.*60 to 1250"):
        read_tilt_series(path)
    path.write_text(path.read_text().replace("_rlnTomoYTilt ", "_rlnOther "))
    with pytest.raises(UserInputError, match="E-TAB-01.*y_tilt_deg.*rlnTomoYTilt"):
        read_tilt_series(path)


def test_other_refusals():
    series = make_series()
    for field, value, code in (("name", "../x", "E-NAME-01"), ("name", "a b", "E-NAME-01"), ("handedness", 0, "E-TAB-02"),
                               ("pixel_size_angst", 0.0, "E-TAB-02")):
        broken = make_series()
        setattr(broken, field, value)
        with pytest.raises(UserInputError, match=code):
            broken.validate()
    with pytest.raises(UserInputError, match="E-TS-01"):
        series.select(np.zeros(5, bool)).validate()
    with pytest.raises(UserInputError, match="E-IMG-03.*image_even"):
        load_images(series, "image_even")


@pytest.mark.parametrize("column", ["tilt_id", "peak_2_sigma", "a", "species", "x1_y2", "fit_r_2d", "rlnSomethingElse"])
@pytest.mark.parametrize("labels", [TILT_LABELS, PARTICLE_LABELS])
def test_column_names_come_back(column, labels):
    assert label_to_column(column_to_label(column, labels), labels) == column


def test_bad_column_name():
    with pytest.raises(UserInputError, match="E-TAB-03"):
        column_to_label("Peak Sigma", TILT_LABELS)


def test_images_are_loaded_in_row_order(tmp_path):
    stack = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    write_mrc(tmp_path / "s.mrc", stack, 7.0, stack=True)
    series = make_series().with_columns(image=[f"{i + 1:06d}@{tmp_path}/s.mrc" for i in (4, 0, 1, 2, 3)])
    assert np.array_equal(load_images(series), stack[[4, 0, 1, 2, 3]])
    assert np.array_equal(load_images(series.select(series.included)), stack[[0, 1, 2, 3]])


def make_particles(n=4):
    rng = np.random.default_rng(2)
    table = pd.DataFrame({
        "tomo_name": ["001"] * n, "particle_name": [f"001/{i + 1}" for i in range(n)],
        "x_angst": rng.normal(0, 300, n), "y_angst": rng.normal(0, 300, n), "z_angst": rng.normal(0, 100, n),
        "rot_deg": rng.uniform(-180, 180, n), "tilt_deg": rng.uniform(0, 180, n), "psi_deg": rng.uniform(-180, 180, n),
        "origin_x_angst": 1.0, "origin_y_angst": 2.0, "origin_z_angst": -3.0, "random_subset": [1, 2] * (n // 2),
        "visible_frames": "[1,0,1]", "score": 0.5, "species": ["ribosome"] * n,
    })
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["o"], "rlnImageSize": [32]})
    return Particles(table, optics, True)


def test_particles_round_trip(tmp_path):
    particles = make_particles()
    write_particles(particles, tmp_path / "p.star")
    back = read_particles(tmp_path / "p.star")
    pd.testing.assert_frame_equal(back.table[particles.table.columns], particles.table, rtol=1e-8, check_dtype=False)
    pd.testing.assert_frame_equal(back.optics, particles.optics, check_dtype=False)
    assert back.are_2d_stacks and back.table["species"].tolist() == ["ribosome"] * 4
    labels = list(read_star(tmp_path / "p.star")["particles"])
    assert labels[:3] == ["rlnTomoName", "rlnTomoParticleName", "rlnCenteredCoordinateXAngst"] and "tlSpecies" in labels


def test_position_is_coordinate_minus_origin():
    particles = make_particles()
    table = particles.table
    expected = table[["x_angst", "y_angst", "z_angst"]].to_numpy() - [1.0, 2.0, -3.0]
    np.testing.assert_allclose(particles.positions_angst, expected)
    turned = particles.with_columns(subtomogram_rot_deg=90.0, subtomogram_tilt_deg=0.0, subtomogram_psi_deg=0.0)
    # A(90, 0, 0) takes (1, 2, -3) to (2, -1, -3)
    np.testing.assert_allclose(turned.positions_angst, expected + [1, 2, -3] - np.array([2, -1, -3]), atol=1e-9)


def test_rotation_is_relions_matrix():
    particles = make_particles().with_columns(rot_deg=0.0, tilt_deg=90.0, psi_deg=0.0).select([0])
    np.testing.assert_allclose(particles.rotations, [[[0, 0, -1], [0, 1, 0], [1, 0, 0]]], atol=1e-12)
    bare = Particles(particles.table[["tomo_name", "x_angst", "y_angst", "z_angst"]])
    np.testing.assert_allclose(bare.rotations, [np.eye(3)])


def test_particles_without_rows_or_optics(tmp_path):
    empty = Particles(make_particles().table.iloc[:0])
    write_particles(empty, tmp_path / "e.star")
    back = read_particles(tmp_path / "e.star")
    assert len(back) == 0 and back.rotations.shape == (0, 3, 3) and back.positions_angst.shape == (0, 3)


def test_particle_refusals(tmp_path):
    with pytest.raises(UserInputError, match="E-TAB-04.*particle_name"):
        write_particles(make_particles().with_columns(particle_name="a"), tmp_path / "a.star")
    with pytest.raises(UserInputError, match="E-TAB-02.*x_angst"):
        write_particles(make_particles().with_columns(x_angst=np.inf), tmp_path / "a.star")
    (tmp_path / "b.star").write_text("data_optics\n_x 1\n")
    with pytest.raises(UserInputError, match="E-STAR-06.*data_optics"):
        read_particles(tmp_path / "b.star")
