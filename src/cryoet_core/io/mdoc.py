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

_IMAGE_KINDS = ("ZValue", "FrameSet")
_OTHER_KINDS = ("MontSection",)
_LARGEST_FILE = 1 << 26  # bytes; an mdoc of 100 views has some 100 kB
# A key that only an image has: where it stands in front of the first section, that section has lost its first line.
_OWN_KEY = "tiltangle"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\Z")
_MONTHS = {m: i for i, m in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), start=1)}
_DATE = re.compile(
    r"(\d{1,2})[-. ]([A-Za-z]{3})[a-z]{0,9}[-. ](\d{4}|\d{2})\s{1,9}(\d{1,2}):(\d{2}):(\d{2})\s{0,3}([AaPp][Mm])?"
)
_ISO_DATE = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})[T ]{1,9}(\d{1,2}):(\d{2}):(\d{2})(?:\.\d{1,9})?\s{0,3}([AaPp][Mm])?"
)


def _normal(key: str) -> str:
    return key.replace("_", "").replace(" ", "").lower()


@dataclass
class MdocSection:
    """Keys of one section; names are compared without case and underscores.

    part: which file of a series in several mdocs (from 0). fault: why the section cannot be trusted, "" where it can.
    """

    kind: str
    index: int
    path: str
    values: dict[str, str] = field(default_factory=dict)
    part: int = 0
    fault: str = ""

    def text(self, *names: str) -> str | None:
        """Value of the first of `names` that is present and not empty."""
        for name in names:
            value = self.values.get(_normal(name), "").strip()
            if value:
                return value
        return None

    def discard(self, name: str) -> None:
        """Forget what the section says about ``name``."""
        self.values.pop(_normal(name), None)

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
    def title(self) -> str:
        """The section's first line, for messages."""
        return f"[{self.kind} = {self.index}]"

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
    """A parsed mdoc: global keys, titles, the sections in the order of the file, and what was mended in it."""

    path: str
    header: MdocSection
    titles: list[str]
    sections: list[MdocSection]
    warnings: list[str] = field(default_factory=list)

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
    """ "09-Mar-23  18:05:12" (2 or 4 digits for the year, English months whatever the locale, AM and PM) or ISO; else
    None."""
    try:
        if match := _DATE.search(text):
            day, month, year, hour, minute, second, half = match.groups()
            date = (int(year) + (2000 if len(year) == 2 else 0), _MONTHS[month.lower()], int(day))
        elif match := _ISO_DATE.search(text):
            year, month, day, hour, minute, second, half = match.groups()
            date = (int(year), int(month), int(day))
        else:
            return None
        return datetime(*date, _hour_of_day(int(hour), half), int(minute), int(second))
    except (ValueError, KeyError):
        return None


def _hour_of_day(hour: int, half: str | None) -> int:
    """12 AM is 0, 12 PM is 12; without AM or PM the hour as it stands (also 18 PM, which some clocks write)."""
    if half is None or not 1 <= hour <= 12:
        return hour
    return hour % 12 + (12 if half.lower() == "pm" else 0)


def _decode(data: bytes) -> str:
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _logical_lines(text: str) -> list[str]:
    """Lines with wrapped titles joined: "[T = ..." runs on until its "]" or until a line that is a key or section."""
    lines: list[list[str]] = []
    open_title = False
    for raw in re.split(r"\r\n|\n|\r", text):
        line = raw.strip()
        if not line:
            continue
        starts_anew = line.startswith("[") or re.match(r"[A-Za-z]\w*\s*=", line)
        if open_title and not starts_anew:
            lines[-1].append(line)
        else:
            lines.append([line])
        open_title = lines[-1][0].startswith("[") and not line.endswith("]")
    return [" ".join(parts) for parts in lines]


def _bracketed(line: str) -> tuple[str, str] | None:
    """("ZValue", "3") of "[ZValue = 3]", whose bracket may be missing at the end; None for another line. Linear in
    the line."""
    if not line.startswith("["):
        return None
    name, equals, value = line[1:].partition("=")
    name = name.strip()
    if not equals or not (name.isascii() and name.isalpha()):
        return None
    return name, value.strip().removesuffix("]").strip()


def parse_mdoc(text: str, path: str = "") -> Mdoc:
    """Parse the text of an mdoc. Sections whose number cannot be read are kept with their ``fault``.

    Raises UserInputError E-MDOC-10 where half of the sections or more have no number.
    """
    mdoc = Mdoc(path, MdocSection("header", 0, path), [], [])
    current = mdoc.header
    for line in _logical_lines(text):
        section = _bracketed(line)
        if section and section[0] == "T":
            mdoc.titles.append(section[1])
        elif section:
            current = _new_section(*section, path, mdoc.sections)
            mdoc.sections.append(current)
        elif "=" in line:
            key, value = line.split("=", 1)
            if key.strip() == "T":
                mdoc.titles.append(value.strip())
            else:
                current = _section_of(_normal(key.strip()), value.strip(), current, mdoc)
    _rename_unknown(mdoc)
    unnumbered = [section for section in mdoc.sections if section.fault]
    if unnumbered and 2 * len(unnumbered) >= len(mdoc.sections):
        raise UserInputError(
            "E-MDOC-10",
            "section without a number",
            file=path,
            field=f"[{unnumbered[0].kind}]",
            found=unnumbered[0].fault,
            expected="a whole number",
            fix="the file is cut or damaged: copy it again",
        )
    _find_lost_first(mdoc)
    return mdoc


