"""Defocus of every view of a series: 1-D scans, the likeliest smooth sequence, then one joint 2-D refinement.

The data term is the log-likelihood ratio of score.py, so views are weighed by what they know. Neighbours in tilt decide which of
several maxima of a view is meant (heavy-tailed prior on the step between them, in the sequence only); inside that maximum a view's
defocus is its own data's, so that it hardly depends on which other views there are.

Shared by the series: the decay of the rings, the astigmatism and, on request, a phase shift. Both may vary slowly with dose, where the
likelihood gains more by it than the Bayesian information criterion asks (Schwarz 1978, Ann. Stat. 6:461).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from cryoet_core.ctf.score import ViewScore

STEP_ANGST = 100.0
NEIGHBOUR_ANGST = 1000.0  # typical defocus change between tilts NEIGHBOUR_DEG apart
NEIGHBOUR_DEG = 3.0
ASTIGMATISM_ANGST = 1500.0  # prior width of the astigmatism U - V
ASTIGMATISM_DRIFT_ANGST, PHASE_DRIFT_DEG = 300.0, 30.0  # prior widths of their changes with dose
MAX_ORDER = 2  # of the polynomials in dose
B_FACTORS = (0.0, 100.0, 250.0, 500.0, 1000.0)
MAX_B_FACTOR = 4000.0
PHASES_DEG = np.arange(0.0, 180.0, 7.5)
MAX_PHASE_STARTS = 4
SURE_GAIN = 10.0  # rings of this log-likelihood anywhere in the search range are not noise (scans of noise: at most 8.2)
_STUDENT = 1.5


@dataclass(frozen=True)
class CtfFit:
    """defocus_angst (n,) mean of U and V at depth 0; astigmatism (n, 2) A: U - V times cos and sin of twice its angle; phase_deg (n,).

    gain : (n,) log-likelihood ratio of each view. error_angst : (n,) standard deviation of the defocus by the information in the
    data, what is shared being fitted too (inf: none). phase_error_deg : of the mean phase shift (0 where none was fitted).
    handedness; b_factor of the rings' decay, A^2; total : posterior of the series. orders : degree in dose of astigmatism and phase.
    """

    defocus_angst: np.ndarray
    astigmatism: np.ndarray
    phase_deg: np.ndarray
    gain: np.ndarray
    error_angst: np.ndarray
    handedness: int
    b_factor: float
    total: float
    phase_error_deg: float = 0.0
    orders: tuple[int, int] = (0, 0)

    @property
    def defocus_u_v_angle(self):
        """U, V (n,) A with U >= V and the angle of U (n,) in [0, 180) deg, counter-clockwise from +x."""
        cosine, sine = np.asarray(self.astigmatism, float).T
        size = np.hypot(cosine, sine)
        angle = np.rad2deg(0.5 * np.arctan2(sine, cosine)) % 180
        angle = np.where((size < 1e-6) | (angle >= 180), 0.0, angle)
        return self.defocus_angst + 0.5 * size, self.defocus_angst - 0.5 * size, angle

    def select(self, rows) -> CtfFit:
        """The fit of some rows, or of all in another order."""
        per_view = ("defocus_angst", "astigmatism", "phase_deg", "gain", "error_angst")
        return replace(self, **{name: getattr(self, name)[rows] for name in per_view})


def _step_log_prior(step, scale_angst=NEIGHBOUR_ANGST):
    return -_STUDENT * np.log1p(step**2 / (2 * scale_angst**2)) - np.log(scale_angst / NEIGHBOUR_ANGST)


def _step_scales(tilts_deg, n: int):
    """(n - 1,) widths of the prior between neighbours: half the variance belongs to every view, half grows with the gap in tilt."""
    if tilts_deg is None:
        return np.full(n - 1, NEIGHBOUR_ANGST)
    return NEIGHBOUR_ANGST * np.sqrt(0.5 + 0.5 * np.abs(np.diff(tilts_deg)) / NEIGHBOUR_DEG)


def smooth_path(curves, grid, tilts_deg=None) -> np.ndarray:
    """Defocus of every view (n,) maximising the sum of ``curves`` (n, m) over ``grid`` (m,) and the neighbour prior.

    tilts_deg : (n,) ascending; without them all neighbours are equally near.
    """
    scales = np.round(_step_scales(tilts_deg, len(curves)), -1)
    step = grid[:, None] - grid[None]
    priors = {scale: _step_log_prior(step, scale) for scale in set(scales)}
    total, back = curves[0], []
    for curve, scale in zip(curves[1:], scales, strict=True):
        chain = total[None] + priors[scale]
        back.append(chain.argmax(axis=1))
        total = curve + chain.max(axis=1)
    path = [int(total.argmax())]
    for pointer in reversed(back):
        path.append(int(pointer[path[-1]]))
    return grid[path[::-1]]


def _path_value(curves, grid, path, tilts_deg):
    index = np.rint((path - grid[0]) / (grid[1] - grid[0])).astype(int)
    prior = _step_log_prior(np.diff(path), _step_scales(tilts_deg, len(path)))
    return float(curves[np.arange(len(curves)), index].sum() + prior.sum())


def scan_series(views: list[ViewScore], grid, handedness: int, tilts_deg=None, *, b_factors=B_FACTORS, phases_deg=(0.0,)):
    """Common decay and phase shift by 1-D scans of all defoci.

    Returns a list of (value, path (n,), b_factor, phase_deg), the best decay for each phase, in the order of ``phases_deg``.
    """
    best = [None] * len(phases_deg)
    for b in b_factors:
        curves = np.array([v.scan(grid, handedness, b, np.deg2rad(phases_deg)) for v in views])  # (n, m, n_phases)
        for i, phase in enumerate(phases_deg):
            path = smooth_path(curves[..., i], grid, tilts_deg)
            value = _path_value(curves[..., i], grid, path, tilts_deg)
            if best[i] is None or value > best[i][0]:
                best[i] = (value, path, b, float(phase))
    return best


def _phase_starts(scans):
    """The most likely local maxima over phase (a circle of 180 degrees), best first."""
    values = np.array([s[0] for s in scans])
    peaks = np.flatnonzero((values >= np.roll(values, 1)) & (values >= np.roll(values, -1)))
    return [scans[i] for i in peaks[np.argsort(-values[peaks], kind="stable")][:MAX_PHASE_STARTS]]


def dose_basis(dose, order: int) -> np.ndarray:
    """(n, order + 1) Legendre polynomials of dose over its range."""
    x = np.asarray(dose, float)
    x = 2 * (x - x.min()) / max(np.ptp(x), 1e-12) - 1
    return np.polynomial.legendre.legvander(x, order)


@dataclass(frozen=True)
class SharedModel:
    """What the views share, linear in few unknowns: astigmatism (n, a) and phase (n, p) are bases over dose; p = 0: no phase shift.

    The unknowns of a series in one vector: defocus (n) in um, cos (a), sin (a) in 0.1 um, phase (p) in rad, decay in 100 A^2.
    """

    astigmatism: np.ndarray
    phase: np.ndarray

    @property
    def scale(self):
        """Unit of every unknown, (n + 2a + p + 1,)."""
        n, a = self.astigmatism.shape
        return np.concatenate([np.full(n, 1e4), np.full(2 * a, 1e3), np.ones(self.phase.shape[1]), [100.0]])

    @property
    def jacobian(self):
        """(n, 5, n + 2a + p + 1): change of the five numbers of every view (ViewScore.evaluate) with every unknown in its unit."""
        n, a = self.astigmatism.shape
        out = np.zeros((n, 5, len(self.scale)))
        out[np.arange(n), 0, np.arange(n)] = 1
        out[:, 1, n : n + a] = self.astigmatism
        out[:, 2, n + a : n + 2 * a] = self.astigmatism
        out[:, 3, n + 2 * a : -1] = self.phase
        out[:, 4, -1] = 1
        return out * self.scale

    @property
    def prior_precision(self):
        """(n + 2a + p + 1,) of the unknowns in their units: nothing on defocus, decay and mean phase."""
        n, a = self.astigmatism.shape
        width = np.full(len(self.scale), np.inf)
        for first in (n, n + a):
            width[first : first + a] = ASTIGMATISM_DRIFT_ANGST / 1e3
            width[first] = ASTIGMATISM_ANGST / 1e3
        width[n + 2 * a + 1 : -1] = np.deg2rad(PHASE_DRIFT_DEG)
        return width**-2.0

    def extended(self, flat, other: SharedModel):
        """``flat`` of this model as a start for ``other``, which has the same bases and more columns."""
        n, a = self.astigmatism.shape
        z, c, s, phase, b = np.split(flat, [n, n + a, n + 2 * a, len(flat) - 1])
        more_a = np.zeros(other.astigmatism.shape[1] - a)
        more_p = np.zeros(other.phase.shape[1] - len(phase))
        return np.concatenate([z, c, more_a, s, more_a, phase, more_p, b])


def _series_cost(flat, views, handedness, model: SharedModel, jacobian):
    """Minus log posterior of the series and its gradient."""
    values, slopes = zip(*(v.evaluate(*row, handedness) for v, row in zip(views, jacobian @ flat, strict=True)), strict=True)
    precision = model.prior_precision
    total = sum(values) - 0.5 * (precision * flat**2).sum()
    gradient = np.einsum("ij,ijk->k", np.array(slopes), jacobian) - precision * flat
    return -total, -gradient


def _information(views, flat, handedness: int, model: SharedModel):
    """Gradient (m,) of the log posterior and expected information (m, m) of all unknowns."""
    jacobian = model.jacobian
    rows = jacobian @ flat
    own = np.array([v.information(*row, handedness) for v, row in zip(views, rows, strict=True)])
    total = np.einsum("iak,iab,ibl->kl", jacobian, own, jacobian) + np.diag(model.prior_precision)
    return -_series_cost(flat, views, handedness, model, jacobian)[1], total


def _units(views, flat, handedness: int, model: SharedModel):
    """Standard deviation of every unknown with the others held, at most a part of the maximum's width: what one step may be."""
    n, a = model.astigmatism.shape
    widest = np.concatenate([np.full(n, 0.03), np.ones(2 * a), np.full(model.phase.shape[1], 0.3), [2.0]])
    information = np.diag(_information(views, flat, handedness, model)[1])
    return 1 / np.sqrt(information + widest**-2.0)


