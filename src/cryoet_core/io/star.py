"""STAR files: blocks that are lists (one value per label) or loops (tables), as RELION 3 to 5 write them.

Values come back as they were written: '#' and quotes inside a value survive, "001" stays a string, the types of
columns follow from their labels (star_labels.py). Output is the same bytes for the same content.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.errors import UserInputError
from cryoet_core.io.atomic import write_bytes
from cryoet_core.io.numbers import to_float
from cryoet_core.io.star_labels import label_type

VERSION_COMMENT = "# version 50001"
_CLOSING = {quote: re.compile(quote + r"(?=\s|$)") for quote in "\"'"}  # a quote inside a value is part of it
_WORD = re.compile(r"\S+")
_PLAIN = re.compile(r"""[^\s"'#_;$\[][^\s]*$|\[[^\s]*$""")
_DIGITS = re.compile(r"[+-]?[0-9]{1,19}\Z")  # what a float would round
_RESERVED = re.compile(r"(data_|loop_|save_|stop_|global_)", re.IGNORECASE)

Block = pd.DataFrame | dict


@dataclass
class _RawBlock:
    """Strings of one block while it is read; `rows` keep their line number for messages."""

    name: str
    is_loop: bool = False
    labels: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def _tokens(line: str) -> tuple[list[str], bool]:
    """Values of a line (comments dropped, quotes removed) and whether the first value was quoted."""
    if not ("#" in line or '"' in line or "'" in line):
        return line.split(), False
    values: list[str] = []
    first_quoted, unclosed = False, set()
    position, line = 0, line.rstrip()
    while (word := _WORD.search(line, position)) is not None:
        first, position = word[0][0], word.end()
        if first == "#":
            break
        closing = None if first not in _CLOSING or first in unclosed else _CLOSING[first].search(line, word.start() + 1)
        if closing is None:
            unclosed.add(first)  # none closes further on either: a line is walked through once
            values.append(word[0])
            continue
        first_quoted = first_quoted or not values
        values.append(line[word.start() + 1 : closing.start()])
        position = closing.end()
    return values, first_quoted


def _error(code: str, message: str, path: str, line: int, found: str, expected: str) -> UserInputError:
    return UserInputError(
        code, message, file=path, field=f"line {line}", found=found, expected=expected,
        fix="correct this line, or write the file again with the program that made it",
    )


