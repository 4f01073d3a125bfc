"""Warp's local movement and deformation of the volume as a quadratic field: against Warp's formula, written out by hand."""

import numpy as np
import pytest
from test_foreign_alignment import PIXEL, WARP, images_of, make_series

from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.foreign_alignment import Images, read_foreign_alignment
from cryoet_core.io.warp import read_warp_xml, write_warp_xml
from cryoet_core.tilt_series.foreign import import_alignment

SIZE = (800, 600)
FIELD = np.array(SIZE) * PIXEL  # 2000 x 1500 A
VOLUME = np.array([1800.0, 1400.0, 400.0])


def movement_grid(name, corners):
    """2 x 2 nodes at the first and the last view: bilinear over the image, linear over views. corners: [view, y, x]."""
    nodes = "".join(
        f'<Node X="{x}" Y="{y}" Z="{z}" Value="{corners[z, y, x]}" />' for z in (0, 1) for y in (0, 1) for x in (0, 1)
    )
    return f'<{name} Width="2" Height="2" Depth="2" MarginX="0" MarginY="0" MarginZ="0">{nodes}</{name}>'


def volume_grid(name, values):
    """(duration, depth, height, width) nodes."""
    nodes = "".join(
        f'<Node X="{i[3]}" Y="{i[2]}" Z="{i[1]}" W="{i[0]}" Value="{v}" />' for i, v in np.ndenumerate(values)
    )
    t, z, y, x = values.shape
    return f'<{name} Width="{x}" Height="{y}" Depth="{z}" Duration="{t}">{nodes}</{name}>'


def with_grids(path, series, *grids, volume=VOLUME):
    write_warp_xml(path, series)
    text = path.read_text()
    before, _, after = text.partition('VolumeDimensionsAngstrom="')
    size = ", ".join(map(str, volume))
    path.write_text(
        (before + 'VolumeDimensionsAngstrom="' + size + after[after.index('"') :]).replace(
            "</TiltSeries>", "".join(grids) + "</TiltSeries>"
        )
    )
    return path


def bilinear(corners, x, y):
    return (1 - y) * ((1 - x) * corners[0, 0] + x * corners[0, 1]) + y * ((1 - x) * corners[1, 0] + x * corners[1, 1])


def landing(series, points):
    """Where the table's geometry and local deformation put points: (n, m, 2) A."""
    uv = series.geometry.project(points)[0]
    return uv + series.local_deformation.at(uv)


@pytest.fixture
def plane():
    """Points of the central plane that every view sees."""
    rng = np.random.default_rng(2)
    return np.column_stack([rng.uniform(-450, 450, (12, 2)), np.zeros(12)])


def still(size=SIZE):
    """A series whose shifts keep the volume in view."""
    series = make_series(size, -1.3)
    g = series.geometry
    return series.with_geometry(g.replace(x_shift_angst=g.x_shift_angst * 0.2, y_shift_angst=g.y_shift_angst * 0.2))


@pytest.mark.parametrize("size", [SIZE, (801, 599)])
def test_points_land_where_warps_movement_puts_them(tmp_path, plane, size):
    series, rng = still(size), np.random.default_rng(0)
    corners = rng.uniform(-60, 60, (2, 2, 2, 2))  # [axis, view, y, x]: up to 60 A
    path = with_grids(
        tmp_path / "TS_01.xml", series, *(movement_grid(f"GridMovement{a}", corners[k]) for k, a in enumerate("XY"))
    )
    taken = import_alignment(series, read_foreign_alignment(path, "TS_01", images_of(series)))
    before = series.geometry.project(plane)[0]
    odd = np.array(size) % 2 * PIXEL / 2  # Warp's centre is n/2
    time = np.linspace(0, 1, len(series))
    expected = before.copy()
    for i, t in enumerate(time):
        x, y = ((before[i] - odd) / (np.array(size) * PIXEL) + 0.5).T
        for axis in (0, 1):
            first, last = (bilinear(corners[axis, view], x, y) for view in (0, 1))
            expected[i, :, axis] -= (1 - t) * first + t * last
    np.testing.assert_allclose(landing(taken.series, plane), expected, atol=1e-4)
    assert np.abs(taken.series.geometry.project(plane)[0] - expected).max() > 10  # what was dropped
    assert "0.0 A rms" in taken.notes[0] and "local movement" in taken.notes[0]
    assert taken.summary("a")["local_deformation"]["largest_angst"].max() > 5


