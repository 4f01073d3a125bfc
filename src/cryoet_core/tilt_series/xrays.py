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
RIM_SIGMA = 2.5  # pixels that touch a spot and stand out by this much belong to it
PIXEL_WINDOWS = ((1, 1), (1, 2), (2, 1), (2, 2))  # (rows, columns) that are averaged, for the difference criterion
SPOT_WINDOW = (3, 3)  # for the peak criterion
CHANCE_SIGMA = 5.3  # normal deviate that 6e-8 of pixels exceed
GOLD_SHARE, GOLD_SIGMA = 0.12, 2.0  # of a ring's pixels that are this dark (3 x 3 means): a bead lies beside
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


def _places(mask):
    """np.nonzero of a (h, w) mask with few places, which is several times slower there."""
    return np.unravel_index(np.flatnonzero(mask), mask.shape)


def _sample(values):
    """About 100,000 of the pixels, (m,) contiguous."""
    step = max(1, int(np.sqrt(values.size / 1e5)))
    return values[::step, ::step].ravel()


def _robust(values):
    """(centre, sigma) from median and median deviation of a sample of pixels."""
    sample = _sample(values)
    centre = float(np.median(sample))
    return centre, 1.4826 * float(np.median(np.abs(sample - centre))) + 1e-9


def _robust_clip(image):
    centre, sigma = _robust(image)
    return np.clip(image, centre - 8 * sigma, centre + 8 * sigma)


