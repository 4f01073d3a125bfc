"""Detector defects: what every frame of a camera shares beyond its gain (io/gain.py reads that)."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, ndimage_module

DEFECT_SIGMA = 6.0  # robust standard deviations on the unaligned sum, as RELION and MotionCor use
MAX_DEFECT_FRACTION = 0.02  # more than this is not a handful of pixels: the threshold met real contrast
_RADIUS = 2


def _box_mean(image, ndimage):
    return ndimage.uniform_filter(image, size=2 * _RADIUS + 1, mode="nearest")


def _outliers(image, sigma: float):
    """Pixels of ``image`` (h, w) further than ``sigma`` standard deviations from their 5 x 5 median -> (h, w) bool.

    The spread follows sqrt(local mean), as counts do, so that a view half behind a grid bar has no false outliers. The
    medians are taken only where the fast box mean gives a reason to look.
    """
    xp = array_namespace(image)
    local = _box_mean(image, ndimage_module(xp))
    floor = max(float(xp.median(local)), 0.0) * 0.05
    scale = xp.sqrt(xp.maximum(local, floor)) if floor > 0 else xp.ones_like(image)
    residual = (image - local) / scale
    spread = 1.4826 * float(xp.median(xp.abs(residual[::3, ::3])))
    found = xp.zeros(image.shape, dtype=bool)
    if spread <= 0:
        return found
    rows, columns = xp.nonzero(xp.abs(residual) > 0.7 * sigma * spread)
    reach = xp.arange(-_RADIUS, _RADIUS + 1)
    y = xp.clip(rows[:, None, None] + reach[:, None], 0, image.shape[0] - 1)
    x = xp.clip(columns[:, None, None] + reach, 0, image.shape[1] - 1)
    median = xp.median(image[y, x].reshape(len(rows), -1), axis=1)
    distance = xp.abs(image[rows, columns] - median) / scale[rows, columns]
    found[rows, columns] = distance > sigma * spread
    return found


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
    bad = xp.ones(half_sums[0].shape, dtype=bool)
    for half in half_sums:
        bad &= _outliers(half, share)
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
