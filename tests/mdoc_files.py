"""A small dose-symmetric acquisition written by hand: its mdoc, section by section, and its movies."""

import numpy as np

from cryoet_core.io.mrc import write_mrc

# dose-symmetric: angle, minutes after 18:00, in order of acquisition
ACQUIRED = [0.0, 4.0, -4.0, -8.0, 8.0, 12.0, -12.0]
TITLE = "[T =     Tilt axis angle = 84.8, binning = 1  spot = 6  camera = 1]"


def section(number, acquired, *, name=None, **changes):
    keys = {
        "TiltAngle": f"{ACQUIRED[acquired] + 0.01:.2f}", "ExposureDose": "3.4", "PixelSpacing": "3.5",
        "RotationAngle": "174.8", "NumSubFrames": "2",
        "SubFramePath": name or f"X:\\data\\frames\\TS_01_{acquired + 1:03d}_{ACQUIRED[acquired]}.mrc",
        "DateTime": f"09-Mar-23  18:{acquired:02d}:12",
    } | changes
    lines = [f"{k} = {v}" for k, v in keys.items() if v is not None]
    return "\n".join([f"[ZValue = {number}]", *lines, ""])


def write_mdoc(folder, sections, head="PixelSpacing = 3.5\nVoltage = 300\nImageSize = 12 8\n", title=TITLE):
    path = folder / "TS_01.mdoc"
    path.write_text("\n".join([head, title, "", *sections]))
    return path


def write_movies(folder, shape=(2, 8, 12)):
    for i, angle in enumerate(ACQUIRED):
        write_mrc(folder / f"TS_01_{i + 1:03d}_{angle}.mrc", np.full(shape, i), 3.5, stack=True, dtype="uint8")


def sections_by_angle(**changes):
    """Sections numbered by angle, as in a sorted stack: section number is not the order of acquisition."""
    order = np.argsort(ACQUIRED)
    return [section(n, int(a), **changes) for n, a in enumerate(order)]
