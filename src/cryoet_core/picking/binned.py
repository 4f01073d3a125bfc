"""A search in the binned tomogram, its peaks scored in the tomogram itself.

A grid of orientations a step apart resolves detail of step x diameter / STEP_PER_RESOLUTION and no finer: what is finer decorrelates between two of its
points and only adds noise to the search, at 8 times the voxels and with many times the eigen-templates for every halving of the voxel. So a search with a
step that is coarse for the tomogram runs where the voxels are as coarse as the step; scores, poses and the competition for places come from the tomogram.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.fourier import bin_images, binned_shape, centre_crop_or_pad, fourier_crop
from cryoet_core.picking.local_search import Neighbourhoods, Search
from cryoet_core.picking.passes import FineScale, Pass, rescaled
from cryoet_core.picking.peaks import robust_statistics
from cryoet_core.picking.scores import NO_SCORE

RESOLUTION_PX = 2.4  # finest detail that is searched for, in voxels
STEP_PER_RESOLUTION = 1.3  # radians x diameter / resolution
LEVEL_SAMPLE = 1000  # places that tell the level of the scores in the tomogram
FINE_STEP = 0.5  # of the search's step: where the refinement in the tomogram starts, from a pose refined in the binned one


def search_binning(step_deg: float, diameter_angst: float, pixel_size_angst: float) -> int:
    """By how much a tomogram can be binned and still hold what a step resolves; at least 1."""
    resolved = np.deg2rad(step_deg) * diameter_angst / STEP_PER_RESOLUTION
    return max(1, int(resolved / (RESOLUTION_PX * pixel_size_angst) + 1e-6))


def binned_volume(volume, binning: int):
    """Fourier-crop a volume (z, y, x) by an integer factor, plane by plane and then along z; padded with its borders to multiples of 2 * binning, index n//2 stays the centre."""
    if binning == 1:
        return volume
    xp = array_namespace(volume)
    planes = xp.stack([bin_images(plane, binning) for plane in volume])
    depth = binned_shape(volume.shape[:1], binning)[0]
    result = xp.empty((depth, *planes.shape[1:]), dtype=planes.dtype)
    for row in range(planes.shape[1]):
        columns = centre_crop_or_pad(planes[:, row].T, (depth * binning,), 1, mode="edge")
        result[:, row] = fourier_crop(columns, (depth,), 1).T
    return result


def binned_mask(mask, binning: int):
    """A mask (z, y, x) at the voxels of :func:`binned_volume`; None stays None."""
    if mask is None or binning == 1:
        return mask
    return _nearest(asnumpy(mask), binned_shape(mask.shape, binning), binning)


def on_tomogram(volume, binning: int, shape) -> np.ndarray:
    """A map of the binned tomogram on the grid of the tomogram ``shape`` (z, y, x), voxels repeated."""
    return volume if binning == 1 else _nearest(volume, shape, 1 / binning)


def _nearest(volume, shape, factor: float):
    """Values of a volume at the voxels of another ``shape``, whose voxels are ``factor`` times as large and whose centre is the same point."""
    for axis, (n, new) in enumerate(zip(volume.shape, shape, strict=True)):
        index = np.floor(rescaled(np.arange(new), new, n, factor) + 0.5).astype(int)
        volume = np.take(volume, np.clip(index, 0, n - 1), axis=axis)
    return volume


def binned_series(series, binning: int):
    """The series with the pixel of images binned by ``binning``."""
    if binning == 1:
        return series
    size = tuple(n // binning for n in series.image_size_px)
    return replace(series, pixel_size_angst=series.pixel_size_angst * binning, image_size_px=size)


def with_fine_scale(found: Pass, search: Search, binning: int, shape, rng) -> Pass:
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
