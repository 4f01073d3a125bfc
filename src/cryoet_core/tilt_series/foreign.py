"""An alignment of another program put onto the views of a series: rows are joined by key, and checked by their angles.

Keys, in this order: names of movies; stage angles that the file states; dose before the view; refined angles, up to one common
offset. Never the number of a row. The hand of the run stays what it is: an alignment whose axis points the other way (180 degrees), or
whose tilts have the other sign, describes the same images of the mirrored specimen, and is turned into ours exactly:
    axis + 180 degrees:  X -> -X           tilts of the other sign:  z -> -z   (then x_tilt changes its sign as well)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.local_deformation import N_TERMS, LocalDeformation
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.foreign_alignment import ForeignAlignment, view_names
from cryoet_core.metadata import TiltSeries
from cryoet_core.tilt_series.exclude import mark_excluded
from cryoet_core.tilt_series.summaries import deformation_summary

NOT_ALIGNED = "not_in_alignment"  # reasons in the table
LEFT_OUT = "excluded_in_alignment"
SAME_ANGLE_DEG = 0.1
MAX_OFFSET_DEG = 25.0  # of all refined angles from the stage's
MAX_REFINED_DEG = 2.5  # of one refined angle, beyond the common offset
MIN_VIEWS = 5
_AXIS_DEG = 45.0


@dataclass(frozen=True)
class Match:
    """rows (m,): row of the table for every row of the file; offset: common difference; residual: largest rest."""

    rows: np.ndarray
    offset: float
    residual: float


@dataclass(frozen=True)
class ImportedAlignment:
    """series: with the geometry, and views excluded that the alignment does not have; key: by what the views were joined;
    tilt_offset_deg: median of refined minus stage angle; rows: of the table, for every row of the file; notes: what a user should know."""

    series: TiltSeries
    program: str
    key: str
    tilt_offset_deg: float
    rows: np.ndarray
    notes: list[str] = field(default_factory=list)

    def summary(self, path: str) -> dict:
        """Plain numbers for summary.json, with the keys of a computed alignment where they have a meaning."""
        series, geometry = self.series, self.series.geometry
        used = series.included
        local = deformation_summary(series, series.local_deformation, used)
        shift = [np.where(used, values, np.nan) for values in (geometry.x_shift_angst, geometry.y_shift_angst)]
        return {
            "aligned": True, "method": "import", "program": self.program, "file": path, "joined_by": self.key, "notes": self.notes,
            "n_views": len(series), "n_in_file": len(self.rows), "n_used": int(used.sum()),
            "tilt_axis_deg": float(np.mean(geometry.z_rot_deg)), "tilt_offset_deg": self.tilt_offset_deg,
            "x_tilt_deg": float(np.median(geometry.x_tilt_deg)),
            **({} if local is None else {"local_deformation": local}),
            "views": {
                "tilt_id": series.tilts["tilt_id"].to_numpy(), "tilt_deg": geometry.y_tilt_deg, "x_shift_angst": shift[0],
                "y_shift_angst": shift[1],
            },
        }


def _representatives(values: np.ndarray, included: np.ndarray, tolerance: float) -> np.ndarray:
    """Rows with distinct values; of rows within the tolerance the included one, else the last."""
    chosen: list[int] = []
    for row in np.lexsort((~included, values)):
        if chosen and values[row] - values[chosen[-1]] <= tolerance:
            chosen[-1] = row if included[row] or not included[chosen[-1]] else chosen[-1]
        else:
            chosen.append(int(row))
    return np.array(chosen, dtype=np.int64)


def match_values(
    found: np.ndarray, known: np.ndarray, included: np.ndarray, *, tolerance: float, max_offset: float = 0.0
) -> list[Match]:
    """All ways to give every value of `found` a row of `known` of its own, smallest offset first.

    found (m,), known (n,), included (n,) bool: rows that are preferred where two are alike. tolerance: largest difference that is left
    after one common offset, which is at most max_offset. As many values as rows are matched by rank; else each goes to the nearest.
    """
    found, known = np.asarray(found, np.float64), np.asarray(known, np.float64)
    if len(found) > len(known):
        return []
    if len(found) == len(known):
        rows = np.empty(len(found), dtype=np.int64)
        rows[np.argsort(found, kind="stable")] = np.argsort(known, kind="stable")
        candidates = [rows]
    else:
        distinct = _representatives(known, included, SAME_ANGLE_DEG if tolerance > 0 else 0.0)
        middle = float(found[np.argmin(np.abs(found - np.median(found)))])
        starts = [0.0] if max_offset == 0 else [middle - float(v) for v in known[distinct]]
        candidates = [distinct[np.abs(known[distinct][None] - (found - start)[:, None]).argmin(axis=1)] for start in starts]
    matches: dict[tuple, Match] = {}
    for rows in candidates:
        difference = found - known[rows]
        offset = float(np.median(difference)) if max_offset else 0.0
        residual = float(np.abs(difference - offset).max())
        if len(set(rows)) == len(rows) and residual <= tolerance and abs(offset) <= max_offset + 1e-9:
            matches[tuple(rows)] = Match(rows, offset, residual)
    return sorted(matches.values(), key=lambda m: abs(m.offset))


def _spacing(values: np.ndarray) -> float:
    steps = np.diff(np.sort(values))
    steps = steps[steps > SAME_ANGLE_DEG]
    return float(np.median(steps)) if len(steps) else 1.0


def _refined_tolerance(nominal: np.ndarray) -> float:
    return min(MAX_REFINED_DEG, 0.45 * _spacing(nominal))


def _counts(foreign: ForeignAlignment, series: TiltSeries, what: str) -> UserInputError:
    return UserInputError(
        "E-ALN-04", what, file=foreign.path, field=series.name, found=f"{len(foreign)} views in the file",
        expected=f"{len(series)} in the series, {int(series.included.sum())} of them in use", fix="give the alignment of this series",
    )


def _angles_differ(foreign: ForeignAlignment, series: TiltSeries, found: np.ndarray, mirrored: bool) -> UserInputError:
    known = np.sort(series.tilts["nominal_tilt_deg"].to_numpy(np.float64))
    fix = "give the alignment of this series"
    if mirrored:
        fix = ("the angles have the other sign, as in stacks written by Warp: set align_tilt_series.alignment_tilts to opposite")
    return UserInputError(
        "E-ALN-05", "the tilt angles are not those of this series", file=foreign.path, field=series.name,
        found=f"{len(found)} angles, {found.min():g} to {found.max():g} deg",
        expected=f"{len(known)} angles, {known[0]:g} to {known[-1]:g} deg", fix=fix,
    )


def _by_names(foreign: ForeignAlignment, series: TiltSeries) -> np.ndarray | None:
    """Rows by name; None where none is known. Raises UserInputError E-ALN-04 where only some are."""
    names = view_names(series.tilts["movie"]) if "movie" in series.tilts else None
    if names is None or foreign.names is None:
        return None
    row_of = {name: row for row, name in enumerate(names)}
    unknown = [name for name in foreign.names if name not in row_of]
    if len(unknown) == len(foreign.names):
        return None
    if unknown:
        raise UserInputError(
            "E-ALN-04", "views of the alignment that the series does not have", file=foreign.path, field=series.name,
            found=", ".join(unknown[:5]), expected="movies of the series", fix="give the alignment of this series",
        )
    return np.array([row_of[name] for name in foreign.names])


def _by_angles(foreign: ForeignAlignment, series: TiltSeries) -> tuple[np.ndarray, str, list[str]]:
    nominal, included = series.tilts["nominal_tilt_deg"].to_numpy(np.float64), series.included
    if foreign.nominal_deg is not None:
        for tolerance in (SAME_ANGLE_DEG, min(0.6, _refined_tolerance(nominal))):  # the second: targets instead of what the stage read
            if found := match_values(foreign.nominal_deg, nominal, included, tolerance=tolerance):
                return found[0].rows, "stage angle", []
        if foreign.program != "AreTomo":  # whose AlphaOffset may have been measured without being added to the angles
            mirrored = match_values(-foreign.nominal_deg, nominal, included, tolerance=0.6)
            raise _angles_differ(foreign, series, foreign.nominal_deg, bool(mirrored))
    if foreign.dose is not None:
        dose = series.tilts["pre_exposure_e_per_a2"].to_numpy(np.float64)
        found = match_values(foreign.dose, dose, included, tolerance=0.05 * _spacing(dose))
        if found and np.ptp(dose) > 0:
            return found[0].rows, "dose before the view", []
    refined = foreign.geometry.y_tilt_deg
    tolerance = _refined_tolerance(nominal)
    found = match_values(refined, nominal, included, tolerance=tolerance, max_offset=MAX_OFFSET_DEG)
    if not found:
        mirrored = match_values(-refined, nominal, included, tolerance=tolerance, max_offset=MAX_OFFSET_DEG)
        raise _angles_differ(foreign, series, refined, bool(mirrored))
    notes = []
    if len(found) > 1:
        others = ", ".join(f"{m.offset:+.2f}" for m in found[1:3])
        notes.append(
            f"the file does not state the stage angles: its views were joined with the smallest offset, {found[0].offset:+.2f} deg; "
            f"{others} deg fit as well. A .rawtlt beside the .tlt would decide it")
    return found[0].rows, "refined angle", notes


def _turned(geometry: TiltGeometry, *, mirror_z: bool = False, axis: bool = False) -> TiltGeometry:
    """The same images of the mirrored specimen: see the head of this file."""
    if mirror_z:
        geometry = geometry.replace(x_tilt_deg=-geometry.x_tilt_deg, y_tilt_deg=-geometry.y_tilt_deg)
    if axis:
        geometry = geometry.replace(z_rot_deg=(geometry.z_rot_deg + 360.0) % 360.0 - 180.0)
    return geometry


def _with_our_tilt_sign(foreign, series, rows) -> tuple[TiltGeometry, float, list[str]]:
    """Geometry whose tilts rise as the stage's do, the median offset, and a note where it was turned. Raises E-ALN-05."""
    nominal = series.tilts["nominal_tilt_deg"].to_numpy(np.float64)[rows]
    rest = {}
    for sign in (1, -1):
        difference = sign * foreign.geometry.y_tilt_deg - nominal
        offset = float(np.median(difference))
        rest[sign] = (float(np.abs(difference - offset).max()), offset)
    sign = 1 if rest[1][0] <= rest[-1][0] else -1
    residual, offset = rest[sign]
    if residual > MAX_REFINED_DEG or abs(offset) > MAX_OFFSET_DEG:
        raise _angles_differ(foreign, series, foreign.geometry.y_tilt_deg, False)
    note = "the tilts of the file have the other sign than the stage angles: it describes the mirrored specimen and was turned (z -> -z)"
    return _turned(foreign.geometry, mirror_z=sign < 0), offset, [note] if sign < 0 else []


