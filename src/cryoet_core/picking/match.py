"""Template matching of one tomogram, from volume and table to picks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.errors import UserInputError
from cryoet_core.fourier import lowpass
from cryoet_core.geometry import matrix_to_euler, point_group, so3_grid_for_step
from cryoet_core.metadata import Particles, TiltSeries
from cryoet_core.picking.eigen import EigenTemplates, eigen_templates
from cryoet_core.picking.local_search import (
    Search,
    mirror_similarity,
    mirrored_score,
    mirrored_search,
    refine_peak,
)
from cryoet_core.picking.peaks import (
    competition_threshold,
    local_maxima,
    prune_close,
    robust_statistics,
    search_region,
)
from cryoet_core.picking.prepare import near_gold, searchable_tomogram
from cryoet_core.picking.reference import particle_diameter_angst
from cryoet_core.picking.scores import NO_SCORE, filter_tomogram, score_map
from cryoet_core.picking.template import make_template
from cryoet_core.picking.transfer import match_filters

MASK_MARGIN = 1.1  # of the particle's radius
MASK_EDGE_PX = 2.0
HAND_PICKS, BEST_PICKS = 400, 60  # that tell the hand, and how clearly the data show it
RIGHT_GAP, MIRRORED_GAP = 1.0, -0.2  # sigma; false picks are peaks of the real template and lean to it by about 1
DECISIVE_GAP = 3.0  # mean gap to the mirrored template, in sigma of the score map, of the best picks, from which the mirror judges each pick
GOLD_DISTANCE = 0.75  # particle diameters from a gold bead within which nothing is picked
GAP_SHARE = 0.25  # of that mean gap: what a pick must show then
ENERGY = 0.95  # of the templates in the eigen-templates; candidates are scored again with the whole template
CANDIDATE_FACTOR = 2  # peaks that are refined, per particle asked for
FFT_ROUTE_RANK = 350  # more eigen-templates than this are slower than one FFT per orientation (measured on a CPU)


@dataclass(frozen=True)
class MatchPlan:
    """Lengths and steps of a search, all automatic values decided."""

    diameter_angst: float
    low_pass_angst: float
    step_deg: float
    min_distance_angst: float
    margin_angst: float

    @property
    def mask_diameter_angst(self) -> float:
        return MASK_MARGIN * self.diameter_angst


@dataclass(frozen=True)
class MatchResult:
    """particles; scores (z, y, x) with 0 where nothing was searched; summary for the report."""

    particles: Particles
    scores: np.ndarray
    summary: dict


def plan_match(reference, pixel_size_angst: float, config) -> MatchPlan:
    """Fill in what the config leaves automatic; see config/match_template.py."""
    diameter = config.particle_diameter_angst or particle_diameter_angst(asnumpy(reference), pixel_size_angst)
    resolution = max(config.low_pass_angst or 2.4 * pixel_size_angst, 2 * pixel_size_angst)
    step = config.angular_step_deg or min(15.0, float(np.rad2deg(1.3 * resolution / diameter)))
    distance = config.min_distance_angst
    if distance is None or distance < 0:
        distance = 0.5 * diameter
    margin = 0.25 * diameter if config.edge_margin_angst is None else config.edge_margin_angst
    return MatchPlan(float(diameter), float(resolution), float(step), float(distance), float(margin))


def unique_rotations(step_deg: float, symmetry: str):
    """Orientation grid without the copies that the point group makes -> (m, 3, 3)."""
    grid, operators = so3_grid_for_step(step_deg), point_group(symmetry)
    if len(operators) == 1:
        return grid
    # of the equivalent orientations R S keep the one nearest to the identity
    traces = np.einsum("mij,sji->ms", grid, operators)
    return grid[traces[:, 0] >= traces.max(axis=1) - 1e-9]


def _check_reference(reference, pixel_size_angst, series: TiltSeries):
    if abs(pixel_size_angst / series.pixel_size_angst - 1) > 0.005:
        raise UserInputError(
            "E-PICK-02", "reference and tomogram differ in pixel size", file=series.name, field="pixel size",
            found=f"{pixel_size_angst:.3f} A", expected=f"{series.pixel_size_angst:.3f} A",
            fix="run resize_reference again",
        )
    if float((asnumpy(reference) ** 3).mean()) < 0:
        raise UserInputError("E-PICK-03", "the reference is dark", field="import_reference.invert", fix="invert it")


def _searchers(tomogram, reference, series, plan: MatchPlan, config):
    """(template, filters, filtered tomogram, gold) of a plan."""
    xp = array_namespace(tomogram)
    pixel = series.pixel_size_angst
    smooth = lowpass(xp.asarray(reference), plan.low_pass_angst, pixel, 3)
    bright, gold = searchable_tomogram(tomogram, plan.diameter_angst / pixel, erase_gold=config.erase_gold)
    radius = 0.5 * plan.mask_diameter_angst / pixel
    template = make_template(smooth, radius, MASK_EDGE_PX)
    box = 2 * int(np.ceil(1.5 * (template.half + 2) / 2) * 2)
    filters = match_filters(
        bright, series, box, plan.mask_diameter_angst, plan.low_pass_angst, ctf=config.ctf,
        dose=config.dose_weighting, whitening=config.whitening,
    )
    return template, filters, filter_tomogram(bright, filters, radius, MASK_EDGE_PX), gold


def _uses_fft(method: str, eigen: EigenTemplates, n_rotations: int) -> bool:
    if method != "auto":
        return method == "fft"
    return eigen.rank > FFT_ROUTE_RANK or n_rotations < 2 * eigen.rank


def match_template(tomogram, reference, reference_pixel_angst: float, series: TiltSeries, config, rng, report=None):
    """Find a particle in a dark tomogram -> MatchResult.

    Parameters
    ----------
    tomogram : (z, y, x) of ``series.pixel_size_angst``; NumPy or CuPy, the search runs where it is.
    reference : (n, n, n) bright, same pixel size. series : the tilts the tomogram was made from.
    config : config.match_template.MatchTemplate. rng : for the eigen-templates. report(done, total): progress.

    Raises UserInputError E-PICK-01 (nothing to search), E-PICK-02 (pixel sizes), E-PICK-03 (dark reference).
    """
    _check_reference(reference, reference_pixel_angst, series)
    plan = plan_match(reference, series.pixel_size_angst, config)
    template, filters, filtered, gold = _searchers(tomogram, reference, series, plan, config)
    rotations = unique_rotations(plan.step_deg, config.symmetry)
    eigen = eigen_templates(template, rotations, filters, rng, ENERGY)
    search = Search(filtered, template, filters, eigen, rotations, plan.step_deg)
    pixel = series.pixel_size_angst
    slab = None if config.slab_thickness_angst is None else config.slab_thickness_angst / pixel
    region = search_region(tomogram.shape, plan.margin_angst / pixel, slab)
    fft_route = _uses_fft(config.method, eigen, len(rotations))
    found = score_map(
        filtered, template, rotations, filters, region, eigen=None if fft_route else eigen, report=report
    )
    scores, index = asnumpy(found.score), asnumpy(found.orientation)
    if gold is not None:
        scores[near_gold(gold, GOLD_DISTANCE * plan.diameter_angst / pixel)] = NO_SCORE
    searched = scores > NO_SCORE
    median, sigma = robust_statistics(scores[searched])
    distance = plan.min_distance_angst / pixel
    peaks = _candidates(scores, distance, median, sigma, config)
    picks = [refine_peak(search, peak, rotations[index[tuple(peak)]]) for peak in peaks]
    picks = _separate(picks, distance)
    mirrored = _mirrored_scores(search, picks, _cube_radius(distance))
    real = np.array([pick.score for pick in picks])
    lowest = median + config.n_sigma * sigma
    hand = hand_control(real[real >= lowest], mirrored[real >= lowest], sigma)
    hand["mirror_similarity"] = mirror_similarity(search, rng)
    kept, threshold = accepted(real, mirrored, lowest, sigma, hand, config)
    picks, mirrored = [picks[i] for i in kept], mirrored[kept]
    summary = {
        "n_picks": len(picks), "n_candidates": len(peaks), "n_rotations": len(rotations), "gold_voxels": 0 if gold is None else int(gold.sum()),
        "step_deg": plan.step_deg, "diameter_angst": plan.diameter_angst, "low_pass_angst": plan.low_pass_angst,
        "min_distance_angst": plan.min_distance_angst, "route": "fft" if fft_route else "low_rank",
        "rank": eigen.rank, "captured_energy": eigen.captured, "score_median": median, "score_sigma": sigma,
        "score_threshold": threshold if np.isfinite(threshold) else None, "n_above_n_sigma": int((real >= lowest).sum()), "hand": hand,
        "best_score": picks[0].score if picks else None, "last_score": picks[-1].score if picks else None,
    }
    particles = picked_particles(picks, mirrored, scores.shape, series, median, sigma)
    return MatchResult(particles, np.where(searched, scores, 0).astype(np.float32), summary)


def _cube_radius(distance_px: float) -> int:
    """Half side of the cube that fits into the sphere of exclusion."""
    return max(1, int(distance_px / np.sqrt(3)))


def _candidates(scores, distance_px: float, median: float, sigma: float, config):
    """Peaks to refine: those that could still pass, because refinement lifts a true peak by up to a few sigma."""
    lowest = median + max(min(config.n_sigma - 2.0, 4.0), 0.0) * sigma
    return local_maxima(scores, _cube_radius(distance_px), lowest)[: CANDIDATE_FACTOR * config.max_particles]


def _separate(picks, distance_px: float):
    """Picks best first, none closer than ``distance_px`` to a better one."""
    if not picks:
        return []
    kept = prune_close(np.array([p.position_px for p in picks]), np.array([p.score for p in picks]), distance_px)
    return [picks[i] for i in kept]


def _mirrored_scores(search: Search, picks, reach: int):
    """Score of the mirrored template at every pick; it may move as far as the template's own peak was free to."""
    field = mirrored_search(search)
    return np.array([mirrored_score(field, pick.position_px, reach) for pick in picks])


