"""Raw views -> shifts, tilt axis and tilt offset, computed or of another program; also as files of other programs."""

from dataclasses import replace

from cryoet_core.config.align_tilt_series import AlignTiltSeries
from cryoet_core.ctf.recentre import defocus_at_tomogram_centre
from cryoet_core.io.alignment_files import write_alignment_files
from cryoet_core.io.foreign_alignment import Images, read_foreign_alignment
from cryoet_core.io.images import series_views
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series.align import align_tilt_series, given_geometry
from cryoet_core.tilt_series.alignment_state import settings_from_config
from cryoet_core.tilt_series.foreign import import_alignment
from cryoet_core.tilt_series.gold import locate_beads, series_beams, survey_views
from cryoet_core.tilt_series.gold_file import write_gold
from cryoet_core.tilt_series.summaries import alignment_summary, gold_sentence, gold_summary, without_unaligned

with step(snakemake) as s:
    config = s.model(AlignTiltSeries)
    series = read_tilt_series(s.input.table)
    geometry = given_geometry(series.geometry, config)
    pixel, size = series.pixel_size_angst, series.image_size_px
    summary, survey, beams = {"aligned": False}, None, series_beams(series)
    if config.mode == "import":
        images = Images(size, pixel, series.movie_pixel_size_angst, config.alignment_pixel_size_angst)
        foreign = read_foreign_alignment(snakemake.params.get("alignment"), series.name, images)
        taken = import_alignment(series, foreign, opposite_tilts=config.alignment_tilts == "opposite")
        series, geometry, summary = taken.series, taken.series.geometry, taken.summary(foreign.path)
        s.log.info("alignment of %s, %d of %d views, joined by the %s", foreign.program, len(taken.rows), len(series), taken.key)
        for note in taken.notes:
            s.log.warning("%s", note)
    elif config.mode != "skip":
        images = map(s.to_device, s.progress(series_views(series), len(series), "views read"))
        result = align_tilt_series(images, geometry, pixel, settings_from_config(config), series.included, s.log.info, beams)
        geometry, survey, surveyed = result.geometry, result.survey, result.used
        summary = alignment_summary(series, result)
        if result.patches:
            series = series.with_columns(alignment_residual_px=result.residual_px)
        series = series.with_local_deformation(result.deformation)
        if config.unaligned_views == "exclude":
            series = without_unaligned(series, result)
        for view in summary["views_left_out"]:
            s.log.warning("view %d at %.1f deg: %s (%s)", view["tilt_id"], view["nominal_tilt_deg"], view["reason"], config.unaligned_views)
    if survey is None:
        surveyed = series.included
        chosen = series.select(surveyed)
        images = (s.to_device(image) for image in s.progress(series_views(chosen), len(chosen), "views searched for gold"))
        survey = survey_views(images, pixel, [beams[row] for row in surveyed.nonzero()[0]])
    field_angst = tuple(n * pixel for n in size)
    gold = locate_beads(survey, geometry, surveyed, series.tilts["tilt_id"].to_numpy(), field_angst, series.local_deformation)
    s.log.info("%s", gold_sentence(gold))
    write_gold(gold, series.name, s.output.gold)
    summary["gold"] = gold_summary(gold, series)
    series = replace(series, gold_file=s.output.gold, gold_diameter_angst=gold.diameters_angst[0] if len(gold.diameters_angst) else 0.0)
    series = defocus_at_tomogram_centre(series.with_geometry(geometry))
    write_tilt_series(series, s.output.table)
    write_alignment_files(series, s.output, snakemake.params.get("relion_stack"))
    s.write_summary(summary)
