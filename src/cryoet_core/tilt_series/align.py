"""Markerless alignment of a tilt series: the whole course, from raw views to a TiltGeometry.

1. views are binned, high-passed, gold and other outliers clipped; 2. neighbours are linked by cosine-stretched correlation and
the links solved together; 3. projection matching outwards from the least tilted view; 4. all shifts at once by Fisher scoring
of the slab model, while tilt axis, tilt-angle offset and slab thickness follow the likelihood, in bands of growing
resolution. Patch tracking (patches.py, bundle.py) can follow, or replace 3 and 4. Excluded views take no part: the result equals that of a series that never had them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.errors import DataQualityError
from cryoet_core.fourier import bin_images, highpass
from cryoet_core.geometry.local_deformation import N_TERMS, LocalDeformation
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series import refine_alignment as refine
from cryoet_core.tilt_series.angles import ANGLES, settle_angles
from cryoet_core.tilt_series.bead_tracks import adjust_to_beads
from cryoet_core.tilt_series.bundle import (
    MIN_PATCHES,
    Bundle,
    BundleModel,
    held_out_residuals,
    improvement,
    solve_bundle,
    solve_with_deformation,
)
from cryoet_core.tilt_series.gold import bead_positions, fill_gold, find_gold
from cryoet_core.tilt_series.patches import track_patches
from cryoet_core.tilt_series.plane import PlaneViews, plane_spectra, prepare_views
from cryoet_core.tilt_series.refine_alignment import Band
from cryoet_core.tilt_series.screening import retry_views, screen_views

MIN_VIEWS = 5
MAX_TURN_DEG = 12.0  # largest change of axis, offset or tilt about x in one band
TRACKING_ANGST = 40.0  # finest detail in patches: their correlations hold less signal than those of whole views
TRACKING_ROUNDS = 3  # of tracking and adjustment when only coarse alignment went before
BEAD_ANGST = 100.0  # diameter of the beads looked for
MAX_GOLD_SHARE = 0.3  # of the views; more dark spots than this are not beads
THICKNESS_STEPS = ((0.4, 0.6, 0.85, 1.2, 1.7), (0.86, 1.0, 1.16))  # a parabola over wide steps is skewed: a narrow one follows
DEFORMATION_ANGST = 30.0  # spread of one coefficient of the local deformation
ACCEPT_SIGMA = 3.0  # standard errors by which held-out patches must agree better before an adjustment is taken


@dataclass(frozen=True)
class AlignmentSettings:
    """How to align; see config/align_tilt_series.py for the meaning of each value. None = automatic."""

    mode: str = "projection_matching"
    pixel_size_angst: float = 14.0
    resolution_angst: float = 30.0
    highpass_angst: float | None = None
    max_shift_angst: float | None = None
    clip_sigma: float = 4.0
    refine_axis: bool = True
    axis_range_deg: float = 8.0
    refine_offset: bool = True
    level_x: bool = False
    thickness_angst: float | None = None
    update_px: float = 0.2
    max_sweeps: int = 8
    local_deformation: bool = False


@dataclass(frozen=True)
class Alignment:
    """Result for all n views; per-view arrays are NaN for views that took no part.

    geometry : TiltGeometry of all views. axis_change_deg, tilt_offset_deg : added to what was given; their errors are the
    likelihood's widths with only the shifts following, a lower bound (a wrong axis is mostly a turned specimen). thickness_angst : of the slab that predicts the views best. correlation : (n,) leave-one-out.
    shift_error_angst : (n,) standard error predicted by the model. history : one dict per stage. method : what the geometry comes from
    ("combined" may end as projection_matching). residual_px : (n,) median distance of tracked patches from where the geometry puts
    them, raw pixels, NaN without patch tracking. patches, beads : numbers of the patch tracking and of the beads followed, empty without. used : (n,) bool, views
    that shaped the result; an included view that is not used does not show what the others predict, and its shift is interpolated.
    deformation : local deformation of all n views (zero where not used), None when not asked for or not found.
    """

    geometry: TiltGeometry
    axis_change_deg: float
    axis_error_deg: float
    tilt_offset_deg: float
    tilt_offset_error_deg: float
    x_tilt_deg: float
    thickness_angst: float
    correlation: np.ndarray
    shift_error_angst: np.ndarray
    signal_fraction: refine.SlabPrior
    pixel_size_angst: float
    history: list = field(default_factory=list)
    method: str = "projection_matching"
    residual_px: np.ndarray | None = None
    patches: dict = field(default_factory=dict)
    beads: dict = field(default_factory=dict)
    used: np.ndarray | None = None
    deformation: LocalDeformation | None = None


def alignment_binning(pixel_size_angst: float, target_angst: float) -> int:
    """The integer binning that brings images close to, rarely above, ``target_angst``."""
    return max(1, int(np.ceil(target_angst / pixel_size_angst - 0.25)))


def alignment_images(images, pixel_size_angst: float, binning: int, highpass_angst: float, clip_sigma: float):
    """Binned, high-passed views (n, h, w) in units of their own robust sigma, clipped so that gold does not dominate."""
    pixel = pixel_size_angst * binning
    small = [_binned(image, binning) for image in images]
    return array_namespace(images[0]).stack([_clipped(highpass(image, highpass_angst, pixel), clip_sigma) for image in small])


def images_without_gold(images, pixel_size_angst: float, binning: int, highpass_angst: float, clip_sigma: float):
    """:func:`alignment_images` with beads replaced by their surroundings, and the (m, 2) positions of the beads in every view (A from its
    centre); (None, None) when there are none, or too many to be beads.
    """
    xp, pixel = array_namespace(images[0]), pixel_size_angst * binning
    rng, filled, share, beads = np.random.default_rng(0), [], [], []
    for image in images:
        small = _binned(image, binning)
        flat = highpass(small, highpass_angst, pixel)
        gold = find_gold(flat, pixel, BEAD_ANGST)
        beads.append(bead_positions(flat, pixel, BEAD_ANGST))
        share.append(float(gold.mean()))
        filled.append(_clipped(highpass(fill_gold(small[None], gold, pixel, rng, BEAD_ANGST)[0], highpass_angst, pixel), clip_sigma))
    return (xp.stack(filled), beads) if 0 < np.mean(share) < MAX_GOLD_SHARE else (None, None)


def _binned(image, binning):
    xp = array_namespace(image)
    small = bin_images(image[None].astype(xp.float32), binning)[0]
    return small - xp.mean(small)


def _clipped(flat, clip_sigma):
    xp = array_namespace(flat)
    centre = xp.median(flat)
    sigma = 1.4826 * xp.median(xp.abs(flat - centre)) + 1e-12
    clipped = xp.clip((flat - centre) / sigma, -clip_sigma, clip_sigma)
    return (clipped - clipped.mean()).astype(xp.float32)


@dataclass
class _State:
    """What the stages pass on."""

    geometry: TiltGeometry
    thickness_angst: float
    thickness_known: bool = False
    axis_deg: float = 0.0
    axis_error_deg: float = np.nan
    offset_deg: float = 0.0
    offset_error_deg: float = np.nan
    x_tilt_deg: float = 0.0
    x_tilt_error_deg: float = np.nan
    history: list = field(default_factory=list)
    method: str = "projection_matching"
    residual_px: np.ndarray | None = None
    patches: dict = field(default_factory=dict)
    beads: dict = field(default_factory=dict)
    deformation: LocalDeformation | None = None


def align_tilt_series(images, geometry: TiltGeometry, pixel_size_angst: float, settings: AlignmentSettings,
                      included=None, log=None) -> Alignment:  # fmt: skip
    """Align views without markers.

    Parameters
    ----------
    images : (n, h, w) views at ``pixel_size_angst``, numpy or cupy. geometry : nominal angles and axis; shifts are ignored.
    included : (n,) bool, views that take part (all by default). log : called with one sentence per stage.

    Raises
    ------
    DataQualityError E-TS-01 when fewer than five views take part, or, for patch_tracking, fewer than six patches can be tracked.
    """
    included = np.ones(len(geometry), bool) if included is None else np.asarray(included, bool)
    _check_enough(included)
    part = geometry.select(included).replace(x_shift_angst=0.0, y_shift_angst=0.0)
    chosen = [images[int(i)] for i in np.flatnonzero(included)]
    fine, plain, coarse, beads, highpass_angst = _prepare(chosen, pixel_size_angst, part, settings)
    field_angst = min(fine.coefficients.shape[1:]) * fine.pixel_size_angst
    state = _State(part, settings.thickness_angst or min(1500.0, 0.3 * field_angst))
    say = log or (lambda text: None)

    _coarse_stage(coarse, state, settings, highpass_angst, settings.max_shift_angst or 0.3 * field_angst, say)
    final = max(settings.resolution_angst, 2.1 * fine.pixel_size_angst)
    band = Band(highpass_angst, final)
    screening = Band(highpass_angst, max(80.0, 2.2 * coarse.pixel_size_angst))
    whole, used, judged = state.geometry, np.ones(len(part), bool), None
    whole, used, judged = _screen(coarse, whole, used, state, screening, 0.3 * field_angst, say)
    if not used.all():
        whole = _relink(coarse, whole, used, state, screening, settings.max_shift_angst or 0.3 * field_angst)
    if settings.mode != "patch_tracking":
        limits = _band_limits(final, 2.2 * coarse.pixel_size_angst)
        for resolution in limits:
            if resolution == limits[1 % len(limits)]:
                whole, used, judged = _screen(coarse, whole, used, state, screening, 0.3 * field_angst, say, judged)
            views, level = (coarse, coarse) if resolution >= 2.2 * coarse.pixel_size_angst else (fine, plain)
            state.geometry = whole.select(used)
            stage, part_views = replace(band, high_angst=resolution), views.select(used)
            level = part_views if level is views else level.select(used)
            _refine_stage(part_views, level, state, stage, settings, say, last=resolution == final)
            whole = _merge(part, state, used)
        state.geometry = whole.select(used)
        _final_sweeps(fine.select(used), state, band, settings, say)
        if beads is not None:
            _bead_stage([b for b, u in zip(beads, used, strict=True) if u], plain.select(used), state, band, settings, pixel_size_angst, say)
    if settings.mode != "projection_matching":
        state.geometry = whole.select(used) if settings.mode == "patch_tracking" else state.geometry
        tracking = replace(band, high_angst=max(final, TRACKING_ANGST))
        _patch_stage(fine.select(used), state, tracking, settings, pixel_size_angst, say)
    if settings.local_deformation:
        tracking = replace(band, high_angst=max(final, TRACKING_ANGST))
        _deformation_stage(fine.select(used), state, tracking, settings, pixel_size_angst, say)
    data, prior = refine.spectra_in_band(fine.select(used), state.geometry, band, state.thickness_angst)
    error = np.full(len(part), np.nan)
    error[used] = np.linalg.norm(refine.scoring_steps(data, prior, band.high_angst, steps=1)[1], axis=1)
    judged[used] = refine.loo_correlation(data, prior)
    state.residual_px = None if state.residual_px is None else _spread(state.residual_px, used)
    state.geometry = _merge(part, state, used)
    return _result(geometry, included, state, judged, error, prior, fine.pixel_size_angst, used)


def _spread(values, used):
    """(n,) with NaN where not used."""
    out = np.full(len(used), np.nan)
    out[used] = values
    return out


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


def _merge(part: TiltGeometry, state: _State, used) -> TiltGeometry:
    """The geometry of all views from that of the used ones; the shifts of the others are interpolated over the tilt angle."""
    whole = refine.turned(part, state.axis_deg, state.offset_deg, state.x_tilt_deg)
    order = np.argsort(whole.y_tilt_deg[used])
    tilt, known = whole.y_tilt_deg[used][order], state.geometry.shift_angst[order]
    shift = np.stack([np.interp(whole.y_tilt_deg, tilt, known[:, k]) for k in range(2)], axis=1)
    shift[used] = state.geometry.shift_angst
    return whole.replace(x_shift_angst=shift[:, 0], y_shift_angst=shift[:, 1])


def _bead_stage(beads, plain: PlaneViews, state: _State, band: Band, settings, raw_pixel_angst, say):
    """Shifts and axis from the beads, if held-out beads and the specimen without beads agree with it; the offset stays that of the specimen."""
    found, state.beads = adjust_to_beads(
        beads, plain, state.geometry, band, raw_pixel_angst, state.thickness_angst, 0.5 * BEAD_ANGST, settings.refine_axis
    )
    if found is not None:
        state.geometry = found.geometry
        if settings.refine_axis:
            state.axis_deg, state.axis_error_deg = state.axis_deg + found.axis_change_deg, found.axis_error_deg
        state.history.append(_history_row("beads", state, float("nan")))
    if "residual_px" in state.beads:
        say(
            f"beads: {state.beads['n_beads']} followed, held-out residual {state.beads['held_out_before_px']:.2f} -> "
            f"{state.beads['held_out_after_px']:.2f} px, {'taken' if found is not None else 'not taken'}"
        )


def _patch_stage(views: PlaneViews, state: _State, band: Band, settings, raw_pixel_angst, say):
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
            _take_bundle(state, found)
        else:
            found = solve_bundle(tracks, state.geometry, raw_pixel_angst, fixed)
        state.residual_px = found.view_residual_px
        state.patches["outlier_share"] = found.outlier_share
        state.history.append(_history_row(f"patches {turn + 1}", state, float("nan")))
    say(
        f"patches: {state.patches['n_patches']} tracked, held-out residual {state.patches['held_out_before_px']:.2f} -> "
        f"{state.patches['held_out_after_px']:.2f} px, {'taken' if state.patches['accepted'] else 'not taken'}"
    )


def _deformation_stage(views: PlaneViews, state: _State, band: Band, settings, raw_pixel_angst, say):
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
        state.geometry = found.geometry
        if settings.refine_axis:
            state.axis_deg, state.axis_error_deg = state.axis_deg + found.axis_change_deg, found.axis_error_deg
    state.patches |= {
        "n_patches": n_patches,
        "outlier_share": found.outlier_share,
        "held_out_rigid_px": found.held_out_rigid_px,
        "held_out_deformed_px": found.held_out_px,
        "deformation_accepted": found.deformation is not None,
    }
    say(
        f"local deformation: held-out residual {found.held_out_rigid_px:.2f} -> {found.held_out_px:.2f} px, "
        f"{'taken' if found.deformation is not None else 'not taken'}"
    )


def _take_bundle(state: _State, found: Bundle):
    state.geometry = found.geometry
    state.axis_deg += found.axis_change_deg
    state.offset_deg += found.tilt_offset_deg
    state.axis_error_deg, state.offset_error_deg = found.axis_error_deg, found.tilt_offset_error_deg
    state.method = "patch_tracking"


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


def _prepare(images, pixel_size_angst, geometry, settings):
    """Views at the working pixel size, the same without beads, with them at twice the pixel size, where the beads are, and the high-pass (A).

    Beads are good landmarks for shifts, but too few to tell how a slab lies.
    """
    binning = alignment_binning(pixel_size_angst, settings.pixel_size_angst)
    field_angst = min(images[0].shape) * pixel_size_angst
    highpass_angst = settings.highpass_angst or float(np.clip(0.25 * field_angst, 400, 1200))
    fine = alignment_images(images, pixel_size_angst, binning, highpass_angst, settings.clip_sigma)
    pixel, axis = pixel_size_angst * binning, float(np.mean(geometry.z_rot_deg))
    coarse = bin_images(fine, 2)
    plain, beads = images_without_gold(images, pixel_size_angst, binning, highpass_angst, settings.clip_sigma)
    fine = prepare_views(fine, pixel, axis)
    plain = fine if plain is None else prepare_views(plain, pixel, axis)
    return fine, plain, prepare_views(coarse, 2 * pixel, axis), beads, highpass_angst


def _coarse_stage(views: PlaneViews, state: _State, settings, highpass_angst, limit_angst, say):
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


def _refine_stage(views: PlaneViews, plain: PlaneViews, state: _State, band: Band, settings, say, last: bool = False):
    """Shifts, axis, offset, thickness in one band; in the last one little is left to search.

    plain : views without beads, for the tilt offset and the tilt about x; ``views`` themselves where there are none.
    """
    update = _shift_sweep(views, state, band)
    if settings.thickness_angst is None:
        for factors in (THICKNESS_STEPS if not state.thickness_known else THICKNESS_STEPS[-1:]):
            candidates = np.clip(state.thickness_angst, 200, 3000) * np.array(factors)
            state.thickness_angst = refine.best_thickness(views, state.geometry, band, candidates)
        state.thickness_known = True
    groups = (ANGLES,) if plain is views else (ANGLES[:1], ANGLES[1:])
    for images, names in zip((views, plain), groups, strict=False):
        prior = refine.spectra_in_band(images, state.geometry, band, state.thickness_angst)[1]
        _settle_angles(images, state, band, prior, settings, names, iterations=2 if last else 4)
    update = max(update, _shift_sweep(views, state, band))
    state.history.append(_history_row(f"{band.high_angst:.0f} A", state, update))
    say(
        f"to {band.high_angst:.0f} A: axis turned by {state.axis_deg:+.2f} deg, tilt offset {state.offset_deg:+.2f} deg, "
        f"slab {state.thickness_angst:.0f} A, largest update {update:.1f} A"
    )


def _history_row(stage, state, update):
    return {
        "stage": stage,
        "axis_change_deg": state.axis_deg,
        "tilt_offset_deg": state.offset_deg,
        "x_tilt_deg": state.x_tilt_deg,
        "thickness_angst": state.thickness_angst,
        "largest_update_angst": update,
    }


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
        data, prior = refine.spectra_in_band(views, state.geometry, band, state.thickness_angst)
        delta, error, _ = refine.scoring_steps(data, prior, band.high_angst)
        update = float(np.linalg.norm(delta, axis=1).max())
        state.geometry = refine.recentre(refine.add_plane_shift(state.geometry, delta))
        state.history.append(_history_row(f"final {sweep + 1}", state, update))
        if update < settings.update_px * views.pixel_size_angst and sweep >= 2:
            break
    say(f"shifts settled: largest update {update:.2f} A after {sweep + 1} sweeps")


def _result(geometry, included, state, correlation, error, prior, pixel_size_angst, used) -> Alignment:
    full = geometry.replace(x_shift_angst=0.0, y_shift_angst=0.0)
    full = refine.turned(full, state.axis_deg, state.offset_deg, state.x_tilt_deg)
    shift = full.shift_angst
    shift[included] = state.geometry.shift_angst
    per_view = np.full((3, len(geometry)), np.nan)
    per_view[0, included], per_view[1, included] = correlation, error
    if state.residual_px is not None:
        per_view[2, included] = state.residual_px
    part_of_fit = np.zeros(len(geometry), bool)
    part_of_fit[included] = used
    deformation = None
    if state.deformation is not None:
        coefficients = np.zeros((len(geometry), N_TERMS, 2))
        coefficients[part_of_fit] = state.deformation.coefficients_angst
        deformation = LocalDeformation(coefficients)
    return Alignment(
        geometry=full.replace(x_shift_angst=shift[:, 0], y_shift_angst=shift[:, 1]),
        axis_change_deg=state.axis_deg,
        axis_error_deg=state.axis_error_deg,
        tilt_offset_deg=state.offset_deg,
        tilt_offset_error_deg=state.offset_error_deg,
        x_tilt_deg=state.x_tilt_deg,
        thickness_angst=state.thickness_angst,
        correlation=per_view[0],
        shift_error_angst=per_view[1],
        signal_fraction=prior,
        pixel_size_angst=pixel_size_angst,
        history=state.history,
        method=state.method,
        residual_px=per_view[2],
        patches=state.patches,
        beads=state.beads,
        used=part_of_fit,
        deformation=deformation,
    )


def settings_from_config(config) -> AlignmentSettings:
    """Settings from config.align_tilt_series.AlignTiltSeries."""
    return AlignmentSettings(
        mode=config.mode,
        pixel_size_angst=config.pixel_size_angst,
        resolution_angst=config.resolution_angst,
        highpass_angst=config.highpass_angst,
        max_shift_angst=config.max_shift_angst,
        clip_sigma=config.clip_sigma,
        refine_axis=config.tilt_axis == "refine",
        axis_range_deg=config.axis_range_deg,
        refine_offset=config.tilt_offset == "auto",
        level_x=config.x_tilt == "auto",
        thickness_angst=config.thickness_angst,
        update_px=config.update_px,
        max_sweeps=config.max_sweeps,
        local_deformation=config.local_deformation == "auto",
    )


def given_geometry(geometry: TiltGeometry, config) -> TiltGeometry:
    """The geometry that alignment starts from: a given tilt offset applied, shifts zero."""
    offset = config.tilt_offset if isinstance(config.tilt_offset, (int, float)) else 0.0
    return refine.turned(geometry.replace(x_shift_angst=0.0, y_shift_angst=0.0), offset_deg=float(offset))
