"""How far an alignment is from the truth, after removing what no tilt series can tell: a rigid motion of the specimen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from cryoet_core.geometry.rotations import rotation_vector_to_matrix
from cryoet_core.geometry.tilt_geometry import TiltGeometry


@dataclass(frozen=True)
class AlignmentError:
    """rms_angst : over included views and grid points. per_view_angst (n,), NaN where excluded. axis_deg, tilt_offset_deg : mean
    differences found minus true. rotation_vector_deg (3,), translation_angst (3,) : the rigid motion that was removed.
    """

    rms_angst: float
    per_view_angst: np.ndarray
    axis_deg: float
    tilt_offset_deg: float
    rotation_vector_deg: np.ndarray
    translation_angst: np.ndarray

    def found_from_true(self, points_angst) -> np.ndarray:
        """Where true specimen points (m, 3) lie in the tomogram of the found alignment, A."""
        return np.asarray(points_angst) @ self.rotation.T + self.translation_angst

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3): from true to found specimen axes; a particle's matrix A becomes rotation . A."""
        return rotation_vector_to_matrix(self.rotation_vector_deg)


def specimen_grid(half_size_angst, n=(5, 5, 3)) -> np.ndarray:
    """(m, 3) points filling a box of half sizes (x, y, z)."""
    axes = [np.linspace(-h, h, k) for h, k in zip(half_size_angst, n, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def geometry_error(found: TiltGeometry, truth: TiltGeometry, points_angst, included=None) -> AlignmentError:
    """Compare two geometries of the same views at specimen points (m, 3), A."""
    included = np.ones(len(truth), bool) if included is None else np.asarray(included, bool)
    mine, true = found.select(included), truth.select(included)
    target = true.project(points_angst)[0]
    scale = np.rad2deg(1 / np.linalg.norm(points_angst, axis=1).max())  # an equal step in A for rotation and translation

    def difference(motion):
        moved = points_angst @ rotation_vector_to_matrix(motion[:3] * scale).T + motion[3:]
        return (mine.project(moved)[0] - target).ravel()

    motion = least_squares(difference, np.zeros(6), method="lm").x
    squared = np.sum(difference(motion).reshape(target.shape) ** 2, axis=2)
    per_view = np.full(len(truth), np.nan)
    per_view[included] = np.sqrt(squared.mean(axis=1))
    axis = (mine.z_rot_deg - true.z_rot_deg + 180) % 360 - 180
    return AlignmentError(
        rms_angst=float(np.sqrt(squared.mean())),
        per_view_angst=per_view,
        axis_deg=float(axis.mean()),
        tilt_offset_deg=float((mine.y_tilt_deg - true.y_tilt_deg).mean()),
        rotation_vector_deg=motion[:3] * scale,
        translation_angst=motion[3:],
    )


def alignment_error(series, truth, slab_half_angst: float = 400.0) -> AlignmentError:
    """Compare two TiltSeries with truth, views matched by tilt_id, those that both include.

    The grid fills the field of the untilted view (central 80 %) and the slab.
    """
    columns = truth.tilts.set_index("tilt_id").index.get_indexer(series.tilts["tilt_id"])
    known = columns >= 0
    mine, true = series.select(known), truth.select(columns[known])
    width, height = (0.4 * n * truth.pixel_size_angst for n in truth.image_size_px)
    half = min(width, height)
    points = specimen_grid((half, half, slab_half_angst))
    return geometry_error(mine.geometry, true.geometry, points, mine.included & true.included)
