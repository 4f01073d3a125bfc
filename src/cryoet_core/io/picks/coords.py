"""Plain lists of coordinates: .coords ("x y z") and tables with a header (.tsv, .csv).

All are 0-based voxels of the picked tomogram, the middle of a box. A header names columns: x y z (or X, x_px, rlnCoordinateX...), score (also
metric_best, confidence), class (predicted_class), rot tilt psi (RELION's angles).
"""

from __future__ import annotations

import pandas as pd

from cryoet_core.geometry.rotations import euler_to_matrix, matrix_to_euler
from cryoet_core.io.atomic import write_text
from cryoet_core.io.numbers import to_float
from cryoet_core.io.picks.grid import Grid, are_fractions
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import (
    FRACTIONS,
    bad_field,
    bad_line,
    column,
    columns,
    fractions_note,
    missing,
    read_text,
    whole,
)

_NAMES = {
    "x": ("x", "x_px", "coordinatex", "rlncoordinatex"), "y": ("y", "y_px", "coordinatey", "rlncoordinatey"),
    "z": ("z", "z_px", "coordinatez", "rlncoordinatez"), "score": ("score", "metric_best", "confidence", "rlnlccmax"),
    "class": ("class", "class_number", "predicted_class", "label"), "tomogram": ("tomogram", "tomo_name", "tomo", "rlntomoname"),
    "rot": ("rot", "rot_deg", "rlnanglerot"), "tilt": ("tilt", "tilt_deg", "rlnangletilt"), "psi": ("psi", "psi_deg", "rlnanglepsi"),
}


def _separator(lines: list[str]) -> str | None:
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    return "\t" if "\t" in first else "," if "," in first else ";" if ";" in first else None


def _words(line: str, separator: str | None) -> list[str]:
    return [word.strip().strip("\"'") for word in (line.split(separator) if separator else line.split())]


def _is_header(words: list[str]) -> bool:
    try:
        [to_float(word) for word in words]
    except ValueError:
        return True
    return False


def read_table(path) -> tuple[pd.DataFrame, bool]:
    """(strings of a text table, whether it has a header); without one the columns are x, y, z, 3, 4...

    Raises UserInputError E-PICKS-02 (a row of another length), E-PICKS-05.
    """
    lines = read_text(path).splitlines()
    separator = _separator(lines)
    names, header, rows = None, False, []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = _words(line, separator)
        if names is None:
            header = _is_header(words)
            names = words if header else ["x", "y", "z", *(str(i) for i in range(3, len(words)))][: max(3, len(words))]
            if len(names) < 3 or (not header and len(words) < 3):
                raise bad_line(path, number, line, "x y z")
            if header:
                continue
        if len(words) != len(names):
            raise bad_line(path, number, line, f"{len(names)} values")
        if _is_header(words) and not header:
            raise bad_line(path, number, line, "numbers")
        rows.append(words)
    if not header and len(rows) == 1 and len(names) >= 6 and len(names) % 3 == 0:
        found = f"one line of {len(names)} numbers"
        raise bad_field(path, "lines", found, "one line x y z per pick: are the ends of the lines lost?")
    return pd.DataFrame(rows, columns=names, dtype=object), header


def known_columns(table: pd.DataFrame, path) -> pd.DataFrame:
    """The table with our names for its columns. Raises UserInputError E-PICKS-03."""
    by_name = {str(c).strip().lower(): c for c in reversed(list(table.columns))}
    found = {ours: next((by_name[t] for t in theirs if t in by_name), None) for ours, theirs in _NAMES.items()}
    absent = [axis for axis in "xyz" if found[axis] is None]
    if absent:
        raise missing(path, f"column {absent[0]}", ", ".join(map(str, table.columns))[:200], "columns x, y and z")
    return pd.DataFrame({ours: table[theirs].to_numpy() for ours, theirs in found.items() if theirs is not None})


def table_picks(table: pd.DataFrame, path, grid: Grid) -> Picks:
    rotations = None
    if all(c in table for c in ("rot", "tilt", "psi")):
        rotations = euler_to_matrix(*columns(table, ["rot", "tilt", "psi"], path).T)
    score = column(table, "score", path) if "score" in table else None
    classes = whole(column(table, "class", path)) if "class" in table else None
    names = table["tomogram"].astype(str).to_numpy(dtype=object) if "tomogram" in table else None
    index = columns(table, ["x", "y", "z"], path)
    if are_fractions(index):
        position, note = grid.whole_to_angst(index), fractions_note(path)
        return Picks(position, rotations, score, classes, names, unit=FRACTIONS, notes=(note,))
    return Picks(grid.to_angst(index), rotations, score, classes, names)


def read(path, grid: Grid) -> Picks:
    """Picks of a text table, with or without a header. Raises UserInputError E-PICKS-02 to E-PICKS-05."""
    table, _ = read_table(path)
    return table_picks(known_columns(table, path), path, grid)


def write_coords(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """One line "x y z" per pick; everything else is lost."""
    index = grid.to_index(picks.positions_angst).reshape(-1, 3)
    write_text(path, "".join(" ".join(f"{v + 0.0:.5f}" for v in row) + "\n" for row in index) or "# no picks\n")


def write_table(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """A table with a header, tabs between columns: tomogram, x_px, y_px, z_px, and the angles, scores and classes that are known."""
    index = grid.to_index(picks.positions_angst).reshape(-1, 3)
    table = {"tomogram": [name] * len(picks)} | {f"{a}_px": [f"{v + 0.0:.5f}" for v in index[:, i]] for i, a in enumerate("xyz")}
    if picks.rotations is not None:
        angles = matrix_to_euler(picks.rotations)
        table |= {f"{a}_deg": [f"{v + 0.0:.5f}" for v in angles[:, i]] for i, a in enumerate(("rot", "tilt", "psi"))}
    if picks.score is not None:
        table["score"] = [f"{v:.8g}" for v in picks.score]
    if picks.class_number is not None:
        table["class"] = [str(int(v)) for v in picks.class_number]
    rows = ["\t".join(table), *("\t".join(row) for row in zip(*table.values(), strict=True))]
    write_text(path, "\n".join(rows) + "\n")
