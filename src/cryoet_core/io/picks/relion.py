"""Particles of RELION: 5 (centred A) and 4, 3, Warp, pytom-match-pick, TomoTwin (rlnCoordinateX in pixels).

rlnCenteredCoordinateXAngst is A from the centre, index n//2 of the unbinned tomogram. rlnCoordinateX is the 0-based index in pixels of
the unbinned tilt images (RELION 4), or in those whose size the file tells (rlnTomoTiltSeriesPixelSize of the optics groups,
rlnPixelSize, rlnDetectorPixelSize at magnification 10000). Warp's exports of 2D stacks before July 2026 count in the
export's pixels, which are rlnTomoSubtomogramBinning times as large, and its matching in fractions of the tomogram.
Refined position = coordinate - A_subtomogram . rlnOrigin.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.rotations import matrix_to_euler
from cryoet_core.io.picks.grid import Grid, are_fractions
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import FRACTIONS, column, columns, fractions_note, missing, whole
from cryoet_core.io.star import read_star, write_star
from cryoet_core.metadata import Particles

CENTRED = [f"rlnCenteredCoordinate{a}Angst" for a in "XYZ"]
PIXELS = [f"rlnCoordinate{a}" for a in "XYZ"]
ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
SUBTOMOGRAM = ["rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"]
ORIGIN_ANGST = [f"rlnOrigin{a}Angst" for a in "XYZ"]
ORIGIN_PX = [f"rlnOrigin{a}" for a in "XYZ"]
SCORES = ("rlnLCCmax", "rlnAutopickFigureOfMerit")
_MOST_ENDINGS = 6  # of a name: .mrc_15.00Apx.mrc has three
_ENDING = re.compile(r"(\.(tomostar|mrc|mrcs|rec|st|ali|hdf|em|map)|_[\d.]+Apx)$", re.IGNORECASE)


def particle_table(path) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """(particles, optics, general) of a STAR file; the last two may be empty. Raises E-STAR-*, E-PICKS-03."""
    blocks = read_star(path)
    name = next((n for n in ("particles", "") if n in blocks), None)
    if name is None and len(blocks) == 1:
        name = next(iter(blocks))
    if name is None:
        raise missing(path, "data_particles", ", ".join(f"data_{b}" for b in blocks), "a table data_particles")
    particles, optics = (_as_table(blocks.get(block, {})) for block in (name, "optics"))
    general = blocks.get("general", {})
    return particles, optics, general if isinstance(general, dict) else next(iter(general.to_dict("records")), {})


def _as_table(block) -> pd.DataFrame:
    """A loop as it is, a list of values as its one row, nothing as no row."""
    return pd.DataFrame([block] if block else []) if isinstance(block, dict) else block


def tomogram_name(text: str) -> str:
    """Name of a tomogram from rlnTomoName or a file name: folder and endings (.mrc, .tomostar, _15.00Apx) taken off."""
    name = os.path.basename(str(text).replace("\\", "/"))
    for _ in range(_MOST_ENDINGS):
        name = _ENDING.sub("", name) or name
    return name


def _of_groups(table, optics, label: str, path) -> np.ndarray:
    """(n,) value of each particle's optics group; without groups, the first."""
    values = column(optics, label, path, "optics group")
    if len(values) == 1 or "rlnOpticsGroup" not in table or "rlnOpticsGroup" not in optics:
        return np.full(len(table), values[0])
    by_group = dict(zip(whole(column(optics, "rlnOpticsGroup", path)), values, strict=True))
    return np.array([by_group.get(g, values[0]) for g in whole(column(table, "rlnOpticsGroup", path))])


def _pixel_sizes(table, optics, path) -> np.ndarray | None:
    """(n,) pixel size of rlnCoordinate that the file tells, or None."""
    if "rlnTomoTiltSeriesPixelSize" in optics and len(optics):
        return _of_groups(table, optics, "rlnTomoTiltSeriesPixelSize", path)
    if "rlnPixelSize" in table:
        return column(table, "rlnPixelSize", path)
    if "rlnDetectorPixelSize" in table:
        magnification = column(table, "rlnMagnification", path) if "rlnMagnification" in table else 1e4
        with np.errstate(divide="ignore", invalid="ignore"):
            return column(table, "rlnDetectorPixelSize", path) * 1e4 / magnification
    return None


def _check_pixel(pixel, path) -> None:
    bad = ~((pixel > 0) & np.isfinite(pixel))
    if bad.any():
        raise UserInputError(
            "E-PICKS-13", "this is not a pixel size", file=str(path), field="pixel size", found=f"{pixel[bad][0]:g}",
            expected="A per pixel, above 0", fix="set picks_pixel_size_angst",
        )


@dataclass(frozen=True)
class _Coordinates:
    """position (n, 3) centred A; pixel (n,) A of what rlnCoordinate and rlnOrigin count in; the rest as in Picks."""

    position: np.ndarray
    pixel: np.ndarray
    unit: str = "A"
    notes: tuple[str, ...] = ()


