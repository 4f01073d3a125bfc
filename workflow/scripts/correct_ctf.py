"""Binning of the full, even and odd views, gold erased, and CTF correction along the defocus gradient of the tilted specimen."""

import numpy as np

from cryoet_core.backend import asnumpy
from cryoet_core.config.correct_ctf import CorrectCtf
from cryoet_core.ctf.treatment import refuse_corrected
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series import ctf_correction as ctf
from cryoet_core.tilt_series import preprocess
from cryoet_core.tilt_series.gold_fill import BeadEraser
from cryoet_core.tilt_series.halves import iter_views, pointing_to, pointing_to_used, write_views
from cryoet_core.tilt_series.summaries import ctf_correction_summary

with step(snakemake) as s:
    config = s.model(CorrectCtf)
    binning = snakemake.params.get("binning")  # None: views are written at full size, all of them and with their grey values
    series = read_tilt_series(s.input.table)
    if config.mode != "none":
        refuse_corrected(series, "correct_ctf")
    pixel = series.pixel_size_angst * (binning or 1)
    tolerance = ctf.tolerance_angst(config.defocus_tolerance_angst, pixel, series.optics)
    settings = ctf.CtfCorrectionSettings(**config.model_dump(exclude={"full_size"}) | {"defocus_tolerance_angst": tolerance})
    corrected = np.array([ctf.correctable(view, settings) for view in ctf.view_ctfs(series)])
    if not corrected.all() and settings.mode != "none":
        s.log.warning("%d views have no measured defocus and stay as they are", int((~corrected).sum()))

    written = series if binning is None else series.select(series.included)
    greys = []

    def views():
        without_beads = BeadEraser(written, snakemake.params.get("gold_diameter_angst"))
        rows = zip(iter_views(written), ctf.view_ctfs(written), strict=True)
        for row, (images, view) in enumerate(s.progress(rows, len(written), "views")):
            images = without_beads(row, s.to_device(images))  # before the CTF is corrected, which would spread a bead beyond what is erased
            images = preprocess.bin_views(images, binning or 1)
            if ctf.correctable(view, settings):
                images = ctf.correct_views(images, view, pixel, series.optics, settings)
            if binning is not None:
                images, grey = preprocess.scale_views(images, "mean0_std1")
                greys.append(grey)
            yield asnumpy(images)

    paths, shape = (s.output.stack, s.output.even, s.output.odd), preprocess.binned_size(series.image_size_px[::-1], binning or 1)
    write_views(paths, views(), pixel, "float32" if binning is None else "float16")
    done = ctf.recorded(series, settings, corrected)
    if binning is None:
        done = pointing_to(done, paths)
    else:
        done = preprocess.with_grey_values(pointing_to_used(done, paths, pixel, shape[::-1]), greys)
    write_tilt_series(done, s.output.table)
    copies = [ctf.n_copies(shape, pixel, view, settings) for view in ctf.view_ctfs(series)]
    s.write_summary(ctf_correction_summary(done, settings, corrected, copies))
