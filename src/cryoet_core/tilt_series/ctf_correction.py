"""CTF correction of raw views along the defocus gradient of the tilted specimen.

A point of the specimen's middle plane seen at (u, v) lies at depth slope . ((u, v) - shift), see TiltGeometry.depth_plane; its
defocus is that of the view plus handedness x depth. The view is transformed once, corrected as a whole for K defocus values, and
the K results are blended linearly where each holds. No strips, so no edges between them, and any axis or tilt about x will do.
(The full-image variant of IMOD's ctfphaseflip for tilted axes; here with exact Cs and astigmatism in every copy.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoet_core.backend import array_namespace
from cryoet_core.ctf.model import Optics, ctf_2d
from cryoet_core.fourier import centre_crop_or_pad, irfft_centred, radial_frequency, rfft_centred

PAD_PX = 48


@dataclass(frozen=True)
class CtfCorrectionSettings:
    """See config/correct_ctf.py."""

    mode: str = "phase_flip"
    defocus_tolerance_angst: float = 500.0
    wiener_snr: float = 10.0
    wiener_falloff: float = 1.0
    max_tiles: int = 64


@dataclass(frozen=True)
class ViewCtf:
    """CTF of one view at its specimen centre. slope : (2,) depth per A of (u, v); shift_angst : (2,) where the centre lands."""

    defocus_u_angst: float
    defocus_v_angst: float
    defocus_angle_deg: float
    phase_shift_deg: float
    handedness: int
    slope: np.ndarray
    shift_angst: np.ndarray


def view_ctfs(series) -> list[ViewCtf]:
    """One :class:`ViewCtf` per row of a TiltSeries."""
    slopes, shifts = series.geometry.depth_plane(), series.geometry.shift_angst
    table = series.tilts
    phase = table["phase_shift_deg"] if "phase_shift_deg" in table else np.zeros(len(table))
    return [
        ViewCtf(float(u), float(v), float(angle), float(p), series.handedness, slope, shift)
        for u, v, angle, p, slope, shift in zip(
            table["defocus_u_angst"], table["defocus_v_angst"], table["defocus_angle_deg"], phase, slopes, shifts, strict=True
        )
    ]


def defocus_offset(shape, pixel_size_angst, ctf: ViewCtf, xp=np):
    """(h, w) float32: handedness x depth of the specimen plane at every pixel, A."""
    h, w = shape
    v = (xp.arange(h, dtype=xp.float32) - h // 2)[:, None] * pixel_size_angst - float(ctf.shift_angst[1])
    u = (xp.arange(w, dtype=xp.float32) - w // 2)[None, :] * pixel_size_angst - float(ctf.shift_angst[0])
    return (ctf.handedness * (float(ctf.slope[0]) * u + float(ctf.slope[1]) * v)).astype(xp.float32)


def defocus_steps(lowest: float, highest: float, settings: CtfCorrectionSettings) -> np.ndarray:
    """Evenly spaced offsets that reach from ``lowest`` to ``highest``, at most ``defocus_tolerance_angst`` apart."""
    span = highest - lowest
    count = int(np.ceil(span / settings.defocus_tolerance_angst)) + 1
    count = max(1, min(count, settings.max_tiles))
    return np.linspace(lowest, highest, count) if count > 1 else np.array([0.5 * (lowest + highest)])


def correction_filter(ctf, k_per_angst, settings: CtfCorrectionSettings):
    """What a spectrum is multiplied by. The sign at low frequency stays: protein dark.

    phase_flip: -1 where the CTF is negative. multiply: the CTF. wiener: c / (c^2 + 1/snr), snr = s0 exp(-100 falloff k).
    """
    xp = array_namespace(ctf)
    if settings.mode == "phase_flip":
        return xp.where(ctf < 0, xp.float32(-1), xp.float32(1))
    if settings.mode == "multiply":
        return ctf
    snr = settings.wiener_snr * xp.exp(-100 * settings.wiener_falloff * k_per_angst)
    return (ctf / (ctf * ctf + 1 / xp.maximum(snr, 1e-6))).astype(xp.float32)


def correct_views(images, ctf: ViewCtf, pixel_size_angst: float, optics: Optics, settings: CtfCorrectionSettings):
    """Correct several images of ONE view (full, even, odd) alike.

    Parameters
    ----------
    images : (m, h, w) float32, numpy or cupy, raw orientation, which is kept.

    Returns
    -------
    (m, h, w) float32.
    """
    if settings.mode == "none":
        return images
    xp = array_namespace(images)
    shape = images.shape[1:]
    padded_shape = tuple(2 * scipy.fft.next_fast_len((n + 2 * PAD_PX + 1) // 2, real=True) for n in shape)
    mean = images.mean(axis=(1, 2), keepdims=True, dtype=xp.float64).astype(xp.float32)
    spectrum = rfft_centred(centre_crop_or_pad(images - mean, padded_shape, 2, mode="reflect"), 2)
    offset = defocus_offset(shape, pixel_size_angst, ctf, xp)
    steps = defocus_steps(float(offset.min()), float(offset.max()), settings)
    spacing = steps[1] - steps[0] if steps.size > 1 else np.inf
    k = radial_frequency(padded_shape, pixel_size_angst, xp)
    out = xp.zeros(images.shape, dtype=xp.float32)
    for step in steps:
        c = ctf_2d(padded_shape, pixel_size_angst, ctf.defocus_u_angst + step, ctf.defocus_v_angst + step,
                   ctf.defocus_angle_deg, optics, ctf.phase_shift_deg, xp)  # fmt: skip
        corrected = irfft_centred(spectrum * correction_filter(c, k, settings), padded_shape, 2)
        weight = xp.clip(1 - xp.abs(offset - step) / spacing, 0, 1) if steps.size > 1 else xp.float32(1)
        out += weight * centre_crop_or_pad(corrected, shape, 2)
    return (out + mean).astype(xp.float32)


def correctable(ctf: ViewCtf, settings: CtfCorrectionSettings) -> bool:
    """False when nothing is to be done or the defocus of the view was never measured (0)."""
    return settings.mode != "none" and (ctf.defocus_u_angst != 0 or ctf.defocus_v_angst != 0)


def n_copies(shape, pixel_size_angst: float, ctf: ViewCtf, settings: CtfCorrectionSettings) -> int:
    """How many defocus values are blended over a view of ``shape`` (h, w)."""
    if not correctable(ctf, settings):
        return 0
    offset = defocus_offset(shape, pixel_size_angst, ctf)
    return int(defocus_steps(float(offset.min()), float(offset.max()), settings).size)
