"""CTF of a tilt series: spectra of all views, joint fit, quality, and what the table and the summary say about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cryoet_core.ctf.fit import SURE_GAIN, CtfFit, HandEvidence, fit_series, refit_series
from cryoet_core.ctf.foreign import ImportedCtf
from cryoet_core.ctf.inclination import Inclination, fit_inclination
from cryoet_core.ctf.quality import fit_resolution, local_correlation, resolution_limit, ring_profiles, spectrum_picture
from cryoet_core.ctf.recentre import IMAGE_CENTRE, TOMOGRAM_CENTRE
from cryoet_core.ctf.score import prepare_view
from cryoet_core.ctf.spectra import PolarGrid, TileCells, ViewSpectra, tile_cells, usable_window
from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.metadata import TiltSeries

MIN_RADII = 16
PICTURE_EDGE = 0.8  # the pictures reach this much finer than the fit
NO_GAIN, NEAR_ANGST = 4.0, 1500.0  # between this and SURE_GAIN rings count in part, if this close to what the neighbours say
SERIES_GAIN = 15.0  # one view at least must have this (noise fitted alone: at most 12.3 in the 164 views of four series)
REACH_DEG, HELD_DEG = 6.0, 2.0  # how far in tilt neighbours reach, and how little spread of them leaves a slope


@dataclass(frozen=True)
class CtfSettings:
    """Parameters of the estimation, see config/estimate_ctf.py. handedness : None (auto), +1 or -1."""

    window_px: int = 512
    resolution_range_angst: tuple[float, float] = (30.0, 8.0)
    defocus_range_angst: tuple[float, float] = (5000.0, 80000.0)
    fit_phase_shift: bool = False
    handedness: int | None = None
    defocus_angst: float | None = None


@dataclass(frozen=True)
class CtfEstimate:
    """fit; restrained (n,) bool: value taken from the neighbours; score (n,) correlation of the ring profiles;
    resolution_angst (n,) and limited_by (n,) what ends it (quality.LIMITS); pictures (n, 256, 256); evidence of the
    hand (None when nothing was fitted); inclination of the specimen (None as evidence); other: the fit with the other
    hand, on the plane of the stage; imported: the values of another program that stand in its place, else None."""

    fit: CtfFit
    restrained: np.ndarray
    score: np.ndarray
    resolution_angst: np.ndarray
    limited_by: np.ndarray
    pictures: np.ndarray
    evidence: HandEvidence | None
    other: CtfEstimate | None = None
    inclination: Inclination | None = None
    imported: ImportedCtf | None = None

    def with_hand(self, handedness: int) -> CtfEstimate:
        """The estimate with this sign of depth; a given defocus has no other and only takes the sign."""
        if self.fit.handedness == handedness:
            return self
        if self.other is not None:
            return self.other
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, handedness=handedness))


def _fit_radii(grid: PolarGrid, resolution_range_angst) -> slice:
    low, high = 1 / max(resolution_range_angst), 1 / min(resolution_range_angst)
    first, last = np.searchsorted(grid.k, [low, high])
    return slice(int(first), int(last))


def _check_radii(radii: slice, pixel_size_angst: float) -> None:
    if radii.stop - radii.start < MIN_RADII:
        raise UserInputError(
            "E-CTF-02", "the pixels are too coarse to see Thon rings in this range",
            field="estimate_ctf.resolution_range_angst", found=f"pixel size {pixel_size_angst:g} A",
            expected=f"at least {MIN_RADII} spectrum pixels between the two resolutions",
            fix="widen the range, or set estimate_ctf.defocus_angst to a known defocus",
        )


def neighbour_values(values, tilts_deg, weights) -> np.ndarray:
    """What the other views imply for every view (n,): a line through those around it in tilt, by ``weights`` (n,) from 0 to 1.

    Views REACH_DEG away count a quarter; the line's slope is held back where few views carry it, and a view does not count for itself.
    """
    distance = np.asarray(tilts_deg, float)[None] - np.asarray(tilts_deg, float)[:, None]
    near = np.asarray(weights, float)[None] / (1 + (distance / REACH_DEG) ** 2) ** 2 + 1e-12 * np.asarray(weights)[None]
    np.fill_diagonal(near, 0.0)
    near = np.where(near.sum(axis=1, keepdims=True) > 0, near, np.diag(np.ones(len(near))))  # nothing but itself
    mean, centre = (near @ values) / near.sum(axis=1), (near * distance).sum(axis=1) / near.sum(axis=1)
    offset = distance - centre[:, None]
    slope = (near * offset * (values - mean[:, None])).sum(axis=1) / ((near * offset**2).sum(axis=1) + HELD_DEG**2)
    return mean - slope * centre


def restrain(fit: CtfFit, tilts_deg) -> tuple[CtfFit, np.ndarray]:
    """Views without convincing rings take their neighbours' defocus. Returns (fit, restrained (n,) bool).

    Weak rings near the neighbours' value count in part, the more the stronger they are, so that nothing jumps at a threshold.
    Raises DataQualityError E-CTF-03 when no view has rings.
    """
    if fit.gain.max() < SERIES_GAIN:
        raise DataQualityError(
            "E-CTF-03", "no view of this series shows Thon rings", field="estimate_ctf",
            found=f"best log-likelihood gain {fit.gain.max():.1f}", expected=f"at least {SERIES_GAIN:g} in one view",
            fix="check pixel size, voltage and defocus_range_angst, or set defocus_angst to a known defocus",
        )
    share = np.clip((fit.gain - NO_GAIN) / (SURE_GAIN - NO_GAIN), 0, 1)
    expected = neighbour_values(fit.defocus_angst, tilts_deg, share >= 1)
    share = np.where((share >= 1) | (np.abs(fit.defocus_angst - expected) <= NEAR_ANGST), share, 0.0)
    expected = neighbour_values(fit.defocus_angst, tilts_deg, share)
    return dataclasses.replace(fit, defocus_angst=share * fit.defocus_angst + (1 - share) * expected), share < 0.5


def _restrain_like(fit: CtfFit, restrained, tilts_deg) -> tuple[CtfFit, np.ndarray]:
    """The fit with the less likely hand: the same views take their neighbours' value."""
    filled = np.where(restrained, neighbour_values(fit.defocus_angst, tilts_deg, ~restrained), fit.defocus_angst)
    return dataclasses.replace(fit, defocus_angst=filled), restrained


