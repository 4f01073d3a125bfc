"""CTF correction of the full, even and odd views along the defocus gradient of the tilted specimen."""

import numpy as np

from cryoet_core.backend import asnumpy
from cryoet_core.config.correct_ctf import CorrectCtf
from cryoet_core.ctf.treatment import refuse_corrected
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series import ctf_correction as ctf
from cryoet_core.tilt_series.gold_fill import BeadEraser
from cryoet_core.tilt_series.halves import iter_views, pointing_to, write_views
from cryoet_core.tilt_series.summaries import ctf_correction_summary

with step(snakemake) as s:
    settings = ctf.CtfCorrectionSettings(**s.model(CorrectCtf).model_dump())
    series = read_tilt_series(s.input.table)
    if settings.mode != "none":
        refuse_corrected(series, "correct_ctf")
    pixel, views = series.pixel_size_angst, ctf.view_ctfs(series)
    corrected = np.array([ctf.correctable(view, settings) for view in views])
    if not corrected.all() and settings.mode != "none":
        s.log.warning("%d views have no measured defocus and stay as they are", int((~corrected).sum()))

    without_beads = BeadEraser(series, snakemake.params.get("gold_diameter_angst"))

    def correct(row, images, view, wanted):
        images = without_beads(row, s.to_device(images))  # before their fringes are spread by the correction
        return asnumpy(ctf.correct_views(images, view, pixel, series.optics, settings) if wanted else images)

    rows = s.progress(zip(range(len(series)), iter_views(series), views, corrected, strict=True), len(series), "views")
    paths = (s.output.stack, s.output.even, s.output.odd)
    write_views(paths, (correct(*row) for row in rows), pixel)
    write_tilt_series(pointing_to(ctf.recorded(series, settings, corrected), paths), s.output.table)
    copies = [ctf.n_copies(series.image_size_px[::-1], pixel, view, settings) for view in views]
    s.write_summary(ctf_correction_summary(series, settings, corrected, copies))
