"""CPU threads for kernels: Python threads over disjoint blocks of the output, each block a numba call without GIL.

Chosen over numba's parallel loops because any number of callers may use it at once (numba's fallback threading
layer stops the process when two threads launch together), and because the blocks do not depend on the number of
threads, so that the result is the same to the last bit for one thread or many.
The number of threads is that of :mod:`cryoet_core.parallel`.
"""

from __future__ import annotations

from cryoet_core import parallel


def for_blocks(function, blocks):
    """Call ``function(*block)`` for every block; blocks must write disjoint outputs. Exceptions are passed on."""
    parallel.each(lambda block: function(*block), blocks, blas=False)


def spans(first, end, length):
    """Cut [first, end) into consecutive (start, stop) of at most ``length``."""
    return [(start, min(start + length, end)) for start in range(first, end, length)]