def _fixed_fit(n: int, settings: CtfSettings) -> CtfFit:
    zeros = np.zeros(n)
    return CtfFit(
        np.full(n, float(settings.defocus_angst)), np.zeros((n, 2)), zeros, zeros, zeros + np.inf, settings.handedness or -1,
        0.0, 0.0,
    )


def _fit(spectra: list[ViewSpectra], grid, window_angst, optics, tilts_deg, dose, settings):
    radii = _fit_radii(grid, settings.resolution_range_angst)
    _check_radii(radii, window_angst)
    radial, polar = _prepared(spectra, grid, radii, window_angst, optics)
    order = np.argsort(tilts_deg, kind="stable")
    back = np.argsort(order)
    fits, evidence = fit_series(
        [radial[i] for i in order], [polar[i] for i in order], settings.defocus_range_angst, tilts_deg[order], dose[order],
        fit_phase=settings.fit_phase_shift,
    )
    chosen = settings.handedness or evidence.decided or -1
    return [fits[hand].select(back) for hand in (chosen, -chosen)], evidence


def _prepared(spectra, grid, radii, window_angst, optics):
    """Scoring data of all views, averaged over angles and in full."""
    return (
        [prepare_view(s, grid, radii, window_angst, optics, radial=r) for s in spectra] for r in (True, False)
    )


def _on_inclined_plane(cells: list[TileCells], series: TiltSeries, fit: CtfFit, grid, window_angst, settings):
    """(fit, spectra, inclination): fitted again on the inclined plane where that is likelier; the same fit and None as spectra if not."""
    radii, optics, geometry = _fit_radii(grid, settings.resolution_range_angst), series.optics, series.geometry
    nominal = geometry.depth_plane()
    whole = [c.as_spectra(s) for c, s in zip(cells, nominal, strict=True)]
    positions = [c.position_angst for c in cells]
    found = fit_inclination(*_prepared(whole, grid, radii, window_angst, optics), positions, geometry, fit)
    if not found.used:
        return fit, None, found
    spectra = [c.strips(s) for c, s in zip(cells, found.slopes(geometry), strict=True)]
    _, polar = _prepared(spectra, grid, radii, window_angst, optics)
    return refit_series(polar, fit, series.tilts["pre_exposure_e_per_a2"].to_numpy(float), settings.fit_phase_shift), spectra, found


