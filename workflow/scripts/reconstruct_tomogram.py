"""Binned views -> tomogram (and even and odd tomograms), recorded contrast, written block by block."""

from contextlib import ExitStack

from cryoet_core.config.reconstruct_tomogram import ReconstructTomogram
from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import MrcBlockWriter
from cryoet_core.io.summary import read_summary
from cryoet_core.kernels.threads import for_blocks
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step
from cryoet_core.tilt_series.halves import iter_views
from cryoet_core.tomogram.blocks import BlockStatistics, with_sum
from cryoet_core.tomogram.from_series import (
    ctf_of_series,
    made_from_halves,
    placed_series,
    raw_views_of,
    tomogram_blocks,
    tomogram_summary,
)

with step(snakemake) as s:
    config = s.model(ReconstructTomogram)
    alignment = read_summary(s.input.alignment) if config.thickness == "auto" and config.thickness_angst is None else None
    series, size_px = placed_series(read_tilt_series(s.input.table), config, alignment)
    ctf, series = ctf_of_series(series, config)
    if ctf is not None:
        s.log.info("3-D CTF correction (%s), copies every %.0f A of defocus", config.ctf_3d, ctf.depth_step_angst)
    used, halves = series.select(series.included), s.output.get("even") is not None
    paths = [s.output.tomogram, s.output.even, s.output.odd] if halves else [s.output.tomogram]
    summed = halves and made_from_halves(series, config)

    def views():
        """(k, h, w) of every view: full, even and odd; the halves alone; or the full one alone."""
        if halves:
            stacks = (images[1:] if summed else images for images in iter_views(used))
        else:
            stacks = (load_images(used.select([row])) for row in range(len(used)))
        for images in s.progress(stacks, len(used), "views"):
            yield s.to_device(images)

    s.log.info("%d views to %d x %d x %d voxels%s", len(used), *size_px, ", full = even + odd" if summed else "")
    blocks = tomogram_blocks(series, views(), size_px, config, ctf, report=lambda done, total: s.report(done, total, "planes"))
    statistics = BlockStatistics(size_px[2])
    with ExitStack() as opened:
        writers = [
            opened.enter_context(MrcBlockWriter(p, size_px[::-1], series.pixel_size_angst, dtype=config.format)) for p in paths
        ]
        for block in statistics.noted(with_sum(blocks) if summed else blocks):
            for_blocks(lambda writer, values, b=block: writer.write_block(b.z0, b.y0, values), list(zip(writers, block.values, strict=True)))
    write_tilt_series(series, s.output.table)
    write_tilt_series(raw_views_of(series, read_tilt_series(s.input.aligned)), s.output.raw_table)
    s.write_summary(tomogram_summary(series, size_px, config, statistics))
