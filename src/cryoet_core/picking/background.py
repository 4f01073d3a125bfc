"""How many false picks lie above a score: the tail of what a template that is not in the specimen reaches.

A control has the shape statistics of the template but occurs nowhere: its mirror image (the same compactness and spectrum, so it fits ice,
membranes and other molecules as often), or the template with random phases (the same spectrum only). It is searched
like the template, in the same orientations, and its peaks compete with the template's for places. The places that the control wins are
distributed as the template's false ones (target-decoy competition, Elias & Gygi 2007). Above u their scores s follow, for Gaussian noise,

    expected(s) = n (s / u)^5 exp(-(s^2 - u^2) / b)

the number of maxima of a smooth Gaussian field over six dimensions, three of position and three of orientation (Adler 1981; Worsley 1996: the power is one
less than the dimensions). Without that power a fit to the many peaks near u expects twice to four times too many of the few best. Structure
that the control fits makes the tail heavier; where it is significantly so, it is a generalised Pareto tail of s^2 (Pickands 1975),

    expected(s) = n (1 + xi (s^2 - u^2) / b)^(-1/xi)

A maximum over thousands of orientations is not Gaussian, so a number of standard deviations of a score map says nothing about its far tail: that is
why a fixed number of sigmas lets noise through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfftn, rfftn
from scipy.optimize import minimize_scalar
from scipy.stats import poisson

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.fourier import centre_crop_or_pad

TAIL_SHARE = 0.5  # of the control's peaks that make the tail: the candidates below are incomplete, they were cut before refinement
FEWEST = 8  # peaks from which a tail can be measured
FIELD_POWER = 5.0  # of the score in front of the Gaussian: dimensions of the search less one
SHALLOWEST = 0.25  # fall of the field's formula at the start, relative to an exponential in s^2: a smaller one says that the start is too low for the formula
HEAVY = 2.0  # standard errors from which a tail counts as heavier than Gaussian
HEAVIEST = 0.5
CAUTION = 2.0  # standard errors
CHANCE = 0.01  # probability that false picks alone are as many as all picks, at most


@dataclass(frozen=True)
class FalsePickModel:
    """Expected number of false picks above a score; n_tail of them above ``start``. See the module's formulas.

    shape : xi; 0 for Gaussian noise. power : of s in front of the Gaussian, 0 with a shape.
    """

    n_tail: int
    start: float
    scale: float
    shape: float
    power: float = 0.0

    def expected(self, score):
        """Expected false picks with at least ``score``; below ``start`` the formula goes on with its slope in s^2 there."""
        score = np.asarray(score, dtype=np.float64)
        square, start = np.sign(score) * score**2, self.start**2
        excess = (square - start) / self.scale
        above = excess - 0.5 * self.power * np.log(np.maximum(square / start, 1.0))
        excess = np.where(square > start, above, excess * self._slope)
        if self.shape == 0:
            return self.n_tail * np.exp(-excess)
        return self.n_tail * np.maximum(1 + self.shape * excess, 1e-9) ** (-1 / self.shape)

    @property
    def _slope(self) -> float:
        """Of the excess at ``start``, relative to that without the power."""
        return 1 - 0.5 * self.power * self.scale / self.start**2

    def score_for(self, n_false: float) -> float:
        """The score above which ``n_false`` false picks are expected."""
        ratio, start = self.n_tail / n_false, self.start**2
        excess = np.log(ratio) if self.shape == 0 else (ratio**self.shape - 1) / self.shape
        if excess <= 0:
            return float(np.sqrt(max(start + self.scale * excess / self._slope, 0.0)))
        square = start
        for _ in range(200):  # a fixed point that contracts by less than 1 - slope in each step
            before, square = square, start + self.scale * (excess + 0.5 * self.power * np.log(square / start))
            if square - before < 1e-14 * start:
                break
        return float(np.sqrt(square))


def _fit_field(scores, start: float) -> float:
    """Most likely ``scale`` of the Gaussian field's tail from scores above ``start``."""
    squares = scores**2

    def cost(log_scale):
        scale = np.exp(log_scale)
        return -(np.log(2 * squares / scale - FIELD_POWER) - (squares - start**2) / scale).sum()

    # the number of maxima must fall from the start on: scale < 2 start^2 / power
    bounds = np.log(start**2 * np.array([1e-4, 1.98 / FIELD_POWER]))
    return float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def fit_false_picks(control_scores) -> FalsePickModel | None:
    """Tail of the scores of places that the control won; None when there are fewer than FEWEST.

    The tail is that of a Gaussian field unless the moments show a significantly heavier one (structure that the control fits), or the start is so low that
    the formula hardly falls there; then it is an exponential or Pareto tail of s^2, which expects more.
    """
    scores = np.sort(np.asarray(control_scores, dtype=np.float64))[::-1]
    scores = scores[scores > 0]
    if len(scores) < FEWEST:
        return None
    n = max(FEWEST - 1, int(TAIL_SHARE * len(scores)))
    n = min(n, len(scores) - 1)
    tail, start = scores[:n], float(scores[n])
    if tail[0] <= start:
        return None
    field = FalsePickModel(n, start, _fit_field(tail, start), 0.0, FIELD_POWER)
    if field._slope > SHALLOWEST and _shape(-np.log(field.expected(tail) / n)) < HEAVY / np.sqrt(n):
        return field
    excess = tail**2 - start**2
    shape = _shape(excess)
    shape = 0.0 if shape < HEAVY / np.sqrt(n) else min(shape, HEAVIEST)
    return FalsePickModel(n, start, float(max(excess.mean() * (1 - shape), 1e-12)), float(shape))


