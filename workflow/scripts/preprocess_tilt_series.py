"""Binned views with even grey values, for tomograms."""

from cryoet_core.backend import asnumpy
from cryoet_core.config.preprocess_tilt_series import PreprocessTiltSeries
from cryoet_core.fourier import binned_shape
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series.gold import fill_gold, find_gold
from cryoet_core.tilt_series.halves import iter_views, pointing_to, write_views
from cryoet_core.tilt_series.preprocess import preprocess_view

with step(snakemake) as s:
    config = s.model(PreprocessTiltSeries)
    series = read_tilt_series(s.input.table)
    pixel = series.pixel_size_angst * config.binning
    shape = series.image_size_px[::-1] if config.binning == 1 else binned_shape(series.image_size_px[::-1], config.binning)
    grey, rng = [], s.rng(series.name, "gold")

    def prepared():
        for images in s.progress(iter_views(series), len(series), "views"):
            images = s.to_device(images)
            if config.gold_diameter_angst:
                gold = find_gold(images[0], series.pixel_size_angst, config.gold_diameter_angst)
                images = fill_gold(images, gold, series.pixel_size_angst, rng, config.gold_diameter_angst)
            binned, values = preprocess_view(images, config.binning, config.grey_values)
            grey.append(values)
            yield asnumpy(binned)

    paths = (s.output.stack, s.output.even, s.output.odd)
    write_views(paths, prepared(), pixel)
    series = series.with_columns(grey_mean=[g.mean for g in grey], grey_std=[g.std for g in grey])
    write_tilt_series(pointing_to(series, paths, pixel, shape[::-1]), s.output.table)
    s.write_summary(
        {"binning": config.binning, "pixel_size_angst": pixel, "image_size_px": shape[::-1], "grey_values": config.grey_values,
         "tilt_id": series.tilts["tilt_id"].to_numpy(), "mean": [g.mean for g in grey], "std": [g.std for g in grey]}
    )  # fmt: skip
