"""A small process beside the main one of a run: when that dies, however it dies, no job lives on and writes.

A parent-death signal alone is not enough: a script can ask for it only once its interpreter runs and has imported
what asks, seconds after it was started, and a shell between it and the main process breaks the chain. All jobs
inherit :data:`MARK` in their environment; the guardian waits for its parent to be gone and ends whoever carries the
mark.

Started by :func:`start`; run as a program: ``python guardian.py <pid of the main process> <token>``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

MARK = "TILTLINE_RUN"
_POLL_S = 0.2  # between looks at the parent
_QUIET_S = 1.5  # a job that was just being started shows its mark no later than this


def start(token: str) -> subprocess.Popen:
    """Start the guardian of this process, in a session of its own: the terminal's Ctrl-C and hang-up do not reach
    it."""
    command = [sys.executable, "-P", __file__, str(os.getpid()), token]  # -P: our io is not the io
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, env=environment, cwd="/"
    )


def marked(token: str) -> list[psutil.Process]:
    """Processes of this user with the run's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # another user's, or gone
    return found


def end_all(token: str) -> int:
    """Kill all processes with the mark, and those that they were just starting -> how many.

    It ends when none was seen for a while.
    """
    ended: set[int] = set()
    quiet_since = time.monotonic()
    while True:
        jobs = marked(token)
        for job in jobs:
            _kill(job)
        ended |= {job.pid for job in jobs}
        now = time.monotonic()
        quiet_since = now if jobs else quiet_since
        if now - quiet_since > _QUIET_S:
            return len(ended)
        time.sleep(_POLL_S / 2)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        pass


def watch(parent: int, token: str) -> None:
    """Wait for the death of ``parent``, then end its jobs."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    end_all(token)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