def _with_our_axis(geometry: TiltGeometry, foreign, series, rows) -> tuple[TiltGeometry, list[str]]:
    """Geometry whose axis points as the run's does. Raises UserInputError E-ALN-07 when it is another axis altogether."""
    ours = np.deg2rad(series.tilts["z_rot_deg"].to_numpy(np.float64)[rows])
    theirs = np.deg2rad(geometry.z_rot_deg)
    apart = float(np.rad2deg(np.angle(np.exp(1j * (theirs - ours)).mean())))
    if abs(apart) <= _AXIS_DEG:
        return geometry, []
    if abs(apart) >= 180 - _AXIS_DEG:
        return _turned(geometry, axis=True), [
            "the tilt axis of the file points the other way (180 degrees) than that of the run: it describes the mirrored specimen and was "
            "turned; the hand of the run is decided in decide_handedness"]
    raise UserInputError(
        "E-ALN-07", "the tilt axis of the alignment is not that of the series", file=foreign.path, field="tilt axis",
        found=f"{np.rad2deg(theirs[0]):.1f} deg", expected=f"within {_AXIS_DEG:g} of {np.rad2deg(ours[0]):.1f} deg, or turned by 180",
        fix="if the file is right, set import_tilt_series.tilt_axis_deg to its axis; if not, give the alignment of these images",
    )


