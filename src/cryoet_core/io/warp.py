"""Warp's and M's XML file of a tilt series: read its geometry, write ours.

Facts (WarpLib TiltSeries, LoadMeta, SaveMeta and GetPositionInAllTilts; checked with positions that Warp computed):
    position = Rz(AxisAngle) . Ry(-(Angles + LevelAngleY)) . Rx(LevelAngleX) . X + AxisOffset - GridMovement(position)
in A, from half the image's width and height (n/2, in units of pixels whose first has index 0; so half a pixel from our n//2 in odd
images). Depth adds to the defocus with sign +1, and -1 if AreAnglesInverted. Defoci are in micrometres: U = D + delta/2, V = D - delta/2.
"""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.atomic import write_text
from cryoet_core.io.numbers import to_float

if TYPE_CHECKING:
    from cryoet_core.metadata import TiltSeries

_NEEDED = ("Angles", "AxisAngle", "AxisOffsetX", "AxisOffsetY")


@dataclass(frozen=True)
class WarpSeries:
    """geometry (n,): shifts in A from half the image size, global movement included; movies (n,) names as written, empty if there are
    none; dose (n,) e/A^2 before the view, or None; used (n,) bool; handedness +1 or -1; image_size_angst (w, h) or None; pixel_size_angst
    or None; notes: what of the file is not in the geometry."""

    geometry: TiltGeometry
    movies: tuple[str, ...]
    dose: np.ndarray | None
    used: np.ndarray
    handedness: int
    image_size_angst: tuple[float, float] | None
    pixel_size_angst: float | None
    notes: tuple[str, ...]


def _broken(path: str, field: str, found, expected: str) -> UserInputError:
    return UserInputError("E-WARP-01", "not a tilt series of Warp or M", file=path, field=field, found=found, expected=expected,
                          fix="give the XML file that Warp or M wrote for this tilt series, whole")


def _numbers(text: str | None, path: str, field: str) -> np.ndarray:
    try:
        values = np.array([to_float(word) for word in (text or "").replace(",", " ").split()])
    except ValueError:
        values = np.array([np.nan])
    if not np.all(np.isfinite(values)):
        raise _broken(path, field, repr((text or "")[:40]), "numbers")
    return values


def _level(root: ET.Element, name: str, path: str) -> float:
    values = _numbers(root.get(name, "0"), path, name)
    if len(values) != 1:
        raise _broken(path, name, repr(root.get(name)), "one number")
    return float(values[0])


def _column(root: ET.Element, name: str, path: str, n: int | None) -> np.ndarray:
    element = root.find(name)
    values = _numbers(None if element is None else element.text, path, name)
    if len(values) == 0 or (n is not None and len(values) != n):
        raise _broken(path, name, f"{len(values)} values", f"{n or 'one per tilt'}")
    return values


def _grid(root: ET.Element, name: str, path: str) -> np.ndarray | None:
    """(depth, height, width) values of a grid, or None."""
    element = root.find(name)
    if element is None:
        return None
    try:
        shape = tuple(int(element.get(key)) for key in ("Depth", "Height", "Width"))
        nodes = list(element.iter("Node"))
        if min(shape) < 1 or math.prod(shape) > len(nodes):  # before memory is asked for
            raise ValueError(f"{len(nodes)} nodes for {' x '.join(map(str, shape[::-1]))}")
        grid = np.full(shape, np.nan)
        for node in nodes:
            place = tuple(int(node.get(key)) for key in "ZYX")
            if min(place) < 0:
                raise IndexError(f"node {place[::-1]}")
            grid[place] = to_float(node.get("Value"))
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise _broken(path, name, str(error), "Width, Height, Depth and their nodes") from None
    if not np.all(np.isfinite(grid)):
        raise _broken(path, name, "nodes missing", f"{grid.size} nodes")
    return grid


def _movement(root: ET.Element, path: str, n: int) -> tuple[np.ndarray, float]:
    """(n, 2) movement of whole views, A: the mean over the nodes of each; and the largest rest, which is local."""
    means, local = np.zeros((n, 2)), 0.0
    for axis, name in enumerate(("GridMovementX", "GridMovementY")):
        grid = _grid(root, name, path)
        if grid is None:
            continue
        mean = grid.mean(axis=(1, 2))
        local = max(local, float(np.abs(grid - mean[:, None, None]).max()))
        means[:, axis] = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(mean)), mean) if len(mean) > 1 else mean[0]
    return means, local


