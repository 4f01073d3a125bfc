"""Raw views -> shifts, tilt axis and tilt offset, computed or of another program; also as IMOD, AreTomo and Warp files."""

import numpy as np

from cryoet_core.config.align_tilt_series import AlignTiltSeries
from cryoet_core.io import imod
from cryoet_core.io.aretomo import write_aln
from cryoet_core.io.foreign_alignment import Images, read_foreign_alignment
from cryoet_core.io.images import load_images
from cryoet_core.io.warp import write_warp_xml
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series.align import align_tilt_series, given_geometry, settings_from_config
from cryoet_core.tilt_series.foreign import import_alignment
from cryoet_core.tilt_series.summaries import alignment_summary

with step(snakemake) as s:
    config = s.model(AlignTiltSeries)
    series = read_tilt_series(s.input.table)
    geometry = given_geometry(series.geometry, config)
    pixel, size = series.pixel_size_angst, series.image_size_px
    summary = {"aligned": False}
    if config.mode == "import":
        images = Images(size, pixel, series.movie_pixel_size_angst, config.alignment_pixel_size_angst)
        foreign = read_foreign_alignment(snakemake.params.get("alignment"), series.name, images)
        taken = import_alignment(series, foreign, opposite_tilts=config.alignment_tilts == "opposite")
        series, geometry, summary = taken.series, taken.series.geometry, taken.summary(foreign.path)
        s.log.info("alignment of %s, %d of %d views, joined by the %s", foreign.program, len(taken.rows), len(series), taken.key)
        for note in taken.notes:
            s.log.warning("%s", note)
    elif config.mode != "skip":
        images = s.to_device(load_images(series))
        result = align_tilt_series(images, geometry, pixel, settings_from_config(config), series.included, log=s.log.info)
        geometry = result.geometry
        summary = alignment_summary(series, result)
        if result.patches:
            series = series.with_columns(alignment_residual_px=result.residual_px)
    series = series.with_geometry(geometry)
    write_tilt_series(series, s.output.table)
    imod.write_xf(s.output.xf, imod.geometry_to_xf(geometry, pixel, size))
    imod.write_tlt(s.output.tlt, geometry.y_tilt_deg)
    imod.write_tlt(s.output.xtilt, geometry.x_tilt_deg)
    # AreTomo knows no tilt about x; it is one rotation of the whole specimen, so without it the views stay consistent.
    write_aln(s.output.aln, geometry.replace(x_tilt_deg=0.0), pixel, size, series.included)
    # Warp knows one tilt about x for the series; only an .xtilt of another program can hold several.
    write_warp_xml(s.output.xml, series.with_geometry(geometry.replace(x_tilt_deg=float(np.median(geometry.x_tilt_deg)))))
    s.write_summary(summary)
