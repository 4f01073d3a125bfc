"""Alignments of IMOD, AreTomo, RELION and Warp against formulas written out here, and against values those programs computed.

Rows of real files: AreTomo's from public test data (MIT, Utz Ermel 2024), IMOD's from that of teamtomo's etomofiles (BSD-3, Davide Torre 2023),
RELION's from a project that RELION 5.0.1 processed, Warp's from warpylib's EMPIAR-10491 (MIT). File names are made up.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import CubicSpline

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io import imod
from cryoet_core.io.aretomo import write_aln
from cryoet_core.io.foreign_alignment import (
    Images,
    alignment_pixel_size,
    read_foreign_alignment,
)
from cryoet_core.io.relion import write_relion_project
from cryoet_core.io.warp import read_warp_xml, write_warp_xml
from cryoet_core.metadata import Particles, TiltSeries

PIXEL = 2.5
WARP = Path(__file__).parents[2] / "data" / "warp_four_tilts.xml"
NOMINAL = np.arange(-60, 61, 6.0)


def turn(axis, degrees):
    """Right-handed rotation, written out: nothing of the library."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array({"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]], "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}[axis])


def make_series(size=(4096, 4090), x_tilt=0.0, seed=0):
    """Every view with an axis, a refined tilt and a shift of its own; half of it in views that are odd in y."""
    rng = np.random.default_rng(seed)
    n = len(NOMINAL)
    order = np.argsort(np.argsort(np.abs(NOMINAL), kind="stable"))
    table = pd.DataFrame({
        "tilt_id": order + 1, "movie": [f"frames/TS_01_{i:03d}_{t:.1f}.tif" for i, t in zip(order, NOMINAL, strict=True)],
        "image": [f"{i + 1:06d}@a.mrc" for i in range(n)], "nominal_tilt_deg": NOMINAL + rng.normal(0, 0.02, n), "nominal_axis_deg": 85.0,
        "pre_exposure_e_per_a2": 3.0 * order, "exposure_e_per_a2": 3.0, "defocus_u_angst": 30000.0 + 10 * np.arange(n),
        "defocus_v_angst": 29000.0, "defocus_angle_deg": 33.0, "phase_shift_deg": 0.0, "ctf_scale": 1.0, "x_tilt_deg": x_tilt,
        "y_tilt_deg": NOMINAL + 2.0 + rng.normal(0, 0.2, n), "z_rot_deg": 84.0 + rng.normal(0, 0.5, n), "x_shift_angst": rng.normal(0, 200, n),
        "y_shift_angst": rng.normal(0, 200, n), "excluded": 0, "exclude_reason": "none",
    })
    return TiltSeries("TS_01", 300.0, 2.7, 0.1, PIXEL, PIXEL, -1, size, (0, 0, 0), table)


def images_of(series, **given):
    return Images(series.image_size_px, series.pixel_size_angst, series.movie_pixel_size_angst, **given)


def write_as(program, series, folder):
    """The series in the files of a program; the path to give."""
    g, pixel, size = series.geometry, series.pixel_size_angst, series.image_size_px
    if program == "imod":
        imod.write_xf(folder / "TS_01.xf", imod.geometry_to_xf(g, pixel, size))
        imod.write_tlt(folder / "TS_01.tlt", g.y_tilt_deg)
        imod.write_tlt(folder / "TS_01.xtilt", g.x_tilt_deg)
        imod.write_tlt(folder / "TS_01.rawtlt", series.tilts["nominal_tilt_deg"])
        return folder
    if program == "aretomo":
        write_aln(folder / "TS_01.aln", g, pixel, size)
        return folder / "TS_01.aln"
    if program == "warp":
        write_warp_xml(folder / "TS_01.xml", series)
        return folder / "TS_01.xml"
    write_relion_project(folder, [series], Particles(pd.DataFrame({"tomo_name": ["TS_01"], "x_angst": [0.0], "y_angst": 0.0, "z_angst": 0.0})))
    return folder / "tomograms.star"


