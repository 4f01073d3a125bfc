"""STOPGAP's motive list: a STAR file with table data_stopgap_motivelist.

Position = orig_x + x_shift in voxels counted from 1 (MATLAB); phi, psi, the: see angles.py. Halfsets are A and B. STOPGAP reads no comments
and no " #1" behind its labels, and wants its own sixteen columns in their order, so that the text is made here and not by write_star.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cryoet_core.io.atomic import write_text
from cryoet_core.io.picks.angles import matrix_to_zxz, zxz_to_matrix
from cryoet_core.io.picks.grid import Grid
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import column, columns, missing, whole
from cryoet_core.io.star import read_star

BLOCK = "stopgap_motivelist"
FIRST = 1.0  # index of the first voxel
_WHOLE = {"motl_idx", "tomo_num", "object", "subtomo_num", "class"}
ORIGIN, SHIFT = ["orig_x", "orig_y", "orig_z"], ["x_shift", "y_shift", "z_shift"]


def read(path, grid: Grid) -> Picks:
    """Picks of a STOPGAP motive list. Raises UserInputError E-STAR-*, E-PICKS-03, E-PICKS-04."""
    blocks = read_star(path)
    if BLOCK not in blocks:
        raise missing(path, f"data_{BLOCK}", ", ".join(f"data_{b}" for b in blocks), f"a table data_{BLOCK}")
    table = blocks[BLOCK]
    table = pd.DataFrame([table] if table else []) if isinstance(table, dict) else table
    if not len(table):
        return Picks.none()
    index = columns(table, ORIGIN, path) + columns(table, SHIFT, path) - FIRST
    rotations = zxz_to_matrix(*columns(table, ["phi", "the", "psi"], path).T)
    score, classes, tomogram = (column(table, label, path) for label in ("score", "class", "tomo_num"))
    return Picks(grid.to_angst(index), rotations, score, whole(classes), whole(tomogram))


def write(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """A motive list; orig_x is whole, the rest is in x_shift, as STOPGAP's own tools write it. Halfsets alternate."""
    n = len(picks)
    index = grid.to_index(picks.positions_angst).reshape(-1, 3) + FIRST
    phi, theta, psi = np.zeros((3, n)) if picks.rotations is None else matrix_to_zxz(picks.rotations).T
    order = np.arange(1, n + 1)
    table = {
        "motl_idx": order, "tomo_num": np.full(n, number), "object": np.ones(n, dtype=np.int64), "subtomo_num": order,
        "halfset": np.where(order % 2 == 1, "A", "B").astype(object),
        **dict(zip(ORIGIN, np.round(index).T, strict=True)),
        "score": np.zeros(n) if picks.score is None else picks.score,
        **dict(zip(SHIFT, (index - np.round(index)).T, strict=True)),
        "phi": phi, "psi": psi, "the": theta,
        "class": np.ones(n, dtype=np.int64) if picks.class_number is None else picks.class_number,
    }
    columns_as_text = [[_text(label, v) for v in values] for label, values in table.items()]
    lines = ["", f"data_{BLOCK}", "", "loop_", *(f"_{label}" for label in table), "", *(" ".join(row) for row in zip(*columns_as_text, strict=True))]
    write_text(path, "\n".join(lines) + "\n")


def _text(label: str, value) -> str:
    if label == "halfset":
        return str(value)
    return str(int(value)) if label in _WHOLE else f"{float(value) + 0.0:.6f}"
