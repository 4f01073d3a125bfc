"""Report chapters of the first steps: acquisition, motion, CTF."""

from __future__ import annotations

import numpy as np

from cryoet_core.movies.motion_file import read_fields, read_tracks
from cryoet_core.report.figures import MEASURED, OTHER, TRUE, image_grid, new_figure
from cryoet_core.report.page import Section
from cryoet_core.report.results import Results


def acquisition(results: Results) -> Section:
    """One row per series: views, tilt range, dose, pixel, axis; the order of the tilts."""
    section = Section("Acquisition", "What the tilt series are, as imported.")
    rows = []
    figure = new_figure(11, 2.6)
    axes = figure.subplots(1, 2)
    for ts in results.series:
        series = results.table("import_tilt_series", ts)
        tilts = series.tilts
        exposure = tilts["exposure_e_per_a2"].to_numpy(float)
        total = float(np.nansum(exposure))
        rows.append(
            [
                ts,
                len(series),
                f"{tilts['nominal_tilt_deg'].min():.0f} to {tilts['nominal_tilt_deg'].max():.0f}",
                round(total, 1),
                series.pixel_size_angst,
                f"{series.image_size_px[0]} x {series.image_size_px[1]}",
                round(float(tilts["z_rot_deg"].iloc[0]), 2),
                series.voltage_kv,
            ]
        )
        axes[0].plot(tilts["tilt_id"], tilts["nominal_tilt_deg"], ".", label=ts)
        axes[1].plot(tilts["nominal_tilt_deg"], tilts["pre_exposure_e_per_a2"], ".", label=ts)
    axes[0].set(xlabel="order of acquisition", ylabel="stage tilt (deg)")
    axes[1].set(xlabel="stage tilt (deg)", ylabel="dose before the image (e/A$^2$)")
    axes[0].legend(fontsize=8)
    header = ["series", "views", "tilts (deg)", "dose (e/A2)", "pixel (A)", "image (px)", "tilt axis (deg)", "kV"]
    section.add_table(header, rows)
    _add_sources(section, results)
    section.add_figure(figure, "Order of acquisition, and the dose each image found already on the specimen.")
    return section


def _add_sources(section: Section, results: Results) -> None:
    """Where every value came from, and where the config replaced what the mdoc says."""
    names = {"order": "order", "tilt_axis": "tilt axis", "pixel_size": "pixel size", "voltage": "voltage",
             "exposure": "dose", "pre_exposure": "dose before"}
    rows = []
    for ts in results.series:
        summary = results.summary("import_tilt_series", ts)
        rows.append([ts, *(summary["sources"].get(key, "-") for key in names)])
        for key, values in summary["overridden"].items():
            section.add_note(f"{ts}: the config says {key} = {values['config']:g}, the mdoc {values['mdoc']:.4g}; the config was used.")
        for warning in summary["warnings"]:
            section.add_note(f"{ts}: {warning}")
    section.add_table(["series", *(f"{name} from" for name in names.values())], rows)


def motion_tracks(results: Results, ts: str) -> dict[int, np.ndarray]:
    """tilt_id -> (frames, 2) movement of the content relative to the mean over frames, px."""
    path = results.path("correct_motion", ts, f"{ts}_motion.star")
    return read_tracks(path) if path.exists() else {}


def motion(results: Results, numbers: dict) -> Section:
    """Tracks of some tilts and the rms motion of all."""
    section = Section("Motion", "Movement of the specimen between the frames of each movie, found and removed.")
    for ts in results.series:
        tracks = motion_tracks(results, ts)
        if not tracks:
            section.add_text(f"{ts} came as a ready stack: there are no frames to align.")
            if offset := results.summary("correct_motion", ts).get("offset_undone"):
                section.add_note(f"{ts} stores counts less {offset:g}: that was undone.")
            continue
        series = results.table("correct_motion", ts)
        truth = results.truth_json(ts)["frame_shifts_px"] if results.simulated else {}
        section.add_heading(ts)
        summary = results.summary("correct_motion", ts)
        _add_gain(section, summary.get("gain"))
        for view in summary.get("unreadable", []):
            section.add_note(f"View {view['tilt_id']} is left out: {view['error']}")
        if split := summary.get("halves_split"):
            section.add_note(
                f"Halves of {len(split)} of {len(series)} views ({split[0]['halves']}): their frames "
                f"give only one half, so the counting noise "
                "of the image was split. Such halves share every disturbance of the specimen."
            )
        section.add_figure(_motion_figure(series, tracks, truth, summary), _motion_caption(numbers.get(ts, {})))
        _add_local(section, series, summary, read_fields(results.path("correct_motion", ts, f"{ts}_motion.star")))
    return section


