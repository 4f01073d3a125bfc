"""SerialEM .mdoc files: metadata of a tilt series, one section per image.

Grammar: lines `key = value`, titles `[T = free text]` (may run over several lines), sections `[ZValue = n]`,
`[FrameSet = n]`, `[MontSection = n]`. Seen in real files and accepted: CRLF, byte-order mark, Latin-1, any order
of keys, unknown keys, keys in another case or with underscores, decimal commas, empty values, '=' in a value,
a comma or a blank between the entries of a title, a last line without its end.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryoet_core.errors import UserInputError

_SECTION = re.compile(r"\[\s*([A-Za-z]+)\s*=\s*(.*?)\s*\]?\s*$", re.DOTALL)
_IMAGE_KINDS = ("ZValue", "FrameSet")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
_MONTHS = {m: i for i, m in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), start=1)}
_DATE = re.compile(r"(\d{1,2})[-. ]([A-Za-z]{3})[a-z]*[-. ](\d{4}|\d{2})\s+(\d{1,2}):(\d{2}):(\d{2})")
_ISO_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})[T ]+(\d{1,2}):(\d{2}):(\d{2})")


def _normal(key: str) -> str:
    return key.replace("_", "").replace(" ", "").lower()


@dataclass
class MdocSection:
    """Keys of one section; names are compared without case and underscores."""

    kind: str
    index: int
    path: str
    values: dict[str, str] = field(default_factory=dict)

    def text(self, *names: str) -> str | None:
        """Value of the first of `names` that is present and not empty."""
        for name in names:
            value = self.values.get(_normal(name), "").strip()
            if value:
                return value
        return None

    def numbers(self, *names: str) -> list[float] | None:
        """Numbers of a value ("0.95 8"), decimal commas allowed. Raises UserInputError E-MDOC-01."""
        text = self.text(*names)
        if text is None:
            return None
        words = text.replace(",", ".").split()
        if not words or not all(_NUMBER.match(word) for word in words):
            raise UserInputError(
                "E-MDOC-01", "value is not a number", file=self.path, field=f"[{self.kind} = {self.index}] {names[0]}",
                found=repr(text), expected="a number", fix="correct this line of the mdoc",
            )
        return [float(word) for word in words]

    def number(self, *names: str) -> float | None:
        """First number of a value, or None where it is absent."""
        numbers = self.numbers(*names)
        return None if numbers is None else numbers[0]

    @property
    def movie_name(self) -> str | None:
        """Base name of SubFramePath (Windows, UNC or Unix separators); of the mdoc itself for one of a single movie."""
        path = self.text("SubFramePath")
        if path is None and self.kind == "FrameSet" and self.path:
            return os.path.basename(self.path).removesuffix(".mdoc")  # the mdoc of one movie is named after it
        return None if path is None else re.split(r"[\\/]", path.strip().strip('"'))[-1].strip() or None

    @property
    def time(self) -> datetime | None:
        """DateTime of the section, None where absent or unreadable."""
        return parse_datetime(self.text("DateTime") or "")


@dataclass
class Mdoc:
    """A parsed mdoc: global keys, titles, and the sections in the order of the file."""

    path: str
    header: MdocSection
    titles: list[str]
    sections: list[MdocSection]

    @property
    def images(self) -> list[MdocSection]:
        """Sections that describe one image: ZValue; FrameSet where there is no ZValue."""
        for kind in _IMAGE_KINDS:
            found = [s for s in self.sections if s.kind == kind]
            if found:
                return found
        return []

    @property
    def title_axis(self) -> tuple[float, bool] | None:
        """(angle in degrees, written by Tomography 5) from a title "Tilt axis angle = a", as it stands there."""
        for title in self.titles:
            match = re.search(r"(tilt\s*axis\s*angle)\s*=\s*([-+]?\d+(?:[.,]\d+)?)", title, re.IGNORECASE)
            if match:
                return float(match[2].replace(",", ".")), " " not in match[1]
        return None


def parse_datetime(text: str) -> datetime | None:
    """"09-Mar-23  18:05:12" (2 or 4 digits for the year, English months whatever the locale) or ISO; else None."""
    try:
        if match := _DATE.search(text):
            day, month, year, *clock = match.groups()
            return datetime(int(year) + (2000 if len(year) == 2 else 0), _MONTHS[month.lower()], int(day), *map(int, clock))
        if match := _ISO_DATE.search(text):
            return datetime(*map(int, match.groups()))
    except (ValueError, KeyError):
        return None
    return None


def _decode(data: bytes) -> str:
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _logical_lines(text: str) -> list[str]:
    """Lines with wrapped titles joined: "[T = ..." runs on until its "]" or until a line that is a key or section."""
    lines: list[str] = []
    open_title = False
    for raw in re.split(r"\r\n|\n|\r", text):
        line = raw.strip()
        starts_anew = line.startswith("[") or re.match(r"[A-Za-z]\w*\s*=", line)
        if open_title and line and not starts_anew:
            lines[-1] += " " + line
        elif line:
            lines.append(line)
        else:
            continue
        open_title = lines[-1].startswith("[") and not lines[-1].endswith("]")
    return lines


def parse_mdoc(text: str, path: str = "") -> Mdoc:
    """Parse the text of an mdoc. Raises UserInputError E-MDOC-10 where a section has no number."""
    mdoc = Mdoc(path, MdocSection("header", 0, path), [], [])
    current = mdoc.header
    for line in _logical_lines(text):
        section = _SECTION.match(line)
        if section and section[1] == "T":
            mdoc.titles.append(section[2])
        elif section:
            current = _new_section(section[1], section[2], path)
            mdoc.sections.append(current)
        elif "=" in line:
            key, value = line.split("=", 1)
            if key.strip() == "T":
                mdoc.titles.append(value.strip())
            else:
                current.values[_normal(key.strip())] = value.strip()
    return mdoc


def _new_section(kind: str, number: str, path: str) -> MdocSection:
    if not re.match(r"-?\d{1,9}$", number):
        raise UserInputError(
            "E-MDOC-10", "section without a number", file=path, field=f"[{kind}]", found=repr(number),
            expected="a whole number", fix="the file is cut or damaged: copy it again",
        )
    return MdocSection(kind, int(number), path)


def read_mdocs(paths) -> tuple[Mdoc, list[str]]:
    """One series from one or several mdocs (a series in parts, one mdoc per movie, a later "_override" mdoc).

    Sections are joined by the name of their movie; where two mdocs describe one movie the later file of ``paths`` wins.
    Returns the joined mdoc (header and titles of the first that has them) and warnings. Raises as :func:`read_mdoc`.
    """
    mdocs = [read_mdoc(path) for path in paths]
    if len(mdocs) == 1:
        return mdocs[0], []
    joined, by_movie, warnings = Mdoc(mdocs[0].path, mdocs[0].header, mdocs[0].titles, []), {}, []
    for mdoc in mdocs:
        joined.titles = joined.titles or mdoc.titles
        joined.header.values = {**mdoc.header.values, **joined.header.values}
        for section in mdoc.images:
            name = section.movie_name or f"{mdoc.path}[{section.index}]"
            if name in by_movie:
                warnings.append(f"{name} is described twice: {os.path.basename(mdoc.path)} was used")
            by_movie[name] = section
    joined.sections = list(by_movie.values())
    return joined, warnings


def read_mdoc(path: str | os.PathLike) -> Mdoc:
    """Read an mdoc. Raises UserInputError E-FILE-01 (absent), E-MDOC-04 (no image sections), E-MDOC-10."""
    where = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserInputError("E-FILE-01", "no such file", file=where, fix="check data.mdoc in the config") from error
    mdoc = parse_mdoc(_decode(data), where)
    if not mdoc.images:
        kinds = sorted({s.kind for s in mdoc.sections})
        raise UserInputError(
            "E-MDOC-04", "this mdoc describes no images of a tilt series", file=where, field="[ZValue = n]",
            found=", ".join(kinds) or "no sections", expected="one section per tilt image",
            fix="give the mdoc of the tilt series, not that of a map or of a single movie",
        )
    return mdoc
