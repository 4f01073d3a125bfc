"""Markerless alignment of a tilt series: the whole course, from raw views to a TiltGeometry.

1. views are binned, high-passed, gold and other outliers clipped; 2. neighbours are linked by cosine-stretched correlation and
the links solved together; 3. projection matching outwards from the least tilted view; 4. all shifts at once by Fisher scoring
of the slab model, while tilt axis, tilt-angle offset and slab thickness follow the likelihood, in bands of growing
resolution. 5. gold beads, where there are some, are followed (bead_tracks.py). Patch tracking (patches.py, bundle.py) can follow, or replace 3 to
5. Excluded views take no part: the result equals that of a series that never had them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cryoet_core.errors import DataQualityError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series import refine_alignment as refine
from cryoet_core.tilt_series.alignment_state import Alignment, AlignmentSettings, State, finished
from cryoet_core.tilt_series.angles import ANGLES, settle_angles
from cryoet_core.tilt_series.landmark_stages import bead_stage, deformation_stage, patch_stage
from cryoet_core.tilt_series.plane import PlaneViews, plane_spectra
from cryoet_core.tilt_series.refine_alignment import Band
from cryoet_core.tilt_series.screening import retry_views, screen_views
from cryoet_core.tilt_series.working_views import working_views

MIN_VIEWS = 5
MAX_TURN_DEG = 12.0  # largest change of axis, offset or tilt about x in one band
TRACKING_ANGST = 40.0  # finest detail in patches: their correlations hold less signal than those of whole views
THICKNESS_STEPS = ((0.4, 0.6, 0.85, 1.2, 1.7), (0.86, 1.0, 1.16), (0.96, 1.0, 1.04))  # too thick a slab is far less likely than too thin a one, which
# skews a parabola over wide steps; with views to 68 deg on one side and 52 on the other, 40 A of 900 move the tilt offset by 0.2 deg


def align_tilt_series(images, geometry: TiltGeometry, pixel_size_angst: float, settings: AlignmentSettings,
                      included=None, log=None, beams=None) -> Alignment:  # fmt: skip
    """Align views without markers.

    Parameters
    ----------
    images : n views (h, w) at ``pixel_size_angst``, numpy or cupy, taken one by one. geometry : nominal angles and axis; shifts are ignored.
    included : (n,) bool, views that take part (all by default). log : called with one sentence per stage. beams : n gold_spots.Beam, how each was taken.

    Raises
    ------
    DataQualityError E-TS-01 when fewer than five views take part, or, for patch_tracking, fewer than six patches can be tracked.
    """
    included = np.ones(len(geometry), bool) if included is None else np.asarray(included, bool)
    _check_enough(included)
    part = geometry.select(included).replace(x_shift_angst=0.0, y_shift_angst=0.0)
    chosen = (image for image, wanted in zip(images, included, strict=True) if wanted)
    chosen_beams = None if beams is None else [beams[i] for i in np.flatnonzero(included)]
    views = working_views(chosen, pixel_size_angst, part, settings, chosen_beams)
    state = State(part, settings.thickness_angst or min(1500.0, 0.3 * views.field_angst))
    say = log or (lambda text: None)
    used, judged = _whole_views(views, state, settings, say)
    views = views.select(used)
    band = _band(views, settings)
    if settings.mode != "patch_tracking":
        _final_sweeps(views.fine, state, band, settings, say)
        if views.survey.diameters_angst.size:
            bead_stage(views, state, band, settings, pixel_size_angst, say)
    tracking = replace(band, high_angst=max(band.high_angst, TRACKING_ANGST))
    if settings.mode != "projection_matching":
        patch_stage(views.fine, state, tracking, settings, pixel_size_angst, say)
    if settings.local_deformation:
        deformation_stage(views.fine, state, tracking, settings, pixel_size_angst, say)
    data, prior = refine.spectra_in_band(views.fine, state.geometry, band, state.thickness_angst)
    error = np.full(len(part), np.nan)
    error[used] = np.linalg.norm(refine.scoring_steps(data, prior, band.high_angst, steps=1)[1], axis=1)
    judged[used] = refine.loo_correlation(data, prior)
    state.geometry = _merge(part, state, used)
    return finished(geometry, included, state, judged, error, prior, views.fine.pixel_size_angst, used, views.survey)


def _whole_views(views, state: State, settings, say):
    """Coarse alignment, screening, and, unless patches are to do it, the bands of growing resolution.

    Leaves the geometry of the used views in ``state``; returns used (n,) bool and leave-one-out correlation (n,).
    """
    part, coarse, reach = state.geometry, views.coarse, 0.3 * views.field_angst
    furthest, coarse_limit = settings.max_shift_angst or reach, 2.2 * coarse.pixel_size_angst
    _coarse_stage(coarse, state, settings, views.highpass_angst, furthest, say)
    screening = Band(views.highpass_angst, max(80.0, coarse_limit))
    whole, used, judged = _screen(coarse, state.geometry, np.ones(len(part), bool), state, screening, reach, say)
    if not used.all():
        whole = _relink(coarse, whole, used, state, screening, furthest)
    band = _band(views, settings)
    limits = _band_limits(band.high_angst, coarse_limit) if settings.mode != "patch_tracking" else []
    for number, resolution in enumerate(limits):
        if number == 1 % len(limits):
            whole, used, judged = _screen(coarse, whole, used, state, screening, reach, say, judged)
        state.geometry = whole.select(used)
        part_views = views.select(used)
        pair = (part_views.coarse, part_views.coarse) if resolution >= coarse_limit else (part_views.fine, part_views.plain)
        _refine_stage(*pair, state, replace(band, high_angst=resolution), settings, say, last=resolution == band.high_angst)
        whole = _merge(part, state, used)
    state.geometry = whole.select(used)
    return used, judged


def _band(views, settings) -> Band:
    """All that is used in the end."""
    return Band(views.highpass_angst, max(settings.resolution_angst, 2.1 * views.fine.pixel_size_angst))


def _screen(views, whole, used, state, band, limit_angst, say, judged=None):
    """Views left out are looked for once more, then all are judged; returns geometry of all, used, correlation."""
    if not used.all():
        data = plane_spectra(views, whole, max_frequency=1 / band.high_angst)
        _, prior = refine.spectra_in_band(views.select(used), whole.select(used), band, state.thickness_angst)
        back, shift, judged = retry_views(data, prior, used, judged, limit_angst)
        whole = refine.add_plane_shift(whole, shift * back[:, None])
        used = used | back
    rows = np.flatnonzero(used)
    data, prior = refine.spectra_in_band(views.select(rows), whole.select(rows), band, state.thickness_angst)
    good, correlation = screen_views(data, prior, MIN_VIEWS)
    judged = np.zeros(len(used)) if judged is None else judged.copy()
    judged[rows] = correlation
    used = used.copy()
    used[rows] = good
    if not used.all():
        say(f"{int((~used).sum())} views do not show what the others predict and are left out")
    return whole, used, judged


def _merge(part: TiltGeometry, state: State, used) -> TiltGeometry:
    """The geometry of all views from that of the used ones; the shifts of the others are interpolated over the tilt angle."""
    whole = refine.turned(part, state.axis_deg, state.offset_deg, state.x_tilt_deg)
    order = np.argsort(whole.y_tilt_deg[used])
    tilt, known = whole.y_tilt_deg[used][order], state.geometry.shift_angst[order]
    shift = np.stack([np.interp(whole.y_tilt_deg, tilt, known[:, k]) for k in range(2)], axis=1)
    shift[used] = state.geometry.shift_angst
    return whole.replace(x_shift_angst=shift[:, 0], y_shift_angst=shift[:, 1])


def _band_limits(final_angst: float, coarse_limit_angst: float) -> list[float]:
    """Resolutions of the stages, A: two within reach of the coarse images, 45 A, and the final one."""
    limits = {max(80.0, coarse_limit_angst), max(60.0, coarse_limit_angst), 45.0, final_angst}
    return sorted((r for r in limits if r >= final_angst), reverse=True)


def _check_enough(included):
    if included.sum() < MIN_VIEWS:
        raise DataQualityError(
            "E-TS-01", "too few views to align", field="included views", found=int(included.sum()),
            expected=f"at least {MIN_VIEWS}", fix="relax exclude_views for this series",
        )  # fmt: skip


def _coarse_stage(views: PlaneViews, state: State, settings, highpass_angst, limit_angst, say):
    """Scan the axis, link neighbours at each; keep the most likely; then match outwards."""
    band = Band(highpass_angst, max(80.0, 2.2 * views.pixel_size_angst))
    steps = np.arange(-settings.axis_range_deg, settings.axis_range_deg + 1e-6, 2.0) if settings.refine_axis else [0.0]
    trials = [_coarse_trial(views, state, band, float(a), limit_angst) for a in steps]
    best = min(range(len(trials)), key=lambda k: trials[k][0])
    _, state.geometry, residual = trials[best]
    state.axis_deg = float(steps[best])
    state.geometry = _match_outwards(views, state.geometry, band, state.thickness_angst, 0.25 * limit_angst)
    state.history.append({"stage": "coarse", "axis_change_deg": state.axis_deg, "link_residual_angst": residual})
    say(f"coarse alignment: tilt axis turned by {state.axis_deg:+.1f} deg, links agree within {residual:.1f} A (median)")


def _match_outwards(views, geometry, band, thickness_angst, limit_angst):
    data, prior = refine.spectra_in_band(views, geometry, band, thickness_angst)
    moves = refine.matching_sweep(data, prior, limit_angst, outward=True)
    return refine.recentre(refine.add_plane_shift(geometry, moves))


def _relink(views, whole, used, state, band, limit_angst):
    """Link the used views again without the others: a group behind several spoilt views hung on wrong links."""
    rows = np.flatnonzero(used)
    part = whole.select(rows)
    for share in (1.0, 0.4):
        part, _ = refine.coarse_step(views.select(rows), part, band, state.thickness_angst, share * limit_angst)
    part = _match_outwards(views.select(rows), part, band, state.thickness_angst, 0.25 * limit_angst)
    shift = whole.shift_angst
    shift[rows] = part.shift_angst
    return whole.replace(x_shift_angst=shift[:, 0], y_shift_angst=shift[:, 1])


def _coarse_trial(views, state, band, axis_deg, limit_angst):
    geometry = refine.turned(state.geometry, axis_deg=axis_deg)
    geometry, _ = refine.coarse_step(views, geometry, band, state.thickness_angst, limit_angst)
    geometry, residual = refine.coarse_step(views, geometry, band, state.thickness_angst, 0.4 * limit_angst)
    value = refine.profile_badness(views, geometry, band, refine.flat_prior(state.thickness_angst, band))
    return value, geometry, residual


def _refine_stage(views: PlaneViews, plain: PlaneViews, state: State, band: Band, settings, say, last: bool = False):
    """Shifts, axis, offset, thickness in one band; in the last one little is left to search.

    plain : views without beads, for the tilt offset and the tilt about x; ``views`` themselves where there are none.
    """
    update = _shift_sweep(views, state, band)
    if settings.thickness_angst is None:
        for factors in (THICKNESS_STEPS if not state.thickness_known else THICKNESS_STEPS[1:]):
            candidates = np.clip(state.thickness_angst, 200, 3000) * np.array(factors)
            state.thickness_angst = refine.best_thickness(views, state.geometry, band, candidates)
        state.thickness_known = True
    groups = (ANGLES,) if plain is views else (ANGLES[:1], ANGLES[1:])
    for images, names in zip((views, plain), groups, strict=False):
        prior = refine.spectra_in_band(images, state.geometry, band, state.thickness_angst)[1]
        _settle_angles(images, state, band, prior, settings, names, iterations=2 if last else 4)
    update = max(update, _shift_sweep(views, state, band))
    state.note(f"{band.high_angst:.0f} A", update)
    say(
        f"to {band.high_angst:.0f} A: axis turned by {state.axis_deg:+.2f} deg, tilt offset {state.offset_deg:+.2f} deg, "
        f"slab {state.thickness_angst:.0f} A, largest update {update:.1f} A"
    )


def _shift_sweep(views, state, band):
    data, prior = refine.spectra_in_band(views, state.geometry, band, state.thickness_angst)
    delta, _, _ = refine.scoring_steps(data, prior, band.high_angst)
    state.geometry = refine.recentre(refine.add_plane_shift(state.geometry, delta))
    return float(np.linalg.norm(delta, axis=1).max())


def _settle_angles(views, state, band, prior, settings, names, iterations):
    """Those of the angles ``names`` that are free."""
    wanted = (settings.refine_axis, settings.refine_offset, settings.level_x)
    free = [name for name, is_free in zip(ANGLES, wanted, strict=True) if is_free and name in names]
    if not free:
        return
    width = 1.0 if band.high_angst > 70 else 0.3
    state.geometry, change, error = settle_angles(views, state.geometry, band, prior, free, width, iterations, MAX_TURN_DEG)
    for name, x, sigma in zip(free, change, error, strict=True):
        setattr(state, f"{name}_deg", getattr(state, f"{name}_deg") + float(x))
        setattr(state, f"{name}_error_deg", float(sigma))


def _final_sweeps(views, state, band, settings, say):
    """Shift sweeps until the largest update is below ``update_px``."""
    for sweep in range(settings.max_sweeps):
        update = _shift_sweep(views, state, band)
        state.note(f"final {sweep + 1}", update)
        if update < settings.update_px * views.pixel_size_angst and sweep >= 2:
            break
    say(f"shifts settled: largest update {update:.2f} A after {sweep + 1} sweeps")


def given_geometry(geometry: TiltGeometry, config) -> TiltGeometry:
    """The geometry that alignment starts from: a given tilt offset applied, shifts zero."""
    offset = config.tilt_offset if isinstance(config.tilt_offset, (int, float)) else 0.0
    return refine.turned(geometry.replace(x_shift_angst=0.0, y_shift_angst=0.0), offset_deg=float(offset))