def _fill(series: TiltSeries, geometry: TiltGeometry, rows: np.ndarray, offset: float) -> TiltGeometry:
    """Geometry of all rows: those of the file, and for the others its common axis and offset, without a shift."""
    nominal = series.tilts["nominal_tilt_deg"].to_numpy(np.float64)
    columns = {
        "x_tilt_deg": np.full(len(series), np.median(geometry.x_tilt_deg)), "y_tilt_deg": nominal + offset,
        "z_rot_deg": np.full(len(series), np.median(geometry.z_rot_deg)), "x_shift_angst": np.zeros(len(series)),
        "y_shift_angst": np.zeros(len(series)),
    }
    for name, values in columns.items():
        values[rows] = getattr(geometry, name)
    return TiltGeometry(**columns)


def _left_out(series: TiltSeries, foreign: ForeignAlignment, rows: np.ndarray) -> dict[int, str]:
    """Row of the table -> reason, for views that the program did not align or did not use."""
    nominal = series.tilts["nominal_tilt_deg"].to_numpy(np.float64)
    absent = sorted(set(range(len(series))) - set(rows.tolist()))
    dark = np.array(foreign.dark_deg, dtype=np.float64)
    reasons = {row: LEFT_OUT if len(dark) and np.abs(dark - nominal[row]).min() <= 0.6 else NOT_ALIGNED for row in absent}
    return reasons | {int(row): LEFT_OUT for row in rows[~foreign.used]}


