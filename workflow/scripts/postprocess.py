"""Half maps -> mask, corrected FSC, sharpened map, resolution."""

from cryoet_core.config.postprocess import Postprocess
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.star import write_star
from cryoet_core.step import step
from cryoet_core.subtomo.postprocess import fsc_table, postprocess, read_mtf

with step(snakemake) as s:
    config = s.model(Postprocess)
    half1, pixel = read_mrc(s.input.half1)
    half2, _ = read_mrc(s.input.half2)
    mask = read_mrc(config.mask)[0] if config.mask else None
    mtf = read_mtf(config.mtf, config.mtf_pixel_size_angst) if config.mtf else None
    result = postprocess(half1, half2, pixel, config, s.rng(s.wildcards.round), mask=mask, mtf=mtf)
    for warning in result.warnings:
        s.log.warning("%s", warning)
    s.log.info("resolution %.1f A at FSC %.3f", result.resolution_angst, config.fsc_threshold)
    write_mrc(s.output.map, result.map, pixel)
    write_mrc(s.output.mask, result.mask, pixel)
    write_star(s.output.fsc, {"general": result.summary_star(), "fsc": fsc_table(result, pixel)})
    s.write_summary(result.summary())
