"""Which candidates are picks: competition with the controls, expected false picks, sigmas, number, the tomogram's hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cryoet_core.picking.background import (
    expected_false,
    fit_false_picks,
    score_for_best_f1,
    score_for_fraction,
    score_for_number,
)
from cryoet_core.picking.passes import Pass, refine_at
from cryoet_core.picking.peaks import prune_close

HAND_PLACES = 100  # the best places, of the template or its mirror image, that tell the hand
HAND_SIGMA = 5.0  # and their score at least, in sigmas of the score map
RIGHT_GAP = 0.25  # sigma: mean advantage of one hand from which it is believed
BEST_PICKS = 60
SURE_FRACTION = 0.05  # expected share of false ones among the candidates that tell how far a particle beats its mirror image
DECISIVE_GAP = 3.0  # their mean gap, in sigma of the score map, from which the mirror judges each candidate
GAP_SHARE = 0.25  # of that mean gap: what a pick must show then
AUTOMATIC_FRACTION = 0.2  # of the picks that may be false, at most, where nothing is asked
DEFAULT_SIGMA = 6.0  # where neither the config nor a control gives a cut-off


@dataclass(frozen=True)
class Competition:
    """picks : candidates that no better one, of template or control, lies close to; best first. models : of the false ones."""

    picks: list
    models: list
    control_scores: dict = field(default_factory=dict)


def separate(picks, distance_px: float) -> np.ndarray:
    """Indices of the picks kept, best first, none closer than ``distance_px`` to a better one."""
    if not picks:
        return np.empty(0, dtype=np.int64)
    return prune_close(np.array([p.position_px for p in picks]), np.array([p.score for p in picks]), distance_px)


def compete(real, controls: dict, distance_px: float) -> Competition:
    """Let candidates of the template win their places against each control (name -> candidates)."""
    won = set(separate(real, distance_px).tolist())
    models, scores = [], {}
    for name, control in controls.items():
        kept = separate([*real, *control], distance_px)
        won &= set(kept[kept < len(real)].tolist())
        scores[name] = np.array([control[i - len(real)].score for i in kept if i >= len(real)])
        model = fit_false_picks(scores[name])
        if model is not None:
            models.append(model)
    picks = sorted((real[i] for i in won), key=lambda pick: -pick.score)
    return Competition(picks, models, scores)


def cutoff(scores, models, median: float, sigma: float, config) -> dict:
    """The score that decides, and what each rule of the config asks for: {"score", "rule", one entry per rule}.

    The strictest of the rules that are given wins. Without any, the best expected F1 decides, or DEFAULT_SIGMA where no control was searched.
    """
    rules, share = {}, config.max_false_fraction
    if config.n_sigma is not None:
        rules["n_sigma"] = median + config.n_sigma * sigma
    if models and config.max_false_picks is not None:
        rules["max_false_picks"] = score_for_number(models, config.max_false_picks)
    elif models and share is not None and share < 1:
        rules["max_false_fraction"] = score_for_fraction(models, scores, share)
    elif models and automatic(config):
        rules["best_f1"] = score_for_best_f1(models, scores, AUTOMATIC_FRACTION)
    if not rules and share != 1:
        rules["default_sigma"] = median + DEFAULT_SIGMA * sigma
    rule = max(rules, key=rules.get) if rules else "max_particles"
    return {"score": rules.get(rule, -1.0), "rule": rule, "rules": rules}


def automatic(config) -> bool:
    """True where the config gives no rule."""
    return config.max_false_fraction is None and config.n_sigma is None and config.max_false_picks is None


def mirror_may_judge(config) -> bool:
    """True where the config asks for a share of false picks or nothing; a number of them, or of sigmas, is a promise about all candidates."""
    return config.max_false_picks is None and (config.max_false_fraction is not None or automatic(config))


def sure_ones(scores, models) -> int:
    """How many of the best candidates (``scores``, best first) are particles almost all, by the expected false ones; at most BEST_PICKS."""
    if not models:
        return min(len(scores), BEST_PICKS)
    return min(int(np.sum(np.asarray(scores) >= score_for_fraction(models, scores, SURE_FRACTION))), BEST_PICKS)


def clear_of_mirror(real, mirrored_scores, models, sigma: float):
    """Bool per candidate (``real``: scores, best first) and the mirrored scores (n,), or None where the mirror image cannot judge them.

    mirrored_scores : function of a slice of the candidates. The mirror judges where it loses clearly at the candidates that are particles almost
    surely; then a candidate must show a share of their mean gap. Other molecules, which fit template and mirror image alike, do not.
    """
    n_sure = sure_ones(real, models)
    if n_sure == 0:
        return None
    best = mirrored_scores(slice(0, n_sure))
    expected = (np.asarray(real)[:n_sure] - best).mean()
    if expected < DECISIVE_GAP * sigma:
        return None
    mirrored = np.r_[best, mirrored_scores(slice(n_sure, len(real)))]
    return np.asarray(real) - mirrored > GAP_SHARE * expected, mirrored


def hand_of_tomogram(
    real: Pass, mirror: Pass, picks, mirrored_picks, distance_px: float, reach: int, median: float, sigma: float, threads: int = 1, report=None
) -> dict:
    """Which of template and mirror image fits better at the best places of either: the tomogram's hand.

    The places are chosen without regard to which of the two found them, and both are refined near them, so in a
    tomogram without the particle the mean gap is 0. A place counts as much as it stands out of the score map, or the many
    places of noise would hide a few particles. verdict: "right" or "mirrored" when the mean gap is beyond RIGHT_GAP sigma and
    3 standard errors, and at least five places carry it, else "undecided".
    """
    lowest = median + HAND_SIGMA * sigma
    both = [*picks, *mirrored_picks]
    kept = [both[i] for i in separate(both, distance_px) if both[i].score > lowest][:HAND_PLACES]
    if len(kept) < 5:
        return {"verdict": "undecided", "n": len(kept)}

    def scored(field, number):
        places = [field.best_near(place.position_px, reach)[1] for place in kept]
        progress = report and (lambda done, n: report(number * n + done, 2 * n))
        return [pick.score for pick in refine_at(field, places, threads, progress)]

    scores = np.array([scored(field, number) for number, field in enumerate((real, mirror))]).T  # (n, 2)
    gap = (scores[:, 0] - scores[:, 1]) / sigma
    weight = np.array([pick.score for pick in kept]) - lowest
    mean, error, n_carrying = weighted_mean(gap, weight)
    certain = n_carrying >= 5 and abs(mean) > max(3 * error, RIGHT_GAP)
    return {
        "verdict": ("right" if mean > 0 else "mirrored") if certain else "undecided", "n": len(gap), "n_carrying": n_carrying,
        "mean_gap_sigma": mean, "gap_error_sigma": error, "best_gap_sigma": float(gap[:BEST_PICKS].mean()),
        "fraction_real_better": float((weight * (gap > 0)).sum() / weight.sum()),
        "median_score": float(np.median(scores[:, 0])), "median_score_mirrored": float(np.median(scores[:, 1])),
    }


def weighted_mean(values, weights) -> tuple[float, float, float]:
    """Weighted mean, its standard error from the scatter, and how many equal values would be as many: (sum w)^2 / sum w^2."""
    total = weights.sum()
    mean = float((weights * values).sum() / total)
    n = float(total**2 / (weights**2).sum())
    error = np.sqrt((weights**2 * (values - mean) ** 2).sum()) / total
    return mean, float(error * np.sqrt(n / max(n - 1, 1e-9))), n


def expected_at(models, score: float) -> float | None:
    """Expected false picks above ``score``; None without a model."""
    return float(expected_false(models, score)) if models and np.isfinite(score) else None
