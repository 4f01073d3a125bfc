"""From the defocus at the image's centre, where it is measured, to that at the tomogram's centre, from which depth counts.

estimate_ctf runs before alignment: it measures where the specimen's plane crosses the centre of the image. Everything after alignment
uses defocus + handedness * depth with depth from the tomogram's centre, which lands at (x_shift, y_shift). On a tilted view the two
points of the plane lie at different depths: 50 nm of shift at 60 degrees are 87 nm of defocus.
"""

from __future__ import annotations

import numpy as np

from cryoet_core.metadata import TiltSeries

IMAGE_CENTRE, TOMOGRAM_CENTRE = "image_centre", "tomogram_centre"


def centre_depth(geometry) -> np.ndarray:
    """(n,) depth, A, of the tomogram's centre below the point of the plane z = 0 that is seen at the image's centre."""
    return np.einsum("ni,ni->n", geometry.depth_plane(), geometry.shift_angst)


def defocus_at_tomogram_centre(series: TiltSeries) -> TiltSeries:
    """The series with its measured defocus moved to the tomogram's centre, by the geometry in the table (the aligned one).

    Only rows marked "image_centre" in ``defocus_at`` are moved, and marked "tomogram_centre", so that nothing is moved twice; a series
    without that column (a defocus that was given, or another program's) stays as it is. The specimen's middle plane is taken to be
    the plane z = 0 of the geometry.
    """
    if "defocus_at" not in series.tilts:
        return series
    measured = series.tilts["defocus_at"].to_numpy() == IMAGE_CENTRE
    change = np.where(measured, series.handedness * centre_depth(series.geometry), 0.0)
    return series.with_columns(
        defocus_u_angst=series.tilts["defocus_u_angst"].to_numpy(float) + change,
        defocus_v_angst=series.tilts["defocus_v_angst"].to_numpy(float) + change,
        defocus_at=np.where(measured, TOMOGRAM_CENTRE, series.tilts["defocus_at"]),
    )
