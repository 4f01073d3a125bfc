"""Defocus of every view of a series: 1-D scans, the likeliest smooth sequence, then one joint 2-D refinement.

The data term is the log-likelihood ratio of score.py, so views are weighed by what they know: one without rings contributes
nothing and takes the value its neighbours in tilt imply (heavy-tailed prior on the step between neighbours).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from cryoet_core.ctf.score import ViewScore

STEP_ANGST = 100.0
NEIGHBOUR_ANGST = 1000.0  # typical defocus change between neighbouring tilts
ASTIGMATISM_ANGST = 1500.0  # prior width of the astigmatism U - V
B_FACTORS = (0.0, 100.0, 250.0, 500.0, 1000.0)
PHASES_DEG = np.arange(0.0, 180.0, 10.0)
_STUDENT = 1.5


@dataclass(frozen=True)
class CtfFit:
    """defocus_angst (n,) mean of U and V at depth 0; astigmatism (cos, sin) A: U - V and twice its angle; phase_deg.

    gain : (n,) log-likelihood ratio of each view. error_angst : (n,) standard deviation of the defocus by the view's own data
    (inf: none). handedness; b_factor of the rings' decay, A^2; total : posterior of the series.
    """

    defocus_angst: np.ndarray
    astigmatism: tuple[float, float]
    phase_deg: float
    gain: np.ndarray
    error_angst: np.ndarray
    handedness: int
    b_factor: float
    total: float

    @property
    def defocus_u_v_angle(self):
        """U, V (n,) A with U >= V and the angle of U in [0, 180) deg, counter-clockwise from +x."""
        size = float(np.hypot(*self.astigmatism))
        angle = float(np.rad2deg(0.5 * np.arctan2(self.astigmatism[1], self.astigmatism[0])) % 180)
        angle = 0.0 if size < 1e-6 or angle >= 180 else angle
        return self.defocus_angst + 0.5 * size, self.defocus_angst - 0.5 * size, angle


def _step_log_prior(step):
    return -_STUDENT * np.log1p(step**2 / (2 * NEIGHBOUR_ANGST**2))


def smooth_path(curves, grid) -> np.ndarray:
    """Defocus of every view (n,) maximising the sum of ``curves`` (n, m) over ``grid`` (m,) and the neighbour prior."""
    prior = _step_log_prior(grid[:, None] - grid[None])
    total, back = curves[0], []
    for curve in curves[1:]:
        chain = total[None] + prior
        back.append(chain.argmax(axis=1))
        total = curve + chain.max(axis=1)
    path = [int(total.argmax())]
    for pointer in reversed(back):
        path.append(int(pointer[path[-1]]))
    return grid[path[::-1]]


def _path_value(curves, grid, path):
    index = np.rint((path - grid[0]) / (grid[1] - grid[0])).astype(int)
    return float(curves[np.arange(len(curves)), index].sum() + _step_log_prior(np.diff(path)).sum())


def scan_series(views: list[ViewScore], grid, handedness: int, *, b_factors=B_FACTORS, phases_deg=(0.0,)):
    """Best common decay and phase shift by 1-D scans. Returns (path (n,), b_factor, phase_deg, value)."""
    best = None
    for phase in phases_deg:
        for b in b_factors:
            curves = np.array([v.scan(grid, handedness, b, np.deg2rad(phase)) for v in views])
            path = smooth_path(curves, grid)
            value = _path_value(curves, grid, path)
            if best is None or value > best[3]:
                best = (path, b, float(phase), value)
    return best


def _series_cost(flat, views, handedness, b_factor, phase0, fit_phase):
    """Minus log posterior of the series and its gradient; unknowns: defocus (n) in um, cos, sin in 0.1 um, phase (rad)."""
    n = len(views)
    z, ac, as_ = flat[:n] * 1e4, flat[n] * 1e3, flat[n + 1] * 1e3
    phase = flat[n + 2] if fit_phase else phase0
    total, gradient = 0.0, np.zeros(len(flat))
    for i, view in enumerate(views):
        value, slope = view.evaluate(z[i], handedness, ac, as_, phase, b_factor)
        total += value
        gradient[i] = slope[0]
        gradient[n] += slope[1]
        gradient[n + 1] += slope[2]
        if fit_phase:
            gradient[n + 2] += slope[3]
    step = np.diff(z)
    total += _step_log_prior(step).sum() - (ac**2 + as_**2) / (2 * ASTIGMATISM_ANGST**2)
    pull = -_STUDENT * step / (NEIGHBOUR_ANGST**2 + 0.5 * step**2)
    gradient[1:n] += pull
    gradient[: n - 1] -= pull
    gradient[n] -= ac / ASTIGMATISM_ANGST**2
    gradient[n + 1] -= as_ / ASTIGMATISM_ANGST**2
    gradient[:n] *= 1e4
    gradient[n : n + 2] *= 1e3
    return -total, -gradient


def refine_series(views: list[ViewScore], start, handedness: int, b_factor: float, phase_deg: float = 0.0, *,
                  fit_phase: bool = False, astigmatism=(0.0, 0.0)) -> CtfFit:
    """Joint L-BFGS refinement from ``start`` (n,) of all defoci, one astigmatism and, if asked, one phase shift."""
    n, phase0 = len(views), np.deg2rad(phase_deg)
    flat = np.concatenate([np.asarray(start) / 1e4, np.asarray(astigmatism) / 1e3, [phase0] if fit_phase else []])
    args = (views, handedness, b_factor, phase0, fit_phase)
    result = minimize(_series_cost, flat, args=args, jac=True, method="L-BFGS-B", options={"maxiter": 100})
    z, astig = result.x[:n] * 1e4, tuple(float(v) for v in result.x[n : n + 2] * 1e3)
    phase = float(result.x[n + 2]) if fit_phase else phase0
    here = [v.evaluate(d, handedness, *astig, phase, b_factor) for v, d in zip(views, z, strict=True)]
    error = np.array([_own_error(v, d, handedness, astig, phase, b_factor) for v, d in zip(views, z, strict=True)])
    gain = np.array([g for g, _ in here])
    return CtfFit(z, astig, float(np.rad2deg(phase)), gain, error, handedness, b_factor, -float(result.fun))


def _own_error(view, defocus, handedness, astig, phase, b_factor, h: float = 50.0) -> float:
    """Standard deviation of the defocus from the curvature of the view's own likelihood; inf where it has no maximum."""
    slopes = [view.evaluate(defocus + d, handedness, *astig, phase, b_factor)[1][0] for d in (-h, h)]
    curvature = (slopes[0] - slopes[1]) / (2 * h)
    return float(1 / np.sqrt(curvature)) if curvature > 0 else float("inf")


