"""Independent pieces of a search on several CPU threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from threadpoolctl import threadpool_limits


def each(function, items, threads: int = 1, report=None) -> list:
    """[function(item), ...] in order, on ``threads`` threads; report(done, total): progress.

    Every thread multiplies its own matrices; a threaded BLAS below would fight it for the cores.
    """
    results = []
    with ExitStack() as stack:
        run = map
        if threads > 1:
            stack.enter_context(threadpool_limits(1, user_api="blas"))
            run = stack.enter_context(ThreadPoolExecutor(threads)).map
        for result in run(function, items):
            results.append(result)
            if report is not None:
                report(len(results), len(items))
    return results