def _add_local(section: Section, series, summary: dict, fields: dict) -> None:
    """What became of local motion, and the largest field as arrows."""
    models = summary.get("local_model", [])
    tried = sum(m != "off" for m in models)
    if not tried:
        return
    section.add_text(f"Local motion was looked for in {tried} of {len(models)} views; the held-out test accepted it in {summary['n_local']}.")
    if not fields:
        section.add_note("No view has local motion that frequencies which were not fitted agree with: frames were moved as a whole.")
        return
    chosen = max(fields, key=lambda tilt_id: fields[tilt_id].rms_px)
    section.add_figure(local_figure(series, chosen, fields[chosen], summary), "Local motion from the first to the last frame, on top of that of the "
                       "whole frame, in the view with the most of it (left; arrows enlarged); its rms and expected error in every view (right).")


def local_figure(series, tilt_id: int, field, summary: dict):
    """Arrows of the local movement from the first to the last frame of one view; rms and expected error of all views."""
    figure = new_figure(11, 3.6)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1, 1.6]})
    h, w = field.shape
    x, y = np.meshgrid(np.linspace(0.04 * w, 0.96 * w, 13), np.linspace(0.04 * h, 0.96 * h, 13))
    moved = field.at(np.stack([x.ravel(), y.ravel()], axis=1))
    left.quiver(x.ravel(), y.ravel(), *(moved[-1] - moved[0]).T, color=MEASURED, angles="xy", pivot="mid")
    left.set_title(f"longest arrow {np.linalg.norm(moved[-1] - moved[0], axis=1).max():.1f} px", fontsize=9)
    tilt = series.tilts.set_index("tilt_id").loc[tilt_id, "nominal_tilt_deg"]
    left.set(xlim=(0, w), ylim=(0, h), xlabel="x (movie px)", ylabel=f"y, view at {tilt:.0f} deg")
    left.set_aspect("equal")
    tilts = series.tilts.set_index("tilt_id").loc[summary["motion_tilt_id"], "nominal_tilt_deg"]
    right.bar(tilts, summary["local_rms_angst"], width=2, color=MEASURED, label="rms local motion")
    right.plot(tilts, _numbers(summary["local_predicted_error_angst"]), "k_", markersize=9, label="expected error per coordinate")
    right.set(xlabel="stage tilt (deg)", ylabel="local motion (A)")
    right.legend(fontsize=8)
    return figure


def _numbers(values) -> np.ndarray:
    """Floats of a list of summary.json, where unknown is None."""
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _add_gain(section: Section, gain: dict | None) -> None:
    """How the gain reference lies, and how sure the counts are of it."""
    if gain is None:
        return
    turns = [name for name in ("flip_x", "flip_y", "transpose") if gain[name]]
    text = f"Gain reference: {' + '.join(turns) or 'as it is'}, {'divides' if gain['inverse'] else 'multiplies'}"
    if gain["decided"]:
        section.add_text(f"{text} (correlation with the counts {gain['significance_sigma']:.0f} sigma, {gain['lead_sigma']:.0f} more than the next).")
    else:
        section.add_note("The gain's pattern is not clear in the counts; the orientation of the config was used.")


