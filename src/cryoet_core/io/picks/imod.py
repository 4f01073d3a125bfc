"""Points of IMOD: binary models (.mod, .fid) and the text of model2point.

In a model x and y run from 0 to nx, ny and z from -0.5 to nz - 0.5 (IMOD's binspec: "Model Coordinate Conventions"), so that the middle of voxel
(i, j, k), counted from 0, is at (i + 0.5, j + 0.5, k). Points are those of the volume that was loaded in 3dmod: chunk MINX tells its
origin and the subset, index = model + (otrans - ctrans) / cscale. A model kept with y and z flipped says so in a flag, and they are
exchanged back. All numbers are big-endian. Points have no orientations.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass

import numpy as np

from cryoet_core.io.atomic import write_bytes, write_text
from cryoet_core.io.numbers import to_float
from cryoet_core.io.picks.grid import Grid
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import bad_line, damaged, read_bytes, read_text, whole

MIDDLE = np.array([0.5, 0.5, 0.0])  # of voxel (0, 0, 0) in model coordinates
FLIPPED_YZ, HAS_ORIGIN = 1 << 16, 1 << 14
_WRITTEN_FLAGS = 1 << 10 | 1 << 12 | 1 << 13 | HAS_ORIGIN | 1 << 15  # z from -0.5; as 3dmod sets them
_SCATTERED = 1 << 9
_MODEL = struct.Struct(">128s 4i I 4i 3f 3f 5i f 2i 3f")
_OBJECT = struct.Struct(">64s 64x i I 2i 3f i 8B 2i")
_CONTOUR = struct.Struct(">i I 2i")
_MESH = struct.Struct(">2i I 2h")


@dataclass(frozen=True)
class Model:
    """points: (n, 3) model coordinates; object, contour: (n,) counted from 1; size_px; minx: (6, 3) rows oscale, otrans, orot, cscale,
    ctrans, crot, or None."""

    points: np.ndarray
    object: np.ndarray
    contour: np.ndarray
    size_px: tuple[int, int, int]
    flags: int
    minx: np.ndarray | None

    def index(self) -> np.ndarray:
        """(n, 3) 0-based voxel index in the whole image file, x y z."""
        points, minx = self.points, self.minx
        if self.flags & FLIPPED_YZ:
            points = points[:, [0, 2, 1]]
            # what was the slice number (whole at the middle) is now an edge-based y, and the other way round
            return self._in_file(points - np.array([0.5, 0.0, 0.5]), minx)
        return self._in_file(points - MIDDLE, minx)

    def _in_file(self, index, minx) -> np.ndarray:
        if minx is None or not self.flags & HAS_ORIGIN or not (np.abs(minx[3]) > 0).all():
            return index
        return index + (minx[1] - minx[4]) / minx[3]

    @property
    def pixel_size_angst(self) -> float | None:
        """Of the image the model was drawn on; None where its header had none (1.0)."""
        scale = None if self.minx is None else float(self.minx[3][0])
        return scale if scale is not None and scale > 0 and abs(scale - 1.0) > 1e-6 else None


class _Reader:
    """Walks through the chunks. Raises UserInputError E-PICKS-05 where the file is cut."""

    def __init__(self, data: bytes, path):
        self.data, self.path, self.position = data, path, 0

    def take(self, count: int, what: str) -> bytes:
        if count < 0 or self.position + count > len(self.data):
            raise damaged(self.path, f"{len(self.data)} bytes", f"at least {self.position + max(count, 0)} (for {what})", "the model is cut or damaged",
                          f"byte {self.position}")
        self.position += count
        return self.data[self.position - count : self.position]

    def unpack(self, layout: struct.Struct, what: str) -> tuple:
        return layout.unpack(self.take(layout.size, what))


def read_model(path) -> Model:
    """All points of a binary model. Raises UserInputError E-FILE-01, E-PICKS-05."""
    reader = _Reader(read_bytes(path), path)
    if reader.take(8, "the first 8 bytes") != b"IMODV1.2":
        raise damaged(path, repr(reader.data[:8]), "IMODV1.2 (a binary model)")
    head = reader.unpack(_MODEL, "the header")
    found: dict = {"points": [], "object": [], "contour": [], "minx": None}
    objects = contours = 0
    while (tag := reader.take(4, "IEOF, the end mark")) != b"IEOF":
        if tag == b"OBJT":
            reader.unpack(_OBJECT, "an object")
            objects, contours = objects + 1, 0
        elif tag == b"CONT":
            contours += 1
            n = reader.unpack(_CONTOUR, "a contour")[0]
            points = np.frombuffer(reader.take(12 * n, f"{n} points"), ">f4").reshape(-1, 3)
            found["points"].append(points.astype(np.float64))
            found["object"].append(np.full(n, objects))
            found["contour"].append(np.full(n, contours))
        elif tag == b"MESH":
            vertices, indices, *_ = reader.unpack(_MESH, "a mesh")
            reader.take(12 * vertices + 4 * indices, "a mesh")
        else:
            _other_chunk(reader, tag, found)
    if b"IMODV1.2" in reader.data[reader.position :]:
        found = f"another model from byte {reader.position} on"
        raise damaged(path, found, "one model", "two models were joined into one file")
    points, obj, cont = (np.concatenate(found[k]) if found[k] else np.zeros(0) for k in ("points", "object", "contour"))
    if not np.isfinite(points).all():
        raise damaged(path, "a point that is no number", "finite coordinates")
    return Model(points.reshape(-1, 3), obj.astype(int), cont.astype(int), head[1:4], head[5], found["minx"])


def _other_chunk(reader: _Reader, tag: bytes, found: dict) -> None:
    if not tag.isalnum():
        raise damaged(reader.path, repr(tag), "the name of a chunk", "the model is cut or damaged", f"byte {reader.position - 4}")
    size = struct.unpack(">i", reader.take(4, "the size of a chunk"))[0]
    body = reader.take(size, f"chunk {tag.decode()}")
    if tag == b"MINX" and size >= 72:
        found["minx"] = np.frombuffer(body, ">f4", 18).astype(np.float64).reshape(6, 3)


def _model_grid(model: Model, grid: Grid) -> Grid:
    """The grid the model was drawn on: its size counts too where the model knows the image."""
    drawn = grid.as_in_file(model.pixel_size_angst)
    if grid.fixed or drawn is grid or min(model.size_px) <= 0:
        return drawn
    order = [0, 2, 1] if model.flags & FLIPPED_YZ else [0, 1, 2]
    return dataclasses.replace(drawn, size_px=tuple(model.size_px[i] for i in order), centre_px=None)


def read(path, grid: Grid) -> Picks:
    """Points of a binary model; class_number is the number of the object, from 1. Raises UserInputError E-PICKS-05."""
    model = read_model(path)
    _, unit = grid.told(model.pixel_size_angst)
    return Picks(_model_grid(model, grid).to_angst(model.index()), None, None, model.object, unit=unit)


def _chunk(tag: bytes, body: bytes) -> bytes:
    return tag + struct.pack(">i", len(body)) + body


def write(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """A model with one object of scattered points per class; orientations and scores are lost."""
    points = grid.to_index(picks.positions_angst).reshape(-1, 3) + MIDDLE
    classes = np.ones(len(picks), dtype=int) if picks.class_number is None else np.asarray(picks.class_number)
    groups = [points[classes == c] for c in np.unique(classes)] or [points]
    pixel = float(grid.pixel_size_angst)
    out = b"IMODV1.2" + _MODEL.pack(
        name.encode()[:127], *grid.size_px, len(groups), _WRITTEN_FLAGS, 1, 0, 0, 255, *(0.0,) * 3, *(1.0,) * 3, 0, 0, 0, 3, 128,
        pixel / 10, -9, 0, *(0.0,) * 3,
    )
    for i, group in enumerate(groups):
        radius = max(1, int(round(min(grid.size_px) / 50)))
        colour = [(0.0, 1.0, 0.0), (1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0)][i % 4]
        out += b"OBJT" + _OBJECT.pack(b"picks", 1, _SCATTERED, 0, 0, *colour, radius, 0, 3, 1, 1, 0, 0, 0, 0, 0, 0)
        out += b"CONT" + _CONTOUR.pack(len(group), 0, 0, 0) + group.astype(">f4").tobytes()
    minx = np.zeros((6, 3), dtype=">f4")
    minx[0], minx[3] = 1, pixel
    write_bytes(path, out + _chunk(b"MINX", minx.tobytes()) + b"IEOF")


def read_points(path, grid: Grid) -> Picks:
    """Text of model2point: x y z, with contour, or object and contour, before them. Raises UserInputError E-PICKS-02, E-PICKS-05."""
    rows, width = [], None
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        width = width or len(words)
        try:
            row = [to_float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != width or width not in (3, 4, 5) or not np.isfinite(row).all():
            raise bad_line(path, number, line, f"{width if width in (3, 4, 5) else '3 to 5'} numbers: (object contour) x y z")
        rows.append(row)
    values = np.array(rows, dtype=np.float64).reshape(-1, width or 3)
    classes = whole(values[:, 0]) if width == 5 else None
    return Picks(grid.to_angst(values[:, -3:] - MIDDLE), None, None, classes)


def write_points(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """Lines "x y z" as model2point writes them, for point2model."""
    points = grid.to_index(picks.positions_angst).reshape(-1, 3) + MIDDLE
    write_text(path, "".join("".join(f"{v + 0.0:13.4f}" for v in row) + "\n" for row in points) or "# no picks\n")
