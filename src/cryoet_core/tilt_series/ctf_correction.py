"""CTF correction of raw views along the defocus gradient of the tilted specimen.

A point of the specimen's middle plane seen at (u, v) lies at depth slope . ((u, v) - shift), see TiltGeometry.depth_plane; its
defocus is that of the view plus handedness x depth. The view is transformed once, corrected as a whole for K defocus values, and
the K results are blended linearly where each holds. No strips, so no edges between them, and any axis or tilt about x will do.
(The full-image variant of IMOD's ctfphaseflip for tilted axes; here with exact Cs and astigmatism in every copy.)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoet_core.backend import array_namespace, fft_module, ndimage_module
from cryoet_core.ctf.model import Optics, defocus_times_k2, phase_aberration
from cryoet_core.ctf.treatment import WIENER_COLUMNS, correction_filter
from cryoet_core.fourier import centre_crop_or_pad, frequency_grid, radial_frequency

MIN_PAD_PX, MAX_PAD_PX = 32, 256
BORDER_PX = 32  # outer pixels whose mean continues the view beyond its border
VIEW_PHASE_STEP_RAD = 0.25  # of the CTF between neighbouring copies of a view at its Nyquist frequency
FINEST_STEP_ANGST = 500.0  # between copies of a view: finer ones change correlations with the truth by less than 0.1 %


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

    def transposed(self) -> ViewCtf:
        """The same CTF for the view with its axes exchanged."""
        return dataclasses.replace(
            self, defocus_angle_deg=90.0 - self.defocus_angle_deg, slope=self.slope[::-1], shift_angst=self.shift_angst[::-1]
        )


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


def _offset_terms(shape, pixel_size_angst, ctf: ViewCtf):
    """handedness x depth = rows[:, None] + columns[None, :], A; (h,) and (w,) float64."""
    h, w = shape
    rows = ctf.slope[1] * ((np.arange(h) - h // 2) * pixel_size_angst - ctf.shift_angst[1])
    columns = ctf.slope[0] * ((np.arange(w) - w // 2) * pixel_size_angst - ctf.shift_angst[0])
    return ctf.handedness * rows, ctf.handedness * columns


def defocus_offset(shape, pixel_size_angst, ctf: ViewCtf, xp=np):
    """(h, w) float32: handedness x depth of the specimen plane at every pixel, A."""
    rows, columns = _offset_terms(shape, pixel_size_angst, ctf)
    return (xp.asarray(rows)[:, None] + xp.asarray(columns)[None, :]).astype(xp.float32)


def defocus_of_phase(phase_rad: float, pixel_size_angst: float, cutoff: float, optics: Optics) -> float:
    """Defocus, A, over which the CTF's phase turns by ``phase_rad`` at ``cutoff`` (cycles/px)."""
    k = min(cutoff, 0.5) / pixel_size_angst
    return phase_rad / (np.pi * optics.wavelength_angst * k * k)


def tolerance_angst(given: float | None, pixel_size_angst: float, optics: Optics) -> float:
    """Step between the defocus values that are blended across views of this pixel size; ``given`` None: automatic."""
    automatic = max(FINEST_STEP_ANGST, defocus_of_phase(VIEW_PHASE_STEP_RAD, pixel_size_angst, 0.5, optics))
    return automatic if given is None else given


def defocus_steps(lowest: float, highest: float, settings: CtfCorrectionSettings) -> np.ndarray:
    """Evenly spaced offsets that reach from ``lowest`` to ``highest``, at most ``defocus_tolerance_angst`` apart."""
    span = highest - lowest
    count = int(np.ceil(span / settings.defocus_tolerance_angst)) + 1
    count = max(1, min(count, settings.max_tiles))
    return np.linspace(lowest, highest, count) if count > 1 else np.array([0.5 * (lowest + highest)])


def _steps_of(shape, pixel_size_angst, ctf: ViewCtf, settings) -> np.ndarray:
    rows, columns = _offset_terms(shape, pixel_size_angst, ctf)
    return defocus_steps(rows.min() + columns.min(), rows.max() + columns.max(), settings)


def delocalisation_px(pixel_size_angst: float, ctf: ViewCtf, optics: Optics) -> float:
    """How far the CTF carries detail at the Nyquist frequency: lambda x defocus x k / pixel."""
    largest = max(abs(ctf.defocus_u_angst), abs(ctf.defocus_v_angst))
    return optics.wavelength_angst * largest * 0.5 / pixel_size_angst**2


def pad_view(image, shape):
    """A view (h, w) continued to the larger ``shape`` (padded about index n//2) by the local mean along its border.

    Mirrored detail would be correlated with the view and wrong after correction; a flat border carries none and makes no step.
    """
    xp = array_namespace(image)
    smooth = ndimage_module(xp).uniform_filter1d
    depth = min(BORDER_PX, *image.shape)
    framed = image.copy()
    for axis, first, last in ((0, np.s_[0], np.s_[-1]), (1, np.s_[:, 0], np.s_[:, -1])):
        strips = xp.moveaxis(image, axis, 0)
        framed[first] = smooth(strips[:depth].mean(axis=0), 2 * depth + 1, mode="nearest")
        framed[last] = smooth(strips[-depth:].mean(axis=0), 2 * depth + 1, mode="nearest")
    padded = centre_crop_or_pad(framed, shape, 2, mode="edge")
    padded[_inner(image.shape, shape)] = image
    return padded


