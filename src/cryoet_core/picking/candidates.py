"""From score maps to picks: peaks of template and controls are refined, compete for places, and the cut decides."""

from __future__ import annotations

import numpy as np

from cryoet_core.picking.choice import clear_of_mirror, compete, cutoff, expected_at, hand_of_tomogram, mirror_may_judge
from cryoet_core.picking.passes import Pass, contested_peaks, found_peaks, mirrored_scores, refine_at
from cryoet_core.picking.plan import MatchPlan

CANDIDATE_FACTOR = 2  # peaks that are refined, per particle asked for, at most
# contested peaks of a control that are refined: they measure the false picks, and peaks of the template are refined down to the same score;
# of a binned search, whose scores say less, as many as of the template
CONTROL_PEAKS = 500
BATCH = 400  # peaks of template and control that are scored before it is asked whether more can matter


def choose(real: Pass, controls: dict, plan: MatchPlan, pixel: float, config, threads: int, phase) -> dict:
    """Candidates of all searches -> picks (best first), their mirrored scores, and the numbers for the summary.

    pixel : A, of the voxels that peaks are scored in. phase(name) : report(done, total) of a phase, or None.
    """
    distance = plan.min_distance_angst / pixel
    radius = _cube_radius(distance / real.binning)
    median, sigma = real.refined_level
    candidates, others = _refined(real, controls, radius, distance, config, threads, phase)
    game = compete(candidates, others, distance)
    scores = np.array([pick.score for pick in game.picks])

    def judge(part):
        report = phase("mirrored template at the candidates")
        return _mirrored_scores(real, controls.get("mirror"), game.picks[part], radius, threads, report)

    clear, mirrored = np.ones(len(scores), dtype=bool), None
    if mirror_may_judge(config):
        # those below the cut that holds without the judge cannot become picks: it only takes candidates away
        near = int(np.sum(scores >= cutoff(scores, game.models, median, sigma, config)["score"] - sigma))
        judged = clear_of_mirror(scores[:near], judge, game.models, sigma)
        if judged is not None:
            clear[:near], mirrored = judged
            clear[near:] = False
    decided = cutoff(scores[clear], game.models, median, sigma, config)
    kept = np.flatnonzero(clear & (scores >= decided["score"]))[: config.max_particles]
    picks = [game.picks[i] for i in kept]
    mirrored = judge(slice(0, len(kept))) if mirrored is None else mirrored[kept]
    hand = {"verdict": "undecided", "n": 0}
    if "mirror" in controls:
        hand = hand_of_tomogram(
            real, controls["mirror"], candidates, others["mirror"], distance, radius, median, sigma, threads, phase("hand of the tomogram")
        )
    return {
        "picks": picks, "mirrored": mirrored, "n_picks": len(picks), "n_candidates": len(candidates), "score_median": median,
        "score_sigma": sigma, "score_threshold": decided["score"] if np.isfinite(decided["score"]) else None,
        "threshold_rule": decided["rule"], "thresholds": {k: v if np.isfinite(v) else None for k, v in decided["rules"].items()},
        "expected_false": expected_at(game.models, decided["score"]), "hand": hand,
        "candidate_scores": [round(float(v), 5) for v in scores],
        "false_pick_models": [vars(model) for model in game.models],
        "control_scores": {kind: [round(float(v), 5) for v in values] for kind, values in game.control_scores.items()},
        "best_score": picks[0].score if picks else None, "last_score": picks[-1].score if picks else None,
    }


def _refined(real: Pass, controls: dict, radius: int, distance: float, config, threads: int, phase):
    """(candidates, {control: candidates}), refined, best first: batch after batch of peaks, until those of the last batch are far from being picks."""
    most = CANDIDATE_FACTOR * config.max_particles
    n_control = CONTROL_PEAKS if real.fine is None else max(CONTROL_PEAKS, most)
    contested = {kind: contested_peaks(control, real, radius, n_control) for kind, control in controls.items()}
    lowest = _lowest([scores[-1] for _, scores in contested.values() if len(scores)], *real.level, config)
    waiting = {None: (real, found_peaks(real, radius, lowest, most))}
    waiting |= {kind: (controls[kind], peaks[scores >= lowest]) for kind, (peaks, scores) in contested.items()}
    report, total, done = phase("scoring of peaks"), sum(len(peaks) for _, peaks in waiting.values()), 0
    refined: dict = {kind: [] for kind in waiting}
    median, sigma = real.refined_level
    while any(len(refined[kind]) < len(peaks) for kind, (_, peaks) in waiting.items()):
        for kind, (found, peaks) in waiting.items():
            batch = peaks[len(refined[kind]) : len(refined[kind]) + BATCH]
            refined[kind] += refine_at(found, batch, threads, report and (lambda n, _, done=done: report(done + n, total)))
            done += len(batch)
        game = compete(_best_first(refined[None]), {kind: _best_first(refined[kind]) for kind in controls}, distance)
        cut = cutoff([pick.score for pick in game.picks], game.models, median, sigma, config)["score"]
        last = [pick.score for pick in refined[None][-BATCH // 2 :]]
        if np.isfinite(cut) and len(refined[None]) >= BATCH and max(last) < cut - sigma:
            break
    return _best_first(refined[None]), {kind: _best_first(refined[kind]) for kind in controls}


def _best_first(picks) -> list:
    return sorted(picks, key=lambda pick: -pick.score)


def _cube_radius(distance_px: float) -> int:
    """Half side of the cube that fits into the sphere of exclusion."""
    return max(1, int(distance_px / np.sqrt(3)))


def _lowest(levels: list, median: float, sigma: float, config) -> float:
    """Score of the search from which peaks are refined: all that could still be picks, as refinement lifts a true peak by a few sigma.

    levels : of the worst peak of each control that is refined.
    """
    if config.n_sigma is not None or not levels:
        n_sigma = 6.0 if config.n_sigma is None else config.n_sigma
        levels = [*levels, median + max(min(n_sigma - 2.0, 4.0), 0.0) * sigma]
    return min(levels)


def _mirrored_scores(real: Pass, mirror: Pass | None, picks, reach: int, threads: int, report):
    """Refined score of the mirrored template at its best place within ``reach`` voxels of every pick."""
    if mirror is None:
        return mirrored_scores(real, [pick.position_px for pick in picks], reach, threads, report)
    places = [mirror.best_near(pick.position_px, reach)[1] for pick in picks]
    return np.array([pick.score for pick in refine_at(mirror, places, threads, report)])
