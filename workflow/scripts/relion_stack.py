"""Full views with their pixels repaired, as a stack for RELION, which reads whole stacks."""

from cryoet_core.io.images import series_views
from cryoet_core.io.mrc import MrcStackWriter, number_format
from cryoet_core.metadata import read_tilt_series
from cryoet_core.step import step

with step(snakemake) as s:
    series = read_tilt_series(s.input.table)
    views = series_views(series)
    with MrcStackWriter(s.output.stack, views.shape[1:], series.pixel_size_angst, dtype=number_format(s.input.stack)) as writer:
        for image in s.progress(views, len(series), "views"):
            writer.write(image)
