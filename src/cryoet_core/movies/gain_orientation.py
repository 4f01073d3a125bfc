"""Which way round a gain reference belongs to a camera's movies, decided by the counts themselves.

Uncorrected counts carry the sensitivity of every pixel, 1 / gain. Of the eight orientations, and of multiplying against dividing, the
right one is that whose fine structure correlates with the fine structure of the summed counts. No other program of the field does this.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
from scipy.ndimage import uniform_filter

from cryoet_core.io.gain import orient

MIN_SIGMA = 8.0  # the best orientation must correlate by this much, and lead the next by as much
_BOX = 7
_CLIP = 5.0


@dataclass(frozen=True)
class Orientation:
    """Flip along x, then y, then transpose, as io.gain.orient; inverse: the reference divides."""

    flip_x: bool = False
    flip_y: bool = False
    transpose: bool = False
    inverse: bool = False


@dataclass(frozen=True)
class GainEvidence:
    """best; significance of its correlation, and of its lead over the next orientation, in standard deviations of noise.

    given_significance : that of the orientation the config gives (with its sign), nan where its size does not fit.
    """

    best: Orientation
    significance: float
    lead: float
    given_significance: float

    @property
    def decided(self) -> bool:
        return self.significance >= MIN_SIGMA and self.lead >= MIN_SIGMA

    def summary(self) -> dict:
        return {**asdict(self.best), "significance_sigma": self.significance, "lead_sigma": self.lead,
                "given_significance_sigma": self.given_significance, "decided": self.decided}


def _fine_structure(image) -> np.ndarray:
    """Relative deviation from the local mean, outliers (hot, dead pixels) clipped, zero mean and unit variance."""
    image = np.asarray(image, dtype=np.float32)
    local = uniform_filter(image, _BOX, mode="nearest")
    with np.errstate(divide="ignore", invalid="ignore"):
        fine = np.where(local > 0, image / local - 1, 0.0)
    spread = 1.4826 * float(np.median(np.abs(fine[::3, ::3]))) or float(fine.std()) or 1.0
    fine = np.clip(fine, -_CLIP * spread, _CLIP * spread)
    fine -= fine.mean(dtype=np.float64)
    return fine / max(float(np.sqrt((fine**2).mean(dtype=np.float64))), 1e-12)


def _blocks(sensitivity, shape):
    """Block means of a super-resolution sensitivity, so that it has as many pixels as the counts; others pass."""
    factor = int(np.rint(np.sqrt(sensitivity.size / (shape[0] * shape[1]))))
    if factor < 2 or sorted(sensitivity.shape) != sorted(factor * n for n in shape):
        return sensitivity
    h, w = (n // factor for n in sensitivity.shape)
    return sensitivity.reshape(h, factor, w, factor).mean(axis=(1, 3))


def find_orientation(counts, gain_image, given: Orientation | None = None) -> GainEvidence:
    """Evidence for the orientation of a gain reference.

    Parameters
    ----------
    counts : (h, w) sum of uncorrected frames, row 0 at the bottom. gain_image : the reference as read, any of the two
    shapes; zeros and other bad values are taken as 1. given : the orientation of the config.

    An orientation is a sign (multiply or divide) and one of eight turns; for a camera that is not square four fit.
    """
    given = given or Orientation()
    good = np.isfinite(gain_image) & (gain_image > 0)
    typical = float(np.median(gain_image[good])) if good.any() else 1.0
    sensitivity = 1.0 / np.where(good, gain_image, typical)
    measured, expected = _fine_structure(counts), _fine_structure(_blocks(sensitivity, counts.shape))
    root_n, found = np.sqrt(measured.size), {}
    for flip_x, flip_y, transpose in product((False, True), repeat=3):
        turned = orient(expected, flip_x=flip_x, flip_y=flip_y, transpose=transpose)
        if turned.shape == measured.shape:
            found[flip_x, flip_y, transpose] = float((measured * turned).mean(dtype=np.float64)) * root_n
    order = sorted(found, key=lambda turn: abs(found[turn]), reverse=True)
    if not order:
        return GainEvidence(given, 0.0, 0.0, float("nan"))
    best, value = order[0], found[order[0]]
    lead = (abs(value) - abs(found[order[1]])) / np.sqrt(2) if len(order) > 1 else abs(value)
    own = found.get((given.flip_x, given.flip_y, given.transpose), float("nan")) * (-1 if given.inverse else 1)
    return GainEvidence(Orientation(*best, inverse=value < 0), abs(value), float(lead), own)