def _quality(spectra, grid, window_angst, optics, fit: CtfFit, radii: slice):
    """(score, resolution_angst, limited_by) of one view after another."""
    everything = slice(0, len(grid.k))
    phases = np.deg2rad(fit.phase_deg)
    for view, defocus, astigmatism, phase in zip(spectra, fit.defocus_angst, fit.astigmatism, phases, strict=True):
        data = prepare_view(view, grid, everything, window_angst, optics)
        measured, fitted = ring_profiles(data, grid.k, defocus, fit.handedness, astigmatism, phase, fit.b_factor)
        local = local_correlation(measured, fitted, grid.k, defocus, optics.wavelength_angst)
        a, b = measured[radii], fitted[radii]
        norm = np.sqrt((a**2).sum() * (b**2).sum())
        score = float((a * b).sum() / norm) if norm > 0 else 0.0
        yield score, fit_resolution(local, grid.k), resolution_limit(local, grid.k, defocus, optics.wavelength_angst)


def estimate_ctf(
    series: TiltSeries, images: Iterable, settings: CtfSettings, imported: ImportedCtf | None = None
) -> CtfEstimate:
    """Defocus of every view at depth 0, one astigmatism and phase shift, quality and pictures.

    Parameters
    ----------
    series : gives optics, pixel size and tilt geometry (nominal before alignment). images : n images (h, w) in the
    order of the rows, taken one by one. imported : values of another program, that are taken instead of a fit.

    Raises
    ------
    UserInputError E-CTF-02 (pixels too coarse), DataQualityError E-CTF-03 (no rings anywhere).
    """
    pixel, optics = series.pixel_size_angst, series.optics
    window = usable_window(series.image_size_px[::-1], settings.window_px)
    grid = PolarGrid.create(window, pixel, 1.33 * max(settings.resolution_range_angst))
    geometry, tilts = series.geometry, series.tilts["nominal_tilt_deg"].to_numpy(float)
    slopes = geometry.depth_plane()
    cells = [
        tile_cells(i, pixel, s, axis, grid, window) for i, s, axis in zip(images, slopes, geometry.z_rot_deg, strict=True)
    ]
    spectra = [c.strips(s) for c, s in zip(cells, slopes, strict=True)]
    evidence = inclination = None
    if imported is not None:
        checked = [(imported.fit(settings.handedness or -1), imported.missing, spectra)]
    elif settings.defocus_angst is not None:
        checked = [(_fixed_fit(len(series), settings), np.zeros(len(series), bool), spectra)]
    else:
        dose = series.tilts["pre_exposure_e_per_a2"].to_numpy(float)
        fits, evidence = _fit(spectra, grid, window * pixel, optics, tilts, dose, settings)
        best, inclined, inclination = _on_inclined_plane(cells, series, fits[0], grid, window * pixel, settings)
        first = restrain(best, tilts)
        checked = [(*first, inclined or spectra), (*_restrain_like(fits[1], first[1], tilts), spectra)]
    return dataclasses.replace(_with_quality(checked, evidence, inclination, series, grid, settings), imported=imported)


def _with_quality(checked, evidence, inclination, series: TiltSeries, grid, settings) -> CtfEstimate:
    """The estimate from (fit, restrained, spectra) of the likelier hand and, if there is one, of the other."""
    pixel, optics = series.pixel_size_angst, series.optics
    window = usable_window(series.image_size_px[::-1], settings.window_px)
    radii = _fit_radii(grid, settings.resolution_range_angst)
    radii = radii if radii.stop - radii.start >= MIN_RADII else slice(0, len(grid.k))
    first, _, spectra = checked[0]
    edge = PICTURE_EDGE * min(settings.resolution_range_angst)
    pictures = np.array([
        spectrum_picture(s.mean_power, pixel, *numbers, optics, edge)
        for s, *numbers in zip(spectra, *first.defocus_u_v_angle, first.phase_deg, strict=True)
    ])
    found = None
    for fit, restrained, of in reversed(checked):
        quality = _quality(of, grid, window * pixel, optics, fit, radii)
        score, resolution, limited = (np.array(values) for values in zip(*quality, strict=True))
        found = CtfEstimate(fit, restrained, score, resolution, limited, pictures, evidence, found)
    return dataclasses.replace(found, inclination=inclination)


