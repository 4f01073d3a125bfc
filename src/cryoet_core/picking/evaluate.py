"""Picks against a known truth: which are right, and how far their positions and orientations are off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cryoet_core.geometry import angular_distance_deg


@dataclass(frozen=True)
class PickEvaluation:
    """Precision = right picks / picks, recall = right picks / true particles, errors of the right picks.

    pick_index, truth_index (k,): the pairs. distance_angst, angle_deg (k,): their errors.
    """

    precision: float
    recall: float
    pick_index: np.ndarray
    truth_index: np.ndarray
    distance_angst: np.ndarray
    angle_deg: np.ndarray

    @property
    def median_distance_angst(self) -> float:
        return float(np.median(self.distance_angst)) if len(self.distance_angst) else float("nan")

    @property
    def median_angle_deg(self) -> float:
        return float(np.median(self.angle_deg)) if len(self.angle_deg) else float("nan")


def rigid_motion(positions_angst, targets_angst):
    """Rotation R (3, 3) and shift t (3,) with targets = R positions + t in the least-squares sense (Kabsch 1976)."""
    a, b = np.asarray(positions_angst, float), np.asarray(targets_angst, float)
    u, _, vt = np.linalg.svd((b - b.mean(0)).T @ (a - a.mean(0)))
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return rotation, b.mean(0) - rotation @ a.mean(0)


def _pairs(positions, truth, max_distance):
    """One-to-one pairs closer than ``max_distance`` with the smallest sum of distances."""
    distance = cdist(positions, truth)
    cost = np.where(distance <= max_distance, distance, 10 * max_distance)
    picks, truths = linear_sum_assignment(cost)
    near = distance[picks, truths] <= max_distance
    return picks[near], truths[near], distance[picks, truths][near]


def match_picks(particles, truth, max_distance_angst: float, *, rotation=None, shift_angst=None, symmetry=None):
    """Compare picks with true particles of the same tomogram (both ``Particles``) -> PickEvaluation.

    rotation (3, 3), shift_angst (3,) : rigid difference between the frames (truth = rotation . pick + shift), as an
        alignment may leave one free; None for none.
    symmetry : (n, 3, 3) operators of the reference's point group.
    """
    rotation = np.eye(3) if rotation is None else np.asarray(rotation)
    shift = np.zeros(3) if shift_angst is None else np.asarray(shift_angst)
    if len(particles) == 0 or len(truth) == 0:
        empty = np.empty(0)
        return PickEvaluation(0.0, 0.0, empty.astype(np.int64), empty.astype(np.int64), empty, empty)
    positions = particles.positions_angst @ rotation.T + shift
    picks, truths, distance = _pairs(positions, truth.positions_angst, max_distance_angst)
    angle = angular_distance_deg(rotation @ particles.rotations[picks], truth.rotations[truths], symmetry)
    return PickEvaluation(len(picks) / len(particles), len(picks) / len(truth), picks, truths, distance, angle)


def match_picks_aligned(particles, truth, max_distance_angst: float, *, symmetry=None, rounds: int = 3):
    """:func:`match_picks` after removing the rigid motion between the two frames, found from the picks themselves.

    Pairs are first made with twice the distance, then with the distance itself. Returns (evaluation, rotation, shift).
    """
    rotation, shift = np.eye(3), np.zeros(3)
    for round_ in range(rounds):
        reach = max_distance_angst * (2 if round_ == 0 else 1)
        found = match_picks(particles, truth, reach, rotation=rotation, shift_angst=shift)
        if len(found.pick_index) < 4:
            break
        rotation, shift = rigid_motion(
            particles.positions_angst[found.pick_index], truth.positions_angst[found.truth_index]
        )
    return (
        match_picks(particles, truth, max_distance_angst, rotation=rotation, shift_angst=shift, symmetry=symmetry),
        rotation, shift,
    )
