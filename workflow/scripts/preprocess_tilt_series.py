"""Grey values of the binned views, for tomograms; on request also an aligned stack.

correct_ctf bins the views and brings them to mean 0 and standard deviation 1. Views are written here only when that is not what is asked for.
"""

from contextlib import ExitStack

from cryoet_core.backend import asnumpy
from cryoet_core.config.preprocess_tilt_series import PreprocessTiltSeries
from cryoet_core.io import imod
from cryoet_core.io.mrc import MrcStackWriter
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series import preprocess
from cryoet_core.tilt_series.halves import iter_views, pointing_to_used, write_views

with step(snakemake) as s:
    config = s.model(PreprocessTiltSeries)
    series = read_tilt_series(s.input.table)
    used, recorded = series.select(series.included), preprocess.recorded_grey_values(series.select(series.included))
    left = config.binning if recorded is None else 1  # views at full size keep their grey values
    pixel = series.pixel_size_angst * left
    shape = preprocess.binned_size(series.image_size_px[::-1], left)
    target = preprocess.GreyTarget(config.grey_values, config.grey_mean, config.grey_std, *config.grey_range)
    paths = [s.output.get(name) for name in ("stack", "even", "odd")]
    aligned_path = s.output.get("aligned")

    def binned_views(what):
        for row, images in enumerate(s.progress(iter_views(used), len(used), what)):
            images = preprocess.bin_views(s.to_device(images), left)
            yield images if recorded is None else preprocess.original_values(images, recorded[row])

    if config.grey_values in preprocess.SERIES_MODES:
        target = preprocess.series_target(target, [preprocess.measured(images[0]) for images in binned_views("views measured")])

    grey, geometry = [], used.geometry
    with ExitStack() as opened:
        if aligned_path:
            aligned_shape = preprocess.aligned_shape(shape, geometry.z_rot_deg)
            aligned = opened.enter_context(MrcStackWriter(aligned_path, aligned_shape, pixel))

        def scaled():
            for row, images in enumerate(binned_views("views")):
                images, values = preprocess.scale_views(images, target)
                grey.append(values)
                if aligned_path:
                    shift_px = geometry.shift_angst[row] / pixel
                    aligned.write(asnumpy(preprocess.aligned_view(images[0], geometry.z_rot_deg[row], shift_px, aligned_shape)))
                yield asnumpy(images)

        if paths[0]:
            write_views(paths, scaled(), pixel, "float16" if config.grey_values == "mean0_std1" else "float32")
        elif aligned_path:
            for _ in scaled():
                pass
    if aligned_path:
        imod.write_tlt(s.output.aligned_tlt, geometry.y_tilt_deg)
    if paths[0]:
        series = preprocess.with_grey_values(pointing_to_used(series, paths, pixel, shape[::-1]), grey)
    write_tilt_series(series, s.output.table)
    mean, std, gain, level = series.tilts.loc[series.included, list(preprocess.GREY_COLUMNS)].to_numpy().T
    s.write_summary(
        {"binning": config.binning, "pixel_size_angst": pixel, "image_size_px": shape[::-1], "grey_values": config.grey_values,
         "tilt_id": used.tilts["tilt_id"].to_numpy(), "mean": mean, "std": std, "gain": gain, "level": level}
    )  # fmt: skip
