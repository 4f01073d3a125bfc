"""Defocus values of another program put onto the views of a series: joined by key, never by the row's number where
there is a key.

Keys, in this order: names of movies; stage angles; dose before the view; the section of the stack, which for movies
is the rank in tilt. Views that the file does not have take their neighbours' value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.ctf.fit import CtfFit
from cryoet_core.errors import UserInputError
from cryoet_core.io.foreign_alignment import view_names
from cryoet_core.io.foreign_ctf import ForeignCtf
from cryoet_core.io.images import split_image_name
from cryoet_core.metadata import TiltSeries
from cryoet_core.tilt_series.foreign import match_values

SAME_ANGLE_DEG, SAME_DOSE = 1.0, 0.1  # of stage angles that were rounded, of doses in e/A^2


@dataclass(frozen=True)
class ImportedCtf:
    """u, v, angle, phase of every row of the table, (n,); missing (n,) bool: not in the file; key: by what views were
    joined."""

    program: str
    path: str
    key: str
    defocus_u_angst: np.ndarray
    defocus_v_angst: np.ndarray
    angle_deg: np.ndarray
    phase_deg: np.ndarray
    missing: np.ndarray
    of_tomogram: bool

    def fit(self, handedness: int) -> CtfFit:
        """As a fit without evidence: no gain, no error."""
        n, double = len(self.missing), np.deg2rad(2 * self.angle_deg)
        size = (self.defocus_u_angst - self.defocus_v_angst)[:, None]
        mean = (self.defocus_u_angst + self.defocus_v_angst) / 2
        astigmatism = size * np.stack([np.cos(double), np.sin(double)], axis=1)
        return CtfFit(mean, astigmatism, self.phase_deg, np.zeros(n), np.full(n, np.inf), handedness, 0.0, 0.0)


def sections_of(series: TiltSeries) -> np.ndarray:
    """(n,) section (from 0) of every row in its ready stack; for movies the rank in tilt."""
    if "movie" in series.tilts:
        return np.arange(len(series))
    return np.array([split_image_name(str(name))[0] for name in series.tilts["image"]])


def join_ctf(found: ForeignCtf, series: TiltSeries, sections: np.ndarray) -> ImportedCtf:
    """Values of every row of the table. sections: (n,) as :func:`sections_of` gives of the imported series.

    Raises UserInputError E-CTF-08 where the rows of the file cannot be told to be views of this series.
    """
    tilts = series.tilts["nominal_tilt_deg"].to_numpy(float)
    if found.program == "IMOD":  # rows hold for ranges of views
        return _interpolated(found, tilts)
    rows, key = _rows(found, series, sections)
    if rows is None:
        raise UserInputError(
            "E-CTF-08",
            "these defocus values are not those of this series",
            file=found.path,
            field=found.program,
            found=f"{len(found)} rows",
            expected=f"the {len(series)} views, told by name, angle, dose or section",
            fix="give the file of this series, whole",
        )
    missing = np.ones(len(series), dtype=bool)
    missing[rows] = False
    double = np.deg2rad(2 * found.angle_deg)
    size = found.defocus_u_angst - found.defocus_v_angst
    columns = [
        (found.defocus_u_angst + found.defocus_v_angst) / 2,
        size * np.cos(double),
        size * np.sin(double),
        found.phase_deg,
    ]
    mean, cosine, sine, phase = (_filled(values, rows, tilts) for values in columns)
    size = np.hypot(cosine, sine)
    return ImportedCtf(
        found.program,
        found.path,
        key,
        mean + size / 2,
        mean - size / 2,
        np.rad2deg(0.5 * np.arctan2(sine, cosine)) % 180,
        phase,
        missing,
        found.of_tomogram,
    )


def _filled(values: np.ndarray, rows: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """(n,) values of all views; those that the file does not have lie between their neighbours in tilt."""
    order = np.argsort(tilts[rows], kind="stable")
    out = np.interp(tilts, tilts[rows][order], values[order])
    out[rows] = values
    return out


def _interpolated(found: ForeignCtf, tilts: np.ndarray) -> ImportedCtf:
    order = np.argsort(found.nominal_deg, kind="stable")
    angles = found.nominal_deg[order]
    if tilts.min() < angles[0] - 15 or tilts.max() > angles[-1] + 15:
        raise UserInputError(
            "E-CTF-08",
            "these defocus values are not those of this series",
            file=found.path,
            field="tilt angles",
            found=f"{angles[0]:g} to {angles[-1]:g} degrees",
            expected=f"{tilts.min():g} to {tilts.max():g} degrees",
            fix="give the .defocus file of this series",
        )
    u, v, axis, phase = (
        np.interp(tilts, angles, values[order])
        for values in (found.defocus_u_angst, found.defocus_v_angst, found.angle_deg, found.phase_deg)
    )
    nearest = np.abs(tilts[:, None] - angles[None]).argmin(axis=1)
    axis = found.angle_deg[order][nearest]  # an angle does not interpolate
    return ImportedCtf("IMOD", found.path, "stage angle", u, v, axis, phase, np.zeros(len(tilts), bool), False)


def _rows(found: ForeignCtf, series: TiltSeries, sections: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Row of the table for every row of the file, and the key; None where no key fits."""
    names = view_names(series.tilts["movie"]) if "movie" in series.tilts else None
    if names and found.names and set(found.names) <= set(names):
        return np.array([names.index(name) for name in found.names]), "name of the movie"
    for values, column, tolerance, key in (
        (found.nominal_deg, "nominal_tilt_deg", SAME_ANGLE_DEG, "stage angle"),
        (found.dose, "pre_exposure_e_per_a2", SAME_DOSE, "dose before the view"),
    ):
        if values is not None and np.isfinite(values).all() and np.ptp(values) > 0:
            known = series.tilts[column].to_numpy(float)
            if matches := match_values(values, known, series.included, tolerance=tolerance):
                return matches[0].rows, key
    place = {int(section): row for row, section in enumerate(sections)}
    if found.section is not None and len(found) == len(series) and set(map(int, found.section)) == set(place):
        return np.array([place[int(section)] for section in found.section]), "section"
    return None, ""
