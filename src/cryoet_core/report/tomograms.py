"""Report chapters on tomograms and picking."""

from __future__ import annotations

import numpy as np

from cryoet_core.picking.background import FalsePickModel
from cryoet_core.picking.peaks import robust_statistics
from cryoet_core.report.figures import MEASURED, OTHER, TRUE, new_figure, orthogonal_slices, show
from cryoet_core.report.page import Section
from cryoet_core.report.results import Results

SCORE_CAPTION = (
    "Above: the score map with the picks, and the orientation that fits best. Below: the scores of all voxels (their far tail is not Gaussian: a "
    "maximum over orientations; in a hierarchical search most voxels show the lower score of the coarse orientations, the Gaussian is that of all), and how many candidates lie above a score, against the places that a control won, which are false by construction."
)
UNKNOWN_DIAMETER_PX = 8  # of the circles where nobody said how large the particle is


def tomograms(results: Results) -> Section:
    """Central slices of every tomogram."""
    section = Section("Tomograms", "Dark is dense, as recorded. y points up; the x-z slice shows the specimen's thickness.")
    for ts in results.series:
        volume = results.blocks("reconstruct_tomogram", ts, f"{ts}.mrc")
        pixel = volume.pixel_size_angst
        section.add_heading(ts)
        shape = " x ".join(str(n) for n in volume.shape[::-1])
        section.add_figure(orthogonal_slices(volume, ts, pixel), f"{shape} voxels of {pixel:.2f} A, three slices averaged.")
    return section


def picking(results: Results, numbers: dict) -> Section:
    """Picks drawn on slices, and the scores."""
    section = Section("Particles", "Particles found by template matching, or imported: circles on the slices they lie in.")
    rows = []
    for ts in results.series:
        volume = results.blocks("reconstruct_tomogram", ts, f"{ts}.mrc")
        pixel = volume.pixel_size_angst
        picks = results.picks(ts)
        section.add_heading(f"{ts}: {len(picks.table)} particles")
        summary = results.summary("match_template", ts)
        radius = 0.5 * (summary["diameter_angst"] or UNKNOWN_DIAMETER_PX * pixel)
        section.add_figure(_picks_figure(volume, pixel, picks, radius), "Picks within two voxels of each slice.")
        if "imported" in summary:
            section.add_text(_import_text(summary["imported"]))
        else:
            section.add_text(_match_text(summary))
            section.add_figure(_score_figure(results, ts, picks, summary), SCORE_CAPTION)
        found = numbers.get(ts, {})
        rows.append([ts, len(picks.table), found.get("precision", "-"), found.get("recall", "-"), summary["hand"]["verdict"]])
    section.add_table(["series", "picks", "precision", "recall", "hand"], rows)
    return section


def _import_text(imported: dict) -> str:
    """What was read, what was left out and why."""
    left = {"of other tomograms": "n_other_tomograms", "of other classes": "n_other_classes", "below picks_min_score": "n_below_score",
            "outside the tomogram": "n_outside"}
    out = [f"{imported[key]} {why}" for why, key in left.items() if imported[key]]
    text = f"Imported, not matched: {imported['n_in_file']} picks in the file ({imported['format']})"
    text += f", left out: {', '.join(out)}." if out else "."
    text += f" Positions are counted in {imported['unit']}." if imported.get("unit") else ""
    return text + "".join(f" Warning: {warning}." for warning in imported["warnings"])


