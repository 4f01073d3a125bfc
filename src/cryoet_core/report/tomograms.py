"""Report chapters on tomograms and picking."""

from __future__ import annotations

import numpy as np

from cryoet_core.report.figures import MEASURED, OTHER, TRUE, new_figure, orthogonal_slices, show
from cryoet_core.report.page import Section
from cryoet_core.report.results import Results

UNKNOWN_DIAMETER_PX = 8  # of the circles where nobody said how large the particle is


def tomograms(results: Results) -> Section:
    """Central slices of every tomogram."""
    section = Section("Tomograms", "Dark is dense, as recorded. y points up; the x-z slice shows the specimen's thickness.")
    for ts in results.series:
        volume, pixel = results.volume("reconstruct_tomogram", ts, f"{ts}.mrc")
        section.add_heading(ts)
        shape = " x ".join(str(n) for n in volume.shape[::-1])
        section.add_figure(orthogonal_slices(volume, ts, pixel), f"{shape} voxels of {pixel:.2f} A, three slices averaged.")
    return section


def picking(results: Results, numbers: dict) -> Section:
    """Picks drawn on slices, and the scores."""
    section = Section("Particles", "Particles found by template matching, or imported: circles on the slices they lie in.")
    rows = []
    for ts in results.series:
        volume, pixel = results.volume("reconstruct_tomogram", ts, f"{ts}.mrc")
        picks = results.picks(ts)
        section.add_heading(f"{ts}: {len(picks.table)} particles")
        summary = results.summary("match_template", ts)
        radius = 0.5 * (summary["diameter_angst"] or UNKNOWN_DIAMETER_PX * pixel)
        section.add_figure(_picks_figure(volume, pixel, picks, radius), "Picks within two voxels of each slice.")
        if "imported" in summary:
            section.add_text(_import_text(summary["imported"]))
        else:
            section.add_figure(_score_figure(results, ts, picks), "Scores of the picks in order, and the score map's histogram.")
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
    return text + "".join(f" Warning: {warning}." for warning in imported["warnings"])


def _picks_figure(volume, pixel, picks, radius_angst):
    figure = new_figure(11, 4.0)
    axes = figure.subplots(1, 3)
    positions = picks.positions_angst / pixel
    depth = volume.shape[0]
    for ax, z in zip(axes, np.linspace(0.38, 0.62, 3) * depth, strict=True):
        z = int(round(z))
        show(ax, volume[max(0, z - 1) : z + 2].mean(axis=0), f"z = {(z - depth // 2) * pixel:.0f} A")
        near = np.abs(positions[:, 2] + depth // 2 - z) <= 2
        for x, y, _ in positions[near]:
            xy = (x + volume.shape[2] // 2, y + volume.shape[1] // 2)
            ax.add_patch(_circle(xy, radius_angst / pixel))
    return figure


def _circle(xy, radius):
    from matplotlib.patches import Circle

    return Circle(xy, radius, fill=False, edgecolor="#38bdf8", linewidth=1.1)


def _score_figure(results, ts, picks):
    figure = new_figure(11, 2.5)
    axes = figure.subplots(1, 2)
    scores = np.sort(picks.table["score"].to_numpy(float))[::-1]
    axes[0].plot(np.arange(1, len(scores) + 1), scores, ".-", color=MEASURED)
    axes[0].set(xlabel="rank", ylabel="score")
    path = results.path("match_template", ts, f"{ts}_scores.mrc")
    if path.exists():
        values = results.volume("match_template", ts, f"{ts}_scores.mrc")[0].ravel()
        axes[1].hist(values[values != 0], bins=120, log=True, color=OTHER)
        if len(scores):
            axes[1].axvline(scores[-1], color=TRUE, label="last pick")
            axes[1].legend(fontsize=8)
        axes[1].set(xlabel="score of all voxels", ylabel="voxels")
    return figure
