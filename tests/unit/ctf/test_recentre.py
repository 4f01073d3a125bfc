"""The defocus of particles after alignment: measured at the image's centre, used from the tomogram's centre."""

import dataclasses

import numpy as np
import pytest
from rings import flat_series, tilted_image

from cryoet_core.config.reconstruct_tomogram import ReconstructTomogram
from cryoet_core.ctf.estimate import CtfSettings, estimate_ctf, series_with_ctf
from cryoet_core.ctf.recentre import defocus_at_tomogram_centre
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.report.evaluate import defocus_error
from cryoet_core.subtomo.transfer import ImageTransfer
from cryoet_core.tilt_series.ctf_correction import defocus_offset, view_ctfs
from cryoet_core.tomogram.from_series import placed_series

PIXEL, SHAPE, SHIFT = 3.0, (768, 896), 500.0
TILTS = np.array([-60.0, -40.0, 0.0, 40.0, 60.0])
TRUE = np.array([30100.0, 29800.0, 30000.0, 29900.0, 30200.0])  # of the tomogram's centre
POINTS = np.array([[300.0, 0.0, 0.0], [-250.0, 100.0, 0.0], [0.0, 0.0, 0.0], [120.0, -300.0, 0.0]])


def _true_defocus(sign, points=POINTS):
    """(n_views, n_points) by hand: a specimen turned by t about y has depth z cos t - x sin t."""
    t = np.deg2rad(TILTS)[:, None]
    return TRUE[:, None] + sign * (points[:, 2] * np.cos(t) - points[:, 0] * np.sin(t))


def _used_defocus(series, points=POINTS):
    """(n_views, n_points) what extraction and averaging take for particles at ``points``."""
    depth = series.geometry.project(points)[1]
    views = np.repeat(np.arange(len(series)), len(points))
    transfer = ImageTransfer.of_views(series, views, depth.ravel())
    return 0.5 * (transfer.defocus_u_angst + transfer.defocus_v_angst).reshape(len(series), -1)


@pytest.fixture(scope="module", params=[-1, 1])
def fitted(request):
    """The series as estimate_ctf leaves it, its sign, and as it is after an alignment that found the shift."""
    rng = np.random.default_rng(4)
    images = [
        tilted_image(rng, SHAPE, PIXEL, z, t, request.param, n_slabs=15, shift_angst=SHIFT, falloff=20.0)
        for z, t in zip(TRUE, TILTS, strict=True)
    ]
    images = [(i / i.std() + 0.3 * rng.standard_normal(SHAPE)).astype(np.float32) for i in images]
    series = flat_series(TILTS, SHAPE, PIXEL)
    estimate = estimate_ctf(series, images, CtfSettings(256, defocus_range_angst=(15000, 45000), handedness=request.param))
    table = series_with_ctf(series, estimate)
    return table, request.param, table.with_geometry(table.geometry.replace(x_shift_angst=SHIFT))


def test_particles_of_a_shifted_tilted_plane(fitted):
    """500 A of shift at 60 degrees: 87 nm wrong before, less than 5 nm after."""
    _, sign, aligned = fitted
    steep = np.abs(TILTS) == 60
    before = np.abs(_used_defocus(aligned) - _true_defocus(sign))
    after = np.abs(_used_defocus(defocus_at_tomogram_centre(aligned)) - _true_defocus(sign))
    assert np.median(before[steep]) == pytest.approx(866, abs=60)
    assert after[steep].max() < 50 and after.max() < 50


def test_correction_of_views_uses_the_same_defocus(fitted):
    """The phase flip's defocus at the pixel where a particle is seen is that of its extraction."""
    _, sign, aligned = fitted
    series = defocus_at_tomogram_centre(aligned)
    uv = series.geometry.project(POINTS)[0]
    for i, ctf in enumerate(view_ctfs(series)):
        offset = defocus_offset(SHAPE, PIXEL, ctf)
        x, y = (np.rint(uv[i] / PIXEL) + [SHAPE[1] // 2, SHAPE[0] // 2]).astype(int).T
        here = 0.5 * (ctf.defocus_u_angst + ctf.defocus_v_angst) + offset[y, x]
        np.testing.assert_allclose(here, _true_defocus(sign)[i], atol=50)


def test_nothing_is_moved_twice_nor_when_it_was_given(fitted, tmp_path):
    table, _, aligned = fitted
    once = defocus_at_tomogram_centre(aligned)
    assert set(once.tilts["defocus_at"]) == {"tomogram_centre"} and set(table.tilts["defocus_at"]) == {"image_centre"}
    write_tilt_series(once, tmp_path / "once.star")
    again = defocus_at_tomogram_centre(read_tilt_series(tmp_path / "once.star"))
    np.testing.assert_allclose(again.tilts["defocus_u_angst"], once.tilts["defocus_u_angst"], atol=0.01)
    series = flat_series(TILTS, SHAPE, PIXEL)
    given = estimate_ctf(series, np.zeros((5, *SHAPE), np.float32), CtfSettings(256, defocus_angst=17000.0))
    given = series_with_ctf(series, given).with_geometry(aligned.geometry)
    assert (defocus_at_tomogram_centre(given).tilts["defocus_u_angst"] == 17000).all()
    foreign = dataclasses.replace(given, tilts=given.tilts.drop(columns="defocus_at"))
    assert defocus_at_tomogram_centre(foreign) is foreign


def test_moving_the_tomogram_keeps_the_defocus_of_every_point(fitted):
    """reconstruct_tomogram's shift and tilt offset: the same particle, at its new coordinates, keeps its defocus."""
    _, _, aligned = fitted
    series = defocus_at_tomogram_centre(aligned)
    config = ReconstructTomogram(thickness_angst=1200.0, shift_x_angst=90.0, shift_z_angst=-150.0, tilt_offset_deg=7.0)
    placed, _ = placed_series(series, config)
    a = np.deg2rad(-7.0)  # the content turns against the angles
    x, y, z = POINTS.T
    turned = np.stack([x * np.cos(a) + z * np.sin(a), y, z * np.cos(a) - x * np.sin(a)], axis=1)
    moved = turned + [90.0, 0.0, -150.0]
    np.testing.assert_allclose(placed.geometry.project(moved)[0], series.geometry.project(POINTS)[0], atol=1e-6)
    np.testing.assert_allclose(_used_defocus(placed, moved), _used_defocus(series), atol=1e-6)


def test_report_compares_at_the_image_centre():
    """Truth of the specimen's centre, 50 nm off the image's centre: a perfect measurement at the image's centre has error 0."""

    class Results:
        def truth(self, ts):
            return flat_series(TILTS, SHAPE, PIXEL).with_columns(defocus_u_angst=TRUE, defocus_v_angst=TRUE, x_shift_angst=SHIFT)

        def table(self, step, ts):
            here = TRUE - SHIFT * np.tan(np.deg2rad(TILTS))  # sign -1, plane seen at the image's centre: depth SHIFT tan t
            found = flat_series(TILTS, SHAPE, PIXEL).with_columns(defocus_u_angst=here, defocus_v_angst=here)
            return found.select(np.array([3, 0, 4, 1, 2]))

        def truth_json(self, ts):
            return {"dark_tilt_ids": []}

    found = defocus_error(Results(), "TS")
    assert found["defocus_error_nm_median"] < 1e-6 and found["defocus_error_nm_median_beyond_45"] < 1e-6