def import_alignment(series: TiltSeries, foreign: ForeignAlignment, *, opposite_tilts: bool = False) -> ImportedAlignment:
    """The series with the geometry of `foreign`.

    opposite_tilts : the file's tilts have the other sign than the stage's (IMOD files of stacks that Warp wrote).

    Raises
    ------
    UserInputError E-ALN-11 (the file is cut), E-ALN-04 (more views than the series, or too few of those in use),
    E-ALN-05 (angles), E-ALN-07 (axis).
    """
    notes = list(foreign.notes)
    if opposite_tilts:
        foreign = _opposite(foreign)
        notes.append("the signs of the file's tilt angles were turned, as asked by alignment_tilts")
    if foreign.n_stated is not None and len(foreign) + len(foreign.dark_deg) < foreign.n_stated:
        raise UserInputError(
            "E-ALN-11", "the file holds fewer views than it says", file=foreign.path, field=series.name,
            found=f"{len(foreign)} aligned and {len(foreign.dark_deg)} dark views",
            expected=f"{foreign.n_stated} together", fix="it is cut: copy it again from its source, or align again",
        )
    if len(foreign) > len(series):
        raise _counts(foreign, series, "the alignment has more views than the series")
    rows, key = _by_names(foreign, series), "name of the movie"
    if rows is None:
        rows, key, more = _by_angles(foreign, series)
        notes += more
    geometry, offset, more = _with_our_tilt_sign(foreign, series, rows)
    geometry, turned = _with_our_axis(geometry, foreign, series, rows)
    notes += [*more, *turned]
    if abs(offset) > 5:
        notes.append(f"the tilts of the file differ from the stage angles by {offset:+.2f} deg")
    hand = foreign.handedness and foreign.handedness * (-1) ** (len(more) + len(turned))  # each turn mirrors
    if hand is not None and hand != series.handedness:
        notes.append("the file and this run disagree about the sign of the defocus gradient (hand): the run's is kept")
    reasons = _left_out(series, foreign, rows)
    out = mark_excluded(series.with_geometry(_fill(series, geometry, rows, offset)), reasons)
    out = out.with_local_deformation(_deformation_of(series, foreign, rows))
    lost = int(series.included.sum() - out.included.sum())
    if out.included.sum() < MIN_VIEWS or 2 * lost > series.included.sum():
        raise _counts(foreign, series, f"the alignment lacks {lost} of the views in use")
    return ImportedAlignment(out, foreign.program, key, offset, rows, notes)


def _deformation_of(series, foreign, rows) -> LocalDeformation | None:
    """Local deformation of all rows of the table, 0 for those that the file lacks.

    It stands in the images, so that no mirror image of the specimen changes it.
    """
    if foreign.deformation is None:
        return None
    coefficients = np.zeros((len(series), N_TERMS, 2))
    coefficients[rows] = foreign.deformation.coefficients_angst
    return LocalDeformation(coefficients)


def _opposite(foreign: ForeignAlignment) -> ForeignAlignment:
    return replace(
        foreign, geometry=_turned(foreign.geometry, mirror_z=True), dark_deg=tuple(-tilt for tilt in foreign.dark_deg),
        nominal_deg=None if foreign.nominal_deg is None else -foreign.nominal_deg,
        handedness=None if foreign.handedness is None else -foreign.handedness,
    )
