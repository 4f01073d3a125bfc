"""One known particle, written by hand as every program would: position, orientation and the vector it turns.

The tomogram has 100 x 80 x 60 voxels of 10 A (binned 4 times), so that its centre is voxel (50, 40, 30) counted from 0. The particle sits at
voxel (62.25, 25.5, 41), 122.5, -145, 110 A from the centre. It takes the reference's x axis to y, y to z and z to x.
"""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoet_core.io.picks import Axes, Grid, Source, Tomogram, read_picks
from cryoet_core.io.picks.angles import dynamo_to_matrix, matrix_to_dynamo, matrix_to_zxz, zxz_to_matrix
from cryoet_core.io.picks.imod import read_model

DATA = Path(__file__).parents[2] / "data" / "picks"
TOMOGRAM = Tomogram("TS_01", Grid((100, 80, 60), 10.0), Grid((400, 320, 240), 2.5))
POSITION = np.array([122.5, -145.0, 110.0])
TURN = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
VECTOR, TURNED = np.array([1.0, 2, 3]), np.array([3.0, 1, 2])  # its x came from z, its y from x, its z from y

RELION5 = """
data_particles

loop_
_rlnTomoName #1
_rlnCenteredCoordinateXAngst #2
_rlnCenteredCoordinateYAngst #3
_rlnCenteredCoordinateZAngst #4
_rlnAngleRot #5
_rlnAngleTilt #6
_rlnAnglePsi #7
_rlnOriginXAngst #8
_rlnOriginYAngst #9
_rlnOriginZAngst #10
TS_02 1 2 3 0 0 0 0 0 0
TS_01 132.5 -165.0 115.0 90 90 180 10 -20 5
"""
# the same orientation in two parts, the origin in the frame of the first: A_sub turns (10, -20, 5) into (5, 10, -20)
SUBTOMOGRAM = """
data_particles

loop_
_rlnTomoName #1
_rlnCenteredCoordinateXAngst #2
_rlnCenteredCoordinateYAngst #3
_rlnCenteredCoordinateZAngst #4
_rlnTomoSubtomogramRot #5
_rlnTomoSubtomogramTilt #6
_rlnTomoSubtomogramPsi #7
_rlnOriginXAngst #8
_rlnOriginYAngst #9
_rlnOriginZAngst #10
TS_01 127.5 -135.0 90.0 90 90 180 10 -20 5
"""
RELION4 = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnTomoTiltSeriesPixelSize #2
1 2.5

data_particles

loop_
_rlnTomoName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnCoordinateZ #4
_rlnAngleRot #5
_rlnAngleTilt #6
_rlnAnglePsi #7
_rlnOriginXAngst #8
_rlnOriginYAngst #9
_rlnOriginZAngst #10
_rlnOpticsGroup #11
TS_01 253 94 166 90 90 180 10 -20 5 1
"""
WARP = """
data_

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
_rlnCoordinateZ #3
_rlnAngleRot #4
_rlnAngleTilt #5
_rlnAnglePsi #6
_rlnMicrographName #7
_rlnMagnification #8
_rlnDetectorPixelSize #9
124.5 51 82 90 90 180 some/where/TS_01.mrc_15.00Apx.mrc 10000.0 5.0
"""
CBOX = """
data_global

_cbox_format_version 1.0

data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_Confidence #7
_NumBoxes #8
47.25 10.5 41.0 30 30 30 0.75 <NA>

data_cryolo_include

loop_
_slice_index #1
41.0
"""
STOPGAP = """
data_stopgap_motivelist

loop_
_motl_idx
_tomo_num
_object
_subtomo_num
_halfset
_orig_x
_orig_y
_orig_z
_score
_x_shift
_y_shift
_z_shift
_phi
_psi
_the
_class
1 7 1 1 A 63.0 26.0 42.0 0.75 0.25 0.5 0.0 0.0 90.0 90.0 2
"""
DEEPFINDER = """<objlist>
  <object tomo_idx="0" class_label="2" x="62.25" y="25.5" z="41" phi="0" psi="90" the="90" cluster_size="120"/>
