"""What a finished page no longer shows: which steps have been done again since, and which results are gone.

Snakemake makes the page last. Where a step before it fails, or a run is stopped, the old page stays, with pictures of
results that are no longer there. It then says so itself, at its top.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable
from pathlib import Path

_BEGIN, _END = "<!-- out of date -->", "<!-- end -->"
_TOLERANCE_S = 0.01  # of the times of files


def out_of_date(page: str | os.PathLike, inputs: Iterable[str], results_dir: str) -> tuple[list[str], list[str]]:
    """(newer, missing): steps of which a file in ``inputs`` is newer than the page, or not there. Empty lists where
    there is no page.

    A step is named by the first folders of its files below ``results_dir``: "refine bin4".
    """
    page = Path(page)
    if not page.exists():
        return [], []
    made, newer, missing = page.stat().st_mtime, set(), set()
    for path in map(Path, inputs):
        if not path.exists():
            missing.add(_step_of(path, results_dir))
        elif path.stat().st_mtime > made + _TOLERANCE_S:
            newer.add(_step_of(path, results_dir))
    return sorted(newer - missing), sorted(missing)


def _step_of(path: Path, results_dir: str) -> str:
    parts = path.relative_to(results_dir).parts if path.is_relative_to(results_dir) else path.parts
    return " ".join(parts[: 2 if len(parts) > 2 else 1])


def mark(page: str | os.PathLike, newer: list[str], missing: list[str]) -> bool:
    """Say at the top of the page that it is out of date, or remove that where nothing is -> whether it is.

    The page keeps its time, so that it stays as old as it is for Snakemake.
    """
    page = Path(page)
    if not page.exists():
        return False
    from cryoet_core.io.atomic import write_text

    old, facts = page.read_text(encoding="utf-8"), page.stat()
    text = re.sub(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", "", old, flags=re.S)
    said = [f"newer than this page: {', '.join(newer)}"] * bool(newer)
    said += [f"missing or being made again: {', '.join(missing)}"] * bool(missing)
    if said:
        note = html.escape(f"This page is out of date ({'; '.join(said)}). Run the same command again to finish it.")
        text = text.replace("<body>", f'<body>{_BEGIN}<p class="note"><b>{note}</b></p>{_END}', 1)
    if text != old:
        write_text(page, text)
        os.utime(page, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return bool(said)
