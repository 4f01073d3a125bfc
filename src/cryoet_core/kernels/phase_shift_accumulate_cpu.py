"""Numba phase shift and sum: every spectrum is read once, a row of the sum stays in cache."""

from __future__ import annotations

import numpy as np
from numba import njit

from cryoet_core.kernels.threads import for_blocks, spans


def phase_shift_accumulate(spectra, phases_x, phases_y, out):
    """See :func:`cryoet_core.kernels.phase_shift_accumulate.phase_shift_accumulate`; adds to ``out``."""
    pairs = spectra.view(np.float32).reshape(*spectra.shape, 2)
    target = out.view(np.float32).reshape(*out.shape, 2)
    along_x, along_y = np.ascontiguousarray(phases_x), np.ascontiguousarray(phases_y)
    real_x, imag_x = np.ascontiguousarray(along_x.real), np.ascontiguousarray(along_x.imag)
    real_y, imag_y = np.ascontiguousarray(along_y.real), np.ascontiguousarray(along_y.imag)
    for_blocks(
        lambda a, b: add_rows(pairs, real_x, imag_x, real_y, imag_y, target, a, b), spans(0, out.shape[0], 64)
    )


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def add_rows(pairs, real_x, imag_x, real_y, imag_y, out, y0, y1):
    """Add the shifted rows y0..y1-1 of all spectra."""
    for y in range(y0, y1):
        line = out[y]
        for i in range(pairs.shape[0]):
            a, b = real_y[i, y], imag_y[i, y]
            source = pairs[i, y]
            for x in range(out.shape[1]):
                c = a * real_x[i, x] - b * imag_x[i, x]
                s = a * imag_x[i, x] + b * real_x[i, x]
                line[x, 0] += source[x, 0] * c - source[x, 1] * s
                line[x, 1] += source[x, 0] * s + source[x, 1] * c
