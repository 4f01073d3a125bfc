"""Sums of aligned frames: every frame is moved by a phase ramp and added to the even or the odd sum."""

from __future__ import annotations

from itertools import islice

import numpy as np

from cryoet_core.backend import array_namespace, fft_module
from cryoet_core.kernels.phase_shift_accumulate import phase_shift_accumulate

_AT_ONCE = 4  # frames of each half that are added in one pass over its sum, which is as large as two of them


def sum_halves(spectra, movement_px, shape):
    """Even and odd sums of aligned frames.

    Parameters
    ----------
    spectra : iterable of n rfft2 spectra (h, w//2+1), taken eight at a time. shape : (h, w).
    movement_px : (n, 2) x, y movement of the content of each frame; every frame is moved back by it.

    Returns
    -------
    even, odd (h, w) float32: sums over frames 2, 4, .. and 1, 3, .. (counted from 1). Together: the sum of all frames.
    """
    sums = [None, None]
    for first, some in enumerate(_batches(spectra, 2 * _AT_ONCE)):
        back = -np.asarray(movement_px[2 * _AT_ONCE * first :][: len(some)], dtype=np.float64)
        for parity in (0, 1):
            own = slice(1 - parity, None, 2)
            if some[own]:
                sums[parity] = phase_shift_accumulate(some[own], back[own], shape, out=sums[parity])
    xp = array_namespace(*(s for s in sums if s is not None))
    return tuple(xp.zeros(shape, dtype=xp.float32) if s is None else _inverse(s, shape) for s in sums)


def _batches(items, size: int):
    """Lists of up to ``size`` successive ``items``."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _inverse(spectrum, shape):
    """irfft2 that may spoil ``spectrum``: along y in place, which spares a copy of it."""
    fft = fft_module(array_namespace(spectrum))
    return fft.irfft(fft.ifft(spectrum, axis=0, overwrite_x=True), n=shape[1], axis=1)