def _notes(root: ET.Element, path: str, local_angst: float) -> tuple[str, ...]:
    notes = []
    if local_angst > 0.01:
        notes.append(f"local movement inside the images (up to {local_angst:.1f} A) is not taken over, only its mean per view")
    volume = max((float(np.abs(g).max()) for k in "XYZ" if (g := _grid(root, f"GridVolumeWarp{k}", path)) is not None), default=0.0)
    if volume > 0.01:
        notes.append(f"deformation of the volume (up to {volume:.1f} A) is not taken over")
    angle = max((float(np.abs(g).max()) for k in "XYZ" if (g := _grid(root, f"GridAngle{k}", path)) is not None), default=0.0)
    if angle > 0.01:
        notes.append(f"angles of particles refined per view (up to {angle:.2f} deg) are not taken over")
    magnification = _numbers(root.get("MagnificationCorrection"), path, "MagnificationCorrection")
    if len(magnification) == 4 and np.abs(magnification - [1, 0, 0, 1]).max() > 1e-4:
        notes.append("the correction of the magnification is not taken over")
    return tuple(notes)


def _pixel_size(root: ET.Element, path: str) -> float | None:
    for section in ("OptionsCTF", "CTF"):
        for param in root.iterfind(f"{section}/Param"):
            if param.get("Name") == "PixelSize":
                values = _numbers(param.get("Value"), path, f"{section} PixelSize")
                return float(values[0]) if len(values) and values[0] > 0 else None
    return None


def read_warp_xml(path: str | os.PathLike) -> WarpSeries:
    """Read the XML of one tilt series. Raises UserInputError E-FILE-01, E-WARP-01 (broken, or columns of different length)."""
    where = os.fspath(path)
    try:
        root = ET.fromstring(Path(path).read_bytes())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserInputError("E-FILE-01", "no such file", file=where, fix="check the path") from error
    except (ET.ParseError, LookupError, ValueError) as error:
        raise _broken(where, "XML", str(error), "a whole file") from None
    if root.tag != "TiltSeries":
        raise _broken(where, "root element", root.tag, "TiltSeries")
    n = len(_column(root, "Angles", where, None))
    angles, axis, x, y = (_column(root, name, where, n) for name in _NEEDED)
    level = [_level(root, key, where) for key in ("LevelAngleX", "LevelAngleY")]
    movement, local = _movement(root, where, n)
    geometry = TiltGeometry(level[0], -(angles + level[1]), axis, x - movement[:, 0], y - movement[:, 1])
    movies = tuple(line.strip() for line in (root.findtext("MoviePath") or "").split("\n") if line.strip())
    if movies and len(movies) != n:
        raise _broken(where, "MoviePath", f"{len(movies)} names", str(n))
    flags = (root.findtext("UseTilt") or "True " * n).split()
    if len(flags) != n:
        raise _broken(where, "UseTilt", f"{len(flags)} values", str(n))
    size = _numbers(root.get("ImageDimensionsAngstrom", ""), where, "ImageDimensionsAngstrom")
    return WarpSeries(
        geometry, movies, None if root.find("Dose") is None else _column(root, "Dose", where, n),
        np.array([flag.lower() == "true" for flag in flags]), -1 if root.get("AreAnglesInverted", "").lower() == "true" else 1,
        (float(size[0]), float(size[1])) if len(size) >= 2 and size.min() > 0 else None, _pixel_size(root, where),
        _notes(root, where, local),
    )


def centre_offset_angst(image_size_px: tuple[int, int], pixel_size_angst: float) -> np.ndarray:
    """Warp's centre (n/2) minus ours (n//2), (x, y) in A: half a pixel for odd sizes."""
    return np.array([n % 2 / 2 for n in image_size_px]) * pixel_size_angst


def _text(values) -> str:
    return "\n".join(f"{float(value) + 0.0:.9g}" for value in values)


def _add(root: ET.Element, name: str, text: str) -> None:
    ET.SubElement(root, name).text = text


