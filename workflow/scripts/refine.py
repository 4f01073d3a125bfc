"""Extracted particles and a first map -> refined poses, two independent half maps, their FSC."""

import shutil
from pathlib import Path

from cryoet_core.config.refine import Refine
from cryoet_core.errors import UserInputError
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.star import write_star
from cryoet_core.io.summary import write_summary
from cryoet_core.metadata import write_particles
from cryoet_core.step import step
from cryoet_core.subtomo.refine_run import (
    CHECKPOINT,
    diameter_warning,
    fsc_blocks,
    lowpass_warning,
    refine_stacks,
    refine_summary,
)
from cryoet_core.subtomo.stacks import read_extracted
from cryoet_core.subtomo.verdict import refine_objections

with step(snakemake) as s:
    config = s.model(Refine)
    stacks = read_extracted(s.input.particles, s.usable(s.input.tilt_series))
    pixel, final = stacks.pixel_size_angst, Path(s.output.iteration_maps)
    # Outputs of a failed job are deleted, so iterations and checkpoint lie elsewhere until the job is done.
    folder = final.with_name(".running")
    if folder.exists() and not (folder / CHECKPOINT).exists():
        shutil.rmtree(folder)
    warnings = [diameter_warning(config.mask_diameter_angst, stacks.box * pixel)]
    warnings = [w for w in [*warnings, lowpass_warning(config.initial_lowpass_angst, pixel)] if w]
    for warning in warnings:
        s.log.warning("%s", warning)

    def report(iteration):
        s.log.info("%s", iteration.sentence())

    def plan_report(plan):
        s.log.info("%s", plan.sentence())

    reference, reference_pixel = read_mrc(s.input.reference)

    def run():
        folder.mkdir(parents=True, exist_ok=True)
        return refine_stacks(
            stacks, reference, reference_pixel, config, int(s.seed), s.to_device, report, work_folder=folder, at=final,
            plan_report=plan_report,
        )

    changed = None
    if (folder / CHECKPOINT).exists():
        s.log.info("going on from %s", folder / CHECKPOINT)
    try:
        refined, particles = run()
    except UserInputError as error:
        if error.code != "E-CKP-02":
            raise
        changed = error.field
    if changed:  # edited since that run was interrupted: the edit is what counts, and the other run is kept aside
        shutil.rmtree(aside := final.with_name(".interrupted"), ignore_errors=True)
        folder.rename(aside)
        s.log.warning("starting anew: %s changed since the interrupted run, which is kept in %s", changed, aside)
        refined, particles = run()
    for name in ("half1", "half2", "map"):
        write_mrc(getattr(s.output, name), getattr(refined, name), pixel)
    summary = refine_summary(refined, pixel, config.symmetry)
    for objection in (objections := refine_objections(summary)):
        s.log.warning("%s", objection)
    write_particles(particles, s.output.particles)
    write_star(s.output.fsc, fsc_blocks(refined.fsc, pixel, stacks.box, summary["resolution_angst"]))
    write_summary(s.output.iterations, {"iterations": [i.numbers() for i in refined.iterations]})
    s.write_summary({**summary, "warnings": [*warnings, *objections]})
    if final.exists():
        shutil.rmtree(final)
    folder.rename(final)