def _coordinates(table, optics, general, path, grid: Grid) -> _Coordinates:
    sizes = _pixel_sizes(table, optics, path)
    pixel = np.full(len(table), grid.pixel_size_angst) if sizes is None or grid.fixed else sizes
    _check_pixel(pixel, path)
    if all(label in table for label in CENTRED):
        return _Coordinates(columns(table, CENTRED, path), pixel)
    if not all(label in table for label in PIXELS):
        raise missing(path, "coordinates", ", ".join(map(str, table.columns))[:200],
                      "rlnCenteredCoordinateXAngst, ...YAngst, ...ZAngst, or rlnCoordinateX, Y, Z")
    index, corner = columns(table, PIXELS, path), grid.centre * grid.pixel_size_angst
    if are_fractions(index):
        return _Coordinates(grid.whole_to_angst(index), pixel, FRACTIONS, (fractions_note(path),))
    if not grid.fixed and len(table) and (exported := _export_pixels(table, optics, general, path, pixel)) is not None:
        position = index * exported[:, None] - corner
        if grid.holds(position):
            unit = _unit(exported)
            note = f"{path} holds 2D stacks as Warp exported them before July 2026: rlnCoordinateX counts in {unit}"
            return _Coordinates(position, pixel, unit, (note,))
    notes = () if sizes is not None or grid.fixed else (
        f"{path} does not say the pixel size of rlnCoordinateX: {grid.pixel_size_angst:g} A, that of the tilt images, "
        "is assumed (if wrong, set picks_pixel_size_angst)",)
    return _Coordinates(index * pixel[:, None] - corner, pixel, "" if sizes is None else _unit(pixel), notes)


def _export_pixels(table, optics, general, path, pixel) -> np.ndarray | None:
    """(n,) pixel size (A) of binned 2D stacks, or None when the file holds something else."""
    label = "rlnTomoSubtomogramBinning"
    if str(general.get("rlnTomoSubTomosAre2DStacks")) != "1" or label not in optics or not len(optics):
        return None
    binning = _of_groups(table, optics, label, path)
    return pixel * binning if (binning > 0).all() and (binning != 1).any() else None


def _unit(pixel) -> str:
    return "pixels of " + " and ".join(f"{size:.5g}" for size in np.unique(np.round(pixel, 4))[:3]) + " A"


def _origin(table, pixel, path) -> np.ndarray:
    """(n, 3) origin offsets in A."""
    if all(label in table for label in ORIGIN_ANGST):
        return columns(table, ORIGIN_ANGST, path)
    if all(label in table for label in ORIGIN_PX):
        return columns(table, ORIGIN_PX, path) * pixel[:, None]
    return np.zeros((len(table), 3))


def _optional(table, labels, path) -> np.ndarray:
    if all(label in table for label in labels):
        return columns(table, labels, path)
    return np.zeros((len(table), len(labels)))


def read(path, grid: Grid) -> Picks:
    """Picks of a RELION 3 to 5 particle table. Raises UserInputError E-STAR-*, E-PICKS-03, E-PICKS-04."""
    table, optics, general = particle_table(path)
    if not len(table):
        return Picks.none()
    found = _coordinates(table, optics, general, path, grid)
    position, origin = found.position, _origin(table, found.pixel, path)
    parts = {"x_angst": position[:, 0], "y_angst": position[:, 1], "z_angst": position[:, 2]}
    parts |= {f"origin_{a}_angst": origin[:, i] for i, a in enumerate("xyz")}
    oriented = any(all(label in table for label in group) for group in (ANGLES, SUBTOMOGRAM))
    for names, labels in ((("rot_deg", "tilt_deg", "psi_deg"), ANGLES),
                          (("subtomogram_rot_deg", "subtomogram_tilt_deg", "subtomogram_psi_deg"), SUBTOMOGRAM)):
        parts |= dict(zip(names, _optional(table, labels, path).T, strict=True))
    particles = Particles(pd.DataFrame(parts))
    score = next((column(table, label, path) for label in SCORES if label in table), None)
    classes = whole(column(table, "rlnClassNumber", path)) if "rlnClassNumber" in table else None
    names = next((table[label] for label in ("rlnTomoName", "rlnMicrographName") if label in table), None)
    return Picks(
        particles.positions_angst, particles.rotations if oriented else None, score, classes,
        None if names is None else np.array([tomogram_name(n) for n in names], dtype=object),
        unit=found.unit, notes=found.notes,
    )


def _common(picks: Picks, name: str) -> dict:
    return {"rlnTomoName": [name] * len(picks), "rlnTomoParticleName": [f"{name}/{i + 1}" for i in range(len(picks))]}


def _rest(picks: Picks) -> dict:
    rest = {label: np.zeros(len(picks)) for label in ORIGIN_ANGST}
    if picks.rotations is not None:
        rest |= dict(zip(ANGLES, matrix_to_euler(picks.rotations).T, strict=True))
    if picks.class_number is not None:
        rest["rlnClassNumber"] = picks.class_number
    if picks.score is not None:
        rest["rlnLCCmax"] = picks.score
    return rest


def write_relion5(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """particles.star of RELION 5, as its picking jobs write it: centred coordinates in A, angles ZYZ, no optics table."""
    table = _common(picks, name) | dict(zip(CENTRED, np.asarray(picks.positions_angst).reshape(-1, 3).T, strict=True)) | _rest(picks)
    write_star(path, {"general": {"rlnTomoSubTomosAre2DStacks": 0}, "particles": pd.DataFrame(table)})


def write_relion4(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """particles.star of RELION 4: pixels of `grid` (the unbinned tilt images), its pixel size in the optics table."""
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"], "rlnTomoTiltSeriesPixelSize": [grid.pixel_size_angst]})
    index = grid.to_index(picks.positions_angst).reshape(-1, 3)
    table = _common(picks, name) | dict(zip(PIXELS, index.T, strict=True)) | _rest(picks)
    table |= {"rlnTomoParticleId": np.arange(1, len(picks) + 1), "rlnOpticsGroup": np.ones(len(picks), dtype=np.int64)}
    write_star(path, {"optics": optics, "particles": pd.DataFrame(table)})
