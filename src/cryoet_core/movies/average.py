"""Sums of aligned frames: every frame is moved by a phase ramp and added to the even or the odd sum."""

from __future__ import annotations

from itertools import islice

import numpy as np

from cryoet_core.backend import array_namespace, fft_module
from cryoet_core.kernels.phase_shift_accumulate import phase_shift_accumulate


def sum_halves(spectra, movement_px, shape, at_once: int = 1):
    """Even and odd sums of aligned frames.

    Parameters
    ----------
    spectra : iterable of n rfft2 spectra (h, w//2+1), ``at_once`` of them in memory. shape : (h, w).
    movement_px : (n, 2) x, y movement of the content of each frame; every frame is moved back by it.
    at_once : frames that are added in one pass over the sums, which are read and written less often the more there are.

    Returns
    -------
    even, odd (h, w) float32: sums over frames 2, 4, .. and 1, 3, .. (counted from 1). Together: the sum of all frames.
    """
    sums = [None, None]
    for number, some in enumerate(_batches(spectra, at_once)):
        first = number * at_once
        back = -np.asarray(movement_px[first : first + len(some)], dtype=np.float64)
        for parity in (0, 1):
            own = slice((parity - first - 1) % 2, None, 2)
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