</objlist>
"""


def dynamo_line(tdrot, tilt, narot):
    """Counted from 1: voxel (63.25, 26.5, 42), a part of it as shift."""
    row = [1, 1, 1, 0.25, 0.5, 0, tdrot, tilt, narot, 0.75, 0, 0, 1, -60, 60, 0, 0, 0, 0, 7, 1, 2, 0, 63, 26, 42, *[0] * 9]
    return " ".join(map(str, row)) + "\n"


def em_motive_list():
    """20 float32 of one particle after a header of 512 bytes (machine 6, type 5)."""
    row = np.zeros(20, "<f4")
    row[[0, 3, 4, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19]] = [0.75, 1, 7, 63, 26, 42, 0.25, 0.5, 0, 0, 90, 90, 2]
    return bytes([6, 0, 0, 5]) + struct.pack("<3i", 20, 1, 1) + bytes(496) + row.tobytes()


def imod_model(x, y, z, flags=0, origin=(0.0, 0.0, 0.0), start=(0, 0, 0), big=(100, 80, 60)):
    """A binary model with one point, by the specification: header of 232 bytes, object of 176, contour of 16, MINX of 72."""
    head = bytearray(232)
    struct.pack_into(">5i", head, 128, *big, 1, flags)
    obj = bytearray(176)
    struct.pack_into(">2i", obj, 128, 1, 1 << 9)
    minx = np.zeros((6, 3), ">f4")
    minx[3], minx[1] = 10.0, origin
    minx[4] = np.array(origin) - 10.0 * np.array(start)
    chunks = b"OBJT" + bytes(obj) + b"IMAT" + struct.pack(">i", 12) + bytes(12) + b"CONT" + struct.pack(">4i3f", 1, 0, 0, 0, x, y, z)
    return b"IMODV1.2" + bytes(head) + chunks + b"MINX" + struct.pack(">i", 72) + minx.tobytes() + b"IEOF"


EMAN2 = json.dumps({"apix_unbin": 2.5, "boxes_3d": [[49, -58, 44, "tm", 0.75, 2]], "class_list": {"2": {"name": "ribosome", "boxsize": 64}}})
EMAN2_CORNER = json.dumps({"boxes_3d": [[62.25, 25.5, 41, "manual", 0.75, 2]]})
COPICK = json.dumps({"pickable_object_name": "ribosome", "user_id": "a", "session_id": "1", "run_name": "TS_01", "voxel_spacing": 10.0, "unit": "angstrom",
                     "points": [{"location": {"x": 620.0, "y": 250.0, "z": 410.0}, "score": 0.75, "instance_id": 0,
                                 "transformation_": [[0, 0, 1, 2.5], [1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 0, 1]]}]})
PORTAL = json.dumps({"type": "orientedPoint", "location": {"x": 62.25, "y": 25.5, "z": 41}, "xyz_rotation_matrix": TURN.tolist()}) + "\n"
TABLE = "x,y,z,rot,tilt,psi,score,class\n62.25,25.5,41,90,90,180,0.75,2\n"

CASES = {  # file name: (content, oriented, score, class)
    "relion5.star": (RELION5, True, None, None), "sub.star": (SUBTOMOGRAM, True, None, None), "relion4.star": (RELION4, True, None, None),
    "warp.star": (WARP, True, None, None), "TS_01_info.json": (EMAN2, False, 0.75, 2), "corner.json": (EMAN2_CORNER, False, 0.75, 2),
    "a.cbox": (CBOX, False, 0.75, None), "a.coords": ("62.25 25.5 41\n", False, None, None), "a.csv": (TABLE, True, 0.75, 2),
    "a.xml": (DEEPFINDER, True, 120, 2), "a.tbl": (dynamo_line(90, 90, 180), True, 0.75, 2), "b.tbl": (dynamo_line(-90, -90, 0), True, 0.75, 2),
    "motl.star": (STOPGAP, True, 0.75, 2), "motl.em": (em_motive_list(), True, 0.75, 2), "a.mod": (imod_model(62.75, 26.0, 41.0), False, None, 1),
    "a.pt": ("   1   1   62.75   26.00   41.00\n", False, None, 1), "picks.json": (COPICK, True, 0.75, None), "a.ndjson": (PORTAL, True, None, None),
}


@pytest.mark.parametrize("name", CASES)
def test_known_particle(tmp_path, name):
    content, oriented, score, label = CASES[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    picks = read_picks(path, TOMOGRAM).picks
    np.testing.assert_allclose(picks.positions_angst, [POSITION], atol=1e-4)
    if oriented:
        np.testing.assert_allclose(picks.rotations[0] @ VECTOR, TURNED, atol=1e-6)
    else:
        assert picks.rotations is None
    assert (None if picks.score is None else picks.score[0]) == score
    assert (None if picks.class_number is None else picks.class_number[0]) == label


def test_zxz_and_dynamo_angles_against_scipy():
    angles = np.random.default_rng(1).uniform([-180, 0, -180], [180, 180, 180], (50, 3))
    extrinsic = Rotation.from_euler("zxz", angles, degrees=True).as_matrix()  # small letters: about fixed axes, the first angle first
    np.testing.assert_allclose(zxz_to_matrix(*angles.T), extrinsic, atol=1e-12)
    np.testing.assert_allclose(dynamo_to_matrix(*angles.T), np.swapaxes(extrinsic, 1, 2), atol=1e-12)
    np.testing.assert_allclose(matrix_to_zxz(extrinsic), angles, atol=1e-9)
    np.testing.assert_allclose(matrix_to_dynamo(np.swapaxes(extrinsic, 1, 2)), angles, atol=1e-9)


def test_dynamo_against_its_own_matrix():
    """dynamo_euler2matrix([-155.55 63.924 197.81]) as Dynamo printed it (in the tests of alisterburt's ABTT): particle -> reference."""
    printed = np.array([[0.8110, -0.5165, -0.2747], [0.4516, 0.2544, 0.8552], [-0.3718, -0.8177, 0.4396]])
    np.testing.assert_allclose(dynamo_to_matrix(-155.55, 63.924, 197.81).T, printed, atol=1e-4)


def test_dynamos_axis_is_turned_by_tdrot_and_tilt_only():
    axis = dynamo_to_matrix(30.0, 50.0, np.array([0.0, 70.0, 200.0]))[:, :, 2]
    np.testing.assert_allclose(axis, axis[:1].repeat(3, 0), atol=1e-12)


def test_one_orientation_in_all_conventions():
    """STOPGAP's own conversion to Dynamo: tdrot = -psi, tilt = -the, narot = -phi."""
    phi, psi, theta = 25.0, -130.0, 70.0
    np.testing.assert_allclose(dynamo_to_matrix(-psi, -theta, -phi), zxz_to_matrix(phi, theta, psi), atol=1e-12)


@pytest.mark.parametrize("matrix", [np.eye(3), np.diag([1.0, -1, -1]), Rotation.from_euler("z", 140, degrees=True).as_matrix(),
                                    np.diag([1.0, -1, -1]) @ Rotation.from_euler("z", -20, degrees=True).as_matrix()])
def test_poles(matrix):
    np.testing.assert_allclose(zxz_to_matrix(*matrix_to_zxz(matrix)), matrix, atol=1e-9)
    np.testing.assert_allclose(dynamo_to_matrix(*matrix_to_dynamo(matrix)), matrix, atol=1e-9)


@pytest.mark.parametrize("size", [(12, 10, 8), (11, 9, 7)])
def test_an_imod_volume_turned_about_x(size):
    """trimvol -rx: y becomes the thickness' axis reversed. A marked voxel and an arrow are found where the axes say."""
    nx, ny, nz = size  # of the volume that tilt wrote: y is the thickness
    raw = np.zeros((nz, ny, nx))
    raw[5, 2, 7], raw[5, 3, 7], raw[6, 2, 7] = 1, 2, 3  # head, its neighbour in y, its neighbour in z
    ours = raw.transpose(1, 0, 2)[::-1]  # [z', y', x] = [ny - 1 - y, z, x]
    head, along_y, along_z = (np.argwhere(ours == v)[0][::-1] for v in (1, 2, 3))
    axes = Axes.parse("xz-y")
    grid = Grid(tuple(ours.shape[::-1]), 4.0)
    file_grid = axes.file_grid(grid)
    assert file_grid.size_px == size
    index = grid.to_index(axes.to_ours(file_grid.to_angst([[7, 2, 5]]), file_grid))
    np.testing.assert_allclose(index, [head], atol=1e-12)
    np.testing.assert_allclose(axes.to_file(grid.to_angst([head]), file_grid), file_grid.to_angst([[7, 2, 5]]), atol=1e-12)
    np.testing.assert_allclose(axes.matrix @ [0, 1, 0], along_y - head)
    np.testing.assert_allclose(axes.matrix @ [0, 0, 1], along_z - head)
    assert not axes.mirrors and Axes.parse("xzy").mirrors


def test_orientations_follow_the_axes(tmp_path):
    """A particle in the volume before it was turned: its arrow turns with it."""
    path = tmp_path / "motl.star"
    path.write_text(STOPGAP)
    tomogram = Tomogram("TS_01", Grid((100, 60, 80), 10.0))  # the file's volume is 100 x 80 x 60
    turned = read_picks(path, tomogram, Source(axes="xz-y")).picks
    np.testing.assert_allclose(turned.rotations[0] @ VECTOR, [TURNED[0], TURNED[2], -TURNED[1]], atol=1e-9)
    np.testing.assert_allclose(tomogram.grid.to_index(turned.positions_angst), [[62.25, 41, 79 - 25.5]], atol=1e-9)
    mirrored = read_picks(path, tomogram, Source(axes="xzy"))
    assert mirrored.picks.rotations is None and "mirror" in mirrored.warnings[0]
    np.testing.assert_allclose(tomogram.grid.to_index(mirrored.picks.positions_angst), [[62.25, 41, 25.5]], atol=1e-9)


def test_picks_of_a_finer_volume(tmp_path):
    """Picked at 5 A: index 0 of both volumes is one point when nothing is said of the other's size, else the centres are."""
    path = tmp_path / "a.coords"
    path.write_text("124.5 51 82\n")
    picks = read_picks(path, TOMOGRAM, Source(pixel_size_angst=5.0)).picks
    np.testing.assert_allclose(picks.positions_angst, [POSITION], atol=1e-9)
    picks = read_picks(path, TOMOGRAM, Source(pixel_size_angst=5.0, tomogram_size_px=(202, 160, 116))).picks
    np.testing.assert_allclose(picks.positions_angst, [POSITION + [-5, 0, 10]], atol=1e-9)
    picks = read_picks(path, TOMOGRAM, Source(pixel_size_angst=5.0, shift_angst=(1, -2, 3))).picks
    np.testing.assert_allclose(picks.positions_angst, [POSITION + [1, -2, 3]], atol=1e-9)


def test_imod_models_of_a_subset_and_flipped(tmp_path):
    """3dmod had loaded a part of the volume that starts at voxel (10, 5, 20); and a model kept with y and z exchanged."""
    origin = 1 << 14
    (tmp_path / "part.mod").write_bytes(imod_model(52.75, 21.0, 21.0, origin, (300.0, -40.0, 7.0), (10, 5, 20)))
    (tmp_path / "flipped.mod").write_bytes(imod_model(62.75, 41.5, 25.5, origin | 1 << 16, big=(100, 60, 80)))
    for name in "part.mod", "flipped.mod":
        picks = read_picks(tmp_path / name, TOMOGRAM).picks
        np.testing.assert_allclose(picks.positions_angst, [POSITION], atol=1e-4)


def test_real_dynamo_tables():
    picks = read_picks(DATA / "dynamo_double.tbl", Tomogram("TS", Grid((400, 400, 300), 1.0))).picks
    assert picks.score.tolist() == [0.15858, 0.15606, 0.26147, picks.score[3]] and picks.class_number[:3].tolist() == [9, 2, 2]
    # first line: x y z 141.28 114.71 163.08, shift 2.5178 -3.523 2.1043, counted from 1; centre (200, 200, 150)
    np.testing.assert_allclose(picks.positions_angst[0], [141.28 + 2.5178 - 201, 114.71 - 3.523 - 201, 163.08 + 2.1043 - 151], atol=1e-9)
    expected = Rotation.from_euler("zxz", [175.66, 90.681, -129.51], degrees=True).inv().as_matrix()
    np.testing.assert_allclose(picks.rotations[0], expected, atol=1e-9)
    picks = read_picks(DATA / "dynamo_complex.tbl", Tomogram("TS", Grid((2000, 2000, 1500), 1.0))).picks
    assert len(picks) == 3 and picks.score.tolist() == [0.052575, 0.050439, 0.064493]  # the second line has 0+1.2074e-06i in column 28


def test_real_imod_model():
    model = read_model(DATA / "two_contours.mod")
    assert model.size_px == (128, 128, 128) and model.contour.tolist() == [1] * 17 + [2] * 8
    picks = read_picks(DATA / "two_contours.mod", Tomogram("TS", Grid((128, 128, 128), 4.48))).picks
    # its first point, 64.3333 64.6667 80, is 0.1667 voxels beyond the centre's middle in y and 16 above it in z
    np.testing.assert_allclose(picks.positions_angst[0], 4.48 * np.array([64.33333 - 64.5, 64.66667 - 64.5, 16.0]), atol=1e-4)


def test_real_relion5_file_holds_two_tomograms():
    tomogram = Tomogram("TS_02", Grid((400, 400, 100), 12.42), Grid((1600, 1600, 400), 3.105))
    reading = read_picks(DATA / "relion5_centres.star", tomogram)
    np.testing.assert_allclose(reading.picks.positions_angst, [[-58.030014, 386.650021, 9.08], [159.920005, -362.089985, 9.08]])
    assert reading.n_other_tomograms == 3 and reading.picks.row.tolist() == [4, 5] and reading.picks.rotations is None
