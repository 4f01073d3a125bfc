"""IMOD's alignment files: .xf (one 2-D transform per view), .tlt/.rawtlt/.xtilt (one angle per line).

IMOD turns images about (n - 1)/2, this library about index n//2; for even sizes the two differ by half a pixel.
With c = n//2 - (n - 1)/2 (0.5 even, 0 odd), A = R(-z_rot) and s the shift in pixels, a transform is
    A = R(-z_rot)      d = -A (s + c)
so that the centre of our tomogram is the centre of IMOD's.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.atomic import write_text
from cryoet_core.io.numbers import to_float


def read_numbers(path: str | os.PathLike, columns: int, code: str, what: str) -> np.ndarray:
    """(n, columns) float64 from a text file of numbers; empty lines are skipped. Raises UserInputError `code`."""
    where = os.fspath(path)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserInputError("E-FILE-01", "no such file", file=where, fix="check the path") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            row = [to_float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != columns or not np.all(np.isfinite(row)):
            raise UserInputError(
                code, f"this line is not {what}", file=where, field=f"line {number}", found=repr(line.strip()[:80]),
                expected=f"{columns} number{'s' * (columns > 1)}", fix="correct the line or give the right file",
            )
        rows.append(row)
    if not rows:
        raise UserInputError(code, "the file is empty", file=where, expected=what, fix="give the right file")
    return np.array(rows, dtype=np.float64)


def read_tlt(path: str | os.PathLike) -> np.ndarray:
    """(n,) angles in degrees from .tlt, .rawtlt or .xtilt. Raises UserInputError E-TLT-01, E-TLT-02, E-FILE-01."""
    angles = read_numbers(path, 1, "E-TLT-01", "a tilt angle")[:, 0]
    if np.abs(angles).max() > 90:
        row = int(np.argmax(np.abs(angles) > 90))
        raise UserInputError(
            "E-TLT-02", "impossible tilt angle", file=os.fspath(path), field=f"view {row + 1}",
            found=f"{angles[row]:g}", expected="-90 to 90 degrees", fix="correct the angle",
        )
    return angles


def write_tlt(path: str | os.PathLike, angles_deg: np.ndarray) -> None:
    """Write one angle per line; six decimals, because 1e-4 degrees are 4e-3 pixels at the edge of a large image."""
    write_text(path, "".join(f"{angle + 0.0:11.6f}\n" for angle in np.asarray(angles_deg, dtype=np.float64)))


def read_xf(path: str | os.PathLike) -> np.ndarray:
    """(n, 2, 3) transforms [A | d] (d in pixels, IMOD's centre). Raises UserInputError E-XF-01, E-FILE-01."""
    rows = read_numbers(path, 6, "E-XF-01", "a transform (A11 A12 A21 A22 DX DY)")
    return np.concatenate([rows[:, :4].reshape(-1, 2, 2), rows[:, 4:, None]], axis=2)


def write_xf(path: str | os.PathLike, transforms: np.ndarray) -> None:
    """Write (n, 2, 3) transforms [A | d] in IMOD's layout (which it reads by words, not by columns)."""
    lines = []
    for matrix in np.asarray(transforms, dtype=np.float64) + 0.0:
        (a11, a12, dx), (a21, a22, dy) = matrix
        lines.append(f"{a11:12.7f}{a12:12.7f}{a21:12.7f}{a22:12.7f}{dx:13.5f}{dy:13.5f}\n")
    write_text(path, "".join(lines))


def _centre_offset(image_size_px: tuple[int, int]) -> np.ndarray:
    """Our centre minus IMOD's, (x, y) in pixels."""
    size = np.asarray(image_size_px, dtype=np.int64)
    return size // 2 - (size - 1) / 2


def geometry_to_xf(geometry: TiltGeometry, pixel_size_angst: float, image_size_px: tuple[int, int]) -> np.ndarray:
    """Transforms (n, 2, 3) that IMOD's newstack would use for this geometry; image_size_px = (w, h).

    The angles go into .tlt (y_tilt_deg, same sign) and .xtilt (x_tilt_deg).
    """
    angle = np.deg2rad(-geometry.z_rot_deg)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], axis=1)  # (n, 2, 2)
    shift = np.stack([geometry.x_shift_angst, geometry.y_shift_angst], axis=1) / pixel_size_angst
    d = -np.einsum("nij,nj->ni", matrix, shift + _centre_offset(image_size_px))
    return np.concatenate([matrix, d[:, :, None]], axis=2)


def xf_to_geometry(
    transforms: np.ndarray, y_tilt_deg: np.ndarray, pixel_size_angst: float, image_size_px: tuple[int, int],
    x_tilt_deg: np.ndarray | float = 0.0,
) -> TiltGeometry:
    """Inverse of geometry_to_xf; a magnification or shear up to 5 % is dropped (nearest rotation).

    Raises UserInputError E-XF-02 (numbers of views differ), E-XF-03 (not a rotation).
    """
    transforms = np.asarray(transforms, dtype=np.float64)
    tilts = np.asarray(y_tilt_deg, dtype=np.float64)
    if len(transforms) != len(tilts):
        raise UserInputError(
            "E-XF-02", "transforms and tilt angles differ in number", found=f"{len(transforms)} transforms",
            expected=f"{len(tilts)} (one for each angle)", fix="give the .xf and .tlt of the same series",
        )
    matrix, d = transforms[:, :, :2], transforms[:, :, 2]
    angle = np.arctan2(matrix[:, 1, 0] - matrix[:, 0, 1], matrix[:, 0, 0] + matrix[:, 1, 1])
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], axis=1)
    error = np.abs(matrix - rotation).max(axis=(1, 2))
    if error.max() > 0.05:
        raise UserInputError(
            "E-XF-03", "transform is not a rotation", field=f"view {int(error.argmax()) + 1}",
            found=np.array2string(matrix[error.argmax()], precision=3), expected="a rotation (up to 5 %)",
            fix="align the series again without stretching",
        )
    shift = -np.einsum("nij,nj->ni", np.linalg.inv(matrix), d) - _centre_offset(image_size_px)
    x_tilt = np.broadcast_to(np.asarray(x_tilt_deg, dtype=np.float64), tilts.shape)
    shift = shift * pixel_size_angst
    return TiltGeometry(x_tilt, tilts, -np.rad2deg(angle), shift[:, 0], shift[:, 1])
