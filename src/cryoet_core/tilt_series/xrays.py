"""X-ray hits, hot and dead pixels: found on the full views, the same pixels replaced in full, even and odd views.

Criteria and names of IMOD's ccderaser (man page), vectorised over candidates: (1) peaks, bright spots that stand out of the ring
around them, as pixels or as means of 3 x 3; (2) giant peaks with a wider ring, which must be steep so that gold is spared; (3) differences, single pixels or
pairs that differ from the median of the 24 pixels around them, bright or dark. Besides, pixels that stand out in most views are
camera defects. X-rays are bright in recorded images, so dark spots of several pixels (gold, ice) are never touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class XraySettings:
    """See config/erase_xrays.py for meaning and units."""

    peak_criterion_sigma: float = 8.0
    diff_criterion_sigma: float = 6.0
    grow_criterion_sigma: float = 4.0
    scan_criterion_sigma: float = 3.0
    maximum_radius_px: float = 4.2
    giant_criterion_sigma: float = 12.0
    extra_large_radius_px: float = 8.0
    big_diff_criterion_sigma: float = 19.0
    scan_size_px: int = 100
    recurrent_fraction: float = 0.5


ANNULUS_WIDTH_PX = 2.0
MAX_DIFFERENCE_PATCH_PX = 4


def disc_offsets(inner_px: float, outer_px: float) -> np.ndarray:
    """(m, 2) integer (dy, dx) with inner^2 < r^2 <= outer^2; inner < 0 includes the centre."""
    reach = int(np.ceil(outer_px))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    squared = dy**2 + dx**2
    keep = (squared > np.sign(inner_px) * inner_px**2) & (squared <= outer_px**2)
    return np.stack([dy[keep], dx[keep]], axis=1)


def gather(image, rows, columns, offsets):
    """(n_points, m) values around points; beyond the border the image is mirrored."""
    h, w = image.shape
    y, x = rows[:, None] + offsets[None, :, 0], columns[:, None] + offsets[None, :, 1]
    return image[_mirror(y, h), _mirror(x, w)]


def _mirror(index, n):
    index = np.abs(index)
    return np.where(index >= n, 2 * (n - 1) - index, index)


def _robust_clip(image):
    centre = float(np.median(image[::3, ::3]))
    sigma = 1.4826 * float(np.median(np.abs(image[::3, ::3] - centre))) + 1e-9
    return np.clip(image, centre - 8 * sigma, centre + 8 * sigma)


def local_statistics(image, size_px: int):
    """Mean and standard deviation in a window about every pixel, outliers clipped; (h, w) float32 each."""
    clipped = _robust_clip(image)
    mean = ndimage.uniform_filter(clipped, size_px, mode="mirror")
    square = ndimage.uniform_filter(clipped * clipped, size_px, mode="mirror")
    return mean, np.sqrt(np.maximum(square - mean * mean, 1e-12))


def neighbour_difference(image):
    """Pixel minus the mean of its 8 neighbours, and the local standard deviation of that difference."""
    mean9 = ndimage.uniform_filter(image, 3, mode="mirror")
    difference = (image - mean9) * np.float32(9 / 8)
    clipped = _robust_clip(difference)
    return difference, np.sqrt(ndimage.uniform_filter(clipped * clipped, 51, mode="mirror")) + 1e-9


def find_peaks(image, settings: XraySettings):
    """Mask of bright spots by the peak and the giant criterion."""
    mean, sigma = local_statistics(image, settings.scan_size_px)
    high = image - mean > settings.scan_criterion_sigma * sigma
    rows, columns = np.nonzero(high & (image >= ndimage.maximum_filter(image, 3, mode="mirror")))
    mask = np.zeros(image.shape, bool)
    taken = _mark_spots(image, mask, rows, columns, settings.maximum_radius_px, settings.peak_criterion_sigma, settings)
    if settings.giant_criterion_sigma > 0:
        strong = ~taken & (image - mean > (settings.scan_criterion_sigma + 1) * sigma)[rows, columns]
        steep = _steepness(image)
        _mark_spots(image, mask, rows[strong], columns[strong], settings.extra_large_radius_px,
                    settings.giant_criterion_sigma, settings, steep)  # fmt: skip
    return mask | find_faint_spots(image, settings)


def find_faint_spots(image, settings: XraySettings):
    """Mask of bright spots whose pixels are too weak one by one: the peak criterion on the mean of 3 x 3 pixels."""
    smooth = ndimage.uniform_filter(image, 3, mode="mirror")
    mean, sigma = local_statistics(smooth, settings.scan_size_px)
    high = smooth - mean > settings.peak_criterion_sigma * sigma
    rows, columns = np.nonzero(high & (smooth >= ndimage.maximum_filter(smooth, 3, mode="mirror")))
    mask = np.zeros(image.shape, bool)
    if not rows.size:
        return mask
    ring = gather(smooth, rows, columns, disc_offsets(settings.maximum_radius_px, settings.maximum_radius_px + 2.0))
    passed = smooth[rows, columns] - ring.mean(axis=1) > settings.peak_criterion_sigma * ring.std(axis=1)
    mask[rows[passed], columns[passed]] = True
    near = ndimage.binary_dilation(mask, disc_mask(settings.maximum_radius_px))
    own_mean, own_sigma = local_statistics(image, settings.scan_size_px)
    height = (image - own_mean) / own_sigma
    return near & ((height > 3) | ((height > 2) & (smooth - mean > settings.grow_criterion_sigma * sigma)))


def disc_mask(radius_px: float) -> np.ndarray:
    """Boolean disc for morphology."""
    reach = int(radius_px)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return dy**2 + dx**2 <= radius_px**2


def _mark_spots(image, mask, rows, columns, radius, criterion, settings, steepness=None):
    """Mark the spots around candidates that pass; returns which did (n,) bool."""
    if not rows.size:
        return np.zeros(0, bool)
    ring = gather(image, rows, columns, disc_offsets(radius, radius + ANNULUS_WIDTH_PX)).astype(np.float64)
    mean, sigma = ring.mean(axis=1), ring.std(axis=1) + 1e-9
    passed = image[rows, columns] - mean > criterion * sigma
    inside = disc_offsets(-1, radius)
    for k in np.flatnonzero(passed):
        y, x = rows[k] + inside[:, 0], columns[k] + inside[:, 1]
        valid = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
        y, x = y[valid], x[valid]
        grown = image[y, x] - mean[k] > settings.grow_criterion_sigma * sigma[k]
        if steepness is not None and not _steep_enough(steepness[y[grown], x[grown]], settings):
            passed[k] = False
            continue
        mask[y[grown], x[grown]] = True
    return passed


def _steepness(image):
    """Largest absolute difference to the 4 neighbours, in standard deviations above its mean over the view."""
    dy, dx = np.abs(np.diff(image, axis=0)), np.abs(np.diff(image, axis=1))
    steep = np.zeros_like(image)
    for target, value in ((np.s_[1:], dy), (np.s_[:-1], dy), (np.s_[:, 1:], dx), (np.s_[:, :-1], dx)):
        steep[target] = np.maximum(steep[target], value)
    sample = _robust_clip(np.concatenate([dy[:, 1:], dx[1:]]))
    return (steep - sample.mean(dtype=np.float64)) / (sample.std(dtype=np.float64) + 1e-9)


def _steep_enough(values, settings):
    count = max(3, int(round(0.25 * values.size)))
    return np.sort(values)[-count:].mean() >= settings.big_diff_criterion_sigma


def find_differences(image, settings: XraySettings):
    """Single outlying pixels (and up to a few together), bright or dark; also the map of all that stand out weakly.

    Returns mask, weak (h, w) int8: -1, 0, +1 where a pixel differs from its surroundings by more than the scan criterion.
    """
    difference, sigma = neighbour_difference(image)
    rows, columns = np.nonzero(np.abs(difference) > settings.scan_criterion_sigma * sigma)
    around = disc_offsets(0, 2.9)
    values = gather(image, rows, columns, around)
    outlying = image[rows, columns] - np.median(values, axis=1)
    z = np.zeros(image.shape, np.float32)
    z[rows, columns] = outlying / sigma[rows, columns]
    grown, count = ndimage.label(np.abs(z) > settings.grow_criterion_sigma, structure=np.ones((3, 3)))
    sizes = np.bincount(grown.ravel(), minlength=count + 1)
    strongest = ndimage.maximum(np.abs(z), grown, np.arange(count + 1)) if count else np.zeros(1)
    accept = (np.asarray(strongest) > settings.diff_criterion_sigma) & (sizes <= MAX_DIFFERENCE_PATCH_PX)
    accept[0] = False
    weak = np.sign(z) * (np.abs(z) > settings.scan_criterion_sigma)
    return accept[grown], weak.astype(np.int8)


@dataclass(frozen=True)
class XrayMasks:
    """masks : (n, h, w) bool, pixels to replace. defects : (h, w) bool, in all views."""

    masks: np.ndarray
    defects: np.ndarray


def find_xrays(images, settings: XraySettings, included=None) -> XrayMasks:
    """Masks for an iterable of (h, w) float32 views. Excluded views are not searched and do not vote on defects."""
    masks, votes, n_voting = [], 0, 0
    for i, image in enumerate(images):
        if included is not None and not included[i]:
            masks.append(np.zeros(image.shape, bool))
            continue
        single, weak = find_differences(image, settings)
        masks.append(single | find_peaks(image, settings))
        votes, n_voting = votes + weak.astype(np.int16), n_voting + 1
    needed = max(3, settings.recurrent_fraction * n_voting)
    defects = np.abs(votes) >= needed if n_voting else np.zeros(masks[0].shape, bool)
    masks = np.stack(masks)
    masks |= defects
    return XrayMasks(masks, defects)


def fill(image, mask, rng: np.random.Generator, radius_px: float = 6.0):
    """Replace masked pixels by the local mean of the others plus noise of their standard deviation."""
    if not mask.any():
        return image
    size = 2 * int(np.ceil(radius_px)) + 1
    good = (~mask).astype(np.float32)
    weight = np.maximum(ndimage.uniform_filter(good, size, mode="mirror"), 1e-6)
    centre = np.float32(image[~mask].mean(dtype=np.float64))
    flat = (image - centre) * good
    mean = ndimage.uniform_filter(flat, size, mode="mirror")[mask] / weight[mask]
    square = ndimage.uniform_filter(flat * flat, size, mode="mirror")[mask] / weight[mask]
    sigma = np.sqrt(np.maximum(square - mean * mean, 0))
    filled = image.copy()
    filled[mask] = centre + mean + sigma * rng.standard_normal(mean.size, dtype=np.float32)
    return filled


def erase_view(images, mask, generators):
    """:func:`fill` the same pixels in full, even and odd images (3, h, w) of one view, each with its own noise."""
    return np.stack([fill(image, mask, rng) for image, rng in zip(images, generators, strict=True)])
