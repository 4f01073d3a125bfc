"""Sum of shifted frames in Fourier space, without storing the shifted frames.

    out(ky, kx) += sum_i weights[i] * spectra_i(ky, kx) * exp(-2 pi i (kx dx_i / w + ky dy_i / h))

so the content of frame i moves by +(dx_i, dy_i) px before it is added. kx = 0..w//2, ky in fftfreq order.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from cryoet_core.backend import is_gpu_array
from cryoet_core.kernels import phase_shift_accumulate_cpu, phase_shift_accumulate_gpu
from cryoet_core.kernels.validation import dense, host, output


def phase_shift_accumulate(spectra, shifts_px, shape, out=None, weights=None):
    """Sum complex64 (h, w//2 + 1) of the shifted ``spectra``, on their device.

    Parameters
    ----------
    spectra : complex64 (n, h, w//2 + 1) or a sequence of n (h, w//2 + 1), rfft2 layout; a sequence is not copied together.
    shifts_px : (n, 2), (dx, dy): how far the content is to move.
    shape : (h, w) of the images.
    out : complex64 (h, w//2 + 1) to add to; zeros when None.
    weights : (n,) or None for ones.

    Raises
    ------
    ValueError when a shape does not fit.
    """
    spectra = [dense("spectra", s, 2, "complex64") for s in spectra]
    n = len(spectra)
    h, w = (int(s) for s in shape)
    if not n or any(s.shape != (h, w // 2 + 1) for s in spectra):
        raise ValueError(f"spectra must be (n, {h}, {w // 2 + 1}) for shape {shape}, found {[s.shape for s in spectra]}")
    shifts = host("shifts_px", shifts_px, (n, 2))
    weights = host("weights", np.ones(n) if weights is None else weights, (n,))
    out = output(out, (h, w // 2 + 1), "complex64", spectra[0])
    phases_x, phases_y = phase_tables(shifts, weights, h, w)
    implementation = phase_shift_accumulate_gpu if is_gpu_array(spectra[0]) else phase_shift_accumulate_cpu
    implementation.phase_shift_accumulate(spectra, phases_x, phases_y, out)
    return out


def phase_tables(shifts_px, weights, h, w):
    """Separable phases: (n, w//2 + 1) along x and (n, h) along y (with the weight), complex64, host memory."""
    kx = np.arange(w // 2 + 1) / w
    ky = scipy.fft.fftfreq(h)
    phases_x = np.exp(-2j * np.pi * shifts_px[:, :1] * kx)
    phases_y = weights[:, None] * np.exp(-2j * np.pi * shifts_px[:, 1:] * ky)
    return phases_x.astype(np.complex64), phases_y.astype(np.complex64)
