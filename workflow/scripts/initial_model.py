"""Extracted particles -> a first map, from random orientations."""

from cryoet_core.config.initial_model import InitialModel
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.summary import write_summary
from cryoet_core.metadata import read_tilt_series
from cryoet_core.step import step
from cryoet_core.subtomo.initial_model import InitialModelSettings, initial_model
from cryoet_core.subtomo.refine_run import all_series_images, diameter_warning, on_device
from cryoet_core.subtomo.stacks import read_extracted
from cryoet_core.subtomo.verdict import initial_model_objections

with step(snakemake) as s:
    config = s.model(InitialModel)
    stacks = read_extracted(s.input.particles, s.usable(s.input.tilt_series))
    pixel = stacks.pixel_size_angst
    warning = diameter_warning(config.mask_diameter_angst, stacks.box * pixel)
    if warning:
        s.log.warning("%s", warning)
    voxel = max(read_tilt_series(table).pixel_size_angst for table in s.usable(s.input.tomograms))
    settings = InitialModelSettings(pick_error_angst=voxel / 2, pixel_size_angst=pixel, box_px=stacks.box, **config.model_dump())
    s.log.info("first resolution %.0f A, offsets about %.0f A", settings.box_angst / settings.first_shell, settings.offset_sigma_angst or voxel / 2)
    series = [on_device(i, s.to_device) for i in all_series_images(stacks, config.mask_diameter_angst)]

    def report(numbers):
        s.log.info(
            "%(stage)s, mini-batch %(mini_batch)d: %(resolution_angst).0f A, %(log_likelihood_per_particle).1f nats per particle",
            numbers,
        )

    model = initial_model(series, settings, s.rng(s.wildcards.round), report)
    write_mrc(s.output.map, model.map, pixel)
    write_summary(s.output.iterations, {"mini_batches": model.history})
    objections = initial_model_objections(model.numbers())
    for objection in objections:
        s.log.warning("%s", objection)
    s.write_summary({**model.numbers(), "objections": objections, "pixel_size_angst": pixel, "n_particles": stacks.n_particles, "warning": warning})
