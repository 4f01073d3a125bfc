import numpy as np
import pytest

from cryoet_core.geometry import TiltGeometry


def test_formula_without_axis_rotation(rng):
    """u = X cos t + Z sin t, depth = -X sin t + Z cos t, v = Y for x_tilt = z_rot = 0."""
    points = rng.normal(size=(5, 3)) * 100
    t = np.deg2rad(37.0)
    uv, depth = TiltGeometry(0, 37.0, 0, 0, 0).project(points)
    np.testing.assert_allclose(uv[0, :, 0], points[:, 0] * np.cos(t) + points[:, 2] * np.sin(t))
    np.testing.assert_allclose(uv[0, :, 1], points[:, 1])
    np.testing.assert_allclose(depth[0], -points[:, 0] * np.sin(t) + points[:, 2] * np.cos(t))


def test_hand_computed_case():
    """x_tilt 90 takes (1, 2, 3) to (1, -3, 2); y_tilt 90 then to (2, -3, -1); z_rot 90 to (3, 2, -1); plus the shift."""
    geometry = TiltGeometry(90, 90, 90, [10.0], [20.0])
    uv, depth = geometry.project([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(uv[0, 0], [13, 22], atol=1e-12)
    np.testing.assert_allclose(depth[0, 0], -1, atol=1e-12)


# A real series refined in Warp/M (EMPIAR-10491, TS_1). Columns: tilt angle as Warp stores it (opposite sign), tilt-axis
# angle, then what Warp's own export says: the change of defocus and of (u, v) per A along x, y, z of the volume.
# Specimen levels of that series: about x 1.457031 deg, about y -5.920115 deg. The (u, v) part also holds M's image warp
# and a magnification of 0.6 %, hence the looser tolerance there.
WARP_LEVEL_X_DEG, WARP_LEVEL_Y_DEG = 1.457031, -5.920115
WARP_ROWS = [
    (40.01, -85.60053, (0.5605, 0.0211, 0.8279), (0.0600, 0.9998, -0.0663), (-0.8260, 0.0897, 0.5570)),
    (20.01, -85.60053, (0.2435, 0.0247, 0.9696), (0.0776, 0.9966, -0.0447), (-0.9662, 0.0820, 0.2405)),
    (0.02, -85.60053, (-0.1028, 0.0253, 0.9944), (0.0760, 0.9972, -0.0175), (-0.9940, 0.0739, -0.1046)),
    (-19.98, -85.60053, (-0.4368, 0.0229, 0.8993), (0.0683, 0.9984, 0.0079), (-0.8934, 0.0674, -0.4357)),
    (-39.98, -85.60053, (-0.7181, 0.0177, 0.6957), (0.0505, 0.9964, 0.0267), (-0.6920, 0.0541, -0.7157)),
]


@pytest.mark.parametrize("warp_tilt, axis, defocus_slope, u_slope, v_slope", WARP_ROWS)
def test_agrees_with_warp_on_a_real_series(warp_tilt, axis, defocus_slope, u_slope, v_slope):
    rotation = TiltGeometry(WARP_LEVEL_X_DEG, -(warp_tilt + WARP_LEVEL_Y_DEG), axis, 0, 0).rotation[0]
    np.testing.assert_allclose(rotation[2], defocus_slope, atol=3e-4)
    np.testing.assert_allclose(rotation[:2], [u_slope, v_slope], atol=0.02)


def test_axis_at_85_degrees_matches_relion_matrix_written_out():
    zr, yt = np.deg2rad(85.0), np.deg2rad(-42.0)
    rz = np.array([[np.cos(zr), -np.sin(zr), 0], [np.sin(zr), np.cos(zr), 0], [0, 0, 1]])
    ry = np.array([[np.cos(yt), 0, np.sin(yt)], [0, 1, 0], [-np.sin(yt), 0, np.cos(yt)]])
    point = np.array([120.0, -45.0, 60.0])
    expected = rz @ ry @ point + [3.0, -4.0, 0]
    uv, depth = TiltGeometry(0, -42.0, 85.0, 3.0, -4.0).project(point)
    np.testing.assert_allclose([*uv[0, 0], depth[0, 0]], expected)


def test_points_on_the_axis_move_only_by_the_shift():
    axis_angle = 30.0
    direction = np.array([0, 1.0, 0])  # the tilt axis is y of the specimen
    geometry = TiltGeometry(0, [-60.0, 0, 45.0], axis_angle, 0, 0)
    uv, _ = geometry.project(direction)
    expected = [-np.sin(np.deg2rad(30)), np.cos(np.deg2rad(30))]  # counter-clockwise from image +y
    np.testing.assert_allclose(uv[:, 0], np.tile(expected, (3, 1)), atol=1e-12)


def test_depth_plane_gives_the_depth_of_a_flat_specimen(rng):
    geometry = TiltGeometry(2.0, [-50.0, 10.0, 40.0], 77.0, [5.0, 6, 7], [1.0, 2, 3])
    plane = np.concatenate([rng.normal(size=(6, 2)) * 500, np.zeros((6, 1))], axis=1)
    uv, depth = geometry.project(plane)
    slope = geometry.depth_plane()
    np.testing.assert_allclose(
        np.einsum("nj,nmj->nm", slope, uv - geometry.shift_angst[:, None]), depth, atol=1e-9
    )


def test_select_replace_and_length():
    geometry = TiltGeometry.nominal([-3.0, 0, 3.0], 85.0)
    assert len(geometry) == 3
    assert geometry.select([True, False, True]).y_tilt_deg.tolist() == [-3, 3]
    assert geometry.replace(x_shift_angst=[1, 2, 3]).x_shift_angst.tolist() == [1, 2, 3]
    assert geometry.x_shift_angst.tolist() == [0, 0, 0]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError):
        TiltGeometry(0, [[1.0, 2.0]], 0, 0, 0)
