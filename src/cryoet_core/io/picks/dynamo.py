"""Dynamo's .tbl: one line of 35 or more numbers per particle, separated by blanks; no header.

Columns from 1: 4-6 shift, 7-9 tdrot tilt narot (see angles.py), 10 correlation, 20 tomogram, 22 class, 24-26 x y z, 36 A per pixel. Position
= x + shift in voxels counted from 1, as MATLAB does (STOPGAP copies these columns as they are, and rescales with
b (x - 1) + 1). Complex numbers, which Dynamo writes for correlations, are read as their real parts.
"""

from __future__ import annotations

import numpy as np

from cryoet_core.io.atomic import write_text
from cryoet_core.io.numbers import to_float
from cryoet_core.io.picks.angles import dynamo_to_matrix, matrix_to_dynamo
from cryoet_core.io.picks.grid import Grid
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import bad_line, read_text, whole

NEEDED, FULL, COLUMNS = 26, 35, 36
FIRST = 1.0  # index of the first voxel
_USED = [*range(3, 10), 19, 21, 23, 24, 25]  # 0-based: must be finite


def _value(word: str) -> float:
    return complex(word[:-1] + "j").real if word.endswith("i") and "_" not in word else to_float(word)


def _rows(path) -> np.ndarray:
    """(n, COLUMNS) float64; columns beyond are dropped, absent ones are NaN."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words or words[0][0] in "%#":
            continue
        if len(words) >= 2 * FULL:
            raise bad_line(path, number, line, f"one particle of {FULL} or more numbers: is the end of a line lost?")
        try:
            row = [_value(word) for word in words[:COLUMNS]]
        except ValueError:
            raise bad_line(path, number, line, "numbers") from None
        if len(row) < NEEDED or not np.isfinite([row[i] for i in _USED]).all():
            raise bad_line(path, number, line, f"at least {NEEDED} numbers, angles and x y z finite")
        rows.append(row + [np.nan] * (COLUMNS - len(row)))
    return np.array(rows, dtype=np.float64).reshape(-1, COLUMNS)


def read(path, grid: Grid) -> Picks:
    """Picks of a .tbl. Raises UserInputError E-PICKS-02, E-PICKS-05."""
    rows = _rows(path)
    pixel = rows[0, 35] if len(rows) and len(set(rows[:, 35])) == 1 else None
    index = rows[:, 23:26] + rows[:, 3:6] - FIRST
    drawn, unit = grid.told(pixel)
    return Picks(
        drawn.to_angst(index), dynamo_to_matrix(*rows[:, 6:9].T), rows[:, 9], whole(rows[:, 21]), whole(rows[:, 19]),
        unit=unit,
    )


def write(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """A .tbl of COLUMNS columns, shifts 0, the position in 24-26."""
    rows = np.zeros((len(picks), COLUMNS))
    rows[:, 0] = rows[:, 30] = np.arange(1, len(picks) + 1)
    rows[:, 1] = rows[:, 2] = 1  # aligned, averaged
    if picks.rotations is not None:
        rows[:, 6:9] = matrix_to_dynamo(picks.rotations)
    if picks.score is not None:
        rows[:, 9] = picks.score
    rows[:, 12], rows[:, 13], rows[:, 14] = 1, -60, 60
    rows[:, 19] = number
    if picks.class_number is not None:
        rows[:, 21] = picks.class_number
    rows[:, 23:26] = grid.to_index(picks.positions_angst) + FIRST
    rows[:, 35] = grid.pixel_size_angst
    write_text(path, "".join(" ".join(f"{v + 0.0:.8g}" for v in row) + "\n" for row in rows))
