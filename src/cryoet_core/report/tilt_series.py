"""Report chapters on curation and alignment: views, X-rays, alignment."""

from __future__ import annotations

import numpy as np

from cryoet_core.io.repairs import read_repairs
from cryoet_core.report import views as view_pictures
from cryoet_core.report.figures import MEASURED, TRUE, image_grid, new_figure, show, thumbnail
from cryoet_core.report.page import Section
from cryoet_core.report.results import Results
from cryoet_core.tilt_series.exclude import NOT_JUDGED


def views(results: Results, numbers: dict) -> Section:
    """Thumbnails of all views, the excluded ones framed in red."""
    section = Section("Views", "Every view; a red frame marks those left out, with the reason.")
    for ts in results.series:
        series = results.table("exclude_views", ts)
        pictures, _ = results.volume("exclude_views", ts, f"{ts}_thumbnails.mrc")
        titles = [
            f"{tilt:.0f}" + ("" if reason in ("none", "") else f" {reason}")[:22]
            for tilt, reason in zip(series.tilts["nominal_tilt_deg"], series.tilts["exclude_reason"], strict=True)
        ]
        frames = [None if keep else "#b3261e" for keep in series.included]
        section.add_heading(ts)
        caption = f"{int(series.included.sum())} of {len(series)} views are used."
        if "dark_missed" in numbers.get(ts, {}):
            caption += f" Truth: {numbers[ts]['dark_missed']} bad views missed, {numbers[ts]['good_lost']} good ones lost."
        section.add_figure(image_grid([thumbnail(i, 110) for i in pictures], titles, 11, 1.0, frames), caption)
        summary = results.summary("exclude_views", ts)
        if not summary["darkness_judged"]:
            section.add_note(f"Dark views of {ts} cannot be told: {NOT_JUDGED}.")
        scores = view_pictures.score_figure(summary)
        if scores is not None:
            section.add_figure(scores, view_pictures.caption(summary))
    return section


def xrays(results: Results) -> Section:
    """Share of erased pixels per view and the strongest change close up."""
    section = Section("X-rays", "Pixels hit by X-rays, and dead or hot ones, replaced by their surroundings.")
    for ts in results.series:
        series, repairs = results.table("exclude_views", ts), read_repairs(results.path("erase_xrays", ts, f"{ts}_repairs.star"))
        counts = np.array([(repairs.tilt_id == tilt_id).sum() for tilt_id in series.tilts["tilt_id"]])
        figure = new_figure(11, 2.4)
        axes = figure.subplots(1, 3, gridspec_kw={"width_ratios": [2.2, 1, 1]})
        per_million = 1e6 / np.prod(series.image_size_px)
        axes[0].bar(series.tilts["nominal_tilt_deg"], counts * per_million, width=2, color=MEASURED)
        axes[0].set(xlabel="stage tilt (deg)", ylabel="erased pixels per million")
        pictures, _ = results.volume("erase_xrays", ts, f"{ts}_strongest.mrc")
        low, high = np.percentile(pictures[1], [1, 99])
        for ax, picture, title in zip(axes[1:], pictures, ("before", "after"), strict=True):
            show(ax, np.clip(picture, low, 2 * high - low), f"strongest hit, {title}", 0, 100)
        section.add_heading(ts)
        section.add_figure(figure, f"{counts.mean() * per_million:.1f} of a million pixels were replaced.")
    return section


