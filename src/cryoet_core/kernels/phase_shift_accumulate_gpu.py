"""CUDA phase shift and sum: launches ``phase_shift_accumulate.cu``."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.kernels import cuda


def phase_shift_accumulate(spectra, phases_x, phases_y, out):
    """See :func:`cryoet_core.kernels.phase_shift_accumulate.phase_shift_accumulate`; adds to ``out``."""
    xp = array_namespace(out)
    along_x, along_y = (cuda.to_namespace(xp, phases, np.complex64) for phases in (phases_x, phases_y))
    for i, spectrum in enumerate(spectra):
        arguments = (spectrum, along_x[i], along_y[i], out, np.int64(1), *map(np.int64, out.shape))
        cuda.launch("phase_shift_accumulate", "phase_shift_accumulate", out.size, arguments)
