"""How long a run still takes: its list of jobs, written when it starts, and what the jobs that ended used.

The jobs are placed one after another on the cores, memory and GPUs of the run, as Snakemake does, each as long as the plan says times what jobs of
its rule took more or less than planned so far.
"""

from __future__ import annotations

import heapq
import json
import os
import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cryoet_core.resources import usage

NAME = "plan.json"
_LOOK_AHEAD = 50  # jobs that do not fit before the search for one that does is given up
_RATIO_RANGE = (0.05, 50.0)  # of measured to planned time; beyond it the plan knows nothing


@dataclass(frozen=True)
class Job:
    """One job of a run. needs : numbers of the jobs that it waits for. seconds : expected wall time."""

    name: str
    threads: int
    mem_mb: int
    gpu: int
    seconds: float
    needs: tuple[int, ...] = ()

    @property
    def rule(self) -> str:
        return self.name.split(" ")[0]


@dataclass(frozen=True)
class Limits:
    """What all jobs share; None: without limit."""

    cores: int | None = None
    mem_mb: int | None = None
    gpu: int | None = None

    def hold(self, used: dict[str, int], job: Job) -> bool:
        """Whether ``job`` fits beside what is used."""
        return all(limit is None or used[name] + need <= limit for (name, limit), need in zip(asdict(self).items(), _needs(job), strict=True))

    def cut(self, job: Job) -> Job:
        """The job as Snakemake runs it: none asks for more than there is."""
        cores, memory, gpus = (need if limit is None else min(need, limit) for limit, need in zip(asdict(self).values(), _needs(job), strict=True))
        return replace(job, threads=cores, mem_mb=memory, gpu=gpus)


def _needs(job: Job) -> tuple[int, int, int]:
    return job.threads, job.mem_mb, job.gpu


@dataclass
class Schedule:
    """Result of :func:`schedule`: seconds until the end, and the most that was in use at once."""

    seconds: float = 0.0
    most: dict[str, int] = field(default_factory=lambda: dict.fromkeys(asdict(Limits()), 0))


def schedule(jobs: list[Job], limits: Limits, running: dict[int, float] | None = None, ended=()) -> Schedule:
    """Run ``jobs`` on paper: every job starts as soon as what it needs has ended and it fits.

    running : job -> seconds since its start; such jobs go on. ended : jobs that are done (or failed: what needs them is left out by the caller).
    """
    jobs = [limits.cut(job) for job in jobs]
    ended, running = set(ended), running or {}
    open_needs = [len(set(job.needs) - ended) for job in jobs]
    followers: dict[int, list[int]] = {}
    for number, job in enumerate(jobs):
        for needed in set(job.needs) - ended:
            followers.setdefault(needed, []).append(number)
    used, result, now, active = dict.fromkeys(asdict(limits), 0), Schedule(), 0.0, []
    ready = [_rank(jobs, n) for n, count in enumerate(open_needs) if count == 0 and n not in ended and n not in running]
    heapq.heapify(ready)

    def start(number, seconds):
        for name, need in zip(used, _needs(jobs[number]), strict=True):
            used[name] += need
            result.most[name] = max(result.most[name], used[name])
        heapq.heappush(active, (now + seconds, number))

    for number in set(running) - ended:
        start(number, max(jobs[number].seconds - running[number], 0.1 * jobs[number].seconds))
    while True:
        misfits = []
        while ready and len(misfits) < _LOOK_AHEAD and (limits.cores is None or used["cores"] < limits.cores):
            rank = heapq.heappop(ready)
            if limits.hold(used, jobs[rank[-1]]):
                start(rank[-1], jobs[rank[-1]].seconds)
            else:
                misfits.append(rank)
        for rank in misfits:
            heapq.heappush(ready, rank)
        if not active:
            return result
        now, number = heapq.heappop(active)
        result.seconds = now
        for name, need in zip(used, _needs(jobs[number]), strict=True):
            used[name] -= need
        for follower in followers.get(number, ()):
            open_needs[follower] -= 1
            if open_needs[follower] == 0 and follower not in running:
                heapq.heappush(ready, _rank(jobs, follower))


def _rank(jobs: list[Job], number: int) -> tuple[int, int]:
    """Jobs of many threads first, as Snakemake fills the cores."""
    return -jobs[number].threads, number


@dataclass(frozen=True)
class RunPlan:
    """The jobs of one run of the workflow. time : when it started, s since 1970."""

    time: float
    limits: Limits
    jobs: list[Job]

    def write(self, folder: Path) -> None:
        """Leave the plan where the jobs find it."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{NAME}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps({"time": self.time, "limits": asdict(self.limits), "jobs": [asdict(job) for job in self.jobs]}))
        temporary.replace(folder / NAME)

    @classmethod
    def read(cls, folder: Path) -> RunPlan | None:
        """The plan of the run that started last; None when there is none that can be read."""
        try:
            found = json.loads((folder / NAME).read_text())
            jobs = [Job(**{**job, "needs": tuple(job["needs"])}) for job in found["jobs"]]
            return cls(float(found["time"]), Limits(**found["limits"]), jobs)
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Progress:
    """done and total jobs of a run, and about how many seconds are left (None: no idea)."""

    done: int
    total: int
    seconds_left: float | None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None or self.done >= self.total else f", about {duration(self.seconds_left)} left"
        return f"{self.done} of {self.total} jobs done{left}"


def progress(plan: RunPlan, events, now: float) -> Progress:
    """How far a run is. events : of usage.read since the plan's time."""
    number = {job.name: i for i, job in enumerate(plan.jobs)}
    last = {event.job: event for event in events if event.job in number}
    ended = {number[job] for job, event in last.items() if event.event == usage.DONE}
    lost = {number[job] for job, event in last.items() if event.event == usage.FAILED}
    while True:  # what needs a failed job does not run
        more = {i for i, job in enumerate(plan.jobs) if lost.intersection(job.needs)} - lost
        if not more:
            break
        lost |= more
    running = {number[job]: now - event.time for job, event in last.items() if event.event == usage.STARTED}
    ratios = _ratios(plan, number, [event for event in last.values() if event.event == usage.DONE])
    jobs = [replace(job, seconds=job.seconds * ratios.get(job.rule, ratios[""])) for job in plan.jobs]
    return Progress(len(ended), len(jobs), schedule(jobs, plan.limits, running, ended | lost).seconds)


def _ratios(plan: RunPlan, number, done) -> dict[str, float]:
    """Measured over planned wall time: by rule, and "" for rules of which nothing has ended: the median of all."""
    by_rule: dict[str, list[tuple[float, float]]] = {}
    for event in done:
        by_rule.setdefault(event.rule, []).append((event.wall_s, plan.jobs[number[event.job]].seconds))
    low, high = _RATIO_RANGE
    ratios = {rule: min(high, max(low, sum(w for w, _ in pairs) / max(1e-3, sum(p for _, p in pairs)))) for rule, pairs in by_rule.items()}
    return {"": statistics.median(ratios.values()) if ratios else 1.0, **ratios}


def duration(seconds: float) -> str:
    """"40 s", "12 min", "2 h 10 min": as exact as such an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s" if seconds < 10 else f"{5 * round(seconds / 5)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(10 * round(minutes / 10), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
