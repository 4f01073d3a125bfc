"""Detector defects: what every frame of a camera shares beyond its gain (io/gain.py reads that)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace

DEFECT_SIGMA = 6.0  # robust standard deviations on the unaligned sum, as RELION and MotionCor use
MAX_DEFECT_FRACTION = 0.02  # more than this is not a handful of pixels: the threshold met real contrast
_RADIUS = 2
_TILE = 8
_LOOK = 0.7  # share of the threshold beyond which a pixel is looked at closely


def _tile_means(image, xp):
    """(rows, columns) means of the tiles of _TILE x _TILE; ``image`` repeats its edge where it does not fill the last ones."""
    pad = [(0, -n % _TILE) for n in image.shape]
    if any(p for _, p in pad):
        image = xp.pad(image, pad, mode="edge")
    rows, columns = (n // _TILE for n in image.shape)
    # whole lines first: sums of long contiguous rows are many times faster than of short ones
    lines = image.reshape(rows, _TILE, image.shape[1]).sum(axis=1)
    return lines.reshape(rows, columns, _TILE).sum(axis=2) / _TILE**2


def _outside(image, low, high, xp):
    """(rows, columns) of the pixels below ``low`` or above ``high``, which are given per tile."""
    found = []
    for top in range(0, image.shape[0], _TILE):
        block = image[top : top + _TILE]
        floor, ceiling = (xp.repeat(t[top // _TILE], _TILE)[: image.shape[1]] for t in (low, high))
        places = xp.flatnonzero((block < floor) | (block > ceiling))
        found.append(places + top * image.shape[1])
    places = xp.concatenate(found)
    return places // image.shape[1], places % image.shape[1]


@dataclass(frozen=True)
class _Expected:
    """What a good pixel of ``image`` is: near its surroundings, with a spread that follows sqrt(local mean), as that of counts does.

    Because of the square root a view that is half behind a grid bar has no false outliers. local, spread : (rows, columns) of tiles.
    """

    image: np.ndarray
    local: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, image):
        xp = array_namespace(image)
        local = _tile_means(image, xp)
        floor = max(float(xp.median(local)), 0.0) * 0.05
        scale = xp.sqrt(xp.maximum(local, floor)) if floor > 0 else xp.ones_like(local)
        sample = image[3::_TILE, 4::_TILE]
        h, w = sample.shape
        return cls(image, local, scale * 1.4826 * xp.median(xp.abs(sample - local[:h, :w]) / scale[:h, :w]))

    def off(self, sigma: float):
        """(rows, columns) of the pixels further than ``sigma`` standard deviations from the mean of their tile."""
        xp, reach = array_namespace(self.image), sigma * self.spread
        return _outside(self.image, self.local - reach, self.local + reach, xp)

    def deviation(self, places):
        """Distance from the mean of the tile, standard deviations, at ``places`` (rows, columns)."""
        tile = tuple(p // _TILE for p in places)
        return (self.image[places] - self.local[tile]) / self.spread[tile]

    def deviation_from_median(self, places):
        """The same from the median of 5 x 5 pixels, which neither an edge nor the defect itself moves."""
        xp, (rows, columns) = array_namespace(self.image), places
        if not len(rows):
            return xp.zeros(0, dtype=xp.float32)
        reach = xp.arange(-_RADIUS, _RADIUS + 1)
        y = xp.clip(rows[:, None, None] + reach[:, None], 0, self.image.shape[0] - 1)
        x = xp.clip(columns[:, None, None] + reach, 0, self.image.shape[1] - 1)
        median = xp.median(self.image[y, x].reshape(len(rows), -1), axis=1)
        return (self.image[places] - median) / self.spread[rows // _TILE, columns // _TILE]


def _same_side(deviations, sigma: float, xp):
    """Where all of ``deviations`` are above sigma, or all are below -sigma."""
    stack = xp.stack(deviations)
    return (stack > sigma).all(axis=0) | (stack < -sigma).all(axis=0)


def find_defects(half_sums, known=None, *, sigma: float = DEFECT_SIGMA):
    """Defective pixels of the camera: dead in the gain, or outlying in the unaligned sum of *both* halves of the frames.

    A cosmic ray hits one frame, a hot or dead pixel all of them: asking both halves leaves the rays to erase_xrays. Medians are
    taken only where the distance from the mean of an 8 x 8 tile gives a reason to look.

    Parameters
    ----------
    half_sums : one or two (h, w) unaligned sums of gain-corrected frames. known : (h, w) bool of dead pixels, or None.
    sigma : threshold on the whole sum; each of two halves must pass sigma / sqrt(2) with the same sign.

    Returns
    -------
    (h, w) bool, True = defective.
    """
    xp = array_namespace(half_sums[0])
    share = sigma / np.sqrt(len(half_sums))
    bad = xp.zeros(half_sums[0].shape, dtype=bool)
    expected = [_Expected.of(half) for half in half_sums]
    if all(float(e.spread.max()) > 0 for e in expected):
        places = expected[0].off(_LOOK * share)
        for test, threshold in ((_Expected.deviation, _LOOK * share), (_Expected.deviation_from_median, share)):
            found = _same_side([test(e, places) for e in expected], threshold, xp)
            places = tuple(p[found] for p in places)
        bad[places] = True
    if int(xp.count_nonzero(bad)) > MAX_DEFECT_FRACTION * bad.size:
        bad[...] = False
    return bad if known is None else bad | xp.asarray(known)


class DefectFiller:
    """Replaces defective pixels of a frame by random good neighbours: right local mean, right noise, no blurring.

    Source: RELION's motion correction does the same within two pixels; here the window grows until good pixels exist.
    """

    def __init__(self, defects):
        bad = np.asarray(defects, dtype=bool)
        self.rows, self.columns = np.unravel_index(np.flatnonzero(bad), bad.shape)  # many times faster than nonzero in two dimensions
        self._bad = bad

    def __len__(self):
        return len(self.rows)

    def fill(self, frame, rng: np.random.Generator):
        """Fill ``frame`` (h, w, host array) in place with draws of ``rng`` and return it."""
        todo = np.arange(len(self.rows))
        h, w = frame.shape
        reach, trials = _RADIUS, 0
        while len(todo) and reach < max(h, w):
            dy = rng.integers(-reach, reach + 1, len(todo))
            dx = rng.integers(-reach, reach + 1, len(todo))
            y = np.clip(self.rows[todo] + dy, 0, h - 1)
            x = np.clip(self.columns[todo] + dx, 0, w - 1)
            good = ~self._bad[y, x]
            frame[self.rows[todo[good]], self.columns[todo[good]]] = frame[y[good], x[good]]
            todo = todo[~good]
            trials += 1
            if trials % 8 == 0:
                reach *= 2
        return frame
