"""Threads and memory of every job, from the table of costs, the sizes of the data, and what the run has.

A rule asks for the number of threads with which all its jobs are done soonest: many jobs of one thread where there are many tilt series, all
cores for a long job that is alone. Threads never change a result.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from cryoet_core.resources.costs import COSTS, SAFETY, Cost, disk_mb
from cryoet_core.resources.sizes import DataSizes

WORTH = 0.1  # fewer threads are taken when they cost at most this share of the time
EFFICIENT = 0.5  # share of a cluster job's threads that must be worth their core
GPU_THREADS = 4  # a job on a GPU reads and writes on the CPU (assumed)
_ROUND_MB = 10


def best_threads(cost: Cost, n_jobs: int, cores: int, memory_mb, sizes: Mapping[str, float]) -> int:
    """Threads for each of ``n_jobs`` equal jobs so that they are done soonest on ``cores`` and ``memory_mb`` (None: without limit).

    Of numbers that are about as good the smallest, except for a long job that is alone: no one else needs those cores.
    """
    times = {}
    for threads in range(1, max(1, min(cores, cost.most)) + 1):
        at_once = max(1, cores // threads)
        if memory_mb:
            need = planned_mb(cost, sizes, threads)
            if need > memory_mb and times:
                break  # too large for this machine: fewer threads need less
            at_once = max(1, min(at_once, int(memory_mb // need)))
        times[threads] = math.ceil(n_jobs / at_once) / cost.speed_up(threads)
    best = min(times.values())
    worth = 0.0 if cost.alone and n_jobs == 1 else WORTH
    return next(threads for threads, time in times.items() if time <= best * (1 + worth) + 1e-12)


def efficient_threads(cost: Cost, cores: int) -> int:
    """The most threads of which at least half work: for a cluster, where what one job does not use another could."""
    return max(t for t in range(1, max(1, min(cores, cost.most)) + 1) if t == 1 or cost.speed_up(t) > EFFICIENT * t)


def planned_mb(cost: Cost, sizes: Mapping[str, float], threads: int) -> int:
    """Memory that a job asks for."""
    return _ROUND_MB * math.ceil(SAFETY * cost.memory_mb(sizes, threads) / _ROUND_MB)


class ResourcePlan:
    """What the rules ask for: :meth:`threads` and :meth:`resources` of every step.

    run : a workflow.Run. cores : that all jobs share ("machine"), that one job may have ("cluster"), or that this one job was given ("node": a
    cluster's job, which reads the rules again). memory_mb : of all jobs together, None without a limit. n_gpus : of this machine.
    """

    def __init__(self, run, cores: int, memory_mb: int | None = None, n_gpus: int = 0, where: str = "machine"):
        self.run, self.sizes = run, DataSizes(run)
        self.cores, self.memory_mb, self.n_gpus, self.where = cores, memory_mb, n_gpus, where
        self.costs = COSTS
        self._warned: set[str] = set()

    # ---- for the rules ---------------------------------------------------------------------------------------------------

    def threads(self, step: str):
        """The rule's ``threads``: a function of the wildcards."""
        return lambda wildcards: self.threads_of(step, wildcards)

    def resources(self, step: str, runtime: int) -> dict:
        """The rule's ``resources``: gpu, mem_mb (a function; doubled at every retry), runtime in minutes, writes_mb
        (free space that it begins with)."""

        def mem_mb(wildcards, threads, attempt):
            return self.memory_of(step, wildcards, threads) * 2 ** (attempt - 1)

        def writes_mb(wildcards):
            return math.ceil(disk_mb(step, self.sizes_of(step, wildcards)))

        return {"gpu": self.run.step_gpu(step), "mem_mb": mem_mb, "runtime": runtime, "writes_mb": writes_mb}

    # ---- numbers ---------------------------------------------------------------------------------------------------------

    def sizes_of(self, step: str, wildcards) -> dict[str, float]:
        """What the step's row of the table counts in."""
        of = COSTS[step].of
        if of == "series":
            return self.sizes.of_series(_get(wildcards, "ts"))
        return self.sizes.of_round(_get(wildcards, "round")) if of == "round" else self.sizes.of_run()

    def threads_of(self, step: str, wildcards=None) -> int:
        """Threads of one job; at most the table's ``most`` and the run's cores."""
        cost = COSTS[step]
        if self.where == "node":
            return max(1, min(self.cores, cost.most))
        if self.run.step_gpu(step):
            return max(1, min(GPU_THREADS, self.cores // max(1, self.n_gpus)))
        if self.where == "cluster":
            return efficient_threads(cost, self.cores)
        n_jobs = len(self.run.tilt_series) if cost.of == "series" else 1
        return best_threads(cost, n_jobs, self.cores, self.memory_mb, self.sizes_of(step, wildcards))

    def memory_of(self, step: str, wildcards=None, threads: int = 1) -> int:
        """MB that one job asks for, with a warning to stderr when the machine has less."""
        need = planned_mb(COSTS[step], self.sizes_of(step, wildcards), threads)
        if self.memory_mb and need > self.memory_mb and step not in self._warned:
            self._warned.add(step)
            print(
                f"warning: {step} is expected to need {need / 1000:.1f} GB, this run has {self.memory_mb / 1000:.1f} GB for its jobs. It will run with nothing "
                "beside it and may be stopped by the system. Fix: a larger binning or a smaller tomogram, a machine with more memory, or, if this one has "
                "more, --resources mem_mb=...", file=sys.stderr,
            )  # fmt: skip
        return need

    def seconds_of(self, step: str, wildcards=None, threads: int = 1) -> float:
        """Expected wall time of one job."""
        cost = COSTS[step]
        work = cost.cpu_seconds(self.sizes_of(step, wildcards)) - cost.start_s
        return cost.start_s + work / cost.speed_up(threads)


def _get(wildcards, name: str) -> str:
    return wildcards[name] if isinstance(wildcards, Mapping) else getattr(wildcards, name)
