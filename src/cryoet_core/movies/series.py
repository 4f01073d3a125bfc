"""All views of a tilt series through motion correction, one movie (or ready image) in memory at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoet_core.errors import CryoetError, DataQualityError, UserInputError
from cryoet_core.fourier import bin_images, binned_shape
from cryoet_core.io.gain import Gain
from cryoet_core.io.images import image_names, load_named_images
from cryoet_core.io.movies import Movie, fractions_for, open_movie
from cryoet_core.metadata import TiltSeries
from cryoet_core.movies.correct import MotionSettings, correct_movie
from cryoet_core.movies.halves import NoiseModel, noise_model, split_image
from cryoet_core.movies.motion import MotionTrack

UNREADABLE = "unreadable_movie"  # the reason in the table
STORED_OFFSET = 32768.0
OFFSET_MEAN = (
    -8192.0
)  # views whose mean is above this are not unsigned counts less 32768 (or of more than 24576 counts per pixel)
_UNREADABLE_CODES = ("E-FILE-", "E-MRC-", "E-MOVIE-01", "E-MOVIE-02", "E-MOVIE-03", "E-MOV-")


@dataclass(frozen=True)
class CorrectedView:
    """even, odd (h, w) float32, image = even + odd; track is None for a view that came as one image or could not be
    read: error is then why, and its images are zero. halves : how they were made (correct.CorrectedMovie); n_frames :
    of the camera, all used."""

    tilt_id: int
    even: np.ndarray
    odd: np.ndarray
    track: MotionTrack | None
    n_defects: int
    error: str | None = None
    halves: str = "frames"
    n_frames: int = 0

    @property
    def image(self) -> np.ndarray:
        return self.even + self.odd


def comes_as_stack(series: TiltSeries) -> bool:
    """True when the table names ready images instead of movies."""
    return "movie" not in series.tilts


def corrected_shape(series: TiltSeries, binning: int) -> tuple[int, int]:
    """(h, w) of the images that :func:`correct_views` gives."""
    shape = series.image_size_px[::-1]
    return shape if binning == 1 else binned_shape(shape, binning)


def at_camera_pixels(series: TiltSeries) -> TiltSeries:
    """The series with its EER movies drawn at the camera's own pixels (sizes and pixel sizes with them)."""
    s = series.eer_super_resolution
    size = (series.image_size_px[0] // s, series.image_size_px[1] // s)
    return dataclasses.replace(
        series, eer_super_resolution=1, image_size_px=size, pixel_size_angst=series.pixel_size_angst * s,
        movie_pixel_size_angst=series.movie_pixel_size_angst * s,
    )


def stack_offset(series: TiltSeries) -> float:
    """What must be added to the values of a ready stack: 32768 where unsigned counts were stored as signed ones less
    32768 (SerialEM, IMOD), else 0.

    Then all values lie in -32768 to 32767 and every view is far below zero, which no normalised or background-free
    image is.
    """
    for name in series.tilts["image"]:
        image = load_named_images([name])[0]
        if not (
            image.mean(dtype=np.float64) < OFFSET_MEAN and image.min() >= -STORED_OFFSET and image.max() < STORED_OFFSET
        ):
            return 0.0
    return STORED_OFFSET


def _ready_image(name: str, offset: float) -> np.ndarray:
    """(h, w) float32 image of a ready stack, its stored offset undone."""
    image = load_named_images([name])[0]
    return image + np.float32(offset) if offset else image


def stack_noise_model(series: TiltSeries, offset: float = 0.0) -> NoiseModel:
    """How the counting noise of a ready stack can be split into halves; reads every image once. offset:
    :func:`stack_offset`."""
    return noise_model(_ready_image(name, offset) for name in series.tilts["image"])


def raw_sum(series: TiltSeries, n_movies: int, eer_fractions: int = 16) -> np.ndarray:
    """(h, w) float32 sum of the uncorrected frames of the ``n_movies`` least tilted readable views: what a gain is compared with.

    EER movies are summed at the camera's own pixels, where the gain reference has its structure.
    """
    series = at_camera_pixels(series)
    order = np.argsort(series.tilts["nominal_tilt_deg"].abs().to_numpy(), kind="stable")
    total, read = np.zeros(series.image_size_px[::-1], dtype=np.float32), 0
    for row in order:
        movie = np.zeros_like(total)
        try:
            for frame in _open(series, series.tilts["movie"].iloc[row], eer_fractions):
                movie += frame
        except CryoetError as error:
            if not _is_unreadable(error):
                raise
            continue  # correct_views says so
        total += movie
        read += 1
        if read == n_movies:
            break
    return total


def _is_unreadable(error: CryoetError) -> bool:
    """Whether the fault is this one movie's, and not the config's or the machine's."""
    return isinstance(error, UserInputError | DataQualityError) and error.code.startswith(_UNREADABLE_CODES)


def _open(series: TiltSeries, path: str, eer_fractions: int) -> Movie:
    """The movie. Raises UserInputError E-MOVIE-02 if its frames are not of the series' size, and the reader's errors."""
    movie = open_movie(path, eer_fractions=eer_fractions, eer_super_resolution=series.eer_super_resolution)
    movie = movie.unpacked_to(series.image_size_px[::-1])
    if movie.shape != series.image_size_px[::-1]:
        raise UserInputError(
            "E-MOVIE-02", "the movie is damaged", file=path, field="size (h, w)", found=str(movie.shape),
            expected=str(series.image_size_px[::-1]), fix="copy the file again, or remove its section from the mdoc",
        )
    return movie


def _check_is_there(row) -> None:
    """Raises E-FILE-01 for a view that the import already left out because it has no movie; its message says why, not
    how to read one."""
    if row.excluded and not Path(row.movie).exists():
        raise UserInputError(
            "E-FILE-01",
            "the view has no movie",
            file=row.movie,
            found=f"left out on import as {row.exclude_reason}",
            fix="see the log of import_tilt_series",
        )


def _exposures(series: TiltSeries, settings: MotionSettings, movies: bool) -> np.ndarray:
    """e/A^2 of every view, NaN where it is not known; E-MOVIE-06 if the frames are to be weighted by it."""
    known = "exposure_e_per_a2" in series.tilts
    found = series.tilts["exposure_e_per_a2"].to_numpy(float) if known else np.full(len(series), np.nan)
    found = np.where(found > 0, found, np.nan)
    if movies and settings.dose_weighting and np.isnan(found).any():
        raise UserInputError(
            "E-MOVIE-06", "frames cannot be dose-weighted: the exposure of a tilt is not known", field="correct_motion.dose_weighting",
            found=f"tilt {int(series.tilts['tilt_id'].iloc[int(np.isnan(found).argmax())])}",
            fix="give import_tilt_series.dose_per_tilt_e_per_a2, or set dose_weighting: false",
        )
    return found


def _binned(view: CorrectedView, binning: int) -> CorrectedView:
    if binning == 1:
        return view
    even, odd = (bin_images(half, binning) for half in (view.even, view.odd))
    return dataclasses.replace(view, even=even, odd=odd)


def correct_views(
    series: TiltSeries,
    gain: Gain | None,
    settings: MotionSettings,
    noise: NoiseModel | None,
    *,
    binning: int = 1,
    eer_fractions: int = 16,
    eer_exposure: float | None = None,
    offset: float = 0.0,
    seed_of: Callable[[int], int] = int,
    device: str = "cpu",
) -> Iterator[CorrectedView]:
    """Corrected views in the order of the table's rows.

    noise : model of a ready stack (:func:`stack_noise_model`), whose images pass unchanged and are split into halves;
    None for movies. eer_exposure : e/A^2 of one EER frame, instead of a number of frames. offset : added to a ready
    stack (:func:`stack_offset`). seed_of : tilt_id -> seed of that view. Raises UserInputError E-MOVIE-06 if frames
    are to be dose-weighted and the exposure of a tilt is not known. A movie that cannot be read gives a view of zeros
    with its error; the error is raised when more than half of the movies are so.
    """
    unreadable, exposures = 0, _exposures(series, settings, noise is None)
    for row, exposure in zip(series.tilts.itertuples(), exposures, strict=True):
        seed = seed_of(int(row.tilt_id))
        if noise is not None:
            even, odd = split_image(_ready_image(row.image, offset), noise, np.random.default_rng(seed))
            view = CorrectedView(int(row.tilt_id), even, odd, None, 0)
        else:
            fractions = fractions_for(row.exposure_e_per_a2, eer_exposure, row.movie) if eer_exposure else eer_fractions
            try:
                _check_is_there(row)
                movie = _open(series, row.movie, fractions)
                done = correct_movie(
                    lambda movie=movie: iter(movie),
                    series.movie_pixel_size_angst,
                    gain,
                    settings,
                    exposure_e_per_a2=exposure,
                    voltage_kv=series.voltage_kv,
                    raw_frames=movie.frames_of_item,
                    seed=seed,
                    device=device,
                )
                view = CorrectedView(
                    int(row.tilt_id),
                    done.even,
                    done.odd,
                    done.track,
                    done.n_defects,
                    halves=done.halves,
                    n_frames=movie.n_raw_frames,
                )
            except CryoetError as error:
                unreadable += 1
                if not _is_unreadable(error) or 2 * unreadable > len(series):
                    raise
                empty = np.zeros(series.image_size_px[::-1], dtype=np.float32)
                view = CorrectedView(int(row.tilt_id), empty, empty, None, 0, str(error))
        yield _binned(view, binning)


def corrected_series(series: TiltSeries, paths, tracks: dict, binning: int) -> TiltSeries:
    """The table after this step: image, image_even, image_odd, motion_rms_angst, motion_model; pixel and image size."""
    n, (h, w) = len(series), corrected_shape(series, binning)
    names = {f"image{suffix}": image_names(n, path) for suffix, path in zip(("", "_even", "_odd"), paths, strict=True)}
    found = [tracks.get(int(i)) for i in series.tilts["tilt_id"]]
    rms = [0.0 if t is None else t.rms_px * series.movie_pixel_size_angst for t in found]
    model = ["none" if t is None else t.model + ("+local" if t.local is not None else "") for t in found]
    out = series.with_columns(**names, motion_rms_angst=rms, motion_model=model)
    pixel = series.pixel_size_angst * binning
    return dataclasses.replace(out, pixel_size_angst=pixel, image_size_px=(w, h))


def motion_summary(
    series: TiltSeries,
    tracks: dict,
    n_defects: int,
    noise: NoiseModel | None,
    unreadable: dict[int, str] | None = None,
    *,
    split: dict[int, str] | None = None,
    n_frames: dict[int, int] | None = None,
    offset: float = 0.0,
) -> dict:
    """Numbers for summary.json; lists are in the order of the table's rows, without views that could not be read.

    unreadable : tilt_id -> why. split : tilt_id -> how halves were made, of views whose frames give none. n_frames :
    tilt_id -> frames used.
    offset : that was added to a ready stack.
    """
    split = split or {}
    tilts = series.tilts
    out = {
        "name": series.name, "n_tilts": len(series), "pixel_size_angst": series.pixel_size_angst,
        "image_size_px": list(series.image_size_px), "tilt_id": tilts["tilt_id"].tolist(),
        "nominal_tilt_deg": tilts["nominal_tilt_deg"].tolist(),
        "halves": "frames" if noise is None else f"noise split ({noise.kind})",
    }
    if noise is not None:
        return {
            **out,
            "counts_per_electron": noise.unit,
            "variance_to_mean_spread": noise.spread,
            "offset_undone": offset,
        }
    if split and len(split) == len(tracks):
        out["halves"] = ", ".join(sorted(set(split.values())))
    found = [tracks[int(i)] for i in tilts["tilt_id"] if int(i) in tracks]
    rms = np.array([t.rms_px for t in found]) * series.movie_pixel_size_angst
    return {
        **out,
        "motion_rms_angst": rms, "motion_rms_median_angst": float(np.median(rms)),
        "motion_model": [t.model for t in found], "n_accepted": sum(t.accepted for t in found),
        "held_out_gain_sigma": [t.held_out_gain for t in found],
        "correlation_before_sigma": [t.correlation_before for t in found],
        "correlation_after_sigma": [t.correlation_after for t in found],
        "predicted_error_px": [t.predicted_error_px for t in found], "max_defects": n_defects,
        "motion_tilt_id": [int(i) for i in tilts["tilt_id"] if int(i) in tracks],
        **_local_summary(found, series.movie_pixel_size_angst),
        "n_frames_used": [(n_frames or {}).get(int(i)) for i in tilts["tilt_id"] if int(i) in tracks],
        "halves_split": [{"tilt_id": i, "halves": how} for i, how in sorted(split.items())],
        "unreadable": [{"tilt_id": i, "error": text} for i, text in (unreadable or {}).items()],
    }


def _local_summary(found: list[MotionTrack], pixel_size_angst: float) -> dict:
    """Local motion of every view for summary.json."""
    fields = [t.local for t in found]
    return {
        "local_model": [t.local_model for t in found], "n_local": sum(f is not None for f in fields),
        "local_grid": [None if f is None else [*f.grid_xy, len(f.nodes_px)] for f in fields],
        "local_held_out_gain_sigma": [t.local_gain for t in found],
        "local_rms_angst": [0.0 if f is None else f.rms_px * pixel_size_angst for f in fields],
        "local_predicted_error_angst": [float("nan") if f is None else f.predicted_error_px * pixel_size_angst for f in fields],
    }
