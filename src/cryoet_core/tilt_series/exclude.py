"""Which views take no part: lists, rules, a file, darkness, and the scores of view_scores.py. Rows are marked, never removed.

Darkness: the mean of a view obeys I = I0 exp(-L / cos(tilt)); a blocked view does not. The law is fitted robustly (least median
of squares, so that up to half of the views may be bad). A view is dark when its mean is far below the law, or its mean/std
(AreTomo's criterion, which also sees a partly blocked view) is far below what the law predicts for counted electrons, whose
mean/std goes with the square root of the mean. AreTomo compares with the untilted view instead and so loses good high tilts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.io.yaml_file import read_yaml
from cryoet_core.tilt_series.view_scores import failing, score_views, thumbnail

MIN_VIEWS = 5
NOT_JUDGED = (
    "the grey values are not counts (normalised or with an offset), or too few views have a positive mean; "
    "list bad views in exclude_views"
)
MIN_MEAN_OVER_STD = 0.3  # below: grey values are not counts (normalised images), and darkness means nothing
SELECTION_KEYS = ("tilt_ids", "tilt_angles_deg", "first_negative", "last_positive")


@dataclass(frozen=True)
class ViewStatistics:
    """mean, std : (n,) float64 of each view, outliers (X-rays, hot pixels, gold) clipped at 6 robust sigma."""

    mean: np.ndarray
    std: np.ndarray


def measure_views(images):
    """(ViewStatistics, list of thumbnails) of an iterable of (h, w) views, one in memory at a time."""
    thumbnails = []

    def noted():
        for image in images:
            thumbnails.append(thumbnail(image))
            yield image

    return view_statistics(noted()), thumbnails


def view_statistics(images) -> ViewStatistics:
    """Statistics of an iterable of (h, w) views."""
    rows = []
    for image in images:
        values = np.asarray(image, dtype=np.float32)
        centre = float(np.median(values[::4, ::4]))
        sigma = 1.4826 * float(np.median(np.abs(values[::4, ::4] - centre))) + 1e-6
        clipped = np.clip(values, centre - 6 * sigma, centre + 6 * sigma)
        rows.append((clipped.mean(dtype=np.float64), clipped.std(dtype=np.float64)))
    mean, std = np.array(rows).T
    return ViewStatistics(mean, std)


def thickness_law(tilt_deg, mean) -> np.ndarray | None:
    """(n,) means expected from I0 exp(-L / cos(tilt)) fitted to positive means; None when they do not allow a fit."""
    tilt, mean = np.asarray(tilt_deg, float), np.asarray(mean, float)
    usable = (mean > 0) & (np.abs(tilt) < 80)
    if usable.sum() < MIN_VIEWS:
        return None
    path = 1 / np.cos(np.deg2rad(np.clip(tilt, -80, 80)))
    x, y = path[usable], np.log(mean[usable])
    i, j = np.triu_indices(x.size, 1)
    apart = np.abs(x[i] - x[j]) > 1e-3
    slopes = np.append(np.clip((y[i] - y[j])[apart] / (x[i] - x[j])[apart], -4.0, 0.0), 0.0)
    intercepts = np.median(y[None, :] - slopes[:, None] * x[None, :], axis=1)
    residuals = np.abs(y - slopes[:, None] * x - intercepts[:, None])
    best = int(np.argmin(np.median(residuals, axis=1)))
    slope, intercept = _polish(x, y, slopes[best], intercepts[best])
    return np.exp(intercept + slope * path)


def _polish(x, y, slope, intercept, iterations: int = 10):
    for _ in range(iterations):
        residual = y - slope * x - intercept
        scale = max(1.4826 * np.median(np.abs(residual)), 0.01)
        weight = np.clip(1 - (residual / (4.685 * scale)) ** 2, 0, None) ** 2 + 1e-9
        mx, my = np.average(x, weights=weight), np.average(y, weights=weight)
        slope = np.clip(np.sum(weight * (x - mx) * (y - my)) / (np.sum(weight * (x - mx) ** 2) + 1e-12), -4.0, 0.0)
        intercept = my - slope * mx
    return slope, intercept


@dataclass(frozen=True)
class Darkness:
    """dark : (n,) bool. intensity, contrast : (n,) mean and mean/std relative to the law (NaN without a law). expected : (n,) its means."""

    dark: np.ndarray
    intensity: np.ndarray
    contrast: np.ndarray
    expected: np.ndarray | None = None


def find_dark(tilt_deg, statistics: ViewStatistics, *, tolerance=0.7, min_intensity=0.5, protected_tilt_deg=3.5) -> Darkness:
    """Dark or blocked views, see the module. Images without a positive mean (normalised ones) cannot be judged."""
    tilt = np.asarray(tilt_deg, float)
    n = tilt.size
    ratio = statistics.mean / np.maximum(statistics.std, 1e-12)
    expected = thickness_law(tilt, statistics.mean) if np.median(ratio) > MIN_MEAN_OVER_STD else None
    if expected is None:
        return Darkness(np.zeros(n, bool), np.full(n, np.nan), np.full(n, np.nan))
    intensity = statistics.mean / expected
    reference = ratio / np.sqrt(expected)
    low = np.argsort(np.abs(tilt), kind="stable")[: max(7, n // 3)]
    contrast = reference / np.median(reference[low])
    blank = statistics.std < 1e-6 * (np.abs(statistics.mean) + 1e-12)
    dark = (intensity < min_intensity) | ((contrast < tolerance) & (np.abs(tilt) > protected_tilt_deg)) | blank
    return Darkness(dark, intensity, contrast, expected)


def select_views(
    tilts, *, tilt_ids=(), tilt_angles_deg=(), first_negative=0, last_positive=0, views=(), where=""
) -> dict[int, str]:
    """Rows (position -> reason) that a list or rule names.

    ``tilts``: the table of a TiltSeries. first_negative counts from the most negative tilt, last_positive from the most
    positive. views : (tilt_id, reason) pairs. Raises UserInputError E-TS-02 for an id or angle that the series does not have.
    """
    angle = tilts["nominal_tilt_deg"].to_numpy(float)
    ids = tilts["tilt_id"].to_numpy(np.int64)
    chosen: dict[int, str] = {}
    for tilt_id, reason in [(tilt_id, "listed") for tilt_id in tilt_ids] + list(views):
        rows = np.flatnonzero(ids == int(tilt_id))
        if not rows.size:
            raise _no_such_view(where, "tilt_ids", tilt_id, ", ".join(map(str, sorted(ids))))
        chosen[int(rows[0])] = reason
    for value in tilt_angles_deg:
        row = int(np.argmin(np.abs(angle - float(value))))
        if abs(angle[row] - float(value)) > 0.5:
            raise _no_such_view(where, "tilt_angles_deg", value, f"{angle.min():g} to {angle.max():g} deg")
        chosen[row] = "listed"
    order = np.argsort(angle, kind="stable")
    for row in [r for r in order if angle[r] < 0][:first_negative]:
        chosen[int(row)] = "first_negative"
    for row in [r for r in order[::-1] if angle[r] > 0][:last_positive]:
        chosen[int(row)] = "last_positive"
    return chosen


def _no_such_view(where, field, found, expected):
    return UserInputError(
        "E-TS-02", "this series has no such view", file=where, field=f"exclude_views.{field}", found=found,
        expected=expected, fix="correct the list, or use the file key to give one list per series",
    )  # fmt: skip


def selection_path(pattern: str | None, series_name: str) -> str | None:
    """The file of one series: ``{ts}`` in the config's ``file`` stands for its name. With ``{ts}`` a missing file means no list."""
    if not pattern:
        return None
    path = pattern.replace("{ts}", series_name)
    return None if "{ts}" in pattern and not Path(path).exists() else path


