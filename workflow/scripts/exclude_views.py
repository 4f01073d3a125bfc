"""Mark the views that take no part from here on: lists, rules, a file, darkness."""

from cryoet_core.config.exclude_views import ExcludeViews
from cryoet_core.io.images import load_named_images
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series.exclude import exclude_views, read_selection_file, selection_from_file, view_statistics
from cryoet_core.tilt_series.summaries import exclusion_summary

with step(snakemake) as s:
    config = s.model(ExcludeViews)
    series = read_tilt_series(s.input.table)
    names = s.progress(series.tilts["image"], len(series), "views")
    statistics = view_statistics(load_named_images([name])[0] for name in names)
    listed = selection_from_file(read_selection_file(config.file), series.name, config.file)
    marked, darkness = exclude_views(series, statistics, config, listed)
    for row in marked.tilts[~marked.included].itertuples():
        s.log.info("view %d at %.1f deg excluded: %s", row.tilt_id, row.nominal_tilt_deg, row.exclude_reason)
    write_tilt_series(marked, s.output.table)
    s.write_summary(exclusion_summary(marked, darkness, statistics))
