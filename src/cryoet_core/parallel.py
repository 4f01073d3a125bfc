"""How many CPU threads this process may use, and independent pieces of work on them.

One number for the whole process, set by :func:`limited` (a workflow job sets it to the rule's threads): the CPU kernels, :func:`each` and the FFTs
of the main thread follow it. BLAS has one thread in a job: with more the last bits of a product depend on their number, and on small matrices they only
wait for one another at full load. A thread that works on one of several pieces may use its share of them only, so nested parallel
code never uses more in all. (numba's own number would not do: every new Python thread begins again with all cores of the machine.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from cryoet_core import backend

_limit: int | None = None  # None outside a job: all cores of this process
_inside = threading.local()


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def n_threads() -> int:
    """Threads that the caller may use; in a thread that works on pieces of :func:`each` its share of them."""
    share = getattr(_inside, "share", None)
    return share or _limit or int(os.environ.get("NUMBA_NUM_THREADS") or available_cores())


@contextmanager
def limited(threads: int):
    """Inside, this process uses ``threads`` CPU threads: kernels, :func:`each`, and scipy's FFTs in this thread; BLAS uses one."""
    global _limit
    import scipy.fft
    from threadpoolctl import threadpool_limits

    before, _limit = _limit, max(1, int(threads))
    try:
        with ExitStack() as stack:
            stack.enter_context(threadpool_limits(1, user_api="blas"))
            stack.enter_context(scipy.fft.set_workers(_limit))
            yield
    finally:
        _limit = before


def _begin_worker(share, device):
    _inside.share = share
    backend.use_device(device)  # CUDA's is a thread's own, too


def each(function: Callable, items: Iterable, threads: int | None = None, report=None, blas: bool = True) -> list:
    """[function(item), ...] in order, on ``threads`` threads (all that the caller may use by default).

    report : callable(done, total) after every piece, or None. blas : the pieces multiply matrices, and a threaded BLAS below would fight
    them for the cores; False spares the time of looking for the libraries where pieces are small and call none.
    The pieces are the same whatever the number of threads: a result depends on it only if a piece does. Exceptions are passed on.
    """
    items = list(items)
    allowed = n_threads() if threads is None else threads
    threads = min(allowed, len(items))
    results = []
    with ExitStack() as stack:
        run = map
        if blas:  # for one thread too, so that the bits are the same
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(1, user_api="blas"))
        if threads > 1:
            run = stack.enter_context(ThreadPoolExecutor(threads, initializer=_begin_worker, initargs=(allowed // threads, backend.current_device()))).map
        for result in run(function, items):
            results.append(result)
            if report is not None:
                report(len(results), len(items))
    return results
