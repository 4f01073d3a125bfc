"""Peaks of a score map: local maxima, a robust threshold, a minimum distance."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from cryoet_core.errors import UserInputError


def robust_statistics(values) -> tuple[float, float]:
    """Median and 1.4826 * median absolute deviation (the standard deviation of a Gaussian)."""
    median = float(np.median(values))
    return median, float(1.4826 * np.median(np.abs(values - median)))


def search_region(shape, margin_px: float, slab_px: float | None = None, middle_px: float | None = None):
    """Three slices (z, y, x) of the voxels to search: a border is left out, and all but a slab when asked.

    middle_px : plane (z index) about which the slab lies, None for the central one.

    Raises UserInputError E-PICK-01 when nothing is left.
    """
    margin = int(round(margin_px))
    region = [slice(min(margin, n // 2), max(n - margin, n // 2)) for n in shape]
    if slab_px is not None:
        half, middle = max(1, int(round(slab_px / 2))), shape[0] // 2 if middle_px is None else int(round(middle_px))
        region[0] = slice(max(region[0].start, middle - half), min(region[0].stop, middle + half + 1))
    if any(r.stop - r.start < 1 for r in region):
        raise UserInputError(
            "E-PICK-01", "nothing of the tomogram is left to search", field="match_template.edge_margin_angst",
            found=f"tomogram {tuple(shape)}, margin {margin} px", fix="a smaller margin or a thicker tomogram",
        )
    return tuple(region)


def local_maxima(score, radius_px: int, lowest: float):
    """Voxels (k, 3) int64 (z, y, x) that are the largest within ``radius_px`` along the axes and above ``lowest``, best first."""
    size = 2 * max(1, int(radius_px)) + 1
    found = np.argwhere((score == maximum_filter(score, size=size)) & (score > lowest))
    values = score[tuple(found.T)]
    return found[np.lexsort((found[:, 2], found[:, 1], found[:, 0], -values))].astype(np.int64)


def prune_close(positions, scores, min_distance: float) -> np.ndarray:
    """Indices of the positions (k, 3) kept when the better one of every pair closer than ``min_distance`` wins, best first."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    if len(order) == 0:
        return order
    tree = cKDTree(positions)
    removed = np.zeros(len(order), dtype=bool)
    kept = []
    for i in order:
        if removed[i]:
            continue
        kept.append(i)
        removed[tree.query_ball_point(positions[i], min_distance * (1 - 1e-9))] = True
    return np.array(kept, dtype=np.int64)


def parabola_offset(low, middle, high) -> float:
    """Position of the maximum of a parabola through three values at -1, 0, 1; 0 when the middle is not the largest."""
    curvature = low - 2 * middle + high
    if curvature >= 0 or middle < max(low, high):
        return 0.0
    return float(0.5 * (low - high) / curvature)
