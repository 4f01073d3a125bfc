"""Scores of every view, from its image and its table, each with the limit that would exclude it and a reason code.

All views are scored, used or not; which scores decide is said by the config, and the report shows all of them over the tilt angle.
Sources of the criteria: AreTomo (mean/std), Warp (median over a cosine law, motion, masked area, field of view), tiltxcorr (correlation
of cosine-stretched neighbours); outliers are measured in robust deviations from a smooth trend over the tilt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cryoet_core.backend import fft_module
from cryoet_core.fourier import radial_frequency
from cryoet_core.masks import taper_window

THUMBNAIL_PX = 256
BLOCKED_LEVEL = 0.6  # of the expected intensity: darker parts are covered by a bar, ice or dirt
LINK_STEPS = 3  # neighbours on either side that a view is compared with; bridges two bad ones
SURE_HEIGHT = 6.0  # of a correlation peak over the rms of its map; lower ones, which unrelated views reach too, tell no shift
SMALL_GROUP = LINK_STEPS + 1  # views that agree among themselves only; a larger group may be the good views beyond some bad ones
LOW_CUT, HIGH_CUT = 0.03, 0.2  # cycles per thumbnail pixel
SMALLEST_SPREAD = {"ctf_outlier": 0.05, "neighbour": 0.1}  # of residuals of logarithms: below, a deviation means nothing


@dataclass(frozen=True)
class Criterion:
    """One score: its name in the summary, the config key of its limit, the reason code, and which side is bad."""

    score: str
    key: str
    reason: str
    low_is_bad: bool
    label: str


CRITERIA = (
    Criterion("intensity_over_law", "min_intensity", "dark", True, "mean over thickness law"),
    Criterion("mean_over_std_over_law", "dark_tolerance", "dark", True, "mean/std over thickness law"),
    Criterion("blocked_fraction", "max_blocked_fraction", "blocked", False, "covered part, more than in most views"),
    Criterion("motion_rms_angst", "max_motion_angst", "motion", False, "motion rms (A)"),
    Criterion("ctf_max_resolution_angst", "max_ctf_resolution_angst", "ctf_resolution", False, "CTF resolution (A)"),
    Criterion("ctf_outlier_sigma", "ctf_outlier_sigma", "ctf_outlier", False, "CTF resolution off its trend (sigma)"),
    Criterion("neighbour_correlation", "", "neighbours", True, "correlation with neighbours"),
    Criterion("neighbour_outlier_sigma", "neighbour_outlier_sigma", "neighbours", False, "that off its trend (sigma)"),
    Criterion("field_of_view", "min_field_of_view", "field_of_view", True, "field shared with the least tilted view"),
)
OWN = tuple(c for c in CRITERIA if c.key and c.reason != "dark")  # darkness is judged in exclude.py, with its protected tilts


def thumbnail(image) -> np.ndarray:
    """Block means of a view (h, w), outliers clipped at 6 robust sigma, its longer side at most THUMBNAIL_PX."""
    values = np.asarray(image, dtype=np.float32)
    centre = float(np.median(values[::4, ::4]))
    sigma = 1.4826 * float(np.median(np.abs(values[::4, ::4] - centre))) + 1e-6
    factor = max(1, int(np.ceil(max(values.shape) / THUMBNAIL_PX)))
    h, w = (n // factor * factor for n in values.shape)
    clipped = np.clip(values[:h, :w], centre - 6 * sigma, centre + 6 * sigma)
    return clipped.reshape(h // factor, factor, w // factor, factor).mean(axis=(1, 3), dtype=np.float64).astype(np.float32)


def blocked_fraction(thumbnails, expected_mean) -> np.ndarray:
    """(n,) part of each view darker than BLOCKED_LEVEL of what is expected, beyond the median view's; NaN where nothing is expected.

    What covers all views alike (a lamella's edge) is the specimen's and no fault of a view.
    """
    if expected_mean is None:
        return np.full(len(thumbnails), np.nan)
    part = np.array([
        float((ndimage.uniform_filter(t, 7, mode="nearest") < BLOCKED_LEVEL * e).mean())
        for t, e in zip(thumbnails, expected_mean, strict=True)
    ])  # fmt: skip
    return np.maximum(part - np.median(part), 0)


def trend_outlier(tilt_deg, values, smallest_spread: float) -> np.ndarray:
    """Deviation of ``values`` (n,) from a quadratic trend over tilt in robust standard deviations; NaN stays NaN.

    The trend is fitted with Tukey's weights from a start at the median, so that bad views do not bend it.
    """
    tilt, values = np.asarray(tilt_deg, float) / 60, np.asarray(values, float)
    known = np.isfinite(values)
    if known.sum() < 6:
        return np.where(known, 0.0, np.nan)
    design = np.vander(tilt[known], 3)
    residual = values[known] - np.median(values[known])
    for _ in range(20):
        scale = max(1.4826 * float(np.median(np.abs(residual))), smallest_spread)
        root = np.clip(1 - (residual / (4.685 * scale)) ** 2, 0, None)
        fit = np.linalg.lstsq(design * root[:, None], values[known] * root, rcond=None)[0]
        residual = values[known] - design @ fit
    scale = max(1.4826 * float(np.median(np.abs(residual))), smallest_spread)
    out = np.full(values.shape, np.nan)
    out[known] = residual / scale
    return out


def _prepared_spectrum(thumb, window, band):
    """Spectrum of a thumbnail: high-passed, clipped so that gold does not decide, tapered, in the band."""
    flat = thumb - ndimage.gaussian_filter(thumb, 1 / (2 * np.pi * LOW_CUT), mode="nearest")
    sigma = 1.4826 * float(np.median(np.abs(flat - np.median(flat)))) + 1e-12
    return fft_module(np).rfft2(np.clip(flat, -4 * sigma, 4 * sigma).astype(np.float32) * window) * band


def _stretched(thumb, matrix):
    """The thumbnail sampled at matrix . p about its centre; (x, y) matrix (2, 2)."""
    index = matrix[::-1, ::-1]
    centre = np.array([n // 2 for n in thumb.shape])
    return ndimage.affine_transform(thumb, index, offset=centre - index @ centre, order=1, mode="nearest")


def link(first, second, matrix, window, band):
    """Normalised correlation of two thumbnails, its height over the map's rms, and where it lies (x, y), px of second in first's frame.

    ``matrix``: from positions in the first image to those in the second, for points of the untilted plane.
    """
    fft = fft_module(np)
    a, b = _prepared_spectrum(first, window, band), _prepared_spectrum(_stretched(second, matrix), window, band)
    norm = np.sqrt(np.square(fft.irfft2(a, s=first.shape)).sum() * np.square(fft.irfft2(b, s=first.shape)).sum())
    correlation = fft.fftshift(fft.irfft2(b * a.conj(), s=first.shape))
    h, w = first.shape
    reach = correlation[h // 8 : h - h // 8, w // 8 : w - w // 8]
    y, x = np.unravel_index(int(np.argmax(reach)), reach.shape)
    height = float(reach[y, x] / max(float(reach.std()), 1e-30))
    return float(reach[y, x] / max(norm, 1e-30)), height, np.array([x + w // 8 - w // 2, y + h // 8 - h // 2], float)


def neighbour_scores(thumbnails, geometry):
    """(correlation, field) of every view, (n,) each, from comparing neighbours in tilt, without any alignment.

    correlation : the best of the normalised correlations with up to LINK_STEPS neighbours on either side, so that one bad view does
    not spoil the next. field : part of the least tilted view's field that a view shares with it, from the shifts of the links; NaN where the
    chain of sure links is broken, 0 for a few views that agree with each other and with no others. ``geometry``: TiltGeometry before alignment (angles and axis). Blank views have NaN.
    """
    n, shape = len(thumbnails), thumbnails[0].shape
    good = np.array([float(t.std()) > 0 for t in thumbnails])
    k = radial_frequency(shape, 1.0)
    band = ((1 - np.exp(-0.5 * (k / LOW_CUT) ** 2)) * np.exp(-0.5 * (k / HIGH_CUT) ** 2)).astype(np.float32)
    window = taper_window(shape, max(shape) / 8)
    order = [i for i in np.argsort(geometry.y_tilt_deg, kind="stable") if good[i]]
    plane = geometry.rotation[:, :2, :2]
    best = np.where(good, -1.0, np.nan)
    links = {}
    for step in range(1, LINK_STEPS + 1):
        for one, two in zip(order[:-step], order[step:], strict=True):
            i, j = sorted((one, two), key=lambda v: abs(geometry.y_tilt_deg[v]))
            value, height, shift = link(thumbnails[i], thumbnails[j], plane[j] @ np.linalg.inv(plane[i]), window, band)
            if height >= SURE_HEIGHT:
                links[i, j] = value, shift
            best[i], best[j] = max(best[i], value), max(best[j], value)
    best[best == -1] = np.nan
    return best, _shared_field(links, order, geometry.y_tilt_deg, n, shape)


def _shared_field(links, order, tilt, n, shape):
    """Field shared with the least tilted view, (n,): shifts added up along the strongest links outwards."""
    field = np.full(n, np.nan)
    if not order:
        return field
    position = {min(order, key=lambda v: abs(tilt[v])): np.zeros(2)}
    for view in sorted(order, key=lambda v: abs(tilt[v])):
        inner = [(links[i, j], i) for i, j in links if j == view and i in position]
        if view not in position and inner:
            (_, shift), i = max(inner, key=lambda item: item[0][0])
            position[view] = position[i] + shift
    for view, (x, y) in position.items():
        field[view] = max(0.0, 1 - abs(x) / shape[1]) * max(0.0, 1 - abs(y) / shape[0])
    size = _group_sizes(links, n)
    for place, view in enumerate(order):
        near = order[max(0, place - LINK_STEPS) : place + LINK_STEPS + 1]
        if view not in position and 2 <= size[view] <= SMALL_GROUP and any(v in position for v in near):
            field[view] = 0.0  # it shows something, but not what its neighbours show
    return field


def _group_sizes(links, n) -> np.ndarray:
    """(n,) how many views each view is connected with through sure links, itself included."""
    pairs = np.array(list(links), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    label = connected_components(graph, directed=False)[1]
    return np.bincount(label)[label]


def score_views(series, darkness, thumbnails=None) -> dict[str, np.ndarray]:
    """Scores of CRITERIA for every row: (n,) float64 each, NaN where a score is not known (those of images without thumbnails)."""
    tilts, unknown = series.tilts, np.full(len(series), np.nan)

    def column(name):
        return tilts[name].to_numpy(float) if name in tilts else unknown

    correlation, field, blocked = unknown, unknown, unknown
    if thumbnails is not None:
        correlation, field = neighbour_scores(thumbnails, series.geometry)
        blocked = blocked_fraction(thumbnails, darkness.expected)
    tilt, resolution = tilts["nominal_tilt_deg"].to_numpy(float), column("ctf_max_resolution_angst")
    with np.errstate(divide="ignore", invalid="ignore"):
        log_resolution = np.where(resolution > 0, np.log(resolution), np.nan)
    return {
        "intensity_over_law": darkness.intensity,
        "mean_over_std_over_law": darkness.contrast,
        "blocked_fraction": blocked,
        "motion_rms_angst": column("motion_rms_angst"),
        "ctf_max_resolution_angst": resolution,
        "ctf_outlier_sigma": trend_outlier(tilt, log_resolution, SMALLEST_SPREAD["ctf_outlier"]),
        "neighbour_correlation": correlation,
        "neighbour_outlier_sigma": -trend_outlier(tilt, np.log(np.maximum(correlation, 1e-3)), SMALLEST_SPREAD["neighbour"]),
        "field_of_view": field,
    }


def failing(scores: dict, settings, criteria=OWN) -> dict[int, str]:
    """Rows (position -> reason) that a limit of ``settings`` excludes; a limit of None and an unknown score exclude nothing."""
    reasons: dict[int, str] = {}
    for criterion in criteria:
        limit = getattr(settings, criterion.key, None)
        if limit is None or criterion.score not in scores:
            continue
        value = np.asarray(scores[criterion.score], float)
        with np.errstate(invalid="ignore"):
            bad = value < limit if criterion.low_is_bad else value > limit
        for row in np.flatnonzero(bad):
            reasons.setdefault(int(row), criterion.reason)
    return reasons


def limits(settings) -> dict[str, float | None]:
    """The limit of every score, None where it only informs."""
    return {c.score: getattr(settings, c.key, None) if c.key else None for c in CRITERIA}
