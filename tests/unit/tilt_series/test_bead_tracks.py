"""Beads as landmarks against truth: their places in the views are written out here."""

import numpy as np
import pytest
from synthetic_series import blob_series, view_axes

from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series.bead_tracks import adjust_to_beads, track_beads
from cryoet_core.tilt_series.evaluate import geometry_error, specimen_grid
from cryoet_core.tilt_series.plane import prepare_views
from cryoet_core.tilt_series.refine_alignment import Band

PIXEL, RADIUS = 7.0, 50.0
TILTS = np.arange(-60, 61, 3.0)
FIELD = (2400.0, 2300.0)


def spots_of_beads(rng, n=20, noise_angst=2.0, missed=0.1, false=3, axis=86.0):
    """Spots in every view, the beads (n, 3), the true geometry, and one wrong by 8 A and 0.15 deg."""
    beads = rng.uniform(-1, 1, (n, 3)) * [1100, 1100, 300]
    shifts = rng.normal(0, 60, (TILTS.size, 2))
    seen = np.einsum("nij,pj->npi", view_axes(TILTS, axis), beads) + shifts[:, None]
    seen += rng.normal(0, noise_angst, seen.shape)
    spots = []
    for view in seen:
        held = np.all(np.abs(view) < 0.5 * np.array(FIELD), axis=1) & (rng.random(n) > missed)
        spots.append(rng.permutation(np.concatenate([view[held], rng.uniform(-1100, 1100, (false, 2))])))
    truth = TiltGeometry(0.0, TILTS, axis, shifts[:, 0], shifts[:, 1])
    wrong = shifts + rng.normal(0, 6, shifts.shape)
    return spots, beads, truth, TiltGeometry(0.0, TILTS, axis - 0.15, wrong[:, 0], wrong[:, 1])


def test_a_track_is_one_bead():
    spots, beads, truth, start = spots_of_beads(np.random.default_rng(1))
    tracks = track_beads(spots, start, FIELD, PIXEL, 400.0, RADIUS)
    landing = truth.project(beads)[0][tracks.view]  # (m, beads, 2)
    nearest = np.linalg.norm(landing - PIXEL * tracks.xy_px[:, None], axis=2).argmin(axis=1)
    assert len(tracks.points_angst) >= 18
    bead_of_track = [np.bincount(nearest[tracks.patch == k]).argmax() for k in range(len(tracks.points_angst))]
    assert len(set(bead_of_track)) == len(bead_of_track)
    assert np.mean(nearest == np.array(bead_of_track)[tracks.patch]) > 0.97
    assert np.median(np.abs(tracks.points_angst - beads[bead_of_track])) < 6


def test_no_spots_no_tracks():
    _, _, truth, _ = spots_of_beads(np.random.default_rng(1))
    tracks = track_beads([np.zeros((0, 2))] * len(truth), truth, FIELD, PIXEL, 400.0, RADIUS)
    assert tracks.points_angst.shape == (0, 3) and len(tracks.view) == 0


@pytest.fixture(scope="module")
def specimen():
    """Prepared views of blobs without beads, and their true geometry."""
    tilts = np.arange(-60, 61, 6.0)
    images, tilts, shifts = blob_series(np.random.default_rng(2), shape=(120, 128), tilts=tilts, n_blobs=900, noise=1.0, offset=0.0)
    return prepare_views(images - images.mean(), 14.0, 86.0), TiltGeometry(0.0, tilts, 86.0, shifts[:, 0], shifts[:, 1])


def adjusted(views, start, beads_follow, rng):
    """Beads that follow one geometry, the alignment so far another."""
    beads = rng.uniform(-1, 1, (12, 3)) * [800, 800, 250]
    spots = [s + rng.normal(0, 1.5, s.shape) for s in beads_follow.project(beads)[0]]
    return adjust_to_beads(spots, views, start, Band(600.0, 50.0), 14.0, 600.0, RADIUS)


def test_beads_settle_shifts_and_axis(specimen):
    views, truth = specimen
    rng = np.random.default_rng(3)
    wrong = truth.shift_angst + rng.normal(0, 6, (len(truth), 2))
    start = truth.replace(x_shift_angst=wrong[:, 0], y_shift_angst=wrong[:, 1], z_rot_deg=truth.z_rot_deg - 0.15)
    found, report = adjusted(views, start, truth, rng)
    before, after = (geometry_error(g, truth, specimen_grid((600, 600, 300))) for g in (start, found.geometry))
    assert report["accepted"]
    assert after.rms_angst < 1.5 < 6 < before.rms_angst
    assert abs(after.axis_deg) < 0.05
    assert abs(after.translation_angst[2]) < 10  # in the plane it is recentred; in height it stays


def test_beads_that_contradict_the_specimen_are_not_followed(specimen):
    """Beads on a support that drifts by 25 A in another way agree among themselves, and not with what the specimen shows."""
    views, truth = specimen
    drift = 25 * np.sin(np.arange(len(truth)) / 2)
    found, report = adjusted(views, truth, truth.replace(y_shift_angst=truth.y_shift_angst + drift), np.random.default_rng(3))
    assert found is None and not report["accepted"]
    assert report["improvement_sigma"] > 3  # the beads alone would have said yes
