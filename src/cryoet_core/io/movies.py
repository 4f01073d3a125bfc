"""Movies: frames one after another from MRC, TIFF or EER, never the whole movie in memory.

Row 0 of every frame is at the bottom, as in MRC. TIFF stores the top row first, so TIFF frames are flipped in y
on reading (as RELION and Warp do): a movie and a gain reference agree whatever their formats. EER frames are
decoded as TIFF pages and flipped alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io import eer
from cryoet_core.io.mrc import iter_sections, read_header

_MRC = {".mrc", ".mrcs", ".st", ".map", ".ali"}
_TIFF = {".tif", ".tiff"}
_LARGEST_FRAME = 1 << 30


@dataclass(frozen=True)
class Movie:
    """A movie that can be iterated any number of times; each pass opens and closes the file.

    n_frames: frames that iteration gives (fractions for EER); shape: (h, w) of a frame; pixel_size_angst: 0.0 if the
    file does not say; frames_per_item: raw frames summed into one item and super_resolution: how much finer than the
    camera's pixels events are placed (both 1 except for EER).
    """

    path: str
    n_frames: int
    shape: tuple[int, int]
    pixel_size_angst: float
    frames_per_item: int = 1
    super_resolution: int = 1

    def __len__(self) -> int:
        return self.n_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (h, w), row 0 at the bottom, whole numbers as the file has them (bytes take a quarter of the memory), else float32; NaN and
        infinite values are given as they are.

        Raises UserInputError E-MOVIE-02 for damaged data.
        """
        yield from self._iter_sections() if Path(self.path).suffix.lower() in _MRC else self._iter_pages()

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
        import tifffile

        is_eer, per_item = Path(self.path).suffix.lower() == ".eer", self.frames_per_item
        with _opened(self.path) as tiff:
            start = eer.first_frame(tiff) if is_eer else 0
            for first in range(start, start + self.n_frames * per_item, per_item):
                total = None
                for index in range(first, first + per_item):
                    number = index + 1 - start
                    try:
                        _check_inside(tiff, index)
                        frame = eer.decode_frame(tiff, index, self.super_resolution) if is_eer else tiff.pages[index].asarray()
                    except (ValueError, RuntimeError, OSError, IndexError, tifffile.TiffFileError) as error:
                        raise _damaged(self.path, f"frame {number}: {error}") from error
                    if frame.shape != self.shape:
                        raise _damaged(self.path, f"frame {number} of size {frame.shape}, not {self.shape}")
                    if per_item == 1 and frame.dtype.kind in "iu":
                        total = frame
                    else:
                        total = frame.astype(np.float32) if total is None else np.add(total, frame, out=total)
                yield total[::-1]


def _damaged(path: str, found: str) -> UserInputError:
    return UserInputError(
        "E-MOVIE-02", "the movie is damaged", file=path, found=found, expected="readable frames of one size",
        fix="copy the file again, or remove its section from the mdoc",
    )


def _opened(path: str):
    import tifffile

    try:
        return tifffile.TiffFile(path)
    except (ValueError, IndexError, OSError, tifffile.TiffFileError) as error:
        raise _damaged(path, str(error) or "no TIFF pages") from error


def _check_inside(tiff, index: int) -> None:
    """Raises ValueError unless all bytes of page `index` are in the file (tifffile would fill in zeros)."""
    page = tiff.pages[index]
    end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
    if end > tiff.filehandle.size:
        raise ValueError(f"its data end at byte {end}, the file at byte {tiff.filehandle.size}")


def _check_chain(tiff, path: str, count: int) -> None:
    """Raises E-MOVIE-02 if the last page that was found names a further one: then the file was cut behind it."""
    size = tiff.tiff.offsetsize
    tiff.filehandle.seek(tiff.pages.next_page_offset)
    behind = int.from_bytes(tiff.filehandle.read(size), "little" if tiff.byteorder == "<" else "big")
    if behind:
        raise _damaged(path, f"frame {count + 1} begins at byte {behind}, the file ends at byte {tiff.filehandle.size}")


def _open_tiff(path: str, *, is_eer: bool) -> tuple[int, tuple[int, int]]:
    """Frames in the file and their (h, w)."""
    import tifffile

    with _opened(path) as tiff:
        try:
            shape, start = tiff.pages[0].shape, eer.first_frame(tiff) if is_eer else 0
            count = len(tiff.pages) - start
        except (ValueError, IndexError, OSError, tifffile.TiffFileError) as error:
            raise _damaged(path, str(error) or "no TIFF pages") from error
        if count < 1:
            raise _damaged(path, "no frames")
        if len(shape) != 2 or shape[0] * shape[1] > _LARGEST_FRAME:
            raise UserInputError(
                "E-MOVIE-03", "frames of this size cannot be a movie", file=path, field="size", found=str(shape),
                expected="(h, w) of one camera", fix="check that this file is a movie",
            )
        _check_chain(tiff, path, count)
    return count, (int(shape[0]), int(shape[1]))


def _open_mrc(path: str) -> Movie:
    try:
        header = read_header(path)
    except UserInputError as error:
        if error.code != "E-MRC-01":
            raise
        raise _damaged(path, f"{error.message}: {error.found}, not {error.expected}") from error
    return Movie(path, header.n_sections, header.shape[1:], header.pixel_size_angst)


def open_movie(
    path: str | os.PathLike, *, eer_fractions: int = 16, eer_super_resolution: int = 1
) -> Movie:
    """Look at a movie (MRC, TIFF, EER by suffix) and return it for iteration.

    eer_fractions: EER frames are summed into this many items of equal length; frames left over at the end are
    not used (as Warp's eer_ngroups). eer_super_resolution: 1, 2 or 4 pixels per camera pixel and axis, placed by the
    sub-pixel bits of the events. Both are ignored for other formats.

    Raises UserInputError E-FILE-01, E-MRC-*, E-MOVIE-01 (unknown format), E-MOVIE-02 (damaged), E-MOVIE-03.
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
    count, shape = _open_tiff(where, is_eer=suffix == ".eer")
    if suffix != ".eer":
        return Movie(where, count, shape, 0.0)
    per_item = max(1, count // max(1, eer_fractions))
    shape = (shape[0] * eer_super_resolution, shape[1] * eer_super_resolution)
    return Movie(where, min(max(1, eer_fractions), count // per_item), shape, 0.0, per_item, eer_super_resolution)


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