def _section_of(key: str, value: str, current: MdocSection, mdoc: Mdoc) -> MdocSection:
    """Note a key in the section it belongs to, and return that: a second, different angle begins an image whose own
    line is lost."""
    known = current.values.get(key, value)
    if key == _OWN_KEY and known != value and current.kind in _IMAGE_KINDS:
        found = MdocSection(current.kind, current.index + 1, mdoc.path)
        if next(iter(current.values)) != _OWN_KEY:  # then keys of the second image stand among those of the first
            current.fault = found.fault = "the line between two images is lost, and their keys are mixed"
        mdoc.warnings.append(
            f"{mdoc.path}: the line {found.title} is missing: a second TiltAngle was taken as its beginning"
        )
        mdoc.sections.append(found)
        current = found
    current.values[key] = value
    return current


def _new_section(kind: str, number: str, path: str, before: list[MdocSection]) -> MdocSection:
    """A section; one without a readable number is taken as the next after those ``before``, with its fault."""
    if re.match(r"-?[0-9]{1,9}\Z", number):
        return MdocSection(kind, int(number), path)
    index = before[-1].index + 1 if before else 0
    return MdocSection(kind, index, path, fault=f"number {number[:40]!r}")


def _rename_unknown(mdoc: Mdoc) -> None:
    """A section of no known kind that has an angle, among images, is an image whose first line is damaged: it gets a
    fault."""
    kinds = {section.kind for section in mdoc.images}
    for at, section in enumerate(mdoc.sections):
        if kinds and section.kind not in (*_IMAGE_KINDS, *_OTHER_KINDS) and _OWN_KEY in section.values:
            section.fault = f"it begins with {section.title}"
            section.kind, section.index = kinds.copy().pop(), mdoc.sections[at - 1].index + 1 if at else 0


def _find_lost_first(mdoc: Mdoc) -> None:
    """Keys of an image in front of the first section are those of an image whose "[ZValue = n]" line is lost: give it
    one."""
    images = mdoc.images
    if not images or _OWN_KEY not in mdoc.header.values:
        return
    first = images[0]
    if _OWN_KEY not in first.values or not mdoc.header.text(
        "SubFramePath", "DateTime", "ExposureDose", "PriorRecordDose"
    ):
        return  # a writer that gives an angle of the whole file
    section = MdocSection(first.kind, first.index - 1, mdoc.path, dict(mdoc.header.values))
    for key in section.values.keys() & first.values.keys() - {"pixelspacing", "voltage"}:
        del mdoc.header.values[key]
    mdoc.sections.insert(mdoc.sections.index(first), section)
    mdoc.warnings.append(
        f"{mdoc.path}: the line {section.title} is missing in front of the first image's keys: they "
        f"were taken as that section"
    )


def read_mdocs(paths) -> tuple[Mdoc, list[str]]:
    """One series from one or several mdocs (a series in parts, one mdoc per movie, a later "_override" mdoc).

    Sections are joined by the name of their movie; where two mdocs describe one movie the later file of ``paths`` wins.
    Returns the joined mdoc (header and titles of the first that has them) and warnings. Raises as :func:`read_mdoc`.
    """
    mdocs = [read_mdoc(path) for path in paths]
    if len(mdocs) == 1:
        return mdocs[0], list(mdocs[0].warnings)
    joined, by_movie, warnings = Mdoc(mdocs[0].path, mdocs[0].header, mdocs[0].titles, []), {}, []
    for part, mdoc in enumerate(mdocs):
        warnings += mdoc.warnings
        joined.titles = joined.titles or mdoc.titles
        joined.header.values = {**mdoc.header.values, **joined.header.values}
        for section in mdoc.images:
            section.part = part
            name = section.movie_name or f"{mdoc.path}[{section.index}]"
            if name in by_movie:
                warnings.append(f"{name} is described twice: {os.path.basename(mdoc.path)} was used")
            by_movie[name] = section
    joined.sections = list(by_movie.values())
    return joined, warnings


def read_mdoc(path: str | os.PathLike) -> Mdoc:
    """Read an mdoc. Raises UserInputError E-FILE-01 (absent), E-MDOC-04 (no image sections, or far too large),
    E-MDOC-10."""
    where = os.fspath(path)
    try:
        if Path(path).stat().st_size > _LARGEST_FILE:
            raise UserInputError(
                "E-MDOC-04",
                "this file is too large for an mdoc",
                file=where,
                found=f"{Path(path).stat().st_size} bytes",
                expected=f"at most {_LARGEST_FILE} bytes of text",
                fix="check data.mdoc in the config",
            )
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