def _refine(views, flat, handedness: int, model: SharedModel):
    """Joint L-BFGS refinement of all unknowns, each in units of its own error; returns (flat, log posterior).

    In common units the first steps throw well known views out of their maximum, where they have no gradient to come back.
    """
    unit, jacobian = _units(views, flat, handedness, model), model.jacobian

    def cost(scaled):
        value, gradient = _series_cost(scaled * unit, views, handedness, model, jacobian)
        return value, gradient * unit

    bounds = [(None, None)] * (len(flat) - 1) + [(0.0, MAX_B_FACTOR / 100 / unit[-1])]
    options = {"maxiter": 200, "ftol": 1e-10, "gtol": 1e-3}
    result = minimize(cost, flat / unit, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return result.x * unit, -float(result.fun)


def _expected_gain(gradient, information) -> float:
    """How much the log posterior should rise to its maximum, by a quadratic step."""
    return 0.5 * float(gradient @ np.linalg.lstsq(information, gradient, rcond=1e-12)[0])


def _wider_models(model: SharedModel, dose):
    """Each of astigmatism and phase by one order more in dose, as far as there may be."""
    for name in ("astigmatism", "phase"):
        basis = getattr(model, name)
        if 0 < basis.shape[1] <= min(MAX_ORDER, len(dose) // 8):
            yield replace(model, **{name: dose_basis(dose, basis.shape[1])})


def _extend(views, flat, total, handedness, model: SharedModel, dose):
    """Let astigmatism and phase vary with dose where the likelihood asks for it. Returns (flat, total, model)."""
    if dose is None or np.ptp(dose) <= 0:
        return flat, total, model
    size = sum(int((v.root > 0).sum()) for v in views)
    while True:
        tries = []
        for wider in _wider_models(model, dose):
            start = model.extended(flat, wider)
            asked = 0.5 * np.log(size) * (len(start) - len(flat))
            if _expected_gain(*_information(views, start, handedness, wider)) > asked:
                tries.append((*_refine(views, start, handedness, wider), wider, asked))
        tries = [t for t in tries if t[1] - total > t[3]]
        if not tries:
            return flat, total, model
        flat, total, model, _ = max(tries, key=lambda t: t[1] - t[3])


def refine_series(views: list[ViewScore], start, handedness: int, b_factor: float, phase_deg: float = 0.0, *,
                  fit_phase: bool = False, astigmatism=(0.0, 0.0), dose=None) -> CtfFit:
    """Joint refinement from ``start`` (n,) of all defoci, the decay, the astigmatism and, if asked, the phase shift.

    dose : (n,) e/A^2 before every view; given, astigmatism and phase may vary with it.
    """
    ones = np.ones((len(views), 1))
    model = SharedModel(ones, ones if fit_phase else ones[:, :0])
    phase = [np.deg2rad(phase_deg)] if fit_phase else []
    flat = np.concatenate([np.asarray(start) / 1e4, np.asarray(astigmatism) / 1e3, phase, [b_factor / 100]])
    flat, total = _refine(views, flat, handedness, model)
    flat, total, model = _extend(views, flat, total, handedness, model, dose)
    rows = model.jacobian @ flat
    gain = np.array([v.evaluate(*row, handedness)[0] for v, row in zip(views, rows, strict=True)])
    error, phase_error = _errors(views, flat, handedness, model)
    orders = (model.astigmatism.shape[1] - 1, max(0, model.phase.shape[1] - 1))
    return CtfFit(rows[:, 0], rows[:, 1:3], np.rad2deg(rows[:, 3]), gain, error, handedness, float(rows[0, 4]), total, phase_error,
                  orders)


def refit_series(views: list[ViewScore], fit: CtfFit, dose, fit_phase: bool) -> CtfFit:
    """``fit`` refined again on other data of the same series, given in the order of its rows."""
    again = refine_series(views, fit.defocus_angst, fit.handedness, fit.b_factor, float(fit.phase_deg.mean()), fit_phase=fit_phase,
                          astigmatism=fit.astigmatism.mean(axis=0), dose=dose)
    return replace(again, phase_deg=again.phase_deg - 180 * np.floor(again.phase_deg.mean() / 180)) if fit_phase else again


def _errors(views, flat, handedness, model: SharedModel):
    """Standard deviations by the information: of every defocus (n,) A, inf where a view knows nothing, and of the mean phase, deg."""
    n, a = model.astigmatism.shape
    information = _information(views, flat, handedness, model)[1]
    knows = np.diag(information) > 1e-12
    spread = np.full(len(flat), np.inf)
    spread[knows] = np.sqrt(np.abs(np.diag(np.linalg.pinv(information[np.ix_(knows, knows)]))))
    phase = float(np.rad2deg(spread[n + 2 * a])) if model.phase.shape[1] else 0.0
    return spread[:n] * 1e4, phase


def best_astigmatism_start(views, path, handedness, b_factor, phase_deg) -> tuple[float, float]:
    """Coarse search of the astigmatism (six directions, three sizes) with the defoci held: a start for the refinement."""
    phase = np.deg2rad(phase_deg)
    tries = [(0.0, 0.0)] + [
        (size * np.cos(a), size * np.sin(a)) for size in (400.0, 900.0, 1600.0) for a in np.arange(6) * np.pi / 3
    ]
    values = [
        sum(v.evaluate(z, *t, phase, b_factor, handedness)[0] for v, z in zip(views, path, strict=True)) for t in tries
    ]
    return tries[int(np.argmax(values))]


@dataclass(frozen=True)
class HandEvidence:
    """difference : log-likelihood of +1 minus that of -1, summed over the views with rings. votes_plus, votes_minus : views that prefer each by more than 1.

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
    """Evidence from fits of the same data with both signs of depth, of the views that have rings in either."""
    per_view = (plus.gain - minus.gain)[np.maximum(plus.gain, minus.gain) >= SURE_GAIN]
    return HandEvidence(float(per_view.sum()), int((per_view > 1).sum()), int((per_view < -1).sum()))


def _fit_hand(polar, start, handedness, fit_phase, dose) -> CtfFit:
    """The best refinement from one scan result, started without and with a coarse astigmatism."""
    _, path, b, phase = start
    coarse = best_astigmatism_start(polar, path, handedness, b, phase)
    tries = [refine_series(polar, path, handedness, b, phase, fit_phase=fit_phase, astigmatism=a, dose=dose)
             for a in dict.fromkeys([coarse, (0.0, 0.0)])]
    return max(tries, key=lambda f: f.total)


def fit_series(radial: list[ViewScore], polar: list[ViewScore], defocus_range_angst, tilts_deg=None, dose=None, *,
               fit_phase: bool = False):
    """Fit a series with both signs of depth.

    Parameters
    ----------
    radial, polar : the views' data averaged over angles (for scans) and in full (for the refinement), in tilt order.
    tilts_deg : (n,) ascending. dose : (n,) e/A^2 before every view; without it nothing shared varies.

    Returns
    -------
    {+1: CtfFit, -1: CtfFit}, HandEvidence.
    """
    low, high = sorted(defocus_range_angst)
    grid = np.arange(low, high + STEP_ANGST, STEP_ANGST)
    phases = PHASES_DEG if fit_phase else np.zeros(1)
    coarse = np.arange(low, high + 3 * STEP_ANGST, 3 * STEP_ANGST)
    b = max(scan_series(radial, coarse, -1, tilts_deg, phases_deg=phases[::2]), key=lambda s: s[0])[2]
    fits = {}
    for hand in (-1, 1):
        scans = scan_series(radial, grid, hand, tilts_deg, b_factors=(b,), phases_deg=phases)
        starts = _phase_starts(scans) if fit_phase else scans
        fits[hand] = max((_fit_hand(polar, s, hand, fit_phase, dose) for s in starts), key=lambda f: f.total)
    if fit_phase:
        fits = {h: replace(f, phase_deg=f.phase_deg - 180 * np.floor(f.phase_deg.mean() / 180)) for h, f in fits.items()}
    return fits, compare_hands(fits[1], fits[-1])
