"""Gold beads of a tilt series: whether there are any, how large they are, and where they lie in the specimen and in
every view.

One view alone does not decide. Round spots as dark as gold (gold_spots.py) must share a diameter over the views,
which those of protein and ice do not, and in the aligned series they must be the same bodies from view to view. A
bead known in three dimensions has its place in every view, also where it does not stand out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cryoet_core.tilt_series.bead_tracks import MIN_SEEN, N_REFERENCES, follow_beads, intersection
from cryoet_core.tilt_series.gold_spots import LEAST_ANGST, STEP_OF_SIZES, Beam, Spots, find_spots

# of a spot that overlaps another or is faint, where there is gold
LOOSE_DARKNESS, LOOSE_MISFIT, LOOSE_SNR = 0.55, 1.0, 3.0
# diameters of one kind differ by less than the first; few beads differ by more than that and less than the second
SAME, ASIDE = 0.10, 0.25
# times as many spots within SAME as aside (two and a half times as many per diameter), and so clearly
CROWDED, CROWDED_SIGMA = 1.7, 3.0
KIND = 0.25  # a spot whose diameter differs by less belongs to a kind
# of the views show a kind; a further kind has such a share of the beads of the first
VIEWS_SHARE, BEADS_SHARE = 0.5, 0.1
REACH_ANGST = 2500.0  # from the plane Z = 0 within which beads are looked for
LEAST_RADIUS_ANGST = 40.0  # within which a spot is taken for a bead: an alignment's error
LONE_DARKNESS, LONE_MISFIT = 0.9, 0.2  # of a spot that no other view confirms
LONE, CLEAR, FAINT, ANSWER = 0, 1, 2, 3  # how much a spot looks like a bead, most first


@dataclass(frozen=True)
class Survey:
    """What the views of a series show, before alignment. views : Spots of each. diameters_angst : (k,) kinds of
    beads, most frequent first; empty without gold."""

    views: list[Spots]
    diameters_angst: np.ndarray

    @property
    def radius_angst(self) -> float:
        """Within which a spot is taken for a bead, of the smallest kind; nan without gold."""
        return float(_radius(self.diameters_angst.min(initial=np.inf))) if self.diameters_angst.size else np.nan

    def select(self, which) -> Survey:
        """Of some of the views (boolean mask); the diameters stay."""
        return Survey([view for view, wanted in zip(self.views, which, strict=True) if wanted], self.diameters_angst)

    def beads(self) -> list[np.ndarray]:
        """(m, 3) x, y (A from the view's centre) and diameter of the clear beads of every view."""
        return [spots[spots[:, 3] <= CLEAR, :3] for spots in self.candidates()]

    def candidates(self) -> list[np.ndarray]:
        """(m, 4) x, y, diameter and LONE, CLEAR, FAINT or ANSWER of everything in every view that may be a bead where
        there are some."""
        return [_candidates(view, self.diameters_angst) for view in self.views]


@dataclass(frozen=True)
class Gold:
    """Beads of an aligned series: b of them, and their m places in the views.

    diameters_angst : (k,) kinds of beads, empty without gold. position_angst : (b, 3) x, y, z in the tomogram.
    bead_diameter_angst : (b,). n_views : (b,) that show the bead. tilt_id, bead : (m,) int64, the number of the bead
    or -1 for one that only this view shows. xy_angst : (m, 2) from the view's centre.
    diameter_angst : (m,). seen : (m,) bool, false where the place is known from the other views.
    """

    diameters_angst: np.ndarray
    position_angst: np.ndarray
    bead_diameter_angst: np.ndarray
    n_views: np.ndarray
    tilt_id: np.ndarray
    bead: np.ndarray
    xy_angst: np.ndarray
    diameter_angst: np.ndarray
    seen: np.ndarray

    def in_view(self, tilt_id: int):
        """(k, 2) places, A from the view's centre, and (k,) diameters of the beads of one view."""
        here = self.tilt_id == tilt_id
        return self.xy_angst[here], self.diameter_angst[here]

    def positions_in(self, geometry, tilt_ids):
        """(b, 3) positions, A, in the frame of another TiltGeometry of the views ``tilt_ids``: a tomogram that was
        moved or levelled since."""
        row_of = {int(tilt_id): row for row, tilt_id in enumerate(tilt_ids)}
        known = np.array([int(t) in row_of for t in self.tilt_id], bool)
        rows = np.array([row_of.get(int(t), -1) for t in self.tilt_id], np.int64)
        return np.array(
            [
                intersection(geometry, rows[here], self.xy_angst[here])
                for here in (known & (self.bead == b) for b in range(len(self.position_angst)))
            ]
        ).reshape(-1, 3)


def no_gold() -> Gold:
    """What there is to say about a series without beads."""
    none, whole = np.zeros(0), np.zeros(0, np.int64)
    return Gold(none, np.zeros((0, 3)), none, whole, whole, whole, np.zeros((0, 2)), none, none.astype(bool))


def series_beams(series) -> list[Beam]:
    """How the views of a TiltSeries were taken, as far as its table knows."""

    def column(name):
        return series.tilts[name].to_numpy(np.float64) if name in series.tilts else np.zeros(len(series))

    defocus = 0.5 * (column("defocus_u_angst") + column("defocus_v_angst"))
    known = (
        (dose if dose > 0 else None, z if np.isfinite(z) and z else None)
        for dose, z in zip(column("exposure_e_per_a2"), defocus, strict=True)
    )
    return [Beam(dose, z, series.optics) for dose, z in known]


def survey_views(images, pixel_size_angst: float, beams: list[Beam]) -> Survey:
    """Look for beads in every view of an iterable of (h, w), one at a time."""
    views = [find_spots(image, pixel_size_angst, beam) for image, beam in zip(images, beams, strict=True)]
    return Survey(views, bead_diameters(views))


def bead_diameters(views: list[Spots]) -> np.ndarray:
    """(k,) diameters, A, that spots as dark as gold crowd at in at least half of the views; empty when they do not
    crowd.

    The spots of protein, ice and carbon that are dark enough spread over all diameters.
    """
    per_view = [view.diameter_angst[view.dark_and_round] for view in views]
    number = np.repeat(np.arange(len(views)), [len(d) for d in per_view])
    size = np.log(np.concatenate([np.zeros(0), *per_view]))
    found, least = [], 0.0
    while len(size):
        apart = np.abs(size[:, None] - size[None])  # of any two spots
        near, aside = apart < SAME, (apart >= SAME) & (apart < ASIDE)
        in_views, count, aside = (
            np.array([np.unique(number[row]).size for row in near]),
            near.sum(axis=1),
            aside.sum(axis=1),
        )
        width = SAME / (ASIDE - SAME)
        crowd = (count >= CROWDED * aside) & (
            count - width * aside >= CROWDED_SIGMA * np.sqrt(count + width**2 * aside)
        )
        kind = crowd & (in_views >= VIEWS_SHARE * len(views)) & (count >= least) & (size > np.log(LEAST_ANGST))
        if not kind.any():
            break
        best = int(np.argmax(np.where(kind, count, 0)))
        found.append(float(np.exp(np.median(size[near[best]]))))
        least = max(least, BEADS_SHARE * count[best])
        rest = apart[best] >= ASIDE
        size, number = size[rest], number[rest]
    return np.array(found)


def _kind(diameter_angst, diameters_angst, tolerance=KIND):
    """(m,) number of the nearest kind, -1 when none is near enough."""
    if not len(diameters_angst) or not len(diameter_angst):
        return np.full(len(diameter_angst), -1)
    apart = np.abs(np.log(np.asarray(diameter_angst)[:, None] / diameters_angst))
    return np.where(apart.min(axis=1) < tolerance, apart.argmin(axis=1), -1)


def _candidates(view: Spots, diameters_angst):
    fitted = np.column_stack([view.xy_angst, view.diameter_angst])
    own = _kind(view.diameter_angst, diameters_angst) >= 0
    clear = own & view.like_gold
    certain = (
        clear
        & (view.darkness > LONE_DARKNESS)
        & (view.misfit < LONE_MISFIT)
        & (_kind(view.diameter_angst, diameters_angst, SAME) >= 0)
    )
    faint = own & ~clear & (view.darkness > LOOSE_DARKNESS) & (view.misfit < LOOSE_MISFIT) & (view.snr > LOOSE_SNR)
    searched = _kind(view.seeds[:, 2], diameters_angst, 0.5 * np.log(STEP_OF_SIZES) + 1e-9)
    answer = searched >= 0
    answers = np.column_stack([view.seeds[answer, :2], np.take(diameters_angst, searched[answer])])
    ranked = [
        np.column_stack([rows, np.full(len(rows), rank)])
        for rank, rows in enumerate((fitted[certain], fitted[clear & ~certain], fitted[faint], answers))
    ]
    rows, kept = np.concatenate(ranked), []
    for i, row in enumerate(rows):  # the clearest first
        if np.all(np.linalg.norm(rows[kept, :2] - row[:2], axis=1) > 0.5 * row[2]):
            kept.append(i)
    return rows[kept]


def locate_beads(survey: Survey, geometry, used, tilt_ids, field_angst, deformation=None) -> Gold:
    """Beads of an aligned series in three dimensions, and all their places. Without one that can be followed through
    the views there is no gold.

    Parameters
    ----------
    survey : of the views ``used``. geometry : TiltGeometry of all n views. used : (n,) bool. tilt_ids : (n,).
    field_angst : (x, y) size of the views.
    deformation : LocalDeformation of all views, or None.
    """
    rows, kinds = np.flatnonzero(used), survey.diameters_angst
    spots = survey.candidates()
    found = [_beads_of_kind(spots, kind, kinds, geometry.select(rows), field_angst) for kind in range(len(kinds))]
    shown = np.array([len(points) > 0 for points in found], bool)
    if not shown.all():  # a kind of which no bead can be followed is none
        return locate_beads(Survey(survey.views, kinds[shown]), geometry, used, tilt_ids, field_angst, deformation)
    if not len(kinds):
        return no_gold()
    points, size = np.concatenate(found), np.repeat(kinds, [len(points) for points in found])
    landing = geometry.project(points)[0]
    landing = landing if deformation is None else landing + deformation.at(landing)
    matched, left = _matched(landing[rows], size, spots)
    diameter = _own_diameters(matched, spots, size)
    view_of_row, places = dict(zip(rows.tolist(), range(len(rows)), strict=True)), []
    for row, tilt_id in enumerate(tilt_ids):
        xy, seen = landing[row].copy(), np.zeros(len(points), bool)
        if row in view_of_row:
            view = view_of_row[row]
            seen = matched[view] >= 0
            xy[seen] = spots[view][matched[view][seen], :2]
            alone = spots[view][
                left[view] & (spots[view][:, 3] == LONE)
            ]  # another bead hides it elsewhere, or it has left the field
            places += [(tilt_id, -1, *spot[:3], True) for spot in alone]
        inside = np.all(np.abs(xy) < 0.5 * np.asarray(field_angst) + diameter[:, None], axis=1)
        places += [(tilt_id, bead, *xy[bead], diameter[bead], seen[bead]) for bead in np.flatnonzero(inside)]
    table = np.array(places, float).reshape(-1, 6)
    number, bead = table[:, :2].astype(np.int64).T
    return Gold(
        kinds, points, diameter, (matched >= 0).sum(axis=0), number, bead, table[:, 2:4], table[:, 4], table[:, 5] > 0
    )


def _beads_of_kind(spots, kind, diameters_angst, geometry, field_angst):
    """(b, 3) beads of one kind: first those that clear spots show; where there are any, also those that overlapping
    and faint ones add, and those that only tilted views hold.
    """
    radius = float(_radius(diameters_angst[kind]))
    own = [here[_kind(here[:, 2], diameters_angst) == kind] for here in spots]
    points = np.zeros((0, 3))
    for rank, references, least in ((CLEAR, N_REFERENCES, 3), (FAINT, N_REFERENCES, 3), (CLEAR, len(own), MIN_SEEN)):
        left = _matched(geometry.project(points)[0], np.full(len(points), diameters_angst[kind]), own)[1]
        rest = [here[free & (here[:, 3] <= rank), :2] for here, free in zip(own, left, strict=True)]
        points = np.concatenate(
            [points, follow_beads(rest, geometry, field_angst, REACH_ANGST, radius, references, least)[0]]
        )
        if not len(points):
            break
    return points


def _radius(diameter_angst):
    """Within which a spot is taken for a bead."""
    return np.maximum(0.5 * diameter_angst, LEAST_RADIUS_ANGST)


def _matched(landing, size, spots):
    """(n, b) number of the spot at each bead's place, -1 without; and per view (m,) bool of the spots that belong to
    none. Nearest pairs first."""
    matched, left = np.full(landing.shape[:2], -1), []
    for i, here in enumerate(spots):
        free = np.ones(len(here), bool)
        gap = np.linalg.norm(landing[i][:, None] - here[None, :, :2], axis=2)  # (b, m)
        gap[gap > _radius(size)[:, None]] = np.inf
        for _ in range(min(gap.shape)):
            bead, spot = np.unravel_index(np.argmin(gap), gap.shape)
            if not np.isfinite(gap[bead, spot]):
                break
            matched[i, bead], free[spot] = spot, False
            gap[bead], gap[:, spot] = np.inf, np.inf
        left.append(free)
    return matched, left


def _own_diameters(matched, spots, size):
    """(b,) median of the diameters fitted to a bead; that of its kind where it was never seen clearly."""
    own = np.full(matched.shape, np.nan)
    for i, here in enumerate(spots):
        shown = np.flatnonzero(matched[i] >= 0)
        clear = shown[here[matched[i][shown], 3] <= CLEAR]
        own[i, clear] = here[matched[i][clear], 2]
    diameter, seen = np.array(size, float), np.isfinite(own).any(axis=0)
    diameter[seen] = np.nanmedian(own[:, seen], axis=0)
    return diameter


def distance_to_beads(positions_angst, beads_angst) -> np.ndarray:
    """(n,) distance, A, of positions (n, 3) from the centre of the nearest bead (b, 3); infinite without beads."""
    if not len(beads_angst):
        return np.full(len(positions_angst), np.inf)
    return cKDTree(beads_angst).query(np.asarray(positions_angst, float))[0]