def alignment(results: Results, numbers: dict, errors: dict) -> Section:
    """Shifts and axis found, how well each view fits the others, and the error against truth."""
    section = Section("Alignment", "Where the specimen lies in each view, found without markers.")
    for ts in results.series:
        series = results.table("align_tilt_series", ts)
        used = series.select(series.included)
        before = results.table("erase_xrays", ts)
        tilt = used.tilts["nominal_tilt_deg"]
        figure = new_figure(11, 2.8)
        axes = figure.subplots(1, 3)
        axes[0].plot(tilt, used.tilts["x_shift_angst"], ".-", color=MEASURED, label="x")
        axes[0].plot(tilt, used.tilts["y_shift_angst"], ".-", color="#6b9b37", label="y")
        axes[0].set(xlabel="stage tilt (deg)", ylabel="shift (A)")
        axes[0].legend(fontsize=8)
        _score_plot(axes[1], results.summary("align_tilt_series", ts).get("views", {}))
        if ts in errors:
            axes[2].bar(series.tilts["nominal_tilt_deg"], errors[ts].per_view_angst, width=2, color=TRUE)
            axes[2].set(xlabel="stage tilt (deg)", ylabel="error against truth (A)")
        else:
            axes[2].set_axis_off()
        axis = float(np.median(used.tilts["z_rot_deg"]))
        caption = f"Tilt axis {axis:.2f} deg (given: {float(before.tilts['z_rot_deg'].iloc[0]):.2f})."
        summary = results.summary("align_tilt_series", ts)
        if summary.get("method") == "import":
            caption += f" Alignment of {summary['program']}, taken from {summary['file']}; views joined by the {summary['joined_by']}."
        caption += _left_out(summary.get("views_left_out", []), series)
        caption += _gold(summary.get("gold"))
        caption += _beads(summary.get("beads") or {})
        caption += _patches(summary.get("patches") or {})
        n = numbers.get(ts, {})
        if "alignment_error_angst_rms" in n:
            caption += (
                f" Error against truth after removing the rigid part: {n['alignment_error_angst_rms']:.1f} A rms "
                f"({n['alignment_error_bin4_px_rms']:.2f} px at bin 4); axis off by {n['axis_error_deg']:.2f} deg."
            )
        section.add_heading(ts)
        section.add_figure(figure, caption)
        for note in summary.get("notes", []):
            section.add_note(f"{ts}: {note}.")
    return section


def _gold(gold: dict | None) -> str:
    """A sentence about the gold beads that were found."""
    if not gold or not gold["n_beads"]:
        return "" if gold is None else " No gold beads were found."
    sizes = " and ".join(f"{d:.0f}" for d in gold["diameters_angst"])
    return f" {gold['n_beads']} gold beads of {sizes} A were found, each in {np.median(gold['n_views']):.0f} views (median)."


def _beads(beads: dict) -> str:
    """A sentence about gold beads that were followed; none where there were too few."""
    if "residual_px" not in beads:
        return ""
    return (
        f" {beads['n_beads']} of them followed as landmarks: held-out residual {beads['held_out_before_px']:.2f} px before and {beads['held_out_after_px']:.2f} px "
        f"after their bundle adjustment, which was {'taken' if beads['accepted'] else 'not taken'}."
    )


def _patches(patches: dict) -> str:
    """Sentences about tracked patches: what held-out ones said of the bundle adjustment and of the local deformation."""
    text = ""
    if "accepted" in patches:
        text += (
            f" {patches['n_patches']} tracked patches: held-out residual {patches['held_out_before_px']:.2f} px before and "
            f"{patches['held_out_after_px']:.2f} px after bundle adjustment, which was {'taken' if patches['accepted'] else 'not taken'}."
        )
    if "deformation_accepted" in patches:
        text += (
            f" Local deformation: held-out residual of {patches['n_patches']} patches {patches['held_out_rigid_px']:.2f} px without and "
            f"{patches['held_out_deformed_px']:.2f} px with it; it was {'taken' if patches['deformation_accepted'] else 'not taken'}."
        )
    return text


def _left_out(views: list, series) -> str:
    """Sentence about views that alignment could not use."""
    if not views:
        return ""
    tilts = ", ".join(f"{view['nominal_tilt_deg']:.0f}" for view in views)
    gone = (series.tilts["exclude_reason"] == "not_aligned").any()
    after = "are excluded from here on (not_aligned)" if gone else "stay in use with interpolated shifts"
    return f" Views at {tilts} deg do not show what the others predict and {after}."


def _score_plot(axes, views: dict) -> None:
    """Correlation of every view with what the other views predict, and the expected error of its shift."""
    if not views.get("correlation"):
        axes.set_axis_off()
        return
    tilt = np.array(views["tilt_deg"], dtype=float)
    axes.plot(tilt, np.array(views["correlation"], dtype=float), ".", color=MEASURED)
    axes.set(xlabel="tilt (deg)", ylabel="correlation with the others")
    error = axes.twinx()
    error.plot(tilt, np.array(views["shift_error_angst"], dtype=float), "-", color="#9ca3af", linewidth=1)
    error.set_ylabel("expected error (A)", color="#6b7280")
