"""X-ray hits, hot and dead pixels: found on the full views, the same pixels replaced in full, even and odd views.

Criteria and names of IMOD's ccderaser (man page), vectorised over candidates: (1) differences, single pixels, bright or dark, and sums of
two, that stand out of the disc around them; (2) peaks, spots that stand out of the ring around them, as pixels or as means of up to
3 x 3; (3) giant peaks with a wider ring, which must be steep so that gold is spared. X-rays are bright in recorded images, so dark
spots of several pixels (gold, ice) are never touched, and beside them only giants are. A hit falls into one frame and so into one half
view, in which it stands out 1.4 times more: differences are looked for there too. Pixels that are off in most views are defects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage, sparse

from cryoet_core.io.half import from_half, to_half
from cryoet_core.io.images import COLUMNS, series_views, split_image_name
from cryoet_core.io.mrc import number_format
from cryoet_core.io.repairs import Repairs
from cryoet_core.tilt_series.xray_scan import (
    WINDOWS,
    Deviations,
    LocalLevels,
    local_levels,
    scan_windows,
    window_means_at,
)


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
RIM_SIGMA = 2.5  # pixels that touch a spot and stand out by this much belong to it
*PIXEL_WINDOWS, SPOT_WINDOW = WINDOWS  # (rows, columns) that are averaged: for the difference and for the peak criterion
CHANCE_SIGMA = 5.3  # normal deviate that 6e-8 of pixels exceed
GOLD_SHARE, GOLD_SIGMA = 0.12, 2.0  # of a ring's pixels that are this dark (3 x 3 means): a bead lies beside
STEEPNESS_ROWS = 256  # of a view, on which the usual steepness is measured
DEFECT_SIGMA, DEFECT_MEAN_SIGMA, MIN_VOTES = 5.5, 1.0, 4  # of the summed deviation over all views; and at least this much in each on average


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


def _sampled_places(shape):
    """Rows (m, 1) and columns (1, n) of a grid of about 100,000 of the pixels."""
    step = max(1, int(np.sqrt(shape[0] * shape[1] / 1e5)))
    return np.arange(0, shape[0], step)[:, None], np.arange(0, shape[1], step)[None, :]


def _robust(values):
    """(centre, sigma) from median and median deviation of about 100,000 of the values."""
    sample = values.ravel()[:: max(1, values.size // 100_000)]
    centre = float(np.median(sample))
    return centre, 1.4826 * float(np.median(np.abs(sample - centre))) + 1e-9


def _robust_clip(values):
    centre, sigma = _robust(values)
    return np.clip(values, centre - 8 * sigma, centre + 8 * sigma)


@dataclass(frozen=True)
class _Ground:
    """An image with what its candidates are measured against: local levels; and the full view of it, where gold may lie."""

    image: np.ndarray
    levels: LocalLevels
    full: _Ground | None

    @classmethod
    def of(cls, image, settings: XraySettings, full: _Ground | None = None) -> _Ground:
        """``full``: ground of the full view, for a half one."""
        image = np.ascontiguousarray(image, np.float32)
        centre, sigma = _robust(image[_sampled_places(image.shape)])
        return cls(image, local_levels(image, settings.scan_size_px, centre - 8 * sigma, centre + 8 * sigma), full)

    @cached_property
    def _sampled_levels(self):
        """Local mean and sigma at the pixels of :func:`_sampled_places`."""
        return self.levels.at(*_sampled_places(self.image.shape))

    def level(self, n_sigma: float, rows, columns):
        """Local mean + n sigma."""
        mean, sigma = self.levels.at(rows, columns)
        return mean + np.float32(n_sigma) * sigma

    def noise_of(self, window):
        """(share, chance) of means of ``window``: their sigma over that of single pixels, and the deviation in their sigma that
        6e-8 of them exceed by chance, by their skewness (Cornish & Fisher 1938).

        Few counts per pixel have a long bright tail: at 6 electrons 6 sigma is exceeded by chance a hundred times more often than normal.
        """
        mean, sigma = self._sampled_levels
        values = window_means_at(self.image, window, *_sampled_places(self.image.shape))
        sample = np.clip((values - mean) / sigma, -6, 6).ravel()
        sample -= sample.mean()
        share = float(np.sqrt((sample**2).mean())) + 1e-9
        skewness = max(0.0, float((sample * sample * sample).mean()) / share**3)
        return share, CHANCE_SIGMA + (CHANCE_SIGMA**2 - 1) / 6 * min(skewness, 1.5)

    def beside_gold(self, rows, columns, offsets):
        """(n,) bool: so much of the ring is dark that a bead lies in it, and what is bright may be its fringe."""
        ground = self.full or self
        level = ground.level(-GOLD_SIGMA, rows, columns)[:, None]
        around = window_means_at(ground.image, SPOT_WINDOW, rows[:, None] + offsets[:, 0], columns[:, None] + offsets[:, 1])
        return (around < level).mean(axis=1) > GOLD_SHARE


@dataclass(frozen=True)
class _Search:
    """What is looked for in an image with windows of one shape: their noise, and the height in it that is asked."""

    share: float
    criterion: float

    @classmethod
    def of(cls, ground: _Ground, window, settings: XraySettings) -> _Search:
        share, chance = ground.noise_of(window)
        asked = settings.peak_criterion_sigma if window == SPOT_WINDOW else settings.diff_criterion_sigma
        return cls(share, max(asked, chance))

    def threshold(self, settings: XraySettings) -> float:
        """Height in sigma of the image from which on a window is looked at."""
        return max(settings.scan_criterion_sigma, self.criterion - 2) * self.share


def _window_spots(ground: _Ground, window, search: _Search, rows, columns, settings: XraySettings):
    """(rows, columns) of those windows whose mean stands out of the ring around them, beside no gold."""
    share, criterion = search.share, search.criterion
    height = window_means_at(ground.image, window, rows, columns)
    offsets = disc_offsets(settings.maximum_radius_px, settings.maximum_radius_px + ANNULUS_WIDTH_PX)
    ring = gather(ground.image, rows, columns, offsets)
    ring = np.minimum(ring, ground.level(3.0, rows, columns)[:, None])  # another hit may lie in it
    ring_mean, ring_sigma = ring.mean(axis=1), ring.std(axis=1) + 1e-9
    # the ring's own sigma, where it is larger: edges and fringes are no noise
    own = np.maximum(share * ground.levels.at(rows, columns)[1], ring_sigma * share / 1.3)
    above = height - ring_mean
    passed = above > criterion * own
    if window == (1, 1):
        passed |= above > settings.peak_criterion_sigma * ring_sigma
    doubtful = np.flatnonzero(passed & ~(above > settings.giant_criterion_sigma * own))
    passed[doubtful] = ~ground.beside_gold(rows[doubtful], columns[doubtful], offsets)
    return rows[passed], columns[passed]


def _groups(rows, columns, width: int):
    """Bounding boxes (pairs of slices) of groups of pixels that touch; ``rows``, ``columns`` (n,) in the order of pixels, each once."""
    place = rows * width + columns
    links = []
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = np.searchsorted(place, place + dy * width + dx)
        known = other < place.size
        first, second = np.flatnonzero(known), other[known]
        touching = (rows[second] == rows[first] + dy) & (columns[second] == columns[first] + dx)
        links.append(np.stack([first[touching], second[touching]]))
    links = np.concatenate(links, axis=1)
    graph = sparse.coo_matrix((np.ones(links.shape[1], bool), links), shape=(place.size,) * 2)
    count, label = sparse.csgraph.connected_components(graph, directed=False)
    ends = [(ndimage.minimum(v, label, np.arange(count)), ndimage.maximum(v, label, np.arange(count))) for v in (rows, columns)]
    return [tuple(slice(int(low[k]), int(high[k]) + 1) for low, high in ends) for k in range(count)]


def _grow(ground: _Ground, mask, rows, columns, settings: XraySettings):
    """Add to ``mask`` the pixels of accepted windows, of those around the ones that stand out, and the weaker ones that touch those."""
    windows = np.zeros(mask.shape, bool)
    windows[rows, columns] = True
    reach = int(np.ceil(settings.maximum_radius_px)) + 1
    inside = disc_mask(settings.maximum_radius_px)
    for box in _groups(rows, columns, mask.shape[1]):
        part = tuple(slice(max(0, s.start - reach), min(s.stop + reach, n)) for s, n in zip(box, mask.shape, strict=True))
        mean, sigma = ground.levels.at(*part)
        height = (ground.image[part] - mean) / sigma
        near = ndimage.binary_dilation(windows[part], inside)
        strong = near & (height > settings.grow_criterion_sigma)
        # windows around strong pixels reach past the spot; where all are weak, the window is the spot
        seeds = windows[part] & (height > (RIM_SIGMA if (strong & windows[part]).any() else 1.0))
        spot = ndimage.binary_propagation(seeds, np.ones((3, 3)), strong | seeds)
        touching = ndimage.binary_dilation(spot, np.ones((3, 3)))
        mask[part] |= spot | touching & near & (height > RIM_SIGMA)


def _mark_spots(ground: _Ground, mask, windows, settings: XraySettings, giants: bool = False):
    """Mark bright single pixels, pairs and small spots, by the difference and the peak criterion; ``giants``: and larger ones."""
    searches = {window: _Search.of(ground, window, settings) for window in windows}
    thresholds = [searches[w].threshold(settings) if w in searches else np.inf for w in WINDOWS]
    giants = giants and settings.giant_criterion_sigma > 0
    least = max(settings.scan_criterion_sigma + 1, 0.5 * settings.giant_criterion_sigma) if giants else np.inf
    *places, high = scan_windows(ground.image, ground.levels, thresholds, least)
    h, w = mask.shape
    accepted = [np.zeros(0, np.int64)]
    for window, candidates in zip(WINDOWS, places, strict=True):
        if window not in searches:
            continue
        rows, columns = _window_spots(ground, window, searches[window], *candidates, settings)
        first = -1 if window == SPOT_WINDOW else 0
        for dy in range(first, first + window[0]):
            for dx in range(first, first + window[1]):
                y, x = rows + dy, columns + dx
                valid = (y >= 0) & (y < h) & (x >= 0) & (x < w)
                accepted.append(y[valid] * w + x[valid])
    rows, columns = np.divmod(np.unique(np.concatenate(accepted)), w)
    if rows.size:
        _grow(ground, mask, rows, columns, settings)
    if giants:
        _mark_giants(ground.image, mask, *high, settings)


def disc_mask(radius_px: float) -> np.ndarray:
    """Boolean disc for morphology."""
    reach = int(radius_px)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return dy**2 + dx**2 <= radius_px**2


def _mark_giants(image, mask, rows, columns, settings):
    """Mark bright spots larger than the others look for: the giant criterion, with a wider ring; steep, so that gold is spared."""
    radius = settings.extra_large_radius_px
    ring = gather(image, rows, columns, disc_offsets(radius, radius + ANNULUS_WIDTH_PX)).astype(np.float64)
    mean, sigma = ring.mean(axis=1), ring.std(axis=1) + 1e-9
    passed = np.flatnonzero(image[rows, columns] - mean > settings.giant_criterion_sigma * sigma)
    usual = _usual_steepness(image) if passed.size else None
    disc, reach = disc_mask(radius), int(radius)
    for k in passed:
        first = rows[k] - reach, columns[k] - reach
        part = tuple(slice(max(0, f), max(0, f + disc.shape[0])) for f in first)
        patch = image[part]
        inside = disc[max(0, -first[0]) :, max(0, -first[1]) :][: patch.shape[0], : patch.shape[1]]
        grown = inside & (patch - mean[k] > settings.grow_criterion_sigma * sigma[k])
        labels = ndimage.label(grown, structure=np.ones((3, 3)))[0]
        grown = labels == labels[rows[k] - part[0].start, columns[k] - part[1].start]  # without chance ones beside it
        if _steep_enough(_steepness(image, part, *usual)[grown], settings):
            mask[part] |= grown


def _usual_steepness(image):
    """(mean, sigma) of the absolute differences of neighbours, outliers clipped, on a sample of rows."""
    step = max(1, len(image) // STEEPNESS_ROWS)
    upper, lower = image[1::step], image[:-1:step][: len(image[1::step])]
    sample = _robust_clip(np.abs(np.stack([upper[:, 1:] - lower[:, 1:], np.diff(upper, axis=1)])))
    return float(sample.mean(dtype=np.float64)), float(sample.std(dtype=np.float64)) + 1e-9


def _steepness(image, part, mean: float, sigma: float):
    """Largest absolute difference to the 4 neighbours in a part of the view, in standard deviations above the usual."""
    wider = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in part)
    patch = image[wider]
    dy, dx = np.abs(np.diff(patch, axis=0)), np.abs(np.diff(patch, axis=1))
    steep = np.zeros_like(patch)
    for target, value in ((np.s_[1:], dy), (np.s_[:-1], dy), (np.s_[:, 1:], dx), (np.s_[:, :-1], dx)):
        steep[target] = np.maximum(steep[target], value)
    shape = image[part].shape
    first = [s.start - w.start for s, w in zip(part, wider, strict=True)]
    return (steep[first[0] : first[0] + shape[0], first[1] : first[1] + shape[1]] - mean) / sigma


def _steep_enough(values, settings):
    count = max(3, int(round(0.25 * values.size)))
    return np.sort(values)[-count:].mean() >= settings.big_diff_criterion_sigma


def _mark_dark_pixels(image, mask, rows, columns, z, settings: XraySettings):
    """Mark single dark pixels: the difference criterion against the median of the 24 around; ``z``: deviations of these pixels."""
    values = gather(image, rows, columns, disc_offsets(0, 2.9))
    outlying = z * (image[rows, columns] - np.median(values, axis=1)) / np.minimum(image[rows, columns] - values.mean(axis=1), -1e-9)
    dark = outlying < -settings.diff_criterion_sigma
    mask[rows[dark], columns[dark]] = True


@dataclass(frozen=True)
class XrayMasks:
    """pixels : flat indices to replace, one array per view. defects : (h, w) bool, in all views."""

    pixels: list
    defects: np.ndarray

    def mask(self, view: int) -> np.ndarray:
        """(h, w) bool of one view."""
        mask = self.defects.copy()
        mask.ravel()[self.pixels[view]] = True
        return mask

    @property
    def masks(self) -> np.ndarray:
        """(n, h, w) bool; for small stacks."""
        return np.stack([self.mask(view) for view in range(len(self.pixels))])

    @property
    def pixels_per_view(self) -> np.ndarray:
        """(n,) how many pixels are replaced, defects included."""
        known = self.defects.ravel()
        return np.array([int(known.sum()) + int((~known[p]).sum()) for p in self.pixels])


def find_in_view(images, settings: XraySettings, deviations: Deviations):
    """Flat indices of the pixels to replace in one view; ``images`` (h, w), or (m, h, w) with the full view first and its halves.

    The view is added to ``deviations``.
    """
    full, halves = (images, ()) if images.ndim == 2 else (images[0], images[1:])
    mask = np.zeros(full.shape, bool)
    ground = _Ground.of(full, settings)
    _mark_spots(ground, mask, WINDOWS, settings, giants=True)
    for half in halves:
        _mark_spots(_Ground.of(half, settings, ground), mask, PIXEL_WINDOWS, settings)
    _mark_dark_pixels(ground.image, mask, *deviations.add(ground.image, ground.levels), settings)
    return np.flatnonzero(mask)


def find_defects(deviations: Deviations, settings: XraySettings):
    """(h, w) bool: pixels that are off in most views, by votes and by summed deviations."""
    n = deviations.n
    voted = np.abs(deviations.votes) >= max(MIN_VOTES, settings.recurrent_fraction * n)
    if n < 3:
        return voted
    return voted | (np.abs(deviations.total) > max(DEFECT_SIGMA * np.sqrt(n), DEFECT_MEAN_SIGMA * n))


def find_xrays(views, settings: XraySettings, included=None) -> XrayMasks:
    """What to replace in an iterable of views, (h, w) float32 or (3, h, w) with full, even and odd; one is in memory at a time.

    Excluded views are not searched and do not vote on defects.
    """
    pixels, deviations = [], None
    for i, images in enumerate(views):
        deviations = deviations or Deviations(images.shape[-2:], settings.scan_criterion_sigma)
        if included is not None and not included[i]:
            pixels.append(np.zeros(0, np.int64))
            continue
        pixels.append(find_in_view(images, settings, deviations))
    return XrayMasks(pixels, find_defects(deviations, settings))


def fill_values(image, mask, rng: np.random.Generator, radius_px: float = 6.0):
    """(n,) float32 for the masked pixels of ``image`` (h, w), in their order: the local mean of the others plus noise of their standard deviation.

    A pixel with fewer than 8 good ones within ``radius_px`` takes mean and noise of the whole image.
    """
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    mean, sigma, alone = np.empty(rows.size), np.empty(rows.size), np.empty(rows.size, bool)
    offsets = disc_offsets(0, radius_px)
    for start in range(0, rows.size, 1 << 16):
        part = slice(start, start + (1 << 16))
        weight = ~gather(mask, rows[part], columns[part], offsets)
        values = gather(image, rows[part], columns[part], offsets).astype(np.float64)
        count = np.maximum(weight.sum(axis=1), 1)
        mean[part] = (values * weight).sum(axis=1) / count
        sigma[part] = np.sqrt((weight * (values - mean[part, None]) ** 2).sum(axis=1) / count)
        alone[part] = count < 8
    if alone.any():
        everywhere = image[~mask] if not mask.all() else np.zeros(1, image.dtype)
        mean[alone], sigma[alone] = everywhere.mean(dtype=np.float64), everywhere.std(dtype=np.float64)
    return (mean + sigma * rng.standard_normal(rows.size)).astype(np.float32)


def fill(image, mask, rng: np.random.Generator, radius_px: float = 6.0):
    """The image with its masked pixels replaced by :func:`fill_values`."""
    filled = image.copy()
    filled[mask] = fill_values(image, mask, rng, radius_px)
    return filled


def erase_view(images, mask, generators):
    """:func:`fill` the same pixels in full, even and odd images (3, h, w) of one view, each with its own noise."""
    return np.stack([fill(image, mask, rng) for image, rng in zip(images, generators, strict=True)])


def list_repairs(series, found: XrayMasks, generators_of) -> tuple[Repairs, np.ndarray]:
    """The pixels of ``found`` with their new values in the full, even and odd image of every view, each with its own noise; and a picture.

    generators_of : tilt_id -> three generators. Values are rounded as the stacks are, so that a repaired stack has the very same ones.
    Only views with something to repair are read. The picture, (2, h, w), is the full view around the pixel that changes most, before and after.
    """
    views = [series_views(series, column) for column in COLUMNS]
    stacks = tuple(split_image_name(series.tilts[column].iloc[0])[1] for column in COLUMNS)
    halved = [number_format(path) == "float16" for path in stacks]
    places, values = [np.zeros((0, 3), np.int64)], [np.zeros((0, 3), np.float32)]
    most, picture = 0.0, None
    for row, tilt_id in enumerate(series.tilts["tilt_id"].tolist()):
        mask = found.mask(row)
        rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
        if rows.size == 0:
            continue
        images = [part[row] for part in views]
        new = [fill_values(image, mask, rng) for image, rng in zip(images, generators_of(tilt_id), strict=True)]
        new = [from_half(to_half(v)) if narrow else v for v, narrow in zip(new, halved, strict=True)]
        places.append(np.stack([np.full(rows.size, tilt_id), rows, columns], axis=1))
        values.append(np.stack(new, axis=1))
        change = np.abs(images[0][rows, columns] - new[0])
        if change.max() > most:
            k = int(np.argmax(change))
            most, window = float(change[k]), _around(rows[k], columns[k])
            after = images[0].copy()
            after[rows, columns] = new[0]
            picture = np.stack([images[0][window], after[window]])
    if picture is None:
        h, w = views[0].shape[1:]
        picture = np.stack([views[0][0][_around(h // 2, w // 2)]] * 2)
    return Repairs(*np.concatenate(places).T, np.concatenate(values), stacks, views[0].shape[:0:-1]), picture


def _around(row: int, column: int, reach: int = 24):
    """Slices of a part of a view about a pixel."""
    return tuple(slice(max(0, int(c) - reach), int(c) + reach) for c in (row, column))
