"""The 1024 bytes in front of an MRC file: layout, byte order, checks (MRC2014, with IMOD's extensions).

Layout: www.ccpem.ac.uk/mrc_format/mrc2014.php; IMOD's stamp and its flag for signed bytes: IMOD's mrc_format.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from cryoet_core.errors import UserInputError

HEADER_BYTES = 1024
IMOD_STAMP = 1146047817
IMOD_SIGNED_BYTES = 1
SUPPORTED_MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16", 101: "uint4"}
_LARGEST_SIDE = 1 << 24
_TOLERATED_EXTRA_BYTES = 1024

HEADER_DTYPE = np.dtype([
    ("nxyz", "<i4", 3), ("mode", "<i4"), ("start", "<i4", 3), ("mxyz", "<i4", 3),
    ("cell_angst", "<f4", 3), ("cell_deg", "<f4", 3), ("mapcrs", "<i4", 3),
    ("dmin", "<f4"), ("dmax", "<f4"), ("dmean", "<f4"), ("ispg", "<i4"), ("nsymbt", "<i4"),
    ("extra1", "V8"), ("exttyp", "S4"), ("nversion", "<i4"), ("extra2", "V40"),
    ("imod_stamp", "<i4"), ("imod_flags", "<i4"), ("extra3", "V36"),
    ("origin_angst", "<f4", 3), ("map", "S4"), ("machst", "u1", 4), ("rms", "<f4"),
    ("nlabl", "<i4"), ("label", "S80", 10),
])


@dataclass(frozen=True)
class MrcHeader:
    """What a reader needs to know.

    shape: (nz, ny, nx) as stored; dtype: NumPy type of a stored value with its byte order (uint8 holding two
    values for mode 101); data_offset in bytes; axis_order: (mapc, mapr, maps); `raw` is the header record.
    shifted_bytes: IMOD's signed bytes, which hold value - 128 (see io.mrc.decoded).
    """

    path: str
    shape: tuple[int, int, int]
    mode: int
    dtype: np.dtype
    data_offset: int
    ispg: int
    axis_order: tuple[int, int, int]
    raw: np.void
    shifted_bytes: bool = False

    @property
    def n_sections(self) -> int:
        return self.shape[0]

    @property
    def section_bytes(self) -> int:
        ny, nx = self.shape[1:]
        return ny * ((nx + 1) // 2) if self.mode == 101 else ny * nx * self.dtype.itemsize

    @property
    def pixel_size_angst(self) -> float:
        """Pixel size along x in A, 0.0 where the header does not say. Raises E-MRC-07 if x and y differ by > 1 %."""
        sides = [_ratio(self.raw["cell_angst"][i], self.raw["mxyz"][i]) for i in (0, 1)]
        if min(sides) > 0 and abs(sides[0] - sides[1]) > 0.01 * sides[0]:
            raise UserInputError(
                "E-MRC-07", "pixels are not square", file=self.path, field="cell",
                found=f"{sides[0]:.5g} x {sides[1]:.5g} A", expected="equal sides",
                fix="correct the cell in the header of this file (for example with IMOD's alterheader)",
            )
        return sides[0]


def _ratio(cell: float, count: int) -> float:
    value = float(cell) / int(count) if count > 0 else 0.0
    return round(value, 6) if np.isfinite(value) and value > 0 else 0.0


def _record(block: bytes, order: str) -> np.void:
    return np.frombuffer(block, dtype=HEADER_DTYPE.newbyteorder(order))[0]


def _byte_orders(block: bytes) -> tuple[str, str]:
    """Both byte orders, the one the machine stamp names first (0x44 little, 0x11 big, else little)."""
    return (">", "<") if block[212] == 0x11 else ("<", ">")


def _shape(record: np.void) -> tuple[int, int, int]:
    nx, ny, nz = (int(n) for n in record["nxyz"])
    return nz, ny, nx


def _plausible(record: np.void) -> bool:
    sizes = _shape(record)
    return all(0 < n <= _LARGEST_SIDE for n in sizes) and 0 <= int(record["mode"]) <= 1024


def parse_header(block: bytes, file_bytes: int, path: str | os.PathLike) -> MrcHeader:
    """Header of a file whose first 1024 bytes are `block` and whose length is `file_bytes`.

    The byte order is the one the machine stamp says; where that gives an impossible header, the other one.

    Raises UserInputError E-MRC-01 (file cut or header that does not fit the file), E-MRC-02 (impossible
    header), E-MRC-03 (mode not supported), E-MRC-04 (signed or unsigned bytes unclear).
    """
    path = os.fspath(path)
    if len(block) < HEADER_BYTES:
        raise _size_error(path, f"{file_bytes} bytes", f"at least {HEADER_BYTES} bytes (the MRC header)")
    orders = _byte_orders(block)
    order = next((o for o in orders if _plausible(_record(block, o))), orders[0])
    record = _record(block, order)
    if not _plausible(record):
        raise UserInputError(
            "E-MRC-02", "this is not an MRC header", file=path, field="nx, ny, nz, mode",
            found=f"{_shape(record)[::-1]}, mode {int(record['mode'])}",
            expected="positive sizes and a known mode", fix="check that this is an MRC file; copy it again",
        )
    header = MrcHeader(
        path, _shape(record), int(record["mode"]), _stored_dtype(record, order, path),
        HEADER_BYTES + max(int(record["nsymbt"]), 0), int(record["ispg"]), _axis_order(record, path), record,
        shifted_bytes=int(record["mode"]) == 0 and _stamped_signed(record),
    )
    _check_size(header, file_bytes)
    return header


def _axis_order(record: np.void, path: str) -> tuple[int, int, int]:
    order = tuple(int(a) for a in record["mapcrs"])
    if order == (0, 0, 0):
        return (1, 2, 3)
    if sorted(order) != [1, 2, 3]:
        raise UserInputError(
            "E-MRC-05", "impossible order of axes", file=path, field="mapc, mapr, maps", found=str(order),
            expected="a permutation of (1, 2, 3)", fix="write the file again with the program that made it",
        )
    return order


def _stored_dtype(record: np.void, order: str, path: str) -> np.dtype:
    mode = int(record["mode"])
    if mode not in SUPPORTED_MODES:
        raise UserInputError(
            "E-MRC-03", "MRC mode not supported", file=path, field="mode", found=str(mode),
            expected=f"one of {sorted(SUPPORTED_MODES)}",
            fix="convert it, e.g. with IMOD: newstack -mode 2 in.mrc out.mrc",
        )
    if mode == 0:
        return np.dtype("u1") if _bytes_are_unsigned(record, path) else np.dtype("i1")
    if mode == 101:
        return np.dtype("u1")
    return np.dtype(SUPPORTED_MODES[mode]).newbyteorder(order)


def _bytes_are_unsigned(record: np.void, path: str) -> bool:
    """IMOD's flag decides where its stamp is set; else the stored range; else signed (MRC2014)."""
    dmin, dmax = float(record["dmin"]), float(record["dmax"])
    needs_unsigned = 127 < dmax <= 255 and dmin >= 0
    needs_signed = -128 <= dmin < 0 and dmax <= 127 and dmax >= dmin
    if int(record["imod_stamp"]) != IMOD_STAMP:
        return needs_unsigned
    signed = _stamped_signed(record)
    if (signed and needs_unsigned) or (not signed and needs_signed):
        raise UserInputError(
            "E-MRC-04", "header contradicts itself about signed bytes", file=path, field="mode 0",
            found=f"{'signed' if signed else 'unsigned'} flag, values {dmin:g} to {dmax:g}",
            expected="a flag that fits the values", fix="write it again as mode 1: newstack -mode 1 in.mrc out.mrc",
        )
    return not signed


