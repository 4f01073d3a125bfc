"""TiltGeometry: the one projection model. Nobody writes cos(tilt) by hand elsewhere.

    (u, v, depth) = Rz(z_rot) . Ry(y_tilt) . Rx(x_tilt) . X + (x_shift, y_shift, 0)

right-handed active rotations; X in A, centred, tomogram axes; u, v in A, centred on index n//2 of the raw image.
This is RELION 5's model (tomogram.cpp setProjectionMatrix) and IMOD's after a rotation of its volume about X.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cryoet_core.geometry.rotations import rotation_x, rotation_y, rotation_z


@dataclass(frozen=True)
class TiltGeometry:
    """Geometry of ``n`` tilt images; every field is (n,) float64.

    x_tilt_deg, y_tilt_deg, z_rot_deg : specimen rotation; y_tilt is the stage angle as in the mdoc, z_rot the tilt-axis
        angle (from image +y to the axis, counter-clockwise positive with y up).
    x_shift_angst, y_shift_angst : where the specimen's centre lands in the raw image, relative to its centre.
    """

    x_tilt_deg: np.ndarray
    y_tilt_deg: np.ndarray
    z_rot_deg: np.ndarray
    x_shift_angst: np.ndarray
    y_shift_angst: np.ndarray

    def __post_init__(self):
        values = np.broadcast_arrays(*(np.atleast_1d(np.asarray(getattr(self, f.name), float)) for f in fields(self)))
        for field, value in zip(fields(self), values, strict=True):
            if value.ndim != 1:
                raise ValueError(f"{field.name} must be one-dimensional, got shape {value.shape}")
            object.__setattr__(self, field.name, value.copy())

    @classmethod
    def nominal(cls, y_tilt_deg, axis_deg) -> TiltGeometry:
        """Geometry known before alignment: stage angles, one tilt-axis angle, no shifts."""
        return cls(0.0, y_tilt_deg, axis_deg, 0.0, 0.0)

    def __len__(self) -> int:
        return self.y_tilt_deg.size

    @property
    def rotation(self) -> np.ndarray:
        """(n, 3, 3): specimen axes -> image axes (u, v, depth)."""
        return rotation_z(self.z_rot_deg) @ rotation_y(self.y_tilt_deg) @ rotation_x(self.x_tilt_deg)

    @property
    def shift_angst(self) -> np.ndarray:
        """(n, 2): (x, y) shifts in A."""
        return np.stack([self.x_shift_angst, self.y_shift_angst], axis=1)

    def project(self, points_angst):
        """Project ``points_angst`` (m, 3) into every image.

        Returns
        -------
        uv_angst (n, m, 2), depth_angst (n, m); the specimen's centre has depth 0.
        """
        points = np.atleast_2d(np.asarray(points_angst, dtype=np.float64))
        rotated = np.einsum("nij,mj->nmi", self.rotation, points)
        return rotated[..., :2] + self.shift_angst[:, None, :], rotated[..., 2]

    def select(self, rows) -> TiltGeometry:
        """The geometry of some rows (index array, slice or boolean mask)."""
        return TiltGeometry(*(getattr(self, f.name)[rows] for f in fields(self)))

    def replace(self, **values) -> TiltGeometry:
        """A copy with some fields replaced (broadcast to n)."""
        current = {f.name: getattr(self, f.name) for f in fields(self)}
        current.update({name: np.broadcast_to(np.asarray(v, float), (len(self),)) for name, v in values.items()})
        return TiltGeometry(**current)

    def depth_plane(self) -> np.ndarray:
        """(n, 2): slopes of depth over (u, v) for points of the untilted specimen plane z = 0.

        A point of that plane seen at image position (u, v) has depth = slope . (u - x_shift, v - y_shift). Used for the
        defocus gradient of a tilted view. Infinite at 90 degrees, where the plane is seen edge-on.
        """
        rotation = self.rotation
        in_plane = rotation[:, :2, :2]
        return np.einsum("ni,nij->nj", rotation[:, 2, :2], np.linalg.inv(in_plane))
