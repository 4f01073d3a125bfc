"""The numbers that the tilt-series steps report."""

from __future__ import annotations

import numpy as np

from cryoet_core.tilt_series.exclude import mark_excluded
from cryoet_core.tilt_series.slab_model import SlabPrior

NOT_ALIGNED = "not_aligned"  # reason in the table


def exclusion_summary(series, darkness, statistics, scores, limits) -> dict:
    """Every view with its scores, used or not, and the limits; every excluded one with its reason."""
    rows = series.tilts
    return {
        "n_views": len(series),
        "n_excluded": int((~series.included).sum()),
        "excluded": [
            {"tilt_id": int(r.tilt_id), "nominal_tilt_deg": float(r.nominal_tilt_deg), "reason": str(r.exclude_reason)}
            for r in rows[~series.included].itertuples()
        ],
        "darkness_judged": bool(np.isfinite(darkness.intensity).all()),
        "views": {
            "tilt_id": rows["tilt_id"].to_numpy(),
            "mean": statistics.mean,
            "std": statistics.std,
            "nominal_tilt_deg": rows["nominal_tilt_deg"].to_numpy(),
            "reason": rows["exclude_reason"].astype(str).tolist(),
            **scores,
        },
        "limits": limits,
    }


def xray_summary(series, found) -> dict:
    """Replaced pixels per view; views with more than 0.1 % are named."""
    per_view = found.pixels_per_view
    fraction = per_view / found.defects.size
    return {
        "n_pixels": int(per_view.sum()),
        "n_defect_pixels": int(found.defects.sum()),
        "pixels_per_view": per_view,
        "tilt_id": series.tilts["tilt_id"].to_numpy(),
        "median_fraction": float(np.median(fraction[series.included])),
        "views_over_0.1_percent": series.tilts["tilt_id"].to_numpy()[fraction > 1e-3],
    }


def alignment_summary(series, result) -> dict:
    """Of a finished alignment; per-view entries are null for excluded views."""
    geometry = result.geometry
    offset = geometry.y_tilt_deg - series.tilts["nominal_tilt_deg"].to_numpy(float)
    return {
        "aligned": True,
        "method": result.method,
        "patches": result.patches,
        "beads": result.beads,
        "tilt_axis_deg": float(np.mean(geometry.z_rot_deg)),
        "axis_change_deg": result.axis_change_deg,
        "axis_error_deg": result.axis_error_deg,
        "tilt_offset_deg": float(offset.mean()),
        "tilt_offset_error_deg": result.tilt_offset_error_deg,
        "x_tilt_deg": result.x_tilt_deg,
        "thickness_angst": result.thickness_angst,
        "working_pixel_size_angst": result.pixel_size_angst,
        "median_shift_error_angst": float(np.nanmedian(result.shift_error_angst)),
        "median_correlation": float(np.nanmedian(result.correlation)),
        "weak_views": weak_views(series, result),
        "views_left_out": _views_left_out(series, result),
        "local_deformation": deformation_summary(series, result.deformation, result.used),
        "views": {
            "tilt_id": series.tilts["tilt_id"].to_numpy(),
            "tilt_deg": geometry.y_tilt_deg,
            "x_shift_angst": np.where(series.included, geometry.x_shift_angst, np.nan),
            "y_shift_angst": np.where(series.included, geometry.y_shift_angst, np.nan),
            "correlation": result.correlation,
            "shift_error_angst": result.shift_error_angst,
            "residual_px": result.residual_px,
        },
        "signal_fraction": _curve(result.signal_fraction),
        "history": result.history,
    }


def gold_summary(gold, series) -> dict:
    """Beads of a series: diameters, number, positions (A, tomogram), and per view how many are shown and how many places are known."""
    ids = series.tilts["tilt_id"].to_numpy()
    here = gold.tilt_id[None] == ids[:, None]  # (views, places)
    return {
        "diameters_angst": gold.diameters_angst,
        "n_beads": len(gold.position_angst),
        "position_angst": gold.position_angst,
        "bead_diameter_angst": gold.bead_diameter_angst,
        "n_views": gold.n_views,
        "views": {"tilt_id": ids, "seen": (here & gold.seen).sum(axis=1), "places": here.sum(axis=1)},
    }