@pytest.mark.parametrize("size", [(4096, 4090), (3711, 3839)])
@pytest.mark.parametrize("program, x_tilt", [("imod", 1.7), ("imod", 0.0), ("aretomo", 0.0), ("relion", 1.7), ("warp", -1.7)])
def test_what_is_written_comes_back_to_a_thousandth_of_a_pixel(tmp_path, program, x_tilt, size):
    series = make_series(size, x_tilt)
    found = read_foreign_alignment(write_as(program, series, tmp_path), "TS_01", images_of(series))
    points = np.random.default_rng(1).uniform(-1, 1, (50, 3)) * [size[0] / 2 * PIXEL, size[1] / 2 * PIXEL, 1500]
    truth, back = series.geometry, found.geometry
    assert np.abs(back.project(points)[0] - truth.project(points)[0]).max() / PIXEL < 1e-3
    for name in ("x_tilt_deg", "y_tilt_deg", "z_rot_deg"):
        np.testing.assert_allclose(getattr(back, name), getattr(truth, name), atol=1e-4)
    assert found.used.all() and found.notes == ()
    if found.nominal_deg is not None:
        np.testing.assert_allclose(found.nominal_deg, series.tilts["nominal_tilt_deg"], atol=1e-4)


@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_warp_sees_every_point_where_we_see_it(tmp_path, size):
    """Warp's own chain: ZYZ matrix of (0, angle, -axis), turned about x by the level, from half the size in A."""
    series = make_series(size, -1.3)
    write_warp_xml(tmp_path / "a.xml", series)
    found = read_warp_xml(tmp_path / "a.xml")
    stored = found.geometry  # angles as stored: -y_tilt
    points = np.random.default_rng(0).uniform(-500, 500, (6, 3))
    ours, depth = series.geometry.project(points)
    for i in range(len(series)):
        c, s = np.cos(np.deg2rad([-stored.y_tilt_deg[i], -stored.z_rot_deg[i]])), np.sin(np.deg2rad([-stored.y_tilt_deg[i], -stored.z_rot_deg[i]]))
        matrix = np.array([[c[1] * c[0], s[1], -c[1] * s[0]], [-s[1] * c[0], c[1], s[1] * s[0]], [s[0], 0, c[0]]]) @ turn("x", -1.3)
        for k, point in enumerate(points):
            landing = matrix @ point + [*stored.shift_angst[i], 0]
            pixels = (landing[:2] + np.array(size) * PIXEL / 2) / PIXEL
            np.testing.assert_allclose(pixels, ours[i, k] / PIXEL + np.array(size) // 2, atol=1e-5)
            np.testing.assert_allclose(landing[2], depth[i, k], atol=1e-4)
    text = (tmp_path / "a.xml").read_text()
    assert 'AreAnglesInverted="True"' in text and found.handedness == -1  # ours is -1: depth lowers the defocus
    assert '<GridCTF Width="1" Height="1" Depth="21"' in text and 'Z="0" Value="2.95"' in text
    assert '<GridCTFDefocusDelta' in text and 'Z="1" Value="0.101"' in text


# point (A), row of the file, (x, y) in A from the image's centre, defocus U and V (A), as Warp computed them
WARP_COMPUTED = [
    ((-500, -500, -500), 0, (-482.8435, 36.3911), (28371.7539, 28157.6270)), ((-500, -500, -500), 1, (-461.8972, 409.1638), (28640.2188, 28383.3223)),
    ((-500, -500, -500), 2, (-526.1406, 535.1489), (27112.1270, 27000.7930)), ((-500, -500, -500), 3, (-487.3140, 624.4175), (27729.7422, 27336.4160)),
    ((500, 0, -500), 0, (77.9497, -745.4254), (28942.7734, 28728.6465)), ((500, 0, -500), 2, (48.6023, -421.9130), (27021.9785, 26910.6445)),
    ((0, 0, 0), 0, (13.7502, -53.4326), (29076.4746, 28862.3477)), ((0, 0, 0), 1, (56.2239, 26.2515), (29218.1094, 28961.2129)),
    ((0, 0, 0), 2, (1.9219, 22.7880), (27570.5566, 27459.2227)), ((0, 0, 0), 3, (51.0134, -54.8497), (27727.3730, 27334.0469)),
    ((-500, 0, 500), 1, (-0.8679, 587.7388), (29642.5078, 29385.6113)), ((500, 500, 500), 0, (510.8198, -142.9357), (29781.1934, 29567.0684)),
    ((500, 500, 500), 1, (574.4338, -356.6780), (29795.9980, 29539.1035)), ((500, 500, 500), 3, (588.5305, -729.8171), (27725.0020, 27331.6758)),
]  # fmt: skip


def _local_movement(tree, name, row, where):
    """Warp's movement grid at an image position (0 to 1), less its mean over the nodes, by natural cubic splines."""
    nodes = np.array([[float(n.get(k)) for k in ("Z", "Y", "X", "Value")] for n in tree.find(name)])
    plane = nodes[nodes[:, 0] == row][:, 3].reshape(4, 6)
    along_y = CubicSpline(np.linspace(0, 1, 4), plane, axis=0, bc_type="natural")(where[1])
    return float(CubicSpline(np.linspace(0, 1, 6), along_y, bc_type="natural")(where[0]) - plane.mean())


def test_points_land_where_warp_computed_them():
    import xml.etree.ElementTree as ET

    tree = ET.fromstring(WARP.read_bytes())
    size = np.array([4803.83984, 3412.72803])
    found = read_foreign_alignment(WARP, "TS_1", Images((5760, 4092), 0.834, 0.834))
    assert found.names == ("view_01", "view_14", "view_21", "view_41") and found.handedness == 1 and found.dose.tolist() == [120, 45, 0, 114]
    grids = {name: [float(n.get("Value")) for n in tree.find(name)] for name in ("GridCTF", "GridCTFDefocusDelta", "GridMovementX", "GridMovementY")}
    for point, row, landing, defocus in WARP_COMPUTED:
        uv, depth = (a[row, 0] for a in found.geometry.project(np.array([point], float)))
        mean = np.array([np.mean(grids[f"GridMovement{k}"][24 * row : 24 * row + 24]) for k in "XY"])
        where = (uv + mean + size / 2) / size  # Warp looks its grid up before it is applied
        local = [_local_movement(tree, f"GridMovement{k}", row, where) for k in "XY"]
        np.testing.assert_allclose(uv - local, landing, atol=5e-4)
        middle, delta = 1e4 * grids["GridCTF"][row], 1e4 * grids["GridCTFDefocusDelta"][row]
        expected = np.array([middle + delta / 2, middle - delta / 2]) + found.handedness * depth
        np.testing.assert_allclose(expected, defocus, atol=0.01)
    assert any("local movement" in note for note in found.notes) and any("magnification" in note for note in found.notes)


ARETOMO_2 = """# AreTomo Alignment / Priims bprmMn
# RawSize = 2032 2032 90
# NumPatches = 16
# DarkFrame =     1    0   -66.00
# DarkFrame =    88    0    66.00
# AlphaOffset =     0.50
# BetaOffset =     0.25
# Thickness = 312
# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT
    1   -12.6611    1.00000     24.786     -2.677     1.00     1.00     1.00     0.00    -61.50
    2   -12.6611    1.00000     34.451     -8.599     1.00     1.00     1.00     0.00    -60.00
# Local Alignment
   0   0  -558.42   -802.00   -100.07     24.43   1.0
   0   1  -274.86   -757.91    -36.95     11.98   1.0
"""
ARETOMO_1_2 = """# AreTomo Alignment / Priims bprmMn
# 41  0
# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT
    0   -93.7196    1.00000    155.235    708.750     1.00     1.00     1.00     0.00    -51.98
    1   -93.7159    1.00000    128.849    676.340     1.00     1.00     1.00     0.00    -48.99
"""
ARETOMO_1_3 = """# AreTomo Alignment / Priims bprmMn
# RawSize = 5760 4092 41
# NumPatches = 0
# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT
    0   -93.6692    1.00000    157.142    720.866     1.00     1.00     1.00     0.00    -51.98
"""


def test_aretomo_of_three_versions(tmp_path):
    for name, text in (("two", ARETOMO_2), ("old", ARETOMO_1_2), ("less_old", ARETOMO_1_3)):
        (tmp_path / f"{name}.aln").write_text(text)
    two = read_foreign_alignment(tmp_path / "two.aln", "x", Images((2032, 2032), 1.5, 1.5))
    assert two.nominal_deg.tolist() == [-62.0, -60.5] and two.dark_deg == (-66.0, 66.0)
    assert any("local alignment (2 rows)" in n for n in two.notes) and any("BetaOffset 0.25" in n for n in two.notes)
    np.testing.assert_allclose(two.geometry.shift_angst[0], [24.786 * 1.5, -2.677 * 1.5])
    # a point 100 A along z: it moves by 100 sin(-61.5) across the axis, which is turned by -12.6611 degrees
    across = 100 * np.sin(np.deg2rad(-61.5))
    expected = [across * np.cos(np.deg2rad(-12.6611)) + 37.179, across * np.sin(np.deg2rad(-12.6611)) - 4.0155]
    np.testing.assert_allclose(two.geometry.project(np.array([[0, 0, 100.0]]))[0][0, 0], expected, atol=1e-6)
    old = read_foreign_alignment(tmp_path / "old.aln", "x", Images((5760, 4092), 0.834, 0.834))
    assert old.nominal_deg is None and old.geometry.z_rot_deg.tolist() == [-93.7196, -93.7159] and old.notes == ()
    binned = read_foreign_alignment(tmp_path / "less_old.aln", "x", Images((1440, 1023), 4 * 0.834, 0.834))
    np.testing.assert_allclose(binned.geometry.shift_angst[0], [157.142 * 0.834, 720.866 * 0.834])
    assert "5760 x 4092" in binned.notes[0]


ETOMO_XF = """   0.1020875   0.9947760  -0.9947760   0.1020875       2.395      -3.871
   0.1023742   0.9947464  -0.9947464   0.1023742       6.193      -0.115
   0.1026555   0.9947174  -0.9947174   0.1026555       1.922      -2.550
"""


@pytest.fixture
def etomo(tmp_path):
    folder = tmp_path / "TS_001"
    folder.mkdir()
    (folder / "TS_001.xf").write_text(ETOMO_XF)
    (folder / "TS_001.tlt").write_text(" -57.12\n -54.11\n -51.11\n")
    (folder / "TS_001.rawtlt").write_text("-60.00\n-57.00\n-54.00\n")
    return folder


def test_a_folder_of_etomo(etomo):
    """Worked by hand: the axis is -atan2(A21, A11), the shift -A^T d less the half pixel between the two centres of an even image."""
    found = read_foreign_alignment(etomo, "TS_001", Images((1024, 1022), 2.0, 2.0))
    g = found.geometry
    np.testing.assert_allclose(g.z_rot_deg, [84.1405, 84.1240, 84.1078], atol=1e-3)
    np.testing.assert_allclose(g.shift_angst[0], [2 * (-4.09528 - 0.5), 2 * (-1.98731 - 0.5)], atol=1e-4)
    assert g.y_tilt_deg.tolist() == [-57.12, -54.11, -51.11] and found.nominal_deg.tolist() == [-60, -57, -54] and found.used.all()
    # two pixels of 2 A are one of 4 A; what stays in place is the middle of the image, which is half a raw pixel from ours
    binned = read_foreign_alignment(etomo / "TS_001.tlt", "TS_001", Images((1024, 1022), 2.0, 2.0, given_pixel_angst=4.0))
    np.testing.assert_allclose(binned.geometry.shift_angst[0], [4 * -4.09528 - 1, 4 * -1.98731 - 1], atol=2e-4)


def test_what_tilt_com_adds(etomo):
    com = "$tilt -StandardInput\nTILTFILE TS_001.tlt\nFULLIMAGE 1022 1024\nOFFSET 1.5\nXAXISTILT -0.75\nEXCLUDELIST2 2-3\nSHIFT 0.0 12.0\nLOCALFILE a.xf\n"
    (etomo / "tilt.com").write_text(com)
    found = read_foreign_alignment(etomo / "TS_001.xf", "TS_001", Images((1024, 1022), 2.0, 2.0))
    np.testing.assert_allclose(found.geometry.y_tilt_deg, [-55.62, -52.61, -49.61])
    assert (found.geometry.x_tilt_deg == -0.75).all() and found.used.tolist() == [True, False, False]
    assert any("SHIFT" in n for n in found.notes) and any("LOCALFILE" in n for n in found.notes) and len(found.notes) == 2
    (etomo / "tilt.com").write_text(com.replace("1022 1024", "256 256"))
    binned = read_foreign_alignment(etomo, "TS_001", Images((1024, 1024), 2.0, 2.0))
    np.testing.assert_allclose(binned.geometry.shift_angst[0, 0], 8 * -4.09528 - 1, atol=5e-4)
    (etomo / "tilt.com").write_text(com.replace("TS_001.tlt", "other.tlt"))
    other = read_foreign_alignment(etomo, "TS_001", Images((1024, 1022), 2.0, 2.0))
    assert other.used.all() and (other.geometry.x_tilt_deg == 0).all() and "another series" in other.notes[0]


RELION_ROWS = """data_TS_01

loop_
_rlnMicrographName #1
_rlnTomoXTilt #2
_rlnTomoYTilt #3
_rlnTomoZRot #4
_rlnTomoXShiftAngst #5
_rlnTomoYShiftAngst #6
_rlnMicrographPreExposure #7
frames/TS_01_000.mrc 0.000000 0.000000 85.000000 2.331542 7.150507 0.000000
frames/TS_01_001.mrc 0.000000 -6.000000 85.000000 -5.584135 -6.536172 3.000000
frames/TS_01_002.mrc 0.000000 6.000000 85.000000 5.585723 -2.271084 6.000000
"""
RELION_GLOBAL = """data_global

loop_
_rlnTomoName #1
_rlnTomoHand #2
_rlnTomoTiltSeriesPixelSize #3
_rlnMicrographOriginalPixelSize #4
_rlnTomoTiltSeriesStarFile #5
TS_01 -1 4.0 4.0 tilt_series/TS_01.star
"""


def test_relion_projects_and_single_files(tmp_path):
    (tmp_path / "Job" / "tilt_series").mkdir(parents=True)
    (tmp_path / "Job" / "tilt_series" / "TS_01.star").write_text(RELION_ROWS)
    (tmp_path / "Job" / "tomograms.star").write_text(RELION_GLOBAL)
    images = Images((256, 256), 4.0, 4.0)
    found = read_foreign_alignment(tmp_path / "Job" / "tomograms.star", "TS_01", images)
    assert found.handedness == -1 and found.names == ("ts_01_000", "ts_01_001", "ts_01_002") and found.dose.tolist() == [0, 3, 6]
    # RELION's chain for the second row: Rz(85) Ry(-6) (p - 128) + shift / 4 + 128, pixels
    point = np.array([10.0, -20.0, 30.0])
    expected = (turn("z", 85) @ turn("y", -6) @ point)[:2] + np.array([-5.584135, -6.536172]) / 4
    np.testing.assert_allclose(found.geometry.project(4 * point[None])[0][1, 0] / 4, expected, atol=1e-9)
    alone = read_foreign_alignment(tmp_path / "Job" / "tilt_series" / "TS_01.star", "TS_01", images)
    np.testing.assert_array_equal(alone.geometry.shift_angst, found.geometry.shift_angst)
    assert alone.handedness is None
    scaled = read_foreign_alignment(tmp_path / "Job" / "tomograms.star", "TS_01", Images((256, 256), 4.1, 4.1))
    np.testing.assert_allclose(scaled.geometry.shift_angst, found.geometry.shift_angst * 4.1 / 4.0)
    assert "4.1" in scaled.notes[0]


@pytest.mark.parametrize("size, ours, pixel", [
    ((3838, 3710), (3838, 3710), 2.0), ((959, 927), (3838, 3710), 8.0), ((7676, 7420), (3838, 3710), 1.0), (None, (64, 64), 2.0),
])  # fmt: skip
def test_pixels_follow_from_sizes(size, ours, pixel):
    assert alignment_pixel_size(size, Images(ours, 2.0, 2.0), "a")[0] == pytest.approx(pixel)


@pytest.mark.parametrize("size, given", [((3000, 3710), None), ((2700, 2600), None), ((959, 927), 4.0)])
def test_other_fields_of_view_are_refused(size, given):
    with pytest.raises(UserInputError, match="E-ALN-06.*alignment_pixel_size_angst"):
        alignment_pixel_size(size, Images((3838, 3710), 2.0, 2.0, given), "a")


def _broken(name, text, folder):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name, text, error", [
    ("a.xml", WARP.read_text(encoding="utf-8-sig")[:3000], "E-WARP-01"),
    ("a.xml", "<Movie/>", "E-WARP-01.*root element"),
    ("a.xml", WARP.read_text(encoding="utf-8-sig").replace("<Angles>40.01\n", "<Angles>"), "E-WARP-01.*values"),
    ("a.xml", WARP.read_text(encoding="utf-8-sig").replace('X="3" Y="0" Z="1" Value="', 'X="3" Y="0" Z="1" Value="x'), "E-WARP-01.*GridMovementX"),
    ("a.xml", WARP.read_text(encoding="utf-8-sig").replace("4803.83984", "4000.0"), "E-ALN-06"),
    ("a.aln", ARETOMO_2.replace("24.786", "24.x"), "E-ALN-01.*line 10"),
    ("a.aln", ARETOMO_2.replace("24.786", "nan"), "E-ALN-01.*line 10"),
    ("a.aln", ARETOMO_2.replace("24.786", "24_786"), "E-ALN-01.*line 10"),
    ("a.aln", ARETOMO_2.replace("24.786", "9" * 400), "E-ALN-01.*line 10"),
    ("a.aln", ARETOMO_2.replace("AlphaOffset =     0.50", "AlphaOffset = inf"), "E-ALN-01.*AlphaOffset"),
    ("TS_01.tomostar", "\ndata_\n\nloop_\n_wrpMovieName #1\n_wrpAngleTilt #2\na.tif -30.0\n", "E-ALN-03.*Warp's list of the images.*TS_01.xml"),
    ("a.star", "\ndata_\n\nloop_\n_wrpMovieName #1\n_wrpAngleTilt #2\na.tif -30.0\n", "E-ALN-03.*no alignment.*TS_01.xml"),
    ("a.xml", WARP.read_text(encoding="utf-8-sig").replace('Width="6" Height="4"', 'Width="60000" Height="40000"'), "E-WARP-01.*nodes for 60000 x 40000"),
    ("a.xml", WARP.read_text(encoding="utf-8-sig").replace('Node X="3" Y="0" Z="1"', 'Node X="-3" Y="0" Z="1"'), "E-WARP-01.*node"),
    ("a.xml", WARP.read_text(encoding="utf-8-sig").replace('LevelAngleX="1.457031"', 'LevelAngleX=""'), "E-WARP-01.*LevelAngleX"),
    ("a.xml", WARP.read_text(encoding="utf-8-sig").replace('"-1.3210737"', '"1e200"'), "E-WARP-01.*GridMovementX.*1e.200"),
    ("a.xml", WARP.read_text(encoding="utf-8-sig").replace("12.05431", "1e200"), "E-ALN-10.*x_shift_angst"),
    ("a.aln", ARETOMO_2.replace("= 2032 2032", "= 1000 2032"), "E-ALN-06"),
    ("a.star", RELION_ROWS.replace("rlnTomoZRot", "rlnTomoProjX"), "E-RELION-04.*rlnTomoZRot.*RELION 4"),
    ("a.star", RELION_GLOBAL.replace("TS_01 -1", "TS_02 -1"), "E-ALN-08.*TS_02"),
    ("a.star", RELION_GLOBAL, "E-FILE-01.*tilt_series/TS_01.star"),
    ("a.txt", "hello", "E-ALN-03"),
    ("a.xf", ETOMO_XF, "E-FILE-01.*a.tlt"),
])  # fmt: skip
def test_broken_files_say_what_is_wrong(tmp_path, name, text, error):
    with pytest.raises(UserInputError, match=error):
        read_foreign_alignment(_broken(name, text, tmp_path), "TS_01", Images((5760, 4092), 0.834, 0.834))


