"""MRC images, stacks and volumes.

Arrays are always [z, y, x] (3-D, also for one image) with row 0 at the bottom, as stored: nothing is flipped.
Reads modes 0 (also IMOD's signed bytes), 1, 2, 6, 12, 101 in both byte orders; writes modes 0, 1, 2, 6, 12
little-endian.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.io.atomic import atomic_path
from cryoet_core.io.mrc_header import HEADER_BYTES, MrcHeader, build_header, parse_header

if TYPE_CHECKING:
    from cryoet_core.io.half import Measured

_WRITE_MODES = {"float32": 2, "float16": 12, "int16": 1, "uint16": 6, "int8": 0, "uint8": 0}
_SMALLEST_HALF_RMS = 1e-5  # steps of half precision below 6e-5 are 6e-8: an error of 0.2 % of this


def read_header(path: str | os.PathLike) -> MrcHeader:
    """Header of an MRC file, checked against the size of the file. Errors: see `parse_header`, E-FILE-01."""
    try:
        with open(path, "rb") as stream:
            return parse_header(stream.read(HEADER_BYTES), os.fstat(stream.fileno()).st_size, path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserInputError(
            "E-FILE-01", "no such file", file=os.fspath(path), fix="check the path in the config or table",
        ) from error


def number_format(path: str | os.PathLike) -> str:
    """"float16" for a file in half precision, "float32" for any other: what is written from it needs no more."""
    return "float16" if read_header(path).mode == _WRITE_MODES["float16"] else "float32"


def check_finite(array: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    """Return `array`; raises DataQualityError E-NUM-01 with the count and first position of NaN or infinity."""
    if array.dtype.kind != "f" or np.isfinite(array.sum(dtype=np.float64)):
        return array
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataQualityError(
            "E-NUM-01", "pixels are not finite", file=os.fspath(path), field="data",
            found=f"{int(bad.sum())} NaN or infinite, first at index {first}", expected="finite numbers",
            fix="exclude this image or make it again",
        )
    return array


def unpack_nibbles(packed: np.ndarray, nx: int) -> np.ndarray:
    """Mode 101: two values per byte, low half first. (..., ny, (nx+1)//2) -> (..., ny, nx) uint8."""
    values = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), dtype=np.uint8)
    values[..., 0::2] = packed & 0x0F
    values[..., 1::2] = packed >> 4
    return values[..., :nx]


def decoded(stored: np.ndarray, header: MrcHeader) -> np.ndarray:
    """Stored values as the values meant: IMOD's signed bytes, value - 128, as uint8 0 to 255; all else as it is."""
    return stored.view(np.uint8) ^ np.uint8(128) if header.shifted_bytes else stored


def _half():
    """The conversions of io.half: compiled, and so half a second to import, which what reads only headers and tables need not wait for."""
    from cryoet_core.io import half

    return half


def _read_sections(stream: BinaryIO, header: MrcHeader, first: int, count: int) -> np.ndarray:
    ny, nx = header.shape[1:]
    stream.seek(header.data_offset + first * header.section_bytes)
    columns = (nx + 1) // 2 if header.mode == 101 else nx
    values = np.fromfile(stream, dtype=header.dtype, count=count * ny * columns)
    values = values.reshape(count, ny, columns)
    return unpack_nibbles(values, nx) if header.mode == 101 else decoded(values, header)


def _converted(array: np.ndarray, dtype: str | None) -> np.ndarray:
    native = array.dtype.newbyteorder("=")
    wanted = native if dtype is None else np.dtype(dtype)
    if native == np.float16 and wanted == np.float32:
        return _half().from_half(array.astype(native, copy=False))
    return array.astype(wanted, copy=False)


def read_mrc(path: str | os.PathLike, *, dtype: str | None = "float32") -> tuple[np.ndarray, float]:
    """Whole file -> (array (nz, ny, nx), pixel size in A; 0.0 where the header has none).

    dtype: "float32" unless asked; None keeps the stored type. Axes stored in another order (mapc, mapr, maps)
    are put back to [z, y, x].

    Raises UserInputError E-MRC-01..07, E-FILE-01; DataQualityError E-NUM-01 for NaN or infinite values.
    """
    header = read_header(path)
    with open(path, "rb") as stream:
        array = _converted(_read_sections(stream, header, 0, header.n_sections), dtype)
    if header.axis_order != (1, 2, 3):
        # axis k of the array (z, y, x = maps, mapr, mapc) holds spatial axis order[2 - k]
        spatial = [header.axis_order[2 - k] for k in range(3)]
        array = np.ascontiguousarray(array.transpose([spatial.index(axis) for axis in (3, 2, 1)]))
    return check_finite(array, path), header.pixel_size_angst


def _check_section(header: MrcHeader, index: int) -> None:
    if header.axis_order != (1, 2, 3):
        raise UserInputError(
            "E-MRC-05", "sections of a file with permuted axes cannot be read one by one", file=header.path,
            field="mapc, mapr, maps", found=str(header.axis_order), expected="(1, 2, 3)",
            fix="write the stack again with axes in the usual order",
        )
    if not 0 <= index < header.n_sections:
        raise UserInputError(
            "E-MRC-06", "no such section", file=header.path, field="section", found=str(index + 1),
            expected=f"1 to {header.n_sections}", fix="check the table that names this section",
        )


