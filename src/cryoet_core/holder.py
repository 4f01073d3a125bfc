"""Who runs the workflow on a folder of results: one record per run in ``.snakemake/tiltline``, so that a killed run
is told from a living one.

Snakemake's own lock does not say who made it and stays when its maker is killed. A record does: host, process and the
time when that process started (a number of a process is used again, with another start). What a dead run left behind
(locks, temporary files, jobs) is cleared by the next run on the same results; a living one is left alone, and the new
run refuses.
"""

from __future__ import annotations

import atexit
import getpass
import json
import os
import re
import secrets
import shlex
import socket
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cryoet_core import guardian
from cryoet_core.errors import LEAST_FREE_BYTES, ResourceError, disk_full, free_bytes, of_os_error
from cryoet_core.io.atomic import remove_stale, write_text

SNAKEMAKE = Path(".snakemake")
_START_TOLERANCE_S = (
    3.0  # the system's clock may be set while a process lives; numbers of processes are not used again so soon
)
_LOOKING = {
    "-n",
    "--dry-run",
    "--dryrun",
    "--summary",
    "-S",
    "--detailed-summary",
    "-D",
    "--dag",
    "--rulegraph",
    "--filegraph",
    "--d3dag",
    "--lint",
    "--list",
    "-l",
    "--list-rules",
    "--list-target-rules",
    "--lt",
    "--list-changes",
    "--lc",
    "--report",
    "--help",
    "-h",
    "--version",
}


ended_well = threading.Event()  # set by the rules when all jobs are done


@dataclass(frozen=True)
class Holder:
    """One run. started : of the process, s since 1970. results : absolute path. token : in the environment of all its
    jobs."""

    host: str
    pid: int
    started: float
    user: str
    command: str
    results: str
    token: str

    @property
    def file(self) -> Path:
        return SNAKEMAKE / "tiltline" / f"{self.host}-{self.pid}.json"

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.started))
        return f"process {self.pid} of {self.user} on {self.host}, since {since} ({self.command})"

    def is_alive(self) -> bool:
        """Whether the process is there; of another host nobody knows, so it counts as alive."""
        if self.host != socket.gethostname():
            return True
        try:
            process = psutil.Process(self.pid)
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and abs(process.create_time() - self.started) < _START_TOLERANCE_S
            )
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


def only_looks(arguments: list[str]) -> bool:
    """Whether a Snakemake command with these arguments makes nothing: it needs no lock, and may be given beside a
    running one."""
    return any(a in _LOOKING or re.fullmatch(r"-[a-zA-Z]*n[a-zA-Z]*", a) for a in arguments)


def take(results_dir: str, arguments: list[str], with_guardian: bool = True) -> list[str]:
    """Make this process the one that works on ``results_dir`` -> lines that say what was left of a killed run and
    cleared.

    arguments : of the command, see :func:`only_looks`. with_guardian : jobs are children of this process, and end
    with it.

    Raises ResourceError E-LOCK-01 when a living run works on the same results, E-DISK-02 and the errors of
    errors.of_os_error when the folder of Snakemake's records cannot be written.
    """
    if only_looks(arguments):
        return []
    _check_writable(results_dir)
    if full := _full_folder(results_dir):
        raise disk_full(full, LEAST_FREE_BYTES)
    results, said = str(Path(results_dir).resolve()), []
    others = [holder for holder in _records() if holder.pid != os.getpid() or holder.host != socket.gethostname()]
    if "--unlock" in arguments:  # the user's word counts, also for another host
        for holder in others:
            holder.file.unlink(missing_ok=True)
        return []
    alive = [holder for holder in others if holder.is_alive()]
    for holder in alive:
        if holder.results == results and "--nolock" not in arguments:
            raise ResourceError(
                "E-LOCK-01",
                "another run works on these results",
                file=results_dir,
                found=str(holder),
                expected="one run at a time",
                fix=f"wait for it, or end it (kill {holder.pid}); if that machine is gone, say so once with --unlock. "
                "Another results_dir can run beside it",
            )
    for holder in others:
        if holder not in alive and (holder.results == results or not alive):
            said.append(_clear(holder, others_alive=bool(alive)))
    _hold(results, with_guardian)
    return said


def _records() -> list[Holder]:
    found = []
    for path in sorted((SNAKEMAKE / "tiltline").glob("*.json")):
        try:
            found.append(Holder(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue  # not one of ours, or gone since
    return found


def _clear(dead: Holder, others_alive: bool) -> str:
    """Remove what a killed run left; its record goes last, so that a run killed here leaves the rest to the next
    one."""
    jobs = guardian.end_all(dead.token)
    for lock in (SNAKEMAKE / "locks").glob("*.lock"):
        if not others_alive or _names_file_in(lock, dead.results):
            lock.unlink(missing_ok=True)
    files = remove_stale(dead.results)
    if not others_alive:
        for script in (SNAKEMAKE / "scripts").glob("tmp*"):
            script.unlink(missing_ok=True)
    dead.file.unlink(missing_ok=True)
    return (
        f"An earlier run was killed: {dead}. Its lock is removed, with {files} unfinished files and {jobs} jobs; "
        "this run goes on from there."
    )


def _names_file_in(lock: Path, results: str) -> bool:
    return any(
        Path(line).resolve().is_relative_to(results) for line in lock.read_text(errors="replace").splitlines()[:1]
    )


def _hold(results: str, with_guardian: bool) -> None:
    me = Holder(
        socket.gethostname(),
        os.getpid(),
        psutil.Process().create_time(),
        _user(),
        shlex.join(sys.argv)[:300],
        results,
        secrets.token_hex(8),
    )
    write_text(me.file, json.dumps(asdict(me), indent=1) + "\n")
    atexit.register(_leave, me)
    os.environ[guardian.MARK] = me.token
    if with_guardian:
        guardian.start(me.token)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without names
        return f"user {os.getuid()}"


def _check_writable(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        error.filename = folder  # not the name of the trial
        raise of_os_error(error, folder) from error


def _leave(me: Holder) -> None:
    """The end of the main process: its record goes. A disk too full for Snakemake's own files ended it in other
    words, or in none."""
    if os.getpid() != me.pid:
        return
    me.file.unlink(missing_ok=True)
    full = None if ended_well.is_set() else _full_folder(me.results)
    if full:
        error = disk_full(full, LEAST_FREE_BYTES)
        print(error, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(error.exit_code)  # nothing else sets the exit code this late


def _full_folder(results: str) -> str | None:
    folders = (str(SNAKEMAKE), results)
    return next((f for f in folders if (free := free_bytes(f)) is not None and free < LEAST_FREE_BYTES), None)
