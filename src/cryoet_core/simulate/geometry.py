"""The projection of docs/conventions.md, written out term by term, without ``cryoet_core.geometry``."""

from __future__ import annotations

import math

import numpy as np


def euler_matrix(rot_deg: float, tilt_deg: float, psi_deg: float) -> np.ndarray:
    """RELION's matrix A(rot, tilt, psi), (3, 3): x_tomogram = position + A . x_molecule."""
    phi, theta, psi = (math.radians(a) for a in (rot_deg, tilt_deg, psi_deg))
    cf, sf, ct, st, cp, sp = (f(a) for a in (phi, theta, psi) for f in (math.cos, math.sin))
    return np.array(
        [
            [cp * ct * cf - sp * sf, cp * ct * sf + sp * cf, -cp * st],
            [-sp * ct * cf - cp * sf, -sp * ct * sf + cp * cf, sp * st],
            [st * cf, st * sf, ct],
        ]
    )


def random_euler(n: int, rng) -> np.ndarray:
    """(n, 3) rot, tilt, psi in degrees, uniform over orientations: cos(tilt) is uniform."""
    rot = rng.uniform(-180, 180, n)
    tilt = np.degrees(np.arccos(rng.uniform(-1, 1, n)))
    return np.stack([rot, tilt, rng.uniform(-180, 180, n)], axis=1)


def view_matrix(x_tilt_deg: float, y_tilt_deg: float, z_rot_deg: float) -> np.ndarray:
    """(3, 3) matrix Rz(z_rot) Ry(y_tilt) Rx(x_tilt), multiplied out by hand.

    Column by column it answers where the tomogram's x, y and z axes point in the camera: at z_rot = x_tilt = 0 and a
    positive tilt, tomogram z points to +u (image x) and x points away from +depth.
    """
    a, b, c = (math.radians(v) for v in (x_tilt_deg, y_tilt_deg, z_rot_deg))
    # after Rx then Ry
    x_axis = (math.cos(b), 0.0, -math.sin(b))
    y_axis = (math.sin(a) * math.sin(b), math.cos(a), math.sin(a) * math.cos(b))
    z_axis = (math.cos(a) * math.sin(b), -math.sin(a), math.cos(a) * math.cos(b))
    turned = [(math.cos(c) * u - math.sin(c) * v, math.sin(c) * u + math.cos(c) * v, d) for u, v, d in (x_axis, y_axis, z_axis)]
    return np.array(turned).T


def mid_plane_depth(view: np.ndarray, u_angst, v_angst):
    """Depth (A) of the slab's mid plane (tomogram z = 0) under image points u, v measured from the tomogram centre.

    The plane's normal is the turned z axis n; n . (u, v, d) = 0.
    """
    normal = view[:, 2]
    return -(normal[0] * u_angst + normal[1] * v_angst) / normal[2]