def _add_grid(root: ET.Element, name: str, values: np.ndarray) -> None:
    """A grid of one value per view."""
    grid = ET.SubElement(root, name, Width="1", Height="1", Depth=str(len(values)), MarginX="0", MarginY="0", MarginZ="0")
    for z, value in enumerate(values):
        ET.SubElement(grid, "Node", X="0", Y="0", Z=str(z), Value=f"{float(value) + 0.0:.9g}")


def _add_ctf(root: ET.Element, series: TiltSeries) -> None:
    tilts = series.tilts
    u, v, angle, phase = (tilts[c].to_numpy(np.float64) if c in tilts else np.zeros(len(tilts)) for c in
                          ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg"))
    defocus, delta = (u + v) / 2e4, (u - v) / 1e4
    middle = int(np.argmin(np.abs(tilts["nominal_tilt_deg"].to_numpy())))
    ctf = ET.SubElement(root, "CTF")
    for name, value in (
        ("PixelSize", series.movie_pixel_size_angst), ("Voltage", series.voltage_kv), ("Cs", series.spherical_aberration_mm),
        ("Amplitude", series.amplitude_contrast), ("Defocus", defocus[middle]), ("DefocusDelta", delta[middle]),
        ("DefocusAngle", angle[middle]), ("PhaseShift", phase[middle] / 180),
    ):
        ET.SubElement(ctf, "Param", Name=name, Value=f"{float(value):.9g}")
    for name, values in (("GridCTF", defocus), ("GridCTFDefocusDelta", delta), ("GridCTFDefocusAngle", angle), ("GridCTFPhase", phase / 180)):
        _add_grid(root, name, values)


def write_warp_xml(path: str | os.PathLike, series: TiltSeries) -> None:
    """Write the geometry, doses, defoci and exclusions of all views of `series` as Warp's XML.

    Names of movies are those of the table (without folder), of the images where there are none. The tilt about x must be one for all
    views: raises UserInputError E-WARP-02 otherwise.
    """
    geometry, tilts, pixel = series.geometry, series.tilts, series.pixel_size_angst
    level = float(np.median(geometry.x_tilt_deg))
    if np.ptp(geometry.x_tilt_deg) > 1e-6:
        raise UserInputError(
            "E-WARP-02", "Warp's file holds one tilt about x for the whole series", file=os.fspath(path), field="x_tilt_deg",
            found=f"{geometry.x_tilt_deg.min():g} to {geometry.x_tilt_deg.max():g}", expected="one value", fix="use the RELION or IMOD files",
        )
    size = np.array(series.image_size_px) * pixel
    volume = np.array(series.tomogram_size_px) * series.movie_pixel_size_angst
    volume = volume if volume.min() > 0 else np.array([size[0], size[1], size.min()])
    shift = geometry.shift_angst - centre_offset_angst(series.image_size_px, pixel)
    root = ET.Element("TiltSeries", {
        "DataDirectory": "", "AreAnglesInverted": str(series.handedness == -1), "PlaneNormal": "0, 0, 1",
        "LevelAngleX": f"{level:.9g}", "LevelAngleY": "0", "Bfactor": "0", "Weight": "1", "MagnificationCorrection": "1, 0, 0, 1",
        "VolumeDimensionsAngstrom": ", ".join(f"{v:.9g}" for v in volume),
        "ImageDimensionsAngstrom": ", ".join(f"{v:.9g}" for v in size),
        "CTFResolutionEstimate": "0",
    })
    names = tilts["movie" if "movie" in tilts else "image"].astype(str) if {"movie", "image"} & set(tilts) else tilts["tilt_id"].astype(str)
    for name, values in (("Angles", -geometry.y_tilt_deg), ("Dose", tilts["pre_exposure_e_per_a2"])):
        _add(root, name, _text(values))
    _add(root, "UseTilt", "\n".join(str(bool(used)) for used in series.included))
    for name, values in (("AxisAngle", geometry.z_rot_deg), ("AxisOffsetX", shift[:, 0]), ("AxisOffsetY", shift[:, 1])):
        _add(root, name, _text(values))
    _add(root, "MoviePath", "\n".join(Path(name).name for name in names))
    _add_ctf(root, series)
    ET.indent(root, "\t")
    write_text(path, '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n")
