"""Pictures of the scores of every view over the tilt angle, with the limits that exclude."""

from __future__ import annotations

import numpy as np

from cryoet_core.report.figures import MEASURED, OTHER, new_figure
from cryoet_core.tilt_series.view_scores import CRITERIA

BAD = "#b3261e"


def known_scores(summary: dict) -> list:
    """The criteria that have a number for at least one view of a summary of exclude_views."""
    views = summary.get("views", {})
    return [c for c in CRITERIA if np.isfinite(_numbers(views.get(c.score))).any()]


def _numbers(values) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in (values or [])], dtype=float)


def score_figure(summary: dict):
    """A panel per known score: used views blue, excluded ones red crosses, the limit a line with its bad side shaded; None without scores."""
    criteria = known_scores(summary)
    if not criteria:
        return None
    columns = min(3, len(criteria))
    rows = -(-len(criteria) // columns)
    figure = new_figure(11, 2.5 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, criterion in zip(panels, criteria, strict=False):
        _panel(axes, criterion, summary)
    for axes in panels[len(criteria) :]:
        axes.set_axis_off()
    return figure


def _panel(axes, criterion, summary: dict) -> None:
    views = summary["views"]
    tilt, value = _numbers(views["nominal_tilt_deg"]), _numbers(views[criterion.score])
    reasons = np.array(views["reason"])
    used = np.isin(reasons, ["none", ""])
    axes.plot(tilt[used], value[used], "o", markersize=4, color=MEASURED)
    axes.plot(tilt[~used], value[~used], "x", markersize=5, color=OTHER)
    own = ~used & (reasons == criterion.reason)
    axes.plot(tilt[own], value[own], "x", markersize=6, color=BAD)
    limit = summary.get("limits", {}).get(criterion.score)
    if limit is not None:
        _draw_limit(axes, float(limit), criterion.low_is_bad)
    axes.set_title(criterion.label + ("" if limit is not None else " (informs only)"), fontsize=9)
    axes.set_xlabel("stage tilt (deg)", fontsize=8)
    axes.tick_params(labelsize=8)


def _draw_limit(axes, limit: float, low_is_bad: bool) -> None:
    low, high = axes.get_ylim()
    margin = 0.08 * (max(high, limit) - min(low, limit) or 1.0)
    low, high = min(low, limit - margin), max(high, limit + margin)
    axes.axhline(limit, color=BAD, linewidth=1)
    axes.axhspan(*((low, limit) if low_is_bad else (limit, high)), color=BAD, alpha=0.08, linewidth=0)
    axes.set_ylim(low, high)


def caption(summary: dict) -> str:
    """What the picture shows, and how many views each reason took."""
    reasons = [entry["reason"] for entry in summary.get("excluded", [])]
    counts = ", ".join(f"{reasons.count(r)} {r}" for r in dict.fromkeys(reasons)) or "none"
    return (
        f"Scores of all {summary['n_views']} views. Dots: used; crosses: excluded, red where by this score. Shaded: beyond the limit. "
        f"Excluded: {counts}."
    )
