"""Template matching of one tomogram, from volume and table to picks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.errors import UserInputError
from cryoet_core.fourier import lowpass
from cryoet_core.geometry import matrix_to_euler, point_group, so3_grid_for_step
from cryoet_core.metadata import Particles, TiltSeries
from cryoet_core.picking.background import phase_randomised
from cryoet_core.picking.binned import (
    FINE_STEP,
    RESOLUTION_PX,
    STEP_PER_RESOLUTION,
    binned_mask,
    binned_series,
    binned_volume,
    on_tomogram,
    search_binning,
    with_fine_scale,
)
from cryoet_core.picking.choice import (
    DEFAULT_SIGMA,
    clear_of_mirror,
    compete,
    cutoff,
    expected_at,
    hand_of_tomogram,
    mirror_may_judge,
)
from cryoet_core.picking.eigen import EigenTemplates, coefficients, eigen_templates
from cryoet_core.picking.eman import STEP_DEG as EMAN_STEP_DEG
from cryoet_core.picking.eman import full_size, match_like_eman2
from cryoet_core.picking.local_search import Pick, Search, mirror_similarity, mirrored_search
from cryoet_core.picking.passes import (
    Pass,
    contested_peaks,
    mirror_pass,
    mirrored_scores,
    random_phase_pass,
    refine_at,
    refined_peaks,
    run_pass,
    with_template,
)
from cryoet_core.picking.peaks import robust_statistics, search_region
from cryoet_core.picking.prepare import near_gold, searchable_tomogram
from cryoet_core.picking.reference import particle_diameter_angst
from cryoet_core.picking.scores import NO_SCORE, CoarseGrid, FilteredTomogram, filter_tomogram
from cryoet_core.picking.specimen import carbon, find_slab, given_mask, membranes, seen_share
from cryoet_core.picking.template import Template, make_template
from cryoet_core.picking.transfer import MatchFilters, match_filters

MASK_MARGIN = 1.1  # of the particle's radius
MASK_EDGE_PX = 2.0
EMAN_EDGE_PX = 32
GOLD_DISTANCE = 0.75  # particle diameters from a gold bead within which nothing is picked
ENERGY = 0.95  # of the templates in the eigen-templates; candidates are scored again with the whole template
CANDIDATE_FACTOR = 2  # peaks that are refined, per particle asked for
COARSENING = 2.0  # of the first grid of a hierarchical search
HIERARCHICAL_FROM = 1000  # rotations
CONTROL_PEAKS = 500  # contested peaks of a control that are refined: they measure the false picks, and peaks of the template are refined down to the same score; of a binned search, whose scores say less, as many as of the template
ACHIRAL = 0.92  # similarity to its mirror image from which a template cannot tell false picks by it
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
    """particles; scores (z, y, x) with 0 where nothing was searched; summary for the report.

    orientation : (z, y, x) int32, which of ``rotations`` (m, 3, 3; reference -> tomogram) scored best; -1 where nothing was searched.
    """

    particles: Particles
    scores: np.ndarray
    summary: dict
    orientation: np.ndarray
    rotations: np.ndarray


def plan_match(reference, pixel_size_angst: float, config) -> MatchPlan:
    """Fill in what the config leaves automatic; see config/match_template.py."""
    diameter = config.particle_diameter_angst or particle_diameter_angst(asnumpy(reference), pixel_size_angst)
    resolution = max(config.low_pass_angst or RESOLUTION_PX * pixel_size_angst, 2 * pixel_size_angst)
    step = config.angular_step_deg or min(15.0, float(np.rad2deg(STEP_PER_RESOLUTION * resolution / diameter)))
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


@dataclass(frozen=True)
class _Material:
    """What searches of a tomogram share at one voxel size: template, filters, filtered tomogram; where the gold is, bool (z, y, x) or None; the bright tomogram."""

    template: Template
    filters: MatchFilters
    filtered: FilteredTomogram
    gold: np.ndarray | None
    bright: np.ndarray


def _material(tomogram, reference, series, plan: MatchPlan, config) -> _Material:
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
    return _Material(template, filters, filter_tomogram(bright, filters, radius, MASK_EDGE_PX), gold, bright)


def _search(material: _Material, rotations, step_deg: float, rng) -> Search:
    """An exhaustive search over ``rotations``."""
    eigen = eigen_templates(material.template, rotations, material.filters, rng, ENERGY)
    return Search(material.filtered, material.template, material.filters, eigen, rotations, step_deg)


@dataclass(frozen=True)
class SearchPlace:
    """region : three slices that hold all that is searched; allowed : bool (z, y, x) or None for all of it."""

    region: tuple
    allowed: np.ndarray | None
    summary: dict


def search_place(bright, gold, mask, plan: MatchPlan, series: TiltSeries, config) -> SearchPlace:
    """Where particles may lie: margin, slab, given mask, seen by the views, away from gold, membranes and carbon."""
    parts, summary, pixel = [], {}, series.pixel_size_angst
    slab = config.slab_thickness_angst
    middle = None
    if slab == "auto":
        found = find_slab(bright, plan.diameter_angst / pixel)
        slab = None if found is None else (found.stop - found.start) * pixel
        middle = None if found is None else 0.5 * (found.start + found.stop - 1)
        summary["slab_px"] = None if found is None else [found.start, found.stop]
    region = search_region(bright.shape, plan.margin_angst / pixel, None if slab is None else slab / pixel, middle)
    if mask is not None:
        parts.append(given_mask(mask, bright.shape))
    if config.min_view_share > 0 and min(series.image_size_px) > 0:
        seen = seen_share(series, bright.shape, plan.margin_angst / pixel) >= config.min_view_share
        if not seen[region].all():
            parts.append(seen)
            summary["seen"] = float(seen[region].mean())
    if gold is not None:
        parts.append(~near_gold(gold, GOLD_DISTANCE * plan.diameter_angst / pixel))
    for wanted, find in ((config.exclude_membranes, membranes), (config.exclude_carbon, carbon)):
        if wanted:
            excluded = find(bright, pixel, plan.diameter_angst)
            summary[find.__name__] = float(excluded[region].mean())
            parts.append(~excluded)
    allowed = np.logical_and.reduce(parts) if parts else None
    if allowed is not None and not allowed[region].any():
        raise UserInputError(
            "E-PICK-04", "the mask leaves nothing of the tomogram to search", field="match_template.search_mask",
            found="no voxel", fix="a mask that is 1 where particles may lie, or fewer exclusions",
        )
    return SearchPlace(region, allowed, summary)


def _uses_fft(method: str, eigen: EigenTemplates, n_rotations: int) -> bool:
    if method != "auto":
        return method == "fft"
    return eigen.rank > FFT_ROUTE_RANK or n_rotations < 2 * eigen.rank


def match_template(
    tomogram, reference, reference_pixel_angst: float, series: TiltSeries, config, rng, report=None, *, mask=None, threads: int = 1
):
    """Find a particle in a dark tomogram -> MatchResult.

    Parameters
    ----------
    tomogram : (z, y, x) of ``series.pixel_size_angst``; NumPy or CuPy, the search runs where it is.
    reference : (n, n, n) bright, same pixel size. series : the tilts the tomogram was made from.
    config : config.match_template.MatchTemplate. rng : for the eigen-templates. report(done, total): progress.
    mask : (z, y, x) bool or 0/1, search only there; None for everywhere.

    Raises UserInputError E-PICK-01 (nothing to search), E-PICK-02 (pixel sizes), E-PICK-03 (dark reference), E-PICK-04 (mask).
    """
    _check_reference(reference, reference_pixel_angst, series)
    if config.preset == "eman2":
        return _eman2_result(tomogram, reference, series, config, report)
    plan = plan_match(reference, series.pixel_size_angst, config)
    pixel, shape = series.pixel_size_angst, tomogram.shape
    binning = search_binning(plan.step_deg, plan.diameter_angst, pixel)
    rotations = unique_rotations(plan.step_deg, config.symmetry)
    coarse_plan = replace(plan, low_pass_angst=max(plan.low_pass_angst, RESOLUTION_PX * binning * pixel))
    coarse_series = binned_series(series, binning)
    material = _material(binned_volume(tomogram, binning), binned_volume(reference, binning), coarse_series, coarse_plan, config)
    gold, where = material.gold, search_place(asnumpy(material.bright), material.gold, binned_mask(mask, binning), plan, coarse_series, config)
    search = _search(material, rotations, plan.step_deg, rng)
    use_eigen = not _uses_fft(config.method, search.eigen, len(rotations))
    if use_eigen:
        search = replace(search, coarse=coarse_grid(search.template, search.eigen, rotations, plan, config))
    fine = None
    if binning > 1:
        fine = _search(_material(tomogram, reference, series, plan, config), rotations, FINE_STEP * plan.step_deg, rng)
    del tomogram, material  # their memory is needed for the scores, unless the caller keeps it
    similarity = mirror_similarity(fine or search, rng)
    kinds = _controls(config.background, similarity)
    n_searches = 1 + len(kinds)
    n_refinements = 0 if fine is None else n_searches + 1  # of the many peaks of a binned search; each takes as long as a search
    reports = _split(report, n_searches + n_refinements) + [None] * (n_searches + 1 - n_refinements)
    options = {"region": where.region, "allowed": where.allowed, "use_eigen": use_eigen, "threads": threads}
    scales = _Scales(search, fine, binning, shape, pixel)
    real = scales.whole(run_pass(search, report=reports[0], **options), fine, rng)
    controls = {
        kind: _control(kind, scales, reference, plan, rng, options | {"report": part})
        for kind, part in zip(kinds, reports[1:n_searches], strict=True)
    }
    found = _choose(real, controls, plan, pixel, config, threads, reports[n_searches:])
    found["hand"]["mirror_similarity"] = similarity
    summary = {
        "n_rotations": len(rotations), "gold_voxels": 0 if gold is None else int(gold.sum()),
        "step_deg": plan.step_deg, "diameter_angst": plan.diameter_angst, "low_pass_angst": plan.low_pass_angst,
        "min_distance_angst": plan.min_distance_angst, "route": "low_rank" if use_eigen else "fft",
        "search": "exhaustive" if search.coarse is None else "hierarchical", "search_pixel_angst": binning * pixel, "rank": search.eigen.rank,
        "captured_energy": search.eigen.captured, "controls": list(controls), "searched": where.summary,
    } | {name: value for name, value in found.items() if name not in ("picks", "mirrored")}
    particles = picked_particles(found["picks"], found["mirrored"], shape, series, found["score_median"], found["score_sigma"])
    searched = real.score > NO_SCORE
    orientation = np.where(searched, real.orientation.astype(np.int32), -1)
    scores = np.where(searched, real.score, 0).astype(np.float32)
    return MatchResult(particles, on_tomogram(scores, binning, shape), summary, on_tomogram(orientation, binning, shape), rotations)


def _eman2_result(tomogram, reference, series, config, report) -> MatchResult:
    """The tutorial's picker; its score is a sum over a region, its map is in sigmas, it does not test the hand."""
    pixel, n_sigma = series.pixel_size_angst, DEFAULT_SIGMA if config.n_sigma is None else config.n_sigma
    found = match_like_eman2(
        tomogram, reference, pixel, n_sigma=n_sigma, max_particles=config.max_particles, min_distance_angst=config.min_distance_angst,
        remove_edge_px=EMAN_EDGE_PX if config.edge_margin_angst else 0, remove_gold=config.erase_gold, report=report,
    )
    picks = [Pick(p, r, float(v)) for p, r, v in zip(found.position_px, found.rotation, found.score, strict=True)]
    particles = picked_particles(picks, np.zeros(len(picks)), tomogram.shape, series, 0.0, 1.0)
    scores = full_size(found.sigma_map, found.shrink, tomogram.shape)
    median, sigma = robust_statistics(found.sigma_map)
    summary = {
        "preset": "eman2", "n_picks": len(picks), "n_rotations": len(found.rotations), "step_deg": EMAN_STEP_DEG, "route": "fft",
        "search": "exhaustive", "controls": [], "hand": {"verdict": "not tested", "n": 0}, "score_median": median, "score_sigma": sigma or 1.0,
        "score_threshold": n_sigma, "threshold_rule": "n_sigma", "expected_false": None, "diameter_angst": reference.shape[0] * pixel / 2,
        "candidate_scores": [], "best_score": picks[0].score if picks else None, "last_score": picks[-1].score if picks else None,
    }
    return MatchResult(particles, scores, summary, full_size(found.orientation, found.shrink, tomogram.shape), found.rotations)