def test_points_land_where_warps_volume_deformation_puts_them(tmp_path, plane):
    """Bilinear over x and y, linear over the dose, and with depth: the central plane is exact, the rest is said."""
    series, rng = still(), np.random.default_rng(1)
    nodes = rng.uniform(-40, 40, (3, 2, 1, 2, 2))  # [axis, dose, z, y, x]
    path = with_grids(
        tmp_path / "TS_01.xml", series, *(volume_grid(f"GridVolumeWarp{a}", nodes[k]) for k, a in enumerate("XYZ"))
    )
    foreign = read_foreign_alignment(path, "TS_01", images_of(series))
    taken = import_alignment(series, foreign).series
    dose = series.tilts["pre_exposure_e_per_a2"].to_numpy()
    share = (dose - dose.min()) / np.ptp(dose)
    x, y = (plane[:, :2] / VOLUME[:2] + 0.5).T
    for i in range(len(series)):
        moved = plane + np.stack(
            [(1 - share[i]) * bilinear(n[0, 0], x, y) + share[i] * bilinear(n[1, 0], x, y) for n in nodes], axis=1
        )
        expected = series.geometry.select([i]).project(moved)[0][0]
        np.testing.assert_allclose(landing(taken, plane)[i], expected, atol=1e-4)
    assert "0.0 A rms" not in foreign.notes[0] or "A at most" in foreign.notes[0]
    deep = np.concatenate([nodes, -nodes], axis=2)  # the two faces move against each other
    path = with_grids(
        tmp_path / "TS_01.xml", series, *(volume_grid(f"GridVolumeWarp{a}", deep[k]) for k, a in enumerate("XYZ"))
    )
    foreign = read_foreign_alignment(path, "TS_01", images_of(series))
    assert np.abs(foreign.deformation.coefficients_angst).max() < 1e-6  # nothing in the central plane
    assert float(foreign.notes[0].split(" A rms")[0].split()[-1]) > 3


def test_the_field_stays_when_the_axis_is_turned_and_scales_with_the_pixel(tmp_path, plane):
    series = still()
    corners = np.random.default_rng(3).uniform(-60, 60, (2, 2, 2))
    path = with_grids(tmp_path / "TS_01.xml", series, movement_grid("GridMovementX", corners))
    plain = import_alignment(series, read_foreign_alignment(path, "TS_01", images_of(series))).series
    g = series.geometry
    other = series.with_geometry(g.replace(z_rot_deg=g.z_rot_deg - 180.0))  # this run's axis points the other way
    turned = import_alignment(other, read_foreign_alignment(path, "TS_01", images_of(series))).series
    np.testing.assert_allclose(landing(turned, -plane), landing(plain, plane), atol=1e-6)
    places = np.random.default_rng(4).uniform(-500, 500, (len(series), 9, 2))
    np.testing.assert_allclose(turned.local_deformation.at(places), plain.local_deformation.at(places), atol=1e-9)
    larger = read_foreign_alignment(path, "TS_01", Images(SIZE, 1.02 * PIXEL, 1.02 * PIXEL))
    np.testing.assert_allclose(
        larger.deformation.at(1.02 * places), 1.02 * plain.local_deformation.at(places), atol=1e-6
    )


def test_views_that_the_file_lacks_have_no_field(tmp_path):
    series = still()
    path = with_grids(
        tmp_path / "TS_01.xml",
        series,
        movement_grid("GridMovementX", np.random.default_rng(3).uniform(-60, 60, (2, 2, 2))),
    )
    foreign = read_foreign_alignment(path, "TS_01", images_of(series))
    more = series.select(np.r_[np.arange(len(series)), 0]).with_columns(
        tilt_id=np.arange(len(series) + 1), movie=[*series.tilts["movie"], "frames/another.tif"]
    )
    taken = import_alignment(more, foreign)
    coefficients = taken.series.local_deformation.coefficients_angst
    assert np.all(coefficients[-1] == 0) and np.abs(coefficients[taken.rows]).max(axis=(1, 2)).min() > 0.1


def test_no_grids_or_one_value_are_no_field(tmp_path):
    series = still()
    foreign = read_foreign_alignment(
        with_grids(tmp_path / "a.xml", series, movement_grid("GridMovementX", np.full((2, 2, 2), 7.0))),
        "a",
        images_of(series),
    )
    assert foreign.deformation is None and foreign.notes == ()
    assert import_alignment(series, foreign).series.local_deformation is None
    np.testing.assert_allclose(foreign.geometry.x_shift_angst, series.geometry.x_shift_angst - 7.0, atol=1e-5)


def test_a_field_without_sizes_is_said_and_left(tmp_path):
    series = still()
    path = with_grids(
        tmp_path / "a.xml", series, movement_grid("GridMovementX", np.random.default_rng(3).uniform(-60, 60, (2, 2, 2)))
    )
    path.write_text(path.read_text().replace("ImageDimensionsAngstrom", "Unknown"))
    found = read_warp_xml(path)
    assert found.field is None and "not taken over" in found.notes[0]


def test_a_series_of_m_is_held_to_a_few_angstrom():
    """Four views of EMPIAR-10491 after M: the note says what a quadratic leaves of a 6 x 4 grid."""
    images = Images((5760, 4092), 0.834, 0.834)
    found, field = read_foreign_alignment(WARP, "TS_1", images), read_warp_xml(WARP).field
    points = np.column_stack([np.random.default_rng(0).uniform(-1200, 1200, (300, 2)), np.zeros(300)])
    rigid, further, _ = field.at(points)
    left = further - found.deformation.at(rigid)
    assert np.sqrt(np.mean(left**2)) < 0.8 * np.sqrt(np.mean(further**2))
    assert "2.2 A rms" in found.notes[0] and isinstance(found.geometry, TiltGeometry)
