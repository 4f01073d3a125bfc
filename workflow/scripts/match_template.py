"""Tomogram and reference -> particles with positions, orientations and scores; score map. Or another program's picks -> the same table."""

from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.io.mrc import read_header, read_mrc, write_mrc
from cryoet_core.metadata import read_tilt_series, write_particles
from cryoet_core.picking.exchange import export_picks, import_picks
from cryoet_core.picking.match import match_template
from cryoet_core.step import step


def imported(s, series, config):
    """(particles, summary) of the file that match_template.picks names."""
    result = import_picks(str(s.input.picks), series, read_header(s.input.tomogram).shape, config)
    s.log.info("%s: %d particles imported (%s)", series.name, len(result.particles), result.summary["imported"]["format"])
    for warning in result.warnings:
        s.log.warning("%s: %s", series.name, warning)
    return result.particles, result.summary


def matched(s, series, config):
    """(particles, summary) of template matching; the score map is written."""
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
    write_mrc(s.output.scores, result.scores, series.pixel_size_angst)
    return result.particles, result.summary


with step(snakemake) as s:
    config = s.model(MatchTemplate)
    series = read_tilt_series(s.input.table)
    particles, summary = (matched if config.picks is None else imported)(s, series, config)
    if config.export_picks:
        shape = read_header(s.input.tomogram).shape
        lost = export_picks(particles, series, shape, config.export_picks, s.output.exported, config.picks_tomograms)
        summary["exported"] = {"formats": list(config.export_picks), "lost": lost}
    write_particles(particles, s.output.particles)
    s.write_summary(summary)
