"""Rotation matrices and RELION's ZYZ Euler angles. Degrees outside, float64 (..., 3, 3) matrices inside.

All matrices act on (x, y, z) column vectors and are right-handed active rotations.
"""

from __future__ import annotations

import numpy as np


def _stack(rows):
    return np.stack([np.stack(np.broadcast_arrays(*row), axis=-1) for row in rows], axis=-2)


def _cos_sin(angle_deg):
    radians = np.deg2rad(np.asarray(angle_deg, dtype=np.float64))
    return np.cos(radians), np.sin(radians)


def rotation_x(angle_deg):
    """Right-handed rotation about x by ``angle_deg`` (any shape) -> (..., 3, 3)."""
    c, s = _cos_sin(angle_deg)
    one, zero = np.ones_like(c), np.zeros_like(c)
    return _stack([[one, zero, zero], [zero, c, -s], [zero, s, c]])


def rotation_y(angle_deg):
    """Right-handed rotation about y: x' = x cos + z sin, z' = -x sin + z cos."""
    c, s = _cos_sin(angle_deg)
    one, zero = np.ones_like(c), np.zeros_like(c)
    return _stack([[c, zero, s], [zero, one, zero], [-s, zero, c]])


def rotation_z(angle_deg):
    """Right-handed rotation about z: counter-clockwise from +x to +y."""
    c, s = _cos_sin(angle_deg)
    one, zero = np.ones_like(c), np.zeros_like(c)
    return _stack([[c, -s, zero], [s, c, zero], [zero, zero, one]])


def euler_to_matrix(rot_deg, tilt_deg, psi_deg):
    """RELION's matrix A(rot, tilt, psi) = Rz(-psi) Ry(-tilt) Rz(-rot) -> (..., 3, 3).

    ``x_tomogram = position + A . x_reference``. Source: RELION 5 Euler::anglesToMatrix3.
    """
    return rotation_z(-np.asarray(psi_deg)) @ rotation_y(-np.asarray(tilt_deg)) @ rotation_z(-np.asarray(rot_deg))


def matrix_to_euler(matrix):
    """Inverse of :func:`euler_to_matrix`: (..., 3, 3) -> (..., 3) of (rot, tilt, psi) in degrees.

    tilt is in [0, 180]; at the poles (tilt 0 or 180) rot is 0 and psi carries the whole in-plane angle.
    """
    m = np.asarray(matrix, dtype=np.float64)
    sin_tilt = np.hypot(m[..., 0, 2], m[..., 1, 2])
    tilt = np.arctan2(sin_tilt, m[..., 2, 2])
    regular = sin_tilt > 1e-8
    rot = np.where(regular, np.arctan2(m[..., 2, 1], m[..., 2, 0]), 0.0)
    # At a pole A = Rz(-psi) . diag(+-1, 1, +-1): the middle column (sin psi, cos psi, 0) holds psi for both.
    psi = np.where(
        regular, np.arctan2(m[..., 1, 2], -m[..., 0, 2]), np.arctan2(m[..., 0, 1], m[..., 1, 1])
    )
    return np.rad2deg(np.stack([rot, tilt, psi], axis=-1))


def rotation_vector_to_matrix(vector_deg):
    """Rotation about the direction of ``vector_deg`` (..., 3) by its length in degrees (Rodrigues' formula)."""
    vector = np.deg2rad(np.asarray(vector_deg, dtype=np.float64))
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = np.zeros_like(x)
    cross = _stack([[zero, -z, y], [z, zero, -x], [-y, x, zero]])
    # np.sinc(t) = sin(pi t) / (pi t) keeps both factors exact at angle 0.
    first = np.sinc(angle / np.pi)
    second = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.eye(3) + first * cross + second * (cross @ cross)


def angular_distance_deg(a, b, symmetry=None):
    """Angle of the rotation that takes orientation ``a`` to ``b`` (..., 3, 3), in degrees.

    ``symmetry``: (n, 3, 3) operators of the reference's point group; the smallest angle over ``b . S`` is given.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    operators = np.eye(3)[None] if symmetry is None else np.asarray(symmetry)
    trace = np.max([np.sum(a * (b @ s), axis=(-2, -1)) for s in operators], axis=0)
    return np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
