"""Movies -> aligned sums with even and odd halves; a ready stack passes through and its noise is split into halves."""

from contextlib import ExitStack

from cryoet_core.config.correct_motion import CorrectMotion
from cryoet_core.io.gain import read_gain
from cryoet_core.io.mrc import MrcStackWriter
from cryoet_core.io.star import write_star
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.movies import series as movies
from cryoet_core.movies.correct import MotionSettings
from cryoet_core.step import step

with step(snakemake) as s:
    config, ts = s.model(CorrectMotion), s.wildcards.ts
    series = read_tilt_series(s.input.table)
    is_stack, path = movies.comes_as_stack(series), s.input.get("gain")
    noise = movies.stack_noise_model(series) if is_stack else None
    gain = None if is_stack or not path else read_gain(
        path, series.image_size_px[::-1], flip_x=config.gain_flip_x, flip_y=config.gain_flip_y,
        transpose=config.gain_transpose, inverse=config.gain_inverse,
    )
    nodes = config.grid[2] if config.grid else None
    settings = MotionSettings(config.resolution_range_angst, config.b_factor_angst2, nodes, config.max_shift_angst)
    views = movies.correct_views(
        series, gain, settings, noise, binning=config.binning, eer_fractions=config.eer_fractions,
        seed_of=lambda tilt_id: int(s.rng(ts, tilt_id).integers(2**62)), device=s.device,
    )
    paths = (s.output.stack, s.output.even, s.output.odd)
    shape, pixel = movies.corrected_shape(series, config.binning), series.pixel_size_angst * config.binning
    with ExitStack() as opened:
        tracks, defects = {}, 0
        writers = [opened.enter_context(MrcStackWriter(p, shape, pixel)) for p in paths]
        for view in s.progress(views, len(series), "views"):
            for writer, image in zip(writers, (view.image, view.even, view.odd), strict=True):
                writer.write(image)
            if view.track is not None:
                tracks[view.tilt_id], defects = view.track, max(defects, view.n_defects)
    out = movies.corrected_series(series, paths, tracks, config.binning)
    write_tilt_series(out, s.output.table)
    write_star(s.output.motion, {"motion": movies.motion_table(tracks)})
    s.write_summary(movies.motion_summary(out, tracks, defects, noise))
