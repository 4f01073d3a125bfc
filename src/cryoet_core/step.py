"""The only place that knows a Snakemake job: log, threads, device, seed, progress, use of the machine, readable errors, exit codes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from cryoet_core import backend, parallel
from cryoet_core.config.base import validate
from cryoet_core.config.root import Config
from cryoet_core.errors import LEAST_FREE_BYTES, CryoetError, disk_full, free_bytes, of_os_error
from cryoet_core.io.summary import write_summary
from cryoet_core.left_out import LeftOut, check_enough, costs_only_its_series, first_note, read_note, write_notes
from cryoet_core.progress import Counter, Heartbeat
from cryoet_core.resources import timeline, usage

_PR_SET_PDEATHSIG = 1
_N_SERIES = "TILTLINE_N_SERIES"


def tell_jobs(n_series: int) -> None:
    """Let the jobs that this process starts know how many tilt series the run has: a lone one that fails is the run's failure."""
    os.environ[_N_SERIES] = str(n_series)


def n_series_of_run() -> int:
    """As :func:`tell_jobs` was told; 1 without."""
    return int(os.environ.get(_N_SERIES) or 1)


class Step:
    """One job of the workflow, as its script sees it.

    Attributes
    ----------
    input, output, wildcards : Snakemake's named files and wildcards.
    params : dict of the step's config section. config : dict of the whole config.
    of_series : name of the tilt series that the job works on, None for jobs of the whole run.
    threads : int. device : "cpu" or "cuda:N". log : logging.Logger writing to the rule's log file and to stderr.
    """

    def __init__(self, snakemake, log: logging.Logger):
        self.log = log
        self.name = snakemake.rule
        self.input, self.output = snakemake.input, snakemake.output
        self.wildcards = snakemake.wildcards
        self.params = dict(snakemake.params.get("config", {}))
        self.seed = snakemake.params.get("seed", 0)
        self.config = snakemake.config
        self.of_series = None if self.name == "simulate" else getattr(snakemake.wildcards, "ts", None)
        self.threads = snakemake.threads
        self.device = "cpu"
        self._counters: dict[str, Counter] = {}

    def usable(self, paths) -> list[str]:
        """Of one file per tilt series, those of the series that the run goes on with. Raises DataQualityError E-RUN-01 where too many are left out."""
        notes = {path: note for path in paths if (note := read_note(path))}
        check_enough(notes.values(), len(paths), float(self.config.get("max_failed_series", Config.model_fields["max_failed_series"].default)))
        return [path for path in paths if path not in notes]

    def model(self, section):
        """The step's section as its pydantic model."""
        return validate(section, self.params)

    def rng(self, *identity) -> np.random.Generator:
        """Random numbers that depend on the run's seed, the step and ``identity`` (names), never on order or threads."""
        text = "/".join([self.name, *map(str, identity)])
        digest = hashlib.sha256(text.encode()).digest()
        return np.random.default_rng([int(self.seed), int.from_bytes(digest[:8], "little")])

    def to_device(self, array):
        """Move an array to the job's device."""
        return backend.to_device(array, self.device)

    def progress(self, items, total: int | None = None, what: str = "items"):
        """Iterate over ``items`` and log how far it is and how long it still takes, at most every five seconds."""
        total = len(items) if total is None else total
        count = Counter(self.log, what)
        for done, item in enumerate(items, 1):
            yield item
            count(done, total)

    def report(self, done: int, total: int, what: str = "items") -> None:
        """Callback form of :meth:`progress` for library functions that loop themselves, in any thread."""
        if what not in self._counters:
            self._counters[what] = Counter(self.log, what, first=None)
        self._counters[what](done, total)

    def write_summary(self, values: dict) -> None:
        """Write the step's numbers to ``output.summary``."""
        write_summary(self.output.summary, values)


def _die_with_parent() -> None:
    """A killed Snakemake must not leave writing children behind (Linux only; guardian.py ends those that are not here
    yet)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # gone before the signal was asked for
            os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _claimed_device(wanted: str, uses_gpu: bool):
    """Resolve the device; "auto" and "cuda" take the first GPU that no other job holds, and make it this process's."""
    device = backend.resolve_device(wanted) if uses_gpu else "cpu"
    if device == "cpu" or wanted not in ("auto", "cuda"):
        yield backend.use_device(device)
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-")
    for index in range(backend.n_gpus()):
        with open(Path(tempfile.gettempdir()) / f"tiltline-gpu-{visible}-{index}.lock", "w") as lock:
            if _locked(lock):
                yield backend.use_device(f"cuda:{index}")
                return
    yield backend.use_device(device)


