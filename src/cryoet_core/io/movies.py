"""Movies: frames one after another from MRC, TIFF or EER, never the whole movie in memory.

Row 0 of every frame is at the bottom, as in MRC. TIFF stores the top row first, so TIFF frames are flipped in y
on reading (as RELION and Warp do): a movie and a gain reference agree whatever their formats. EER frames are
decoded as TIFF pages and flipped alike.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io import eer
from cryoet_core.io.eer import LARGEST_FRAME
from cryoet_core.io.mrc import iter_sections, read_header, unpack_nibbles

_MRC = {".mrc", ".mrcs", ".st", ".map", ".ali"}
_TIFF = {".tif", ".tiff"}
_LARGEST_TAG = 1 << 20  # values; strips of the largest frame
_LONGEST_RUN = 4096  # pixels of a frame per byte of an EER file: even empty frames need more
_SMALLEST_SHARE = 1 / 2000  # of a compressed page to its frame: no compression of TIFF makes it smaller


@dataclass(frozen=True)
class Movie:
    """A movie that can be iterated any number of times; each pass opens and closes the file.

    frames_of_item: number of raw frames in each item that iteration gives (1 each except for EER, whose frames are
    summed); shape: (h, w) of a frame; pixel_size_angst: 0.0 if the file does not say; super_resolution: how much
    finer than the camera's pixels events are placed (1 except for EER); bytes_: pixels are single bytes; packed:
    every byte holds the counts of two pixels, lower four bits first (SerialEM's packed raw data); stated_frames:
    number of frames that the file itself says was recorded, 0 where it does not.
    """

    path: str
    frames_of_item: tuple[int, ...]
    shape: tuple[int, int]
    pixel_size_angst: float
    super_resolution: int = 1
    bytes_: bool = False
    packed: bool = False
    stated_frames: int = 0

    @property
    def n_frames(self) -> int:
        """Items that iteration gives."""
        return len(self.frames_of_item)

    @property
    def n_raw_frames(self) -> int:
        """Frames in the file; all of them are used."""
        return sum(self.frames_of_item)

    def __len__(self) -> int:
        return self.n_frames

    def unpacked_to(self, shape: tuple[int, int]) -> Movie:
        """The movie for frames of ``shape`` (h, w): two counts are in each byte where its pages are bytes and half as
        wide; else as it is."""
        if (
            self.bytes_
            and not self.packed
            and self.shape == (shape[0], (shape[1] + 1) // 2)
            and self.shape != tuple(shape)
        ):
            return replace(self, shape=(int(shape[0]), int(shape[1])), packed=True)
        return self

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (h, w), row 0 at the bottom, whole numbers as the file has them (bytes take a quarter of the memory), else float32; NaN and
        infinite values are given as they are.

        Raises UserInputError E-MOVIE-02 for damaged data.
        """
        frames = self._iter_sections() if Path(self.path).suffix.lower() in _MRC else self._iter_pages()
        yield from (unpack_nibbles(frame.view(np.uint8), self.shape[1]) for frame in frames) if self.packed else frames

    def _iter_sections(self) -> Iterator[np.ndarray]:
        for index in range(self.n_frames):
            try:
                frame = next(iter_sections(self.path, [index], dtype=None, finite=False))
            except (ValueError, OSError) as error:
                raise _damaged(self.path, f"frame {index + 1}: {error}") from error
            except UserInputError as error:
                raise _damaged(self.path, f"frame {index + 1}: {error.message}: {error.found}") from error
            yield frame if frame.dtype.kind in "iu" else frame.astype(np.float32, copy=False)

    def _iter_pages(self) -> Iterator[np.ndarray]:
        is_eer, stored = (
            Path(self.path).suffix.lower() == ".eer",
            (self.shape[0], (self.shape[1] + 1) // 2) if self.packed else self.shape,
        )
        with _opened(self.path) as tiff:
            start = first = eer.first_frame(tiff) if is_eer else 0
            for per_item in self.frames_of_item:
                total = None
                for index in range(first, first + per_item):
                    number = index + 1 - start
                    try:
                        _check_page(tiff, index, is_eer)
                        frame = eer.decode_frame(tiff, index, self.super_resolution) if is_eer else tiff.pages[index].asarray()
                    except _page_errors() as error:
                        raise _damaged(self.path, f"frame {number}: {error}") from error
                    if frame.shape != stored:
                        raise _damaged(self.path, f"frame {number} of size {frame.shape}, not {stored}")
                    if per_item == 1 and frame.dtype.kind in "iu":
                        total = frame
                    else:
                        total = frame.astype(np.float32) if total is None else np.add(total, frame, out=total)
                first += per_item
                yield total[::-1]


def _damaged(path: str, found: str) -> UserInputError:
    return UserInputError(
        "E-MOVIE-02", "the movie is damaged", file=path, found=found, expected="readable frames of one size",
        fix="copy the file again, or remove its section from the mdoc",
    )


def _page_errors() -> tuple:
    """What tifffile and the decoders raise for tags and data that are not what they should be."""
    import tifffile

    return (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        OSError,
        struct.error,
        tifffile.TiffFileError,
    )


def _opened(path: str):
    import tifffile

    try:
        return tifffile.TiffFile(path)
    except _page_errors() as error:
        raise _damaged(path, str(error) or "no TIFF pages") from error


def _check_page(tiff, index: int, is_eer: bool) -> None:
    """Raises ValueError unless all bytes of page `index` are in the file (tifffile would fill in zeros) and can make
    a frame of its size.

    Nothing is allocated before: a frame that a damaged header makes huge has too few bytes.
    """
    page = tiff.pages[index]
    if len(page.dataoffsets) > _LARGEST_TAG or len(page.dataoffsets) != len(page.databytecounts):
        raise ValueError(f"{len(page.dataoffsets)} strips, {len(page.databytecounts)} lengths")
    end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
    if end > tiff.filehandle.size:
        raise ValueError(f"its data end at byte {end}, the file at byte {tiff.filehandle.size}")
    stored = sum(page.databytecounts)
    if is_eer:
        return  # decode_frame looks at the size; empty frames have hardly any bytes
    if len(page.shape) != 2 or not isinstance(page.bitspersample, int):
        raise ValueError(f"a frame of {page.shape} with {page.bitspersample} bits")
    frame = page.size * max(page.bitspersample, 1) // 8  # bits of a sample are fewer than 8 for packed counts
    if page.size > LARGEST_FRAME:
        raise ValueError(f"a frame of {page.shape}")
    if stored < (frame if int(page.compression) == 1 else frame * _SMALLEST_SHARE):
        raise ValueError(f"{stored} bytes for a frame of {page.shape}")


def _check_chain(tiff, path: str, count: int) -> None:
    """Raises E-MOVIE-02 if the last page that was found names a further one: then the file was cut behind it."""
    size = tiff.tiff.offsetsize
    tiff.filehandle.seek(tiff.pages.next_page_offset)
    behind = int.from_bytes(tiff.filehandle.read(size), "little" if tiff.byteorder == "<" else "big")
    if behind:
        raise _damaged(path, f"frame {count + 1} begins at byte {behind}, the file ends at byte {tiff.filehandle.size}")


def open_tiff(path: str, *, is_eer: bool = False) -> Movie:
    """The TIFF (whatever it is called) with one item per frame. Raises UserInputError E-MOVIE-02, E-MOVIE-03."""
    with _opened(path) as tiff:
        try:
            page, start = tiff.pages[0], eer.first_frame(tiff) if is_eer else 0
            count = len(tiff.pages) - start
            shape = tuple(int(n) for n in page.shape)
            single = page.dtype is not None and page.dtype.itemsize == 1 and page.bitspersample == 8
            stated = eer.stated_frames(tiff) if is_eer else 0
        except _page_errors() as error:
            raise _damaged(path, str(error) or "no TIFF pages") from error
        if count < 1:
            raise _damaged(path, "no frames")
        if is_eer and len(shape) == 2 and shape[0] * shape[1] > _LONGEST_RUN * tiff.filehandle.size:
            raise _damaged(path, f"{tiff.filehandle.size} bytes for frames of {shape}")
        if len(shape) != 2 or not 0 < shape[0] * shape[1] <= LARGEST_FRAME:
            raise UserInputError(
                "E-MOVIE-03", "frames of this size cannot be a movie", file=path, field="size", found=str(shape),
                expected="(h, w) of one camera", fix="check that this file is a movie",
            )
        _check_chain(tiff, path, count)
    return Movie(path, (1,) * count, shape, 0.0, bytes_=single and not is_eer, stated_frames=stated)


def _open_mrc(path: str) -> Movie:
    try:
        header = read_header(path)
        pixel = header.pixel_size_angst
    except UserInputError as error:
        if not error.code.startswith("E-MRC-"):
            raise
        expected = f", not {error.expected}" if error.expected else ""
        raise _damaged(path, f"{error.message}: {error.found}{expected}") from error
    if header.shape[1] * header.shape[2] > LARGEST_FRAME:
        raise _damaged(path, f"frames of {header.shape[1:]}")
    single = header.mode == 0
    return Movie(path, (1,) * header.n_sections, header.shape[1:], pixel, bytes_=single)


def grouped(count: int, groups: int) -> tuple[int, ...]:
    """Sizes of ``groups`` groups (at most ``count``) of successive frames, all of them used, no two differing by more
    than one."""
    groups = min(max(1, groups), count)
    return tuple(b - a for a, b in pairwise(i * count // groups for i in range(groups + 1)))


def open_movie(
    path: str | os.PathLike, *, eer_fractions: int = 16, eer_super_resolution: int = 1
) -> Movie:
    """Look at a movie (MRC, TIFF, EER by suffix) and return it for iteration.

    eer_fractions: EER frames are summed into this many items, all of them, in groups that differ by at most one frame
    (:func:`grouped`). eer_super_resolution: 1, 2 or 4 pixels per camera pixel and axis, placed by the sub-pixel bits
    of the events. Both are ignored for other formats.

    Raises UserInputError E-FILE-01, E-MOVIE-01 (unknown format), E-MOVIE-02 (damaged), E-MOVIE-03.
    """
    where, suffix = os.fspath(path), Path(path).suffix.lower()
    if suffix in _MRC:
        return _open_mrc(where)
    if suffix not in _TIFF and suffix != ".eer":
        raise UserInputError(
            "E-MOVIE-01", "unknown movie format", file=where, found=suffix or "no suffix",
            expected="mrc, mrcs, tif, tiff or eer", fix="convert the movie to TIFF or MRC",
        )
    if not Path(path).is_file():
        raise UserInputError("E-FILE-01", "no such file", file=where, fix="check data.movies_dir in the config")
    movie = open_tiff(where, is_eer=suffix == ".eer")
    if suffix != ".eer":
        return movie
    shape = (movie.shape[0] * eer_super_resolution, movie.shape[1] * eer_super_resolution)
    return replace(
        movie, frames_of_item=grouped(movie.n_frames, eer_fractions), shape=shape, super_resolution=eer_super_resolution
    )


def fractions_for(exposure_e_per_a2: float, per_fraction_e_per_a2: float, where: str = "") -> int:
    """Number of EER fractions so that each holds about ``per_fraction_e_per_a2`` of a tilt's exposure (at least 1).

    Raises UserInputError E-MOVIE-05 when the exposure of the tilt is not known.
    """
    if not exposure_e_per_a2 > 0:
        raise UserInputError(
            "E-MOVIE-05", "the exposure of this tilt is not known", file=where, field="exposure_e_per_a2",
            found=f"{exposure_e_per_a2:g} e/A^2", expected="a positive number",
            fix="give the exposure per tilt (import_tilt_series) or use eer_fractions, leaving "
            "eer_exposure_per_fraction_e_per_a2 empty",
        )
    return max(1, round(exposure_e_per_a2 / per_fraction_e_per_a2))
