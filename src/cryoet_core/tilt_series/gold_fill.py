"""Beads taken out of a view: each is covered by a piece of the view near it, levelled to what surrounds the bead.

The piece has the view's own noise and texture, and it is the same place in the full, the even and the odd image, so
that even + odd stays the full view and the noise of the halves stays independent. What is levelled is the difference
of the two rims, a plane; nothing is smoothed, and only pixels about the beads are touched.
"""

from __future__ import annotations

import hashlib

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.tilt_series.gold import series_beams
from cryoet_core.tilt_series.gold_file import read_gold
from cryoet_core.tilt_series.gold_spots import Beam, find_of_size

FRINGES = 1.5  # widths of the first bright fringe beyond the edge that are covered: what lies further out sums to zero
MARGIN_ANGST = 5.0  # error of a place
PLACE_ERROR = 0.2  # of the diameter: what is searched in one view is found in pixels of a fifth of it
RIM = 0.35  # of the radius: width of the rim that is levelled
MIN_RIM_PX = 3
TRIES = 500  # places of a view among which the nearest free one is copied


class BeadEraser:
    """Takes beads out of the views of a series, in every step in the same way.

    series : TiltSeries whose rows the views are; its ``gold_file`` says where beads lie. diameter_angst : "auto", the
    beads that were found; a number, also whatever else in a view answers to a search for beads of that size; None,
    nothing. pixel_size_angst : of the views, where it is not the series'.
    """

    def __init__(self, series, diameter_angst: float | str | None, pixel_size_angst: float | None = None):
        self.diameter_angst, self.name = diameter_angst, series.name
        self.pixel_size_angst = pixel_size_angst or series.pixel_size_angst
        self.gold = read_gold(None if diameter_angst is None else series.gold_file)
        self.tilt_id, self.beams = series.tilts["tilt_id"].to_numpy(), series_beams(series)

    def __call__(self, row: int, images):
        """Images (m, h, w) or (h, w) of the view in a row, full one first, without beads; the same array where there
        are none."""
        if self.diameter_angst is None:
            return images
        stack = images[None] if images.ndim == 2 else images
        xy, diameter = self.gold.in_view(self.tilt_id[row])
        if self.diameter_angst != "auto":
            found = find_of_size(stack[0], self.pixel_size_angst, self.diameter_angst, self.beams[row])
            wide = (1 + PLACE_ERROR) * float(self.diameter_angst)
            diameter = np.concatenate([np.full(len(xy), float(self.diameter_angst)), np.full(len(found), wide)])
            xy = np.concatenate([xy, found])
        radius = covered_radius_angst(diameter, self.beams[row])
        filled = fill_discs(stack, self.pixel_size_angst, xy, radius, self._generator(row))
        if filled is stack:
            return images
        return filled[0] if images.ndim == 2 else filled

    def _generator(self, row):
        """Random numbers of the view alone: no other view, and no step, changes how it is filled."""
        digest = hashlib.sha256(f"gold/{self.name}/{self.tilt_id[row]}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def covered_radius_angst(diameter_angst, beam: Beam):
    """Radius, A, within which a bead of this diameter is seen: it, its fringe, and the error of its place."""
    return 0.5 * np.asarray(diameter_angst) + FRINGES * beam.fringe_angst + MARGIN_ANGST


def fill_discs(images, pixel_size_angst: float, xy_angst, radius_angst, rng):
    """Images (m, h, w) of one view with discs covered; the same array where there are none.

    xy_angst : (k, 2) from the centre (index n//2). radius_angst : (k,). rng : numpy Generator, drawn from in the same
    way whatever the discs.
    """
    height, width = images.shape[1:]
    middle, radius = (
        np.array([width // 2, height // 2]) + np.reshape(xy_angst, (-1, 2)) / pixel_size_angst,
        np.asarray(radius_angst) / pixel_size_angst,
    )
    touching = np.all((middle > -radius[:, None]) & (middle < np.array([width, height]) - 1 + radius[:, None]), axis=1)
    middle, radius = middle[touching], radius[touching]
    free = rng.random((TRIES, 2)) * [width, height]
    if not len(middle):
        return images
    xp, out = array_namespace(images), images.copy()
    for k in range(len(middle)):
        reach = int(np.ceil(radius[k] + max(RIM * radius[k], MIN_RIM_PX)))
        first = np.maximum(np.round(middle[k]).astype(int) - reach, 0)
        last = np.minimum(np.round(middle[k]).astype(int) + reach + 1, [width, height])
        x, y = np.arange(first[0], last[0])[None], np.arange(first[1], last[1])[:, None]
        distance = np.hypot(x - middle[k, 0], y - middle[k, 1])
        disc, rim = distance <= radius[k], distance > radius[k]
        for j in np.flatnonzero(np.linalg.norm(middle - middle[k], axis=1) < radius + 1.5 * reach):
            rim &= np.hypot(x - middle[j, 0], y - middle[j, 1]) > radius[j]
        here = asnumpy(images[:, first[1] : last[1], first[0] : last[0]])
        step = _copied_from(free, middle, radius, k, first, last, (width, height), 1.5 * reach)
        a, b = first + step, last + step
        piece = asnumpy(images[:, a[1] : b[1], a[0] : b[0]])
        level = _plane(here.astype(np.float64) - piece, rim, x - middle[k, 0], y - middle[k, 1])
        out[:, first[1] : last[1], first[0] : last[0]] = xp.asarray(
            np.where(disc, piece + level, asnumpy(out[:, first[1] : last[1], first[0] : last[0]])).astype(np.float32)
        )
    return out


def _copied_from(free, middle, radius, k, first, last, size, reach):
    """(x, y) step from a disc's window to the one that is copied: the nearest of the places ``free`` that holds no
    bead, else the one farthest from any."""
    low, high = middle[k] - first, np.array(size) - (last - middle[k])
    inside = np.all((free >= low) & (free <= high), axis=1)
    steps = np.round(free[inside] - middle[k]).astype(int) if inside.any() else np.zeros((1, 2), int)
    steps = steps[np.all((first + steps >= 0) & (last + steps <= size), axis=1)]
    if not len(steps):
        return np.zeros(2, int)
    gap = (np.linalg.norm(middle[k] + steps[:, None] - middle[None], axis=2) - radius).min(axis=1)
    clear = gap > reach
    return (
        steps[np.argmin(np.where(clear, np.linalg.norm(steps, axis=1), np.inf))]
        if clear.any()
        else steps[np.argmax(gap)]
    )


def _plane(values, where, x, y):
    """Planes (m, h, w) fitted to ``values`` (m, h, w) at the pixels ``where``; 0 when there are hardly any."""
    x, y = np.broadcast_arrays(x, y)
    basis = np.stack([np.ones(x.shape), x, y])
    if where.sum() < 12:
        return np.zeros(values.shape)
    at = basis[:, where]
    found = np.linalg.lstsq(at.T, values[:, where].T, rcond=None)[0]  # (3, m)
    return np.tensordot(found.T, basis, axes=1)