def series_with_ctf(series: TiltSeries, estimate: CtfEstimate) -> TiltSeries:
    """The table with the CTF columns and the handedness; defocus_error_angst is 0 where it is not known.

    defocus_at: a fitted defocus is that at the centre of the image until alignment moves it (recentre.py); a given
    one, and Warp's, stays.
    """
    fit, imported = estimate.fit, estimate.imported
    u, v, angle = fit.defocus_u_v_angle
    at_tomogram = estimate.evidence is None if imported is None else imported.of_tomogram
    error = np.where(np.isfinite(fit.error_angst) & ~estimate.restrained, fit.error_angst, 0.0)
    out = series.with_columns(
        defocus_u_angst=u, defocus_v_angst=v, defocus_angle_deg=angle, phase_shift_deg=fit.phase_deg,
        ctf_max_resolution_angst=estimate.resolution_angst, ctf_score=estimate.score, defocus_error_angst=error,
        ctf_restrained=estimate.restrained.astype(np.int64), ctf_limited_by=estimate.limited_by,
        defocus_at=TOMOGRAM_CENTRE if at_tomogram else IMAGE_CENTRE,
    )
    return dataclasses.replace(out, handedness=fit.handedness)


def ctf_summary(series: TiltSeries, estimate: CtfEstimate) -> dict:
    """Numbers for summary.json; lists are in the order of the table's rows."""
    fit, evidence, tilts = estimate.fit, estimate.evidence, series.tilts
    u, v, angle = fit.defocus_u_v_angle
    out = {
        "name": series.name, "n_tilts": len(series), "fitted": evidence is not None,
        "tilt_id": tilts["tilt_id"].tolist(), "nominal_tilt_deg": tilts["nominal_tilt_deg"].tolist(),
        "defocus_u_angst": u, "defocus_v_angst": v, "defocus_angle_deg": angle, "phase_shift_deg": fit.phase_deg,
        "median_defocus_angst": float(np.median(fit.defocus_angst)), "astigmatism_angst": float(np.mean(u - v)),
        "defocus_error_angst": fit.error_angst, "log_likelihood_gain": fit.gain,
        "restrained": estimate.restrained.tolist(), "n_restrained": int(estimate.restrained.sum()),
        "score": estimate.score, "max_resolution_angst": estimate.resolution_angst,
        "median_max_resolution_angst": float(np.median(estimate.resolution_angst)),
        "resolution_limited_by": estimate.limited_by.tolist(),
        "n_limited_by_pixel_size": int((estimate.limited_by == "pixel_size").sum()),
        "n_limited_by_window": int((estimate.limited_by == "window").sum()),
        "ring_b_factor_angst2": fit.b_factor, "handedness": fit.handedness,
        "phase_shift_error_deg": fit.phase_error_deg, "astigmatism_order_in_dose": fit.orders[0],
        "phase_shift_order_in_dose": fit.orders[1],
    }
    if estimate.imported is not None:
        found = estimate.imported
        out["imported"] = {
            "program": found.program,
            "file": found.path,
            "joined_by": found.key,
            "n_missing": int(found.missing.sum()),
        }
    if estimate.inclination is not None:
        found = estimate.inclination
        out["inclination"] = {
            "tilt_offset_deg": found.y_deg, "tilt_offset_error_deg": found.y_error_deg, "x_tilt_deg": found.x_deg,
            "x_tilt_error_deg": found.x_error_deg, "log_posterior_gain": found.gain, "used": found.used,
        }
    if evidence is not None:
        out["hand_evidence"] = {
            "log_likelihood_plus_minus": evidence.difference, "votes_plus": evidence.votes_plus,
            "votes_minus": evidence.votes_minus, "decided_by_ctf": evidence.decided,
        }
    return out
