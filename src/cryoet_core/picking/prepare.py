"""A tomogram made ready for matching: bright particles on a flat background, without gold and without hard borders."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from cryoet_core.backend import array_namespace, asnumpy, ndimage_module

GOLD_SIGMA = 20.0  # robust standard deviations below the background; protein stays well above that
GOLD_SHARE, GOLD_OVER = 0.995, 2.5  # and so many times the grey value below which this share of the voxels lies: in data of little noise particles pass GOLD_SIGMA
GOLD_PEAK, GOLD_VOXELS = 1.3, 4  # a bead's darkest voxel passes that limit so many times, or it has so many voxels beyond it: a particle of little noise may just pass it
GOLD_GROW_PX = 2
BACKGROUND_GRID = 12.0  # steps of the grid in the sigma of a background that is blurred on one coarser than the tomogram
CLIP_DARK, CLIP_BRIGHT = 15.0, 8.0  # in robust standard deviations: what remains beside gold


def _robust_sigma(values) -> float:
    xp = array_namespace(values)
    sample = values[::2, ::2, ::2]
    return float(1.4826 * xp.median(xp.abs(sample - xp.median(sample)))) or 1.0


def searchable_tomogram(tomogram, background_px: float, *, erase_gold: bool = True):
    """Dark tomogram (z, y, x) -> (bright, gold): bright particles on background 0, float32; gold beads (bool), None without.

    background_px : sigma of the Gaussian that is taken as the local background (slow changes of ice and cell).
    erase_gold : voxels darker than GOLD_SIGMA and their surroundings are set to the background.
    """
    xp = array_namespace(tomogram)
    ndimage = ndimage_module(xp)
    bright = _blurred(tomogram, background_px, ndimage, xp) - tomogram
    sigma, beads = _robust_sigma(bright), None
    if erase_gold:
        gold = _beads(bright, max(GOLD_SIGMA * sigma, GOLD_OVER * float(xp.quantile(bright[::2, ::2, ::2], GOLD_SHARE))), ndimage, xp)
        if bool(gold.any()):
            beads = gold
            gold = ndimage.binary_dilation(gold, iterations=GOLD_GROW_PX)
            # the beads have darkened their own background: measure it again without them
            bright = _without(tomogram, gold, background_px, ndimage, xp)
            sigma = _robust_sigma(bright)
    return xp.clip(bright, -CLIP_BRIGHT * sigma, CLIP_DARK * sigma).astype(xp.float32), beads


def _beads(bright, limit: float, ndimage, xp):
    """Voxels above ``limit``, bool (z, y, x), of connected regions that are large or stand out far enough to be gold."""
    above = bright > limit
    if not bool(above.any()):
        return above
    regions, count = ndimage.label(above)
    numbers = xp.arange(count + 1)
    sizes = xp.bincount(regions.ravel(), minlength=count + 1)
    peaks = xp.asarray(ndimage.maximum(bright, regions, numbers))
    bead = (peaks > GOLD_PEAK * limit) | (sizes >= GOLD_VOXELS)
    bead[0] = False
    return bead[regions]


def _blurred(volume, sigma_px: float, ndimage, xp):
    """Gaussian of ``sigma_px``, borders continued by their last voxel; a broad one on means of cubes, between which it is interpolated."""
    step = int(sigma_px / BACKGROUND_GRID)
    if step < 2:
        return ndimage.gaussian_filter(volume, sigma_px, mode="nearest")
    coarse = ndimage.gaussian_filter(_cube_means(volume, step, xp), sigma_px / step, mode="nearest")
    for axis, n in enumerate(volume.shape):
        place = (np.arange(n) - 0.5 * (step - 1)) / step
        low = np.clip(place.astype(int), 0, max(coarse.shape[axis] - 2, 0))
        share = xp.asarray(place - low, dtype=xp.float32).reshape([-1 if axis == i else 1 for i in range(3)])
        above = xp.take(coarse, xp.asarray(np.minimum(low + 1, coarse.shape[axis] - 1)), axis=axis)
        coarse = (1 - share) * xp.take(coarse, xp.asarray(low), axis=axis) + share * above
    return coarse


def _cube_means(volume, step: int, xp):
    """Means of cubes of ``step`` voxels; the last are filled up with the border's voxels."""
    padded = xp.pad(volume, [(0, -n % step) for n in volume.shape], mode="edge")
    z, y, x = (n // step for n in padded.shape)
    return padded.reshape(z, step, y, step, x, step).mean(axis=(1, 3, 5), dtype=xp.float32)


def near_gold(gold, distance_px: float) -> np.ndarray:
    """Voxels closer than ``distance_px`` to a bead, bool (z, y, x) in host memory: streaks and halos leave nothing to match."""
    return distance_transform_edt(~asnumpy(gold)) < distance_px


def _without(tomogram, excluded, background_px, ndimage, xp):
    keep = (~excluded).astype(xp.float32)
    weight = _blurred(keep, background_px, ndimage, xp)
    total = _blurred(tomogram * keep, background_px, ndimage, xp)
    return (total / xp.maximum(weight, 1e-3) - tomogram) * keep


def smooth_part(volume, tile, halo: int, fade: int):
    """Part of a volume around a tile ((start, stop) along z, y, x) with ``halo`` voxels on every side, float32.

    Beyond the volume's border it goes on as its mirror image, which fades to 0 over ``fade`` voxels.
    """
    xp = array_namespace(volume)
    part = volume
    for axis, ((start, stop), n) in enumerate(zip(tile, volume.shape, strict=True)):
        index = np.arange(start - halo, stop + halo)
        outside = np.maximum(np.maximum(-index, index - (n - 1)), 0)
        ramp = 0.5 * (1 + np.cos(np.pi * np.minimum(outside / (fade + 1), 1)))
        mirrored = np.where(index < 0, -1 - index, np.where(index >= n, 2 * n - 1 - index, index))
        part = xp.take(part, xp.asarray(np.clip(mirrored, 0, n - 1)), axis=axis)
        part = part * xp.asarray(ramp, dtype=xp.float32).reshape([-1 if axis == i else 1 for i in range(3)])
    return part.astype(xp.float32)
