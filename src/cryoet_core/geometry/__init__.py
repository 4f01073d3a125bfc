"""Rotations, orientation grids, point groups, and the one projection model (TiltGeometry)."""

from cryoet_core.geometry.rotations import (
    angular_distance_deg,
    euler_to_matrix,
    matrix_to_euler,
    rotation_vector_to_matrix,
    rotation_x,
    rotation_y,
    rotation_z,
)
from cryoet_core.geometry.so3 import (
    healpix_directions,
    healpix_nested_order,
    local_rotations,
    random_rotations,
    so3_grid,
    so3_grid_for_step,
)
from cryoet_core.geometry.symmetry import point_group
from cryoet_core.geometry.tilt_geometry import TiltGeometry

__all__ = [
    "TiltGeometry",
    "angular_distance_deg",
    "euler_to_matrix",
    "healpix_directions",
    "healpix_nested_order",
    "local_rotations",
    "matrix_to_euler",
    "point_group",
    "random_rotations",
    "rotation_vector_to_matrix",
    "rotation_x",
    "rotation_y",
    "rotation_z",
    "so3_grid",
    "so3_grid_for_step",
]
