"""Motion-corrected views -> CTF and quality of every view, fitted with both signs of depth, and pictures."""

from cryoet_core.config.estimate_ctf import EstimateCtf
from cryoet_core.ctf.estimate import CtfSettings, ctf_summary, estimate_ctf, series_with_ctf
from cryoet_core.ctf.foreign import join_ctf, sections_of
from cryoet_core.io.foreign_ctf import read_foreign_ctf
from cryoet_core.io.images import series_views
from cryoet_core.io.mrc import write_mrc
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step

with step(snakemake) as s:
    config = s.model(EstimateCtf)
    series = read_tilt_series(s.input.table)
    settings = CtfSettings(
        config.window_px, config.resolution_range_angst, config.defocus_range_angst, config.fit_phase_shift,
        defocus_angst=config.defocus_angst,
    )
    imported = None
    if config.mode == "import":
        imported = join_ctf(read_foreign_ctf(s.input.ctf), series, sections_of(read_tilt_series(s.input.imported)))
        s.log.info("defocus from %s, views joined by %s", imported.program, imported.key)
        if imported.missing.any():
            s.log.warning(
                "views %s are not in %s: they take their neighbours' defocus",
                ", ".join(map(str, series.tilts["tilt_id"][imported.missing])),
                s.input.ctf,
            )
    images = map(s.to_device, series_views(series))
    estimate = estimate_ctf(series, s.progress(images, len(series), "spectra"), settings, imported)
    write_mrc(s.output.spectra, estimate.pictures, series.pixel_size_angst, stack=True)
    for hand, path in ((1, s.output.plus), (-1, s.output.minus)):
        write_tilt_series(series_with_ctf(series, estimate.with_hand(hand)), path)
    s.write_summary(ctf_summary(series, estimate))
