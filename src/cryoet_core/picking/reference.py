"""The reference map: contrast, background, size, resampling to the tomogram's grid, mask. References are bright on zero."""

from __future__ import annotations

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.fourier import centre_crop_or_pad, fourier_shift, lowpass
from cryoet_core.masks import centre_distance, mask_from_map

SMALLEST_BOX = 4
LARGEST_GREY = 1e10  # of a float32 map: sums of third powers over 1000^3 voxels stay finite
THRESHOLD = 0.15  # of the map's bright level: what belongs to the particle


def _even_cube(volume):
    n = max(volume.shape)
    n += n % 2
    return centre_crop_or_pad(volume, (n, n, n), 3)


def object_threshold(volume) -> float:
    """Density that separates the particle from the background: a fraction of the mean of the brightest 1 %."""
    bright = np.sort(volume.ravel())[-max(1, volume.size // 100) :]
    return THRESHOLD * float(bright.mean())


def prepare_reference(volume, *, invert: bool = False, centre: str = "keep"):
    """A map as a reference: even cube, background 0, bright particle -> (n, n, n) float32.

    The background is the median outside the largest inscribed ball. ``centre`` "mass" moves the centre of the density above
    the threshold to index n//2.

    Raises UserInputError E-REF-01 (the particle is darker than its background), E-REF-02 (empty map), E-REF-05 (too
    small, or impossible grey values).
    """
    volume = np.asarray(volume, dtype=np.float32) * (-1 if invert else 1)
    _check_reference(volume)
    outside = centre_distance(volume.shape) > 0.5 * min(volume.shape)
    volume = volume - np.median(volume[outside])
    if not np.any(volume):
        raise UserInputError("E-REF-02", "the reference map is empty", field="data.reference", fix="give another map")
    core = volume[centre_distance(volume.shape) <= 0.5 * min(volume.shape)]
    if float(np.mean(core**3)) < 0:
        raise UserInputError(
            "E-REF-01", "the particle is darker than its background", field="import_reference.invert",
            found="negative skewness", expected="a bright particle", fix=f"set invert: {str(not invert).lower()}",
        )
    volume = _even_cube(volume)
    return _centred_on_mass(volume) if centre == "mass" else volume.astype(np.float32)


def _check_reference(volume) -> None:
    """Raises UserInputError E-REF-05 for a map too small for a particle, or with grey values of no map."""
    if min(volume.shape) < SMALLEST_BOX:
        raise UserInputError(
            "E-REF-05", "this map is too small for a reference", field="data.reference",
            found=" x ".join(map(str, volume.shape[::-1])),
            expected=f"at least {SMALLEST_BOX} voxels along each axis", fix="give the map of the particle",
        )
    largest = float(np.abs(volume).max())
    if largest > LARGEST_GREY or 0 < largest < 1 / LARGEST_GREY:
        raise UserInputError(
            "E-REF-05", "these are not the grey values of a map", field="data.reference",
            found=f"{volume.min():g} to {volume.max():g}",
            expected=f"the largest between {1 / LARGEST_GREY:g} and {LARGEST_GREY:g}",
            fix="scale the map, or write it again: the file may be damaged",
        )


def _centred_on_mass(volume):
    density = np.where(volume > object_threshold(volume), volume, 0)
    index = np.indices(volume.shape).reshape(3, -1)
    shift = np.array(volume.shape) // 2 - (index * density.ravel()).sum(axis=1) / density.sum()  # z, y, x
    moved = fourier_shift(volume, np.array([shift[2], shift[1]]))
    swapped = fourier_shift(moved.transpose(2, 1, 0), np.array([shift[0], 0.0]))
    return np.ascontiguousarray(swapped.transpose(2, 1, 0)).astype(np.float32)


def particle_diameter_angst(volume, pixel_size_angst: float) -> float:
    """Diameter (A) about index n//2 of the ball that holds 98 % of the particle's voxels."""
    mask = mask_from_map(volume, object_threshold(volume), 0.0, 1e-3) > 0.5
    radius = np.percentile(centre_distance(volume.shape)[mask], 98) + 0.5
    return float(2 * radius * pixel_size_angst)


def _interpolation_matrix(n_in: int, n_out: int, ratio: float):
    """(n_out, n_in): band-limited samples of a periodic line at spacing ``ratio`` input pixels, centres aligned."""
    position = (np.arange(n_out) - n_out // 2) * ratio + n_in // 2
    limit = 0.5 * min(1.0, 1.0 / ratio)  # cycles per input pixel
    k = np.arange(1, (n_in + 1) // 2)
    k = k[k / n_in < limit]
    phase = 2 * np.pi * k[None, None, :] / n_in * (position[:, None, None] - np.arange(n_in)[None, :, None])
    matrix = (1 + 2 * np.cos(phase).sum(axis=-1)) / n_in
    inside = (position > -1) & (position < n_in)
    return matrix * inside[:, None]


def resample_map(volume, pixel_in_angst: float, pixel_out_angst: float, box_out: int):
    """Cubic map on a grid of exactly ``pixel_out_angst``, box ``box_out``; index n//2 stays in place, grey values too.

    Spectral interpolation (band limit of the coarser grid) along each axis, so any ratio of pixel sizes is exact. Outside the
    input box the result is 0.
    """
    n_in = volume.shape[0]
    matrix = _interpolation_matrix(n_in, box_out, pixel_out_angst / pixel_in_angst)
    result = np.asarray(volume, dtype=np.float64)
    for _ in range(3):  # each pass resamples the first axis and brings the next one to the front
        result = np.tensordot(matrix, result, axes=(1, 0)).transpose(1, 2, 0)
    return np.ascontiguousarray(result).astype(np.float32)


def default_box(diameter_angst: float, pixel_size_angst: float) -> int:
    """Even box of twice the particle's diameter, at least 16."""
    return max(16, 2 * int(np.ceil(diameter_angst / pixel_size_angst)))


def resize_reference(
    volume, pixel_in_angst: float, pixel_out_angst: float, *, box_px: int | None = None,
    low_pass_angst: float | None = None, mask_dilate_px: float = 1.0, mask_edge_px: float = 3.0,
):
    """Reference and soft mask at the tomogram's pixel size -> (map, mask), both (box, box, box) float32.

    Raises UserInputError E-REF-03 when the box is odd or smaller than the particle.
    """
    diameter = particle_diameter_angst(volume, pixel_in_angst)
    box = box_px or default_box(diameter, pixel_out_angst)
    if box % 2 or box * pixel_out_angst < diameter:
        raise UserInputError(
            "E-REF-03", "this box cannot hold the reference", field="resize_reference.box_px", found=box,
            expected=f"an even number, at least {diameter / pixel_out_angst:.0f}", fix="leave box_px empty",
        )
    resampled = resample_map(volume, pixel_in_angst, pixel_out_angst, box)
    limit = max(low_pass_angst or 0.0, 2 * pixel_out_angst)
    resampled = lowpass(resampled, limit, pixel_out_angst, 3)
    mask = mask_from_map(resampled, object_threshold(resampled), mask_dilate_px, mask_edge_px)
    return resampled, mask