def gold_sentence(gold) -> str:
    """What was found, for the log and the report."""
    if not len(gold.position_angst):
        return "No gold beads were found."
    sizes = " and ".join(f"{d:.0f}" for d in gold.diameters_angst)
    views = f"each in {np.median(gold.n_views):.0f} views (median)"
    return f"{len(gold.position_angst)} gold beads of {sizes} A, {views}; {np.mean(~gold.seen):.0%} of their places are known from other views only."


def _curve(prior: SlabPrior) -> dict:
    return {"frequency_per_angst": prior.frequency, "signal_fraction": prior.signal_fraction}


def weak_views(series, result, n_sigma: float = 5.0) -> list[int]:
    """tilt_ids whose leave-one-out correlation lies far below a smooth trend over the tilt angle."""
    used = np.isfinite(result.correlation)
    tilt, value = result.geometry.y_tilt_deg[used], result.correlation[used]
    trend = np.polyval(np.polyfit(tilt, value, 4), tilt) if used.sum() > 8 else np.full(used.sum(), np.median(value))
    residual = value - trend
    scale = max(1.4826 * float(np.median(np.abs(residual))), 0.01)
    weak = residual < -n_sigma * scale
    if result.used is not None:
        weak |= ~result.used[used]
    return series.tilts["tilt_id"].to_numpy()[used][weak].astype(int).tolist()


def _views_left_out(series, result) -> list[dict]:
    """Views in use that alignment did not use; their shifts are interpolated."""
    if result.used is None:
        return []
    meaning = "does not show what the other views predict (dark, blurred, blocked, or another place)"
    rows = np.flatnonzero(series.included & ~result.used)
    ids, tilt = (series.tilts[c].to_numpy() for c in ("tilt_id", "nominal_tilt_deg"))
    return [
        {"tilt_id": int(ids[i]), "nominal_tilt_deg": float(tilt[i]), "correlation": float(result.correlation[i]), "code": NOT_ALIGNED, "reason": meaning}
        for i in rows
    ]


def deformation_summary(series, deformation, used) -> dict | None:
    """Rms and largest displacement (A) of every view over a grid of its image's middle, None without a deformation.

    Views not ``used`` have NaN.
    """
    if deformation is None:
        return None
    half = [0.35 * n * series.pixel_size_angst * np.linspace(-1, 1, 9) for n in series.image_size_px]
    places = np.stack(np.meshgrid(*half), axis=-1).reshape(1, -1, 2)
    moved = np.linalg.norm(deformation.at(np.broadcast_to(places, (len(series), *places.shape[1:]))), axis=2)
    moved[~used] = np.nan
    return {"rms_angst": np.sqrt(np.mean(moved**2, axis=1)), "largest_angst": moved.max(axis=1)}


def without_unaligned(series, result):
    """The series with the views that alignment could not use excluded as ``not_aligned``."""
    if result.used is None:
        return series
    return mark_excluded(series, {int(row): NOT_ALIGNED for row in np.flatnonzero(~result.used)})


def ctf_correction_summary(series, settings, corrected, n_copies) -> dict:
    """How many views were corrected and in how many defocus copies, and the views that were written."""
    return {
        "mode": settings.mode,
        "pixel_size_angst": series.pixel_size_angst,
        "image_size_px": series.image_size_px,
        "wiener": {"snr": settings.wiener_snr, "falloff": settings.wiener_falloff} if settings.mode == "wiener" else None,
        "n_views": len(series),
        "n_corrected": int(np.sum(corrected)),
        "defocus_tolerance_angst": settings.defocus_tolerance_angst,
        "defocus_copies_per_view": n_copies,
        "tilt_id": series.tilts["tilt_id"].to_numpy(),
    }
