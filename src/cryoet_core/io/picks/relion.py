"""Particles of RELION: 5 (centred A) and 4, 3, Warp, pytom-match-pick, TomoTwin (rlnCoordinateX in pixels).

rlnCenteredCoordinateXAngst is A from the centre, index n//2 of the unbinned tomogram. rlnCoordinateX is the 0-based index in pixels of
the unbinned tilt images (RELION 4), or in those whose size the file tells (rlnTomoTiltSeriesPixelSize of the optics groups,
rlnPixelSize, rlnDetectorPixelSize at magnification 10000). Refined position = coordinate - A_subtomogram . rlnOrigin.
"""

from __future__ import annotations

import os
import re

import numpy as np
import pandas as pd

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.rotations import matrix_to_euler
from cryoet_core.io.picks.grid import Grid
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import column, columns, missing, read_bytes, whole
from cryoet_core.io.star import read_star, write_star
from cryoet_core.metadata import Particles

CENTRED = [f"rlnCenteredCoordinate{a}Angst" for a in "XYZ"]
PIXELS = [f"rlnCoordinate{a}" for a in "XYZ"]
ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
SUBTOMOGRAM = ["rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"]
ORIGIN_ANGST = [f"rlnOrigin{a}Angst" for a in "XYZ"]
ORIGIN_PX = [f"rlnOrigin{a}" for a in "XYZ"]
SCORES = ("rlnLCCmax", "rlnAutopickFigureOfMerit")
_ENDING = re.compile(r"(\.(tomostar|mrc|mrcs|rec|st|ali|hdf|em|map)|_[\d.]+Apx)$", re.IGNORECASE)


def particle_table(path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(particles, optics) of a STAR file; optics may be empty. Raises E-STAR-*, E-PICKS-03, E-PICKS-05."""
    read_bytes(path)
    blocks = read_star(path)
    name = next((n for n in ("particles", "") if n in blocks), None)
    if name is None and len(blocks) == 1:
        name = next(iter(blocks))
    if name is None:
        raise missing(path, "data_particles", ", ".join(f"data_{b}" for b in blocks), "a table data_particles")
    tables = [blocks[name], blocks.get("optics", pd.DataFrame())]
    return tuple(pd.DataFrame([t]) if isinstance(t, dict) else t for t in tables)


def tomogram_name(text: str) -> str:
    """Name of a tomogram from rlnTomoName or a file name: folder and endings (.mrc, .tomostar, _15.00Apx) taken off."""
    name = os.path.basename(str(text).replace("\\", "/"))
    while (shorter := _ENDING.sub("", name)) != name and shorter:
        name = shorter
    return name


def _pixel_sizes(table, optics, path) -> np.ndarray | None:
    """(n,) pixel size of rlnCoordinate that the file tells, or None."""
    if "rlnTomoTiltSeriesPixelSize" in optics:
        sizes = column(optics, "rlnTomoTiltSeriesPixelSize", path, "optics group")
        if len(sizes) == 1 or "rlnOpticsGroup" not in table or "rlnOpticsGroup" not in optics:
            return np.full(len(table), sizes[0])
        by_group = dict(zip(whole(column(optics, "rlnOpticsGroup", path)), sizes, strict=True))
        return np.array([by_group.get(g, sizes[0]) for g in whole(column(table, "rlnOpticsGroup", path))])
    if "rlnPixelSize" in table:
        return column(table, "rlnPixelSize", path)
    if "rlnDetectorPixelSize" in table:
        magnification = column(table, "rlnMagnification", path) if "rlnMagnification" in table else 1e4
        return column(table, "rlnDetectorPixelSize", path) * 1e4 / magnification
    return None


def _position_and_origin(table, optics, path, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """((n, 3) centred A, (n, 3) origin offsets in A)."""
    sizes = _pixel_sizes(table, optics, path)
    pixel = np.full(len(table), grid.pixel_size_angst) if sizes is None or grid.fixed else sizes
    if len(pixel) and (pixel <= 0).any():
        raise UserInputError("E-PICKS-13", "this is not a pixel size", file=str(path), field="pixel size", found=f"{pixel.min():g}",
                             expected="A per pixel, above 0", fix="set picks_pixel_size_angst")
    if all(label in table for label in CENTRED):
        position = columns(table, CENTRED, path)
    elif all(label in table for label in PIXELS):
        position = columns(table, PIXELS, path) * pixel[:, None] - grid.centre * grid.pixel_size_angst
    else:
        raise missing(path, "coordinates", ", ".join(map(str, table.columns))[:200],
                      "rlnCenteredCoordinateXAngst, ...YAngst, ...ZAngst, or rlnCoordinateX, Y, Z")
    if all(label in table for label in ORIGIN_ANGST):
        return position, columns(table, ORIGIN_ANGST, path)
    if all(label in table for label in ORIGIN_PX):
        return position, columns(table, ORIGIN_PX, path) * pixel[:, None]
    return position, np.zeros_like(position)


def _optional(table, labels, path) -> np.ndarray:
    if all(label in table for label in labels):
        return columns(table, labels, path)
    return np.zeros((len(table), len(labels)))


def read(path, grid: Grid) -> Picks:
    """Picks of a RELION 3 to 5 particle table. Raises UserInputError E-STAR-*, E-PICKS-03, E-PICKS-04."""
    table, optics = particle_table(path)
    position, origin = _position_and_origin(table, optics, path, grid)
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