def _split(report, n_parts: int) -> list:
    """One report(done, total) or None for each of several parts of the same length."""

    def part(number: int):
        return lambda done, total: report(number * total + done, n_parts * total)

    return [None if report is None else part(number) for number in range(n_parts)]


def _controls(background: str, similarity: float) -> list[str]:
    """Which controls are searched; a template that looks like its mirror image needs random phases."""
    if background == "auto":
        return ["mirror"] if similarity < ACHIRAL else ["random_phase"]
    return {"none": [], "both": ["mirror", "random_phase"]}.get(background, [background])


@dataclass(frozen=True)
class _Scales:
    """The template's search, where it runs, and that of the tomogram (``shape``, ``pixel_angst``) its peaks are refined with: None where they are one."""

    search: Search
    fine: Search | None
    binning: int
    shape: tuple[int, int, int]
    pixel_angst: float

    def whole(self, found: Pass, fine: Search | None, rng) -> Pass:
        """A pass with the search that its peaks are refined with, in the pass's frame."""
        return found if fine is None else with_fine_scale(found, fine, self.binning, self.shape, rng)


def _control(kind: str, scales: _Scales, reference, plan: MatchPlan, rng, options: dict) -> Pass:
    search, fine = scales.search, scales.fine
    if kind == "mirror":
        return scales.whole(mirror_pass(search, **options), fine and mirrored_search(fine), rng)
    xp = array_namespace(search.filtered.matched)
    smooth = lowpass(xp.asarray(reference), plan.low_pass_angst, scales.pixel_angst, 3)
    noise = phase_randomised(smooth, 2 * ((fine or search).template.half + 2), rng)
    radius_px = 0.5 * plan.mask_diameter_angst / scales.pixel_angst
    found = random_phase_pass(search, binned_volume(noise, scales.binning), radius_px / scales.binning, MASK_EDGE_PX, ENERGY, rng, **options)
    return scales.whole(found, fine and with_template(fine, noise, radius_px, MASK_EDGE_PX, ENERGY, rng), rng)


