"""Images with a known CTF for tests; the CTF is written here from the textbook, not taken from the library."""

import numpy as np
import pandas as pd

from cryoet_core.metadata import TiltSeries

KV, CS_MM, AMPLITUDE = 300.0, 2.7, 0.1


def _lambda():
    volts = 1e3 * KV
    return 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))


def ctf_image(noise, pixel, u, v, angle_deg, phase_deg=0.0, falloff=60.0):
    """White ``noise`` (h, w) seen through a CTF with defocus u along ``angle_deg`` (from +x towards +y), v across."""
    h, w = noise.shape
    ky, kx = np.meshgrid(np.fft.fftfreq(h, pixel), np.fft.fftfreq(w, pixel), indexing="ij")
    k, phi = np.hypot(ky, kx), np.arctan2(ky, kx)
    along = np.cos(phi - np.deg2rad(angle_deg))
    z = u * along**2 + v * (1 - along**2)
    lam = _lambda()
    chi = np.pi * lam * z * k**2 - 0.5 * np.pi * CS_MM * 1e7 * lam**3 * k**4
    ctf = np.sin(chi + np.arcsin(AMPLITUDE) + np.deg2rad(phase_deg))
    transfer = -ctf * np.exp(-falloff / 4 * k**2) / (1 + (k / 0.03) ** 2) ** 0.5
    return np.fft.ifft2(np.fft.fft2(noise) * transfer).real


def tilted_image(rng, shape, pixel, defocus, tilt_deg, sign, *, astigmatism=0.0, angle_deg=0.0, n_slabs=9, shift_angst=0.0,
                 falloff=60.0):
    """A flat specimen tilted about the image's y axis: defocus + sign * depth with depth = -x tan(tilt).

    shift_angst : the point of the specimen that has ``defocus`` is seen this far from the image's centre along x. Made from ``n_slabs`` images of different defocus, blended along x.
    """
    x = (np.arange(shape[1]) - shape[1] // 2) * pixel
    z = defocus + sign * (-(x - shift_angst) * np.tan(np.deg2rad(tilt_deg)))
    levels = np.linspace(z.min(), z.max(), n_slabs if tilt_deg else 1)
    noise = rng.standard_normal(shape)
    slabs = [ctf_image(noise, pixel, lv + astigmatism / 2, lv - astigmatism / 2, angle_deg, falloff=falloff) for lv in levels]
    if len(levels) == 1:
        return slabs[0]
    place = (z - levels[0]) / (levels[1] - levels[0])
    weights = [np.clip(1 - np.abs(place - i), 0, 1) for i in range(len(levels))]
    return sum(w[None, :] * s for w, s in zip(weights, slabs, strict=True))


def flat_series(tilts_deg, shape, pixel) -> TiltSeries:
    """Table of views tilted about the y axis of the images."""
    n = len(tilts_deg)
    tilts = pd.DataFrame({
        "tilt_id": np.arange(1, n + 1), "nominal_tilt_deg": np.asarray(tilts_deg, float), "pre_exposure_e_per_a2": 0.0,
        "x_tilt_deg": 0.0, "y_tilt_deg": np.asarray(tilts_deg, float), "z_rot_deg": 0.0, "x_shift_angst": 0.0,
        "y_shift_angst": 0.0, "excluded": 0, "exclude_reason": "none",
    })
    return TiltSeries("TS", KV, CS_MM, AMPLITUDE, pixel, pixel, -1, (shape[1], shape[0]), (0, 0, 0), tilts)
