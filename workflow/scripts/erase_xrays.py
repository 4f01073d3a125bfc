"""X-ray hits, hot and dead pixels: one mask from the full views, replaced in full, even and odd views."""

from cryoet_core.config.erase_xrays import EraseXrays
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series.halves import iter_views, pointing_to, write_views
from cryoet_core.tilt_series.summaries import xray_summary
from cryoet_core.tilt_series.xrays import XraySettings, erase_view, find_xrays

with step(snakemake) as s:
    config = s.model(EraseXrays)
    series = read_tilt_series(s.input.table)
    settings = XraySettings(**config.model_dump(exclude={"find_peaks"}))
    searched = series.included if config.find_peaks else [False] * len(series)
    found = find_xrays(s.progress(iter_views(series), len(series), "views searched"), settings, searched)
    cleaned = (
        erase_view(view, found.mask(row), [s.rng(series.name, int(tilt_id), part) for part in ("full", "even", "odd")])
        for row, (view, tilt_id) in enumerate(zip(iter_views(series), series.tilts["tilt_id"], strict=True))
    )
    paths = (s.output.stack, s.output.even, s.output.odd)
    write_views(paths, cleaned, series.pixel_size_angst)
    write_tilt_series(pointing_to(series, paths), s.output.table)
    summary = xray_summary(series, found)
    s.log.info("%d pixels replaced, %d of them defects in every view", summary["n_pixels"], summary["n_defect_pixels"])
    s.write_summary(summary)
