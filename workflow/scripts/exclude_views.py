"""Score every view and mark those that take no part from here on: lists, rules, a file, darkness, other scores."""

import numpy as np

from cryoet_core.config.exclude_views import ExcludeViews
from cryoet_core.io.images import series_views
from cryoet_core.io.mrc import write_mrc
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series.exclude import (
    NOT_JUDGED,
    exclude_views,
    measure_views,
    read_selection_file,
    selection_from_file,
    selection_path,
)
from cryoet_core.tilt_series.summaries import exclusion_summary
from cryoet_core.tilt_series.view_scores import limits

with step(snakemake) as s:
    config = s.model(ExcludeViews)
    series = read_tilt_series(s.input.table)
    statistics, thumbnails = measure_views(s.progress(series_views(series), len(series), "views"))
    thumbnail_pixel = series.pixel_size_angst * (series.image_size_px[0] // thumbnails[0].shape[1])
    write_mrc(s.output.thumbnails, np.stack(thumbnails), thumbnail_pixel, stack=True)
    path = selection_path(config.file, series.name)
    listed = selection_from_file(read_selection_file(path), series.name, path)
    marked, darkness, scores = exclude_views(series, statistics, config, listed, thumbnails)
    for row in marked.tilts[~marked.included].itertuples():
        s.log.info("view %d at %.1f deg excluded: %s", row.tilt_id, row.nominal_tilt_deg, row.exclude_reason)
    apart = marked.tilts["tilt_id"][np.isnan(scores["field_of_view"]) & marked.included].tolist()
    if apart:
        s.log.warning("views %s share no detail with the least tilted view through any neighbour: look at them", apart)
    summary = exclusion_summary(marked, darkness, statistics, scores, limits(config))
    if config.dark and not summary["darkness_judged"]:
        s.log.warning("dark views cannot be told: %s", NOT_JUDGED)
    write_tilt_series(marked, s.output.table)
    s.write_summary(summary)