class _Parser:
    """State machine over lines. Raises E-STAR-01 (row length), E-STAR-02 (text outside a block or list)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.blocks: list[_RawBlock] = []

    def feed(self, number: int, line: str) -> None:
        values, quoted = _tokens(line)
        if not values:
            return
        first = values[0]
        if not quoted and first.lower().startswith("data_"):
            self.blocks.append(_RawBlock(first[5:]))
        elif not self.blocks:
            raise _error("E-STAR-02", "not a STAR file", self.path, number, line.strip()[:60], "a line data_...")
        elif not quoted and first.lower() == "loop_":
            self._begin_loop(number)
        elif not quoted and first.startswith("_") and not (self.blocks[-1].is_loop and self.blocks[-1].rows):
            self._label(number, first[1:], values[1:])
        else:
            self._row(number, values)

    def _begin_loop(self, number: int) -> None:
        block = self.blocks[-1]
        if block.labels:  # a second loop without a new data_ line: an unnamed continuation, not RELION's habit
            raise _error("E-STAR-02", "two tables in one block", self.path, number, "loop_", "data_<name> before loop_")
        block.is_loop = True

    def _label(self, number: int, label: str, values: list[str]) -> None:
        block = self.blocks[-1]
        if label in block.labels:
            raise _error("E-STAR-04", "label given twice", self.path, number, label, "each label once")
        block.labels.append(label)
        if block.is_loop:
            return
        if len(values) != 1:
            raise _error("E-STAR-01", f"label {label} needs one value", self.path, number, str(len(values)), "1")
        block.rows.append(values)

    def _row(self, number: int, values: list[str]) -> None:
        block = self.blocks[-1]
        if not block.is_loop or not block.labels:
            raise _error("E-STAR-02", "values without labels", self.path, number, " ".join(values)[:60], "_label lines")
        if len(values) != len(block.labels):
            raise _error(
                "E-STAR-01", "row does not fit the table", self.path, number, f"{len(values)} values",
                f"{len(block.labels)} (one for each label of data_{block.name})",
            )
        block.rows.append(values)


def _convert(values: list[str], label: str, path: str) -> list | np.ndarray:
    kind = label_type(label, values)
    if kind is str:
        return values
    try:
        numbers = np.array([to_float(v) for v in values], dtype=np.float64)
    except ValueError:
        bad = next(v for v in values if not _is_number(v))
        raise UserInputError(
            "E-STAR-05", "value is not a number", file=path, field=label, found=repr(bad), expected="a number",
            fix="correct this value",
        ) from None
    if kind is float:
        return numbers
    whole = (numbers == np.round(numbers)) & (np.abs(numbers) < 2.0**63)
    if not np.all(whole):
        raise UserInputError(
            "E-STAR-05", "value is not a whole number", file=path, field=label, found=values[int(np.argmin(whole))],
            expected="a whole number", fix="correct this value",
        )
    return np.array([int(v) if _DIGITS.match(v) else int(float(v)) for v in values], dtype=np.int64)


def _is_number(text: str) -> bool:
    try:
        to_float(text)
    except ValueError:
        return False
    return True


def _finish(block: _RawBlock, path: str) -> Block:
    if block.is_loop:
        columns = list(zip(*block.rows, strict=True)) if block.rows else [()] * len(block.labels)
        frame = {label: _convert(list(c), label, path) for label, c in zip(block.labels, columns, strict=True)}
        return pd.DataFrame({k: pd.Series(v, dtype="str" if isinstance(v, list) else None) for k, v in frame.items()})
    result = {}
    for label, row in zip(block.labels, block.rows, strict=True):
        value = _convert(row, label, path)[0]
        result[label] = value.item() if isinstance(value, np.generic) else value
    return result


def read_star(path: str | os.PathLike) -> dict[str, Block]:
    """Blocks by name (without "data_"; "" for an unnamed one): a DataFrame for a loop, a dict for a list.

    Columns are int64, float64 or str by their label; labels come without the leading underscore.
    Raises UserInputError E-FILE-01 (absent), E-STAR-01..05 (see `_Parser`, `_convert`, two blocks of one name).
    """
    path = os.fspath(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserInputError("E-FILE-01", "no such file", file=path, fix="check the path") from error
    parser = _Parser(path)
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        parser.feed(number, line)
    names = [block.name for block in parser.blocks]
    if not names:
        raise _error("E-STAR-02", "this is not a STAR file", path, 1, "no data_ line", "at least one block")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _error("E-STAR-03", "two blocks of one name", path, 1, f"data_{twice}", "each name once")
    return {block.name: _finish(block, path) for block in parser.blocks}


def find_block(blocks: dict[str, Block], name: str, path: str | os.PathLike) -> Block:
    """Block `name`; raises UserInputError E-STAR-06 that lists the blocks of the file."""
    if name not in blocks:
        raise UserInputError(
            "E-STAR-06", "table missing", file=os.fspath(path), field=f"data_{name}",
            found=", ".join(f"data_{b}" for b in blocks) or "nothing", expected=f"data_{name}",
            fix="give the right file, or write it again",
        )
    return blocks[name]


def _quoted(text: str, path: str) -> str:
    if "\n" in text or "\r" in text:
        raise UserInputError(
            "E-STAR-07", "a value cannot hold a line break", file=path, found=repr(text), fix="rename it",
        )
    if _PLAIN.match(text) and not _RESERVED.match(text):
        return text
    for quote in '"', "'":
        if not re.search(quote + r"\s", text) and not text.endswith(quote):
            return f"{quote}{text}{quote}"
    raise UserInputError(
        "E-STAR-07", "a value with both kinds of quotes cannot be written", file=path, found=repr(text),
        fix="rename it",
    )


def format_value(value: object, path: str = "") -> str:
    """One value as text: integers plain, floats with 9 significant digits and always a point, text quoted if needed."""
    if isinstance(value, (bool, np.bool_, int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        mantissa, e, exponent = f"{float(value) + 0.0:.9g}".partition("e")
        return f"{mantissa}{'' if '.' in mantissa or 'n' in mantissa else '.0'}{e}{exponent}"
    return _quoted("" if value is None else str(value), path)


def _format_frame(frame: pd.DataFrame, path: str) -> list[str]:
    lines = ["loop_"] + [f"_{label} #{i}" for i, label in enumerate(frame.columns, start=1)]
    columns = [[format_value(v, path) for v in frame[label].tolist()] for label in frame.columns]
    widths = [max((len(v) for v in column), default=0) for column in columns]
    for row in zip(*columns, strict=True):
        lines.append(" ".join(v.rjust(w) for v, w in zip(row, widths, strict=True)))
    return lines


def _format_list(block: dict, path: str) -> list[str]:
    width = max((len(label) for label in block), default=0) + 1
    return [f"_{label.ljust(width)} {format_value(value, path)}" for label, value in block.items()]


def write_star(path: str | os.PathLike, blocks: dict[str, Block]) -> None:
    """Write blocks (DataFrame -> loop, dict -> list) atomically, in the order given; labels without underscore.

    No date. Raises UserInputError E-STAR-07 for a value that STAR cannot hold.
    """
    path = os.fspath(path)
    lines: list[str] = []
    for name, block in blocks.items():
        lines += ["", VERSION_COMMENT, "", f"data_{name}", ""]
        lines += _format_list(block, path) if isinstance(block, dict) else _format_frame(block, path)
        lines += [""]
    write_bytes(path, ("\n".join(lines) + "\n").encode("utf-8", errors="surrogateescape"))
