"""What a tomogram keeps of a particle, per 3-D frequency, and the filters of matched filtering that follow from it.

Model of a small region: tomogram = A(k) * density + noise of power P(k). A comes from the tilts (missing wedge, CTF, dose,
thickness), P is measured in the tomogram. Whitened tomogram W = V / sqrt(P); expected particle G T with G = A / sqrt(P).
All filters live on a box grid of a few particle diameters and are interpolated to the grid of the tomogram.
Sources: per-tilt weights as in pytom-match-pick and STOPGAP; dose filter Grant & Grigorieff 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, fft_module
from cryoet_core.ctf.model import defocus_times_k2, dose_weight, phase_aberration
from cryoet_core.ctf.treatment import CtfTreatment, remaining_ctf, treatment_of
from cryoet_core.fourier import frequency_grid, half_complex_multiplicity, raised_cosine_window
from cryoet_core.parallel import each

# of the mean noise power: below it a frequency is treated as empty. At the sides of a tomogram (and wherever its noise changes) the cut spreads strong
# frequencies along kx over weak ones; with 0.02 whitening raised that to chance scores 1.3 to 1.9 times those of the middle, and true scores were lower
REGULARISATION = 0.1
MOST_PATCHES = 512  # cubes that the noise power is measured in: more say nothing more
PATCHES_HELD = 32  # spectra in memory


@dataclass(frozen=True)
class MatchFilters:
    """Filters on the half-complex grid of a cubic box: ``whiten`` (V -> W) and ``expect`` (T -> G T), float32."""

    whiten: object
    expect: object
    box: int


def _view_signal(series, row, kx, ky, k, ctf: str, dose: bool):
    """Amplitude of the signal in one view at its own frequencies (1/A)."""
    signal = float(row.get("ctf_scale", 1.0) or 1.0)
    if ctf != "ignore" and row["defocus_u_angst"] != 0:
        zk2 = defocus_times_k2(
            kx, ky, row["defocus_u_angst"], row["defocus_v_angst"], row["defocus_angle_deg"]
        )
        phase = float(row.get("phase_shift_deg", 0.0) or 0.0)
        wave = np.sin(phase_aberration(zk2, kx * kx + ky * ky, series.optics, phase))
        signal = signal * remaining_ctf(wave, k, treatment_of(row) if ctf == "auto" else CtfTreatment(ctf))
    if dose:
        exposure = float(row["pre_exposure_e_per_a2"]) + 0.5 * float(row.get("exposure_e_per_a2", 0.0) or 0.0)
        signal = signal * dose_weight(k, exposure, series.voltage_kv)
    return signal


def signal_transfer(series, box: int, extent_angst: float, *, ctf: str = "auto", dose: bool = True):
    """A(k) on the half-complex grid of a box of the series' pixel size: (transfer, coverage), (box, box, box//2+1).

    Each included view fills a central section as thick as the transform of a particle of ``extent_angst``; where sections
    overlap their signals are averaged, where there is none the transfer is 0. ``coverage`` (0..1) is the geometry alone.
    ``ctf``: what correct_ctf did to the views ("auto": what it recorded in the table, nothing without a record), or "ignore".
    """
    used = series.select(series.included)
    kz, ky, kx = frequency_grid((box, box, box), series.pixel_size_angst)
    points = np.stack(np.broadcast_arrays(kx, ky, kz), axis=-1).astype(np.float64)  # (box, box, box//2+1, 3)
    k = np.linalg.norm(points, axis=-1).astype(np.float32)
    total = np.zeros(k.shape, dtype=np.float64)
    weights = np.zeros(k.shape, dtype=np.float64)
    for rotation, (_, row) in zip(used.geometry.rotation, used.tilts.iterrows(), strict=True):
        depth = points @ rotation[2]
        section = np.maximum(1 - np.abs(depth) * extent_angst, 0)
        near = section > 0
        view = points[near] @ rotation[:2].T
        total[near] += section[near] * _view_signal(series, row, view[:, 0], view[:, 1], k[near], ctf, dose)
        weights[near] += section[near]
    coverage = np.minimum(weights, 1)
    return (total / np.maximum(weights, 1)).astype(np.float32), coverage.astype(np.float32)


def _patch_starts(n: int, box: int):
    if n <= box:
        return [0]
    count = int(np.ceil((n - box) / (box / 2))) + 1
    return np.linspace(0, n - box, count).round().astype(int)


def patch_power(volume, box: int, keep_fraction: float = 0.9, threads: int = 1):
    """Mean power of overlapping Hann-windowed cubes of the volume on their half-complex grid (box, box, box//2+1).

    volume : (z, y, x) array, or anything with ``shape`` that gives blocks by slices. Of a large one MOST_PATCHES cubes are taken, spread
    evenly. The tenth with the largest variance (gold, contamination) is left out. Sides shorter than the box are zero-padded.
    Normalised so that white noise of variance 1 has power 1.
    """
    starts = [(z, y, x) for z in _patch_starts(volume.shape[0], box) for y in _patch_starts(volume.shape[1], box)
              for x in _patch_starts(volume.shape[2], box)]
    if len(starts) > MOST_PATCHES:
        starts = [starts[i] for i in np.linspace(0, len(starts) - 1, MOST_PATCHES).round().astype(int)]

    def patch(start):
        block = volume[tuple(slice(s, s + box) for s in start)]
        return array_namespace(block).pad(block.astype(np.float32, copy=False), [(0, box - n) for n in block.shape])

    variances = np.array(each(lambda start: float(patch(start).var()), starts, threads))
    used = np.flatnonzero((variances <= np.quantile(variances, keep_fraction)) & (variances > 0))
    xp = array_namespace(patch(starts[0]))
    hann = xp.asarray(np.hanning(box + 2)[1:-1], dtype=xp.float32)
    window = hann[:, None, None] * hann[:, None] * hann

    def spectrum(number):
        block = patch(starts[number])
        transform = fft_module(xp).rfftn((block - block.mean()) * window)
        return transform.real**2 + transform.imag**2

    power = xp.zeros((box, box, box // 2 + 1), dtype=xp.float64)
    for first in range(0, len(used), PATCHES_HELD):
        for one in each(spectrum, used[first : first + PATCHES_HELD], threads):
            power += one
    return power / (max(len(used), 1) * float((window**2).sum()))


def match_filters(volume, series, box: int, extent_angst: float, low_pass_angst: float, *,
                  ctf: str = "auto", dose: bool = True, whitening: bool = True, threads: int = 1) -> MatchFilters:
    """Filters for a tomogram ``volume`` (z, y, x; see :func:`patch_power`) of ``series``; see the module's model."""
    power = patch_power(volume, box, threads=threads) if whitening else None
    xp = array_namespace(volume[:1, :1, :1] if power is None else power)
    transfer, coverage = signal_transfer(series, box, extent_angst, ctf=ctf, dose=dose)
    transfer, coverage = xp.asarray(transfer), xp.asarray(coverage)
    pixel = series.pixel_size_angst
    k = xp.sqrt(sum(g * g for g in frequency_grid((box, box, box), pixel, xp)))
    band = coverage * raised_cosine_window(k, 1 / low_pass_angst, 3 / (box * pixel), xp)
    if whitening:
        count = half_complex_multiplicity((box, box, box), xp)
        mean_power = (power * band * count).sum() / (band * count).sum()
        regularised = power + REGULARISATION * mean_power
        scale = 1 / xp.sqrt(regularised)
        # frequencies that reconstruction or low-pass emptied carry no signal either
        transfer = transfer * power / regularised
    else:
        scale = 1.0
    whiten = (band * scale).astype(xp.float32)
    expect = (band * transfer * scale).astype(xp.float32)
    whiten[0, 0, 0] = expect[0, 0, 0] = 0
    peak = float(xp.abs(expect).max())
    return MatchFilters(whiten, expect / peak, box)


def on_grid(filter_box, shape):
    """A box filter (b, b, b//2+1) interpolated (linear in frequency, axis by axis) to the half-complex grid of ``shape``."""
    xp = array_namespace(filter_box)
    box, result = filter_box.shape[0], filter_box
    for axis, frequencies in enumerate(frequency_grid(shape)):
        place = frequencies.ravel().astype(np.float64) * box  # in box frequencies; the positive Nyquist is the negative one
        low = np.floor(place).astype(int)
        share = xp.asarray(place - low, dtype=xp.float32).reshape([-1 if axis == i else 1 for i in range(3)])
        if axis == 2:
            below, above = low, np.minimum(low + 1, box // 2)
        else:
            below, above = low % box, (low + 1) % box
        result = (1 - share) * xp.take(result, xp.asarray(below), axis=axis) + share * xp.take(result, xp.asarray(above), axis=axis)
    return result