def _stamped_signed(record: np.void) -> bool:
    """Bytes that IMOD stored as signed: its stamp and its flag. They are value - 128, the header's range too."""
    return int(record["imod_stamp"]) == IMOD_STAMP and bool(int(record["imod_flags"]) & IMOD_SIGNED_BYTES)


def _size_error(path: str, found: str, expected: str, detail: str = "") -> UserInputError:
    return UserInputError(
        "E-MRC-01", "the size of the file does not fit its header" + detail, file=path, field="size",
        found=found, expected=expected, fix="copy the file again from its source, or exclude this image",
    )


def _check_size(header: MrcHeader, file_bytes: int) -> None:
    nz, ny, nx = header.shape
    data = nz * header.section_bytes
    expected = header.data_offset + data
    text = (f"{expected} bytes (header {header.data_offset} + {nx} x {ny} x {nz}, mode {header.mode})")
    if file_bytes < expected or int(header.raw["nsymbt"]) < 0:
        section = max(0, file_bytes - header.data_offset) // header.section_bytes + 1
        raise _size_error(header.path, f"{file_bytes} bytes", text, f": it stops in section {section} of {nz}")
    if file_bytes - expected > min(_TOLERATED_EXTRA_BYTES, data // 4):
        raise _size_error(header.path, f"{file_bytes} bytes", text)


def build_header(
    shape: tuple[int, int, int], mode: int, pixel_size_angst: float, *, stack: bool, unsigned_bytes: bool,
    minimum: float, maximum: float, mean: float, rms: float,
) -> bytes:
    """1024 little-endian bytes; origin 0, no label (a label would carry a date), ispg 0 for stacks, 1 for volumes.

    shape is (nz, ny, nx). Stacks have mz = 1 (MRC2014: a stack of images), so that its z cell is one pixel.
    """
    nz, ny, nx = shape
    record = np.zeros((), dtype=HEADER_DTYPE)
    record["nxyz"] = (nx, ny, nz)
    record["mode"] = mode
    record["mxyz"] = (nx, ny, 1 if stack else nz)
    record["cell_angst"] = np.asarray(record["mxyz"], dtype=np.float64) * pixel_size_angst
    record["cell_deg"] = 90.0
    record["mapcrs"] = (1, 2, 3)
    record["dmin"], record["dmax"], record["dmean"], record["rms"] = minimum, maximum, mean, rms
    record["ispg"] = 0 if stack else 1
    record["nversion"] = 20140
    record["map"] = b"MAP "
    record["machst"] = (0x44, 0x44, 0, 0)
    if unsigned_bytes:
        record["imod_stamp"] = IMOD_STAMP
    return record.tobytes()
