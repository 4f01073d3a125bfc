"""X-ray hits, hot and dead pixels: one mask from the full views, and what replaces it in full, even and odd views."""

from cryoet_core.config.erase_xrays import EraseXrays
from cryoet_core.io.images import REPAIRS
from cryoet_core.io.mrc import number_format, write_mrc
from cryoet_core.io.repairs import write_repairs
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series.halves import iter_views, pointing_to, write_views
from cryoet_core.tilt_series.summaries import xray_summary
from cryoet_core.tilt_series.xrays import XraySettings, find_xrays, list_repairs

with step(snakemake) as s:
    config = s.model(EraseXrays)
    series = read_tilt_series(s.input.table)
    settings = XraySettings(**config.model_dump(exclude={"find_peaks", "stack"}))
    searched = series.included if config.find_peaks else [False] * len(series)
    found = find_xrays(s.progress(iter_views(series), len(series), "views searched"), settings, searched)
    repairs, strongest = list_repairs(series, found, lambda tilt_id: [s.rng(series.name, tilt_id, part) for part in ("full", "even", "odd")])
    write_repairs(repairs, s.output.repairs)
    write_mrc(s.output.strongest, strongest, series.pixel_size_angst, stack=True)
    repaired = series.with_columns(**{REPAIRS: str(s.output.repairs)})
    if config.stack:
        paths = (s.output.stack, s.output.even, s.output.odd)
        views = s.progress(iter_views(repaired), len(series), "views written")
        write_views(paths, views, series.pixel_size_angst, number_format(repairs.stacks[0]))
        repaired = pointing_to(series, paths)
    write_tilt_series(repaired, s.output.table)
    summary = xray_summary(series, found)
    s.log.info("%d pixels replaced, %d of them defects in every view", summary["n_pixels"], summary["n_defect_pixels"])
    s.write_summary(summary)
