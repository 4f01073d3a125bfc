"""Tomogram and reference -> particles with positions, orientations and scores; score map, map of the best orientations. Or another program's picks -> the same table."""

import time

import numpy as np
import pandas as pd

from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.geometry import matrix_to_euler
from cryoet_core.io.mask import read_mask
from cryoet_core.io.mrc import read_header, read_mrc, write_mrc
from cryoet_core.io.mrc_volume import MrcVolume
from cryoet_core.io.star import write_star
from cryoet_core.metadata import read_tilt_series, write_particles
from cryoet_core.picking.exchange import export_picks, import_picks
from cryoet_core.picking.match import match_template
from cryoet_core.step import step


class Phases:
    """Logs how far each phase of the search is; called by any number of threads, as often as they like."""

    def __init__(self, log):
        self.log, self.what, self.last, self.start = log, None, 0.0, 0.0

    def __call__(self, what: str, done: float, total: float):
        now = time.monotonic()
        if what != self.what:
            self.what, self.last, self.start = what, now, now
            self.log.info("%s", what)
        elif now - self.last > 5 and done:
            self.last = now
            self.log.info("%s: %.0f %%, %.0f s, %.0f s left", what, 100 * done / total, now - self.start, (now - self.start) * (total / done - 1))


def imported(s, series, config):
    """(particles, summary) of the file that match_template.picks names."""
    result = import_picks(str(s.input.picks), series, read_header(s.input.tomogram).shape, config)
    found = result.summary["imported"]
    unit = f", counted in {found['unit']}" if found["unit"] else ""
    s.log.info("%s: %d particles imported (%s%s)", series.name, len(result.particles), found["format"], unit)
    for warning in result.warnings:
        s.log.warning("%s: %s", series.name, warning)
    return result.particles, result.summary


def matched(s, series, config):
    """(particles, summary) of template matching; the score map and the orientation of every voxel are written."""
    reference, pixel = read_mrc(s.input.reference)
    tomogram, mask = MrcVolume(s.input.tomogram), None
    if s.input.get("search_mask"):
        mask = read_mask(s.input.search_mask, "match_template.search_mask", tomogram.pixel_size_angst)
    result = match_template(
        tomogram, s.to_device(reference), pixel, series, config, s.rng("eigen-templates"),
        mask=None if mask is None else mask.values, threads=s.threads, to_device=s.to_device, report=Phases(s.log),
        log=lambda sentence: s.log.info("%s: %s", series.name, sentence),
    )  # fmt: skip
    summary = result.summary
    if mask is not None:
        summary["search_mask_warnings"] = list(mask.warnings)
        for warning in mask.warnings:
            s.log.warning("%s: %s", series.name, warning)
    hand = summary["hand"]["verdict"]
    s.log.info(
        "%s: %d particles, cut-off by %s (score %s, expected false picks %s), hand: %s", series.name, len(result.particles), summary["threshold_rule"],
        summary["score_threshold"], summary["expected_false"], hand,
    )
    if hand == "mirrored":
        s.log.warning(
            "%s: the mirrored reference fits better: tomogram or reference has the wrong hand. Fix: check the reference, or "
            "add 180 to import_tilt_series.tilt_axis_deg", series.name,
        )
    if summary["expected_false"] is not None and summary["expected_false"] > 0.5 * max(summary["n_picks"], 1) and summary["n_picks"]:
        s.log.warning(
            "%s: most of the picks are expected to be false (%.0f of %d): an average of them shows something else. Fix: leave n_sigma and "
            "max_false_fraction empty, so that the cut-off is decided by what the control finds", series.name, summary["expected_false"],
            summary["n_picks"],
        )  # fmt: skip
    write_mrc(s.output.scores, result.scores, result.map_pixel_angst)
    write_mrc(s.output.orientations, result.orientation.astype(np.float32), result.map_pixel_angst)
    rot, tilt, psi = matrix_to_euler(result.rotations).T
    write_star(s.output.orientation_list, {"orientations": pd.DataFrame({"rlnAngleRot": rot, "rlnAngleTilt": tilt, "rlnAnglePsi": psi})})
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
