"""Half maps -> mask, corrected FSC, sharpened map, resolution."""

import numpy as np

from cryoet_core.config.postprocess import Postprocess
from cryoet_core.io.mask import read_mask
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.star import write_star
from cryoet_core.step import step
from cryoet_core.subtomo.postprocess import fsc_table, postprocess, read_mtf

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
    s.write_summary(result.summary())
