"""AreTomo's .aln: global alignment (ROT = z_rot, TILT = y_tilt, (TX, TY) = shift in pixels) and dark frames."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.atomic import write_text
from cryoet_core.io.numbers import to_float

_DARK = re.compile(r"#\s*DarkFrame\s*=\s*(-?\d{1,9})\s+(-?\d{1,9})\s+(\S+)")
_SIZE = re.compile(r"#\s*RawSize\s*=\s*(\d{1,9})\s+(\d{1,9})\s+(\d{1,9})\b")
_OFFSET = re.compile(r"#\s*(Alpha|Beta)Offset\s*=\s*(\S+)")


@dataclass(frozen=True)
class AretomoAlignment:
    """geometry of the aligned sections; sections: (n,) SEC as in the file (counted from 0 or from 1, by version);
    raw_size: (w, h, n) or None; dark: (section, tilt in degrees) of the views left out; n_local: local rows, not
    read further; alpha_offset_deg is contained in TILT already (None: the file does not say it, versions before 2);
    beta_offset_deg: a tilt about x that AreTomo measured and did not apply."""

    geometry: TiltGeometry
    sections: np.ndarray
    raw_size: tuple[int, int, int] | None
    dark: tuple[tuple[int, float], ...]
    alpha_offset_deg: float | None
    n_local: int
    beta_offset_deg: float = 0.0


def _bad_line(path: str, number: int, line: str) -> UserInputError:
    return UserInputError(
        "E-ALN-01", "this line is not an alignment", file=path, field=f"line {number}", found=repr(line[:80]),
        expected="SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT", fix="give the .aln that AreTomo wrote",
    )


def _number(word: str, path: str, number: int, line: str) -> float:
    try:
        value = to_float(word)
    except ValueError:
        raise _bad_line(path, number, line) from None
    if not np.isfinite(value):
        raise _bad_line(path, number, line)
    return value


def read_aln(path: str | os.PathLike, pixel_size_angst: float) -> AretomoAlignment:
    """Read an .aln of AreTomo 1.2, 2 or 3; pixel_size_angst of the unbinned input turns TX, TY into A.

    Raises UserInputError E-ALN-01, E-FILE-01.
    """
    where = os.fspath(path)
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserInputError("E-FILE-01", "no such file", file=where, fix="check the path") from error
    rows, dark, size, offsets, local = [], [], None, {}, 0
    in_local = False
    for number, line in enumerate(lines, start=1):
        if line.startswith("#"):
            in_local = in_local or "local alignment" in line.lower()
            if match := _DARK.match(line):
                dark.append((int(match[1]), _number(match[3], where, number, line)))
            elif match := _SIZE.match(line):
                size = (int(match[1]), int(match[2]), int(match[3]))
            elif match := _OFFSET.match(line):
                offsets[match[1]] = _number(match[2], where, number, line)
        elif line.strip() and in_local:
            local += 1
        elif line.strip():
            row = [_number(word, where, number, line) for word in line.split()]
            if len(row) != 10 or abs(row[0]) > 1e6:
                raise _bad_line(where, number, line)
            rows.append(row)
    if not rows:
        raise _bad_line(where, len(lines), "no alignment")
    table = np.array(rows, dtype=np.float64)
    geometry = TiltGeometry(np.zeros(len(table)), table[:, 9], table[:, 1],
                            table[:, 3] * pixel_size_angst, table[:, 4] * pixel_size_angst)
    return AretomoAlignment(geometry, table[:, 0].astype(np.int64), size, tuple(dark), offsets.get("Alpha"), local,
                            offsets.get("Beta", 0.0))


def write_aln(
    path: str | os.PathLike, geometry: TiltGeometry, pixel_size_angst: float, image_size_px: tuple[int, int],
    included: np.ndarray | None = None,
) -> None:
    """Write an .aln (AreTomo 1.3/2 layout, sections counted from 0) of ALL views; `included` False = dark frame.

    x_tilt has no place in this format and must be 0: raises UserInputError E-ALN-02 otherwise.
    """
    if np.abs(geometry.x_tilt_deg).max(initial=0.0) > 1e-6:
        raise UserInputError(
            "E-ALN-02", "an .aln cannot hold a tilt about x", file=os.fspath(path), field="x_tilt_deg",
            found=f"{np.abs(geometry.x_tilt_deg).max():g}", expected="0", fix="use the .xf, .tlt and .xtilt files",
        )
    n = len(geometry)
    used = np.ones(n, dtype=bool) if included is None else np.asarray(included, dtype=bool)
    lines = ["# AreTomo Alignment / Priims bprmMn", f"# RawSize = {image_size_px[0]} {image_size_px[1]} {n}",
             "# NumPatches = 0"]
    lines += [f"# DarkFrame = {i:5d} {i:4d} {geometry.y_tilt_deg[i]:8.2f}" for i in np.flatnonzero(~used)]
    lines.append("# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT")
    x, y = geometry.x_shift_angst / pixel_size_angst, geometry.y_shift_angst / pixel_size_angst
    for i in np.flatnonzero(used):
        lines.append(
            f"{i:5d}  {geometry.z_rot_deg[i] + 0.0:11.6f}    1.00000  {x[i] + 0.0:12.5f} {y[i] + 0.0:12.5f}"
            f"     1.00     1.00     1.00     0.00  {geometry.y_tilt_deg[i] + 0.0:11.6f}"
        )
    write_text(path, "\n".join(lines) + "\n")
