"""Motive lists of TOM, AV3, Artiatomi: an EM file of 20 x n numbers.

EM header, 512 bytes: byte 1 the machine (6: little endian; 3, 5: big endian), byte 4 the type (1 int8, 2 int16, 4 int32, 5 float32, 9
float64), then three int32 sizes, 80 bytes of comment, 40 int32, 256 bytes. Rows from 1: 1 correlation, 4 particle, 5 tomogram, 6 object,
8-10 position and 11-13 shift in voxels counted from 1, 17 phi, 18 psi, 19 theta (angles.py), 20 class.
"""

from __future__ import annotations

import os

import numpy as np

from cryoet_core.io.atomic import write_bytes
from cryoet_core.io.picks.angles import matrix_to_zxz, zxz_to_matrix
from cryoet_core.io.picks.grid import Grid
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import damaged, number, read_bytes, whole

HEADER_BYTES, ROWS = 512, 20
FIRST = 1.0  # index of the first voxel
LITTLE = 6
_TYPES = {1: "i1", 2: "i2", 4: "i4", 5: "f4", 9: "f8"}


def read_em(path: str | os.PathLike) -> np.ndarray:
    """(nz, ny, nx) of an EM file, native byte order. Raises UserInputError E-FILE-01, E-PICKS-05."""
    data = read_bytes(path)
    if len(data) < HEADER_BYTES:
        raise damaged(path, f"{len(data)} bytes", f"at least {HEADER_BYTES} (the EM header)")
    order = ">" if data[0] in (3, 5) else "<"
    kind = _TYPES.get(data[3])
    nx, ny, nz = (int(n) for n in np.frombuffer(data, f"{order}i4", 3, offset=4))
    if kind is None or min(nx, ny, nz) < 0:
        raise damaged(path, f"machine {data[0]}, type {data[3]}, size {nx} x {ny} x {nz}", "an EM header", field="header")
    item = np.dtype(order + kind)
    expected = HEADER_BYTES + nx * ny * nz * item.itemsize
    if len(data) != expected:
        raise damaged(path, f"{len(data)} bytes", f"{expected} ({nx} x {ny} x {nz} numbers of {item.itemsize} bytes)", "the file is cut", "size")
    values = np.frombuffer(data, item, nx * ny * nz, offset=HEADER_BYTES).reshape(nz, ny, nx)
    return values.astype(item.newbyteorder("="))


def read(path, grid: Grid) -> Picks:
    """Picks of an EM motive list. Raises UserInputError E-PICKS-04, E-PICKS-05."""
    values = read_em(path).astype(np.float64)
    if values.shape[0] != 1 or values.shape[2] != ROWS:
        nz, ny, nx = values.shape
        raise damaged(path, f"{nx} x {ny} x {nz} numbers", f"{ROWS} x n x 1 (a motive list)", "this EM file is not a motive list", "size")
    rows = values[0]
    used = rows[:, [0, 4, *range(7, 13), 16, 17, 18, 19]]
    if not np.isfinite(used).all():
        number(np.nan, path, f"particle {int(np.argmin(np.isfinite(used).all(axis=1))) + 1}")
    index = rows[:, 7:10] + rows[:, 10:13] - FIRST
    rotations = zxz_to_matrix(rows[:, 16], rows[:, 18], rows[:, 17])
    return Picks(grid.to_angst(index), rotations, rows[:, 0], whole(rows[:, 19]), whole(rows[:, 4]))


def write(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """A motive list of float32; positions are whole, the rest is in the shift."""
    n = len(picks)
    rows = np.zeros((n, ROWS), dtype="<f4")
    if picks.score is not None:
        rows[:, 0] = picks.score
    rows[:, 3], rows[:, 4], rows[:, 5] = np.arange(1, n + 1), number, 1
    index = grid.to_index(picks.positions_angst).reshape(-1, 3) + FIRST
    rows[:, 7:10] = np.round(index)
    rows[:, 10:13] = index - np.round(index)
    if picks.rotations is not None:
        phi, theta, psi = matrix_to_zxz(picks.rotations).T
        rows[:, 16], rows[:, 17], rows[:, 18] = phi, psi, theta
    rows[:, 19] = 1 if picks.class_number is None else picks.class_number
    header = bytearray(HEADER_BYTES)
    header[0], header[3] = LITTLE, 5
    header[4:16] = np.array([ROWS, n, 1], dtype="<i4").tobytes()
    write_bytes(path, bytes(header) + rows.tobytes())