def accepted(real, mirrored, lowest: float, sigma: float, hand: dict, config):
    """(indices of the picks to keep, best first; the score that decided), from scores sorted best first.

    Below ``lowest`` (n_sigma) nothing is kept. What is not the particle fits the mirror image as well as the template, so the
    candidates that the mirror wins tell how many false ones are among the rest, and a pick whose gap to the mirror is a small
    part of the best picks' is none of them. This needs data in which the mirror loses
    clearly at true particles; in weaker data it would throw these away, so there n_sigma decides alone.
    """
    keep, threshold = real >= lowest, lowest
    decisive = hand["verdict"] == "right" and hand["best_gap_sigma"] > DECISIVE_GAP
    if config.max_false_fraction is not None and decisive:
        threshold = max(threshold, competition_threshold(real, mirrored, config.max_false_fraction))
        keep = (real >= threshold) & (real - mirrored > GAP_SHARE * hand["best_gap_sigma"] * sigma)
    return np.flatnonzero(keep)[: config.max_particles], float(threshold)


def hand_control(real, mirrored, sigma: float) -> dict:
    """Scores of the template against those of its mirror image at the best picks (best first): the tomogram's hand.

    verdict: "right" when the mean gap is beyond RIGHT_GAP and 3 standard errors, "mirrored" when it is below MIRRORED_GAP and
    -3 standard errors, else "undecided". Gaps in ``sigma`` of the score map.
    """
    if len(real) < 5:
        return {"verdict": "undecided", "n": len(real)}
    real, mirrored = real[:HAND_PICKS], mirrored[:HAND_PICKS]
    gap = (real - mirrored) / sigma
    error = float(gap.std(ddof=1) / np.sqrt(len(gap)))
    mean = float(gap.mean())
    right, turned = mean > max(3 * error, RIGHT_GAP), mean < min(-3 * error, MIRRORED_GAP)
    return {
        "verdict": "right" if right else "mirrored" if turned else "undecided", "n": len(gap), "mean_gap_sigma": mean,
        "gap_error_sigma": error, "best_gap_sigma": float(gap[:BEST_PICKS].mean()),
        "fraction_real_better": float((gap > 0).mean()), "median_score": float(np.median(real)),
        "median_score_mirrored": float(np.median(mirrored)),
    }


