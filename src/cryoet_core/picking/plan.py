"""What a search will be before it runs: lengths, the angular step, the voxels of search and scoring, work, time and memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import frequency_grid, half_complex_multiplicity
from cryoet_core.geometry import random_rotations
from cryoet_core.picking.binned import RESOLUTION_PX, STEP_PER_RESOLUTION, quarters, search_binning
from cryoet_core.picking.reference import particle_diameter_angst
from cryoet_core.picking.scores import COARSE_SHARE, FINE_SHARE, SAMPLE_EVERY
from cryoet_core.picking.template import embed, rotated_rows

MASK_MARGIN = 1.1  # of the particle's radius
SCORING_DIAMETER_PX = 23.0  # of the particle where the peaks are scored: finer voxels tell true from false no better and cost their cube
STEPS_DEG = (15.0, 13.5, 12.0, 10.5, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0)  # that are tried, until one shows enough
DETECTION = 0.5  # share of the signal to noise of all scored detail that the search keeps, at least
MOST_WORK = 1e14  # floating point operations of an automatic search: an hour of one core
RANK_PER_VOXEL = 0.06  # eigen-templates per cubed diameter in voxels
# of one CPU core, only for the time that is told beforehand (measured: docs/validation/matching_cost.md): operations of a search in a second,
# seconds to score one peak per voxel of a cube of the particle's diameter, and seconds per voxel of the tomogram for all that is done to it before
FLOPS_PER_S, PEAK_S, VOXEL_S = 2.5e10, 1.8e-5, 6e-7


@dataclass(frozen=True)
class MatchPlan:
    """Lengths and steps of a search, all automatic values decided; step_deg None = not yet."""

    diameter_angst: float
    low_pass_angst: float
    step_deg: float | None
    min_distance_angst: float
    margin_angst: float

    @property
    def mask_diameter_angst(self) -> float:
        return MASK_MARGIN * self.diameter_angst


def plan_match(reference, pixel_size_angst: float, config) -> MatchPlan:
    """Fill in what the config leaves automatic, but the angular step; see config/match_template.py."""
    diameter = config.particle_diameter_angst or particle_diameter_angst(asnumpy(reference), pixel_size_angst)
    distance = config.min_distance_angst
    if distance is None or distance < 0:
        distance = 0.5 * diameter
    margin = 0.25 * diameter if config.edge_margin_angst is None else config.edge_margin_angst
    pixel = pixel_size_angst * scoring_binning(diameter, pixel_size_angst, config.angular_step_deg)
    low_pass = max(config.low_pass_angst or RESOLUTION_PX * pixel, 2 * pixel)
    return MatchPlan(float(diameter), float(low_pass), config.angular_step_deg, float(distance), float(margin))


def scoring_binning(diameter_angst: float, pixel_size_angst: float, step_deg: float | None) -> float:
    """By how much the tomogram is binned where peaks are scored; no more than where they are searched."""
    binning = quarters(diameter_angst / pixel_size_angst / SCORING_DIAMETER_PX)
    return binning if step_deg is None else min(binning, search_binning(step_deg, diameter_angst, pixel_size_angst))


@dataclass(frozen=True)
class Effort:
    """What a search at ``step_deg`` in ``n_voxels`` of ``pixel_size_angst`` takes: ``work`` in floating point operations.

    n_peak : voxels of a cube of the particle's diameter where peaks are scored.
    """

    step_deg: float
    pixel_size_angst: float
    n_tomogram: int
    n_voxels: int
    n_rotations: int
    n_peak: float
    detection: float
    work: float

    def cpu_seconds(self, n_peaks: int) -> float:
        """Expected time on one core, with ``n_peaks`` scored."""
        return self.work / FLOPS_PER_S + n_peaks * self.n_peak * PEAK_S + self.n_tomogram * VOXEL_S

    def sentence(self, n_searches: int, n_peaks: int, threads: int) -> str:
        """What the log says beforehand."""
        seconds = self.cpu_seconds(n_peaks) / max(threads, 1)
        return (
            f"search: {self.n_rotations} orientations {self.step_deg:.1f} degrees apart, {self.n_voxels / 1e6:.1f} million voxels of "
            f"{self.pixel_size_angst:.1f} A, {n_searches} times (template and control); it sees {100 * self.detection:.0f} % of the signal to noise "
            f"of the detail that peaks are scored with; up to {max(seconds / 60, 0.1):.1f} minutes on {threads} threads"
        )


def effort(step_deg: float, plan: MatchPlan, shape, pixel_size_angst: float, detection: float, n_searches: int) -> Effort:
    """Voxels, orientations and work of a hierarchical search of a tomogram ``shape`` of ``pixel_size_angst``."""
    binning = search_binning(step_deg, plan.diameter_angst, pixel_size_angst)
    n_voxels = int(np.prod(shape) / binning**3)
    n_rotations = int(8 * np.pi**2 / np.deg2rad(step_deg) ** 3)
    rank = RANK_PER_VOXEL * (plan.diameter_angst / (binning * pixel_size_angst)) ** 3
    n_peak = (plan.diameter_angst / (scoring_binning(plan.diameter_angst, pixel_size_angst, step_deg) * pixel_size_angst)) ** 3
    scored = n_rotations * (COARSE_SHARE + FINE_SHARE + 1 / SAMPLE_EVERY)
    work = 2 * rank * scored * n_voxels * n_searches
    return Effort(step_deg, binning * pixel_size_angst, int(np.prod(shape)), n_voxels, n_rotations, n_peak, detection, work)


def choose_effort(template, filters, plan: MatchPlan, shape, pixel_size_angst: float, scoring: float, n_searches: int, rng) -> Effort:
    """The coarsest step that still sees enough of the particle, or the finest that MOST_WORK pays for; the given one where it is given.

    template, filters : where peaks are scored, in voxels of ``scoring`` times the tomogram's. What a step sees follows from the detail it
    resolves: the share of the template's expected signal to noise (whitened, with CTF, dose and missing wedge) below that frequency.
    """
    frequency, energy = detectable(template, filters, pixel_size_angst * scoring, rng)

    def of(step):
        resolved = 1 / max(np.deg2rad(step) * plan.diameter_angst / STEP_PER_RESOLUTION, plan.low_pass_angst)
        detection = float(np.sqrt(np.interp(resolved, frequency, energy)))
        return effort(step, plan, shape, pixel_size_angst, detection, n_searches)

    if plan.step_deg is not None:
        return of(plan.step_deg)
    chosen = of(STEPS_DEG[0])
    for step in STEPS_DEG[1:]:
        finer = of(step)
        if chosen.detection >= DETECTION or finer.work > MOST_WORK:
            break
        chosen = finer
    return chosen


def detectable(template, filters, pixel_size_angst: float, rng, n: int = 12):
    """(frequencies (1/A), share (0..1) of the energy of the expected template below them), mean over ``n`` random orientations."""
    rows = rotated_rows(template, random_rotations(n, rng))
    xp, box = array_namespace(rows), filters.box
    spectrum = fft_module(xp).rfftn(embed(rows, template, box), axes=(1, 2, 3))
    weight = filters.expect**2 * half_complex_multiplicity((box,) * 3, xp)
    energy = asnumpy(((spectrum.real**2 + spectrum.imag**2) * weight).sum(axis=0, dtype=xp.float64))
    k = np.sqrt(sum(g * g for g in frequency_grid((box,) * 3, pixel_size_angst)))
    shell = np.minimum(np.rint(k * box * pixel_size_angst).astype(int), box // 2)
    cumulative = np.bincount(shell.ravel(), energy.ravel(), box // 2 + 1).cumsum()
    return (np.arange(box // 2 + 1) + 0.5) / (box * pixel_size_angst), cumulative / max(cumulative[-1], 1e-30)
