"""Sums of frames whose motion differs over the image: one interpolation from the raw frame.

The whole-frame part is a phase ramp, the local part a B-spline of degree 5 in real space (kernels/warp_accumulate.py); the spline's
coefficients come from the same inverse transform. At the worst fraction of a pixel 0.997 of the amplitude is left at half of Nyquist, 0.97 at
two thirds (cubic splines: 0.98 and 0.88); where the field is a whole number of pixels nothing is lost.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import fftfreq, rfftfreq

from cryoet_core.backend import array_namespace, fft_module
from cryoet_core.kernels.warp_accumulate import spline_response, warp_accumulate


def _moved_coefficients(spectrum, movement_px, shape):
    """Spline coefficients (h, w) of a frame whose content is moved back by ``movement_px`` (x, y)."""
    xp = array_namespace(spectrum)
    factors = []
    for frequencies, movement in zip((fftfreq(shape[0]), rfftfreq(shape[1])), movement_px[::-1], strict=True):
        ramp = np.exp(2j * np.pi * frequencies * movement) / spline_response(frequencies)
        factors.append(xp.asarray(ramp.astype(np.complex64)))
    moved = spectrum * factors[0][:, None]
    moved *= factors[1][None]
    return fft_module(xp).irfft2(moved, s=tuple(shape)).astype(xp.float32, copy=False)


def sum_warped_halves(spectra, movement_px, tables_px, shape):
    """Even and odd sums of frames aligned by a track and a local field.

    Parameters
    ----------
    spectra : iterable of n rfft2 spectra (h, w//2+1), taken one by one. shape : (h, w).
    movement_px : (n, 2) x, y movement of the content of each frame. tables_px : (n, 2, gy, gx) local movement about it
    (local_field.LocalField.tables), whose corners lie on the corner pixels.

    Returns
    -------
    even, odd (h, w) float32: sums over frames 2, 4, .. and 1, 3, .. (counted from 1), as average.sum_halves gives them.
    """
    sums = [None, None]
    for index, spectrum in enumerate(spectra):
        half = (index + 1) % 2
        coefficients = _moved_coefficients(spectrum, movement_px[index], shape)
        sums[half] = warp_accumulate(coefficients, tables_px[index], out=sums[half])
    xp = array_namespace(coefficients)
    return tuple(xp.zeros(shape, dtype=xp.float32) if s is None else s for s in sums)
