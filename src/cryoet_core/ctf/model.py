"""The contrast transfer function and the dose weight: the one CTF of the library.

    gamma = pi lambda z(phi) k^2 - pi/2 Cs lambda^3 k^4 + asin(amplitude_contrast) + phase_shift ;  CTF = sin(gamma)

underfocus positive; z(phi) = (U + V)/2 + (U - V)/2 cos 2(phi - angle). The CTF is positive at low k under focus; a recorded
image is -CTF * density (protein dark).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.fourier import frequency_grid


def electron_wavelength_angst(voltage_kv: float) -> float:
    """Relativistic wavelength in A: 0.019687 at 300 kV."""
    volts = 1e3 * voltage_kv
    return 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))


@dataclass(frozen=True)
class Optics:
    """Microscope constants of a tilt series."""

    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float

    def __post_init__(self):
        for field, low, high in (
            ("voltage_kv", 60, 1250),
            ("spherical_aberration_mm", 0, 20),
            ("amplitude_contrast", 0, 1),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise UserInputError(
                    "E-CTF-01", "value out of range", field=field, found=value, expected=f"{low} to {high}"
                )

    @property
    def wavelength_angst(self) -> float:
        return electron_wavelength_angst(self.voltage_kv)


def phase_aberration(zk2, k2, optics: Optics, phase_shift_deg=0.0, xp=np):
    """gamma (rad) from defocus times squared frequency (A * 1/A^2) and squared frequency (1/A^2)."""
    wavelength = optics.wavelength_angst
    cs_angst = optics.spherical_aberration_mm * 1e7
    constant = np.arcsin(optics.amplitude_contrast) + xp.deg2rad(phase_shift_deg)
    return np.pi * wavelength * zk2 - 0.5 * np.pi * cs_angst * wavelength**3 * k2 * k2 + constant


def defocus_times_k2(kx, ky, defocus_u_angst, defocus_v_angst, defocus_angle_deg, xp=np):
    """z(phi) * k^2 for frequencies (kx, ky) in 1/A, defocus in A.

    Written without the angle phi: k^2 cos 2(phi - a) = (kx^2 - ky^2) cos 2a + 2 kx ky sin 2a.
    """
    mean = 0.5 * (defocus_u_angst + defocus_v_angst)
    half_difference = 0.5 * (defocus_u_angst - defocus_v_angst)
    double_angle = 2 * xp.deg2rad(defocus_angle_deg)
    astigmatic = (kx * kx - ky * ky) * xp.cos(double_angle) + 2 * kx * ky * xp.sin(double_angle)
    return mean * (kx * kx + ky * ky) + half_difference * astigmatic


def ctf_2d(
    shape,
    pixel_size_angst: float,
    defocus_u_angst,
    defocus_v_angst,
    defocus_angle_deg,
    optics: Optics,
    phase_shift_deg=0.0,
    xp=np,
):
    """CTF on the half-complex grid of an image of ``shape`` (h, w), corner origin.

    Parameters
    ----------
    defocus_u_angst, defocus_v_angst, defocus_angle_deg, phase_shift_deg : numbers or arrays of one common shape (...); the
        angle is from +x to the axis of U, counter-clockwise.

    Returns
    -------
    (..., h, w//2 + 1) float32 in [-1, 1].
    """
    ky, kx = frequency_grid(shape, pixel_size_angst, xp)

    def column(value):
        return xp.asarray(value, dtype=xp.float64)[..., None, None]

    zk2 = defocus_times_k2(
        kx, ky, column(defocus_u_angst), column(defocus_v_angst), column(defocus_angle_deg), xp
    )
    gamma = phase_aberration(zk2, kx * kx + ky * ky, optics, column(phase_shift_deg), xp)
    return xp.sin(gamma).astype(xp.float32)


def ctf_1d(k_per_angst, defocus_angst, optics: Optics, phase_shift_deg=0.0, xp=np):
    """CTF without astigmatism at frequencies ``k_per_angst`` (1/A); ``defocus_angst`` broadcasts against it."""
    k2 = xp.asarray(k_per_angst, dtype=xp.float64) ** 2
    gamma = phase_aberration(defocus_angst * k2, k2, optics, xp.asarray(phase_shift_deg), xp)
    return xp.sin(gamma).astype(xp.float32)


def dose_weight(k_per_angst, dose_e_per_a2, voltage_kv: float = 300.0, xp=np):
    """Amplitude left after ``dose_e_per_a2`` at frequency k: exp(-N / (2 Ne(k))), Ne = 0.24499 k^-1.6649 + 2.8141.

    ``dose_e_per_a2`` broadcasts against k (give it trailing axes). The critical dose is 0.8 times smaller at 200 kV.
    Source: Grant & Grigorieff 2015, eLife 4:e06980.
    """
    k = xp.maximum(xp.asarray(k_per_angst, dtype=xp.float32), 1e-6)
    critical = 0.24499 * k**-1.6649 + 2.8141
    if voltage_kv < 250:
        critical = 0.8 * critical
    return xp.exp(-0.5 * dose_e_per_a2 / critical).astype(xp.float32)