def local_statistics(image, size_px: int):
    """Mean and standard deviation around every pixel, outliers clipped: (h, w) float32 each.

    Taken in blocks of a third of ``size_px`` and averaged over 3 x 3 blocks, so a block's pixels share them.
    """
    clipped = _robust_clip(image)
    block = max(4, size_px // 3)
    edges = [np.linspace(0, n, max(1, round(n / block)) + 1).astype(int) for n in image.shape]
    counts = np.diff(edges[0])[:, None] * np.diff(edges[1])[None, :]

    def smooth_sums(values):
        sums = np.add.reduceat(np.add.reduceat(values, edges[1][:-1], axis=1), edges[0][:-1], axis=0, dtype=np.float64)
        return ndimage.uniform_filter(sums / counts, 3, mode="nearest")

    centre = clipped.mean(dtype=np.float64)
    clipped -= np.float32(centre)
    mean = smooth_sums(clipped)
    sigma = np.sqrt(np.maximum(smooth_sums(clipped * clipped) - mean * mean, 1e-12))

    def spread(values):
        rows = np.repeat(values.astype(np.float32), np.diff(edges[1]), axis=1)
        return np.repeat(rows, np.diff(edges[0]), axis=0)

    return spread(mean + centre), spread(sigma)


def window_mean(image, window):
    """Mean over ``window`` (rows, columns) about this pixel, or from it on where a length is even; beyond the border mirrored."""
    total = image
    for axis, length in enumerate(window):
        if length > 1:
            before = (length - 1) // 2 if length % 2 else 0
            pad = [(0, 0), (0, 0)]
            pad[axis] = before, length - 1 - before
            padded = np.pad(total, pad, mode="reflect").swapaxes(0, axis)
            n = image.shape[axis]
            total = padded[:n] + padded[1 : n + 1]
            for first in range(2, length):
                total += padded[first : first + n]
            total = total.swapaxes(0, axis)
    return total if total is image else total * np.float32(1 / (window[0] * window[1]))


def _noise_of(values, ground):
    """(share, chance) of window means ``values``: their sigma over that of single pixels, and the deviation in their sigma that
    6e-8 of them exceed by chance, by their skewness (Cornish & Fisher 1938).

    Few counts per pixel have a long bright tail: at 6 electrons 6 sigma is exceeded by chance a hundred times more often than normal.
    """
    mean, sigma = ground.sampled
    sample = np.clip((_sample(values) - mean) / sigma, -6, 6)
    sample -= sample.mean()
    share = float(np.sqrt((sample**2).mean())) + 1e-9
    skewness = max(0.0, float((sample * sample * sample).mean()) / share**3)
    return share, CHANCE_SIGMA + (CHANCE_SIGMA**2 - 1) / 6 * min(skewness, 1.5)


@dataclass(frozen=True)
class _Ground:
    """An image with what its candidates are measured against: local mean and sigma; and where gold may lie.

    smooth, dark : means of 3 x 3 pixels of the full view and the level below which they are gold.
    """

    image: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray
    smooth: np.ndarray
    dark: np.ndarray

    @classmethod
    def of(cls, image, settings: XraySettings, full: _Ground | None = None) -> _Ground:
        """``full``: ground of the full view, for a half one."""
        mean, sigma = local_statistics(image, settings.scan_size_px)
        if full is not None:
            return cls(image, mean, sigma, full.smooth, full.dark)
        return cls(image, mean, sigma, window_mean(image, SPOT_WINDOW), mean - np.float32(GOLD_SIGMA) * sigma)

    @cached_property
    def sampled(self):
        """Mean and sigma at the pixels of :func:`_sample`."""
        return _sample(self.mean), _sample(self.sigma)

    def level(self, n_sigma: float, where=np.s_[:]):
        """Local mean + n sigma."""
        return self.mean[where] + np.float32(n_sigma) * self.sigma[where]


def _beside_gold(ground: _Ground, rows, columns, offsets):
    """(n,) bool: so much of the ring is dark that a bead lies in it, and what is bright may be its fringe."""
    level = ground.dark[rows, columns][:, None]
    return (gather(ground.smooth, rows, columns, offsets) < level).mean(axis=1) > GOLD_SHARE


def _window_spots(ground: _Ground, window, criterion: float, settings: XraySettings):
    """(rows, columns) of windows whose mean stands out of the ring around them, beside no gold."""
    values = ground.smooth if window == SPOT_WINDOW else window_mean(ground.image, window)
    share, chance = _noise_of(values, ground)
    criterion = max(criterion, chance)
    rows, columns = _places(values > ground.level(max(settings.scan_criterion_sigma, criterion - 2) * share))
    height, sigma = values[rows, columns], share * ground.sigma[rows, columns]
    around = gather(values, rows, columns, disc_offsets(0, 1.5))
    best = height >= around.max(axis=1) if rows.size else np.zeros(0, bool)
    rows, columns, height, sigma = rows[best], columns[best], height[best], sigma[best]
    offsets = disc_offsets(settings.maximum_radius_px, settings.maximum_radius_px + ANNULUS_WIDTH_PX)
    ring = gather(ground.image, rows, columns, offsets)
    ring = np.minimum(ring, ground.level(3.0, (rows, columns))[:, None])  # another hit may lie in it
    ring_mean, ring_sigma = ring.mean(axis=1), ring.std(axis=1) + 1e-9
    # the ring's own sigma, where it is larger: edges and fringes are no noise
    own = np.maximum(sigma, ring_sigma * share / 1.3)
    passed = height - ring_mean > criterion * own
    if window == (1, 1):
        passed |= height - ring_mean > settings.peak_criterion_sigma * ring_sigma
    giant = height - ring_mean > settings.giant_criterion_sigma * own
    passed &= giant | ~_beside_gold(ground, rows, columns, offsets)
    return rows[passed], columns[passed]


def _grow(ground: _Ground, mask, windows, settings: XraySettings):
    """Add to ``windows`` (mask of accepted ones) the pixels around that stand out, and the weaker ones that touch those."""
    labels, count = ndimage.label(windows, structure=np.ones((3, 3)))
    reach = int(np.ceil(settings.maximum_radius_px)) + 1
    inside = disc_mask(settings.maximum_radius_px)
    for box in ndimage.find_objects(labels):
        part = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in box)
        height = (ground.image[part] - ground.mean[part]) / ground.sigma[part]
        near = ndimage.binary_dilation(windows[part], inside)
        strong = near & (height > settings.grow_criterion_sigma)
        # windows around strong pixels reach past the spot; where all are weak, the window is the spot
        seeds = windows[part] & (height > (RIM_SIGMA if (strong & windows[part]).any() else 1.0))
        spot = ndimage.binary_propagation(seeds, np.ones((3, 3)), strong | seeds)
        touching = ndimage.binary_dilation(spot, np.ones((3, 3)))
        mask[part] |= spot | touching & near & (height > RIM_SIGMA)


