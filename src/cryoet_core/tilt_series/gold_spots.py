"""Dark round spots of one view, each measured against the image of a gold bead: where it lies, its diameter, darkness
and roundness.

Spots are looked for at several sizes in a view of about 10 A per pixel, and each is fitted with the profile of a bead
(gold_image.py) in finer pixels. Nothing is assumed about the diameter, nor that there is gold at all. Darkness is
absolute: gold is about 1, most protein below 0.7, whatever the unit of the grey values, because the noise of a view
says how many electrons made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from cryoet_core.backend import array_namespace, asnumpy, ndimage_module
from cryoet_core.ctf.model import Optics
from cryoet_core.tilt_series.gold_image import bead_profiles, fringe_angst

SEARCH_ANGST, FIT_ANGST = 10.0, 4.5  # pixel sizes that spots are looked for and fitted in
STEP_OF_SIZES = 2.0**0.5
SIZES_ANGST = tuple(50.0 * STEP_OF_SIZES ** np.arange(5))  # diameters looked for: 50 to 200 A
INNER, OUTER = 0.28, 0.56  # widths of the two Gaussians whose difference answers to spots, in diameters
STEP = 1.04  # between the diameters that are fitted, 36 to 290 A
FITTED_ANGST = 36.0 * STEP ** np.arange(54)
SEED_DARKNESS, SEED_SIGMA = 0.6, 4.5  # of a place worth a fit: relative to gold, and to the robust spread of the view
DARKNESS, MISFIT, SNR = (0.7, 4.0), 0.4, 5.0  # of a spot that may be gold: see Spots
LEAST_ANGST = 42.0  # diameter of gold: what is smaller gathers at the end of what is fitted
# more fits than beads may end with something else, from the darkest place on: then there are no more beads
PATIENCE = 40
FIT_TURNS = 3
# less dark, or more of the image unexplained: no bead, whatever the next turns of the fit would say
HOPELESS = 0.55, 1.0
# noise of counts over that of the dose, least (a filtered view) and most (few electrons come through)
NOISE_OVER_DOSE = 0.7, 6.0
USUAL_NOISE_OVER_DOSE = 1.5
USUAL_DOSE, USUAL_DEFOCUS_ANGST, USUAL_OPTICS = 3.0, 25000.0, Optics(300.0, 2.7, 0.1)  # where nothing is known


@dataclass(frozen=True)
class Beam:
    """How a view was taken; None where it is not known."""

    dose_e_per_a2: float | None = None
    defocus_angst: float | None = None
    optics: Optics = USUAL_OPTICS

    @property
    def log_defocus(self) -> int:
        """Defocus in steps of a tenth, so that views of about the same share their profiles."""
        return round(np.log(max(abs(self.defocus_angst or USUAL_DEFOCUS_ANGST), 1000.0)) / np.log(1.1))

    @property
    def fringe_angst(self) -> float:
        """How far the first bright fringe reaches from the edge of a bead."""
        return fringe_angst(self.defocus_angst or USUAL_DEFOCUS_ANGST, self.optics)


@dataclass(frozen=True)
class Spots:
    """Spots of a view.

    xy_angst : (m, 2) from the view's centre (index n//2). diameter_angst : (m,) of the bead that fits best. darkness
    : (m,) contrast relative to that of a gold bead of this diameter. misfit : (m,) power of the image that no bead
    explains, noise taken off, over the power of the bead. snr : (m,) power of the bead over that of the noise, root.
    seeds : (k, 4) x, y (A), size looked for (A), darkness of all that answered to the search: also spots cut by the
    border or part of others.
    """

    xy_angst: np.ndarray
    diameter_angst: np.ndarray
    darkness: np.ndarray
    misfit: np.ndarray
    snr: np.ndarray
    seeds: np.ndarray

    @property
    def dark_and_round(self) -> np.ndarray:
        """(m,) bool: like gold, of any size."""
        return _like_gold(self.diameter_angst, self.darkness, self.misfit, self.snr, 0.0)

    @property
    def like_gold(self) -> np.ndarray:
        """(m,) bool: round, as dark as gold, and not the smallest."""
        return _like_gold(self.diameter_angst, self.darkness, self.misfit, self.snr)


def _like_gold(diameter_angst, darkness, misfit, snr, least_angst=LEAST_ANGST):
    return (
        (diameter_angst > least_angst)
        & (darkness > DARKNESS[0])
        & (darkness < DARKNESS[1])
        & (misfit < MISFIT)
        & (snr > SNR)
    )


def find_spots(image, pixel_size_angst: float, beam: Beam | None = None) -> Spots:
    """Dark spots of a recorded view (h, w), numpy or cupy, in any unit of grey values."""
    beam = beam or Beam()
    full, zero, noise = _grey_scale(image, pixel_size_angst, beam)
    seeds, strength = (
        np.concatenate(part)
        for part in zip(*(_seeds(image, pixel_size_angst, size, zero, beam) for size in SIZES_ANGST), strict=True)
    )
    binning = max(1, round(FIT_ANGST / pixel_size_angst))
    fit = _Fit(image, zero, pixel_size_angst, binning, noise / (full * pixel_size_angst * binning), beam)
    fitted, beads = [], 0
    for number, seed in enumerate(_darkest_first(seeds, strength)):
        if number - beads == PATIENCE + beads:
            break
        row = fit.spot(seed)
        if row is not None:
            fitted.append(row)
            beads += _like_gold(*row[2:])
    table = _distinct(np.array(fitted).reshape(-1, 6))
    return Spots(table[:, :2], *table[:, 2:].T, seeds)


def find_of_size(image, pixel_size_angst: float, diameter_angst: float, beam: Beam | None = None) -> np.ndarray:
    """(k, 2) x, y from the centre, A, of all that answers to a search for spots of this diameter, whatever it is."""
    beam = beam or Beam()
    zero = _grey_scale(image, pixel_size_angst, beam)[1]
    return _seeds(image, pixel_size_angst, float(diameter_angst), zero, beam)[0][:, :2]


def block_mean(image, binning: int):
    """Means of squares of ``binning`` pixels (h // binning, w // binning), float32; what is left over at the ends is
    not used."""
    xp = array_namespace(image)
    h, w = (n // binning for n in image.shape)
    rows = image[: h * binning, : w * binning].reshape(h, binning, w * binning).mean(axis=1, dtype=xp.float32)
    return rows.reshape(h, w, binning).mean(axis=2, dtype=xp.float32)


def _grey_scale(image, pixel_size_angst, beam):
    """Grey value of the view's background above that of no electrons, the latter, and the noise of the mean over 1 A^2.

    The background is the median itself where the noise allows it to be counts; else (mean subtracted, an offset
    added) what the noise says.
    """
    xp = array_namespace(image)
    binning = max(1, min(round(SEARCH_ANGST / pixel_size_angst), min(image.shape) // 3))
    small = block_mean(image, binning)
    level = float(xp.median(small))
    noise = (
        1.4826 / np.sqrt(2) * float(xp.median(xp.abs(small[:, 1:] - small[:, :-1]))) * pixel_size_angst * binning
        + 1e-12
    )
    of_dose = noise * np.sqrt(beam.dose_e_per_a2 or USUAL_DOSE)  # the background if the dose made all of the noise
    counts = of_dose / NOISE_OVER_DOSE[1] < level < of_dose / NOISE_OVER_DOSE[0]
    full = float(level if counts else of_dose / USUAL_NOISE_OVER_DOSE)
    return full, level - full, noise


def _seeds(image, pixel_size_angst, size, zero, beam):
    """Places that answer to spots of one size, in pixels of about a fifth of it.

    Returns (k, 4) x, y (A from the centre), size, darkness; and (k,) how far the place is darker than its
    surroundings, of one.
    """
    xp = array_namespace(image)
    ndimage = ndimage_module(xp)
    binning = max(1, round(0.2 * size / pixel_size_angst))
    if min(image.shape) < 3 * binning:  # a view smaller than the spot
        return np.zeros((0, 4)), np.zeros(0)
    small, pixel = block_mean(image, binning), pixel_size_angst * binning
    wide = ndimage.gaussian_filter(small, OUTER * size / pixel)
    answer = wide - ndimage.gaussian_filter(small, INNER * size / pixel)
    spread = 1.4826 * xp.median(xp.abs(answer - xp.median(answer)))
    of_one = answer / xp.maximum(wide - zero, 1e-12)
    dark = of_one / _answer_to_gold(size, pixel, beam.log_defocus, beam.optics)
    reach = 2 * max(1, round(0.3 * size / pixel)) + 1
    rows, columns = xp.nonzero(
        (answer > SEED_SIGMA * spread) & (dark > SEED_DARKNESS) & (answer == ndimage.maximum_filter(answer, reach))
    )
    places = np.column_stack([asnumpy(columns), asnumpy(rows)]) * binning + 0.5 * (binning - 1)
    places = (places - np.array([n // 2 for n in image.shape[::-1]])) * pixel_size_angst
    seeds = np.column_stack([places, np.full(len(places), size), asnumpy(dark[rows, columns])]).astype(np.float64)
    return seeds, asnumpy(of_one[rows, columns]).astype(np.float64)


@lru_cache(maxsize=256)
def _answer_to_gold(size_angst: float, pixel_angst: float, log_defocus: int, optics: Optics) -> float:
    """What the difference of two Gaussians is in the middle of a bead, of one."""
    r = np.arange(1.0, 3 * size_angst, 2.0)
    profile = sum(bead_profiles([size_angst], r, 1.1**log_defocus, optics, pixel_angst))[0]
    narrow, wide = (
        np.exp(-0.5 * (r / (s * size_angst)) ** 2) / (2 * np.pi * (s * size_angst) ** 2) for s in (INNER, OUTER)
    )
    return float(np.sum(profile * (wide - narrow) * 4 * np.pi * r))


def _darkest_first(seeds, strength):
    """Of seeds that may be one spot at several sizes, the one that stands out most, (k, 4); in the order of the
    darkest of each spot."""
    tree, free = cKDTree(seeds[:, :2]) if len(seeds) else None, np.ones(len(seeds), bool)
    chosen, darkness = [], []
    for i in np.argsort(-strength, kind="stable"):
        if free[i]:
            same = np.array(tree.query_ball_point(seeds[i, :2], 0.6 * seeds[i, 2]))
            chosen.append(i)
            darkness.append(seeds[same, 3].max())
            free[same] = False
    order = np.argsort(-np.array(darkness), kind="stable")
    return seeds[np.array(chosen, dtype=np.int64)[order]]


def _distinct(table):
    """Rows x, y, diameter, darkness, misfit, snr without second fits of the same spot: the better fitting one stays."""
    kept = []
    for i in np.argsort(table[:, 4], kind="stable"):
        gap = np.linalg.norm(table[kept, :2] - table[i, :2], axis=1)
        if np.all(gap > 0.5 * np.maximum(table[kept, 2], table[i, 2])):
            kept.append(i)
    return table[np.sort(np.array(kept, dtype=np.int64))]


@lru_cache(maxsize=32)
def _library(log_defocus: int, optics: Optics, pixel_angst: float):
    """Profiles (2, diameters, radii) of absorption and phase, and their radii."""
    radii = np.arange(0.0, 0.65 * FITTED_ANGST[-1] + 100.0, 2.0)
    return np.stack(bead_profiles(FITTED_ANGST, radii, 1.1**log_defocus, optics, pixel_angst)), radii


class _Fit:
    """Fits beads to a view in blocks of ``fine`` pixels whose noise is ``noise`` of the background."""

    def __init__(self, image, zero, pixel_size_angst, fine, noise, beam):
        self.image, self.zero, self.raw_pixel, self.fine, self.noise = image, zero, pixel_size_angst, fine, noise
        self.pixel = pixel_size_angst * fine
        self.fringe = beam.fringe_angst
        self.library, self.radii = _library(beam.log_defocus, beam.optics, self.pixel)

    def spot(self, seed):
        """(x, y, diameter, darkness, misfit, snr) from a seed (x, y, size, ...); None where the border cuts it or the
        fit leaves it."""
        xy, size, found = seed[:2].copy(), seed[2], None
        for _ in range(FIT_TURNS):
            patch, offset = self._patch(xy, 0.6 * size + self.fringe + self.pixel)
            found = None if patch is None else self._fitted(patch, offset, size)
            if found is None or np.hypot(*found[0]) > 0.5 * size or found[2] < HOPELESS[0] or found[3] > HOPELESS[1]:
                return None
            settled = np.hypot(*found[0]) < 0.1 * self.pixel and abs(found[1] / size - 1) < 0.01
            xy, size = xy + found[0], found[1]
            if settled:
                break
        return (*xy, *found[1:])

    def _patch(self, xy, reach):
        """Square about a place (n, n), float64, and where its middle lies from there, A."""
        h, w = self.image.shape
        place = np.array([w // 2, h // 2]) + xy / self.raw_pixel
        n = 2 * int(np.ceil(reach / self.pixel)) + 1
        side = n * self.fine
        first = np.round(place - 0.5 * (side - 1)).astype(int)
        if (first < 0).any() or first[0] + side > w or first[1] + side > h:
            return None, None
        cut = asnumpy(self.image[first[1] : first[1] + side, first[0] : first[0] + side])
        cut = cut.reshape(n, self.fine, n, self.fine).mean(axis=(1, 3), dtype=np.float64) - self.zero
        return cut, (first + 0.5 * (side - 1) - place) * self.raw_pixel

    def _fitted(self, patch, offset, size):
        """(shift of the centre, diameter, darkness, misfit, snr)."""
        axis = (np.arange(len(patch)) - len(patch) // 2) * self.pixel
        x, y = np.broadcast_arrays(axis[None, :] + offset[0], axis[:, None] + offset[1])
        r = np.hypot(x, y)
        inside = r < 0.6 * size + self.fringe
        x, y, r, grey = x[inside], y[inside], r[inside], patch[inside]
        around = float(np.median(grey[r > 0.6 * size + 0.5 * self.fringe]))
        if around <= 0:
            return None
        grey = grey / around
        best, diameter, (level, dark, fringes) = self._best_diameter(grey, r, size)
        (absorbed, fringe), slopes = self._at(r, best)
        bead, slope = dark * absorbed + fringes * fringe, dark * slopes[0] + fringes * slopes[1]
        left = grey - level - bead
        moves = np.stack([-slope * x / np.maximum(r, 1e-6), -slope * y / np.maximum(r, 1e-6), np.ones_like(r)])
        step = np.linalg.solve(moves @ moves.T + 1e-9 * np.eye(3), moves @ left)
        core = r < 0.5 * diameter + 0.5 * self.fringe
        unexplained = np.sum((left - step @ moves)[core] ** 2) - core.sum() * self.noise**2
        power = np.sum((bead - bead.mean()) ** 2)
        gold = absorbed + fringe
        darkness = np.sqrt(power / np.sum((gold - gold.mean()) ** 2)) / level
        return step[:2], diameter, darkness, unexplained / np.sum(bead[core] ** 2), np.sqrt(power) / self.noise

    def _at(self, r, rows):
        """Absorption and phase (2, rows..., pixels) of the library at distances r, and their slopes."""
        step = self.radii[1]
        low = np.minimum((r / step).astype(int), len(self.radii) - 2)
        first, second = (self.library[:, rows][..., low + i] for i in (0, 1))
        return first + (second - first) * (r / step - low), (second - first) / step

    def _best_diameter(self, grey, r, size):
        """Row of the library, diameter between the rows, and (level, absorption, phase) that fit the means over rings
        best."""
        near = np.flatnonzero(np.abs(np.log(FITTED_ANGST / size)) < 0.5)
        ring = (r / self.pixel).astype(int)
        count = np.bincount(ring)
        used = count > 0
        weight = count[used]
        value, radius = (np.bincount(ring, v)[used] / weight for v in (grey, r))
        absorbed, fringe = self._at(radius, near)[0]
        basis = np.stack([np.ones_like(absorbed), absorbed, fringe])  # (3, d, rings)
        fit, error = _least_squares(basis, value, weight)
        plain, plain_error = _least_squares(basis[:2], value, weight)
        wrong = (fit[:, 1:] < 0).any(axis=1)  # no fringes of the wrong sign
        fit, error = (
            np.where(wrong[:, None], np.column_stack([plain, np.zeros(len(plain))]), fit),
            np.where(wrong, plain_error, error),
        )
        best, shift = int(np.argmin(error)), 0.0
        if 0 < best < len(error) - 1:
            low, mid, high = error[best - 1 : best + 2]
            shift = float(np.clip(0.5 * (low - high) / max(low - 2 * mid + high, 1e-30), -0.5, 0.5))
        return near[best], FITTED_ANGST[near[best]] * STEP**shift, fit[best]


def _least_squares(basis, value, weight):
    """Coefficients (d, n) and weighted squared errors (d,) of ``value`` (rings) in bases (n, d, rings)."""
    normal = np.einsum("idp,jdp,p->dij", basis, basis, weight)
    right = np.einsum("idp,p,p->di", basis, value, weight)
    found = np.linalg.solve(normal, right[..., None])[..., 0]
    return found, np.sum(weight * value**2) - np.einsum("di,di->d", found, right)
