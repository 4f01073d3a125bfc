"""Refined particles + raw views -> half maps and map at the final poses."""

from cryoet_core.config.extract_subtomos import ExtractSubtomos
from cryoet_core.config.reconstruct_particle import ReconstructParticle
from cryoet_core.io.images import series_views
from cryoet_core.io.mrc import write_mrc
from cryoet_core.metadata import read_particles, read_tilt_series
from cryoet_core.step import step
from cryoet_core.subtomo.extraction_run import reconstruction_settings
from cryoet_core.subtomo.reconstruct import HalfSums, insert_series, reconstruct_maps, reconstruction_summary
from cryoet_core.tilt_series.gold_fill import BeadEraser

with step(snakemake) as s:
    config = s.model(ReconstructParticle)
    extraction = ExtractSubtomos(**snakemake.params.extraction)
    particles = read_particles(s.input.particles)
    sums = HalfSums(reconstruction_settings(config, extraction), config.symmetry, config.insertion)

    def raw_views(series):
        without_beads = BeadEraser(series, extraction.gold_diameter_angst)
        return series_views(series).map(lambda row, image: without_beads(row, s.to_device(image)))

    for path in s.progress(s.usable(s.input.tilt_series), what="tilt series"):
        series = read_tilt_series(path)
        own = particles.select(particles.table["tomo_name"].to_numpy() == series.name)
        if len(own):
            insert_series(sums, raw_views(series), series, own, cutoff_fraction=config.cutoff_fraction)
            pixel = series.pixel_size_angst * sums.settings.binning
    maps = reconstruct_maps(sums, wiener_snr=config.wiener_snr, taper_px=config.taper_px)
    for path, volume in ((s.output.half1, maps.half1), (s.output.half2, maps.half2), (s.output.map, maps.merged)):
        write_mrc(path, volume, pixel)
    s.write_summary(reconstruction_summary(maps, sums, particles, pixel))
