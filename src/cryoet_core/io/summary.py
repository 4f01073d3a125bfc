"""Summaries: JSON with sorted keys and rounded floats, the same bytes for the same content."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.atomic import write_text

SIGNIFICANT_DIGITS = 9


def to_json_value(value: Any) -> Any:
    """Plain JSON types: floats rounded to 9 significant digits, NaN and infinity become null.

    Takes numbers, strings, paths, lists, tuples, sets, dicts, dataclasses, NumPy scalars and arrays.
    Raises TypeError for anything else.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return float(f"{number:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(number) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.ndarray):
        return to_json_value(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json_value({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(to_json_value(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [to_json_value(item) for item in value]
    raise TypeError(f"cannot write a {type(value).__name__} to a summary")


def write_summary(path: str | os.PathLike, summary: dict) -> None:
    """Write `summary` as JSON (sorted keys, two-space indent, final newline), atomically."""
    text = json.dumps(to_json_value(summary), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_summary(path: str | os.PathLike) -> dict:
    """Read a summary. Raises UserInputError E-JSON-01 when the file is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserInputError(
            "E-JSON-01", "not a JSON file", file=str(path), found=str(error),
            fix="delete it and run the step again",
        ) from error