def _locked(file) -> bool:
    """Take the file's lock, which ends with the process; False when another job holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _LogFile(logging.FileHandler):
    """The rule's log file. ``error``: what the system refused first; the step ends with it, not with a traceback per
    line."""

    error: OSError | None = None

    def handleError(self, record) -> None:
        problem = sys.exc_info()[1]
        if isinstance(problem, OSError):
            self.error = self.error or problem
        else:
            super().handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError as problem:  # what was not written yet
            self.error = self.error or problem


def _logger(snakemake) -> logging.Logger:
    """The library's logger, to the screen; :func:`_log_to_file` adds the rule's file."""
    log = logging.getLogger("cryoet_core")
    log.setLevel(logging.INFO)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    _add(log, logging.StreamHandler(sys.stderr), snakemake)
    return log


def _log_to_file(log: logging.Logger, snakemake) -> _LogFile | None:
    if not snakemake.log:
        return None
    Path(snakemake.log[0]).parent.mkdir(parents=True, exist_ok=True)
    file = _LogFile(snakemake.log[0], mode="w")
    _add(log, file, snakemake)
    return file


def _add(log, handler, snakemake) -> None:
    handler.setFormatter(logging.Formatter(f"[{usage.job_name(snakemake.rule, snakemake.wildcards)}] %(message)s"))
    log.addHandler(handler)


def _check_room(snakemake) -> None:
    """Free space where the step writes: its outputs (``writes_mb`` of the rule's resources) and Snakemake's own
    records.

    Raises ResourceError E-DISK-02 before anything is computed.
    """
    needed = max(LEAST_FREE_BYTES, 1e6 * float(snakemake.resources.get("writes_mb", 0) or 0))
    places = {str(Path(path).absolute().parent): needed for path in snakemake.output or ()}
    for place, n_bytes in {".snakemake": LEAST_FREE_BYTES, **places}.items():
        free = free_bytes(place)
        if free is not None and free < n_bytes:
            raise disk_full(place, n_bytes)


class _Account:
    """What this job may use and has used: told in its log, and noted for the run's estimate of the time left."""

    def __init__(self, snakemake, log: logging.Logger):
        self.job, self.log, self.threads = usage.job_name(snakemake.rule, snakemake.wildcards), log, int(snakemake.threads)
        self.planned_mb = float(snakemake.resources.get("mem_mb", 0) or 0)
        self.meter = usage.Meter()
        logs = [folder for path in snakemake.log for folder in Path(path).parents if folder.name == "logs"]
        self.folder = logs[-1] if logs else None
        plan = timeline.RunPlan.read(self.folder) if self.folder else None
        self.plan = plan if plan and any(job.name == self.job for job in plan.jobs) else None  # another run's plan says nothing about this job

    def note(self, event: str) -> None:
        """Note the start or the end of the job, and say both how it went and how far the run is."""
        meter, now = self.meter, time.time()
        used = (0.0,) * 4 if event == usage.STARTED else (meter.wall_s, meter.cpu_s, meter.main_s, meter.peak_mb)
        if self.folder:
            usage.append(self.folder, usage.Event(event, self.job, now, self.threads, *used, self.planned_mb))
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        planned = f"{self.planned_mb:.0f} MB planned" if self.planned_mb else "no memory planned"
        if event == usage.STARTED:
            text = f"{threads}, {planned}"
        else:
            wall, cpu, _, peak = used
            text = f"{event} in {timeline.duration(wall)}: {cpu:.1f} s of CPU time on {threads}, peak memory {peak:.0f} MB ({planned})"
        if self.plan:
            text += f"; {timeline.progress(self.plan, usage.read(self.folder, self.plan.time), now)}"
        self.log.info("%s", text)


@contextlib.contextmanager
def step(snakemake):
    """Run the body of a script as one step; a CryoetError ends it with its sentence and exit code, not a traceback."""
    _die_with_parent()
    log = _logger(snakemake)
    job = Step(snakemake, log)
    wanted = str(job.config.get("device", "auto"))
    uses_gpu = int(snakemake.resources.get("gpu", 0) or 0) > 0
    account = _Account(snakemake, log)
    event = usage.FAILED
    try:
        log_file = _log_to_file(log, snakemake)
        account.note(usage.STARTED)
        _check_room(snakemake)
        if job.of_series and (note := first_note(snakemake.input or ())):
            log.warning("left out since %s: %s", note.step, note.reason)
            write_notes(snakemake.output, note)
            event = usage.DONE
            sys.exit(0)
        with Heartbeat(log), parallel.limited(job.threads), _claimed_device(wanted, uses_gpu) as device:
            job.device = device
            yield job
        if log_file and log_file.error:
            raise of_os_error(log_file.error, snakemake.log[0])
        event = usage.DONE
    except CryoetError as error:
        log.error("%s", error)
        if not (job.of_series and n_series_of_run() > 1 and costs_only_its_series(error)):
            sys.exit(error.exit_code)
        log.error("%s is left out; the run goes on with the other tilt series", job.of_series)
        write_notes(snakemake.output, LeftOut(job.of_series, job.name, error.message, str(error)))
        event = usage.DONE
    except OSError as error:
        fault = of_os_error(error)
        log.error("%s", fault)
        sys.exit(fault.exit_code)
    except MemoryError as error:
        log.error("E-MEM-01: out of memory: %s. Fix: fewer parallel jobs, or a larger binning.", error)
        sys.exit(3)
    except Exception:
        log.error("E-BUG: this is a bug in tiltline; please report it with this log.\n%s", traceback.format_exc())
        sys.exit(1)
    finally:
        account.note(event)