def read_section(
    path: str | os.PathLike, index: int, *, dtype: str | None = "float32", finite: bool = True
) -> np.ndarray:
    """Section `index` (0-based) -> (ny, nx), reading no other part of the data. Errors as read_mrc, E-MRC-06."""
    return next(iter_sections(path, [index], dtype=dtype, finite=finite))


def iter_sections(
    path: str | os.PathLike, indices: list[int] | None = None, *, dtype: str | None = "float32", finite: bool = True
) -> Iterator[np.ndarray]:
    """Sections (0-based `indices`, default all) one after another, each (ny, nx); one section in memory.

    finite=False: NaN and infinite values are given as they are (the caller repairs them), otherwise E-NUM-01.
    """
    header = read_header(path)
    with open(path, "rb") as stream:
        for index in range(header.n_sections) if indices is None else indices:
            _check_section(header, int(index))
            section = _read_sections(stream, header, int(index), 1)[0]
            section = _converted(section, dtype)
            yield check_finite(section, f"{os.fspath(path)} section {int(index) + 1}") if finite else section


class _Statistics:
    """Minimum, maximum, mean and rms over sections in float64 (merged as Chan, Golub & LeVeque 1983)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.minimum, self.maximum = np.inf, -np.inf

    def add(self, section: Measured, size: int) -> None:
        """Take in a section of ``size`` pixels."""
        total = self.count + size
        delta = section.mean - self.mean
        self.squares += section.squares + delta * delta * self.count * size / total
        self.mean += delta * size / total
        self.count = total
        self.minimum, self.maximum = min(self.minimum, section.minimum), max(self.maximum, section.maximum)

    @property
    def rms(self) -> float:
        return float(np.sqrt(self.squares / max(self.count, 1)))


def _stored(section: np.ndarray, dtype: np.dtype, path: str | os.PathLike) -> tuple[np.ndarray, Measured]:
    """Section as it goes to disk, integers rounded, and its statistics.

    Raises DataQualityError E-NUM-01 for NaN or infinite values, E-NUM-02 if a value does not fit.
    """
    integer = dtype.kind in "iu"
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite and is reported below
        single = np.ascontiguousarray(np.rint(section) if integer and section.dtype.kind == "f" else section, dtype=np.float32)
    stored = _half().to_half(single) if dtype == np.float16 else single
    measured = _half().measure(stored)
    limits = np.iinfo(dtype) if integer else np.finfo(dtype)
    if not (np.isfinite(measured.mean) and float(limits.min) <= measured.minimum <= measured.maximum <= float(limits.max)):
        check_finite(section, path)
        raise DataQualityError(
            "E-NUM-02", f"values do not fit {dtype.name}", file=os.fspath(path), field="data",
            found=f"{float(section.min()):g} to {float(section.max()):g}", expected=f"{limits.min} to {limits.max}",
            fix="write float32 or scale the values",
        )
    return np.ascontiguousarray(stored, dtype=dtype), measured


class MrcStackWriter:
    """Write an MRC file section by section; it appears under its name when the `with` block ends well.

        with MrcStackWriter(path, (ny, nx), pixel_size_angst) as writer:
            for image in images: writer.write(image)

    stack=True gives ispg 0 (images), False ispg 1 (volume). dtype is a NumPy name: float32 (mode 2), float16
    (12), int16 (1), uint16 (6), int8 or uint8 (0; uint8 carries IMOD's stamp for unsigned bytes).
    Raises UserInputError E-MRC-08 (bad pixel size, shape or dtype, or no section), DataQualityError E-NUM-01/02.
    """

    def __init__(
        self, path: str | os.PathLike, shape: tuple[int, int], pixel_size_angst: float, *,
        stack: bool = True, dtype: str = "float32",
    ) -> None:
        self.path, self.stack = Path(path), stack
        self.shape = (int(shape[0]), int(shape[1]))
        self.pixel_size_angst = float(pixel_size_angst)
        name = np.dtype(dtype).name
        if name not in _WRITE_MODES:
            raise self._error("dtype", name, f"one of {sorted(_WRITE_MODES)}")
        if not (np.isfinite(self.pixel_size_angst) and self.pixel_size_angst > 0):
            raise self._error("pixel size", f"{self.pixel_size_angst} A", "a positive number")
        self.dtype, self.mode = np.dtype(name).newbyteorder("<"), _WRITE_MODES[name]
        self.n_sections = 0

    def _error(self, field: str, found: str, expected: str) -> UserInputError:
        return UserInputError(
            "E-MRC-08", "cannot write this MRC file", file=str(self.path), field=field, found=found,
            expected=expected, fix="this is a mistake in the calling step; report it",
        )

    def __enter__(self) -> MrcStackWriter:
        self._atomic = atomic_path(self.path)
        temporary = self._atomic.__enter__()
        try:
            self._stream = open(temporary, "w+b")
            self._stream.write(bytes(HEADER_BYTES))
        except BaseException as error:
            self._atomic.__exit__(type(error), error, error.__traceback__)
            raise
        self._statistics = _Statistics()
        return self

    def write(self, section: np.ndarray) -> None:
        """Append one section (ny, nx)."""
        section = np.asarray(section)
        if section.shape != self.shape:
            raise self._error("shape", str(section.shape), str(self.shape))
        stored, measured = _stored(section, self.dtype, self.path)
        self._statistics.add(measured, section.size)
        self._put(stored)
        self.n_sections += 1

    def _put(self, values: np.ndarray) -> None:
        """Write at the stream's place. Not ndarray.tofile: that says of a full disk only how many items were
        written."""
        self._stream.write(np.ascontiguousarray(values).data.cast("B"))

    def widen(self) -> None:
        """Go on in float32 after float16: the sections so far are stored again, unchanged, with room for more digits."""
        size = self.shape[0] * self.shape[1]
        for number in reversed(range(self.n_sections)):  # from the end, where the file grows
            self._stream.seek(HEADER_BYTES + 2 * number * size)
            section = _half().from_half(np.fromfile(self._stream, "<f2", size))
            self._stream.seek(HEADER_BYTES + 4 * number * size)
            self._put(section)
        self._stream.seek(0, os.SEEK_END)
        self.dtype, self.mode = np.dtype("<f4"), _WRITE_MODES["float32"]

    def _finish(self) -> None:
        if self.n_sections == 0:
            raise self._error("sections", "0", "at least 1")
        values = self._statistics
        self._stream.seek(0)
        self._stream.write(build_header(
            (self.n_sections, *self.shape), self.mode, self.pixel_size_angst, stack=self.stack,
            unsigned_bytes=self.dtype.kind == "u" and self.mode == 0,
            minimum=values.minimum, maximum=values.maximum, mean=values.mean, rms=values.rms,
        ))

    def __exit__(self, kind, error, traceback) -> None:
        try:
            with self._stream:
                if kind is None:
                    self._finish()
        except BaseException as problem:
            self._atomic.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self._atomic.__exit__(kind, error, traceback)


class MrcBlockWriter(MrcStackWriter):
    """Write a volume (nz, ny, nx) block by block, in any order; it appears under its name when the `with` block ends well.

    Raises as :class:`MrcStackWriter`, and DataQualityError E-NUM-02 for float16 when the values are too small for it.
    """

    def __init__(
        self, path: str | os.PathLike, shape: tuple[int, int, int], pixel_size_angst: float, *, dtype: str = "float32"
    ) -> None:
        super().__init__(path, shape[1:], pixel_size_angst, stack=False, dtype=dtype)
        self._volume = tuple(int(n) for n in shape)

    def write_block(self, z0: int, y0: int, block: np.ndarray) -> None:
        """Write (planes, rows, nx) from plane `z0` and row `y0` on."""
        nz, ny, nx = self._volume
        planes, rows, columns = block.shape
        if columns != nx or y0 + rows > ny or z0 + planes > nz:
            raise self._error("shape", f"{block.shape} at z {z0}, y {y0}", f"within {self._volume}")
        self.shape = (rows, nx)  # of the pieces that `write` takes: the rows of one plane lie together in the file
        for z, piece in enumerate(block, z0):
            self._stream.seek(HEADER_BYTES + (z * ny + y0) * nx * self.dtype.itemsize)
            self.write(piece)

    def _finish(self) -> None:
        self.n_sections, self.shape = self._volume[0], self._volume[1:]
        rms = self._statistics.rms
        if self.dtype == np.float16 and 0 < rms < _SMALLEST_HALF_RMS:
            raise DataQualityError(
                "E-NUM-02", "values do not fit float16", file=os.fspath(self.path), field="data", found=f"rms {rms:g}",
                expected=f"at least {_SMALLEST_HALF_RMS:g}", fix="write float32 or scale the values",
            )
        super()._finish()


def write_mrc(
    path: str | os.PathLike, array: np.ndarray, pixel_size_angst: float, *,
    stack: bool = False, dtype: str = "float32",
) -> None:
    """Write (nz, ny, nx) or one image (ny, nx) atomically; pixel size in A is always set, origin 0, no date.

    stack=True marks a stack of images (ispg 0), False a volume (ispg 1); a 2-D array is always a stack of one.
    Errors: see `MrcStackWriter`.
    """
    array = np.asarray(array)
    sections = array[None] if array.ndim == 2 else array
    if sections.ndim != 3:
        raise UserInputError(
            "E-MRC-08", "cannot write this MRC file", file=os.fspath(path), field="shape",
            found=str(array.shape), expected="2 or 3 axes", fix="this is a mistake in the calling step; report it",
        )
    with MrcStackWriter(
        path, sections.shape[1:], pixel_size_angst, stack=stack or array.ndim == 2, dtype=dtype
    ) as writer:
        for section in sections:
            writer.write(section)
