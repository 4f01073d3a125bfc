"""Views that do not show the specimen: found by what the others predict for them, left out of the fit, and tried again.

Dark, blocked, badly blurred or mistaken images spoil what is predicted for their neighbours, and bend the axis. A view is judged by its
leave-one-out correlation against the median of its neighbours in tilt, worst first, because one bad view lowers those next to it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.tilt_series import slab_model
from cryoet_core.tilt_series.coarse import correlation_peak
from cryoet_core.tilt_series.plane import PlaneSpectra
from cryoet_core.tilt_series.refine_alignment import predict_from
from cryoet_core.tilt_series.slab_model import SlabPrior

DROP_BELOW = 0.4  # of the neighbours' median correlation: left out
TAKE_ABOVE = 0.6  # taken back
MAX_SHARE = 0.4  # of the views may be left out
NEIGHBOURS = 4  # to each side


def select_views(data: PlaneSpectra, rows) -> PlaneSpectra:
    """Some of the views."""
    return replace(data, spectra=data.spectra[rows], image_frequency=data.image_frequency[rows], parallax=data.parallax[rows])


def neighbours_median(value, parallax, used) -> np.ndarray:
    """(n,) median of ``value`` over the used views up to four places to either side in tilt, each view itself left out."""
    order = np.argsort(parallax)
    out = np.zeros(len(value))
    for view in range(len(value)):
        others = [v for v in order if used[v] and v != view]
        place = int(np.searchsorted(parallax[others], parallax[view]))
        near = others[max(place - NEIGHBOURS, 0) : place + NEIGHBOURS]
        out[view] = np.median(value[near]) if near else 0.0
    return out


def screen_views(data: PlaneSpectra, prior: SlabPrior, min_views: int):
    """Which views show what the others predict.

    Returns
    -------
    used (n,) bool, correlation (n,) leave-one-out; of a view left out, its value when it was.
    """
    n = len(data.parallax)
    used, correlation = np.ones(n, bool), np.zeros(n)
    for _ in range(n):
        part = select_views(data, np.flatnonzero(used))
        correlation[used] = asnumpy(slab_model.leave_one_out_correlation(part, slab_model.precision(part, prior, n_row_groups=6)))
        ratio = correlation / np.maximum(neighbours_median(correlation, data.parallax, used), 1e-6)
        ratio[~used] = np.inf
        room = used.sum() - max(min_views, int(np.ceil((1 - MAX_SHARE) * n)))
        bad = [v for v in np.argsort(ratio)[: max(room, 0)] if ratio[v] < DROP_BELOW]
        if not bad:
            break
        lowest = ratio[bad[0]]
        used[[v for v in bad if ratio[v] <= lowest + 0.1]] = False
    return used, correlation


def retry_views(data: PlaneSpectra, prior: SlabPrior, used, correlation, limit_angst: float, n_references: int = 8):
    """Look for views that were left out at other shifts.

    Returns
    -------
    back (n,) bool, in-plane shift (n, 2) A of those, correlation (n,) at the best shift of the views left out.
    """
    xp = array_namespace(data.spectra)
    pool, n = np.flatnonzero(used), len(used)
    back, shift, value = np.zeros(n, bool), np.zeros((n, 2)), correlation.copy()
    level = neighbours_median(correlation, data.parallax, used)
    for view in np.flatnonzero(~used):
        nearest = pool[np.argsort(np.abs(np.arctan(data.parallax[pool]) - np.arctan(data.parallax[view])))]
        prediction, weight = predict_from(data, prior, view, nearest[:n_references])
        cross = prediction.conj() * data.spectra[view]
        shift[view], _ = correlation_peak(cross * weight, data, limit_angst)
        phase = xp.exp(2j * np.pi * (data.kx * float(shift[view, 0]) + data.ky * float(shift[view, 1])))
        power = xp.sum(xp.abs(prediction) ** 2) * xp.sum(xp.abs(data.spectra[view]) ** 2 * (xp.abs(prediction) > 0))
        value[view] = float(xp.sum((cross * phase).real) / xp.sqrt(power + 1e-30))
        back[view] = value[view] > TAKE_ABOVE * level[view]
    return back, shift, value
