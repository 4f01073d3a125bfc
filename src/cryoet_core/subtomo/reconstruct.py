"""The map of a particle from given poses: weighted Fourier insertion of views cut from the raw tilt images.

As RELION 5's reconstruct particle: boxes are cut at the refined positions, faded to a disc, multiplied by minus CTF, dose
weight and scale, inserted at their orientation with weight CTF^2, corrected for the interpolation, and divided by the
summed weight (floored, or Wiener). Sources: Zivanov et al. 2022, eLife 11:e83724; grey scale checked against
RELION 5.0.1 (benchmarks/relion_golden.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.errors import DataQualityError
from cryoet_core.fourier import centre_crop_or_pad, irfft_centred, rfft_centred
from cryoet_core.fsc import fourier_shell_correlation, resolution_at
from cryoet_core.geometry.symmetry import point_group
from cryoet_core.kernels.gather_slices import gather_slices
from cryoet_core.kernels.insert_slices import insert_slices, new_accumulator, split_accumulator
from cryoet_core.masks import centre_distance
from cryoet_core.subtomo.extract import (
    ExtractionSettings,
    ViewSource,
    batches,
    check_ctf,
    find_views,
)
from cryoet_core.subtomo.mstep import gridding_envelope
from cryoet_core.subtomo.transfer import ImageTransfer, used_frequencies

WEIGHT_FLOOR = 1e-3


@dataclass
class HalfSums:
    """Weighted sums of both half sets on a grid of ``pad * box`` px, in the layout of kernels.insert_slices.

    insertion : "spread": every pixel is shared among eight voxels, the adjoint of slicing; "gather": every voxel reads the
    slices near it, RELION's way. accumulators : one array per half set (made on the device of the first images).
    n_images : inserted per half.
    """

    settings: ExtractionSettings
    symmetry: str = "C1"
    insertion: str = "spread"
    accumulators: list = field(default_factory=lambda: [None, None])
    n_images: list = field(default_factory=lambda: [0, 0])

    @property
    def pad(self) -> int:
        """Oversampling so that the grid is at least twice the box of the map (RELION's box is usually that already)."""
        return 1 if self.settings.box_px >= 2 * self.settings.crop_px else 2

    @property
    def box_px(self) -> int:
        return self.settings.box_px

    def add(self, half: int, slices, weights, rotations):
        """Insert transforms (m, box, box//2 + 1), centred, with their weights, into half set 0 or 1."""
        xp = array_namespace(slices)
        if self.accumulators[half] is None:
            self.accumulators[half] = new_accumulator(self.box_px, self.pad, xp)
        if self.insertion == "gather":
            radii = asnumpy((weights[:, 0] != 0).sum(axis=1))  # RELION's: one beyond the last column that the dose leaves
            insert = partial(gather_slices, radii_px=radii)
        else:
            insert = partial(insert_slices, radius_px=self.box_px / 2)
        for operator in point_group(self.symmetry):
            turned = rotations @ operator
            insert(slices, weights, turned, self.box_px, pad=self.pad, out=self.accumulators[half])
        self.n_images[half] += len(slices)


def half_sets(particles) -> np.ndarray:
    """(n,) int64 of 0 and 1: random_subset - 1, or alternating rows where the table has none."""
    if "random_subset" in particles.table:
        return particles.table["random_subset"].to_numpy(dtype=np.int64) - 1
    return np.arange(len(particles.table), dtype=np.int64) % 2


def insert_series(sums: HalfSums, images, series, particles, *, cutoff_fraction=0.01, budget_mb=256.0, progress=None):
    """Add the particles of one tilt series to ``sums``.

    Parameters
    ----------
    images : raw views as for extract.extract_stacks. particles : metadata.Particles of this
    series; their rotations, refined positions and half sets are used. cutoff_fraction : frequencies where the dose weight
    of an image is smaller are left out. progress : callable(done, total) or None.

    Raises
    ------
    DataQualityError E-EXT-03 when the CTF is unknown.
    """
    settings = sums.settings
    check_ctf(series, settings)
    border = settings.binning * settings.crop_px / 2
    views = find_views(
        series, particles.positions_angst, images.shape[-2:], border, settings.max_dose_e_per_a2, settings.min_views
    )
    source = ViewSource(
        images,
        series.pixel_size_angst,
        settings.binning,
        settings.box_px,
        settings.cut_from_raw,
        disc_first=settings.circle_crop,
    )
    xp = array_namespace(source.images)
    rotations = series.geometry.rotation[views.view] @ particles.rotations[views.particle]
    half_of_image = half_sets(particles)[views.particle]
    for rows in batches(len(views), settings, budget_mb):
        slices, weights = _weighted_slices(series, source, views, settings, rows, cutoff_fraction)
        for half in (0, 1):
            mine = np.flatnonzero(half_of_image[rows] == half)
            if mine.size:
                index = xp.asarray(mine)
                sums.add(half, slices[index], weights[index], rotations[rows][mine])
        if progress:
            progress(rows.stop, len(views))


def _weighted_slices(series, source, views, settings, rows, cutoff_fraction):
    """c times the transforms (centred, bright) and c^2, zero where not used: (m, box, box//2 + 1) each."""
    xp = array_namespace(source.images)
    shape, pixel = (settings.box_px,) * 2, series.pixel_size_angst * settings.binning
    transfer = ImageTransfer.of_views(
        series, views.view[rows], views.depth_angst[rows], settings.dose_at, flat=not settings.ctf_premultiply
    )
    c = transfer.evaluate(slice(None), shape, pixel, xp)
    c *= used_frequencies(transfer, slice(None), settings.box_px, pixel, cutoff_fraction, xp)
    sign = np.float32(-1.0 if settings.invert_contrast else 1.0)
    # A checkerboard of signs moves the phase origin from index 0 to index box//2 (even boxes).
    index = xp.arange(settings.box_px)
    checker = (1 - 2 * ((index[:, None] + index[None, : settings.box_px // 2 + 1]) % 2)).astype(xp.float32)
    slices = source.spectra(views, rows) * (sign * c * checker)
    return slices.astype(xp.complex64), c * c


@dataclass(frozen=True)
class ParticleMaps:
    """half1, half2, merged : (crop, crop, crop) float32, bright, particle on index crop//2; full_* before cropping."""

    half1: np.ndarray
    half2: np.ndarray
    merged: np.ndarray


def reconstruct_maps(sums: HalfSums, *, wiener_snr: float | None = None, taper_px: float = 10.0) -> ParticleMaps:
    """Half maps and the map of all particles.

    wiener_snr : None, 0 or negative: weights floored at 0.001 of their shell's mean; else data / (weight + 1/SNR).
    taper_px : soft edge inside the sphere of the box of the map; the mean inside is subtracted first.

    Raises
    ------
    DataQualityError E-REC-04 when a half set holds no image.
    """
    for half, n in enumerate(sums.n_images):
        if n == 0:
            raise DataQualityError(
                "E-REC-04",
                "a half set holds no visible particle",
                field="rlnRandomSubset",
                found=f"0 images in half {half + 1}",
                expected="images in both",
                fix="more particles, or a smaller box",
            )
    parts = [split_accumulator(a) for a in sums.accumulators]
    merged = tuple(a + b for a, b in zip(*parts, strict=True))
    maps = [
        taper_to_sphere(divide_by_weight(*part, sums, wiener_snr), taper_px) for part in (*parts, merged)
    ]
    return ParticleMaps(*(asnumpy(m).astype(np.float32) for m in maps))


def divide_by_weight(data, weight, sums: HalfSums, wiener_snr=None):
    """Map (crop, crop, crop) from summed data and weight, in RELION's grey scale (sqrt(box) times the images')."""
    xp = array_namespace(data)
    box, crop, pad = sums.box_px, sums.settings.crop_px, sums.pad
    size = box * pad
    real = irfft_centred(xp.fft.ifftshift(data, axes=(0, 1)), (size,) * 3, 3)
    real /= gridding_envelope(size, 1, xp)
    transform = rfft_centred(real, 3)
    weight = xp.fft.ifftshift(weight, axes=(0, 1))
    if wiener_snr is not None and wiener_snr > 0:
        transform /= weight + np.float32(1.0 / wiener_snr)
    else:
        transform *= _inverse_weight(weight)
    volume = irfft_centred(transform, (size,) * 3, 3)
    return centre_crop_or_pad(volume, (crop,) * 3, 3) * np.float32(np.sqrt(box))


def _inverse_weight(weight):
    """1 / max(weight, 0.001 radial mean), 0 at and beyond the Nyquist sphere; corner-origin half-complex layout."""
    xp = array_namespace(weight)
    n = weight.shape[0]
    full = fft_module(xp).fftfreq(n, 1.0 / n) ** 2
    radius = xp.sqrt(full[:, None, None] + full[None, :, None] + (xp.arange(n // 2 + 1) ** 2)[None, None, :])
    lower = xp.floor(radius).astype(xp.int64)
    fraction = radius - lower
    mean = _linear_radial_mean(weight, lower, fraction, n // 2 + 1)
    inside = lower + 1 < len(mean)
    low = xp.minimum(lower, len(mean) - 2)
    floor = WEIGHT_FLOOR * (fraction * mean[low + 1] + (1 - fraction) * mean[low])
    usable = xp.maximum(weight, floor)
    return xp.where(inside & (usable > 0), 1.0 / xp.where(usable > 0, usable, 1), 0).astype(xp.float32)


def _linear_radial_mean(values, lower, fraction, n_shells):
    """Radial mean with every element shared linearly between its two nearest shells, float64 (n_shells,)."""
    xp = array_namespace(values)
    total, count = xp.zeros(n_shells), xp.zeros(n_shells)
    for shell, share in ((lower, 1 - fraction), (lower + 1, fraction)):
        index = xp.minimum(shell, n_shells).ravel()
        total += xp.bincount(index, (share * values).ravel(), minlength=n_shells + 1)[:n_shells]
        count += xp.bincount(index, share.ravel(), minlength=n_shells + 1)[:n_shells]
    return total / xp.maximum(count, 1e-30)


def taper_to_sphere(volume, taper_px: float):
    """Subtract the weighted mean inside the sphere of the box and fade to 0 at its surface (raised cosine)."""
    xp = array_namespace(volume)
    n = volume.shape[0]
    t = xp.clip((n / 2 - centre_distance(volume.shape, xp)) / max(taper_px, 1e-6), 0, 1)
    window = (0.5 - 0.5 * xp.cos(np.pi * t)).astype(xp.float32)
    mean = float((window * volume).sum(dtype=xp.float64) / window.sum(dtype=xp.float64))
    return (volume - np.float32(mean)) * window


def reconstruction_summary(maps: ParticleMaps, sums: HalfSums, particles, pixel_size_angst: float) -> dict:
    """Numbers for the report: particles and images per half, FSC of the half maps without a mask."""
    fsc = fourier_shell_correlation(maps.half1, maps.half2)
    box = maps.merged.shape[0]
    halves = half_sets(particles)
    return {
        "n_particles": int(len(halves)),
        "n_particles_half1": int((halves == 0).sum()),
        "n_images": int(sum(sums.n_images)),
        "pixel_size_angst": pixel_size_angst,
        "box_px": box,
        "symmetry": sums.symmetry,
        "resolution_unmasked_angst": resolution_at(fsc, pixel_size_angst, box, 0.143),
        "resolution_unmasked_half_angst": resolution_at(fsc, pixel_size_angst, box, 0.5),
    }
