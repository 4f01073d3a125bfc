"""Sums of aligned frames: every frame is moved by a phase ramp and added to the even or the odd sum."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, fft_module
from cryoet_core.kernels.phase_shift_accumulate import phase_shift_accumulate


def sum_halves(spectra, movement_px, shape):
    """Even and odd sums of aligned frames.

    Parameters
    ----------
    spectra : iterable of n rfft2 spectra (h, w//2+1), taken one by one. shape : (h, w).
    movement_px : (n, 2) x, y movement of the content of each frame; every frame is moved back by it.

    Returns
    -------
    even, odd (h, w) float32: sums over frames 2, 4, .. and 1, 3, .. (counted from 1). Together: the sum of all frames.
    """
    sums = {}
    for index, spectrum in enumerate(spectra):
        xp = array_namespace(spectrum)
        parity = (index + 1) % 2
        if parity not in sums:
            sums[parity] = xp.zeros(spectrum.shape, dtype=xp.complex64)
        back = -np.asarray(movement_px[index], dtype=np.float64)[None]
        phase_shift_accumulate(spectrum.astype(xp.complex64, copy=False)[None], back, shape, out=sums[parity])
    fft = fft_module(xp)
    empty = xp.zeros(shape, dtype=xp.float32)
    return tuple(
        fft.irfft2(sums[p], s=tuple(shape)).astype(xp.float32, copy=False) if p in sums else empty.copy() for p in (0, 1)
    )
