"""What a search costs follows the diameter and the step without a cliff, and the automatic step sees enough."""

from types import SimpleNamespace

import numpy as np
import pytest
from matching_scene import PIXEL, setup

from cryoet_core.picking.plan import STEPS_DEG, MatchPlan, choose_effort, detectable, effort, scoring_binning


def cost(diameter, step, pixel, shape=(350, 1024, 1024)):
    return effort(step, MatchPlan(diameter, 0.0, step, diameter / 2, diameter / 4), shape, pixel, 1.0, 2)


def test_a_somewhat_larger_particle_does_not_cost_many_times_as_much():
    small, large = (cost(diameter, 12.0, 12.0).cpu_seconds(800) for diameter in (276.0, 313.0))
    assert 0.5 < large / small < 2  # more than 5 when the larger one fell to one FFT per orientation
    for pixel in (7.64, 12.0):
        for step in (7.0, 12.0, 15.0):
            work = np.array([cost(diameter, step, pixel).work for diameter in np.arange(120.0, 600.0, 5.0)])
            ratio = work[1:] / work[:-1]
            assert 0.2 < ratio.min() and ratio.max() < 1.2  # voxels change in quarters: (4/5)^6 at the finest


def test_a_finer_step_costs_more():
    for diameter in (150.0, 266.0, 400.0):
        work = [cost(diameter, step, 7.64).work for step in STEPS_DEG]
        assert (np.diff(work) > 0).all()


def test_peaks_are_never_scored_in_coarser_voxels_than_they_are_searched_in():
    for diameter in (100.0, 266.0, 600.0):
        for step in (3.0, 7.0, 15.0):
            assert scoring_binning(diameter, 7.64, step) <= cost(diameter, step, 7.64).pixel_size_angst / 7.64 + 1e-9


@pytest.mark.parametrize("given", [None, 9.0])
def test_the_automatic_step_is_the_coarsest_that_sees_enough(scene, given):
    tomogram, series, *_ = scene
    template, filters, _ = setup(tomogram, series)
    frequency, share = detectable(template, filters, PIXEL, np.random.default_rng(0))
    assert (np.diff(share) >= 0).all() and share[-1] == pytest.approx(1)
    plan = MatchPlan(250.0, 48.0, given, 125.0, 60.0)
    arguments = (template, filters, plan, tomogram.shape, PIXEL, 1.0, 2, np.random.default_rng(0))
    chosen = choose_effort(*arguments)
    if given is not None:
        assert chosen.step_deg == given
        return
    finer = SimpleNamespace(step_deg=STEPS_DEG[min(STEPS_DEG.index(chosen.step_deg) + 1, len(STEPS_DEG) - 1)])
    assert chosen.detection >= 0.5 or finer.step_deg == chosen.step_deg
    coarser = [step for step in STEPS_DEG if step > chosen.step_deg]
    for step in coarser:
        resolved = 1 / (np.deg2rad(step) * 250.0 / 1.3)
        assert np.sqrt(np.interp(resolved, frequency, share)) < 0.5
