"""A tomogram made ready for matching: bright particles on a flat background, without gold and without hard borders.

Nothing here holds the tomogram: it is read block by block, and blocks of the result are made when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cryoet_core.backend import array_namespace, asnumpy, ndimage_module

GOLD_SIGMA = 20.0  # robust standard deviations below the background; protein stays well above that
# and so many times the grey value below which this share of the voxels lies: in data of little noise particles pass GOLD_SIGMA
GOLD_SHARE, GOLD_OVER = 0.995, 2.5
# a bead's darkest voxel passes that limit so many times, or it has so many voxels beyond it: a particle of little noise may just pass it
GOLD_PEAK, GOLD_VOXELS = 1.3, 4
GOLD_GROW_PX = 2
BACKGROUND_GRID = 12.0  # steps of the background's grid in the sigma of its Gaussian
CLIP_DARK, CLIP_BRIGHT = 15.0, 8.0  # in robust standard deviations: what remains beside gold
SLAB_VOXELS = 1 << 23  # read at once
SAMPLE_VOXELS = 1 << 22  # that grey values are measured on


@dataclass(frozen=True)
class GoldVoxels:
    """Gold beads of a tomogram of ``shape`` (z, y, x) as sorted linear indices (C order).

    beads : their voxels. grown : those and GOLD_GROW_PX around. label : (len(beads),) number of the bead of every voxel.
    """

    shape: tuple[int, int, int]
    beads: np.ndarray
    grown: np.ndarray
    label: np.ndarray

    def mask(self, window) -> np.ndarray:
        """Bool block of the grown beads, for three slices (z, y, x)."""
        start = np.array([s.start or 0 for s in window])
        stop = np.array([n if s.stop is None else s.stop for s, n in zip(window, self.shape, strict=True)])
        plane = self.shape[1] * self.shape[2]
        first, last = np.searchsorted(self.grown, [start[0] * plane, stop[0] * plane])
        voxels = np.stack(np.unravel_index(self.grown[first:last], self.shape), axis=1)
        inside = ((voxels >= start) & (voxels < stop)).all(axis=1)
        block = np.zeros(tuple(stop - start), dtype=bool)
        block[tuple((voxels[inside] - start).T)] = True
        return block

    def table(self) -> list[tuple[np.ndarray, float]]:
        """(centre (z, y, x) index, diameter of a ball of as many voxels) of every bead, the largest first."""
        voxels = np.stack(np.unravel_index(self.beads, self.shape), axis=1)
        size = np.bincount(self.label)
        centres = np.stack([np.bincount(self.label, voxels[:, axis]) / size for axis in range(3)], axis=1)
        order = np.argsort(-size, kind="stable")
        return [(centres[i], float((6 * size[i] / np.pi) ** (1 / 3))) for i in order]


@dataclass(frozen=True)
class SearchableTomogram:
    """``searchable[window]`` (three slices): bright particles on background 0, noise about 1, float32, gold beads set to the background.

    source : the dark tomogram, any volume with ``shape`` that is read by slices. background : its local mean, every ``step`` voxels.
    sigma : grey value that becomes 1. limits : of the result, beyond which it is clipped. to_device : moves a block to where it is computed with.
    """

    source: object
    background: object
    step: int
    gold: GoldVoxels | None
    to_device: Callable
    sigma: float = 1.0
    limits: tuple[float, float] = (-np.inf, np.inf)

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.source.shape)

    def __getitem__(self, window):
        window = tuple(slice(*s.indices(n)) for s, n in zip(window, self.shape, strict=True))
        block = self.to_device(self.source[window])
        xp = array_namespace(block)
        bright = (_interpolated(self.background, self.step, window, xp) - block) * xp.float32(1 / self.sigma)
        if self.gold is not None:
            bright[xp.asarray(self.gold.mask(window))] = 0
        return xp.clip(bright, *(xp.float32(limit) for limit in self.limits)).astype(xp.float32)


def searchable_tomogram(
    tomogram, background_px: float, *, erase_gold: bool = True, to_device: Callable = lambda block: block, report=None
) -> SearchableTomogram:
    """A dark tomogram (z, y, x), made bright and flat; ``searchable.gold`` says where the beads are, None without.

    tomogram : array, or a volume that is read by slices (io.mrc_volume.MrcVolume), with ``to_device`` for its blocks.
    background_px : sigma of the Gaussian that is taken as the local background (slow changes of ice and cell).
    erase_gold : voxels darker than GOLD_SIGMA and their surroundings are set to the background.
    report(done, total) : progress.
    """
    report = report or (lambda done, total: None)
    n_passes = 4 if erase_gold else 2
    step, background = _background(tomogram, background_px, None, to_device, lambda done: report(done, n_passes))
    found = SearchableTomogram(tomogram, background, step, None, to_device)
    sample = _sample(found)
    report(1.2, n_passes)
    sigma = _robust_sigma(sample)
    if erase_gold:
        limit = max(GOLD_SIGMA * sigma, GOLD_OVER * float(np.quantile(sample, GOLD_SHARE)))
        gold = _gold(found, limit, lambda done: report(1.2 + done, n_passes))
        if gold is not None:
            # the beads have darkened their own background: measure it again without them
            step, background = _background(tomogram, background_px, gold, to_device, lambda done: report(2.2 + done, n_passes))
            found = SearchableTomogram(tomogram, background, step, gold, to_device)
            sigma = _robust_sigma(_sample(found))
    report(n_passes, n_passes)
    return replace(found, sigma=sigma, limits=(-CLIP_BRIGHT, CLIP_DARK))


def _robust_sigma(sample) -> float:
    return float(1.4826 * np.median(np.abs(sample - np.median(sample)))) or 1.0


def _slabs(shape, multiple: int = 1):
    """Slices along z of about SLAB_VOXELS each, starts on multiples of ``multiple`` planes."""
    planes = max(1, SLAB_VOXELS // (shape[1] * shape[2] * multiple)) * multiple
    return [slice(z, min(z + planes, shape[0])) for z in range(0, shape[0], planes)]


def _sample(searchable: SearchableTomogram) -> np.ndarray:
    """Grey values of every second voxel along each axis, or fewer in a large tomogram, host float32."""
    shape = searchable.shape
    every = max(2, int(np.ceil((np.prod(shape) / SAMPLE_VOXELS) ** (1 / 3))))
    planes = [searchable[z : z + 1, :, :][0, ::every, ::every] for z in range(0, shape[0], every)]
    return np.concatenate([asnumpy(plane).ravel() for plane in planes])


def _background(tomogram, sigma_px: float, gold: GoldVoxels | None, to_device, report):
    """(step, local mean (z, y, x) on a grid of ``step`` voxels): a Gaussian of ``sigma_px``, borders continued by their last voxel, without the gold."""
    step = max(1, int(sigma_px / BACKGROUND_GRID))
    totals, weights = [], []
    slabs = _slabs(tomogram.shape, step)
    for number, planes in enumerate(slabs, 1):
        window = (planes, slice(None), slice(None))
        block = to_device(tomogram[window])
        xp = array_namespace(block)
        if gold is not None:
            keep = xp.asarray(~gold.mask(window), dtype=xp.float32)
            weights.append(_cube_means(keep, step, xp))
            block = block * keep
        totals.append(_cube_means(block, step, xp))
        report(number / len(slabs))
    blur = ndimage_module(xp).gaussian_filter
    background = blur(xp.concatenate(totals), sigma_px / step, mode="nearest")
    if gold is not None:
        background = background / xp.maximum(blur(xp.concatenate(weights), sigma_px / step, mode="nearest"), 1e-3)
    return step, background.astype(xp.float32)


def _cube_means(volume, step: int, xp):
    """Means of cubes of ``step`` voxels; the last are filled up with the border's voxels."""
    padded = xp.pad(volume, [(0, -n % step) for n in volume.shape], mode="edge")
    z, y, x = (n // step for n in padded.shape)
    return padded.reshape(z, step, y, step, x, step).mean(axis=(1, 3, 5), dtype=xp.float32)


def _interpolated(coarse, step: int, window, xp):
    """Cube means of ``step`` voxels, interpolated linearly to the voxels of ``window`` (three slices)."""
    for axis, part in enumerate(window):
        place = (np.arange(part.start, part.stop) - 0.5 * (step - 1)) / step
        low = np.clip(np.floor(place).astype(int), 0, max(coarse.shape[axis] - 2, 0))
        share = xp.asarray(place - low, dtype=xp.float32).reshape([-1 if axis == i else 1 for i in range(3)])
        above = xp.take(coarse, xp.asarray(np.minimum(low + 1, coarse.shape[axis] - 1)), axis=axis)
        coarse = (1 - share) * xp.take(coarse, xp.asarray(low), axis=axis) + share * above
    return coarse


def _gold(searchable: SearchableTomogram, limit: float, report) -> GoldVoxels | None:
    """Voxels above ``limit`` of connected regions that are large or stand out far enough to be gold; None without."""
    shape = searchable.shape
    slabs, index, value = _slabs(shape), [], []
    for number, planes in enumerate(slabs, 1):
        block = searchable[planes, :, :]
        xp = array_namespace(block)
        above = xp.flatnonzero(block > limit)
        index.append(asnumpy(above) + planes.start * shape[1] * shape[2])
        value.append(asnumpy(block.ravel()[above]))
        report(number / len(slabs))
    index, value = np.concatenate(index), np.concatenate(value)
    if not len(index):
        return None
    label = _regions(index, shape)
    peak, size = np.zeros(label.max() + 1, dtype=value.dtype), np.bincount(label)
    np.maximum.at(peak, label, value)
    bead = (peak > GOLD_PEAK * limit) | (size >= GOLD_VOXELS)
    kept = bead[label]
    if not kept.any():
        return None
    return GoldVoxels(shape, index[kept], _grown(index[kept], shape), np.unique(label[kept], return_inverse=True)[1])


def _regions(index, shape) -> np.ndarray:
    """Number of the connected region (6 neighbours) of every voxel of sorted linear ``index``."""
    pairs = []
    coordinate = np.unravel_index(index, shape)
    for axis, stride in enumerate((shape[1] * shape[2], shape[2], 1)):
        place = np.searchsorted(index, index + stride)
        other = np.minimum(place, len(index) - 1)
        joined = (index[other] == index + stride) & (coordinate[axis] + 1 < shape[axis])
        pairs.append(np.stack([np.flatnonzero(joined), other[joined]]))
    first, second = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(len(index),) * 2)
    return connected_components(graph, directed=False)[1]


