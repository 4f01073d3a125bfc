"""crYOLO's and TomoTwin's .cbox: a STAR file with table data_cryolo.

_CoordinateX and Y are the lower corner of a box of _Width x _Height, so that the centre is CoordinateX + Width / 2; _CoordinateZ is the
centre slice. 0-based voxels of the picked tomogram; _Confidence is the score. No orientations.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cryoet_core.io.picks.grid import Grid
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import column, columns, missing
from cryoet_core.io.star import read_star, write_star

BOX_PX = 32  # what is written; crYOLO draws this box, the centre does not depend on it


def read(path, grid: Grid) -> Picks:
    """Picks of a .cbox. Raises UserInputError E-STAR-*, E-PICKS-03, E-PICKS-04."""
    blocks = read_star(path)
    if "cryolo" not in blocks:
        raise missing(path, "data_cryolo", ", ".join(f"data_{b}" for b in blocks), "a table data_cryolo")
    table = blocks["cryolo"]
    table = pd.DataFrame([table] if table else []) if isinstance(table, dict) else table
    if not len(table):
        return Picks.none()
    corner = columns(table, ["CoordinateX", "CoordinateY", "CoordinateZ"], path, "box")
    size = columns(table, ["Width", "Height"], path, "box")
    index = corner + np.pad(size / 2, ((0, 0), (0, 1)))
    known = "Confidence" in table and not any(str(v) in ("<NA>", "nan", "None") for v in table["Confidence"])
    return Picks(grid.to_angst(index), None, column(table, "Confidence", path, "box") if known else None)


def write(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """A .cbox with boxes of BOX_PX voxels; orientations are lost."""
    index = grid.to_index(picks.positions_angst).reshape(-1, 3)
    half = np.array([BOX_PX / 2, BOX_PX / 2, 0.0])
    table = dict(zip(("CoordinateX", "CoordinateY", "CoordinateZ"), (index - half).T, strict=True))
    box = np.full(len(picks), float(BOX_PX))
    table |= {label: box for label in ("Width", "Height", "Depth", "EstWidth", "EstHeight")}
    table["Confidence"] = np.ones(len(picks)) if picks.score is None else np.asarray(picks.score, dtype=np.float64)
    absent = np.array(["<NA>"] * len(picks), dtype=object)
    table |= {"NumBoxes": absent, "Angle": absent}
    slices = np.unique(np.round(index[:, 2]))
    write_star(path, {
        "global": {"cbox_format_version": "1.0"}, "cryolo": pd.DataFrame(table), "cryolo_include": pd.DataFrame({"slice_index": slices}),
    })
