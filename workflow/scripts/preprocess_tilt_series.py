"""Binned views with even grey values, for tomograms; on request also as an aligned stack."""

from contextlib import ExitStack

from cryoet_core.backend import asnumpy
from cryoet_core.config.preprocess_tilt_series import PreprocessTiltSeries
from cryoet_core.fourier import binned_shape
from cryoet_core.io import imod
from cryoet_core.io.mrc import MrcStackWriter
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series import preprocess
from cryoet_core.tilt_series.halves import iter_views, pointing_to, write_views

with step(snakemake) as s:
    config = s.model(PreprocessTiltSeries)
    series = read_tilt_series(s.input.table)
    pixel = series.pixel_size_angst * config.binning
    shape = series.image_size_px[::-1] if config.binning == 1 else binned_shape(series.image_size_px[::-1], config.binning)
    target = preprocess.GreyTarget(config.grey_values, config.grey_mean, config.grey_std, *config.grey_range)

    def binned_views(what):
        views = s.progress(iter_views(series), len(series), what)
        for images in views:
            yield preprocess.bin_views(s.to_device(images), config.binning)

    if config.grey_values in preprocess.SERIES_MODES:
        every = [preprocess.measured(images[0]) for images in binned_views("views measured")]
        target = preprocess.series_target(target, [g for g, used in zip(every, series.included, strict=True) if used])

    grey, geometry = [], series.geometry
    paths = (s.output.stack, s.output.even, s.output.odd)
    aligned_path = s.output.get("aligned")

    with ExitStack() as opened:
        if aligned_path:
            aligned_shape = preprocess.aligned_shape(shape, geometry.z_rot_deg)
            aligned = opened.enter_context(MrcStackWriter(aligned_path, aligned_shape, pixel))

        def scaled():
            for row, images in enumerate(binned_views("views")):
                images, values = preprocess.scale_views(images, target)
                grey.append(values)
                if aligned_path:
                    shift_px = geometry.shift_angst[row] / pixel
                    aligned.write(asnumpy(preprocess.aligned_view(images[0], geometry.z_rot_deg[row], shift_px, aligned_shape)))
                yield asnumpy(images)

        write_views(paths, scaled(), pixel)
    if aligned_path:
        imod.write_tlt(s.output.aligned_tlt, geometry.y_tilt_deg)
    columns = {"grey_mean": [g.mean for g in grey], "grey_std": [g.std for g in grey], "grey_gain": [g.gain for g in grey],
               "grey_level": [g.new_mean for g in grey]}  # fmt: skip
    write_tilt_series(pointing_to(series.with_columns(**columns), paths, pixel, shape[::-1]), s.output.table)
    s.write_summary(
        {"binning": config.binning, "pixel_size_angst": pixel, "image_size_px": shape[::-1], "grey_values": config.grey_values,
         "tilt_id": series.tilts["tilt_id"].to_numpy(), "mean": columns["grey_mean"], "std": columns["grey_std"],
         "gain": columns["grey_gain"], "level": columns["grey_level"]}
    )  # fmt: skip
