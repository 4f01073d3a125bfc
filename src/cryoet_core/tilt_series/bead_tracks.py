"""Gold beads as landmarks: which spots of the views are one and the same bead, and what they say about shifts and tilt axis.

An alignment that is good to less than a bead's radius is known. A spot of a little tilted view lies somewhere on its ray; of all depths
along it, the one that has spots in most of the other views is its bead's. Spots are taken once. What is wrong nevertheless is left to the
robust weights of the bundle adjustment (bundle.py). Beads are few and heavy: a point pattern, not the random density that slab_model.py assumes
of the specimen. Their positions say more about shifts and axis than their power in whole views does, and say it without a model of where matter enters the field.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from cryoet_core.tilt_series.angles import badness_at
from cryoet_core.tilt_series.bundle import (
    ACCEPT_SIGMA,
    MIN_PATCHES,
    Bundle,
    BundleModel,
    held_out_residuals,
    improvement,
    solve_bundle,
)
from cryoet_core.tilt_series.patches import PatchTracks
from cryoet_core.tilt_series.plane import PlaneViews, in_plane
from cryoet_core.tilt_series.refine_alignment import Band, spectra_in_band

MIN_SHARE = 0.6  # of the views whose field holds a bead must show it
ROUNDS = 2  # of tracking and adjustment: the first may take a neighbour for a bead
CLEARANCE = 4.0  # radii: what the fit of a bead may see of its neighbour
MIN_SEEN = 5  # views in which a bead stands alone
N_REFERENCES = 5  # least tilted views whose spots are followed: a spot missed in one is there in another


def follow_beads(spots_angst, geometry, field_angst, reach_angst: float, radius_angst: float, references: int = N_REFERENCES, least: int = 3):
    """Which spots of the views are one and the same body.

    Parameters
    ----------
    spots_angst : n arrays (m, 2), x, y from each view's centre. geometry : of these views, good to less than ``radius_angst``. field_angst : (x, y) size of
    the views. reach_angst : largest distance from the plane Z = 0. references : so many of the least tilted views are started from. least : views that show a body.

    Returns
    -------
    points (b, 3), A, and the spots that show them: (k, 4) bead, view, x, y.
    """
    trees = [cKDTree(s) if len(s) else None for s in spots_angst]
    free = [np.ones(len(s), bool) for s in spots_angst]
    depths = np.arange(-reach_angst, reach_angst + radius_angst / 2, radius_angst / 2)
    points, rows = [], []
    for view in np.argsort(np.abs(geometry.y_tilt_deg))[:references]:
        for k in range(len(spots_angst[view])):
            if not free[view][k]:
                continue
            ray = _ray(geometry, view, spots_angst[view][k], depths)
            nearest, _ = _nearest(geometry, ray, trees, free, radius_angst)
            point = ray[np.argmax((nearest >= 0).sum(axis=0))]
            for _ in range(3):
                nearest, inside = _nearest(geometry, point[None], trees, free, radius_angst, field_angst)
                seen = np.flatnonzero(nearest[:, 0] >= 0)
                if len(seen) < max(least, MIN_SHARE * inside.sum()):
                    break
                point = intersection(geometry, seen, np.array([spots_angst[i][nearest[i, 0]] for i in seen]))
            else:
                for i in seen:
                    free[i][nearest[i, 0]] = False
                    rows.append((len(points), i, *spots_angst[i][nearest[i, 0]]))
                points.append(point)
    return np.array(points).reshape(-1, 3), np.array(rows).reshape(-1, 4)


def track_beads(spots_angst, geometry, field_angst, pixel_size_angst: float, reach_angst: float, radius_angst: float) -> PatchTracks:
    """:func:`follow_beads` as tracks, of beads that stand alone in enough views.

    Parameters
    ----------
    pixel_size_angst : of the raw views, the unit of the tracks.

    Returns
    -------
    PatchTracks with one "patch" per bead, weights 1, ``points_angst`` with the depths found.
    """
    points, table = follow_beads(spots_angst, geometry, field_angst, reach_angst, radius_angst)
    table = table[_apart(table, spots_angst, points, geometry, CLEARANCE * radius_angst)]
    often = np.flatnonzero(np.bincount(table[:, 0].astype(np.int64), minlength=len(points)) >= MIN_SEEN)
    table = table[np.isin(table[:, 0], often)]
    bead, view, spot = np.searchsorted(often, table[:, 0]), table[:, 1].astype(np.int64), table[:, 2:]
    return PatchTracks(bead, view, spot / pixel_size_angst, np.ones(len(table)), points[often])


def _apart(table, spots_angst, points, geometry, clearance_angst):
    """(m,) bool: observations with no second spot and no second bead nearby, which would pull the darkest place towards it."""
    if not len(points):
        return np.zeros(0, bool)
    landing = geometry.project(points)[0]
    alone = []
    for bead, view, *spot in table:
        others = np.concatenate([spots_angst[int(view)], np.delete(landing[int(view)], int(bead), axis=0)])
        distance = np.linalg.norm(others - spot, axis=1)
        alone.append((distance < clearance_angst).sum() == 1)  # itself
    return np.array(alone)


def _ray(geometry, view, spot, depths):
    """(k, 3) specimen points at ``depths`` that are seen at ``spot`` in a view."""
    plane, along = in_plane(geometry)[view], geometry.rotation[view, :2, 2]
    xy = np.linalg.solve(plane, (spot - geometry.shift_angst[view])[:, None] - along[:, None] * depths)
    return np.column_stack([xy.T, depths])


def _nearest(geometry, points, trees, free, radius_angst, field_angst=(np.inf, np.inf)):
    """(n, k) number of the free spot nearest to where each point lands, -1 if none within the radius; (n, k) bool inside the field."""
    landing = geometry.project(points)[0]
    nearest = np.full(landing.shape[:2], -1)
    for i, tree in enumerate(trees):
        if tree is not None:
            distance, index = tree.query(landing[i], distance_upper_bound=radius_angst)
            hit = np.isfinite(distance)
            hit[hit] = free[i][index[hit]]
            nearest[i, hit] = index[hit]
    return nearest, np.all(np.abs(landing) < 0.5 * np.asarray(field_angst) - radius_angst, axis=2)


def intersection(geometry, views, spots):
    """(3,) the point nearest to the rays of ``spots`` (m, 2) in ``views``."""
    axes = geometry.rotation[views, :2]
    return np.linalg.lstsq(axes.reshape(-1, 3), (spots - geometry.shift_angst[views]).ravel(), rcond=None)[0]


def adjust_to_beads(spots_angst, plain: PlaneViews, geometry, band: Band, pixel_size_angst: float, thickness_angst: float, radius_angst: float,
                    refine_axis: bool = True) -> tuple[Bundle | None, dict]:  # fmt: skip
    """Shifts and axis from beads, if both judges agree: beads that were held out, and the specimen.

    Parameters
    ----------
    spots_angst, geometry, radius_angst : see :func:`track_beads`. plain : the same views without their beads, which took no part in the adjustment but in ``geometry``, whose
    shifts follow their noise: in the true geometry badness is higher by chi-square of as many degrees as there are shifts, and not by much more in the new one (in ``band``). pixel_size_angst : of the raw views.

    Returns
    -------
    The adjustment, None when it is not to be taken, and what was found: numbers of beads, residuals in raw pixels, change of badness.
    """
    field = np.array(plain.coefficients.shape[:0:-1]) * plain.pixel_size_angst
    model = BundleModel(axis_order=0 if refine_axis else None, offset=False, slab_sigma_angst=thickness_angst / 4, level=False)
    found, current = None, geometry
    for _ in range(ROUNDS):
        tracks = track_beads(spots_angst, current, field, pixel_size_angst, thickness_angst, radius_angst)
        if len(tracks.points_angst) < MIN_PATCHES:
            return None, {"n_beads": len(tracks.points_angst), "accepted": False}
        found = solve_bundle(tracks, geometry, pixel_size_angst, model)
        current = found.geometry
    fixed = replace(model, shifts=False, axis_order=None)
    before, after = (held_out_residuals(tracks, geometry, pixel_size_angst, m) for m in (fixed, model))
    prior = spectra_in_band(plain, geometry, band, thickness_angst)[1]
    worse = badness_at(plain, current, geometry, band, prior) - badness_at(plain, geometry, geometry, band, prior)
    better, free = improvement(before, after), 2 * len(geometry)
    accepted = better > ACCEPT_SIGMA and worse < free + ACCEPT_SIGMA * np.sqrt(2 * free)
    report = {
        "n_beads": len(tracks.points_angst), "residual_px": float(np.median(found.residual_px)), "outlier_share": found.outlier_share,
        "held_out_before_px": float(np.nanmedian(before)), "held_out_after_px": float(np.nanmedian(after)), "improvement_sigma": better,
        "specimen_badness_change": worse, "accepted": bool(accepted),
    }  # fmt: skip
    return found if accepted else None, report
