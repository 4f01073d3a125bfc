"""What this machine lends to a run: memory and GPUs. (Its cores are Snakemake's --cores.)"""

from __future__ import annotations

import os
from pathlib import Path

from cryoet_core import backend

_RESERVE_MB, _RESERVE_SHARE = 1000, 0.05  # for the system, Snakemake itself, and the cache of files


def memory_mb(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory of this machine in MB, or the limit of the container or batch job that this process is in, if that is less."""
    limits = [n for n in (_physical_bytes(proc), *_group_limits(proc, cgroups)) if n]
    return int(min(limits) / 1e6) if limits else 4000


def memory_for_jobs_mb(total_mb: int | None = None) -> int:
    """What all jobs together may use: the machine's memory without a reserve."""
    total = memory_mb() if total_mb is None else total_mb
    return max(total // 2, int(total - _RESERVE_MB - _RESERVE_SHARE * total))


def _physical_bytes(proc: Path) -> int | None:
    try:
        line = next(line for line in (proc / "meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _group_limits(proc: Path, cgroups: Path) -> list[int]:
    """Memory limits of the control groups of this process, bytes: its own and those around it, version 2 and version 1."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            folder, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [p for p in path.split("/") if p not in ("", "..")]
        for depth in range(len(parts) + 1):
            text = _read(folder.joinpath(*parts[:depth], name))
            if text.isdigit() and int(text) < 1 << 60:  # "max", or version 1's largest number: no limit
                limits.append(int(text))
    return limits


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def n_gpus(device: str) -> int:
    """GPUs that a run with the config's ``device`` uses: all that are seen, one for "cuda:N", none for "cpu".

    At least one where a GPU was asked for by name: the job then says what is wrong with it.
    """
    if device == "cpu":
        return 0
    seen = backend.n_gpus()
    if device == "auto":
        return seen
    return max(1, seen) if device == "cuda" else 1
