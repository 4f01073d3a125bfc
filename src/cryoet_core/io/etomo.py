"""IMOD's alignment of one series: the .xf with its .tlt, .rawtlt and .xtilt, and what tilt.com beside them adds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.imod import read_numbers, read_tlt, read_xf
from cryoet_core.io.numbers import to_float

_LONGEST_RANGE = 20  # characters of "1-3": more digits than these number no view


@dataclass(frozen=True)
class EtomoAlignment:
    """transforms (n, 2, 3) [A | d] in pixels about IMOD's centre; y_tilt_deg, x_tilt_deg (n,): with OFFSET and XAXISTILT of tilt.com;
    nominal_deg (n,) from .rawtlt or None; used (n,) bool: not in EXCLUDELIST; raw_size (w, h) of the images or None; files: what was
    read; notes: what is not taken over."""

    transforms: np.ndarray
    y_tilt_deg: np.ndarray
    x_tilt_deg: np.ndarray
    nominal_deg: np.ndarray | None
    used: np.ndarray
    raw_size: tuple[int, int] | None
    files: tuple[str, ...]
    notes: tuple[str, ...]


def find_xf(path: str | os.PathLike, name: str) -> Path:
    """The .xf of series `name`: the file itself, the .xf beside a .tlt, or the one in a folder.

    Raises UserInputError E-FILE-01, E-ALN-08 (none or several in the folder).
    """
    path = Path(path)
    if not path.is_dir():
        xf = path if path.suffix not in (".tlt", ".rawtlt", ".xtilt") else path.with_suffix(".xf")
        if not xf.is_file():
            raise UserInputError("E-FILE-01", "no such file", file=str(xf), fix="check align_tilt_series.alignment in the config")
        return xf
    for known in (f"{name}.xf", f"{name}_st.xf", f"{name}_fid.xf"):
        if (path / known).is_file():
            return path / known
    found = sorted(p.name for p in path.glob("*.xf"))
    if len(found) != 1:
        raise UserInputError(
            "E-ALN-08", "this folder does not say which alignment belongs to the series", file=str(path), field=name,
            found=", ".join(found) or "no .xf", expected=f"{name}.xf", fix="name the .xf file itself in align_tilt_series.alignment",
        )
    return path / found[0]


def _com_values(path: Path) -> dict[str, str]:
    """Last value of every key of a command file; keys in capitals."""
    values = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split(None, 1)
        if words and words[0][0] not in "#$":
            values[words[0].upper()] = words[1].strip() if len(words) > 1 else ""
    return values


def _floats(values: dict[str, str], key: str, path: Path) -> list[float]:
    try:
        numbers = [to_float(word) for word in values.get(key, "").replace(",", " ").split()]
    except ValueError:
        numbers = [np.nan]
    if not np.all(np.abs(numbers) < 1e6):
        raise UserInputError("E-ALN-09", "this line of the command file is not understood", file=str(path), field=key,
                             found=values[key], expected="numbers", fix="correct the line")
    return numbers


def _excluded(values: dict[str, str], n: int, path: Path) -> np.ndarray:
    """(n,) bool from EXCLUDELIST and EXCLUDELIST2: "1-3,7", counted from 1."""
    out = np.zeros(n, dtype=bool)
    for key in ("EXCLUDELIST", "EXCLUDELIST2"):
        for part in values.get(key, "").replace(" ", ",").split(","):
            if not part:
                continue
            first, _, last = part[:_LONGEST_RANGE].partition("-")
            if not (first.isdecimal() and (last or first).isdecimal() and 1 <= int(first) <= int(last or first) <= n):
                raise UserInputError("E-ALN-09", "this line of the command file is not understood", file=str(path), field=key,
                                     found=values[key], expected=f"views between 1 and {n}", fix="correct the line")
            out[int(first) - 1 : int(last or first)] = True
    return out


def _tilt_com(path: Path, n: int):
    """(offset, x tilt, excluded, raw size, notes) from tilt.com."""
    values = _com_values(path)
    offset, x_tilt, shift, size = (_floats(values, key, path) for key in ("OFFSET", "XAXISTILT", "SHIFT", "FULLIMAGE"))
    notes = []
    if shift and max(map(abs, shift)) > 0:
        notes.append(f"SHIFT {' '.join(f'{v:g}' for v in shift)} of tilt.com is not taken over: the tomogram is centred on the tilt axis")
    if len(offset) > 1 and offset[1]:
        notes.append(f"the shift of the axis by {offset[1]:g} pixels (OFFSET in tilt.com) is not taken over")
    if "LOCALFILE" in values:
        notes.append("the local alignment (LOCALFILE in tilt.com) is not taken over")
    raw_size = (int(size[0]), int(size[1])) if len(size) == 2 and min(size) > 0 else None
    return (offset or [0.0])[0], (x_tilt or [0.0])[0], _excluded(values, n, path), raw_size, notes


def _angles(path: Path, n: int) -> np.ndarray:
    """(n,) angles of .tlt or .xtilt. Raises UserInputError E-ALN-04 when their number is not that of the transforms."""
    angles = read_tlt(path)
    if len(angles) != n:
        raise UserInputError("E-ALN-04", "transforms and angles differ in number", file=str(path), found=f"{len(angles)} angles",
                             expected=f"{n} (one for each line of the .xf)", fix="give the files of one alignment")
    return angles


def read_etomo(path: str | os.PathLike, name: str) -> EtomoAlignment:
    """Alignment of series `name` from a .xf with its .tlt (and .rawtlt, .xtilt, tilt.com where they lie beside it).

    path: the .xf, or its folder. A .rawtlt of another length (views were removed after it was made) is not used.
    Raises UserInputError E-FILE-01, E-XF-01, E-TLT-01, -02, E-ALN-04 (numbers of views differ), E-ALN-08, E-ALN-09.
    """
    xf = find_xf(path, name)
    transforms = read_xf(xf)
    n, files, notes = len(transforms), [xf], []
    tlt, raw, xtilt = (xf.with_suffix(suffix) for suffix in (".tlt", ".rawtlt", ".xtilt"))
    com = xf.with_name("tilt.com")
    y_tilt, x_tilt = _angles(tlt, n), np.zeros(n)
    files.append(tlt)
    nominal = None
    if raw.is_file():
        nominal = read_numbers(raw, 1, "E-TLT-01", "a tilt angle")[:, 0]
        if len(nominal) != n:
            notes.append(f"{raw.name} has {len(nominal)} angles for {n} views: not used")
            nominal = None
        else:
            files.append(raw)
    if xtilt.is_file():
        x_tilt = _angles(xtilt, n)
        files.append(xtilt)
    used, size = np.ones(n, dtype=bool), None
    if com.is_file() and _com_values(com).get("TILTFILE") != tlt.name:
        notes.append(f"tilt.com beside {xf.name} belongs to another series (TILTFILE): not used")
    elif com.is_file():
        offset, about_x, excluded, size, more = _tilt_com(com, n)
        y_tilt, x_tilt, used = y_tilt + offset, x_tilt + about_x, ~excluded
        files.append(com)
        notes += more
    return EtomoAlignment(transforms, y_tilt, x_tilt, nominal, used, size, tuple(str(f) for f in files), tuple(notes))
