"""What the movies of a series, its mdoc, its gain reference and its defects say about sizes and numbers of frames,
compared once.

Everything that later steps may take for granted is decided here: the size of a frame, whether bytes hold two counts
each, which movies cannot be used, and which share of its exposure each one holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.acquisition import size_fit, stated_size
from cryoet_core.io.defects import read_defects
from cryoet_core.io.gain import check_gain_fits, open_reference
from cryoet_core.io.mdoc import Mdoc, MdocSection
from cryoet_core.io.movies import Movie, open_movie
from cryoet_core.io.mrc import unpack_nibbles

FEW_FRAMES = 0.9  # of the frames that other movies have: fewer are a loss even where nothing says how many there were
SAME_COUNT = 0.02  # relative: the mdoc's numbers of frames are those of the files
_HALVES_ALIKE = 1.5  # ratio of the counts in the lower and the upper halves of packed bytes


@dataclass(frozen=True)
class Sizes:
    """movies: one per path, None where it cannot be used. shape: (h, w) of their frames, in camera pixels for EER.
    confirmed: a gain reference of that size is there."""

    movies: list[Movie | None]
    shape: tuple[int, int]
    confirmed: bool
    warnings: list[str]


@dataclass(frozen=True)
class Counts:
    """n_frames (n,) in each file; expected (n,) that were recorded; lost: {"movie", "n_frames", "expected"} of each
    that has fewer."""

    n_frames: np.ndarray
    expected: np.ndarray
    lost: list[dict]
    warnings: list[str]

    @property
    def share(self) -> np.ndarray:
        """(n,) share of the exposure that the frames in the file hold."""
        return np.where(self.n_frames > 0, self.n_frames / np.maximum(self.expected, 1), 1.0)


def compare_sizes(
    paths: Sequence[Path | None],
    mdoc: Mdoc,
    *,
    tilt_axis_given: bool = False,
    gain: str | None = None,
    defects: str | None = None,
) -> Sizes:
    """Open every movie (None: there is none) and settle the size of a frame.

    Most movies decide; a damaged one or one of another size costs its view, with a warning. Bytes in pages half as
    wide as the mdoc or the gain reference says hold two counts each.

    Raises UserInputError E-MOVIE-02 (most movies damaged), E-MOVIE-04 (half of them of other sizes), E-MOVIE-07
    (bytes that are not packed counts), E-MOVIE-08 (frames lie across the images that the mdoc describes), and what is
    wrong with gain reference or defects (E-GAIN-*, E-DEF-*).
    """
    opened = [None if path is None else _look(path) for path in paths]
    movies = [found if isinstance(found, Movie) else None for found in opened]
    errors = [found for found in opened if isinstance(found, UserInputError)]
    warnings = [f"this view will be left out: {error}" for error in errors]
    if errors and (2 * len(errors) > len(paths) or not any(movies)):
        raise errors[0]
    reference = None if gain is None else open_reference(gain)
    shape = _most_frequent([movie.shape for movie in movies if movie])
    stated = stated_size(mdoc)
    first = next(movie for movie in movies if movie and movie.shape == shape)
    wide = unpacked_shape(first, [s for s in (stated, reference and reference.shape[::-1]) if s])
    if wide is not None:
        _check_packed(first, mdoc, wide)
        warnings.append(
            f"the movies hold two counts in each byte (packed raw data): pages of {shape[1]} x {shape[0]} bytes are "
            f"frames of {wide[1]} x {wide[0]}"
        )
        shape = wide
    movies = [movie and movie.unpacked_to(shape) for movie in movies]
    movies, more = _of_one_size(movies, shape)
    warnings += more + orientation(shape, mdoc, tilt_axis_given)
    if reference is not None:
        check_gain_fits(reference.shape, shape, reference.path)
    if defects is not None:
        read_defects(defects, shape)
    return Sizes(movies, shape, reference is not None, warnings)


def _look(path: Path) -> Movie | UserInputError:
    """The movie with all its frames, or what is wrong with this one file."""
    try:
        return open_movie(path, eer_fractions=1 << 20)
    except UserInputError as error:
        if not error.code.startswith(("E-MOVIE-", "E-MRC-")):
            raise
        return error


def _most_frequent(values: list):
    return Counter(values).most_common(1)[0][0]


def unpacked_shape(movie: Movie, sizes: list[tuple[int, int]]) -> tuple[int, int] | None:
    """(h, w) of the frames of a movie whose bytes hold two counts: its pages fit the first known size (w, h) only
    with twice their width."""
    if not movie.bytes_ or not sizes or size_fit(movie.shape, sizes[0]) is not None:
        return None
    h, w = movie.shape
    fits = {width: size_fit((h, width), sizes[0]) for width in (2 * w, 2 * w - 1)}
    found = [width for width, fit in fits.items() if fit and not fit.transposed]
    return (h, min(found, key=lambda width: fits[width].error)) if found else None


def _check_packed(movie: Movie, mdoc: Mdoc, shape: tuple[int, int]) -> None:
    """Raises E-MOVIE-07 unless the lower and the upper halves of the bytes of the first frame hold as many counts."""
    counts = unpack_nibbles(next(iter(movie)).view(np.uint8), 2 * movie.shape[1])
    lower, upper = (float(counts[:, i::2].mean()) for i in (0, 1))
    if max(lower, upper) > _HALVES_ALIKE * min(lower, upper):
        raise UserInputError(
            "E-MOVIE-07",
            "the movies are not of the size that the mdoc says",
            file=movie.path,
            field="size (w x h)",
            found=f"{movie.shape[1]} x {movie.shape[0]} bytes, which are no packed counts (mean {lower:.3g} in their "
            f"lower, {upper:.3g} in their upper halves)",
            expected=f"{shape[1]} x {shape[0]} ({Path(mdoc.path).name} or the gain reference)",
            fix="give the movies that belong to this mdoc",
        )


def _of_one_size(movies: list[Movie | None], shape: tuple[int, int]) -> tuple[list[Movie | None], list[str]]:
    others = [movie for movie in movies if movie and movie.shape != shape]
    errors = [
        UserInputError(
            "E-MOVIE-04",
            "movies of one series differ in size",
            file=movie.path,
            field="size (h, w)",
            found=str(movie.shape),
            expected=str(shape),
            fix="remove this image from the mdoc",
        )
        for movie in others
    ]
    if 2 * len(others) >= sum(movie is not None for movie in movies):
        raise errors[0]
    return [movie if movie and movie.shape == shape else None for movie in movies], [
        f"this view will be left out: {error}" for error in errors
    ]


def orientation(shape: tuple[int, int], mdoc: Mdoc, tilt_axis_given: bool) -> list[str]:
    """A warning, or E-MOVIE-08, where frames are as high as the mdoc's images are wide: then the mdoc's tilt axis is
    not that of the frames."""
    stated = stated_size(mdoc)
    fit = size_fit(shape, stated)
    if fit is None or not fit.transposed:
        return []
    found = f"{shape[1]} x {shape[0]}"
    if tilt_axis_given:
        return [
            f"the movies ({found}) lie across the images of the mdoc ({stated[0]} x {stated[1]}): the tilt axis of "
            f"the config must be that of the movies"
        ]
    turn = next(
        (f", RotationAndFlip {text}" for s in [mdoc.header, *mdoc.images] if (text := s.text("RotationAndFlip"))), ""
    )
    raise UserInputError(
        "E-MOVIE-08",
        "the movies lie across the images that the mdoc describes, so its tilt axis is not theirs",
        file=mdoc.path,
        field="size (w x h)",
        found=found,
        expected=f"{stated[0]} x {stated[1]} (ImageSize{turn})",
        fix="set import_tilt_series.tilt_axis_deg to the axis as it lies in the movies (from image +y, "
        "counter-clockwise)",
    )


def compare_counts(
    movies: Sequence[Movie | None], sections: Sequence[MdocSection], exposure_e_per_a2: np.ndarray
) -> Counts:
    """How many frames every movie has, and how many it should have.

    What the file itself says was recorded decides, and what the mdoc says (NumSubFrames, else FrameDosesAndNumber),
    where most movies agree with it; else the other movies: as many frames for as much dose. exposure_e_per_a2: (n,)
    as stated, for a whole movie.
    """
    counts = np.array([movie.n_raw_frames if movie else 0 for movie in movies])
    own = np.array([movie.stated_frames if movie else 0 for movie in movies])
    stated = np.array([_stated_frames(section) for section in sections])
    expected, warnings = counts.copy(), []
    trusted = [numbers for numbers in (own, stated) if _agrees(counts, numbers)]
    for numbers in trusted:
        expected = np.where(_falls_short(counts, numbers), np.maximum(expected, numbers), expected)
    if stated.any() and not _agrees(counts, stated) and not own.any():
        known = (stated > 0) & (counts > 0)
        if known.any():
            warnings.append(
                f"the mdoc says {_span(stated[known])} frames, the movies have {_span(counts[known])}: the dose was "
                f"taken as that of the frames there are"
            )
    if not trusted:
        expected = np.maximum(expected, _usual(counts, np.asarray(exposure_e_per_a2, dtype=np.float64)))
    lost = [
        {"movie": movie.path, "n_frames": int(n), "expected": int(e)}
        for movie, n, e in zip(movies, counts, expected, strict=True)
        if movie and n < e
    ]
    warnings += [
        f"{Path(entry['movie']).name}: {entry['n_frames']} of {entry['expected']} frames are there: "
        f"{entry['expected'] - entry['n_frames']} are lost, "
        f"the dose of this view counts as {entry['n_frames'] / entry['expected']:.3g} of the stated one"
        for entry in lost
    ]
    if _agrees(counts, stated):
        warnings += [
            f"{Path(movie.path).name}: {n} frames, the mdoc says {s}"
            for movie, n, s in zip(movies, counts, stated, strict=True)
            if movie and 0 < s < n
        ]
    return Counts(counts, expected, lost, warnings)


def _stated_frames(section: MdocSection) -> int:
    """Frames of a section by its mdoc; 0 where it does not say."""
    try:
        number = section.number("NumSubFrames")
        pairs = section.numbers("FrameDosesAndNumber", "FrameDosesAndNumbers") or []
    except UserInputError:
        return 0
    number = number or sum(pairs[1::2])
    return int(number) if 0 < number < 1e6 else 0


def _agrees(counts: np.ndarray, stated: np.ndarray) -> bool:
    """Whether most movies have the number of frames that is stated for them."""
    known = (counts > 0) & (stated > 0)
    return bool(known.any() and 2 * np.sum(np.abs(counts[known] / stated[known] - 1) <= SAME_COUNT) > known.sum())


def _falls_short(counts: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """(n,) bool: fewer frames than stated; where most movies have a frame or two less than stated, clearly fewer."""
    known = (counts > 0) & (stated > 0)
    exact = 2 * np.sum(counts[known] == stated[known]) > known.sum()
    return known & (counts < stated * (1.0 if exact else 1.0 - SAME_COUNT))


def _usual(counts: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """(n,) frames that the other movies let expect, where a movie has far fewer; else its own."""
    there = counts > 0
    if there.sum() < 3:
        return counts
    usual = np.full(len(counts), float(np.median(counts[there])))
    known = there & (exposure > 0)
    if known.any():
        usual = np.minimum(usual, np.where(exposure > 0, np.median(counts[known] / exposure[known]) * exposure, usual))
    return np.where(there & (counts < FEW_FRAMES * usual), np.rint(usual), counts).astype(np.int64)


def _span(numbers: np.ndarray) -> str:
    return f"{numbers.min()}" if numbers.min() == numbers.max() else f"{numbers.min()} to {numbers.max()}"
