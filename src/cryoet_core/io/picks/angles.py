"""Euler angles of other programs -> rotation matrices (reference -> tomogram), and back. Degrees.

All matrices are right-handed active rotations of (x, y, z) columns, x_tomogram = position + R . x_reference:

    RELION             rot, tilt, psi         R = Rz(-psi)   Ry(-tilt) Rz(-rot)      (geometry.rotations)
    TOM, AV3, STOPGAP,
    PyTom, DeepFinder  phi, psi, theta        R = Rz(psi)    Rx(theta) Rz(phi)
    Dynamo             tdrot, tilt, narot     R = Rz(-tdrot) Rx(-tilt) Rz(-narot)

The second is sg_euler2matrix of STOPGAP, which names its axes there and rotates references with it. Dynamo's
dynamo_euler2matrix(tdrot, tilt, narot) = Rz(narot) Rx(tilt) Rz(tdrot) takes the particle to the reference, so that its inverse
stands here: the particle's own z axis is turned by tilt and tdrot alone, and narot about the new axis, as the names say. The
same follows from STOPGAP's conversion (tdrot = -psi, tilt = -theta, narot = -phi).
"""

from __future__ import annotations

import numpy as np

from cryoet_core.geometry.rotations import rotation_x, rotation_z


def zxz_to_matrix(phi_deg, theta_deg, psi_deg) -> np.ndarray:
    """Rz(psi) Rx(theta) Rz(phi) -> (..., 3, 3): turned by phi about z first, then theta about x, then psi about z."""
    return rotation_z(psi_deg) @ rotation_x(theta_deg) @ rotation_z(phi_deg)


def matrix_to_zxz(matrix) -> np.ndarray:
    """Inverse of zxz_to_matrix: (..., 3, 3) -> (..., 3) of (phi, theta, psi); theta in [0, 180], phi 0 at its ends."""
    m = np.asarray(matrix, dtype=np.float64)
    sin_theta = np.hypot(m[..., 0, 2], m[..., 1, 2])
    theta = np.arctan2(sin_theta, m[..., 2, 2])
    regular = sin_theta > 1e-8
    phi = np.where(regular, np.arctan2(m[..., 2, 0], m[..., 2, 1]), 0.0)
    # at a pole the first column of Rz(psi) . diag(1, +-1, +-1) is (cos psi, sin psi, 0)
    psi = np.where(regular, np.arctan2(m[..., 0, 2], -m[..., 1, 2]), np.arctan2(m[..., 1, 0], m[..., 0, 0]))
    return np.rad2deg(np.stack([phi, theta, psi], axis=-1))


def dynamo_to_matrix(tdrot_deg, tilt_deg, narot_deg) -> np.ndarray:
    """Rz(-tdrot) Rx(-tilt) Rz(-narot) -> (..., 3, 3)."""
    return zxz_to_matrix(-np.asarray(narot_deg), -np.asarray(tilt_deg), -np.asarray(tdrot_deg))


def matrix_to_dynamo(matrix) -> np.ndarray:
    """Inverse of dynamo_to_matrix: (..., 3) of (tdrot, tilt, narot); tilt in [0, 180]."""
    # the inverse rotation Rz(narot) Rx(tilt) Rz(tdrot) has tdrot for phi
    return matrix_to_zxz(np.swapaxes(np.asarray(matrix, dtype=np.float64), -1, -2))
