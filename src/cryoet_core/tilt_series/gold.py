"""Gold beads in the views: found by their darkness, replaced by their surroundings with noise.

A bead is ten times darker than protein, and every particle whose image it crosses would be averaged with it. Alignment may
use the beads, so they are erased after it: in the views of the tomograms and where particles are cut.
"""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, ndimage_module
from cryoet_core.tilt_series.coarse import parabolic_peak


def find_gold(image, pixel_size_angst: float, bead_diameter_angst: float = 100.0, threshold_sigma: float = 8.0):
    """Mask (h, w) of beads in one view: dark spots of a bead's size, grown by a bead's radius.

    Difference of two Gaussians (half a radius and 1.2 radii): it answers to spots of a bead's size and hardly to edges of
    membranes and carbon. Darker than ``threshold_sigma`` robust standard deviations of it is a bead.
    """
    spots, seeds = _spots(image, pixel_size_angst, bead_diameter_angst, threshold_sigma)
    if not bool(seeds.any()):
        return seeds
    ndimage = ndimage_module(array_namespace(image))
    return ndimage.distance_transform_edt(~seeds) <= 0.5 * bead_diameter_angst / pixel_size_angst


def bead_positions(image, pixel_size_angst: float, bead_diameter_angst: float = 100.0, threshold_sigma: float = 8.0) -> np.ndarray:
    """(m, 2) x, y of beads in one view (h, w), A from its centre (index n//2), to a fraction of a pixel: the middle of what
    :func:`find_gold` finds. Those that the border may have cut are not given.
    """
    spots, seeds = _spots(image, pixel_size_angst, bead_diameter_angst, threshold_sigma)
    ndimage = ndimage_module(array_namespace(image))
    reach = 2 * round(0.5 * bead_diameter_angst / pixel_size_angst) + 1  # px, a bead's diameter
    lowest = asnumpy(seeds & (spots == ndimage.minimum_filter(spots, reach)))
    border = reach
    inner = np.zeros_like(lowest)
    inner[border:-border, border:-border] = lowest[border:-border, border:-border]
    height = -asnumpy(spots)
    rows = np.array([parabolic_peak(height, peak) for peak in np.argwhere(inner)]).reshape(-1, 2)
    return (rows - np.array(lowest.shape) // 2)[:, ::-1] * pixel_size_angst


def _spots(image, pixel_size_angst, bead_diameter_angst, threshold_sigma):
    """The view's answer to spots of a bead's size (h, w), and where it is darker than the threshold."""
    xp = array_namespace(image)
    ndimage = ndimage_module(xp)
    radius_px = 0.5 * bead_diameter_angst / pixel_size_angst
    spots = ndimage.gaussian_filter(image, 0.5 * radius_px) - ndimage.gaussian_filter(image, 1.2 * radius_px)
    spots = spots - xp.median(spots)
    sigma = 1.4826 * xp.median(xp.abs(spots))
    return spots, spots < -threshold_sigma * sigma


def fill_gold(images, gold, pixel_size_angst: float, rng, bead_diameter_angst: float = 100.0):
    """Images (n, h, w) of one view (full, even, odd) with the masked pixels (h, w) filled.

    The fill is the local mean of what surrounds a bead plus white noise of the local strength, drawn from ``rng``.
    """
    xp = array_namespace(images)
    if not bool(gold.any()):
        return images
    filled = []
    for image in images:
        mean, sd = _surroundings(image, gold, bead_diameter_angst / pixel_size_angst)
        noise = xp.asarray(rng.standard_normal(image.shape), dtype=xp.float32)
        filled.append(xp.where(gold, mean + sd * noise, image))
    return xp.stack(filled).astype(xp.float32)


def erase_gold(images, pixel_size_angst: float, generators, bead_diameter_angst: float | None):
    """Views (n, h, w) without beads, each judged by itself; the same views when ``bead_diameter_angst`` is None.

    generators : random numbers, one per view, so that no view's fill depends on which other views there are.
    """
    if bead_diameter_angst is None:
        return images
    xp = array_namespace(images)
    masks = [find_gold(image, pixel_size_angst, bead_diameter_angst) for image in images]
    views = zip(images, masks, generators, strict=True)
    return xp.stack([fill_gold(i[None], m, pixel_size_angst, rng, bead_diameter_angst)[0] for i, m, rng in views])


def _surroundings(image, excluded, sigma_px: float):
    """Local mean and standard deviation (h, w) of the pixels that are not excluded."""
    xp = array_namespace(image)
    ndimage = ndimage_module(xp)
    keep = (~excluded).astype(xp.float32)
    weight = xp.maximum(ndimage.gaussian_filter(keep, sigma_px), 1e-3)
    mean = ndimage.gaussian_filter(image * keep, sigma_px) / weight
    deviation = ndimage.gaussian_filter((image - mean) ** 2 * keep, sigma_px) / weight
    return mean, xp.sqrt(deviation)