@pytest.mark.parametrize("line", ["EXCLUDELIST " + "9" * 5000, "EXCLUDELIST 1-" + "9" * 400, "EXCLUDELIST \u00b2", "OFFSET 1_5"])
def test_numbers_of_a_command_file_that_are_none(etomo, line):
    (etomo / "tilt.com").write_text(f"$tilt -StandardInput\nTILTFILE TS_001.tlt\n{line}\n")
    with pytest.raises(UserInputError, match="E-ALN-09.*tilt.com"):
        read_foreign_alignment(etomo, "TS_001", Images((1024, 1022), 2.0, 2.0))


def test_transforms_and_angles_must_be_as_many(etomo):
    (etomo / "TS_001.tlt").write_text("1\n2\n")
    with pytest.raises(UserInputError, match="E-ALN-04.*2 angles.*3"):
        read_foreign_alignment(etomo, "TS_001", Images((1024, 1022), 2.0, 2.0))
    (etomo / "TS_001.xf").rename(etomo / "b.xf")
    (etomo / "c.xf").write_text(ETOMO_XF)
    with pytest.raises(UserInputError, match="E-ALN-08.*b.xf, c.xf"):
        read_foreign_alignment(etomo, "TS_001", Images((1024, 1022), 2.0, 2.0))


def test_warp_cannot_hold_a_tilt_about_x_of_its_own_for_every_view(tmp_path):
    series = make_series()
    turned = series.with_geometry(TiltGeometry(np.linspace(0, 1, len(series)), *(getattr(series.geometry, c) for c in (
        "y_tilt_deg", "z_rot_deg", "x_shift_angst", "y_shift_angst"))))
    with pytest.raises(UserInputError, match="E-WARP-02"):
        write_warp_xml(tmp_path / "a.xml", turned)
