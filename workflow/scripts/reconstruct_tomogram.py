"""Binned views -> tomogram (and even and odd tomograms), recorded contrast."""

from cryoet_core.config.reconstruct_tomogram import ReconstructTomogram
from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tomogram.from_series import (
    ctf_of_series,
    placed_series,
    raw_views_of,
    reconstruct_series,
    tomogram_summary,
)

with step(snakemake) as s:
    config = s.model(ReconstructTomogram)
    alignment = read_summary(s.input.alignment) if config.thickness == "auto" and config.thickness_angst is None else None
    series, size_px = placed_series(read_tilt_series(s.input.table), config, alignment)
    ctf, series = ctf_of_series(series, config)
    if ctf is not None:
        s.log.info("3-D CTF correction (%s), copies every %.0f A of defocus", config.ctf_3d, ctf.depth_step_angst)
    for column, output in (("image", "tomogram"), ("image_even", "even"), ("image_odd", "odd")):
        path = s.output.get(output)
        if path is None:
            continue
        images = s.to_device(load_images(series.select(series.included), column))
        s.log.info("%s: %d views to %d x %d x %d voxels", column, len(images), *size_px)
        volume, residuals = reconstruct_series(
            series, images, size_px, config, ctf, report=lambda done, total: s.report(done, total, "planes")
        )
        write_mrc(path, volume, series.pixel_size_angst, dtype=config.format)
        if output == "tomogram":
            summary = tomogram_summary(series, volume, config, residuals)
    write_tilt_series(series, s.output.table)
    write_tilt_series(raw_views_of(series, read_tilt_series(s.input.aligned)), s.output.raw_table)
    s.write_summary(summary)
