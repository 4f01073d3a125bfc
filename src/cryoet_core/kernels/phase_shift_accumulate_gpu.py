"""CUDA phase shift and sum: launches ``phase_shift_accumulate.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda


def phase_shift_accumulate(spectra, phases_x, phases_y, out):
    """See :func:`cryoet_core.kernels.phase_shift_accumulate.phase_shift_accumulate`; adds to ``out``."""
    xp = array_namespace(spectra)
    arguments = (
        spectra,
        cuda.to_namespace(xp, phases_x, np.complex64),
        cuda.to_namespace(xp, phases_y, np.complex64),
        out,
        *map(np.int64, spectra.shape),
    )
    cuda.launch("phase_shift_accumulate", "phase_shift_accumulate", out.size, arguments)
