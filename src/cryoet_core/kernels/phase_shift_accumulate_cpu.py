"""Numba phase shift and sum: every spectrum is read once, a row of the sum stays in cache."""

from __future__ import annotations

import numpy as np
from numba import njit

from cryoet_core.kernels.threads import for_blocks, spans

AT_ONCE = 4  # spectra per pass over the sum: each number of them is a compiled variant of its own


def phase_shift_accumulate(spectra, phases_x, phases_y, out):
    """See :func:`cryoet_core.kernels.phase_shift_accumulate.phase_shift_accumulate`; adds to ``out``."""
    along_x, along_y = np.ascontiguousarray(phases_x), np.ascontiguousarray(phases_y)
    for first, end in spans(0, len(spectra), AT_ONCE):
        arguments = tuple(spectra[first:end]), along_x[first:end], along_y[first:end], out
        for_blocks(lambda a, b, arguments=arguments: add_rows(*arguments, a, b), spans(0, out.shape[0], 64))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def add_rows(spectra, along_x, along_y, out, y0, y1):
    """Add the shifted rows y0..y1-1 of all spectra (a tuple of arrays)."""
    for y in range(y0, y1):
        line = out[y]
        for i in range(len(spectra)):
            source, phase, phases = spectra[i][y], along_y[i, y], along_x[i]
            for x in range(out.shape[1]):
                line[x] += source[x] * (phase * phases[x])
