"""Evaluation of picks, peaks and thresholds."""

import numpy as np
import pandas as pd
import pytest

from cryoet_core.errors import UserInputError
from cryoet_core.geometry import matrix_to_euler, random_rotations, rotation_vector_to_matrix, rotation_z
from cryoet_core.metadata import Particles
from cryoet_core.picking.evaluate import match_picks, match_picks_aligned
from cryoet_core.picking.peaks import (
    local_maxima,
    parabola_offset,
    prune_close,
    search_region,
)


def particles(positions, rotations):
    angles = matrix_to_euler(rotations)
    table = pd.DataFrame({"tomo_name": "TS", "x_angst": positions[:, 0], "y_angst": positions[:, 1],
                          "z_angst": positions[:, 2], "rot_deg": angles[:, 0], "tilt_deg": angles[:, 1],
                          "psi_deg": angles[:, 2]})
    return Particles(table)


def test_precision_recall_and_errors():
    rng = np.random.default_rng(0)
    truth_positions = rng.uniform(-1000, 1000, (50, 3))
    truth_rotations = random_rotations(50, rng)
    truth = particles(truth_positions, truth_rotations)
    turned = rotation_vector_to_matrix(np.array([0, 0, 5.0])) @ truth_rotations[:40]
    wrong = rng.uniform(3000, 4000, (10, 3))
    picks = particles(np.concatenate([truth_positions[:40] + [3.0, 0, 4], wrong]),
                      np.concatenate([turned, random_rotations(10, rng)]))
    result = match_picks(picks, truth, 100.0)
    assert result.precision == pytest.approx(0.8)
    assert result.recall == pytest.approx(0.8)
    np.testing.assert_array_equal(result.pick_index, result.truth_index)
    np.testing.assert_allclose(result.distance_angst, 5.0, atol=1e-6)
    np.testing.assert_allclose(result.angle_deg, 5.0, atol=1e-4)


def test_rigid_motion_is_removed():
    rng = np.random.default_rng(1)
    positions, rotations = rng.uniform(-800, 800, (60, 3)), random_rotations(60, rng)
    turn, shift = rotation_z(2.0), np.array([30.0, -20, 60])
    picks = particles(positions, rotations)
    truth = particles(positions @ turn.T + shift, turn @ rotations)
    evaluation, found, moved = match_picks_aligned(picks, truth, 60.0)
    assert evaluation.recall == 1.0
    assert evaluation.median_angle_deg < 1e-3
    np.testing.assert_allclose(found, turn, atol=1e-6)
    np.testing.assert_allclose(moved, shift, atol=1e-3)


def test_two_picks_on_one_particle_count_once():
    truth = particles(np.zeros((1, 3)), np.eye(3)[None])
    picks = particles(np.array([[5.0, 0, 0], [9.0, 0, 0]]), np.stack([np.eye(3)] * 2))
    assert match_picks(picks, truth, 50.0).precision == 0.5


def test_peaks():
    score = np.zeros((20, 30, 30), dtype=np.float32)
    score[10, 10, 10], score[10, 10, 12], score[5, 20, 20] = 5.0, 4.0, 3.0
    found = local_maxima(score, 3, 1.0)
    np.testing.assert_array_equal(found, [[10, 10, 10], [5, 20, 20]])
    np.testing.assert_array_equal(prune_close(np.array([[0, 0, 0], [3, 0, 0], [9.0, 0, 0]]), [1, 2, 1.5], 5), [1, 2])
    values = [-((step - 0.3) ** 2) for step in (-1, 0, 1)]
    assert parabola_offset(*values) == pytest.approx(0.3)
    region = search_region((20, 30, 40), 2.0, slab_px=6)
    assert region == (slice(7, 14), slice(2, 28), slice(2, 38))
    with pytest.raises(UserInputError, match="E-PICK-01"):
        search_region((20, 30, 40), 16.0)
