"""Where in a tomogram particles can be: the specimen's slab, a given mask; and where not: membranes, carbon film.

All volumes are bright (z, y, x) host arrays as from prepare.searchable_tomogram.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, label

from cryoet_core.errors import UserInputError
from cryoet_core.masks import scaled_mask
from cryoet_core.metadata import TiltSeries
from cryoet_core.picking.passes import rescaled
from cryoet_core.picking.peaks import search_region
from cryoet_core.picking.plan import MatchPlan
from cryoet_core.picking.prepare import near_gold

SLAB_CONTRAST = 0.15  # of the outer level: how much more texture the slab must have
EMPTY_SPREAD = 1.7  # local variance outside the slab, 90 % quantile over median: noise alone is even
SHEET_ANGST = 25.0  # sigma of the blur that turns a bilayer into one ridge
SHEET_FLATNESS = 0.35  # in-plane curvature, at most, as a share of that across the sheet
SHEET_SIGMA = 3.0  # robust sigmas of the ridge strength from which a sheet is one
SHEET_EXTENT = 2.0  # particle diameters that a sheet extends over at least
SHEET_REACH_ANGST = 60.0  # excluded on both sides
GOLD_DISTANCE = 0.75  # particle diameters from a gold bead within which nothing is picked
CARBON_RATIO = 4.0  # local variance over its median
CARBON_EXTENT = 3.0  # particle diameters that carbon extends over at least


def given_mask(mask, shape) -> np.ndarray:
    """A user's mask as bool (z, y, x).

    Raises UserInputError E-PICK-04 when its size is not the tomogram's, E-MASK-01 when its values are not a mask's.
    """
    mask = np.asarray(mask)
    if mask.shape != tuple(shape):
        raise UserInputError(
            "E-PICK-04", "the mask does not have the size of the tomogram", field="match_template.search_mask",
            found="x".join(map(str, mask.shape[::-1])), expected="x".join(map(str, tuple(shape)[::-1])), fix="a mask on the tomogram's grid",
        )
    return scaled_mask(mask, "match_template.search_mask")[0] > 0.5


def seen_share(series, shape, margin_px: float, step: int = 4) -> np.ndarray:
    """Share (0..1) of the views in use that hold the projection of each voxel and ``margin_px`` around it: (z, y, x) float32.

    Where many views are missing a particle is not what the template's filter expects. Computed at every ``step``-th voxel.
    """
    geometry, pixel = series.select(series.included).geometry, series.pixel_size_angst
    axes = [np.arange(0, n + step - 1, step) - n // 2 for n in shape]
    half = np.array(series.image_size_px) / 2 - margin_px  # (x, y)
    share = np.zeros([len(a) for a in axes], dtype=np.float32)
    for rotation, shift in zip(geometry.rotation, geometry.shift_angst / pixel, strict=True):
        inside = True
        for axis in range(2):
            place = rotation[axis, 2] * axes[0][:, None, None] + rotation[axis, 1] * axes[1][:, None] + rotation[axis, 0] * axes[2]
            inside = inside & (np.abs(place + shift[axis]) <= half[axis])
        share += inside
    for axis, n in enumerate(shape):
        nearest = np.minimum((np.arange(n) + step // 2) // step, share.shape[axis] - 1)
        share = np.take(share, nearest, axis=axis)
    return share / len(geometry)


def local_variance(bright, radius_px: float) -> np.ndarray:
    """Variance of the volume about each voxel under a Gaussian of sigma ``radius_px``."""
    mean = gaussian_filter(bright, radius_px, mode="nearest")
    return np.maximum(gaussian_filter(bright * bright, radius_px, mode="nearest") - mean * mean, 0)


def texture_planes(bright, diameter_px: float) -> np.ndarray:
    """Texture of the size of particles: quantiles 0.5, 0.75 and 0.9 over x and y of the local variance at every plane, (3, nz)."""
    smooth = gaussian_filter(bright, 0.15 * diameter_px, mode="nearest") - gaussian_filter(bright, 0.6 * diameter_px, mode="nearest")
    variance = local_variance(smooth, 0.35 * diameter_px)
    edge = int(min(diameter_px, min(variance.shape[1:]) // 4))
    inner = variance[:, edge : variance.shape[1] - edge, edge : variance.shape[2] - edge]
    return np.quantile(inner, [0.5, 0.75, 0.9], axis=(1, 2))


def find_slab(bright, diameter_px: float) -> slice | None:
    """Planes (z) of the specimen, from where particle-sized texture is above what is left of it outside; None when it stands out nowhere.

    Two levels, inside and outside, are fitted to the profile of texture along z by least squares over both borders; half a
    particle is added on both sides. Outside there must be nothing but noise, which is even over x and y.
    """
    median, profile, high = texture_planes(bright, diameter_px)
    n = len(profile)
    shortest = max(2, int(round(0.5 * diameter_px)))
    total, square = np.concatenate([[0], profile.cumsum()]), np.concatenate([[0], (profile**2).cumsum()])
    best = (np.inf, 0, n)
    for a in range(n - shortest):
        for b in range(a + shortest, n + 1):
            inside, rest = b - a, n - (b - a)
            if rest < shortest or inside < shortest:
                continue
            s_in, s_out = total[b] - total[a], total[n] - total[b] + total[a]
            cost = square[n] - s_in**2 / inside - s_out**2 / rest
            if s_in / inside > s_out / rest and cost < best[0]:
                best = (cost, a, b)
    cost, a, b = best
    if not np.isfinite(cost):
        return None
    level_in, level_out = profile[a:b].mean(), np.concatenate([profile[:a], profile[b:]]).mean()
    explained = 1 - cost / (((profile - profile.mean()) ** 2).sum() or 1.0)
    outside = np.r_[0:a, b:n]
    spread = float(np.median(high[outside] / np.maximum(median[outside], 1e-30)))
    if level_in < (1 + SLAB_CONTRAST) * level_out or explained < 0.5 or spread > EMPTY_SPREAD:
        return None
    grow = int(np.ceil(0.5 * diameter_px))
    return slice(max(0, a - grow), min(n, b + grow))


def _hessian_eigenvalues(volume):
    """Eigenvalues (3, z, y, x) of the second derivatives, ascending, by finite differences, plane by plane to save memory."""
    gradient = np.gradient(volume)
    hessian = np.empty((*volume.shape, 3, 3), dtype=np.float32)
    for i in range(3):
        for j in range(i, 3):
            hessian[..., i, j] = hessian[..., j, i] = np.gradient(gradient[i], axis=j)
    result = np.empty((3, *volume.shape), dtype=np.float32)
    for z in range(volume.shape[0]):
        result[:, z] = np.moveaxis(np.linalg.eigvalsh(hessian[z]), -1, 0)
    return result


def sheetness(bright, pixel_size_angst: float) -> np.ndarray:
    """Strength of thin bright sheets (z, y, x): the curvature across where it exceeds that along the sheet by far, else 0."""
    blurred = gaussian_filter(bright, max(1.0, SHEET_ANGST / pixel_size_angst), mode="nearest")
    low, middle, high = _hessian_eigenvalues(blurred)
    flat = np.maximum(np.abs(middle), np.abs(high)) < SHEET_FLATNESS * -low
    return np.where(flat, -low, 0).astype(np.float32)


def _large(regions, extent_px: float) -> np.ndarray:
    """The connected parts (26 neighbours) whose bounding box is at least ``extent_px`` long on two axes."""
    labels, n = label(regions, structure=np.ones((3, 3, 3)))
    if n == 0:
        return regions
    from scipy.ndimage import find_objects

    large = [False] + [sorted(s.stop - s.start for s in box)[1] >= extent_px for box in find_objects(labels)]
    return np.array(large)[labels]


def membranes(bright, pixel_size_angst: float, diameter_angst: float) -> np.ndarray:
    """Bool (z, y, x): within SHEET_REACH_ANGST of a thin sheet that is larger than SHEET_EXTENT particles on two axes."""
    strength = sheetness(bright, pixel_size_angst)
    curved = np.abs(np.gradient(np.gradient(gaussian_filter(bright, max(1.0, SHEET_ANGST / pixel_size_angst)), axis=1), axis=1))
    sigma = 1.4826 * np.median(curved)
    sheets = _large(strength > SHEET_SIGMA * sigma, SHEET_EXTENT * diameter_angst / pixel_size_angst)
    return _grown(sheets, SHEET_REACH_ANGST / pixel_size_angst)


def carbon(bright, pixel_size_angst: float, diameter_angst: float) -> np.ndarray:
    """Bool (z, y, x): regions larger than CARBON_EXTENT particles whose local variance is CARBON_RATIO times the median."""
    diameter = diameter_angst / pixel_size_angst
    variance = local_variance(bright, 0.5 * diameter)
    return _large(variance > CARBON_RATIO * np.median(variance), CARBON_EXTENT * diameter)


def _grown(mask, distance_px: float) -> np.ndarray:
    return binary_dilation(mask, iterations=max(1, int(round(distance_px)))) if mask.any() else mask


def gold_in_voxels(searchable, shape, binning: float) -> np.ndarray | None:
    """Where the beads of a tomogram are in its voxels binned to ``shape``, bool (z, y, x); None without beads."""
    if searchable.gold is None:
        return None
    voxels = np.stack(np.unravel_index(searchable.gold.beads, searchable.shape), axis=1)
    places = np.rint(rescaled(voxels, searchable.shape, shape, 1 / binning)).astype(int)
    gold = np.zeros(shape, dtype=bool)
    gold[tuple(np.clip(places, 0, np.array(shape) - 1).T)] = True
    return gold


def gold_summary(searchable, pixel_size_angst: float) -> dict:
    """Beads of the tomogram: centre (x, y, z) and diameter in A, the largest first."""
    if searchable.gold is None:
        return {"gold_voxels": 0, "gold_beads": []}
    centre = np.array(searchable.shape) // 2
    beads = [
        {
            **{f"{axis}_angst": round(float(v), 1) for axis, v in zip("zyx", (place - centre) * pixel_size_angst, strict=True)},
            "diameter_angst": round(size * pixel_size_angst, 1),
        }
        for place, size in searchable.gold.table()
    ]
    return {"gold_voxels": len(searchable.gold.beads), "gold_beads": beads}


@dataclass(frozen=True)
class SearchPlace:
    """region : three slices that hold all that is searched; allowed : bool (z, y, x) or None for all of it."""

    region: tuple
    allowed: np.ndarray | None
    summary: dict


def search_place(bright, gold, mask, plan: MatchPlan, series: TiltSeries, config) -> SearchPlace:
    """Where particles may lie: margin, slab, given mask, seen by the views, away from gold, membranes and carbon."""
    parts, summary, pixel = [], {}, series.pixel_size_angst
    slab = config.slab_thickness_angst
    middle = None
    if slab == "auto":
        found = find_slab(bright, plan.diameter_angst / pixel)
        slab = None if found is None else (found.stop - found.start) * pixel
        middle = None if found is None else 0.5 * (found.start + found.stop - 1)
        summary["slab_px"] = None if found is None else [found.start, found.stop]
    region = search_region(bright.shape, plan.margin_angst / pixel, None if slab is None else slab / pixel, middle)
    if mask is not None:
        parts.append(given_mask(mask, bright.shape))
    if config.min_view_share > 0 and min(series.image_size_px) > 0:
        seen = seen_share(series, bright.shape, plan.margin_angst / pixel) >= config.min_view_share
        if not seen[region].all():
            parts.append(seen)
            summary["seen"] = float(seen[region].mean())
    if gold is not None:
        parts.append(~near_gold(gold, GOLD_DISTANCE * plan.diameter_angst / pixel))
    for wanted, find in ((config.exclude_membranes, membranes), (config.exclude_carbon, carbon)):
        if wanted:
            excluded = find(bright, pixel, plan.diameter_angst)
            summary[find.__name__] = float(excluded[region].mean())
            parts.append(~excluded)
    allowed = np.logical_and.reduce(parts) if parts else None
    if allowed is not None and not allowed[region].any():
        raise UserInputError(
            "E-PICK-04", "the mask leaves nothing of the tomogram to search", field="match_template.search_mask",
            found="no voxel", fix="a mask that is 1 where particles may lie, or fewer exclusions",
        )
    return SearchPlace(region, allowed, summary)