def read_selection_file(path):
    """The parsed YAML file, None without a path. Raises UserInputError E-TS-05."""
    if not path:
        return None
    try:
        return read_yaml(path, most_aliases=0)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserInputError("E-TS-05", "cannot read the list of views", file=path, found=str(error).replace("\n", " "),
                             expected="a YAML file", fix="correct exclude_views.file") from error  # fmt: skip


def selection_from_file(content, series_name: str, path) -> dict:
    """The part of a parsed YAML file that concerns one series, as a mapping with keys of FILE_KEYS. Raises UserInputError E-TS-05.

    A series' part is a list of {tilt_id, reason}, as a viewer writes it, or a mapping of SELECTION_KEYS. It stands under the
    series' name, or under "tilt_series" in a file of one series.
    """
    if content is None:
        return {}
    part = content
    if isinstance(content, dict):
        part = content.get(series_name, content.get("tilt_series", {}))
    if isinstance(part, list):
        return {"views": [_listed_view(entry, series_name, path) for entry in part]}
    unknown = set(part) - set(SELECTION_KEYS) if isinstance(part, dict) else {type(part).__name__}
    if unknown:
        raise _not_a_list(", ".join(sorted(map(str, unknown))), series_name, path)
    for name, value in (part or {}).items():
        is_right, expected = _RULES[name]
        if not is_right(value):
            raise _not_a_list(repr(value)[:200], f"{series_name}.{name}", path, expected)
    return part or {}


def _is_count(value) -> bool:
    return type(value) is int and 0 <= value < 10**9


def _is_angle(value) -> bool:
    return type(value) in (int, float) and abs(value) <= 90  # false for nan


def _list_of(is_right):
    return lambda value: isinstance(value, list) and all(map(is_right, value))


