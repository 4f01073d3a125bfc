import numpy as np
import pytest

from cryoet_core.errors import UserInputError
from cryoet_core.geometry import (
    angular_distance_deg,
    euler_to_matrix,
    healpix_directions,
    local_rotations,
    matrix_to_euler,
    point_group,
    random_rotations,
    rotation_vector_to_matrix,
    rotation_x,
    rotation_y,
    rotation_z,
    so3_grid,
    so3_grid_for_step,
)


def relion_matrix(rot, tilt, psi):
    """The matrix as printed in RELION's source, element by element."""
    (cf, sf), (ct, st), (cp, sp) = ((np.cos(np.deg2rad(a)), np.sin(np.deg2rad(a))) for a in (rot, tilt, psi))
    return np.array(
        [
            [cp * ct * cf - sp * sf, cp * ct * sf + sp * cf, -cp * st],
            [-sp * ct * cf - cp * sf, -sp * ct * sf + cp * cf, sp * st],
            [st * cf, st * sf, ct],
        ]
    )


def test_elementary_rotations_are_right_handed():
    x, y, z = np.eye(3)
    np.testing.assert_allclose(rotation_z(90) @ x, y, atol=1e-12)
    np.testing.assert_allclose(rotation_x(90) @ y, z, atol=1e-12)
    np.testing.assert_allclose(rotation_y(90) @ z, x, atol=1e-12)


@pytest.mark.parametrize("angles", [(10, 20, 30), (-170, 95, 3), (0, 0, 40), (77, 180, 10)])
def test_euler_matrix_is_relions(angles):
    np.testing.assert_allclose(euler_to_matrix(*angles), relion_matrix(*angles), atol=1e-12)


def test_euler_round_trip_includes_the_poles(rng):
    matrices = np.concatenate([random_rotations(200, rng), euler_to_matrix([5, 0, 9], [0, 0, 180], [20, 0, 30])])
    back = euler_to_matrix(*matrix_to_euler(matrices).T)
    np.testing.assert_allclose(back, matrices, atol=1e-9)


def test_rotation_vector():
    np.testing.assert_allclose(rotation_vector_to_matrix([0, 0, 30.0]), rotation_z(30), atol=1e-12)
    np.testing.assert_allclose(rotation_vector_to_matrix([0.0, 0, 0]), np.eye(3), atol=1e-15)
    assert angular_distance_deg(np.eye(3), rotation_vector_to_matrix([12.0, -3, 4])) == pytest.approx(13.0)


def test_random_rotations_are_uniform(rng):
    matrices = random_rotations(20000, rng)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-9)
    np.testing.assert_allclose(matrices.mean(axis=0), 0, atol=0.02)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_healpix_agrees_with_astropy(order):
    healpix = pytest.importorskip("astropy_healpix").HEALPix(2**order, order="ring")
    longitude, latitude = healpix.healpix_to_lonlat(np.arange(healpix.npix))
    ours = healpix_directions(order)
    np.testing.assert_allclose(ours[:, 0], longitude.to_value("deg"), atol=1e-9)
    np.testing.assert_allclose(90 - ours[:, 1], latitude.to_value("deg"), atol=1e-9)


@pytest.mark.parametrize("grid, step", [(so3_grid(1), 30), (so3_grid_for_step(25), 25)])
def test_grids_cover_so3(grid, step, rng):
    nearest = [angular_distance_deg(grid, r).min() for r in random_rotations(200, rng)]
    assert max(nearest) < 0.9 * step
    assert np.mean(nearest) < 0.55 * step


def test_local_rotations_start_with_identity_and_stay_inside():
    grid = local_rotations(10, 5)
    np.testing.assert_allclose(grid[0], np.eye(3), atol=1e-12)
    assert angular_distance_deg(np.eye(3), grid).max() <= 10 + 1e-9


@pytest.mark.parametrize("name, n", [("C1", 1), ("C6", 6), ("D3", 6), ("T", 12), ("O", 24), ("I", 60)])
def test_point_groups_are_closed(name, n):
    group = point_group(name)
    assert len(group) == n
    np.testing.assert_allclose(group[0], np.eye(3), atol=1e-9)
    products = np.einsum("aij,bjk->abik", group, group)
    distance = np.abs(products[:, :, None] - group).max(axis=(-2, -1)).min(axis=-1)
    assert distance.max() < 1e-8


def test_axes_of_the_groups():
    assert any(np.allclose(g, rotation_z(60), atol=1e-9) for g in point_group("C6"))
    assert any(np.allclose(g, rotation_x(180), atol=1e-9) for g in point_group("D3"))


def test_unknown_group_is_refused():
    with pytest.raises(UserInputError, match="E-SYM-01.*found .X9"):
        point_group("X9")


def test_symmetry_shortens_the_distance():
    assert angular_distance_deg(np.eye(3), rotation_z(70), point_group("C6")) == pytest.approx(10.0)
