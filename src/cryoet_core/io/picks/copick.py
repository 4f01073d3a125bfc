"""copick's picks (JSON) and the point annotations of the CryoET Data Portal (ndjson, one point per line).

copick: location in A, voxel index from 0 times voxel spacing; "transformation_" is a 4 x 4 matrix from the object to the tomogram, whose translation is
added to the location. Portal: location in voxels from 0 of the annotated tomogram; "xyz_rotation_matrix" of an orientedPoint is
what its ingestion makes of RELION's and STOPGAP's angles, the rotation reference -> tomogram.
"""

from __future__ import annotations

import json
import os

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.atomic import write_text
from cryoet_core.io.picks.grid import Grid
from cryoet_core.io.picks.model import Picks, checked_rotations
from cryoet_core.io.picks.text import bad_field, damaged, missing, number, numbers, parse_json, read_text, shown


def _location(point, path, place: str) -> list[float]:
    location = point.get("location") if isinstance(point, dict) else None
    if not isinstance(location, dict):
        raise missing(path, f"{place}.location", shown(point), '{"x": ..., "y": ..., "z": ...}')
    absent = [axis for axis in "xyz" if axis not in location]
    if absent:
        raise missing(path, f"{place}.location.{absent[0]}", ", ".join(location), "x, y and z")
    return [number(location[axis], path, f"{place}.location.{axis}") for axis in "xyz"]


def _matrix(value, path, place: str, size: int) -> list[list[float]]:
    if not isinstance(value, list) or len(value) != size:
        raise bad_field(path, place, shown(value), f"{size} rows of {size} numbers")
    return [numbers(row, path, f"{place}[{i}]", size) for i, row in enumerate(value)]


def _check_unit(content, path) -> None:
    unit = shown(content.get("unit", "angstrom")).strip("'").lower()
    if unit not in ("angstrom", "angstroms"):
        raise UserInputError("E-PICKS-11", "this unit is not known", file=os.fspath(path), field="unit", found=unit, expected="angstrom",
                             fix="write the picks in A")


def read(path, grid: Grid) -> Picks:
    """Picks of copick. Raises UserInputError E-PICKS-02 to E-PICKS-06, E-PICKS-11."""
    content = parse_json(read_text(path), path)
    points = content.get("points") if isinstance(content, dict) else None
    if not isinstance(points, list):
        raise missing(path, "points", ", ".join(content)[:100] if isinstance(content, dict) else "no keys", 'a list "points"')
    _check_unit(content, path)
    location = [_location(p, path, f"points[{i}]") for i, p in enumerate(points)]
    identity = np.eye(4).tolist()
    transform = np.array([_matrix(p.get("transformation_") or identity, path, f"points[{i}].transformation_", 4) for i, p in enumerate(points)])
    transform = transform.reshape(-1, 4, 4)
    rotations = checked_rotations(transform[:, :3, :3], path, "point")
    # every point has a matrix; that all are the identity means that nobody knows
    oriented = bool(len(points)) and not np.allclose(rotations, np.eye(3), atol=1e-6)
    position = np.array(location).reshape(-1, 3) + transform[:, :3, 3] - grid.centre * grid.pixel_size_angst
    score = np.array([number(p.get("score", 1.0) if p.get("score") is not None else 1.0, path, f"points[{i}].score") for i, p in enumerate(points)])
    return Picks(position, rotations if oriented else None, score, unit="A")


def write(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """A picks file of copick, of user and session "tiltline" and "0" (made by a tool)."""
    location = picks.positions_angst + grid.centre * grid.pixel_size_angst
    transform = np.tile(np.eye(4), (len(picks), 1, 1))
    if picks.rotations is not None:
        transform[:, :3, :3] = picks.rotations
    score = np.ones(len(picks)) if picks.score is None else picks.score
    points = [
        {"location": dict(zip("xyz", (round(float(v), 5) for v in p), strict=True)), "transformation_": np.round(t, 9).tolist(), "instance_id": i,
         "score": round(float(s), 8)} for i, (p, t, s) in enumerate(zip(location, transform, score, strict=True), 1)
    ]
    content = {
        "pickable_object_name": "particle", "user_id": "tiltline", "session_id": "0", "run_name": name,
        "voxel_spacing": float(grid.pixel_size_angst), "unit": "angstrom", "points": points,
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_portal(path, grid: Grid) -> Picks:
    """Points of a portal annotation. Raises UserInputError E-PICKS-02 to E-PICKS-06."""
    points = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            point = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise damaged(path, repr(text[:60]), "one JSON object per line", "this is not JSON", f"line {line}") from error
        points.append((line, point))
    location = np.array([_location(p, path, f"line {n}") for n, p in points]).reshape(-1, 3)
    oriented = bool(points) and all("xyz_rotation_matrix" in p for _, p in points)
    rotations = None
    if oriented:
        matrices = [_matrix(p["xyz_rotation_matrix"], path, f"line {n}: xyz_rotation_matrix", 3) for n, p in points]
        rotations = checked_rotations(matrices, path, "point")
    return Picks(grid.to_angst(location), rotations)


def write_portal(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """orientedPoints, or points where orientations are not known; scores are lost."""
    lines = []
    for i, xyz in enumerate(grid.to_index(picks.positions_angst).reshape(-1, 3)):
        point = {"type": "point", "location": dict(zip("xyz", (round(float(v), 5) for v in xyz), strict=True))}
        if picks.rotations is not None:
            point |= {"type": "orientedPoint", "xyz_rotation_matrix": np.round(picks.rotations[i], 9).tolist()}
        lines.append(json.dumps(point) + "\n")
    write_text(path, "".join(lines))