_RULES = {  # of the keys of a list in the file: the same limits as in the config
    "tilt_ids": (_list_of(_is_count), "a list of whole numbers from 0, for example [1, 2]"),
    "tilt_angles_deg": (_list_of(_is_angle), "a list of angles from -90 to 90, for example [-60, 57.5]"),
    "first_negative": (_is_count, "a whole number from 0"),
    "last_positive": (_is_count, "a whole number from 0"),
}


def _listed_view(entry, series_name, path) -> tuple[int, str]:
    """(tilt_id, reason code) of one entry of a viewer's list."""
    plain = isinstance(entry, dict) and set(entry) <= {"tilt_id", "reason"} and _is_count(entry.get("tilt_id"))
    plain = plain and isinstance(entry.get("reason"), (str, type(None)))
    if not plain:
        raise _not_a_list(repr(entry)[:200], series_name, path)
    return entry["tilt_id"], reason_code(entry.get("reason"))


def reason_code(text) -> str:
    """"viewer_" and a reason given in words as one word: "Ice crystal!" -> viewer_ice_crystal."""
    words = re.sub(r"[^a-z0-9]+", "_", str(text or "").lower()).strip("_")
    return f"viewer_{words[:40]}" if words else "viewer"


def _not_a_list(found, series_name, path, expected=None):
    return UserInputError(
        "E-TS-05", "not a list of views", file=path, field=series_name, found=found,
        expected=expected or "{tilt_id: number, reason: text} entries, or " + ", ".join(SELECTION_KEYS),
        fix="write: <series name>: [{tilt_id: 1, reason: ice}] or <series name>: {tilt_ids: [1, 2]}",
    )  # fmt: skip


def mark_excluded(series, reasons: dict[int, str]):
    """The series with rows marked; rows excluded before keep their reason."""
    excluded = series.tilts["excluded"].to_numpy(np.int64).copy()
    reason = series.tilts["exclude_reason"].astype(str).to_numpy(dtype=object).copy()
    for row, why in reasons.items():
        if not excluded[row]:
            excluded[row], reason[row] = 1, why
    return series.with_columns(excluded=excluded, exclude_reason=reason)


def exclude_views(series, statistics: ViewStatistics, settings, listed=None, thumbnails=None):
    """Apply all criteria of ``settings`` (config.exclude_views.ExcludeViews, or anything with its fields).

    Parameters
    ----------
    listed : further selections of this series (from a file), see selection_from_file. thumbnails : see measure_views; without them
    only the scores that come from tables are judged.

    Returns
    -------
    series with rows marked, Darkness, scores {name: (n,)} of every view (view_scores.CRITERIA).

    Raises
    ------
    UserInputError E-TS-02 (no such view); DataQualityError E-TS-03 (darkness removes too many), E-TS-01 (too few left).
    """
    rules = {name: getattr(settings, name) for name in SELECTION_KEYS}
    reasons = select_views(series.tilts, **rules, where=series.name)
    reasons |= select_views(series.tilts, **(listed or {}), where=series.name)
    darkness = find_dark(
        series.tilts["nominal_tilt_deg"], statistics, tolerance=settings.dark_tolerance,
        min_intensity=settings.min_intensity, protected_tilt_deg=settings.protected_tilt_deg,
    )  # fmt: skip
    scores = score_views(series, darkness, thumbnails)
    automatic = failing(scores, settings)
    if settings.dark:
        automatic |= {int(row): "dark" for row in np.flatnonzero(darkness.dark)}
    automatic = {row: reason for row, reason in automatic.items() if series.included[row]}
    _check_fraction(series, automatic, settings.max_excluded_fraction)
    reasons = automatic | reasons
    marked = mark_excluded(series, reasons)
    if marked.included.sum() < MIN_VIEWS:
        raise DataQualityError(
            "E-TS-01", "too few views are left", file=series.name, field="exclude_views",
            found=f"{marked.included.sum()} of {len(marked)}: " + ", ".join(sorted(set(reasons.values()))),
            expected=f"at least {MIN_VIEWS}", fix="exclude fewer views, or leave this series out (data.tilt_series)",
        )  # fmt: skip
    return marked, darkness, scores


def _check_fraction(series, reasons, limit):
    """More than ``limit`` of the series would go by automatic criteria."""
    if len(reasons) > limit * len(series):
        names = sorted(set(reasons.values()))
        raise DataQualityError(
            "E-TS-03", f"most of this series looks bad ({', '.join(names)})", file=series.name, field="exclude_views",
            found=f"{len(reasons)} of {len(series)} views", expected=f"at most {limit:.0%}",
            fix="look at the images; loosen or switch off the criterion (dark: false) and list the bad views, or raise max_excluded_fraction",
        )  # fmt: skip
