"""Half maps -> mask, corrected FSC, sharpened map, resolution."""

import numpy as np

from cryoet_core.config.postprocess import Postprocess
from cryoet_core.io.mask import read_mask
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.star import write_star
from cryoet_core.io.summary import read_summary
from cryoet_core.step import step
from cryoet_core.subtomo.postprocess import fsc_table, postprocess, read_mtf
from cryoet_core.subtomo.verdict import map_facts, verdict


def judged(s):
    """The verdict on the round's average, from what its steps say and from the half maps of its refinement."""
    halves = [read_mrc(path) for path in s.input.refined_halves]
    template = read_mrc(s.input.template) if s.input.template else (None, None)
    facts = map_facts(*(h for h, _ in halves), halves[0][1], snakemake.params.mask_diameter_angst, *template)
    picks = [read_summary(path) for path in s.usable(s.input.picks)]
    names = ("initial_model", "refine", "previous")
    others = {name: read_summary(path) if (path := s.input.get(name)) else None for name in names}
    return verdict(facts, snakemake.params.first_map, picks, **others)


with step(snakemake) as s:
    config = s.model(Postprocess)
    half1, pixel = read_mrc(s.input.half1)
    half2, _ = read_mrc(s.input.half2)
    mask = read_mask(config.mask, "postprocess.mask", pixel) if config.mask else None
    mtf = read_mtf(config.mtf, config.mtf_pixel_size_angst) if config.mtf else None
    values = None if mask is None else mask.values
    result = postprocess(half1, half2, pixel, config, s.rng(s.wildcards.round), mask=values, mtf=mtf)
    result.warnings[:0] = () if mask is None else mask.warnings
    for warning in result.warnings:
        s.log.warning("%s", warning)
    s.log.info("resolution %.1f A at FSC %.3f", result.resolution_angst, config.fsc_threshold)
    write_mrc(s.output.map, result.map, pixel)
    write_mrc(s.output.mask, result.mask, pixel)
    # Always written, so that the outputs of the rule do not depend on the config: zeros without local_resolution.
    none = np.zeros_like(result.map)
    write_mrc(s.output.local_resolution, none if result.local is None else result.local.resolution_angst, pixel)
    write_mrc(s.output.local_map, none if result.local is None else result.local.map, pixel)
    write_star(s.output.fsc, {"general": result.summary_star(pixel), "fsc": fsc_table(result, pixel)})
    found = judged(s)
    (s.log.warning if found.reasons else s.log.info)("%s", found.sentence())
    s.write_summary({**result.summary(), "verdict": found.numbers()})
