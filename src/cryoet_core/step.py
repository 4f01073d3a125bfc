"""The only place that knows a Snakemake job: log, threads, device, seed, progress, readable errors, exit codes."""

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

from cryoet_core import backend
from cryoet_core.config.base import validate
from cryoet_core.errors import CryoetError
from cryoet_core.io.summary import write_summary

_PR_SET_PDEATHSIG = 1


class Step:
    """One job of the workflow, as its script sees it.

    Attributes
    ----------
    input, output, wildcards : Snakemake's named files and wildcards.
    params : dict of the step's config section. config : dict of the whole config.
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
        self.threads = snakemake.threads
        self.device = "cpu"

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
        """Iterate over ``items`` and log how far it is, at most every five seconds."""
        total = len(items) if total is None else total
        start = last = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - last > 5 or done == total:
                last = now
                self.log.info("%d of %d %s, %.0f s", done, total, what, now - start)

    def report(self, done: int, total: int, what: str = "items") -> None:
        """Callback form of :meth:`progress` for library functions that loop themselves."""
        if done == total or done % max(1, total // 10) == 0:
            self.log.info("%d of %d %s", done, total, what)

    def write_summary(self, values: dict) -> None:
        """Write the step's numbers to ``output.summary``."""
        write_summary(self.output.summary, values)


def _die_with_parent() -> None:
    """A killed Snakemake must not leave writing children behind (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_threads(threads: int):
    from threadpoolctl import threadpool_limits

    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))
    return threadpool_limits(threads)


@contextlib.contextmanager
def _claimed_device(wanted: str, uses_gpu: bool):
    """Resolve the device; "auto" and "cuda" take the first GPU that no other job holds."""
    device = backend.resolve_device(wanted) if uses_gpu else "cpu"
    if device == "cpu" or wanted not in ("auto", "cuda"):
        yield device
        return
    import cupy

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-")
    for index in range(cupy.cuda.runtime.getDeviceCount()):
        with open(Path(tempfile.gettempdir()) / f"tiltline-gpu-{visible}-{index}.lock", "w") as lock:
            if _locked(lock):
                yield f"cuda:{index}"
                return
    yield device


def _locked(file) -> bool:
    """Take the file's lock, which ends with the process; False when another job holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _logger(snakemake) -> logging.Logger:
    log = logging.getLogger("cryoet_core")
    log.setLevel(logging.INFO)
    log.handlers.clear()
    label = " ".join([snakemake.rule, *map(str, snakemake.wildcards)])
    handlers = [logging.StreamHandler(sys.stderr)]
    if snakemake.log:
        Path(snakemake.log[0]).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(snakemake.log[0], mode="w"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"[{label}] %(message)s"))
        log.addHandler(handler)
    return log


@contextlib.contextmanager
def step(snakemake):
    """Run the body of a script as one step; a CryoetError ends it with its sentence and exit code, not a traceback."""
    _die_with_parent()
    log = _logger(snakemake)
    job = Step(snakemake, log)
    wanted = str(job.config.get("device", "auto"))
    uses_gpu = int(snakemake.resources.get("gpu", 0) or 0) > 0
    try:
        with _limit_threads(job.threads), _claimed_device(wanted, uses_gpu) as device:
            job.device = device
            yield job
    except CryoetError as error:
        log.error("%s", error)
        sys.exit(error.exit_code)
    except MemoryError as error:
        log.error("E-MEM-01: out of memory: %s. Fix: fewer parallel jobs, or a larger binning.", error)
        sys.exit(3)
    except Exception:
        log.error("E-BUG: this is a bug in tiltline; please report it with this log.\n%s", traceback.format_exc())
        sys.exit(1)
