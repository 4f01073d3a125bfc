"""Motion-corrected views -> defocus, astigmatism and quality of every view, with pictures of spectrum and fit."""

from cryoet_core.config.estimate_ctf import EstimateCtf
from cryoet_core.ctf.estimate import CtfSettings, ctf_summary, estimate_ctf, series_with_ctf
from cryoet_core.io.images import load_named_images
from cryoet_core.io.mrc import write_mrc
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step

with step(snakemake) as s:
    config = s.model(EstimateCtf)
    series = read_tilt_series(s.input.table)
    settings = CtfSettings(
        config.window_px, config.resolution_range_angst, config.defocus_range_angst, config.fit_phase_shift,
        None if config.handedness == "auto" else int(config.handedness), config.defocus_angst,
    )
    images = (s.to_device(load_named_images([name])[0]) for name in series.tilts["image"])
    estimate = estimate_ctf(series, s.progress(images, len(series), "spectra"), settings)
    if config.handedness == "auto" and estimate.fit.handedness == 1:
        s.log.warning(
            "%s: the defocus gradient says handedness +1: the tilt axis is turned by 180 degrees and the tomogram would be "
            "mirrored. Fix: add 180 to import_tilt_series.tilt_axis_deg", series.name,
        )
    out = series_with_ctf(series, estimate)
    write_mrc(s.output.spectra, estimate.pictures, series.pixel_size_angst, stack=True)
    write_tilt_series(out, s.output.table)
    s.write_summary(ctf_summary(out, estimate))
