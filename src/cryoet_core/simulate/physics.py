"""Electron optics of a thin specimen, written independently of ``cryoet_core.ctf`` (which it is there to test).

Units: A, rad, V, e/A^2. Transforms are in rfft2 layout, corner origin; row frequency is +y, column frequency +x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

POTENTIAL_V_ANGST3_PER_DA = 3.0
"""Integrated excess potential of protein or RNA over vitreous ice, per dalton: 1.21 A^3/Da x about 2.5 V."""

PLANCK, LIGHT, CHARGE, MASS = 6.62607015e-34, 2.99792458e8, 1.602176634e-19, 9.1093837015e-31  # SI (CODATA 2018)

ICE_MOLECULES_PER_ANGST3 = 0.0310
ICE_MOLECULE_POTENTIAL_V_ANGST3 = 113.0
"""Vitreous water: 0.93 g/cm^3 and a mean inner potential of 3.5 V, hence 3.5 / 0.031 V A^3 per molecule."""


def wavelength_angst(voltage_kv: float) -> float:
    """Relativistic de Broglie wavelength from the SI constants, A (300 kV: 0.01969)."""
    energy = CHARGE * voltage_kv * 1e3
    momentum = math.sqrt(2 * MASS * energy * (1 + energy / (2 * MASS * LIGHT**2)))
    return PLANCK / momentum * 1e10


def phase_per_potential(voltage_kv: float) -> float:
    """Interaction constant: rad of phase per V A of projected potential (300 kV: 6.5e-4; Kirkland 2010, eq. 5.6)."""
    rest_kv = MASS * LIGHT**2 / CHARGE / 1e3
    relativistic = (rest_kv + voltage_kv) / (2 * rest_kv + voltage_kv)
    return 2 * math.pi * relativistic / (wavelength_angst(voltage_kv) * voltage_kv * 1e3)


@dataclass(frozen=True)
class Lens:
    """The microscope's constants: kV, mm, fraction."""

    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float


def frequencies_per_angst(shape, pixel_size_angst: float):
    """(ky, kx) in 1/A, shapes (h, 1) and (1, w//2 + 1), for an rfft2 of ``shape`` (h, w)."""
    height, width = shape
    rows = np.arange(height)
    rows = np.where(rows < (height + 1) // 2, rows, rows - height)
    ky = rows[:, None] / (height * pixel_size_angst)
    kx = np.arange(width // 2 + 1)[None, :] / (width * pixel_size_angst)
    return ky, kx


def aberration_terms(shape, pixel_size_angst, lens: Lens, defocus_u, defocus_v, angle_deg):
    """Split the CTF's phase into gamma = base + slope * dz.

    ``base`` (h, w//2+1) is gamma at the given astigmatic defocus, ``slope`` is d gamma / d defocus = pi lambda k^2, so
    that the CTF of an object ``dz`` A further under focus costs one sine. float32, rad and rad/A.
    """
    ky, kx = frequencies_per_angst(shape, pixel_size_angst)
    k2 = ky**2 + kx**2
    direction = 2 * np.radians(angle_deg)
    # |k|^2 cos(2 (phi - phi0)) without an arctangent: cos 2phi = (kx^2-ky^2)/k^2, sin 2phi = 2 kx ky/k^2
    k2_cos = (kx**2 - ky**2) * math.cos(direction) + 2 * kx * ky * math.sin(direction)
    lam = wavelength_angst(lens.voltage_kv)
    mean, half = 0.5 * (defocus_u + defocus_v), 0.5 * (defocus_u - defocus_v)
    cs_angst = lens.spherical_aberration_mm * 1e7
    base = math.pi * lam * (mean * k2 + half * k2_cos) - 0.5 * math.pi * cs_angst * lam**3 * k2**2
    base += math.asin(lens.amplitude_contrast)
    return base.astype(np.float32), (math.pi * lam * k2).astype(np.float32)


@numba.njit(cache=True, fastmath=True)
def apply_ctf(transform, base, slope, delta_angst, envelope):
    """Return ``transform * envelope * sin(base + slope * delta)`` for one defocus offset (A), all rfft2 layouts."""
    out = np.empty_like(transform)
    delta = np.float32(delta_angst)
    for row in range(transform.shape[0]):
        for col in range(transform.shape[1]):
            out[row, col] = transform[row, col] * (envelope[row, col] * np.sin(base[row, col] + slope[row, col] * delta))
    return out


def damage_attenuation(k_per_angst, dose_e_per_a2: float, voltage_kv: float):
    """Amplitude left at |k| after ``dose``: exp(-N / 2 Nc), Nc = 0.24499 k^-1.6649 + 2.8141 (Grant & Grigorieff 2015).

    The critical dose Nc (e/A^2) holds at 300 kV and is 0.8 of that at 200 kV.
    """
    with np.errstate(divide="ignore"):
        critical = 0.24499 * np.asarray(k_per_angst, dtype=np.float64) ** -1.6649 + 2.8141
    if voltage_kv < 250:
        critical = critical * 0.8
    return np.exp(-0.5 * dose_e_per_a2 / critical)


def envelope(shape, pixel_size_angst, b_factor_angst2: float):
    """exp(-B k^2 / 4), float32: coherence, blur within a frame and the detector's transfer."""
    ky, kx = frequencies_per_angst(shape, pixel_size_angst)
    return np.exp(-0.25 * b_factor_angst2 * (ky**2 + kx**2)).astype(np.float32)


def sphere_transform(k_per_angst, radius_angst: float):
    """Integral of exp(-2 pi i k x) over a solid sphere at |k| (1/A), A^3: the transform of its projection."""
    x = np.maximum(2 * np.pi * radius_angst * np.asarray(k_per_angst, dtype=np.float64), 1e-3)
    return 4 * np.pi * radius_angst**3 * (np.sin(x) - x * np.cos(x)) / x**3


def ice_phase_psd(thickness_angst: float, structure_factor: float, voltage_kv: float) -> float:
    """Power density (rad^2 A^2) of the phase noise of amorphous ice: density x thickness x molecule^2 x S(k).

    At the frequencies of a tomogram (below 1/7 A) water is nearly incompressible and S is a constant of 0.06 to 0.1.
    """
    molecule = ICE_MOLECULE_POTENTIAL_V_ANGST3 * phase_per_potential(voltage_kv)
    return ICE_MOLECULES_PER_ANGST3 * thickness_angst * molecule**2 * structure_factor
