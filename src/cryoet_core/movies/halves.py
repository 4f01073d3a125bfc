"""Even and odd halves of a stack that comes without frames, by splitting its counting noise.

A counted image y (in units of c per electron) has variance c * E[y]. Drawing each electron into one of two halves
("thinning") gives two images of the same specimen whose counting noise is independent and whose sum is y. For integer
counts the draw is binomial and exact; for scaled counts its Gaussian limit is used, y/2 +- z/2 with var z = c * local mean.
c is read off the power at the highest frequencies, where only white detector noise is left. Like halves made from frames,
these share every disturbance of the specimen itself. If the stack was interpolated (noise damped towards Nyquist), c is too
small, the halves still share noise, and their agreement is too good: the summary says how the halves were made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from cryoet_core.backend import fft_module
from cryoet_core.fourier import radial_frequency

FLOOR_BAND = (0.40, 0.50)  # cycles per pixel
MAX_SPREAD = 0.15  # relative robust spread of variance/mean over views that still counts as proportional
_BOX = 9


@dataclass(frozen=True)
class NoiseModel:
    """kind: "counts" (integers, 1 per electron), "scaled_counts" (variance = unit * mean) or "constant" (variance = floor).

    unit : grey values per electron (nan for "constant"). spread : relative spread of variance/mean over the views.
    """

    kind: str
    unit: float
    spread: float


def noise_floor(image) -> float:
    """Variance per pixel of the white noise in ``image`` (h, w), from its power at FLOOR_BAND."""
    spectrum = fft_module(np).rfft2(image.astype(np.float32))
    k = radial_frequency(image.shape)
    inside = (k >= FLOOR_BAND[0]) & (k < FLOOR_BAND[1])
    return float(np.mean(np.abs(spectrum[inside]) ** 2, dtype=np.float64) / image.size)


def noise_model(images) -> NoiseModel:
    """Which noise the views of a stack have. ``images``: iterable of (h, w), read once.

    Integer data whose variance is that of counts are "counts"; positive data whose variance is proportional to the mean over
    the views are "scaled_counts"; anything else is "constant".
    """
    ratios, integer, positive = [], True, True
    for image in images:
        mean = float(image.mean(dtype=np.float64))
        positive &= mean > 0 and float(np.quantile(image, 0.001)) >= 0
        integer &= bool((image == np.rint(image)).all()) and float(image.min()) >= 0
        ratios.append(noise_floor(image) / mean if mean > 0 else np.nan)
    ratios = np.array(ratios)
    unit = float(np.median(ratios))
    spread = float(1.4826 * np.median(np.abs(ratios - unit)) / unit) if unit > 0 else float("nan")
    if not positive or not spread < MAX_SPREAD:
        return NoiseModel("constant", float("nan"), spread)
    return NoiseModel("counts" if integer and 0.5 < unit < 1.3 else "scaled_counts", unit, spread)


def split_image(image, model: NoiseModel, rng: np.random.Generator):
    """Two images (h, w) float32 with independent counting noise, whose sum is ``image``."""
    if model.kind == "counts":
        odd = rng.binomial(np.rint(image).astype(np.int64), 0.5).astype(np.float32)
        return image - odd, odd
    if model.kind == "scaled_counts":
        variance = model.unit * np.maximum(uniform_filter(image, _BOX, mode="nearest"), 0)
    else:
        variance = noise_floor(image)
    draw = rng.standard_normal(image.shape, dtype=np.float32) * np.sqrt(variance).astype(np.float32)
    even = (0.5 * (image + draw)).astype(np.float32)
    return even, (image - even).astype(np.float32)
