"""How many false picks lie above a score: the tail of what a template that is not in the specimen reaches.

A control has the shape statistics of the template but occurs nowhere: its mirror image (the same compactness and spectrum, so it fits ice,
membranes and other molecules as often), or the template with random phases (the same spectrum only). It is searched
like the template, in the same orientations, and its peaks compete with the template's for places. The places that the control wins are
distributed as the template's false ones (target-decoy competition, Elias & Gygi 2007). Far out their scores s follow

    expected(s) = n (1 + xi (s^2 - u^2) / b)^(-1/xi),   s >= u        (xi -> 0: n exp(-(s^2 - u^2) / b), Gaussian noise)

a generalised Pareto tail of s^2 (Pickands 1975) above u. A maximum over thousands of orientations is not Gaussian, so a number of standard
deviations of a score map says nothing about its far tail: that is why a fixed number of sigmas lets noise through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfftn, rfftn
from scipy.stats import poisson

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.fourier import centre_crop_or_pad

TAIL_SHARE = 0.5  # of the control's peaks that make the tail: the candidates below are incomplete, they were cut before refinement
FEWEST = 8  # peaks from which a tail can be measured
HEAVY = 2.0  # standard errors from which a tail counts as heavier than Gaussian
HEAVIEST = 0.5
CHANCE = 0.01  # probability that false picks alone are as many as all picks, at most


@dataclass(frozen=True)
class FalsePickModel:
    """Expected number of false picks above a score; n_tail of them above ``start``. See the module's formula."""

    n_tail: int
    start: float
    scale: float
    shape: float

    def expected(self, score):
        """Expected false picks with at least ``score``; below ``start`` the formula is continued."""
        score = np.asarray(score, dtype=np.float64)
        excess = (np.sign(score) * score**2 - self.start**2) / self.scale
        if self.shape == 0:
            return self.n_tail * np.exp(-excess)
        return self.n_tail * np.maximum(1 + self.shape * excess, 1e-9) ** (-1 / self.shape)

    def score_for(self, n_false: float) -> float:
        """The score above which ``n_false`` false picks are expected."""
        ratio = self.n_tail / n_false
        excess = np.log(ratio) if self.shape == 0 else (ratio**self.shape - 1) / self.shape
        return float(np.sqrt(max(self.start**2 + self.scale * excess, 0.0)))


def fit_false_picks(control_scores) -> FalsePickModel | None:
    """Tail of the scores of places that the control won; None when there are fewer than FEWEST.

    The shape is that of Gaussian noise (0) unless the moments show a significantly heavier tail (structure that the control fits).
    """
    scores = np.sort(np.asarray(control_scores, dtype=np.float64))[::-1]
    scores = scores[scores > 0]
    if len(scores) < FEWEST:
        return None
    n = max(FEWEST - 1, int(TAIL_SHARE * len(scores)))
    n = min(n, len(scores) - 1)
    start = scores[n]
    excess = scores[:n] ** 2 - start**2
    mean, variance = excess.mean(), excess.var()
    shape = 0.5 * (1 - mean**2 / max(variance, 1e-30))
    if shape < HEAVY / np.sqrt(n):
        return FalsePickModel(n, float(start), float(max(mean, 1e-12)), 0.0)
    shape = min(shape, HEAVIEST)
    return FalsePickModel(n, float(start), float(mean * (1 - shape)), float(shape))


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

    True picks are candidates less expected false ones, and their largest number is taken as that of all particles. Allowed are cuts at
    which the expected share of false picks is at most ``most_false`` and which chance reaches in fewer than CHANCE of the tomograms.
    """
    scores = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    if len(scores) == 0:
        return float("inf")
    number, false = np.arange(1, len(scores) + 1), expected_false(models, scores)
    true = np.maximum(number - false, 0)
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
