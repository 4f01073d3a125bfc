"""Local deformation: where a point of the specimen's plane lands, in a table and out of it, and where particles are cut."""

import numpy as np
import pandas as pd

from cryoet_core.geometry.local_deformation import LocalDeformation, from_plane
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.metadata import TiltSeries, read_tilt_series, write_tilt_series
from cryoet_core.subtomo.extract import find_views

TILTS = np.array([-50.0, -10.0, 0.0, 40.0])


def geometry():
    return TiltGeometry(3.0, TILTS + 2, 84.0, [30.0, -60.0, 5.0, 100.0], [-20.0, 10.0, 70.0, 0.0])


def field(plane):
    """A quadratic displacement in A, written without the library."""
    x, y = plane.T / 2000
    values = np.stack([30 * x * x - 12 * y, 20 * x * y + 5 * x - 8 * y * y], axis=1)
    return values * (TILTS / 50)[:, None, None]


def series_of(geometry, deformation=None):
    zero = np.zeros(len(geometry))
    table = pd.DataFrame({
        "tilt_id": np.arange(1, len(geometry) + 1), "nominal_tilt_deg": TILTS, "pre_exposure_e_per_a2": zero, "x_tilt_deg": 0.0,
        "y_tilt_deg": 0.0, "z_rot_deg": 0.0, "x_shift_angst": 0.0, "y_shift_angst": 0.0, "excluded": 0, "exclude_reason": "none",
    })  # fmt: skip
    series = TiltSeries("TS_01", 300.0, 2.7, 0.1, 10.0, 10.0, -1, (480, 448), (0, 0, 0), table).with_geometry(geometry)
    return series.with_local_deformation(deformation)


def test_deformation_of_the_plane_is_that_of_the_images():
    deformation = from_plane(field, geometry(), 1500.0)
    plane = np.random.default_rng(0).uniform(-2500, 2500, (40, 2))
    landing = geometry().project(np.column_stack([plane, np.zeros(40)]))[0]
    np.testing.assert_allclose(deformation.at(landing), field(plane), atol=1e-8)


def test_table_keeps_it_and_can_lose_it(tmp_path):
    series = series_of(geometry(), from_plane(field, geometry(), 1500.0))
    write_tilt_series(series, tmp_path / "TS_01.star")
    back = read_tilt_series(tmp_path / "TS_01.star").select([0, 2])
    np.testing.assert_allclose(back.local_deformation.coefficients_angst, series.local_deformation.coefficients_angst[[0, 2]], atol=1e-4)
    assert series.with_local_deformation(None).local_deformation is None
    assert series_of(geometry()).local_deformation is None
    assert series_of(geometry(), LocalDeformation(np.zeros((4, 6, 2)))).local_deformation is None


def test_particles_are_looked_for_where_they_went():
    plane = np.array([[300.0, -900.0], [-700.0, 500.0]])
    points = np.column_stack([plane, np.zeros(2)])
    rigid, bent = (
        find_views(series_of(geometry(), d), points, (448, 480), 10.0) for d in (None, from_plane(field, geometry(), 1500.0))
    )
    moved = np.stack([field(plane)[v, p] for v, p in zip(rigid.view, rigid.particle, strict=True)])
    assert np.abs(moved).max() > 5
    np.testing.assert_allclose(bent.uv_angst - rigid.uv_angst, moved, atol=1e-6)