def best_astigmatism_start(views, path, handedness, b_factor, phase_deg) -> tuple[float, float]:
    """Coarse search of the astigmatism (six directions, three sizes) with the defoci held: a start for the refinement."""
    phase = np.deg2rad(phase_deg)
    tries = [(0.0, 0.0)] + [
        (size * np.cos(a), size * np.sin(a)) for size in (400.0, 900.0, 1600.0) for a in np.arange(6) * np.pi / 3
    ]
    values = [
        sum(v.evaluate(z, handedness, *t, phase, b_factor)[0] for v, z in zip(views, path, strict=True)) for t in tries
    ]
    return tries[int(np.argmax(values))]


@dataclass(frozen=True)
class HandEvidence:
    """difference : log posterior of +1 minus that of -1. votes_plus, votes_minus : views that prefer each by more than 1.

    decided : +1, -1 or 0 (the data cannot tell).
    """

    difference: float
    votes_plus: int
    votes_minus: int

    MIN_DIFFERENCE = 20.0
    MIN_SHARE = 0.65

    @property
    def decided(self) -> int:
        votes = self.votes_plus + self.votes_minus
        sign = 1 if self.difference > 0 else -1
        ours = self.votes_plus if sign > 0 else self.votes_minus
        clear = abs(self.difference) >= self.MIN_DIFFERENCE and votes >= 2 and ours >= self.MIN_SHARE * votes
        return sign if clear else 0


def compare_hands(plus: CtfFit, minus: CtfFit) -> HandEvidence:
    """Evidence from fits of the same data with both signs of depth."""
    per_view = plus.gain - minus.gain
    return HandEvidence(float(plus.total - minus.total), int((per_view > 1).sum()), int((per_view < -1).sum()))


def fit_series(radial: list[ViewScore], polar: list[ViewScore], defocus_range_angst, *, fit_phase: bool = False):
    """Fit a series with both signs of depth.

    Parameters
    ----------
    radial, polar : the views' data averaged over angles (for scans) and in full (for the refinement), in tilt order.

    Returns
    -------
    {+1: CtfFit, -1: CtfFit}, HandEvidence.
    """
    low, high = sorted(defocus_range_angst)
    grid = np.arange(low, high + STEP_ANGST, STEP_ANGST)
    phases = PHASES_DEG if fit_phase else (0.0,)
    coarse = np.arange(low, high + 3 * STEP_ANGST, 3 * STEP_ANGST)
    _, b, phase, _ = scan_series(radial, coarse, -1, phases_deg=phases, b_factors=B_FACTORS if not fit_phase else (250.0,))
    fits = {}
    for hand in (-1, 1):
        path, *_ = scan_series(radial, grid, hand, b_factors=(b,), phases_deg=(phase,))
        start = best_astigmatism_start(polar, path, hand, b, phase)
        tries = [refine_series(polar, path, hand, b, phase, fit_phase=fit_phase, astigmatism=a)
                 for a in dict.fromkeys([start, (0.0, 0.0)])]
        fits[hand] = max(tries, key=lambda f: f.total)
    if fit_phase:
        fits = {h: replace(f, phase_deg=f.phase_deg % 180) for h, f in fits.items()}
    return fits, compare_hands(fits[1], fits[-1])
