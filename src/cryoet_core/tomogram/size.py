"""Size of the tomogram, and moving the specimen inside it."""

from __future__ import annotations

import numpy as np

from cryoet_core.geometry import TiltGeometry


def _even(value: float) -> int:
    return 2 * int(np.ceil(value / 2 - 1e-6))


def tomogram_size(image_size_px, z_rot_deg, thickness_px: float, width_px: int | None = None):
    """Tomogram size (x, y, z) in pixels of the views, all even.

    x runs across and y along the tilt axis: the sides of the view are exchanged when the axis is nearer to the image's x
    axis than to its y axis. ``width_px`` replaces x.
    """
    w, h = image_size_px
    folded = np.mod(np.median(z_rot_deg), 180.0)
    x, y = (h, w) if 45.0 < folded < 135.0 else (w, h)
    return _even(width_px or x), _even(y), _even(thickness_px)


def size_in_movie_pixels(size_px, pixel_size_angst: float, movie_pixel_size_angst: float):
    """The same size in pixels of the movies, even: what tables store (independent of binning)."""
    binning = pixel_size_angst / movie_pixel_size_angst
    return tuple(2 * int(round(n * binning / 2)) for n in size_px)


def moved_specimen(geometry: TiltGeometry, shift_angst, tilt_offset_deg: float = 0.0):
    """Geometry of a tomogram whose content is tilted by an angle offset and then moved by ``shift_angst`` (x, y, z).

    Returns
    -------
    (geometry, depth_angst): the new geometry and (n,) the depth of the new centre in the old frame, by which the defocus
    at the centre changes (times handedness).
    """
    tilted = geometry.replace(y_tilt_deg=geometry.y_tilt_deg + tilt_offset_deg)
    uv, depth = tilted.project(-np.asarray(shift_angst, dtype=np.float64))
    return tilted.replace(x_shift_angst=uv[:, 0, 0], y_shift_angst=uv[:, 0, 1]), depth[:, 0]
