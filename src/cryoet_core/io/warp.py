"""Warp's and M's XML file of a tilt series: read its geometry, write ours.

Facts (WarpLib TiltSeries, LoadMeta, SaveMeta and GetPositionInAllTilts; checked with positions that Warp computed):
    position = Rz(AxisAngle) . Ry(-(Angles + LevelAngleY)) . Rx(LevelAngleX) . X + AxisOffset - GridMovement(position)
in A, from half the image's width and height (n/2, in units of pixels whose first has index 0; so half a pixel from our n//2 in odd
images). X is first moved by GridVolumeWarp, linear between its nodes over the volume and the dose; GridMovement is a
natural cubic spline over the image and the views; the nodes of both stand on the borders. Depth adds to the defocus
with sign +1, and -1 if AreAnglesInverted. Defoci are in micrometres: U = D + delta/2, V = D - delta/2.
"""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import CubicSpline

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.atomic import write_text
from cryoet_core.io.numbers import to_float

if TYPE_CHECKING:
    from cryoet_core.metadata import TiltSeries

_NOTHING_ANGST = 0.01
_LARGEST = 1e5  # A or degrees, of anything in a file of one tilt series
_NEEDED = ("Angles", "AxisAngle", "AxisOffsetX", "AxisOffsetY")


@dataclass(frozen=True)
class WarpSeries:
    """geometry (n,): shifts in A from half the image size, global movement included; movies (n,) names as written, empty if there are
    none; dose (n,) e/A^2 before the view, or None; used (n,) bool; handedness +1 or -1; image_size_angst (w, h) or None; pixel_size_angst
    or None; notes: what of the file is not in the geometry; field: what is local, None where there is none."""

    geometry: TiltGeometry
    movies: tuple[str, ...]
    dose: np.ndarray | None
    used: np.ndarray
    handedness: int
    image_size_angst: tuple[float, float] | None
    pixel_size_angst: float | None
    notes: tuple[str, ...]
    field: WarpField | None = None


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


_SPACE = {"Depth": "Z", "Height": "Y", "Width": "X"}
_SPACE_AND_DOSE = {"Duration": "W", **_SPACE}


def _grid(root: ET.Element, name: str, path: str, axes: dict[str, str] = _SPACE) -> np.ndarray | None:
    """(depth, height, width) values of a grid, (duration, depth, height, width) of one over dose as well, or None."""
    element = root.find(name)
    if element is None:
        return None
    try:
        shape = tuple(int(element.get(key)) for key in axes)
        nodes = list(element.iter("Node"))
        if min(shape) < 1 or math.prod(shape) > len(nodes):  # before memory is asked for
            raise ValueError(f"{len(nodes)} nodes for {' x '.join(map(str, shape[::-1]))}")
        grid = np.full(shape, np.nan)
        for node in nodes:
            place = tuple(int(node.get(key)) for key in axes.values())
            if min(place) < 0:
                raise IndexError(f"node {place[::-1]}")
            grid[place] = to_float(node.get("Value"))
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise _broken(path, name, str(error), f"{', '.join(axes)} and their nodes") from None
    if not np.all(np.isfinite(grid)):
        raise _broken(path, name, "nodes missing", f"{grid.size} nodes")
    if np.abs(grid).max() > _LARGEST:
        raise _broken(path, name, f"{np.abs(grid).max():g}", f"at most {_LARGEST:g}")
    return grid


def _spline_weights(n: int, where) -> np.ndarray:
    """(m, n): what each of n nodes on [0, 1] adds to a natural cubic spline at ``where`` (m,); constant beyond."""
    if n == 1:
        return np.ones((len(where), 1))
    return CubicSpline(np.linspace(0, 1, n), np.eye(n), bc_type="natural")(np.clip(where, 0, 1))


def _linear_weights(n: int, where) -> np.ndarray:
    """(m, n): as _spline_weights, with straight lines between the nodes."""
    return np.maximum(0, 1 - np.abs(np.clip(where, 0, 1)[:, None] * (n - 1) - np.arange(n)))


