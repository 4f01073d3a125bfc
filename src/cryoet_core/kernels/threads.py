"""CPU threads for kernels: Python threads over disjoint blocks of the output, each block a numba call without GIL.

Chosen over numba's parallel loops because any number of callers may use it at once (numba's fallback threading
layer stops the process when two threads launch together), and because the blocks do not depend on the number of
threads, so that the result is the same to the last bit for one thread or many.
The number of threads is numba's (``NUMBA_NUM_THREADS``, ``numba.set_num_threads``).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba


def for_blocks(function, blocks):
    """Call ``function(*block)`` for every block; blocks must write disjoint outputs. Exceptions are passed on."""
    blocks = list(blocks)
    n_threads = min(numba.get_num_threads(), len(blocks))
    if n_threads <= 1:
        for block in blocks:
            function(*block)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(lambda block: function(*block), blocks))


def spans(first, end, length):
    """Cut [first, end) into consecutive (start, stop) of at most ``length``."""
    return [(start, min(start + length, end)) for start in range(first, end, length)]
