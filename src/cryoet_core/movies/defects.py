"""Detector defects: what every frame of a camera shares beyond its gain (io/gain.py reads that)."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace

DEFECT_SIGMA = 6.0  # robust standard deviations on the unaligned sum, as RELION and MotionCor use
MAX_DEFECT_FRACTION = 0.02  # more than this is not a handful of pixels: the threshold met real contrast
_RADIUS = 2
_TILE = 8


def _tiles(image, xp):
    """``image`` as (rows, _TILE, columns, _TILE), repeating the edge where it does not fill the last tiles."""
    pad = [(0, -n % _TILE) for n in image.shape]
    if any(p for _, p in pad):
        image = xp.pad(image, pad, mode="edge")
    return image.reshape(image.shape[0] // _TILE, _TILE, image.shape[1] // _TILE, _TILE)


def _outliers(image, sigma: float, among=None):
    """Pixels of ``image`` (h, w) further than ``sigma`` standard deviations from their 5 x 5 median.

    The spread follows sqrt(local mean), as counts do, so that a view half behind a grid bar has no false outliers. The
    medians are taken only where the distance from the mean of an 8 x 8 tile gives a reason to look. among : (rows, columns) to
    judge, None for all. Returns (rows, columns).
    """
    xp = array_namespace(image)
    tiles = _tiles(image, xp)
    local = tiles.mean(axis=3).mean(axis=1)
    floor = max(float(xp.median(local)), 0.0) * 0.05
    scale = xp.sqrt(xp.maximum(local, floor)) if floor > 0 else xp.ones_like(local)
    spread = 1.4826 * float(xp.median(xp.abs(tiles[:, 3, :, 4] - local) / scale))
    nothing = xp.zeros(0, dtype=xp.int64)
    if spread <= 0:
        return nothing, nothing
    if among is None:
        far = xp.abs(tiles - local[:, None, :, None]) > (0.7 * sigma * spread * scale)[:, None, :, None]
        y, j, x, i = xp.nonzero(far)
        rows, columns = y * _TILE + j, x * _TILE + i
        inside = (rows < image.shape[0]) & (columns < image.shape[1])
        rows, columns = rows[inside], columns[inside]
    else:
        rows, columns = among
    reach = xp.arange(-_RADIUS, _RADIUS + 1)
    y = xp.clip(rows[:, None, None] + reach[:, None], 0, image.shape[0] - 1)
    x = xp.clip(columns[:, None, None] + reach, 0, image.shape[1] - 1)
    median = xp.median(image[y, x].reshape(len(rows), -1), axis=1) if len(rows) else nothing
    distance = xp.abs(image[rows, columns] - median) / scale[rows // _TILE, columns // _TILE]
    found = distance > sigma * spread
    return rows[found], columns[found]


def find_defects(half_sums, known=None, *, sigma: float = DEFECT_SIGMA):
    """Defective pixels of the camera: dead in the gain, or outlying in the unaligned sum of *both* halves of the frames.

    A cosmic ray hits one frame, a hot or dead pixel all of them: asking both halves leaves the rays to erase_xrays.

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
    places = None
    for half in half_sums:
        places = _outliers(half, share, places)
    bad = xp.zeros(half_sums[0].shape, dtype=bool)
    bad[places] = True
    if float(bad.mean()) > MAX_DEFECT_FRACTION:
        bad[...] = False
    return bad if known is None else bad | xp.asarray(known)


class DefectFiller:
    """Replaces defective pixels of a frame by random good neighbours: right local mean, right noise, no blurring.

    Source: RELION's motion correction does the same within two pixels; here the window grows until good pixels exist.
    """

    def __init__(self, defects):
        bad = np.asarray(defects, dtype=bool)
        self.rows, self.columns = np.nonzero(bad)
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
