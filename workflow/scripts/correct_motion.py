"""Movies -> aligned sums with even and odd halves; a ready stack passes through and its noise is split into halves."""

from dataclasses import asdict

from cryoet_core.config.correct_motion import CorrectMotion
from cryoet_core.io.defects import read_defects, with_defects
from cryoet_core.io.gain import read_gain, read_gain_image
from cryoet_core.io.star import write_star
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.movies import series as movies
from cryoet_core.movies.correct import MotionSettings
from cryoet_core.movies.gain_orientation import Orientation, find_orientation
from cryoet_core.movies.motion_file import motion_blocks
from cryoet_core.step import step
from cryoet_core.tilt_series.exclude import mark_excluded
from cryoet_core.tilt_series.halves import write_views

GAIN_MOVIES = 3  # one is enough for a usual camera; three for one with little scatter

with step(snakemake) as s:
    config, ts = s.model(CorrectMotion), s.wildcards.ts
    series = read_tilt_series(s.input.table)
    is_stack, path = movies.comes_as_stack(series), s.input.get("gain")
    offset = movies.stack_offset(series) if is_stack else 0.0
    if offset:
        s.log.warning("the stack stores counts less %d: that is undone", offset)
    noise = movies.stack_noise_model(series, offset) if is_stack else None
    gain = evidence = None
    if path and not is_stack:
        given = Orientation(config.gain_flip_x, config.gain_flip_y, config.gain_transpose, config.gain_inverse)
        counts = movies.raw_sum(series, GAIN_MOVIES, config.eer_fractions)
        evidence = find_orientation(counts, read_gain_image(path), given)
        turn = evidence.best if evidence.decided and config.gain_orientation == "auto" else given
        if evidence.decided and evidence.best != given:
            s.log.warning(
                "the counts say the gain lies as %s (%.0f sigma), the config says %s: %s is used", evidence.best, evidence.significance,
                given, "the first" if turn != given else "the config's",
            )
        elif not evidence.decided:
            s.log.warning(
                "the gain's pattern is not clear in the counts (%.1f sigma): %s is used. If the movies are already corrected, leave "
                "data.gain_reference empty", evidence.significance, given,
            )
        gain = read_gain(path, series.image_size_px[::-1], super_resolution=series.eer_super_resolution, **asdict(turn))
    if s.input.get("defects") and not is_stack:
        gain = with_defects(gain, read_defects(s.input.defects, series.image_size_px[::-1], series.eer_super_resolution))
    grid_xy, nodes = (tuple(config.grid[:2]), config.grid[2]) if config.grid else (None, None)
    settings = MotionSettings(
        config.resolution_range_angst, config.b_factor_angst2, nodes, config.max_shift_angst, grid_xy=grid_xy,
        dose_weighting=config.dose_weighting,
    )
    if config.dose_weighting and is_stack:
        s.log.warning("dose_weighting: a ready stack has no frames to weight")
    views = movies.correct_views(
        series,
        gain,
        settings,
        noise,
        binning=config.binning,
        eer_fractions=config.eer_fractions,
        eer_exposure=config.eer_exposure_per_fraction_e_per_a2,
        offset=offset,
        seed_of=lambda tilt_id: int(s.rng(ts, tilt_id).integers(2**62)),
        device=s.device,
    )
    paths = (s.output.stack, s.output.even, s.output.odd)
    tracks, unreadable, split, n_frames, defects = {}, {}, {}, {}, []

    def images():
        for view in s.progress(views, len(series), "views"):
            if view.error:
                unreadable[view.tilt_id] = view.error
                s.log.warning("view %d is left out: %s", view.tilt_id, view.error)
            if view.track is not None:
                tracks[view.tilt_id], n_frames[view.tilt_id] = view.track, view.n_frames
                if view.halves != "frames":
                    split[view.tilt_id] = view.halves
                defects.append(view.n_defects)
                if view.track.local_model == "rejected":
                    s.log.info("view %d: local motion is not used, the held-out test says %.1f sigma", view.tilt_id, view.track.local_gain)
            yield view.image, view.even, view.odd

    write_views(paths, images(), series.pixel_size_angst * config.binning, config.format, s.log.warning)
    if split:
        s.log.warning(
            "views %s: one half of the frames holds nothing (one frame, or empty ones): their halves were made by "
            "splitting the counting noise",
            ", ".join(map(str, sorted(split))),
        )
    rows = {row: movies.UNREADABLE for row, tilt_id in enumerate(series.tilts["tilt_id"]) if tilt_id in unreadable}
    out = mark_excluded(movies.corrected_series(series, paths, tracks, config.binning), rows)
    write_tilt_series(out, s.output.table)
    write_star(s.output.motion, motion_blocks(tracks))
    summary = movies.motion_summary(
        out, tracks, max(defects, default=0), noise, unreadable, split=split, n_frames=n_frames, offset=offset
    )
    s.write_summary({**summary, "gain": evidence.summary()} if evidence else summary)
