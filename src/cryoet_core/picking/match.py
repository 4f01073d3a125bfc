"""Template matching of one tomogram, from volume and table to picks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cryoet_core.backend import asnumpy
from cryoet_core.errors import UserInputError
from cryoet_core.fourier import lowpass
from cryoet_core.geometry import matrix_to_euler, point_group, so3_grid_for_step
from cryoet_core.metadata import Particles, TiltSeries
from cryoet_core.picking.background import phase_randomised
from cryoet_core.picking.binned import (
    FINE_STEP,
    RESOLUTION_PX,
    binned_map,
    binned_mask,
    binned_series,
    binned_volume,
    search_binning,
    with_fine_scale,
)
from cryoet_core.picking.candidates import CANDIDATE_FACTOR, choose
from cryoet_core.picking.choice import DEFAULT_SIGMA
from cryoet_core.picking.eigen import MAX_RANK, EigenTemplates, coefficients, eigen_templates
from cryoet_core.picking.eman import STEP_DEG as EMAN_STEP_DEG
from cryoet_core.picking.eman import full_size, match_like_eman2
from cryoet_core.picking.local_search import Pick, Search, mirror_similarity, mirrored_search
from cryoet_core.picking.passes import Pass, mirror_pass, random_phase_pass, rescaled, run_pass, with_template
from cryoet_core.picking.peaks import robust_statistics
from cryoet_core.picking.plan import MatchPlan, choose_effort, plan_match, scoring_binning
from cryoet_core.picking.pose import pose_in_tomogram
from cryoet_core.picking.prepare import searchable_tomogram
from cryoet_core.picking.scale import MASK_EDGE_PX, Scale, scale
from cryoet_core.picking.scores import NO_SCORE, CoarseGrid
from cryoet_core.picking.specimen import given_mask, gold_in_voxels, gold_summary, search_place

EMAN_EDGE_PX = 32
POSE_FROM = 4.0  # a pose from the scoring is good to its first grid over this
ENERGY = 0.95  # of the templates in the eigen-templates; candidates are scored again with the whole template
SCORING_RANK = 400  # eigen-templates, at most, that find the poses that a peak's refinement starts from
COARSENING = 2.0  # of the first grid of a hierarchical search
HIERARCHICAL_FROM = 1000  # rotations
ACHIRAL = 0.92  # similarity to its mirror image from which a template cannot tell false picks by it


@dataclass(frozen=True)
class MatchResult:
    """particles; scores (z, y, x) with 0 where nothing was searched; summary for the report.

    orientation : (z, y, x) int32, which of ``rotations`` (m, 3, 3; reference -> tomogram) scored best; -1 where nothing was searched.
    map_pixel_angst : voxel of these two maps, that of the search; their centre (n//2) is the tomogram's.
    """

    particles: Particles
    scores: np.ndarray
    summary: dict
    orientation: np.ndarray
    rotations: np.ndarray
    map_pixel_angst: float


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


def _search(scale: Scale, rotations, step_deg: float, rng, max_rank: int) -> Search:
    """An exhaustive search over ``rotations``."""
    eigen = eigen_templates(scale.template, rotations, scale.filters, rng, ENERGY, max_rank)
    return Search(scale.filtered, scale.template, scale.filters, eigen, rotations, step_deg)


def match_template(
    tomogram, reference, reference_pixel_angst: float, series: TiltSeries, config, rng, report=None, *, mask=None, threads: int = 1,
    to_device=lambda block: block, log=None,
):
    """Find a particle in a dark tomogram -> MatchResult.

    Parameters
    ----------
    tomogram : (z, y, x) of ``series.pixel_size_angst``: a NumPy or CuPy array, or a volume that is read by slices (io.mrc_volume.MrcVolume)
        with ``to_device`` for its blocks. The search runs where the blocks are; the tomogram itself is never in memory.
    reference : (n, n, n) bright, same pixel size. series : the tilts the tomogram was made from.
    config : config.match_template.MatchTemplate. rng : for the eigen-templates.
    report(what, done, total): progress of a phase. log(sentence) : what is said beforehand. mask : (z, y, x) bool or 0/1, search only there.
    threads : on a CPU; the result does not depend on it.

    Raises UserInputError E-PICK-01 (nothing to search), E-PICK-02 (pixel sizes), E-PICK-03 (dark reference), E-PICK-04 (mask).
    """
    _check_reference(reference, reference_pixel_angst, series)
    if config.preset == "eman2":
        whole = to_device(tomogram[:, :, :])
        return _eman2_result(whole, reference, series, config, None if report is None else lambda done, total: report("search", done, total))
    phase = _phases(report)
    pixel, shape = series.pixel_size_angst, tuple(tomogram.shape)
    mask = None if mask is None else given_mask(mask, shape)  # before it is binned, which any size can be
    plan = plan_match(reference, pixel, config)
    searchable = searchable_tomogram(
        tomogram, plan.diameter_angst / pixel, erase_gold=config.erase_gold, to_device=to_device, report=phase("background and gold")
    )
    scoring = scoring_binning(plan.diameter_angst, pixel, plan.step_deg)
    bright = binned_volume(searchable, scoring, phase("voxels of the scores"))
    scored = scale(bright, reference, series, scoring, plan.low_pass_angst, plan, config, threads, phase("filters of the scores"))
    n_searches = 1 if config.background == "none" else 2 + (config.background == "both")
    chosen = choose_effort(scored.template, scored.filters, plan, shape, pixel, scoring, n_searches, rng)
    plan = replace(plan, step_deg=chosen.step_deg)
    if log is not None:
        log(chosen.sentence(n_searches, n_searches * CANDIDATE_FACTOR * config.max_particles, threads))
    rotations = unique_rotations(plan.step_deg, config.symmetry)
    binning = max(scoring, search_binning(plan.step_deg, plan.diameter_angst, pixel))
    searched = scored
    if binning > scoring:
        low_pass = max(plan.low_pass_angst, RESOLUTION_PX * binning * pixel)
        bright = binned_volume(bright, binning / scoring, phase("voxels of the search"))
        searched = scale(bright, reference, series, binning, low_pass, plan, config, threads, phase("filters of the search"))
    gold, mask = gold_in_voxels(searchable, bright.shape, binning), binned_mask(mask, binning, bright.shape)
    where = search_place(asnumpy(bright[:, :, :]), gold, mask, plan, binned_series(series, binning), config)
    search = _search(searched, rotations, plan.step_deg, rng, MAX_RANK)
    use_eigen = config.method != "fft" and not (config.method == "auto" and len(rotations) < 2 * search.eigen.rank)
    if use_eigen:
        search = replace(search, coarse=coarse_grid(search.template, search.eigen, rotations, plan, config))
    fine = _search(scored, rotations, FINE_STEP * plan.step_deg, rng, SCORING_RANK) if binning > scoring else None
    scored_shape = tuple(scored.filtered.matched.shape)
    del scored, searched, bright  # no bright tomogram is needed any more
    similarity = mirror_similarity(fine or search, rng)
    kinds = _controls(config.background, similarity)
    options = {"region": where.region, "allowed": where.allowed, "use_eigen": use_eigen, "threads": threads}
    scales = _Scales(search, fine, binning / scoring, scored_shape, binning * pixel, reference, pixel)
    real = scales.whole(run_pass(search, report=phase("search"), **options), fine, rng)
    controls = {kind: _control(kind, scales, plan, rng, options | {"report": phase(f"search for the control ({kind})")}) for kind in kinds}
    found = choose(real, controls, plan, pixel * scoring, config, threads, phase)
    picks = [replace(pick, position_px=rescaled(pick.position_px, scored_shape, shape, scoring)) for pick in found["picks"]]
    if scoring > 1:
        step = FINE_STEP * plan.step_deg / POSE_FROM
        picks = pose_in_tomogram(searchable, reference, series, picks, step, plan, config, rng, threads, phase("poses in the tomogram"))
    found["hand"]["mirror_similarity"] = similarity
    summary = {
        "n_rotations": len(rotations), **gold_summary(searchable, pixel),
        "step_deg": plan.step_deg, "diameter_angst": plan.diameter_angst, "low_pass_angst": plan.low_pass_angst,
        "min_distance_angst": plan.min_distance_angst, "route": "low_rank" if use_eigen else "fft",
        "search": "exhaustive" if search.coarse is None else "hierarchical", "search_pixel_angst": binning * pixel,
        "scoring_pixel_angst": scoring * pixel, "detection": chosen.detection, "rank": search.eigen.rank,
        "captured_energy": search.eigen.captured, "controls": list(controls), "searched": where.summary,
    } | {name: value for name, value in found.items() if name not in ("picks", "mirrored")}
    particles = picked_particles(picks, found["mirrored"], shape, series, found["score_median"], found["score_sigma"])
    was_searched = real.score > NO_SCORE
    orientation = np.where(was_searched, real.orientation.astype(np.int32), -1)
    return MatchResult(particles, np.where(was_searched, real.score, 0).astype(np.float32), summary, orientation, rotations, binning * pixel)


def _phases(report):
    """phase(name) -> report(done, total) of that phase, or None."""
    return lambda what: None if report is None else lambda done, total: report(what, done, total)


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


def _controls(background: str, similarity: float) -> list[str]:
    """Which controls are searched; a template that looks like its mirror image needs random phases."""
    if background == "auto":
        return ["mirror"] if similarity < ACHIRAL else ["random_phase"]
    return {"none": [], "both": ["mirror", "random_phase"]}.get(background, [background])


@dataclass(frozen=True)
class _Scales:
    """The template's search, where it runs, and that of the scoring's voxels (``shape``) its peaks are refined with: None where they are one.

    binning : of the search relative to the scoring. search_pixel_angst : the search's voxel. reference : of ``pixel_angst``.
    """

    search: Search
    fine: Search | None
    binning: float
    shape: tuple[int, int, int]
    search_pixel_angst: float
    reference: object
    pixel_angst: float

    def whole(self, found: Pass, fine: Search | None, rng) -> Pass:
        """A pass with the search that its peaks are refined with, in the pass's frame."""
        return found if fine is None else with_fine_scale(found, fine, self.binning, self.shape, rng)


def _control(kind: str, scales: _Scales, plan: MatchPlan, rng, options: dict) -> Pass:
    search, fine = scales.search, scales.fine
    if kind == "mirror":
        return scales.whole(mirror_pass(search, **options), fine and mirrored_search(fine), rng)
    # one map of random phases at the voxels of the scoring, binned for the search
    pixel = scales.search_pixel_angst / scales.binning
    smooth = lowpass(binned_map(scales.reference, scales.pixel_angst, pixel / scales.pixel_angst), plan.low_pass_angst, pixel, 3)
    noise = phase_randomised(smooth, 2 * ((fine or search).template.half + 2), rng)
    radius_px = 0.5 * plan.mask_diameter_angst / pixel
    coarse = binned_map(noise, pixel, scales.binning)
    found = random_phase_pass(search, coarse, radius_px / scales.binning, MASK_EDGE_PX, ENERGY, rng, **options)
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
