"""What a gold bead looks like in a view: the radial profile of a sphere that absorbs and retards electrons, out of
focus.

Gold scatters so strongly that neither the weak-phase nor any linear model holds: an exit wave exp(-absorption / 2 + i
phase) is propagated to the defocus. Measured on EMPIAR-10499 TS_254 (95 A beads, 1.7 um): 0.40 dark, a bright fringe
of 1.09; this model: 0.38 and 1.09.
"""

from __future__ import annotations

import numpy as np
from scipy.special import j0

from cryoet_core.ctf.model import Optics

ABSORPTION_PER_ANGST = (
    0.0043  # of the intensity, 300 kV: electrons scattered beyond the aperture or out of the filter's window
)
POTENTIAL_V = 12.0  # of gold above ice that is still coherent; the mean inner potential is near 25 V
RAD_PER_V_ANGST = 6.53e-4  # 300 kV
ENVELOPE_ANGST2 = 100.0  # exp(-B k^2 / 4) on the wave
FINEST_ANGST, STEP_ANGST = 8.0, 2.0  # finest detail of a profile, its step


def bead_profiles(diameters_angst, radii_angst, defocus_angst: float, optics: Optics, pixel_size_angst: float):
    """What absorption and what phase do to the intensity of a bead's image, relative to its surroundings.

    Parameters
    ----------
    diameters_angst : (d,). radii_angst : (r,) distances from the centre. defocus_angst : under focus positive.
    pixel_size_angst : over which the image is averaged.

    Returns
    -------
    absorption, phase : (d, r) float64; intensity / surroundings - 1 is their sum: negative in the bead, the bright
    fringe is in the second.
    """
    radii, diameters = np.asarray(radii_angst, float), np.atleast_1d(np.asarray(diameters_angst, float))
    inner = np.arange(0.5, 0.5 * diameters.max() / STEP_ANGST + 1) * STEP_ANGST  # (m,) across the beads
    reach = max(radii.max(), inner[-1]) + 200.0
    k = np.arange(0.5, 2 * reach / FINEST_ANGST) / (2 * reach)  # (k,) 1/A
    outer = np.arange(0.5, reach / STEP_ANGST) * STEP_ANGST
    to_k = j0(2 * np.pi * np.outer(inner, k)) * (
        2 * np.pi * STEP_ANGST * inner[:, None]
    )  # Hankel transforms as matrices
    from_k = j0(2 * np.pi * np.outer(k, outer)) * (2 * np.pi * k[:, None] / (2 * reach))
    smooth = np.sinc(k * pixel_size_angst) * (
        j0(2 * np.pi * np.outer(outer, k)) * (2 * np.pi * STEP_ANGST * outer[:, None])
    )
    smooth = smooth @ (j0(2 * np.pi * np.outer(k, radii)) * (2 * np.pi * k[:, None] / (2 * reach)))
    thickness = 2 * np.sqrt(np.clip(0.25 * diameters[:, None] ** 2 - inner**2, 0, None))  # (d, m)
    cs_angst = optics.spherical_aberration_mm * 1e7
    aberration = (
        np.pi * optics.wavelength_angst * k**2 * (defocus_angst - 0.5 * cs_angst * (optics.wavelength_angst * k) ** 2)
    )
    transfer = np.exp(1j * aberration - 0.25 * ENVELOPE_ANGST2 * k**2)
    profiles = []
    for phase in (0.0, RAD_PER_V_ANGST * POTENTIAL_V):
        wave = np.expm1((1j * phase - 0.5 * ABSORPTION_PER_ANGST) * thickness)
        intensity = np.abs(1 + ((wave @ to_k) * transfer) @ from_k) ** 2 - 1
        profiles.append(intensity @ smooth)
    return profiles[0], profiles[1] - profiles[0]


def fringe_angst(defocus_angst: float, optics: Optics) -> float:
    """Distance from an edge over which its first bright fringe reaches: sqrt(wavelength x defocus), A."""
    return float(np.sqrt(optics.wavelength_angst * abs(defocus_angst)))
