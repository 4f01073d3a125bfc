"""Defocus values that other programs fitted, in one form: Warp and M (.xml), CTFFIND and AreTomo (.txt), Gctf (STAR),
IMOD (.defocus), and a plain table.

Conventions. CTFFIND, AreTomo and Gctf: defocus 1 and 2 in A, the angle of defocus 1 in degrees counter-clockwise from
+x, phase shift in radians (Gctf: degrees). Warp: U = D + delta/2, V = D - delta/2, micrometres, phase shift in units
of pi. IMOD (man page of ctfphaseflip): nanometres; a first line "flags 0 0. 0. 0 3" says what further columns there
are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.errors import UserInputError
from cryoet_core.io.foreign_alignment import view_names
from cryoet_core.io.star import read_star
from cryoet_core.io.warp import read_ctf_grids, read_warp_xml

LARGEST_ANGST = 200_000.0
_SMALLEST_ANGST = 100.0  # a smaller value is in other units, or no fit
_TABLE = {"defocus_um": 1e4, "defocus_angst": 1.0}  # column of a plain table -> A per unit
_FLAGS = {"astigmatism": 1, "axis_in_radians": 2, "phase": 4, "phase_in_radians": 8, "inverted": 16}


@dataclass(frozen=True)
class ForeignCtf:
    """One entry per row of the file: defocus_u, _v (n,) A, angle_deg of U, phase_deg.

    Keys, each None where the file has none: names (view_names) of movies; nominal_deg (stage angles); dose (before
    the view); section (from 0) of the stack, or the row's number. of_tomogram: the defocus is that of the centre of
    the tomogram, not of the image.
    """

    program: str
    path: str
    defocus_u_angst: np.ndarray
    defocus_v_angst: np.ndarray
    angle_deg: np.ndarray
    phase_deg: np.ndarray
    names: tuple[str, ...] | None = None
    nominal_deg: np.ndarray | None = None
    dose: np.ndarray | None = None
    section: np.ndarray | None = None
    of_tomogram: bool = False

    def __len__(self) -> int:
        return len(self.defocus_u_angst)


def read_foreign_ctf(path: str | os.PathLike) -> ForeignCtf:
    """Values of one series; the content of the file says whose they are.

    Raises UserInputError E-FILE-01, E-CTF-06 (none of the formats, or a damaged file), E-CTF-07 (impossible values).
    """
    where = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserInputError("E-FILE-01", "no such file", file=where, fix="check estimate_ctf.file") from error
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # as older Warps wrote
    text = data.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    if text.lstrip().startswith("<"):
        found = _from_warp(where)
    elif any(line.startswith("data_") for line in lines[:50]):
        found = _from_star(where)
    elif Path(path).suffix.lower() == ".defocus":
        found = _from_imod(where, lines)
    elif any("\t" in line and "defocus_" in line for line in lines[:50]):
        found = _from_table(where)
    else:
        found = _from_ctffind(where, lines)
    _check(found)
    return found


def _broken(path: str, found, expected: str) -> UserInputError:
    return UserInputError(
        "E-CTF-06",
        "no defocus values of a known program",
        file=path,
        found=found,
        expected=expected,
        fix="give Warp's .xml, the .txt of CTFFIND or AreTomo, Gctf's .star, IMOD's .defocus, or a tab-separated table "
        "with section, defocus_um",
    )


def _check(found: ForeignCtf) -> None:
    values = np.stack([found.defocus_u_angst, found.defocus_v_angst])
    good = np.isfinite(values) & (np.abs(values) >= _SMALLEST_ANGST) & (np.abs(values) <= LARGEST_ANGST)
    if not good.all():
        row = int(np.argmin(good.all(axis=0)))
        raise UserInputError(
            "E-CTF-07",
            f"impossible defocus in row {row + 1}",
            file=found.path,
            field=found.program,
            found=f"{values[0, row]:g} and {values[1, row]:g} A",
            expected=f"{_SMALLEST_ANGST:g} to {LARGEST_ANGST:g} A",
            fix="correct the value (check its unit), or take the row out",
        )
    if not (np.isfinite(found.angle_deg).all() and np.isfinite(found.phase_deg).all()):
        raise _broken(found.path, "angles that are no numbers", "numbers")


def _from_warp(path: str) -> ForeignCtf:
    series = read_warp_xml(path)
    defocus, delta, angle, phase = read_ctf_grids(path, len(series.used))
    return ForeignCtf(
        "Warp",
        path,
        (defocus + delta / 2) * 1e4,
        (defocus - delta / 2) * 1e4,
        angle,
        phase * 180,
        names=view_names(series.movies) if series.movies else None,
        dose=series.dose,
        of_tomogram=True,
    )


def _column(table: pd.DataFrame, name: str, path: str, default: float | None = None) -> np.ndarray:
    if name not in table:
        if default is None:
            raise _broken(path, ", ".join(map(str, table.columns)), name)
        return np.full(len(table), default)
    return pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)


def _from_star(path: str) -> ForeignCtf:
    """Gctf's or RELION's table of micrographs; names of movies where they have any, else row k is section k."""
    tables = [block for block in read_star(path).values() if isinstance(block, pd.DataFrame) and "rlnDefocusU" in block]
    if len(tables) != 1:
        raise _broken(path, f"{len(tables)} tables with rlnDefocusU", "one")
    table = tables[0]
    names = view_names(table["rlnMicrographName"]) if "rlnMicrographName" in table else None
    return ForeignCtf(
        "Gctf",
        path,
        *(_column(table, c, path) for c in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")),
        _column(table, "rlnPhaseShift", path, 0.0),
        names=names,
        section=np.arange(len(table)),
        nominal_deg=_column(table, "rlnTomoNominalStageTiltAngle", path)
        if "rlnTomoNominalStageTiltAngle" in table
        else None,
    )


def _rows(path: str, lines: list[str], least: int) -> list[list[float]]:
    rows = []
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("#"):
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        if len(row) < least:
            raise _broken(path, f"line {number}: {line.strip()[:60]!r}", f"at least {least} numbers")
        rows.append(row)
    if not rows:
        raise _broken(path, "an empty file", "one row per view")
    return rows


def _from_ctffind(path: str, lines: list[str]) -> ForeignCtf:
    values = np.array([row[:5] for row in _rows(path, lines, 5)])
    program = "AreTomo" if not any("ctffind" in line.lower() for line in lines[:5]) else "CTFFIND"
    return ForeignCtf(
        program,
        path,
        values[:, 1],
        values[:, 2],
        values[:, 3],
        np.rad2deg(values[:, 4]),
        section=np.rint(values[:, 0]).astype(np.int64) - 1,
    )


def _from_imod(path: str, lines: list[str]) -> ForeignCtf:
    """Rows hold for a range of views; their middle is the row's stage angle."""
    rows = _rows(path, lines, 5)
    flags = 0
    if len(rows[0]) == 6 and rows[0][5] == 3:  # flags 0 0. 0. 0 3
        flags, rows = int(rows[0][0]), rows[1:]
    has = {name: bool(flags & bit) for name, bit in _FLAGS.items()}
    width = 5 + 2 * has["astigmatism"] + has["phase"]
    if not rows or any(len(row) < width for row in rows):
        raise _broken(path, f"{len(rows)} rows", f"{width} numbers in each (flags {flags})")
    values = np.array([row[:width] for row in rows])
    u = values[:, 4] * 10
    v = values[:, 5] * 10 if has["astigmatism"] else u
    axis = values[:, 6] if has["astigmatism"] else np.zeros(len(u))
    phase = values[:, width - 1] if has["phase"] else np.zeros(len(u))
    angles = values[:, 2:4].mean(axis=1) * (-1 if has["inverted"] else 1)
    return ForeignCtf(
        "IMOD",
        path,
        u,
        v,
        np.rad2deg(axis) if has["axis_in_radians"] else axis,
        np.rad2deg(phase) if has["phase_in_radians"] else phase,
        nominal_deg=angles,
    )


def _from_table(path: str) -> ForeignCtf:
    """section (from 0), defocus_um or defocus_angst, and if there are any defocus_delta_um (U - V),
    defocus_angle_deg, phase_shift_deg, movie, tilt_deg; lines that begin with # are comments."""
    try:
        table = pd.read_csv(path, sep="\t", comment="#", encoding_errors="replace")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise _broken(path, str(error).strip(), "a header line and one row per view") from error
    name = next((name for name in _TABLE if name in table), None)
    if name is None:
        raise _broken(path, ", ".join(map(str, table.columns)), "defocus_um or defocus_angst")
    defocus = _column(table, name, path) * _TABLE[name]
    delta = _column(table, "defocus_delta_um", path, 0.0) * 1e4
    return ForeignCtf(
        "a table",
        path,
        defocus + delta / 2,
        defocus - delta / 2,
        _column(table, "defocus_angle_deg", path, 0.0),
        _column(table, "phase_shift_deg", path, 0.0),
        names=view_names(table["movie"]) if "movie" in table else None,
        nominal_deg=_column(table, "tilt_deg", path) if "tilt_deg" in table else None,
        section=_column(table, "section", path).astype(np.int64) if "section" in table else None,
        of_tomogram=True,
    )