@dataclass(frozen=True)
class WarpField:
    """What moves places of the images beyond the rigid geometry.

    geometry : of the n views, mean movement included. movement : grids (depth, height, width) of x and y, A. mean (n, 2):
    in the geometry. volume : grids (duration, depth, height, width) of x, y and z, A. dose : (n,) 0 to 1.
    image_angst (2,), volume_angst (3,) : sizes.
    """

    geometry: TiltGeometry
    movement: tuple[np.ndarray, ...]
    mean: np.ndarray
    volume: tuple[np.ndarray, ...]
    dose: np.ndarray
    image_angst: np.ndarray
    volume_angst: np.ndarray

    def at(self, points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(where the rigid geometry puts centred points (m, 3), how much further they land, whether the grids reach).

        The first two (n, m, 2), A from half the image size; the last (n, m) bool.
        """
        points = np.asarray(points, dtype=np.float64)
        rigid, n = self.geometry.project(points)[0], len(self.geometry)
        moved = points + self._volume_at(points)  # (n, m, 3)
        landing = np.stack([self.geometry.select([i]).project(moved[i])[0][0] for i in range(n)])
        looked_up = (landing + self.mean[:, None]) / self.image_angst + 0.5
        for axis, grid in enumerate(self.movement):
            views = np.tensordot(_spline_weights(len(grid), np.linspace(0, 1, n)), grid, axes=1)  # (n, height, width)
            for i, plane in enumerate(views):
                x, y = (_spline_weights(size, looked_up[i, :, k]) for k, size in enumerate(plane.shape[::-1]))
                landing[i, :, axis] -= np.einsum("my,yx,mx->m", y, plane, x) - self.mean[i, axis]
        return rigid, landing - rigid, (np.abs(looked_up - 0.5) <= 0.5).all(axis=2)

    def _volume_at(self, points) -> np.ndarray:
        """(n, m, 3) A: how far the volume has moved at the points in every view."""
        shift = np.zeros((len(self.geometry), len(points), 3))
        for axis, grid in enumerate(self.volume):
            steps, *sizes = grid.shape
            where = (points / self.volume_angst + 0.5).T[::-1]  # z, y, x
            t, (z, y, x) = _linear_weights(steps, self.dose), map(_linear_weights, sizes, where)
            shift[..., axis] = np.einsum("nt,mz,my,mx,tzyx->nm", t, z, y, x, grid, optimize=True)
        return shift


def _means(movement, n: int) -> np.ndarray:
    """(n, 2) movement of whole views, A: the mean over the nodes of each."""
    means = np.zeros((n, 2))
    for axis, grid in enumerate(movement):
        mean = grid.mean(axis=(1, 2))
        means[:, axis] = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(mean)), mean) if len(mean) > 1 else mean[0]
    return means


def _grids(root: ET.Element, names, path: str, axes) -> tuple[np.ndarray, ...]:
    """Grids of some names; an absent one is 0."""
    found = [_grid(root, name, path, axes) for name in names]
    return tuple(np.zeros((1,) * len(axes)) if grid is None else grid for grid in found)


def _size(root: ET.Element, name: str, path: str, n: int) -> np.ndarray | None:
    """(n,) A, or None where the file has none."""
    size = _numbers(root.get(name, ""), path, name)
    return size[:n] if len(size) >= n and size.min() > 0 and size.max() <= _LARGEST else None


def _notes(root: ET.Element, path: str) -> tuple[str, ...]:
    notes = []
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
    movement = _grids(root, ("GridMovementX", "GridMovementY"), where, _SPACE)
    volume = _grids(root, [f"GridVolumeWarp{k}" for k in "XYZ"], where, _SPACE_AND_DOSE)
    mean = _means(movement, n)
    geometry = TiltGeometry(level[0], -(angles + level[1]), axis, x - mean[:, 0], y - mean[:, 1])
    movies = tuple(line.strip() for line in (root.findtext("MoviePath") or "").split("\n") if line.strip())
    if movies and len(movies) != n:
        raise _broken(where, "MoviePath", f"{len(movies)} names", str(n))
    flags = (root.findtext("UseTilt") or "True " * n).split()
    if len(flags) != n:
        raise _broken(where, "UseTilt", f"{len(flags)} values", str(n))
    image = _size(root, "ImageDimensionsAngstrom", where, 2)
    volume_size = _size(root, "VolumeDimensionsAngstrom", where, 3)
    dose = None if root.find("Dose") is None else _column(root, "Dose", where, n)
    local = max(float(np.abs(grid - grid.mean(axis=(1, 2), keepdims=True)).max()) for grid in movement)
    warped = max(float(np.abs(grid).max()) for grid in volume)
    field, notes = None, _notes(root, where)
    if max(local, warped) > _NOTHING_ANGST:
        if image is None or (warped > _NOTHING_ANGST and volume_size is None):
            notes += (f"local movement and deformation of the volume (up to {max(local, warped):.1f} A) are not taken "
                      "over: the file does not say the sizes of image and volume",)
        else:
            span = 0.0 if dose is None else float(np.ptp(dose))
            share = (dose - dose.min()) / span if span > 0 else np.zeros(n)
            around = volume_size if volume_size is not None else np.array([*image, 0.1 * image.min()])
            field = WarpField(geometry, movement, mean, volume, share, image, around)
    return WarpSeries(
        geometry, movies, dose,
        np.array([flag.lower() == "true" for flag in flags]), -1 if root.get("AreAnglesInverted", "").lower() == "true" else 1,
        None if image is None else (float(image[0]), float(image[1])), _pixel_size(root, where), notes, field,
    )


def read_ctf_grids(path: str | os.PathLike, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(defocus, U - V in micrometres, angle of U in degrees, phase shift in pi), (n,) each, one value per view: the
    mean over the nodes of each; a grid of another depth is interpolated. A grid that is not there is the series'
    value.

    The file must be one that :func:`read_warp_xml` reads. Raises UserInputError E-WARP-01 (no defocus, broken grids).
    """
    where = os.fspath(path)
    root = ET.fromstring(Path(path).read_bytes())
    params = {node.get("Name"): node.get("Value") for node in root.iterfind("CTF/Param")}
    columns = []
    for grid_name, param in (("GridCTF", "Defocus"), ("GridCTFDefocusDelta", "DefocusDelta"),
                             ("GridCTFDefocusAngle", "DefocusAngle"), ("GridCTFPhase", "PhaseShift")):
        grid = _grid(root, grid_name, where)
        if grid is None:
            values = _numbers(params.get(param) or ("0" if grid_name != "GridCTF" else ""), where, f"CTF {param}")
            if len(values) != 1:
                raise _broken(where, grid_name, "nothing", "a defocus for every view")
            columns.append(np.full(n, values[0]))
            continue
        mean = grid.mean(axis=(1, 2))
        columns.append(
            np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(mean)), mean)
            if len(mean) > 1
            else np.full(n, mean[0])
        )
    return tuple(columns)


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