def _inner(shape, padded_shape):
    """Where an image lies in its padded copy."""
    starts = [p // 2 - n // 2 for n, p in zip(shape, padded_shape, strict=True)]
    return tuple(slice(start, start + n) for start, n in zip(starts, shape, strict=True))


def _padded_shape(shape, pixel_size_angst, ctf, optics):
    pad = int(np.clip(0.5 * delocalisation_px(pixel_size_angst, ctf, optics) + 16, MIN_PAD_PX, MAX_PAD_PX))
    return tuple(2 * scipy.fft.next_fast_len(n // 2 + pad + 1, real=True) for n in shape)


def ctf_copies(shape, pixel_size_angst: float, ctf: ViewCtf, optics: Optics, steps, xp=np):
    """Yield the CTF (h, w//2 + 1) float32 at every defocus offset of evenly spaced ``steps``.

    exp(i gamma) is turned from one step to the next by exp(i pi lambda dz k^2), which costs no sine per copy.
    """
    ky, kx = (grid.astype(xp.float64) for grid in frequency_grid(shape, pixel_size_angst, xp))
    k2 = kx * kx + ky * ky
    u, v = ctf.defocus_u_angst + steps[0], ctf.defocus_v_angst + steps[0]
    gamma = phase_aberration(defocus_times_k2(kx, ky, u, v, ctf.defocus_angle_deg, xp), k2, optics, ctf.phase_shift_deg, xp)
    wave = xp.exp(1j * gamma).astype(xp.complex64)
    del gamma
    spacing = steps[1] - steps[0] if len(steps) > 1 else 0.0
    turn = xp.exp(1j * np.pi * optics.wavelength_angst * spacing * k2).astype(xp.complex64)
    for number in range(len(steps)):
        if number:
            wave *= turn
        yield wave.imag


def _reach(rows, columns, step: float, spacing: float):
    """Slices (rows, columns) of the rectangle in which the offset can be within ``spacing`` of ``step``."""
    slices = []
    for own, other in ((rows, columns), (columns, rows)):
        near = np.flatnonzero((own + other.max() > step - spacing) & (own + other.min() < step + spacing))
        slices.append(slice(int(near[0]), int(near[-1]) + 1) if near.size else slice(0, 0))
    return tuple(slices)


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
    if abs(ctf.slope[0]) > abs(ctf.slope[1]):  # the inverse transform along x is only done for the rows that a copy is used in
        turned = correct_views(images.swapaxes(1, 2), ctf.transposed(), pixel_size_angst, optics, settings)
        return array_namespace(images).ascontiguousarray(turned.swapaxes(1, 2))
    xp = array_namespace(images)
    fft = fft_module(xp)
    shape = images.shape[1:]
    padded_shape = _padded_shape(shape, pixel_size_angst, ctf, optics)
    means = images.mean(axis=(1, 2), dtype=xp.float64).astype(xp.float32)
    spectra = [fft.rfft2(pad_view(image - mean, padded_shape)) for image, mean in zip(images, means, strict=True)]
    steps = _steps_of(shape, pixel_size_angst, ctf, settings)
    k = radial_frequency(padded_shape, pixel_size_angst, xp)
    out = xp.zeros(images.shape, dtype=xp.float32)
    copies = ctf_copies(padded_shape, pixel_size_angst, ctf, optics, steps, xp)
    for (box, weight), c in zip(_weights(shape, pixel_size_angst, ctf, steps, xp), copies, strict=True):
        turned = correction_filter(c, k, settings)
        for image, spectrum in zip(out, spectra, strict=True):
            image[box] += weight * _inverse_part(spectrum * turned, padded_shape, shape, box)
    return out + means[:, None, None]


def _weights(shape, pixel_size_angst, ctf, steps, xp):
    """Yield (box, weight) of every step: the rectangle that a copy is used in and its share there, a hat function of the offset."""
    rows, columns = _offset_terms(shape, pixel_size_angst, ctf)
    if len(steps) == 1:
        yield np.s_[0 : shape[0], 0 : shape[1]], xp.float32(1)
        return
    spacing = steps[1] - steps[0]
    for step in steps:
        box = _reach(rows, columns, step, spacing)
        offset = xp.asarray(rows[box[0]] - step, dtype=xp.float32)[:, None] + xp.asarray(columns[box[1]], dtype=xp.float32)
        yield box, xp.maximum(1 - xp.abs(offset) * xp.float32(1 / spacing), 0)


def _inverse_part(spectrum, padded_shape, shape, box):
    """The rectangle ``box`` (of the unpadded image) of the inverse transform of a padded spectrum."""
    fft = fft_module(array_namespace(spectrum))
    inner = _inner(shape, padded_shape)
    rows = slice(inner[0].start + box[0].start, inner[0].start + box[0].stop)
    lines = fft.irfft(fft.ifft(spectrum, axis=0)[rows], n=padded_shape[1], axis=1)
    return lines[:, inner[1].start + box[1].start : inner[1].start + box[1].stop]


def correctable(ctf: ViewCtf, settings: CtfCorrectionSettings) -> bool:
    """False when nothing is to be done or the defocus of the view was never measured (0)."""
    return settings.mode != "none" and (ctf.defocus_u_angst != 0 or ctf.defocus_v_angst != 0)


def n_copies(shape, pixel_size_angst: float, ctf: ViewCtf, settings: CtfCorrectionSettings) -> int:
    """How many defocus values are blended over a view of ``shape`` (h, w)."""
    return int(_steps_of(shape, pixel_size_angst, ctf, settings).size) if correctable(ctf, settings) else 0


def recorded(series, settings: CtfCorrectionSettings, corrected):
    """The series with what was done to every view (``corrected`` (n,) bool) in its table, for ctf.treatment.treatment_of."""
    columns = {"ctf_correction": np.where(corrected, settings.mode, "none")}
    if settings.mode == "wiener":
        columns |= {name: getattr(settings, name.removeprefix("ctf_")) for name in WIENER_COLUMNS}
    return series.with_columns(**columns)
