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

    n_frames: frames that iteration gives (fractions for EER); shape: (h, w); pixel_size_angst: 0.0 if the file
    does not say; frames_per_item: raw frames summed into one item (1 except for EER).
    """

    path: str
    n_frames: int
    shape: tuple[int, int]
    pixel_size_angst: float
    frames_per_item: int = 1

    def __len__(self) -> int:
        return self.n_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (h, w) float32, row 0 at the bottom. Raises UserInputError E-MOVIE-02 for damaged data."""
        if Path(self.path).suffix.lower() in _MRC:
            yield from iter_sections(self.path)
        else:
            yield from _iter_pages(self.path, self.n_frames, self.frames_per_item, self.shape)


def _damaged(path: str, found: str) -> UserInputError:
    return UserInputError(
        "E-MOVIE-02", "the movie is damaged", file=path, found=found, expected="readable frames of one size",
        fix="copy the file again, or remove its section from the mdoc",
    )


def _iter_pages(path: str, count: int, per_item: int, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    import tifffile

    is_eer = Path(path).suffix.lower() == ".eer"
    with tifffile.TiffFile(path) as tiff:
        start = eer.first_frame(tiff) if is_eer else 0
        for first in range(start, start + count * per_item, per_item):
            total = np.zeros(shape, dtype=np.float32)
            for index in range(first, first + per_item):
                try:
                    frame = eer.decode_frame(tiff, index) if is_eer else tiff.pages[index].asarray()
                except (ValueError, RuntimeError, OSError, IndexError, tifffile.TiffFileError) as error:
                    raise _damaged(path, f"frame {index + 1}: {error}") from error
                if frame.shape != shape:
                    raise _damaged(path, f"frame {index + 1} of size {frame.shape}, not {shape}")
                total += frame
            yield total[::-1]


def _open_tiff(path: str) -> tuple[int, tuple[int, int]]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            shape, count = tiff.pages[0].shape, len(tiff.pages)
            if Path(path).suffix.lower() == ".eer":
                count -= eer.first_frame(tiff)
    except (ValueError, IndexError, tifffile.TiffFileError) as error:
        raise _damaged(path, str(error) or "no TIFF pages") from error
    if count < 1:
        raise _damaged(path, "no frames")
    if len(shape) != 2 or shape[0] * shape[1] > _LARGEST_FRAME:
        raise UserInputError(
            "E-MOVIE-03", "frames of this size cannot be a movie", file=path, field="size", found=str(shape),
            expected="(h, w) of one camera", fix="check that this file is a movie",
        )
    return count, (int(shape[0]), int(shape[1]))


def open_movie(path: str | os.PathLike, *, eer_fractions: int = 16) -> Movie:
    """Look at a movie (MRC, TIFF, EER by suffix) and return it for iteration.

    eer_fractions: EER frames are summed into this many items of equal length; frames left over at the end are
    not used (as Warp's eer_ngroups).

    Raises UserInputError E-FILE-01, E-MRC-*, E-MOVIE-01 (unknown format), E-MOVIE-02 (damaged), E-MOVIE-03.
    """
    where, suffix = os.fspath(path), Path(path).suffix.lower()
    if suffix in _MRC:
        header = read_header(path)
        return Movie(where, header.n_sections, header.shape[1:], header.pixel_size_angst)
    if suffix not in _TIFF and suffix != ".eer":
        raise UserInputError(
            "E-MOVIE-01", "unknown movie format", file=where, found=suffix or "no suffix",
            expected="mrc, mrcs, tif, tiff or eer", fix="convert the movie to TIFF or MRC",
        )
    if not Path(path).is_file():
        raise UserInputError("E-FILE-01", "no such file", file=where, fix="check data.movies_dir in the config")
    count, shape = _open_tiff(where)
    if suffix != ".eer":
        return Movie(where, count, shape, 0.0)
    per_item = max(1, count // max(1, eer_fractions))
    return Movie(where, min(max(1, eer_fractions), count // per_item), shape, 0.0, per_item)
