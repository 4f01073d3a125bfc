"""align_tilt_series moves the defocus from the image's centre, where it was measured, to the centre of the tomogram it found."""

import numpy as np
import pytest
from script_runner import run_script
from small_series import small_series
from test_alignment import TILTS, project_blobs

from cryoet_core.metadata import read_tilt_series, write_tilt_series

AXIS, OFFSET, CENTRE, HAND = np.deg2rad(86.0), 1.5, 30000.0, -1


def _directions():
    """(n, 2, 3) and (n, 3): where the specimen's axes point in the image and along depth, written out by hand."""
    t, c, s = np.deg2rad(TILTS + OFFSET), np.cos(AXIS), np.sin(AXIS)
    zero, one = np.zeros_like(t), np.ones_like(t)
    u = np.stack([np.cos(t) * c, -s * one, np.sin(t) * c], axis=1)
    v = np.stack([np.cos(t) * s, c * one, np.sin(t) * s], axis=1)
    return np.stack([u, v], axis=1), np.stack([-np.sin(t), zero, np.cos(t)], axis=1)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defocus")
    rng = np.random.default_rng(5)
    shifts = rng.uniform(-300, 300, (TILTS.size, 2))
    views = project_blobs(rng, shifts)
    table, stacks = small_series(folder, TILTS, np.stack([views / 2, views / 2], axis=1), pixel=14.0, axis=85.0)
    series = read_tilt_series(table)
    across = shifts @ [np.cos(AXIS), np.sin(AXIS)]
    measured = CENTRE + HAND * across * np.tan(np.deg2rad(TILTS + OFFSET))  # the plane z = 0 where it crosses the image's centre
    write_tilt_series(series.with_columns(defocus_u_angst=measured, defocus_v_angst=measured, defocus_at="image_centre"), table)
    names = ("table", "xf", "tlt", "xtilt", "aln", "xml", "gold", "summary")
    files = {name: folder / "a" / f"TS_01.{name}" for name in names}
    run_script("align_tilt_series", {"table": table, "stack": stacks[0]}, files, {})
    return read_tilt_series(files["table"]), shifts, measured


def test_defocus_of_the_centre_that_alignment_chose(found):
    """The tomogram's centre is any point of the specimen; its true defocus follows from where it lies."""
    series, shifts, measured = found
    assert series.handedness == HAND and set(series.tilts["defocus_at"]) == {"tomogram_centre"}
    image, depth = _directions()
    moved = (series.geometry.shift_angst - shifts).ravel()
    chosen = np.linalg.lstsq(image.reshape(-1, 3), moved, rcond=None)[0]
    truth = CENTRE + HAND * depth @ chosen
    steep = np.abs(TILTS) > 30
    assert np.abs(measured - truth)[steep].max() > 150
    assert np.abs(series.tilts["defocus_u_angst"] - truth).max() < 50
