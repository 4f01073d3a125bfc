"""From raw views to what alignment works on: binned, high-passed, clipped, with and without gold beads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.fourier import bin_images, highpass
from cryoet_core.tilt_series.gold import Survey, bead_diameters
from cryoet_core.tilt_series.gold_fill import covered_radius_angst, fill_discs
from cryoet_core.tilt_series.gold_spots import Beam, find_spots
from cryoet_core.tilt_series.plane import PlaneViews, prepare_views


@dataclass(frozen=True)
class WorkingViews:
    """fine : at the working pixel size. plain : the same with beads filled; ``fine`` itself where there are none. coarse : at twice the
    pixel size. survey : what the views show of gold. highpass_angst : of all of them.

    Beads are good landmarks for shifts, but too few to tell how a slab lies.
    """

    fine: PlaneViews
    plain: PlaneViews
    coarse: PlaneViews
    survey: Survey
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
        return WorkingViews(fine, plain, self.coarse.select(used), self.survey.select(used), self.highpass_angst)


def working_views(images, pixel_size_angst: float, geometry, settings, beams: list[Beam] | None = None) -> WorkingViews:
    """Prepare views for alignment; ``images`` (h, w), each binned and searched for beads before the next is taken, ``settings`` an AlignmentSettings."""
    binning = alignment_binning(pixel_size_angst, settings.pixel_size_angst)
    beams = beams or [Beam()] * len(geometry)
    small, sides, spots = [], [], []
    for image, beam in zip(images, beams, strict=True):
        small.append(binned_view(image, binning))
        sides.append(min(image.shape))
        spots.append(find_spots(image, pixel_size_angst, beam))
    survey = Survey(spots, bead_diameters(spots))
    pixel, axis = pixel_size_angst * binning, float(np.mean(geometry.z_rot_deg))
    highpass_angst = settings.highpass_angst or float(np.clip(0.25 * sides[0] * pixel_size_angst, 400, 1200))
    fine = alignment_images(small, pixel, highpass_angst, settings.clip_sigma)
    coarse = bin_images(fine, 2)
    fine = plain = prepare_views(fine, pixel, axis)
    if survey.diameters_angst.size:
        filled = [_without_beads(*view, pixel) for view in zip(small, survey.beads(), beams, strict=True)]
        plain = prepare_views(alignment_images(filled, pixel, highpass_angst, settings.clip_sigma), pixel, axis)
    return WorkingViews(fine, plain, prepare_views(coarse, 2 * pixel, axis), survey, highpass_angst)


def alignment_binning(pixel_size_angst: float, target_angst: float) -> int:
    """The integer binning that brings images close to, rarely above, ``target_angst``."""
    return max(1, int(np.ceil(target_angst / pixel_size_angst - 0.25)))


def alignment_images(images, pixel_size_angst: float, highpass_angst: float, clip_sigma: float):
    """Binned views, high-passed, (n, h, w) in units of their own robust sigma, clipped so that gold does not dominate."""
    xp = array_namespace(images[0])
    return xp.stack([_clipped(highpass(image, highpass_angst, pixel_size_angst), clip_sigma) for image in images])


def _without_beads(image, beads, beam, pixel_size_angst):
    """A view (h, w) with its beads (m, 3; x, y, diameter) covered; of itself only, so that no other view changes it."""
    radius = covered_radius_angst(beads[:, 2], beam)
    return fill_discs(image[None], pixel_size_angst, beads[:, :2], radius, np.random.default_rng(0))[0]


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
