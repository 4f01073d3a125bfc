"""From raw views to what alignment works on: binned, high-passed, clipped, with and without gold beads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.fourier import bin_images, highpass
from cryoet_core.tilt_series.gold import bead_positions, fill_gold, find_gold
from cryoet_core.tilt_series.plane import PlaneViews, prepare_views

BEAD_ANGST = 100.0  # diameter of the beads looked for
MAX_GOLD_SHARE = 0.3  # of the views; more dark spots than this are not beads


@dataclass(frozen=True)
class WorkingViews:
    """fine : at the working pixel size. plain : the same with beads filled; ``fine`` itself where there are none. coarse : at twice the
    pixel size. beads : (m, 2) positions in every view, A from its centre, None without beads. highpass_angst : of all of them.

    Beads are good landmarks for shifts, but too few to tell how a slab lies.
    """

    fine: PlaneViews
    plain: PlaneViews
    coarse: PlaneViews
    beads: list | None
    highpass_angst: float

    @property
    def field_angst(self) -> float:
        """Shorter side of the views."""
        return min(self.fine.coefficients.shape[1:]) * self.fine.pixel_size_angst

    def select(self, used) -> WorkingViews:
        """Some of the views (boolean mask); these views themselves, not a copy, where it is all of them."""
        if np.all(used):
            return self
        fine = self.fine.select(used)
        plain = fine if self.plain is self.fine else self.plain.select(used)
        beads = None if self.beads is None else [self.beads[i] for i in np.flatnonzero(used)]
        return WorkingViews(fine, plain, self.coarse.select(used), beads, self.highpass_angst)


def working_views(images, pixel_size_angst: float, geometry, settings) -> WorkingViews:
    """Prepare views for alignment; ``images`` (h, w), each binned before the next is taken, ``settings`` an AlignmentSettings."""
    binning = alignment_binning(pixel_size_angst, settings.pixel_size_angst)
    small, sides = [], []
    for image in images:
        small.append(binned_view(image, binning))
        sides.append(min(image.shape))
    pixel, axis = pixel_size_angst * binning, float(np.mean(geometry.z_rot_deg))
    highpass_angst = settings.highpass_angst or float(np.clip(0.25 * sides[0] * pixel_size_angst, 400, 1200))
    fine = alignment_images(small, pixel, highpass_angst, settings.clip_sigma)
    coarse = bin_images(fine, 2)
    plain, beads = images_without_gold(small, pixel, highpass_angst, settings.clip_sigma)
    fine = prepare_views(fine, pixel, axis)
    plain = fine if plain is None else prepare_views(plain, pixel, axis)
    return WorkingViews(fine, plain, prepare_views(coarse, 2 * pixel, axis), beads, highpass_angst)


def alignment_binning(pixel_size_angst: float, target_angst: float) -> int:
    """The integer binning that brings images close to, rarely above, ``target_angst``."""
    return max(1, int(np.ceil(target_angst / pixel_size_angst - 0.25)))


def alignment_images(images, pixel_size_angst: float, highpass_angst: float, clip_sigma: float):
    """Binned views, high-passed, (n, h, w) in units of their own robust sigma, clipped so that gold does not dominate."""
    xp = array_namespace(images[0])
    return xp.stack([_clipped(highpass(image, highpass_angst, pixel_size_angst), clip_sigma) for image in images])


def images_without_gold(images, pixel_size_angst: float, highpass_angst: float, clip_sigma: float):
    """:func:`alignment_images` with beads replaced by their surroundings, and the (m, 2) positions of the beads in every view (A from its
    centre); (None, None) when there are none, or too many to be beads.
    """
    xp, pixel = array_namespace(images[0]), pixel_size_angst
    rng, filled, share, beads = np.random.default_rng(0), [], [], []
    for small in images:
        flat = highpass(small, highpass_angst, pixel)
        gold = find_gold(flat, pixel, BEAD_ANGST)
        beads.append(bead_positions(flat, pixel, BEAD_ANGST))
        share.append(float(gold.mean()))
        filled.append(_clipped(highpass(fill_gold(small[None], gold, pixel, rng, BEAD_ANGST)[0], highpass_angst, pixel), clip_sigma))
    return (xp.stack(filled), beads) if 0 < np.mean(share) < MAX_GOLD_SHARE else (None, None)


def binned_view(image, binning: int):
    """A view (h, w), binned, its mean taken off."""
    xp = array_namespace(image)
    small = bin_images(image[None].astype(xp.float32), binning)[0]
    return small - xp.mean(small)


def _clipped(flat, clip_sigma):
    xp = array_namespace(flat)
    centre = xp.median(flat)
    sigma = 1.4826 * xp.median(xp.abs(flat - centre)) + 1e-12
    clipped = xp.clip((flat - centre) / sigma, -clip_sigma, clip_sigma)
    return (clipped - clipped.mean()).astype(xp.float32)
