"""The same tomogram in coarser voxels: where it is searched, and where the peaks of the search are scored.

A grid of orientations a step apart resolves detail of step x diameter / STEP_PER_RESOLUTION and no finer: what is finer decorrelates between two of its
points and only adds noise to the search, at 8 times the voxels and with many times the eigen-templates for every halving of the voxel. So a search runs
where the voxels are as coarse as its step. Binnings are multiples of a quarter, so that the cost has no steps.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.fourier import centre_crop_or_pad, fourier_crop
from cryoet_core.picking.local_search import Neighbourhoods, Search
from cryoet_core.picking.passes import FineScale, Pass, rescaled
from cryoet_core.picking.peaks import robust_statistics
from cryoet_core.picking.reference import resample_map
from cryoet_core.picking.scores import HALF_PRECISION_FROM, NO_SCORE

RESOLUTION_PX = 2.4  # finest detail that is searched for, in voxels
STEP_PER_RESOLUTION = 1.3  # radians x diameter / resolution
BINNING_STEP = 4  # binnings are multiples of 1/4
MOST_PARTS = 48  # a binning is a fraction of at most so many parts: of two multiples of 1/4
LEVEL_SAMPLE = 1000  # places that tell the level of the scores in the tomogram
FINE_STEP = 0.5  # of the search's step: where the refinement in the tomogram starts, from a pose refined in the binned one


def search_binning(step_deg: float, diameter_angst: float, pixel_size_angst: float) -> float:
    """By how much a tomogram can be binned and still hold what a step resolves; a multiple of 1/4, at least 1."""
    return quarters(np.deg2rad(step_deg) * diameter_angst / STEP_PER_RESOLUTION / (RESOLUTION_PX * pixel_size_angst))


def quarters(binning: float) -> float:
    """``binning`` rounded down to a multiple of 1/4 that is at least 1."""
    return max(BINNING_STEP, int(BINNING_STEP * binning + 1e-6)) / BINNING_STEP


def _lengths(n: int, binning: float) -> tuple[int, int]:
    """(padded length, binned length) of an axis: the smallest ones of exactly the ratio ``binning``, both even."""
    ratio = Fraction(binning).limit_denominator(MOST_PARTS)
    parts = -(-n // (2 * ratio.numerator))
    return 2 * ratio.numerator * parts, 2 * ratio.denominator * parts


def binned_volume(volume, binning: float, report=None):
    """Fourier-crop a volume (z, y, x) by a fraction (multiples of 1/4 and their ratios), plane by plane and then along z; padded with its borders, index n//2 stays the centre.

    volume : array, or anything with ``shape`` that gives blocks by slices; of the tomogram only single planes are in memory, and it
    is what comes back where nothing is binned.
    report(done, total) : progress, in planes. float32, or float16 where it is large.
    """
    if binning == 1:
        return volume
    (_, depth), (rows, small_rows), (columns, small_columns) = (_lengths(n, binning) for n in volume.shape)
    planes, kept = None, np.float16 if np.prod(volume.shape) / binning**3 > HALF_PRECISION_FROM else np.float32
    for z in range(volume.shape[0]):
        plane = centre_crop_or_pad(volume[z : z + 1, :, :][0], (rows, columns), 2, mode="edge")
        if planes is None:
            xp = array_namespace(plane)
            planes = xp.empty((volume.shape[0], small_rows, small_columns), dtype=kept)
        planes[z] = fourier_crop(plane, (small_rows, small_columns), 2)
        if report is not None:
            report(z + 1, volume.shape[0])
    padded, result = _lengths(volume.shape[0], binning)[0], xp.empty((depth, small_rows, small_columns), dtype=kept)
    for row in range(small_rows):
        lines = centre_crop_or_pad(planes[:, row].T.astype(xp.float32), (padded,), 1, mode="edge")
        result[:, row] = fourier_crop(lines, (depth,), 1).T
    return result


def binned_map(reference, pixel_size_angst: float, binning: float):
    """The reference (n, n, n) of ``pixel_size_angst`` in voxels ``binning`` times as large, in a box that holds all of it."""
    if binning == 1:
        return reference
    box = 2 * int(np.ceil(reference.shape[0] / binning / 2))
    return array_namespace(reference).asarray(resample_map(asnumpy(reference), pixel_size_angst, binning * pixel_size_angst, box))


def binned_mask(mask, binning: float, shape):
    """A mask (z, y, x) at the voxels of the binned volume of ``shape``; None stays None."""
    return mask if mask is None or binning == 1 else _nearest(asnumpy(mask), shape, binning)


def _nearest(volume, shape, factor: float):
    """Values of a volume at the voxels of another ``shape``, whose voxels are ``factor`` times as large and whose centre is the same point."""
    for axis, (n, new) in enumerate(zip(volume.shape, shape, strict=True)):
        index = np.floor(rescaled(np.arange(new), new, n, factor) + 0.5).astype(int)
        volume = np.take(volume, np.clip(index, 0, n - 1), axis=axis)
    return volume


def binned_series(series, binning: float):
    """The series with the pixel of images binned by ``binning``."""
    if binning == 1:
        return series
    size = tuple(int(n / binning) for n in series.image_size_px)
    return replace(series, pixel_size_angst=series.pixel_size_angst * binning, image_size_px=size)


def with_fine_scale(found: Pass, search: Search, binning: float, shape, rng) -> Pass:
    """A pass in the binned tomogram whose peaks are refined with ``search``, that of the tomogram ``shape`` in the pass's frame."""
    allowed = np.argwhere(found.score > NO_SCORE)
    some = allowed[rng.choice(len(allowed), min(LEVEL_SAMPLE, len(allowed)), replace=False)]
    fine = FineScale(search, binning, tuple(shape), (np.nan, np.nan))
    places = np.clip(np.rint(replace(found, fine=fine).in_fine(some)).astype(int), 0, np.array(shape) - 1)
    return replace(found, fine=replace(fine, level=sampled_level(search, places)))


def sampled_level(search: Search, places) -> tuple[float, float]:
    """Median and robust sigma of the best scores over the orientations of ``search`` at voxels ``places`` (k, 3)."""
    xp, eigen = array_namespace(search.filtered.matched), search.eigen
    near = Neighbourhoods(search.filtered, search.template, reach=0)
    best = []
    for first in range(0, len(places), 64):
        parts = [near.patches(place) for place in places[first : first + 64]]
        features = eigen.basis @ xp.concatenate([patch for patch, _ in parts]).T
        best.append(asnumpy((eigen.coefficients @ features).max(axis=0) / xp.concatenate([norm for _, norm in parts])))
    return robust_statistics(np.concatenate(best))
