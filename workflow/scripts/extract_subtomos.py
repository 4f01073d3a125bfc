"""Picked or refined particles + raw views -> premultiplied particle images of all tilt series."""

from functools import partial
from pathlib import Path

from cryoet_core.config.extract_subtomos import ExtractSubtomos
from cryoet_core.io.images import series_views
from cryoet_core.metadata import read_particles, read_tilt_series, write_particles
from cryoet_core.step import step
from cryoet_core.subtomo.extraction_run import ExtractionRun, chosen_particles, merge_particles
from cryoet_core.tilt_series.gold import erase_gold

with step(snakemake) as s:
    config = s.model(ExtractSubtomos)
    everything = merge_particles([read_particles(path) for path in s.input.particles])
    pixel = read_tilt_series(s.input.tilt_series[0]).pixel_size_angst
    particles, selection = chosen_particles(everything, config, pixel)
    s.log.info("%d of %d particles enter, %d duplicates", len(particles), len(everything), selection.duplicates)
    run = ExtractionRun(config, Path(s.output.images))

    def raw_views(series):
        def without_gold(row, image):
            generator = s.rng(series.name, int(series.tilts["tilt_id"].iloc[row]), "gold")
            return erase_gold(s.to_device(image)[None], series.pixel_size_angst, [generator], config.gold_diameter_angst)[0]

        return series_views(series).map(without_gold)

    for path in s.progress(s.input.tilt_series, what="tilt series"):
        series = read_tilt_series(path)
        run.add_series(series, particles, partial(raw_views, series))
    for warning in run.warnings:
        s.log.warning("%s", warning)
    write_particles(run.chosen_table(), s.output.particles)
    if config.relion_files:
        write_particles(run.relion_table(), Path(s.output.images) / "particles_relion.star")
    if config.volumes_3d:
        write_particles(run.table(), Path(s.output.images) / "particles_2d.star")
    s.write_summary({**run.summary(), **selection.summary()})
