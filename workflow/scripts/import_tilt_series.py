"""Movies and mdoc, or a ready stack and its tilt angles -> the table of the tilt series."""

from cryoet_core.config.import_tilt_series import ImportTiltSeries
from cryoet_core.io.acquisition import Given
from cryoet_core.io.import_series import import_movies, import_stack
from cryoet_core.metadata import write_tilt_series
from cryoet_core.step import step

with step(snakemake) as s:
    name, given = s.wildcards.ts, Given(**s.model(ImportTiltSeries).model_dump())
    source = snakemake.params.source
    if source["kind"] == "mdoc":
        result = import_movies(
            name, s.input.mdoc, source["movies_dir"], given, gain=s.input.get("gain"), defects=s.input.get("defects")
        )
    else:
        result = import_stack(name, s.input.stack, s.input.tilts, given)
    for warning in result.warnings:
        s.log.warning("%s", warning)
    write_tilt_series(result.series, s.output.table)
    s.write_summary(result.summary())
