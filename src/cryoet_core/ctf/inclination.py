"""Inclination of the specimen against the stage, from the defocus gradients of all views together.

A specimen that lies inclined on the stage is one plane for the whole series: two angles, about the tilt axis (an offset of all tilt
angles) and across it. They change the depth of every tile by what TiltGeometry says. Both are fitted with the defocus of every view by
Gauss-Newton steps on the likelihood of score.py, with a prior, after a coarse search; the idea of two free angles for the
series is Warp's (ts_ctf). The fit is used only where it pays for its two unknowns (Bayesian information criterion).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.ctf.fit import CtfFit
from cryoet_core.geometry import TiltGeometry

PRIOR_DEG = 5.0
SEARCH_DEG = np.array([-8.0, -4.0, 0.0, 4.0, 8.0])
MAX_STEP_DEG, MAX_DEG, ITERATIONS = 3.0, 15.0, 6
MAX_TILT_DEG = 80.0
ASKED_SIZE = 1e6  # of the data, for the criterion: the typical number of bins of a series


@dataclass(frozen=True)
class Inclination:
    """y_deg : to be added to all tilt angles; x_deg : tilt about x of the specimen; their standard deviations; gain : log posterior
    over no inclination; used : whether the gain pays for two unknowns, so that the defocus was fitted on the inclined plane."""

    y_deg: float
    x_deg: float
    y_error_deg: float
    x_error_deg: float
    gain: float

    @property
    def used(self) -> bool:
        return self.gain > np.log(ASKED_SIZE)

    def slopes(self, geometry: TiltGeometry) -> np.ndarray:
        """(n, 2) slopes of depth over the image on the inclined plane."""
        return inclined_slopes(geometry, (self.y_deg, self.x_deg))


def inclined_slopes(geometry: TiltGeometry, angles_deg) -> np.ndarray:
    """(n, 2) slopes of depth for a specimen inclined by (y, x) degrees; tilts are kept below the angle where slopes grow without end."""
    tilt = np.clip(geometry.y_tilt_deg + angles_deg[0], -MAX_TILT_DEG, MAX_TILT_DEG)
    return geometry.replace(y_tilt_deg=tilt, x_tilt_deg=geometry.x_tilt_deg + angles_deg[1]).depth_plane()


def _set_depths(views, positions, slopes):
    for view, position, slope in zip(views, positions, slopes, strict=True):
        view.depth_angst = position @ slope


def _values(fit: CtfFit):
    """(n, 5) numbers of every view as ViewScore takes them."""
    return np.column_stack([fit.defocus_angst, fit.astigmatism, np.deg2rad(fit.phase_deg), np.full(len(fit.gain), fit.b_factor)])


def _log_prior(angles_deg) -> float:
    return -0.5 * float((np.asarray(angles_deg) ** 2).sum()) / PRIOR_DEG**2


def _coarse(views, positions, geometry, numbers, hand: int):
    """The best of a grid of inclinations with everything else held."""

    def total(angles):
        _set_depths(views, positions, inclined_slopes(geometry, angles))
        return sum(v.evaluate(*row, hand)[0] for v, row in zip(views, numbers, strict=True)) + _log_prior(angles)

    tries = [(y, x) for y in SEARCH_DEG for x in SEARCH_DEG]
    return np.array(max(tries, key=total))


def _step(views, positions, geometry, numbers, angles, hand: int):
    """Log posterior at ``angles``, and the Gauss-Newton step of them (2,), of the defoci (n,), and their information (2, 2)."""
    slopes = inclined_slopes(geometry, angles)
    turn = np.stack([(inclined_slopes(geometry, angles + d) - slopes) / 0.01 for d in (np.array([0.01, 0]), np.array([0, 0.01]))], axis=2)
    _set_depths(views, positions, slopes)
    total, gradient, information = _log_prior(angles), -angles / PRIOR_DEG**2, np.eye(2) / PRIOR_DEG**2
    parts = []
    for view, position, row, by_angle in zip(views, positions, numbers, turn, strict=True):
        value, by_depth, own = view.depth_terms(*row, hand)
        lever = hand * (position @ by_angle)  # (n_cells, 2): A of defocus per degree
        shared, cross = float(own.sum()) + 1e-12, lever.T @ own.sum(axis=1)
        push = float(by_depth.sum())
        parts.append((push / shared, cross / shared))
        total += value
        gradient = gradient + lever.T @ by_depth - cross * push / shared
        information = information + lever.T @ own @ lever - np.outer(cross, cross) / shared
    step = np.linalg.solve(information, gradient)
    return total, step, np.array([own - c @ step for own, c in parts]), information


def fit_inclination(radial, polar, positions_angst, geometry: TiltGeometry, fit: CtfFit) -> Inclination:
    """Inclination of the plane of the specimen.

    Parameters
    ----------
    radial, polar : scoring data (ViewScore) of every view with its cells as strips, over angles averaged and in full; their depths are
    overwritten. positions_angst : list of (n_cells, 2). geometry : nominal. fit : the series' fit on the nominal plane.
    """
    numbers, hand = _values(fit), fit.handedness
    angles = _coarse(radial, positions_angst, geometry, numbers, hand)
    start = _step(polar, positions_angst, geometry, numbers, np.zeros(2), hand)[0]
    best = (-np.inf, np.zeros(2), np.eye(2))
    for _ in range(ITERATIONS):
        total, step, moves, information = _step(polar, positions_angst, geometry, numbers, angles, hand)
        if total > best[0]:
            best = (total, angles, information)
        share = min(1.0, MAX_STEP_DEG / max(np.abs(step).max(), 1e-12))
        angles = np.clip(angles + share * step, -MAX_DEG, MAX_DEG)
        numbers = numbers.copy()
        numbers[:, 0] += np.clip(share * moves, -300, 300)
        if np.abs(step).max() < 0.01:
            break
    total, angles, information = best
    error = np.sqrt(np.diag(np.linalg.inv(information)))
    return Inclination(*map(float, angles), *map(float, error), float(total - start))
