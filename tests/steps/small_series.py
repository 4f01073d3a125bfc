"""A table and its three stacks on disk, from halves given by a test."""

import numpy as np
import pandas as pd

from cryoet_core.io.images import image_names
from cryoet_core.io.mrc import write_mrc
from cryoet_core.metadata import TiltSeries, write_tilt_series

PIXEL = 3.5


def small_series(folder, tilts, halves, *, pixel=PIXEL, axis=85.0):
    """Write ``halves`` (n, 2, h, w) and their sum. Returns the table's path and those of the stacks (full, even, odd)."""
    n, _, h, w = halves.shape
    images = {"TS_01": halves.sum(axis=1), "TS_01_even": halves[:, 0], "TS_01_odd": halves[:, 1]}
    paths = [folder / f"{name}.mrc" for name in images]
    for path, stack in zip(paths, images.values(), strict=True):
        write_mrc(path, stack.astype(np.float32), pixel, stack=True)
    zero = np.zeros(n)
    table = pd.DataFrame({
        "tilt_id": np.arange(1, n + 1), "image": image_names(n, paths[0]), "image_even": image_names(n, paths[1]),
        "image_odd": image_names(n, paths[2]), "nominal_tilt_deg": tilts, "nominal_axis_deg": zero + axis,
        "pre_exposure_e_per_a2": zero, "defocus_u_angst": zero, "defocus_v_angst": zero, "defocus_angle_deg": zero,
        "phase_shift_deg": zero, "x_tilt_deg": zero, "y_tilt_deg": tilts, "z_rot_deg": zero + axis, "x_shift_angst": zero,
        "y_shift_angst": zero, "excluded": np.zeros(n, np.int64), "exclude_reason": "none",
    })  # fmt: skip
    series = TiltSeries("TS_01", 300.0, 2.7, 0.1, pixel, pixel, -1, (w, h), (0, 0, 0), table)
    write_tilt_series(series, folder / "input.star")
    return folder / "input.star", paths
