"""What jobs used: one line per start and end of a job in ``<results>/logs/jobs.tsv``, and what this process has used so far.

The file is appended to by all jobs, also of several runs; the last lines of a job count. It is no output: a line that is lost, cut or strange
costs a worse estimate, nothing else.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

NAME = "jobs.tsv"
STARTED, DONE, FAILED = "started", "done", "failed"
_KINDS = (str, str, float, int, float, float, float, float, float)  # of the fields of Event


@dataclass(frozen=True)
class Event:
    """job : rule and wildcards, as in the log. time : s since 1970. wall_s, cpu_s, main_s (CPU time of the main thread: what other threads do not
    share), peak_mb : used, 0 at the start. planned_mb : asked for."""

    event: str
    job: str
    time: float
    threads: int
    wall_s: float
    cpu_s: float
    main_s: float
    peak_mb: float
    planned_mb: float

    @property
    def rule(self) -> str:
        return self.job.split(" ")[0]


def job_name(rule: str, wildcards) -> str:
    """"refine bin4": how logs and this file call a job."""
    return " ".join([rule, *map(str, wildcards)])


def append(folder: Path, event: Event) -> None:
    """Add one line. Folders that cannot be written are not an error."""
    numbers = (event.wall_s, event.cpu_s, event.main_s, event.peak_mb, event.planned_mb)
    fields = [event.event, event.job, f"{event.time:.1f}", str(event.threads), *(f"{number:.1f}" for number in numbers)]
    try:
        with open(folder / NAME, "ab") as file:  # one write at the end of the file: lines of other jobs stay whole
            file.write(("\t".join(fields) + "\n").encode())
    except OSError:
        pass


def read(folder: Path, since: float = 0.0) -> list[Event]:
    """Events at or after ``since`` in the order of the file; lines that are not whole are left out."""
    try:
        lines = (folder / NAME).read_text(errors="replace").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        fields = line.split("\t")
        try:
            events.append(Event(*(kind(field) for kind, field in zip(_KINDS, fields, strict=True))))
        except ValueError:
            continue
    return [event for event in events if event.time >= since]


def last_of_jobs(events, kind: str = DONE) -> dict[str, Event]:
    """job -> its last event, of the jobs whose last event is of ``kind``."""
    last = {event.job: event for event in events}
    return {job: event for job, event in last.items() if event.event == kind}


class Meter:
    """Wall time, CPU time and peak memory of this process since it was started (the imports before are counted as CPU time)."""

    def __init__(self):
        self._start, self._before = time.monotonic(), time.process_time()

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self._start + self._before

    @property
    def cpu_s(self) -> float:
        children = os.times()
        return time.process_time() + children.children_user + children.children_system

    @property
    def main_s(self) -> float:
        return time.thread_time()

    @property
    def peak_mb(self) -> float:
        return peak_mb()


def peak_mb() -> float:
    """Largest resident memory of this process so far, MB. (Linux's own figure of ru_maxrss would include that of the parent before exec.)"""
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration, ValueError):
        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found / 1e6 if sys.platform == "darwin" else found * 1024 / 1e6