def picked_particles(picks, mirrored, shape, series: TiltSeries, median: float, sigma: float) -> Particles:
    """Picks as a particle table: centred coordinates (A), ZYZ angles (reference -> tomogram), score, best first."""
    pixel = series.pixel_size_angst
    position = np.array([pick.position_px for pick in picks]).reshape(-1, 3)
    centred = (position - np.array(shape) // 2)[:, ::-1] * pixel
    angles = matrix_to_euler(np.array([pick.rotation for pick in picks]).reshape(-1, 3, 3))
    score = np.array([pick.score for pick in picks])
    table = pd.DataFrame({
        "tomo_name": [series.name] * len(picks),
        "particle_name": [f"{series.name}/{i + 1}" for i in range(len(picks))],
        "x_angst": centred[:, 0], "y_angst": centred[:, 1], "z_angst": centred[:, 2],
        "rot_deg": angles[:, 0], "tilt_deg": angles[:, 1], "psi_deg": angles[:, 2],
        "origin_x_angst": 0.0, "origin_y_angst": 0.0, "origin_z_angst": 0.0,
        "optics_group": 1, "score": score, "score_sigma": (score - median) / sigma,
        "score_mirrored": np.asarray(mirrored, dtype=np.float64),
    })
    return Particles(table, particle_optics(series))


def particle_optics(series: TiltSeries) -> pd.DataFrame:
    """RELION's optics table of the particles of one series."""
    return pd.DataFrame({
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": [series.optics_group_name or f"optics_{series.name}"],
        "rlnVoltage": [series.voltage_kv], "rlnSphericalAberration": [series.spherical_aberration_mm],
        "rlnAmplitudeContrast": [series.amplitude_contrast],
        "rlnTomoTiltSeriesPixelSize": [series.movie_pixel_size_angst],
    })
