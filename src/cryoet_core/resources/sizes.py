"""How large the data of a run are, known before its first job: movies, views, tomograms, boxes, numbers of particles.

From the mdoc (how many views), the header of one movie or stack (their size), the config (binnings, thickness, boxes) and, once they are there,
the results of earlier steps (how many particles). Where files cannot be read the size is that of a common camera and scheme: the job that reads
them says what is wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from cryoet_core.errors import CryoetError
from cryoet_core.fourier import binned_shape
from cryoet_core.io import acquisition
from cryoet_core.io.mdoc import read_mdocs
from cryoet_core.io.movies import open_movie
from cryoet_core.io.mrc import read_header
from cryoet_core.io.recordings import unpacked_shape
from cryoet_core.simulate.acquisition import dose_symmetric_tilts
from cryoet_core.tomogram.size import tomogram_size

_BLOCKS_MB = 256.0  # of a tomogram, that are made at once
_FLOAT_MB = 4 / 2**20  # one float32
_UNKNOWN_SLAB_ANGST = 3000.0  # thickness: auto, until the alignment has found the slab
_DIAMETER_ANGST = 250.0  # of a particle whose map has not been read
_PEAKS_PER_PARTICLE = 3.0  # that are scored, with their controls, for each that is asked for
_LOCAL_SHARE = 0.3  # of the memory of a search of all orientations
_STEP_DEG = 15.0  # of matching, where it is automatic: a finer one is chosen for particles that need less memory


@dataclass(frozen=True)
class SeriesSize:
    """Movies of one tilt series, or its ready stack (then one frame): pixels, frames, views, pixel size, tilt axis."""

    width_px: int = 4096
    height_px: int = 4096
    n_frames: int = 8
    n_views: int = 41
    pixel_size_angst: float = 2.0
    axis_deg: float = 90.0


def series_size(source: dict, config) -> SeriesSize:
    """Size of one tilt series. source : as :meth:`cryoet_core.workflow.Run.series_source`; config : the whole Config."""
    if config.data.simulate:
        return _simulated(config.simulate)
    given = config.import_tilt_series
    try:
        read = _from_mdoc if source["kind"] == "mdoc" else _from_stack
        return read(tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in source.items())), given.model_dump_json())
    except (CryoetError, OSError, ValueError):
        return SeriesSize(pixel_size_angst=given.pixel_size_angst or SeriesSize.pixel_size_angst)


def _simulated(simulate) -> SeriesSize:
    tilts = dose_symmetric_tilts(simulate.max_tilt_deg, simulate.tilt_step_deg)
    return SeriesSize(
        simulate.image_width_px, simulate.image_height_px, simulate.frames_per_tilt, len(tilts), simulate.pixel_size_angst, simulate.nominal_axis_deg
    )


@cache
def _from_mdoc(source: tuple, given_json: str) -> SeriesSize:
    """Read once per series and process: every job of a series asks."""
    source, given = dict(source), json.loads(given_json)
    mdoc, _ = read_mdocs(source["mdoc"])
    movie = None
    for section in mdoc.images:
        path = Path(source["movies_dir"]) / (section.movie_name or "")
        if path.is_file():
            movie = open_movie(str(path), eer_super_resolution=given["eer_super_resolution"])
            movie = movie.unpacked_to(
                unpacked_shape(movie, [s for s in (acquisition.stated_size(mdoc),) if s]) or movie.shape
            )
            break
    size = mdoc.header.numbers("ImageSize") or [SeriesSize.width_px, SeriesSize.height_px]
    shape = movie.shape if movie else (int(size[1]), int(size[0]))
    frames = movie.n_frames if movie else int(mdoc.images[0].number("NumSubFrames") or SeriesSize.n_frames)
    pixel = acquisition.pixel_size(mdoc, given["pixel_size_angst"], shape)[0].value
    axis = given["tilt_axis_deg"]
    if axis is None:
        axis = acquisition.tilt_axis(mdoc, None, given["tomo5"])[0].value
    return SeriesSize(shape[1], shape[0], frames, len(mdoc.images), float(pixel), float(axis))


@cache
def _from_stack(source: tuple, given_json: str) -> SeriesSize:
    given, header = json.loads(given_json), read_header(dict(source)["stack"])
    n, h, w = header.shape
    pixel = given["pixel_size_angst"] or header.pixel_size_angst or SeriesSize.pixel_size_angst
    return SeriesSize(w, h, 1, n, float(pixel), given["tilt_axis_deg"] or 0.0)


class DataSizes:
    """Sizes of everything that the steps of a run work on, as MB of float32 arrays and as numbers. run : a workflow.Run."""

    def __init__(self, run):
        self.run, self.config = run, run.config

    def series(self, ts: str) -> SeriesSize:
        """The raw data of series ``ts``."""
        return series_size(self.run.series_source(ts), self.config)

    def views_px(self, ts: str) -> tuple[int, int]:
        """(h, w) of the motion-corrected views."""
        size, binning = self.series(ts), self.config.correct_motion.binning
        shape = (size.height_px, size.width_px)
        return shape if binning == 1 or size.n_frames == 1 else binned_shape(shape, binning)

    def view_pixel_angst(self, ts: str) -> float:
        """Pixel size of the motion-corrected views."""
        size = self.series(ts)
        return size.pixel_size_angst * (1 if size.n_frames == 1 else self.config.correct_motion.binning)

    def tomogram_px(self, ts: str) -> tuple[int, int, int]:
        """(x, y, z) of the tomogram; an automatic thickness counts as 1.5 times what the alignment found, or a thick slab before it ran."""
        binning, config = self.config.preprocess_tilt_series.binning, self.config.reconstruct_tomogram
        shape, pixel = self.views_px(ts), self.view_pixel_angst(ts) * binning
        if binning > 1:
            shape = binned_shape(shape, binning)
        if config.thickness_angst is not None:
            thickness = config.thickness_angst / pixel
        elif config.thickness == "auto":
            thickness = self._automatic_thickness_angst(ts) / pixel
        else:
            thickness = config.thickness
        return tomogram_size(shape[::-1], [self.series(ts).axis_deg], thickness, config.width)

    def _automatic_thickness_angst(self, ts: str) -> float:
        found = self._summary(f"align_tilt_series/{ts}/summary.json")
        if not found.get("thickness_angst"):
            return _UNKNOWN_SLAB_ANGST
        from cryoet_core.tomogram.from_series import automatic_thickness_angst

        return automatic_thickness_angst(found, ts)

    def n_particles(self, ts: str) -> int:
        """Particles of a series: as picked once it is matched, before that as many as the config allows."""
        found = self._summary(f"match_template/{ts}/summary.json").get("n_picks")
        return int(self.config.match_template.max_particles if found is None else found)

    def _summary(self, path: str) -> dict:
        try:
            found = json.loads(Path(self.run.result(path)).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    # ---- what the tables of costs.py count in ---------------------------------------------------------------------------

    def of_series(self, ts: str) -> dict[str, float]:
        """MB of one tilt series, of everything that a step of its chain holds or passes through."""
        size, (h, w) = self.series(ts), self.views_px(ts)
        frame = size.width_px * size.height_px * _FLOAT_MB
        view, n = h * w * _FLOAT_MB, size.n_views
        binned_h, binned_w = binned_shape((h, w), self.config.preprocess_tilt_series.binning)
        binned = binned_h * binned_w * _FLOAT_MB
        working = view * min(1.0, self.view_pixel_angst(ts) / self.config.align_tilt_series.pixel_size_angst) ** 2
        x, y, z = self.tomogram_px(ts)
        blocks = min(x * y * z * _FLOAT_MB, _BLOCKS_MB)
        return {
            "one": 1.0, "frame": frame, "movie": size.n_frames * frame, "movies": n * size.n_frames * frame, "view": view, "stack": n * view,
            "working_view": working, "working_stack": n * working, "binned_view": binned, "binned_stack": n * binned,
            "plane": y * x * _FLOAT_MB, "slice": z * x * _FLOAT_MB, "tomogram": x * y * z * _FLOAT_MB, "tomogram_blocks": blocks,
            "back_projection": n * x * y * z * _FLOAT_MB,
            **{f"tilted_{k}": v * (self.config.align_tilt_series.x_tilt != "off") for k, v in
               {"blocks": blocks, "back_projection": n * x * y * z * _FLOAT_MB, "working_stack": n * working}.items()}, **self._of_matching(ts, x * y * z * _FLOAT_MB),
        }  # fmt: skip

    def _of_matching(self, ts: str, tomogram_mb: float) -> dict[str, float]:
        """MB of the tomogram in the voxels that peaks are scored in and in those of the search, MB of the search's eigen-template scores, and CPU seconds.

        The particle is as large as the config or import_reference says.
        """
        from cryoet_core.picking import binned, plan, scores  # they decide all this; slow to import

        config = self.config.match_template
        diameter = config.particle_diameter_angst or self._summary("import_reference/summary.json").get("diameter_angst") or _DIAMETER_ANGST
        pixel = self.view_pixel_angst(ts) * self.config.preprocess_tilt_series.binning
        scoring = plan.scoring_binning(diameter, pixel, config.angular_step_deg)
        binning = max(scoring, binned.search_binning(config.angular_step_deg or _STEP_DEG, diameter, pixel))
        shape, lengths = self.tomogram_px(ts), plan.MatchPlan(diameter, 0.0, config.angular_step_deg, 0.0, 0.0)
        search = plan.effort(config.angular_step_deg or _STEP_DEG, lengths, shape, pixel, 1.0, n_searches=2)
        rank = plan.RANK_PER_VOXEL * (diameter / (binning * pixel)) ** 3
        scored, searched = tomogram_mb / scoring**3, tomogram_mb / binning**3
        return {
            "scored": scored * (0.5 if scored / _FLOAT_MB > scores.HALF_PRECISION_FROM else 1.0), "searched": searched,
            "match_features": min(float(scores.FEATURE_MB), rank * searched), "match_seconds": search.cpu_seconds(int(_PEAKS_PER_PARTICLE * config.max_particles)),
        }  # fmt: skip

    def of_run(self) -> dict[str, float]:
        """MB of all series: the sum where a step passes through them one after another, the largest where it holds one."""
        each = [self.of_series(ts) for ts in self.run.tilt_series]
        summed = {name: sum(e[name] for e in each) for name in ("stack", "movies", "tomogram")}
        return {"n_series": float(len(each)), **{f"all_{k}": v for k, v in summed.items()}, **{k: max(e[k] for e in each) for k in each[0]}}

    def of_round(self, name: str) -> dict[str, float]:
        """MB of an averaging round, beside those of the run: boxes, and images of all particles and of the largest series."""
        round_ = self.run.round_config(name)
        extract, rebuild = round_.extract_subtomos, round_.reconstruct_particle
        numbers = {ts: self.n_particles(ts) for ts in self.run.tilt_series}
        if extract.keep_best:
            share = min(1.0, extract.keep_best / max(1, sum(numbers.values())))
            numbers = {ts: share * n for ts, n in numbers.items()}
        views = {ts: self.series(ts).n_views * self._dose_share(ts, extract.max_dose_e_per_a2) for ts in numbers}
        images = {ts: numbers[ts] * views[ts] for ts in numbers}
        crop, box = extract.crop_px, extract.box_px
        whole = (rebuild.box_px or box, rebuild.crop_px or crop)
        padded = whole[0] * (1 if whole[0] >= 2 * whole[1] else 2)
        return {
            **self.of_run(),
            "particles": float(sum(numbers.values())), "images": float(sum(images.values())),
            "particle_images": sum(images.values()) * crop**2 * _FLOAT_MB, "series_images": max(images.values()) * crop**2 * _FLOAT_MB,
            "cut_images": sum(images.values()) * box**2 * _FLOAT_MB, "rebuilt_images": sum(images.values()) * whole[0] ** 2 * _FLOAT_MB,
            "particle_stack": max(self.of_series(ts)["stack"] for ts in numbers) / extract.binning**2,
            "crop_box": crop**3 * _FLOAT_MB, "map_box": whole[1] ** 3 * _FLOAT_MB, "sums": padded**3 * _FLOAT_MB,
            **self._of_refinement(round_, {ts: (numbers[ts], views[ts]) for ts in numbers}),
        }  # fmt: skip

    @staticmethod
    def _of_refinement(round_, numbers) -> dict[str, float]:
        """MB as subtomo.memory plans them: the particles' coefficients (at most the budget: beyond it they lie in files), maps, and one thread's tiles."""
        from cryoet_core.subtomo import memory

        box, budget = round_.extract_subtomos.crop_px, round_.refine.memory_mb
        coefficients = int(np.pi / 8 * box**2)  # of half a disc
        plan = memory.plan_memory(list(numbers.values()), box, coefficients, budget, 1)
        share = 1.0 if round_.refine.start == "global" else _LOCAL_SHARE
        return {"coefficients": min(plan.data_mb, float(budget)), "refined_maps": plan.maps_mb, "search_tiles": share * plan.search_mb}

    def _dose_share(self, ts: str, max_dose) -> float:
        """Share of the views that a dose limit leaves."""
        if not max_dose:
            return 1.0
        dose = self.config.import_tilt_series.dose_per_tilt_e_per_a2 or (self.config.simulate.dose_per_tilt_e_per_a2 if self.run.simulated else 3.0)
        return min(1.0, max_dose / dose / self.series(ts).n_views)
