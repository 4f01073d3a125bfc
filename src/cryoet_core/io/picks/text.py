"""What the readers share: text, numbers with the place they stand at, one clear sentence where a file is broken."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.numbers import to_float

_COMMENT = re.compile(rb"\s*(?:[#%][^\r\n]*)?")  # blanks, and a comment of a text file


FRACTIONS = "fractions of the tomogram's size"


def fractions_note(path) -> str:
    """What is said of positions from 0 to 1."""
    return f"all positions in {path} lie between 0 and 1: they are taken as fractions of the tomogram's size"


def read_bytes(path: str | os.PathLike) -> bytes:
    """The file's bytes. Raises UserInputError E-FILE-01 (absent)."""
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserInputError("E-FILE-01", "no such file", file=os.fspath(path), fix="check the path") from error


def is_empty(data: bytes) -> bool:
    """Whether a file of any format holds nothing: no byte, blanks, comments (# or %) alone."""
    data, position = data.removeprefix(b"\xef\xbb\xbf"), 0
    while position < len(data):
        end = _COMMENT.match(data, position).end()
        if end == position:
            return False
        position = end
    return True


def shown(value) -> str:
    """A value of a file, short enough for a message; brackets may be nested to any depth."""
    try:
        return repr(value)[:60]
    except RecursionError:
        return "brackets in brackets without end"


def read_text(path: str | os.PathLike) -> str:
    """The file as text (UTF-8; odd bytes are replaced). Errors: see read_bytes."""
    data = read_bytes(path)
    if b"\0" in data:
        raise damaged(path, "a binary file", "text", "this is not a text file")
    return data.decode("utf-8-sig", errors="replace")


def damaged(path, found: str, expected: str, message: str = "this file is damaged or of another kind", field=None) -> UserInputError:
    """E-PICKS-05: the file as a whole cannot be read."""
    return UserInputError(
        "E-PICKS-05", message, file=os.fspath(path), field=field, found=found, expected=expected,
        fix="give the right file, set picks_format, or write it again",
    )


def missing(path, field: str, found: str, expected: str) -> UserInputError:
    """E-PICKS-03: a column, key or attribute is absent."""
    return UserInputError("E-PICKS-03", "this is missing", file=os.fspath(path), field=field, found=found, expected=expected, fix="correct it, or write the file again with the program that made it")


def bad_field(path, field: str, found: str, expected: str) -> UserInputError:
    """E-PICKS-02: an entry of a file is not what it should be."""
    return UserInputError("E-PICKS-02", "this is not a pick", file=os.fspath(path), field=field, found=found, expected=expected, fix="correct it, or write the file again with the program that made it")


def bad_line(path, number: int, line: str, expected: str) -> UserInputError:
    """E-PICKS-02: a line of a text file is not what it should be."""
    return bad_field(path, f"line {number}", repr(line.strip()[:80]), expected)


def number(value, path, field: str) -> float:
    """A finite float from text or JSON. Raises UserInputError E-PICKS-04."""
    try:
        result = math.nan if isinstance(value, bool) or value is None else to_float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise UserInputError(
            "E-PICKS-04", "this is not a number", file=os.fspath(path), field=field, found=shown(value),
            expected="a finite number", fix="correct it, or write the file again with the program that made it",
        )
    return result


def numbers(values, path, field: str, count: int) -> list[float]:
    """A list of `count` finite floats. Raises UserInputError E-PICKS-04."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise UserInputError(
            "E-PICKS-04", "this is not a list of numbers", file=os.fspath(path), field=field, found=shown(values),
            expected=f"{count} numbers", fix="correct it, or write the file again with the program that made it",
        )
    return [number(value, path, f"{field}[{i}]") for i, value in enumerate(values)]


def column(table, label: str, path, what: str = "row") -> np.ndarray:
    """(n,) finite float64 of a column of a table read from a STAR file. Raises E-PICKS-03 (absent), E-PICKS-04."""
    if label not in table:
        raise missing(path, label, ", ".join(map(str, table.columns))[:200] or "no columns", f"a column _{label}")
    values = table[label]
    if values.dtype.kind in "iuf":
        result = values.to_numpy(dtype=np.float64)
    else:
        result = np.array([number(v, path, f"{label} of {what} {i}") for i, v in enumerate(values, 1)], dtype=np.float64)
    if not np.isfinite(result).all():
        first = int(np.argmin(np.isfinite(result)))
        number(values.iloc[first], path, f"{label} of {what} {first + 1}")
    return result


def columns(table, labels, path, what: str = "row") -> np.ndarray:
    """(n, len(labels)) of `column`."""
    return np.stack([column(table, label, path, what) for label in labels], axis=1)


def whole(values) -> np.ndarray:
    """(n,) int64, rounded; what no number of a class or tomogram can be is cut to 2^31."""
    return np.round(np.clip(np.asarray(values, dtype=np.float64), -(2.0**31), 2.0**31)).astype(np.int64)


def parse_json(text: str, path):
    """Parsed JSON. Raises UserInputError E-PICKS-05 with the line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise damaged(path, error.msg, "JSON", "this is not JSON", field=f"line {error.lineno}") from error
    except RecursionError as error:
        raise damaged(path, "brackets in brackets without end", "JSON", "this is not JSON") from error
    except ValueError as error:  # a number of thousands of digits
        raise damaged(path, str(error)[:80], "JSON with numbers of a computer's size", "this is not JSON") from error