def _picks_figure(volume, pixel, picks, radius_angst):
    figure = new_figure(11, 4.0)
    axes = figure.subplots(1, 3)
    positions = picks.positions_angst / pixel
    depth = volume.shape[0]
    for ax, z in zip(axes, np.linspace(0.38, 0.62, 3) * depth, strict=True):
        z = int(round(z))
        show(ax, volume[max(0, z - 1) : z + 2, :, :].mean(axis=0), f"z = {(z - depth // 2) * pixel:.0f} A")
        near = np.abs(positions[:, 2] + depth // 2 - z) <= 2
        for x, y, _ in positions[near]:
            xy = (x + volume.shape[2] // 2, y + volume.shape[1] // 2)
            ax.add_patch(_circle(xy, radius_angst / pixel))
    return figure


def _circle(xy, radius):
    from matplotlib.patches import Circle

    return Circle(xy, radius, fill=False, edgecolor="#38bdf8", linewidth=1.1)


def _score_figure(results, ts, picks, summary):
    """Score map, orientation map, histogram of the score map, and the candidates against what is expected of false ones."""
    figure = new_figure(11, 7.2)
    axes = figure.subplots(2, 2)
    scores, pixel = results.volume("match_template", ts, f"{ts}_scores.mrc")
    depth = scores.argmax(axis=0)
    show(axes[0, 0], scores.max(axis=0), "score map, largest along z", 1, 99.9)
    _mark_picks(axes[0, 0], picks, scores.shape, pixel)
    _orientation_panel(axes[0, 1], results, ts, depth, scores.max(axis=0))
    _histogram_panel(axes[1, 0], scores[scores != 0], summary, pixel)
    _false_picks_panel(axes[1, 1], summary)
    return figure


def _mark_picks(ax, picks, shape, pixel):
    positions = picks.positions_angst / pixel
    ax.plot(positions[:, 0] + shape[2] // 2, positions[:, 1] + shape[1] // 2, "o", mfc="none", mec=TRUE, ms=5, mew=0.8)
    ax.set_xlim(-0.5, shape[2] - 0.5)
    ax.set_ylim(-0.5, shape[1] - 0.5)


def _orientation_panel(ax, results, ts, depth, highest):
    """Best orientation at the best voxel along z: hue is the direction's azimuth, whiteness its tilt, brightness the score."""
    path = results.path("match_template", ts, f"{ts}_orientations.mrc")
    ax.set_axis_off()
    if not path.exists():
        return
    from matplotlib.colors import hsv_to_rgb

    index = np.take_along_axis(results.volume("match_template", ts, f"{ts}_orientations.mrc")[0], depth[None], axis=0)[0].astype(int)
    angles = results.star("match_template", ts, f"{ts}_orientations.star")["orientations"]
    psi, tilt = angles["rlnAnglePsi"].to_numpy(float)[index], angles["rlnAngleTilt"].to_numpy(float)[index]
    low, high = np.percentile(highest, [5, 99.9])
    colour = np.stack([psi % 360 / 360, 1 - 0.7 * np.abs(tilt - 90) / 90, np.clip((highest - low) / (high - low or 1), 0, 1)], axis=-1)
    ax.imshow(hsv_to_rgb(np.where((index >= 0)[..., None], colour, 0)), origin="lower", interpolation="nearest")
    ax.set_title("best orientation there: one colour, one direction", fontsize=9)


def _histogram_panel(ax, values, summary, pixel):
    """Scores of the search. Where it ran in coarser voxels than the tomogram's, the cut-off is on another scale and not drawn."""
    searched = summary.get("search_pixel_angst", pixel)
    binned = searched > 1.01 * pixel
    counts, edges = np.histogram(values, bins=120)
    ax.stairs(counts, edges, color=OTHER, fill=True, alpha=0.5, label="voxels")
    ax.set_yscale("log")
    centres = 0.5 * (edges[1:] + edges[:-1])
    median, sigma = robust_statistics(values) if binned else (summary["score_median"], summary["score_sigma"])
    gaussian = len(values) * (edges[1] - edges[0]) / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((centres - median) / sigma) ** 2)
    ax.plot(centres, np.maximum(gaussian, 0.3), "--", color=MEASURED, label="Gaussian of the robust sigma")
    ax.set_ylim(0.5, None)
    if not binned:
        _draw_cutoff(ax, summary)
    ax.set(xlabel=f"score of all voxels, searched at {searched:.0f} A/px" if binned else "score of all voxels", ylabel="voxels")
    ax.legend(fontsize=8)


def _false_picks_panel(ax, summary):
    """How many candidates reach a score, how many places the controls won do, and the fitted tails."""
    found = np.sort(summary.get("candidate_scores", []))[::-1]
    ax.step(found, np.arange(1, len(found) + 1), where="post", color=MEASURED, label="candidates")
    names = {"mirror": "won by the mirror image", "random_phase": "won by random phases"}
    for (kind, values), colour in zip(summary.get("control_scores", {}).items(), (OTHER, "#a855f7"), strict=False):
        values = np.sort(values)[::-1]
        ax.step(values, np.arange(1, len(values) + 1), where="post", color=colour, label=names.get(kind, kind))
    if len(found):
        line = np.linspace(*np.sort([found[-1], found[0]]), 200)
        for number, terms in enumerate(summary.get("false_pick_models", [])):
            ax.plot(line, FalsePickModel(**terms).expected(line), "--", color="k", lw=1, label="model of the false ones" if number == 0 else None)
    ax.set_yscale("log")
    ax.set_ylim(0.05, None)
    _draw_cutoff(ax, summary)
    ax.set(xlabel="refined score", ylabel="number above it")
    ax.legend(fontsize=8)


def _draw_cutoff(ax, summary):
    if summary.get("score_threshold") is not None:
        ax.axvline(summary["score_threshold"], color=TRUE, label=f"cut-off by {summary.get('threshold_rule', 'n_sigma')}")


def _match_text(summary: dict) -> str:
    """The search, the cut-off and the hand in words."""
    hand, expected = summary["hand"], summary.get("expected_false")
    text = f"{summary['n_rotations']} orientations of {summary['step_deg']:.1f} degrees, {summary.get('search', 'exhaustive')} search ({summary['route']})"
    text += f" in voxels of {summary['search_pixel_angst']:.3g} A." if "search_pixel_angst" in summary else "."
    if expected is not None:
        text += f" False picks expected above the cut-off: {expected:.2g}."
    if hand.get("n", 0) >= 5:
        text += f" At the {hand['n']} best places the reference beats its mirror image by {hand['mean_gap_sigma']:.2f} sigma in the mean: {hand['verdict']}."
    return text + "".join(f" Warning: {warning}." for warning in summary.get("search_mask_warnings", ()))
