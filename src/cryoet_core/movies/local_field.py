"""The smooth local part of a movie's motion: a cubic spline through values on a grid in x, y and time.

The content at (x, y) of the aligned image lies in frame f at (x, y) + track[f] + field(x, y, f). Nodes are evenly spaced, the outer ones
on the outer pixels and on the first and last frame. The field has no mean over the frames at any place, and none over the image in any
frame: what all places share is in the whole-frame track.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

TIME_NODES = 4  # of the local part, as in Warp
TABLE_SPACING_PX = 32
_MEAN_SAMPLES = 33


def automatic_grid(shape, pixel_size_angst: float, exposure_e_per_a2: float) -> tuple[int, int]:
    """(x, y) nodes by Warp's rule: short side max(1, round(5 min(1, dose / 30) (length / 4000 A))), the other to scale.

    shape : (h, w). (1, 1), hence no local motion, at the exposure of a usual tilt or at one that is not known. Source: WarpLib, Movie.
    """
    if not np.isfinite(exposure_e_per_a2) or exposure_e_per_a2 <= 0:
        return (1, 1)
    short = min(shape)
    n = max(1, round(5 * min(1.0, exposure_e_per_a2 / 30) * short * pixel_size_angst / 4000))
    if n == 1:
        return (1, 1)
    y, x = (max(1, round(n * side / short)) for side in shape)
    return (x, y)


def spline_basis(n_nodes: int, positions) -> np.ndarray:
    """(len(positions), n_nodes): values at ``positions`` (0 first node, 1 last) of the cubic splines that are 1 at one node.

    One node: a constant; two, three, four: a line, a parabola, a cubic; more: cubic splines with not-a-knot ends.
    """
    positions = np.asarray(positions, dtype=np.float64)
    if n_nodes == 1:
        return np.ones((len(positions), 1))
    return CubicSpline(np.linspace(0, 1, n_nodes), np.eye(n_nodes))(positions)


def time_basis(n_nodes: int, frames, n_frames: int) -> np.ndarray:
    """(len(frames), n_nodes) at frame numbers from 0, without the mean over all ``n_frames``."""
    last = max(n_frames - 1, 1)
    mean = spline_basis(n_nodes, np.arange(n_frames) / last).mean(axis=0)
    return spline_basis(n_nodes, np.asarray(frames) / last) - mean


def space_basis(grid_xy, shape, points_xy) -> np.ndarray:
    """(points, y * x) at pixel positions (points, 2) x, y of an image (h, w)."""
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
    along_x, along_y = (
        spline_basis(n, points[:, axis] / max(shape[1 - axis] - 1, 1)) for axis, n in enumerate(grid_xy)
    )
    return (along_y[:, :, None] * along_x[:, None, :]).reshape(len(points), -1)


def _image_grid(shape, n_x: int, n_y: int) -> np.ndarray:
    """(n_y * n_x, 2) x, y of points evenly over the image, corners included."""
    y, x = np.meshgrid(np.linspace(0, shape[0] - 1, n_y), np.linspace(0, shape[1] - 1, n_x), indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


@dataclass(frozen=True)
class LocalField:
    """Local motion of one movie.

    nodes_px : (t, y, x, 2) movement x, y at the nodes, movie pixels. shape : (h, w) of the movie. n_frames : its frames.
    held_out_gain : rise of the objective over the whole-frame track alone on frequencies the field was not fitted to, in standard
    deviations of its noise. predicted_error_px : rms error of one coordinate of the field expected from data and prior.
    """

    nodes_px: np.ndarray
    shape: tuple[int, int]
    n_frames: int
    held_out_gain: float = float("nan")
    predicted_error_px: float = float("nan")

    @property
    def grid_xy(self) -> tuple[int, int]:
        return self.nodes_px.shape[2], self.nodes_px.shape[1]

    def at(self, points_xy) -> np.ndarray:
        """(n_frames, points, 2): movement x, y about the track at pixel positions (points, 2)."""
        time = time_basis(len(self.nodes_px), np.arange(self.n_frames), self.n_frames)
        space = space_basis(self.grid_xy, self.shape, points_xy)
        flat = self.nodes_px.reshape(len(self.nodes_px), -1, 2)
        return np.einsum("ft,pn,tna->fpa", time, space, flat, optimize=True)

    def tables(self) -> np.ndarray:
        """(n_frames, 2, gy, gx): movement on a table over the image, fine enough to be linear in between."""
        gy, gx = (max(2, -(-n // TABLE_SPACING_PX) + 1) for n in self.shape)
        values = self.at(_image_grid(self.shape, gx, gy))
        return values.transpose(0, 2, 1).reshape(self.n_frames, 2, gy, gx)

    @property
    def rms_px(self) -> float:
        """Root mean square of |movement| over frames and image."""
        values = self.at(_image_grid(self.shape, _MEAN_SAMPLES, _MEAN_SAMPLES))
        return float(np.sqrt((values**2).sum(axis=2).mean()))


def without_shared_part(nodes_px, shape) -> tuple[np.ndarray, np.ndarray]:
    """The nodes without their mean over the image, and that mean (t, 2): it belongs to the track."""
    t, y, x, _ = nodes_px.shape
    space = space_basis((x, y), shape, _image_grid(shape, _MEAN_SAMPLES, _MEAN_SAMPLES)).mean(axis=0)
    mean = np.einsum("n,tna->ta", space, nodes_px.reshape(t, -1, 2))
    return nodes_px - mean[:, None, None], mean
