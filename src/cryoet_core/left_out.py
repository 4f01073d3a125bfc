"""Tilt series that a run goes on without, and how their files say so.

A job of one series whose data are of no use writes a note instead of every output: what is wrong and which step found it. Jobs of that series pass
the note on, jobs of the whole run go without the series. So every rule finds the files that it expects, a bad series costs only itself, and
whatever mends it (an edit, other files) reruns the step that refused it, as it would for any series.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cryoet_core.errors import CryoetError, DataQualityError, ResourceError
from cryoet_core.io.atomic import write_text
from cryoet_core.io.summary import read_summary

MARK = '{"left_out": {'  # how a note begins; no format of the outputs does
_IN_FOLDER = "left_out.json"


@dataclass(frozen=True)
class LeftOut:
    """series : its name. step : that refused it. message : what is wrong, in a few words. reason : the whole error, with its fix."""

    series: str
    step: str
    message: str
    reason: str

    @property
    def short(self) -> str:
        """For a list: "TS_07 (no Thon rings)"."""
        return f"{self.series} ({self.message})"


def costs_only_its_series(error: CryoetError) -> bool:
    """Whether an error in a job of one series says something about that series' data: not about the config, files that cannot be reached, the memory."""
    return not isinstance(error, ResourceError) and not error.code.startswith(("E-CFG", "E-FILE"))


def write_notes(outputs: Iterable[str], note: LeftOut) -> None:
    """Put the note in place of every output of a job; a name without an ending is a folder."""
    text = MARK + json.dumps(asdict(note))[1:] + "}\n"
    for output in map(Path, outputs):
        if output.suffix:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_text(output, text)
        else:
            output.mkdir(parents=True, exist_ok=True)
            write_text(output / _IN_FOLDER, text)


def read_note(path) -> LeftOut | None:
    """The note that a file or folder holds instead of a result; None for a result."""
    path = Path(path)
    if path.is_dir():
        path /= _IN_FOLDER
    try:
        with open(path, "rb") as stream:
            if stream.read(len(MARK)) != MARK.encode():
                return None
        return LeftOut(**json.loads(path.read_text())["left_out"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def first_note(paths: Iterable[str]) -> LeftOut | None:
    """The first note among some files."""
    return next((note for note in map(read_note, paths) if note), None)


def notes_of(results_dir, series: Iterable[str]) -> list[LeftOut]:
    """Series that a run went on without, and those without a particle. Sorted by name."""
    found = []
    for ts in sorted(series):
        summaries = sorted(Path(results_dir).glob(f"*/{ts}/summary.json"))
        note = first_note(summaries)
        if note is None and _n_picks(Path(results_dir) / "match_template" / ts / "summary.json") == 0:
            note = LeftOut(ts, "match_template", "no particles found", "no particles were found in its tomogram")
        found += [note] if note else []
    return found


def _n_picks(summary: Path) -> int | None:
    """What a summary of match_template says; None where nobody knows, which must not end a run that is done."""
    try:
        return read_summary(summary).get("n_picks")
    except (OSError, CryoetError, AttributeError):
        return None


def outcome(notes: list[LeftOut], n_series: int, averaged: bool) -> str:
    """The last words of a run with the ``notes`` of :func:`notes_of`: of how many series its averages are (if it made any), and why the others are not in
    them; may be empty."""
    left = f"left out: {', '.join(note.short for note in notes)}" if notes else ""
    if not averaged:
        return left
    return "; ".join(filter(None, [f"averaged {n_series - len(notes)} of {n_series} tilt series", left]))


def check_enough(notes: Iterable[LeftOut], n_series: int, most: float) -> None:
    """Raises DataQualityError E-RUN-01 when more than the share ``most`` of all series (and more than one), or all of them, are left out."""
    notes = list(notes)
    if not notes or (len(notes) < n_series and len(notes) <= max(1, int(most * n_series))):
        return
    named = "; ".join(f"{note.series}: {note.reason}" for note in notes[:3])
    more = f"; and {len(notes) - 3} more" if len(notes) > 3 else ""
    raise DataQualityError(
        "E-RUN-01", "too many tilt series cannot be used", field="max_failed_series",
        found=f"{len(notes)} of {n_series} left out ({named}{more})", expected=f"at most {most:g} of all",
        fix="mend these series, name the others in data.tilt_series, or raise max_failed_series",
    )  # fmt: skip