def _grown(index, shape) -> np.ndarray:
    """Linear indices of the voxels and those within GOLD_GROW_PX steps along the axes, sorted."""
    steps = np.stack(np.meshgrid(*[np.arange(-GOLD_GROW_PX, GOLD_GROW_PX + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    steps = steps[np.abs(steps).sum(axis=1) <= GOLD_GROW_PX]
    voxels = np.stack(np.unravel_index(index, shape), axis=1)
    around = (voxels[:, None] + steps).reshape(-1, 3)
    around = around[((around >= 0) & (around < shape)).all(axis=1)]
    return np.unique(np.ravel_multi_index(tuple(around.T), shape))


def near_gold(gold, distance_px: float) -> np.ndarray:
    """Voxels closer than ``distance_px`` to a bead, bool (z, y, x): streaks and halos leave nothing to match."""
    return distance_transform_edt(~gold) < distance_px


def smooth_part(volume, tile, halo: int, fade: int):
    """Part of a volume around a tile ((start, stop) along z, y, x) with ``halo`` voxels on every side, float32.

    volume : array, or anything with ``shape`` that gives blocks by slices. Beyond its border it goes on as its mirror image, which
    fades to 0 over ``fade`` voxels.
    """
    places, ramps = [], []
    for (start, stop), n in zip(tile, volume.shape, strict=True):
        index = np.arange(start - halo, stop + halo)
        outside = np.maximum(np.maximum(-index, index - (n - 1)), 0)
        ramps.append(0.5 * (1 + np.cos(np.pi * np.minimum(outside / (fade + 1), 1))))
        mirrored = np.where(index < 0, -1 - index, np.where(index >= n, 2 * n - 1 - index, index))
        places.append(np.clip(mirrored, 0, n - 1))
    part = volume[tuple(slice(int(p.min()), int(p.max()) + 1) for p in places)]
    xp = array_namespace(part)
    for axis, (place, ramp) in enumerate(zip(places, ramps, strict=True)):
        part = xp.take(part, xp.asarray(place - place.min()), axis=axis)
        part = part * xp.asarray(ramp, dtype=xp.float32).reshape([-1 if axis == i else 1 for i in range(3)])
    return part.astype(xp.float32)