def _shape(excess) -> float:
    """Shape of a generalised Pareto distribution by moments: 0 for an exponential one."""
    return 0.5 * (1 - excess.mean() ** 2 / max(excess.var(), 1e-30))


def expected_false(models, score):
    """Expected false picks above ``score`` by the most pessimistic of several models."""
    return np.max([model.expected(score) for model in models], axis=0)


def score_for_number(models, n_false: float) -> float:
    """Score above which no model expects more than ``n_false`` false picks."""
    return max(model.score_for(n_false) for model in models)


def score_for_fraction(models, scores, fraction: float) -> float:
    """Lowest of ``scores`` (all candidates) at which expected false picks are at most ``fraction`` of the picks; inf if none."""
    scores = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    if len(scores) == 0:
        return float("inf")
    good = np.flatnonzero(expected_false(models, scores) <= fraction * np.arange(1, len(scores) + 1))
    return float(scores[good[-1]]) if good.size else float("inf")


def score_for_best_f1(models, scores, most_false: float) -> float:
    """The cut among ``scores`` (all candidates) with the best expected F1, the harmonic mean of precision and recall; inf if none is allowed.

    True picks are candidates less false ones, and their largest number is taken as that of all particles. False ones count with CAUTION
    standard errors above their expected number: among low scores a template fits other molecules somewhat more often than the control does, and
    an excess that chance may give is no particles. Allowed are cuts at which the expected share of false picks is at most ``most_false`` and which
    chance reaches in fewer than CHANCE of the tomograms.
    """
    scores = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    if len(scores) == 0:
        return float("inf")
    number, false = np.arange(1, len(scores) + 1), expected_false(models, scores)
    true = np.maximum(number - false - CAUTION * np.sqrt(false), 0)
    f1 = 2 * true / (number + true.max())
    allowed = (false <= most_false * number) & (poisson.sf(number - 1, false) < CHANCE)
    return float(scores[np.argmax(np.where(allowed, f1, -1))]) if allowed.any() else float("inf")


def phase_randomised(reference, box: int, rng):
    """A map (box, box, box) with the amplitudes of the reference's centre and random phases: its spectrum, not its shape."""
    xp = array_namespace(reference)
    volume = asnumpy(centre_crop_or_pad(reference, (box, box, box), 3))
    # the phases of a real noise volume keep the symmetry of a real transform
    noise = rfftn(rng.standard_normal(volume.shape))
    spectrum = np.abs(rfftn(volume)) * noise / np.maximum(np.abs(noise), 1e-12)
    return xp.asarray(irfftn(spectrum, s=volume.shape).astype(np.float32))
