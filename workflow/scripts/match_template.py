"""Tomogram and reference -> particles with positions, orientations and scores; score map."""

from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.metadata import read_tilt_series, write_particles
from cryoet_core.picking.match import match_template
from cryoet_core.step import step

with step(snakemake) as s:
    config = s.model(MatchTemplate)
    series = read_tilt_series(s.input.table)
    tomogram, _ = read_mrc(s.input.tomogram)
    reference, pixel = read_mrc(s.input.reference)
    result = match_template(
        s.to_device(tomogram), s.to_device(reference), pixel, series, config, s.rng("eigen-templates"),
        report=lambda done, total: s.report(done, total, "orientations"),
    )
    hand = result.summary["hand"]["verdict"]
    s.log.info("%s: %d particles, hand: %s", series.name, len(result.particles), hand)
    if hand == "mirrored":
        s.log.warning(
            "%s: the mirrored reference fits better: tomogram or reference has the wrong hand. Fix: check the reference, or "
            "add 180 to import_tilt_series.tilt_axis_deg", series.name,
        )
    write_particles(result.particles, s.output.particles)
    write_mrc(s.output.scores, result.scores, series.pixel_size_angst)
    s.write_summary(result.summary)
