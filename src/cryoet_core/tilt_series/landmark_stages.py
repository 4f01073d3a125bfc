"""Stages of an alignment that adjust it to landmarks, gold beads or patches; each takes the adjustment only where landmarks that were held out say so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cryoet_core.tilt_series.alignment_state import State
from cryoet_core.tilt_series.bead_tracks import adjust_to_beads
from cryoet_core.tilt_series.bundle import (
    ACCEPT_SIGMA,
    MIN_PATCHES,
    Bundle,
    BundleModel,
    held_out_residuals,
    improvement,
    solve_bundle,
    solve_with_deformation,
)
from cryoet_core.tilt_series.patches import track_patches
from cryoet_core.tilt_series.plane import PlaneViews
from cryoet_core.tilt_series.refine_alignment import Band
from cryoet_core.tilt_series.working_views import WorkingViews

TRACKING_ROUNDS = 3  # of tracking and adjustment when only coarse alignment went before
DEFORMATION_ANGST = 30.0  # spread of one coefficient of the local deformation


def bead_stage(views: WorkingViews, state: State, band: Band, settings, raw_pixel_angst, say):
    """Shifts and axis from the beads, if held-out beads and the specimen without beads agree with it; the offset stays that of the specimen."""
    spots, radius = [beads[:, :2] for beads in views.survey.beads()], views.survey.radius_angst
    found, state.beads = adjust_to_beads(
        spots, views.plain, state.geometry, band, raw_pixel_angst, state.thickness_angst, radius, settings.refine_axis
    )
    if found is not None:
        _take(state, found, settings)
        state.note("beads")
    if "residual_px" in state.beads:
        b = state.beads
        say(f"beads: {b['n_beads']} followed, {_verdict(b['held_out_before_px'], b['held_out_after_px'], b['accepted'])}")


def patch_stage(views: PlaneViews, state: State, band: Band, settings, raw_pixel_angst, say):
    """Track patches and adjust; after projection matching the adjustment must predict held-out patches better to be taken."""
    alone = settings.mode == "patch_tracking"
    for turn in range(TRACKING_ROUNDS if alone else 1):
        tracks = track_patches(views, state.geometry, raw_pixel_angst, band, state.thickness_angst)
        model = BundleModel(
            axis_order=0 if settings.refine_axis else None, offset=settings.refine_offset, slab_sigma_angst=state.thickness_angst / 4
        )
        fixed = replace(model, shifts=False, axis_order=None, offset=False)
        if not alone and np.unique(tracks.patch).size < MIN_PATCHES:
            say("patches: too few could be tracked, projection matching stands")
            return
        found = solve_bundle(tracks, state.geometry, raw_pixel_angst, model)
        before = held_out_residuals(tracks, state.geometry, raw_pixel_angst, fixed)
        after = held_out_residuals(tracks, state.geometry, raw_pixel_angst, model)
        better = improvement(before, after)
        state.patches = {
            "n_patches": int(np.unique(tracks.patch).size),
            "held_out_before_px": float(np.nanmedian(before)),
            "held_out_after_px": float(np.nanmedian(after)),
            "improvement_sigma": better,
            "accepted": bool(alone or better > ACCEPT_SIGMA),
        }
        if state.patches["accepted"]:
            _take(state, found, settings, offset=True)
            state.method = "patch_tracking"
        else:
            found = solve_bundle(tracks, state.geometry, raw_pixel_angst, fixed)
        state.residual_px = found.view_residual_px
        state.patches["outlier_share"] = found.outlier_share
        state.note(f"patches {turn + 1}")
    p = state.patches
    say(f"patches: {p['n_patches']} tracked, {_verdict(p['held_out_before_px'], p['held_out_after_px'], p['accepted'])}")


def deformation_stage(views: PlaneViews, state: State, band: Band, settings, raw_pixel_angst, say):
    """Track patches in the geometry that was found and fit a smooth local deformation, with shifts and axis, because a deformed specimen turns
    the axis; all of it is kept when held-out patches agree better with it. Their offset is held by a prior only: it stays.
    """
    tracks = track_patches(views, state.geometry, raw_pixel_angst, band, state.thickness_angst)
    n_patches = int(np.unique(tracks.patch).size)
    if n_patches < MIN_PATCHES:
        say("local deformation: too few patches could be tracked")
        return
    fixed = BundleModel(shifts=False, axis_order=None, offset=False, slab_sigma_angst=state.thickness_angst / 4)
    model = replace(fixed, shifts=True, axis_order=0 if settings.refine_axis else None, deformation_angst=DEFORMATION_ANGST)
    found = solve_with_deformation(tracks, state.geometry, raw_pixel_angst, model, ACCEPT_SIGMA, rigid=fixed)
    state.deformation, state.residual_px = found.deformation, found.view_residual_px
    if found.deformation is not None:
        _take(state, found, settings)
    state.patches |= {
        "n_patches": n_patches,
        "outlier_share": found.outlier_share,
        "held_out_rigid_px": found.held_out_rigid_px,
        "held_out_deformed_px": found.held_out_px,
        "deformation_accepted": found.deformation is not None,
    }
    say(f"local deformation: {_verdict(found.held_out_rigid_px, found.held_out_px, found.deformation is not None)}")


def _take(state: State, found: Bundle, settings, offset: bool = False):
    """Geometry and angles of an adjustment; its tilt offset only where it was free."""
    state.geometry = found.geometry
    if settings.refine_axis:
        state.axis_deg, state.axis_error_deg = state.axis_deg + found.axis_change_deg, found.axis_error_deg
    if offset and settings.refine_offset:
        state.offset_deg, state.offset_error_deg = state.offset_deg + found.tilt_offset_deg, found.tilt_offset_error_deg


def _verdict(before_px: float, after_px: float, taken: bool) -> str:
    return f"held-out residual {before_px:.2f} -> {after_px:.2f} px, {'taken' if taken else 'not taken'}"
