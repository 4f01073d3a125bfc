"""EMAN2's info/<tomogram>_info.json: "boxes_3d" is a list of [x, y, z, method, score, class, ...].

With "apix_unbin", x y z are unbinned pixels from the centre n//2 (e2spt_boxer: (index - n//2) * apix / apix_unbin); without it, voxels of
the picked tomogram from its corner. EMAN2 keeps no orientations there.
"""

from __future__ import annotations

import json

import numpy as np

from cryoet_core.io.atomic import write_text
from cryoet_core.io.picks.grid import Grid
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import bad_field, missing, number, numbers, parse_json, read_text, shown, whole

KEYS = {"apix_unbin", "class_list", "tlt_params", "ali_loss"}  # of an info file in which nothing may be picked yet


def _box(box, path, place: str) -> tuple[list[float], float, float]:
    if not isinstance(box, list) or len(box) < 3:
        raise bad_field(path, place, shown(box), "[x, y, z, method, score, class]")
    position = numbers(box[:3], path, place, 3)
    score = number(box[4], path, f"{place}[4]") if len(box) > 4 else 0.0
    return position, score, number(box[5], path, f"{place}[5]") if len(box) > 5 else 0.0


def read(path, grid: Grid) -> Picks:
    """Picks of an EMAN2 info file. Raises UserInputError E-PICKS-02 to E-PICKS-05."""
    content = parse_json(read_text(path), path)
    boxes = content.get("boxes_3d", [] if KEYS & set(content) else None) if isinstance(content, dict) else None
    if not isinstance(boxes, list):
        raise missing(path, "boxes_3d", ", ".join(content)[:100] if isinstance(content, dict) else "no keys", 'a list "boxes_3d"')
    rows = [_box(box, path, f"boxes_3d[{i}]") for i, box in enumerate(boxes)]
    xyz = np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 3)
    if "apix_unbin" in content:
        pixel = number(content["apix_unbin"], path, "apix_unbin")
        if pixel <= 0:
            raise bad_field(path, "apix_unbin", f"{pixel:g}", "A per pixel, above 0")
        position, unit = xyz * pixel, f"pixels of {pixel:.5g} A"
    else:
        position, unit = grid.to_angst(xyz), ""
    return Picks(position, None, np.array([row[1] for row in rows]), whole([row[2] for row in rows]), unit=unit)


def write(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """An info file with apix_unbin = the grid's pixel size; orientations are lost."""
    score = np.zeros(len(picks)) if picks.score is None else picks.score
    classes = np.zeros(len(picks), dtype=int) if picks.class_number is None else picks.class_number
    xyz = picks.positions_angst / grid.pixel_size_angst
    boxes = [[*(round(float(v), 5) for v in p), "manual", round(float(s), 6), int(c)] for p, s, c in zip(xyz, score, classes, strict=True)]
    names = {str(c): {"name": f"particles_{c:02d}", "boxsize": 32} for c in sorted({int(c) for c in classes}) or [0]}
    content = {"apix_unbin": float(grid.pixel_size_angst), "boxes_3d": boxes, "class_list": names}
    write_text(path, json.dumps(content, indent=1) + "\n")