def coarse_grid(template, eigen: EigenTemplates, rotations, plan: MatchPlan, config) -> CoarseGrid | None:
    """The first grid of a hierarchical search; None for an exhaustive one, and where two grids are not worth it."""
    if config.search == "exhaustive" or len(rotations) < HIERARCHICAL_FROM:
        return None
    coarse = unique_rotations(COARSENING * plan.step_deg, config.symmetry)
    operators = point_group(config.symmetry)
    flat = rotations.reshape(-1, 9)
    nearest = [int((flat @ (turn @ operators).reshape(-1, 9).T).max(axis=1).argmax()) for turn in coarse]
    return CoarseGrid(coarse, coefficients(eigen.basis, eigen.norm_matrix, template, coarse), np.array(nearest))


def _choose(real: Pass, controls: dict, plan: MatchPlan, pixel: float, config, threads: int, reports) -> dict:
    """Candidates of all searches -> picks (best first), their mirrored scores, and the numbers for the summary.

    reports : report(done, total) or None for the peaks of the template, of every control, and for the mirrored template at the candidates.
    """
    of_template, *of_controls, of_mirror = reports
    distance = plan.min_distance_angst / pixel
    radius = _cube_radius(distance / real.binning)
    most = CANDIDATE_FACTOR * config.max_particles
    n_control = CONTROL_PEAKS if real.fine is None else max(CONTROL_PEAKS, most)
    contested = {kind: contested_peaks(control, real, radius, n_control) for kind, control in controls.items()}
    lowest = _lowest([scores[-1] for _, scores in contested.values() if len(scores)], *real.level, config)
    median, sigma = real.refined_level
    candidates = refined_peaks(real, radius, lowest, most, threads, of_template)
    others = {kind: sorted(refine_at(controls[kind], peaks[scores >= lowest], threads, report), key=lambda pick: -pick.score)
              for (kind, (peaks, scores)), report in zip(contested.items(), of_controls, strict=True)}
    game = compete(candidates, others, distance)
    scores = np.array([pick.score for pick in game.picks])

    def judge(part):
        progress = of_mirror and (lambda done, _: of_mirror(part.start + done, len(scores)))
        return _mirrored_scores(real, controls.get("mirror"), game.picks[part], radius, threads, progress)

    judged = clear_of_mirror(scores, judge, game.models, sigma) if mirror_may_judge(config) else None
    clear, mirrored = (np.ones(len(scores), dtype=bool), None) if judged is None else judged
    decided = cutoff(scores[clear], game.models, median, sigma, config)
    kept = np.flatnonzero(clear & (scores >= decided["score"]))[: config.max_particles]
    picks = [game.picks[i] for i in kept]
    mirrored = judge(slice(0, len(kept))) if mirrored is None else mirrored[kept]
    hand = {"verdict": "undecided", "n": 0}
    if "mirror" in controls:
        hand = hand_of_tomogram(real, controls["mirror"], candidates, others["mirror"], distance, radius, median, sigma, threads)
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