def find_spots(image, settings: XraySettings, windows=(*PIXEL_WINDOWS, SPOT_WINDOW), ground=None):
    """Mask of bright single pixels, pairs and small spots: the difference and the peak criterion."""
    ground = ground or _Ground.of(image, settings)
    accepted = np.zeros(image.shape, bool)
    for window in windows:
        criterion = settings.peak_criterion_sigma if window == SPOT_WINDOW else settings.diff_criterion_sigma
        rows, columns = _window_spots(ground, window, criterion, settings)
        first = -1 if window == SPOT_WINDOW else 0
        for dy in range(first, first + window[0]):
            for dx in range(first, first + window[1]):
                y, x = rows + dy, columns + dx
                valid = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
                accepted[y[valid], x[valid]] = True
    mask = np.zeros(image.shape, bool)
    _grow(ground, mask, accepted, settings)
    return mask


def find_giants(image, settings: XraySettings, ground=None):
    """Mask of bright spots larger than the others look for: the giant criterion, with a wider ring; steep, so that gold is spared."""
    mask = np.zeros(image.shape, bool)
    if settings.giant_criterion_sigma <= 0:
        return mask
    ground = ground or _Ground.of(image, settings)
    high = image - ground.mean > max(settings.scan_criterion_sigma + 1, 0.5 * settings.giant_criterion_sigma) * ground.sigma
    rows, columns = _places(high)
    if rows.size:
        best = image[rows, columns] >= gather(image, rows, columns, disc_offsets(0, 1.5)).max(axis=1)
        _mark_giants(image, mask, rows[best], columns[best], settings)
    return mask


def disc_mask(radius_px: float) -> np.ndarray:
    """Boolean disc for morphology."""
    reach = int(radius_px)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return dy**2 + dx**2 <= radius_px**2


def _mark_giants(image, mask, rows, columns, settings):
    radius = settings.extra_large_radius_px
    ring = gather(image, rows, columns, disc_offsets(radius, radius + ANNULUS_WIDTH_PX)).astype(np.float64)
    mean, sigma = ring.mean(axis=1), ring.std(axis=1) + 1e-9
    passed = np.flatnonzero(image[rows, columns] - mean > settings.giant_criterion_sigma * sigma)
    steepness = _steepness(image) if passed.size else None
    disc, reach = disc_mask(radius), int(radius)
    for k in passed:
        first = rows[k] - reach, columns[k] - reach
        part = tuple(slice(max(0, f), max(0, f + disc.shape[0])) for f in first)
        patch = image[part]
        inside = disc[max(0, -first[0]) :, max(0, -first[1]) :][: patch.shape[0], : patch.shape[1]]
        grown = inside & (patch - mean[k] > settings.grow_criterion_sigma * sigma[k])
        labels = ndimage.label(grown, structure=np.ones((3, 3)))[0]
        grown = labels == labels[rows[k] - part[0].start, columns[k] - part[1].start]  # without chance ones beside it
        if _steep_enough(steepness[part][grown], settings):
            mask[part] |= grown


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


def deviation(image, settings: XraySettings, ground=None):
    """Every pixel minus the mean of the 24 around it, in local sigma: (h, w) float32."""
    ground = ground or _Ground.of(image, settings)
    clipped = np.clip(image, ground.mean - 4 * ground.sigma, ground.mean + 4 * ground.sigma)
    around = (window_mean(clipped, (5, 5)) * 25 - clipped) * np.float32(1 / 24)
    return (image - around) / ground.sigma


def find_dark_pixels(z, image, settings: XraySettings):
    """Mask of single dark pixels: the difference criterion against the median of the 24 around; ``z``: :func:`deviation`."""
    rows, columns = _places(z < -settings.scan_criterion_sigma)
    values = gather(image, rows, columns, disc_offsets(0, 2.9))
    outlying = z[rows, columns] * (image[rows, columns] - np.median(values, axis=1)) / np.minimum(
        image[rows, columns] - values.mean(axis=1), -1e-9
    )
    mask = np.zeros(image.shape, bool)
    dark = outlying < -settings.diff_criterion_sigma
    mask[rows[dark], columns[dark]] = True
    return mask


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


