"""A mask of the particle from its map."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.fourier import lowpass
from cryoet_core.masks import centre_distance, mask_from_map


def automatic_mask(volume, pixel_size_angst, *, lowpass_angst, threshold=None, dilate_px=2.0, edge_px=4.0):
    """Mask of the particle: low-pass, threshold (Otsu's when None), largest object, dilation, soft edge.

    Only the sphere of the box counts; the mask fades out before its border.
    """
    xp = array_namespace(volume)
    n = volume.shape[0]
    smooth = lowpass(volume, lowpass_angst, pixel_size_angst, 3)
    ball = centre_distance(volume.shape, xp) < n / 2 - edge_px - dilate_px
    level = otsu_threshold(asnumpy(smooth[ball])) if threshold is None else threshold
    return mask_from_map(xp.where(ball, smooth, xp.float32(-1e30)), level, dilate_px, edge_px)


def otsu_threshold(values, bins: int = 256) -> float:
    """Grey value that separates two classes with the largest variance between them (Otsu 1979)."""
    values = np.asarray(values, dtype=np.float64).ravel()
    counts, edges = np.histogram(values, bins=bins)
    centres = 0.5 * (edges[1:] + edges[:-1])
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)[:-1]
    mean_below = sums / np.maximum(below, 1)
    mean_above = (np.sum(counts * centres) - sums) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * (mean_above - mean_below) ** 2)])
