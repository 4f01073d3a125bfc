"""One movie from raw frames to an aligned sum with its even and odd halves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, fft_module, to_device
from cryoet_core.errors import DataQualityError
from cryoet_core.movies.average import sum_halves
from cryoet_core.movies.defects import DefectFiller, find_defects
from cryoet_core.movies.frame_dose import weighted_frames
from cryoet_core.movies.halves import noise_model, split_image
from cryoet_core.movies.local_field import automatic_grid
from cryoet_core.movies.local_motion import estimate_local
from cryoet_core.movies.motion import (
    MAX_NODES,
    MotionTrack,
    estimate_track,
    group_frames,
    ungroup_track,
)
from cryoet_core.movies.pair_correlation import band_shape, band_spectrum
from cryoet_core.movies.read_ahead import read_ahead
from cryoet_core.movies.warp import sum_warped_halves

MAX_UNREADABLE = 0.05
SPECTRA_BUDGET_MB = 1500  # spectra of all frames are kept up to this size, otherwise computed a second time
SUMMED_AT_ONCE = 8  # frames that are added in one pass over the sums where their spectra are in memory anyway


@dataclass(frozen=True)
class MotionSettings:
    """Parameters of motion estimation; names and defaults follow Warp's.

    resolution_range_angst : band used (A). b_factor_angst2 : weight exp(-|B|/4 k^2) on amplitudes.
    time_nodes : values in time per axis (None: automatic). max_shift_angst : largest shift between any two frames. align : False sums only.
    grid_xy : nodes of the local motion along x and y, (1, 1) for whole frames only (None: from the exposure, local_field.automatic_grid).
    dose_weighting : weight the frames of a tilt by what its dose leaves of them (frame_dose.py).
    """

    resolution_range_angst: tuple[float, float] = (500.0, 10.0)
    b_factor_angst2: float = -500.0
    time_nodes: int | None = None
    max_shift_angst: float = 100.0
    align: bool = True
    grid_xy: tuple[int, int] | None = None
    dose_weighting: bool = False


@dataclass(frozen=True)
class CorrectedMovie:
    """even, odd (h, w) float32, image = even + odd; track with movement of every frame; n_defects filled pixels.

    halves : "frames"; "noise split (kind)" where one of them would have held nothing, see :func:`_independent_halves`.
    """

    even: np.ndarray
    odd: np.ndarray
    track: MotionTrack
    n_defects: int
    halves: str = "frames"

    @property
    def image(self):
        return self.even + self.odd


class _Frames:
    """Gain-corrected frames with defects filled, read one by one, the same at every pass."""

    def __init__(self, open_frames: Callable[[], Iterable], gain, seed: int, device: str):
        self.open_frames, self.gain, self.seed, self.device = open_frames, gain, seed, device
        self.filler = None
        self.unreadable = None  # pixels that were NaN or infinite in some frame
        self.kept = []  # raw frames of the first pass, as long as they fit the memory of their spectra
        self.count = 0
        self.shape = None
        self.half_is_empty = False  # one frame only, or nothing in all even or all odd ones
        self._image = None

    def _readable(self, frame):
        """``frame`` with zeros where it is NaN or infinite; such pixels are remembered."""
        if frame.dtype.kind != "f" or np.isfinite(frame.sum(dtype=np.float64)):  # one bad value spoils the sum
            return frame
        bad = ~np.isfinite(frame)
        self.unreadable = bad if self.unreadable is None else self.unreadable | bad
        return np.where(bad, np.float32(0), frame)

    def _corrected(self, frame):
        """``frame`` times the gain, float32, in one array for all frames: fresh memory of this size costs as much as the product."""
        if self._image is None:
            self._image = np.empty(frame.shape, np.float32)
        if self.gain is None:
            self._image[...] = frame
        else:
            np.multiply(frame, self.gain.factor, out=self._image, dtype=np.float32)
        return self._image

    def _add_up(self):
        """First pass: unaligned sums of the even and the odd raw frames, float32. The gain, the same for all, comes after."""
        sums = [None, None]
        for frame in map(self._readable, read_ahead(self.open_frames())):
            half = self.count % 2
            # float32 holds every sum of counts below 2^24 exactly
            sums[half] = frame.astype(np.float32) if sums[half] is None else np.add(sums[half], frame, out=sums[half])
            self.count += 1
            if self.kept is not None and self.count * frame.nbytes <= SPECTRA_BUDGET_MB * 2**20:
                self.kept.append(frame)
            else:
                self.kept = None
        return [s for s in sums if s is not None]

    def find_defects(self):
        """Read all frames once and find the pixels that stand out in both halves of them."""
        sums = self._add_up()
        if not sums:
            raise DataQualityError("E-MOV-10", "a movie without frames")
        self.shape = sums[0].shape
        self.half_is_empty = len(sums) < 2 or any(float(half.min()) == float(half.max()) for half in sums)
        dead = None if self.gain is None else self.gain.defects
        if self.unreadable is not None:
            share = float(self.unreadable.mean())
            if share > MAX_UNREADABLE:
                raise DataQualityError(
                    "E-MOV-11", "too many pixels of a movie are not numbers", field="NaN or infinite", found=f"{100 * share:.1f} %",
                    expected=f"at most {100 * MAX_UNREADABLE:g} %", fix="copy the movie again, or remove its section from the mdoc",
                )
            dead = self.unreadable if dead is None else dead | self.unreadable
        if self.gain is not None:
            for half in sums:
                half *= self.gain.factor
        self.filler = DefectFiller(find_defects(sums, dead))

    def _again(self):
        """The raw frames once more; kept ones are given away one by one."""
        if self.kept is None:
            yield from map(self._readable, read_ahead(self.open_frames()))
            return
        frames, self.kept = self.kept[::-1], None
        while frames:
            yield frames.pop()

    def transforms(self):
        """Every frame (valid until the next) and its rfft2, on the device."""
        rng = np.random.default_rng(self.seed)
        for raw in self._again():
            frame = to_device(self.filler.fill(self._corrected(raw), rng), self.device)
            yield frame, fft_module(array_namespace(frame)).rfft2(frame)

    def spectra(self):
        """rfft2 of every frame, on the device."""
        return (spectrum for _, spectrum in self.transforms())


def _band_of_groups(transforms, groups, band, keep):
    """Band spectra of every group of frames; full spectra are appended to ``keep`` unless it is None."""
    group_of = np.concatenate([np.full(len(g), i) for i, g in enumerate(groups)])
    sums = [None] * len(groups)
    for group, (frame, spectrum) in zip(group_of, transforms, strict=True):
        small = band_spectrum(spectrum, frame, band)
        sums[group] = small if sums[group] is None else sums[group] + small
        if keep is not None:
            keep.append(spectrum)
    return sums


def _estimate(bands, shape, band, pixel_size_angst, settings: MotionSettings, rng) -> MotionTrack:
    return estimate_track(
        bands, shape, band, pixel_size_angst,
        resolution_range_angst=settings.resolution_range_angst, b_factor_angst2=settings.b_factor_angst2,
        n_nodes=settings.time_nodes, max_shift_angst=settings.max_shift_angst, rng=rng,
    )


def _with_local(track: MotionTrack, movement, bands, shape, band, pixel_size_angst, groups, grid_xy, settings, rng) -> MotionTrack:
    """The track of all frames, with the local motion about it where the held-out test accepts one."""
    found = estimate_local(
        bands, shape, band, pixel_size_angst, track.movement_px, groups, grid_xy, n_time=settings.time_nodes,
        resolution_range_angst=settings.resolution_range_angst, b_factor_angst2=settings.b_factor_angst2, rng=rng,
    )
    return replace(track, movement_px=movement + found.shared_px, local=found.field, local_gain=found.held_out_gain)


def _sums(
    spectra, n_frames, track: MotionTrack, shape, pixel_size_angst, settings, exposure_e_per_a2, voltage_kv, raw_frames
):
    """Even and odd sums of the frames moved back, dose-weighted if asked for."""
    if settings.dose_weighting:
        spectra = weighted_frames(spectra, n_frames, shape, pixel_size_angst, exposure_e_per_a2, voltage_kv, raw_frames)
    if track.local is None:
        at_once = SUMMED_AT_ONCE if isinstance(spectra, list) else 1  # a generator makes one spectrum after the other
        return sum_halves(spectra, track.movement_px, shape, at_once)
    return sum_warped_halves(spectra, track.movement_px, track.local.tables(), shape)


def _independent_halves(image, seed: int):
    """Even and odd (h, w) and how they were made, where frames give only one: the counting noise of the image is
    split, as for a ready stack."""
    whole = np.rint(image)
    if np.abs(image - whole).max() < 0.01:  # counts, but for the rounding of the transforms
        image = whole
    model = noise_model([image])
    return (*split_image(image, model, np.random.default_rng([seed, 3])), f"noise split ({model.kind})")


def correct_movie(
    open_frames: Callable[[], Iterable],
    pixel_size_angst: float,
    gain=None,
    settings: MotionSettings | None = None,
    *,
    exposure_e_per_a2: float = float("nan"),
    voltage_kv: float = 300.0,
    raw_frames: Sequence[int] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> CorrectedMovie:
    """Gain, defects, whole-frame and local motion, even and odd sums of one movie.

    Parameters
    ----------
    open_frames : called for every pass over the movie, returns an iterable of frames (h, w), any number type.
    pixel_size_angst : of the frames. gain : io.gain.Gain (factor and dead pixels), or None.
    exposure_e_per_a2 : of the whole movie (nan: not known, then there is no automatic local motion and no dose weighting).
    raw_frames : frames of the camera in each frame (EER; io.movies.Movie.frames_of_item), by which the exposure is
    shared; None for one each.
    seed : of the draws that fill defects and of the held-out tests.

    Returns
    -------
    CorrectedMovie; memory is one frame plus the spectra of all (or of two, for movies beyond SPECTRA_BUDGET_MB); local motion adds
    the band images of all frames (at most 16) and five frames.

    Raises
    ------
    DataQualityError E-MOV-10 for a movie without frames, E-MOV-11 for one that is mostly no numbers.
    """
    settings = settings or MotionSettings()
    frames = _Frames(open_frames, gain, seed, device)
    frames.find_defects()
    shape, n = frames.shape, frames.count
    groups = group_frames(n, MAX_NODES)
    band = band_shape(shape, pixel_size_angst, min(settings.resolution_range_angst))
    fits = n * shape[0] * (shape[1] // 2 + 1) * 8 <= SPECTRA_BUDGET_MB * 2**20
    kept = [] if fits else None
    grid_xy = settings.grid_xy or automatic_grid(shape, pixel_size_angst, exposure_e_per_a2)
    if settings.align and n > 1:
        bands = _band_of_groups(frames.transforms(), groups, band, kept)
        track = _estimate(bands, shape, band, pixel_size_angst, settings, np.random.default_rng([seed, 1]))
        movement = ungroup_track(track.movement_px, groups, n)
        if tuple(grid_xy) != (1, 1):
            rng = np.random.default_rng([seed, 2])
            track = _with_local(track, movement, bands, shape, band, pixel_size_angst, groups, grid_xy, settings, rng)
        else:
            track = replace(track, movement_px=movement)
        del bands
    else:
        kept = None
        track = MotionTrack(np.zeros((n, 2)), "none", 0.0, 0.0, 0.0, float("nan"))
    spectra = kept if kept is not None else frames.spectra()
    even, odd = _sums(spectra, n, track, shape, pixel_size_angst, settings, exposure_e_per_a2, voltage_kv, raw_frames)
    even, odd, halves = asnumpy(even), asnumpy(odd), "frames"
    if frames.half_is_empty:
        even, odd, halves = _independent_halves(even + odd, seed)
    return CorrectedMovie(even, odd, track, len(frames.filler), halves)
