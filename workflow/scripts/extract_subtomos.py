"""Picked or refined particles + raw views -> premultiplied particle images of all tilt series."""

from functools import partial
from pathlib import Path

from cryoet_core.config.extract_subtomos import ExtractSubtomos
from cryoet_core.io.images import series_views
from cryoet_core.metadata import read_particles, read_tilt_series, write_particles
from cryoet_core.step import step
from cryoet_core.subtomo.extraction_run import ExtractionRun, chosen_particles, merge_particles
from cryoet_core.tilt_series.gold import distance_to_beads
from cryoet_core.tilt_series.gold_file import read_gold
from cryoet_core.tilt_series.gold_fill import BeadEraser

with step(snakemake) as s:
    config = s.model(ExtractSubtomos)
    everything = merge_particles([read_particles(path) for path in s.usable(s.input.particles)])
    tables = s.usable(s.input.tilt_series)
    pixel = read_tilt_series(tables[0]).pixel_size_angst
    particles, selection = chosen_particles(everything, config, pixel)
    s.log.info("%d of %d particles enter, %d duplicates", len(particles), len(everything), selection.duplicates)
    run, beads_in_box = ExtractionRun(config, Path(s.output.images)), {}

    def raw_views(series):
        without_beads = BeadEraser(series, config.gold_diameter_angst)
        return series_views(series).map(lambda row, image: without_beads(row, s.to_device(image)))

    for path in s.progress(tables, what="tilt series"):
        series = read_tilt_series(path)
        run.add_series(series, particles, partial(raw_views, series))
        own = particles.select(particles.table["tomo_name"].to_numpy() == series.name)
        beads = read_gold(series.gold_file).positions_in(series.geometry, series.tilts["tilt_id"])
        half_box_angst = 0.5 * config.crop_px * config.binning * series.pixel_size_angst
        beads_in_box[series.name] = int((distance_to_beads(own.positions_angst, beads) < half_box_angst).sum())
        if beads_in_box[series.name]:
            s.log.warning("%s: %d of %d particles have a gold bead in their box", series.name, beads_in_box[series.name], len(own))
    for warning in run.warnings:
        s.log.warning("%s", warning)
    write_particles(run.chosen_table(), s.output.particles)
    if config.relion_files:
        write_particles(run.relion_table(), Path(s.output.images) / "particles_relion.star")
    if config.volumes_3d:
        write_particles(run.table(), Path(s.output.images) / "particles_2d.star")
    s.write_summary({**run.summary(), **selection.summary(), "particles_with_a_bead_in_their_box": beads_in_box})