def find_in_view(images, settings: XraySettings):
    """Mask (h, w) of one view, and its :func:`deviation`; ``images`` (h, w), or (m, h, w) with the full view first and its halves."""
    full, halves = (images, ()) if images.ndim == 2 else (images[0], images[1:])
    ground = _Ground.of(full, settings)
    mask = find_spots(full, settings, ground=ground) | find_giants(full, settings, ground)
    for half in halves:
        mask |= find_spots(half, settings, PIXEL_WINDOWS, _Ground.of(half, settings, ground))
    z = deviation(full, settings, ground)
    return mask | find_dark_pixels(z, full, settings), z


class _Defects:
    """Pixels that are off in most views: summed deviations and votes."""

    def __init__(self):
        self.total, self.votes, self.n = 0.0, 0, 0

    def add(self, z, settings: XraySettings) -> None:
        self.total = self.total + np.clip(z, -4, 4)
        strong = np.abs(z) > settings.scan_criterion_sigma
        self.votes = self.votes + np.where(strong, np.sign(z), 0).astype(np.int16)
        self.n += 1

    def found(self, settings: XraySettings):
        voted = np.abs(self.votes) >= max(MIN_VOTES, settings.recurrent_fraction * self.n)
        if self.n < 3:
            return voted
        needed = max(DEFECT_SIGMA * np.sqrt(self.n), DEFECT_MEAN_SIGMA * self.n)
        return voted | (np.abs(self.total) > needed)


def find_xrays(views, settings: XraySettings, included=None) -> XrayMasks:
    """What to replace in an iterable of views, (h, w) float32 or (3, h, w) with full, even and odd; one is in memory at a time.

    Excluded views are not searched and do not vote on defects.
    """
    pixels, defects, shape = [], _Defects(), None
    for i, images in enumerate(views):
        shape = images.shape[-2:]
        if included is not None and not included[i]:
            pixels.append(np.zeros(0, np.int64))
            continue
        mask, z = find_in_view(images, settings)
        defects.add(z, settings)
        pixels.append(np.flatnonzero(mask))
    return XrayMasks(pixels, defects.found(settings) if defects.n else np.zeros(shape, bool))


def fill(image, mask, rng: np.random.Generator, radius_px: float = 6.0):
    """Replace masked pixels by the local mean of the others plus noise of their standard deviation.

    A pixel with fewer than 8 good ones within ``radius_px`` takes mean and noise of the whole image.
    """
    rows, columns = _places(mask)
    if not rows.size:
        return image
    good = ~mask
    everywhere = image[good] if good.any() else np.zeros(1, image.dtype)
    mean = np.full(rows.size, everywhere.mean(dtype=np.float64))
    sigma = np.full(rows.size, everywhere.std(dtype=np.float64))
    offsets = disc_offsets(0, radius_px)
    for start in range(0, rows.size, 1 << 16):
        part = slice(start, start + (1 << 16))
        weight = gather(good, rows[part], columns[part], offsets)
        values = gather(image, rows[part], columns[part], offsets).astype(np.float64)
        count = np.maximum(weight.sum(axis=1), 1)
        local = (values * weight).sum(axis=1) / count
        spread = np.sqrt((weight * (values - local[:, None]) ** 2).sum(axis=1) / count)
        enough = count >= 8
        mean[part], sigma[part] = np.where(enough, local, mean[part]), np.where(enough, spread, sigma[part])
    filled = image.copy()
    filled[rows, columns] = mean + sigma * rng.standard_normal(rows.size)
    return filled


def erase_view(images, mask, generators):
    """:func:`fill` the same pixels in full, even and odd images (3, h, w) of one view, each with its own noise."""
    return np.stack([fill(image, mask, rng) for image, rng in zip(images, generators, strict=True)])