def _motion_figure(series, tracks, truth, summary):
    figure = new_figure(11, 2.7)
    axes = figure.subplots(1, 5, gridspec_kw={"width_ratios": [1, 1, 1, 1, 2.2]})
    usable = [t for t in series.tilts["tilt_id"] if t in tracks]
    for ax, tilt_id in zip(axes[:4], usable[:: max(1, len(usable) // 4)], strict=False):
        if str(tilt_id) in truth:
            ax.plot(*np.asarray(truth[str(tilt_id)]).T, "o-", color=TRUE, alpha=0.7, label="truth")
        ax.plot(*tracks[tilt_id].T, ".-", color=MEASURED, label="found")
        tilt = series.tilts.set_index("tilt_id").loc[tilt_id, "nominal_tilt_deg"]
        ax.set_title(f"{tilt:.0f} deg (px)", fontsize=9)
        ax.set_aspect("equal", adjustable="datalim")
    axes[0].legend(fontsize=7)
    rms = [float(np.sqrt((tracks[t] ** 2).sum(axis=1).mean())) if t in tracks else np.nan for t in series.tilts["tilt_id"]]
    axes[4].bar(series.tilts["nominal_tilt_deg"], np.array(rms) * series.movie_pixel_size_angst, width=2, color=MEASURED)
    tilts = series.tilts.set_index("tilt_id").loc[summary["motion_tilt_id"], "nominal_tilt_deg"]
    error = _numbers(summary["predicted_error_px"]) * series.movie_pixel_size_angst
    axes[4].plot(tilts, error, "k_", markersize=9, label="expected error")
    axes[4].legend(fontsize=7)
    axes[4].set(xlabel="stage tilt (deg)", ylabel="rms motion (A)")
    return figure


def _motion_caption(numbers: dict) -> str:
    text = "Tracks of four tilts; rms motion of every view and the error of one coordinate that the data let expect (lines)."
    if "motion_error_px_rms" in numbers:
        text += f" Error of the tracks against truth: {numbers['motion_error_px_rms']:.3f} px rms."
    return text


def ctf(results: Results, numbers: dict) -> Section:
    """Defocus over tilt, and the measured power spectra beside the fitted CTF."""
    section = Section("CTF", "Defocus of every view: power spectrum (left half) beside the fitted CTF (right half).")
    _add_hand(section, results.run_summary("decide_handedness"))
    for ts in results.series:
        series = results.table("decide_handedness", ts)
        section.add_heading(ts)
        defocus = series.tilts["defocus_u_angst"]
        if len(series) > 3 and defocus.nunique() == 1:
            section.add_note(f"The defocus was given, not fitted: {defocus.iloc[0] / 1e4:.2f} um for every view.")
            continue
        section.add_figure(_defocus_figure(series, results.truth(ts) if results.simulated else None), _ctf_caption(numbers.get(ts, {}), series))
        _add_inclination(section, results.summary("estimate_ctf", ts).get("inclination"))
        path = results.path("estimate_ctf", ts, f"{ts}_spectra.mrc")
        if path.exists():
            spectra, _ = results.volume("estimate_ctf", ts, f"{ts}_spectra.mrc")
            if np.ptp(spectra) > 0:
                chosen = np.linspace(0, len(series) - 1, 7).round().astype(int)
                titles = [
                    f"{series.tilts['nominal_tilt_deg'].iloc[i]:.0f} deg, "
                    f"{(series.tilts['defocus_u_angst'].iloc[i] + series.tilts['defocus_v_angst'].iloc[i]) / 2e4:.2f} um"
                    for i in chosen
                ]
                section.add_figure(image_grid([spectra[i] for i in chosen], titles, 7, 1.6), "Spectra of seven views: the rings of both halves must meet.")
    return section


def _add_inclination(section: Section, found: dict | None) -> None:
    """In one sentence: how the specimen lies on the stage by its defocus gradients, where they can tell to 3 degrees."""
    if not found or min(found["tilt_offset_error_deg"], found["x_tilt_error_deg"]) > 3:
        return
    used = "The defocus was fitted on this plane." if found["used"] else "Too little to count: the defocus was fitted on the stage's plane."
    section.add_text(
        f"By the defocus gradients the specimen lies inclined by {found['tilt_offset_deg']:+.1f} +- {found['tilt_offset_error_deg']:.1f} degrees "
        f"about the tilt axis and {found['x_tilt_deg']:+.1f} +- {found['x_tilt_error_deg']:.1f} degrees across it. {used}"
    )


def _add_hand(section: Section, hand: dict) -> None:
    """What decided the hand of the run, series by series, in words and as a table."""
    section.add_heading("Hand of the run")
    if hand["given"] is not None:
        text = f"Handedness {hand['given']:+d} was given in the config."
        if hand["decided_by_ctf"] not in (0, hand["given"]):
            section.add_note(f"The defocus gradients say {hand['decided_by_ctf']:+d}, the opposite of what was given.")
    elif hand["axis_turned_180"]:
        text = "The defocus gradients say +1: the tilt axis of every series was turned by 180 degrees and -1 stored."
        section.add_note(text)
    elif hand["decided_by_ctf"] == 0:
        text = "Not decided by CTF: -1 was kept. The mirrored template of the picking chapter is the check."
    else:
        text = "The defocus gradients say -1: the tilt axis is the right way round."
    section.add_text(text)
    rows = [[name, f"{e['log_likelihood_plus_minus']:.0f}", e["votes_plus"], e["votes_minus"],
             f"{e['decided']:+d}" if e["decided"] else "open"] for name, e in hand["series"].items()]
    if rows:
        rows.append(["all together", f"{hand['log_likelihood_plus_minus']:.0f}", hand["votes_plus"], hand["votes_minus"],
                     f"{hand['decided_by_ctf']:+d}" if hand["decided_by_ctf"] else "open"])
        header = ["series", "log-likelihood of +1 against -1", "views for +1", "views for -1", "says"]
        section.add_table(header, rows)


def _defocus_figure(series, truth):
    figure = new_figure(11, 2.8)
    axes = figure.subplots(1, 2)
    tilt = series.tilts["nominal_tilt_deg"]
    if truth is not None:
        expected = truth.tilts.set_index("tilt_id").loc[series.tilts["tilt_id"]]
        for column in ("defocus_u_angst", "defocus_v_angst"):
            axes[0].plot(tilt, expected[column] / 1e4, "-", color=TRUE, linewidth=1)
        axes[0].plot([], [], "-", color=TRUE, label="truth")
    axes[0].plot(tilt, series.tilts["defocus_u_angst"] / 1e4, ".", color=MEASURED, label="U")
    axes[0].plot(tilt, series.tilts["defocus_v_angst"] / 1e4, "x", color=OTHER, label="V")
    axes[0].set(xlabel="stage tilt (deg)", ylabel="defocus (um)")
    axes[0].legend(fontsize=8)
    if "ctf_max_resolution_angst" in series.tilts:
        _resolution_axes(axes[1], series)
    return figure


CTF_LIMITS = {
    "data": ("the rings end", "."),
    "pixel_size": ("ends at the pixel size, not at the rings", "^"),
    "window": ("ends at estimate_ctf.window_px", "s"),
}


def _resolution_axes(axes, series):
    """Fit resolution over tilt; a view that could not have been better with these pixels or this window has another mark."""
    tilt, resolution = series.tilts["nominal_tilt_deg"], series.tilts["ctf_max_resolution_angst"]
    limits = series.tilts["ctf_limited_by"] if "ctf_limited_by" in series.tilts else np.full(len(series), "data")
    for limit, (label, mark) in CTF_LIMITS.items():
        of = np.asarray(limits) == limit
        if of.any():
            axes.plot(tilt[of], resolution[of], mark, color=MEASURED if limit == "data" else OTHER, markersize=5, label=label)
    if (np.asarray(limits) != "data").any():
        nyquist = 2 * series.pixel_size_angst
        axes.axhline(nyquist, color="0.6", linewidth=1)
        axes.set_ylim(0.9 * nyquist, max(1.6 * nyquist, 1.05 * resolution.max()))
        axes.legend(fontsize=7, loc="upper center")
    axes.set(xlabel="stage tilt (deg)", ylabel="fit resolution (A)")


def _ctf_caption(numbers: dict, series) -> str:
    text = "Defocus per view and the resolution to which the rings fit."
    if "ctf_limited_by" in series.tilts:
        n = int((series.tilts["ctf_limited_by"] == "pixel_size").sum())
        if n:
            text += (f" {n} of {len(series)} views fit as far as their pixels go (grey line: Nyquist, {2 * series.pixel_size_angst:.1f} A): their "
                     "resolution is limited by the pixel size and says nothing about the views.")
    if "defocus_error_nm_median" in numbers:
        text += f" Median error to 45 degrees: {numbers['defocus_error_nm_median']:.0f} nm."
    return text
