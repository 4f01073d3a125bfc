"""Full, even and odd images of a series, read and written together, view by view, so that memory stays small."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

import numpy as np

from cryoet_core.io import half
from cryoet_core.io.images import COLUMNS, REPAIRS, image_name, image_names, series_views
from cryoet_core.io.mrc import MrcStackWriter


def iter_views(series):
    """Yield (3, h, w) float32, full, even and odd, of every row."""
    for images in zip(*(series_views(series, column) for column in COLUMNS), strict=True):
        yield np.stack(images)


def write_views(paths, views, pixel_size_angst: float, format: str = "float32", log=None) -> int:
    """Write an iterable of full, even and odd images, (3, h, w) or three (h, w), to the stacks ``paths``. Returns the number of views.

    format : float32, or float16 as long as it is enough for every view (io.half.is_enough): from the first view on for which it is not, all
    three stacks are float32, those before it as they were rounded. ``log`` is then called with a sentence. All three stacks appear only
    when the last view is written.
    """
    count, writers = 0, []
    with ExitStack() as opened:
        for images in views:
            if not writers:
                shape = images[0].shape
                writers = [opened.enter_context(MrcStackWriter(p, shape, pixel_size_angst, dtype=format)) for p in paths]
            if writers[0].dtype == np.float16 and not all(half.is_enough(image) for image in images):
                for writer in writers:
                    writer.widen()
                if log:
                    log(f"view {count + 1} needs more than half precision (values to {float(images[0].max()):g}): the stacks are float32")
            for writer, image in zip(writers, images, strict=True):
                writer.write(image)
            count += 1
            del images, image  # the next ones are made before these names are taken again
    return count


def pointing_to(series, paths, pixel_size_angst: float | None = None, image_size_px=None):
    """The series with its images in the stacks ``paths`` (full, even, odd), sections in row order; repairs of the old ones are left behind."""
    named = series.with_columns(
        **{column: image_names(len(series), path) for column, path in zip(COLUMNS, paths, strict=True)}
    )
    return dataclasses.replace(
        named,
        tilts=named.tilts.drop(columns=REPAIRS, errors="ignore"),
        pixel_size_angst=series.pixel_size_angst if pixel_size_angst is None else pixel_size_angst,
        image_size_px=series.image_size_px if image_size_px is None else tuple(image_size_px),
    )


def pointing_to_used(series, paths, pixel_size_angst: float, image_size_px):
    """:func:`pointing_to` for stacks that hold the views in use only, in row order; the other rows name no image ("none")."""
    named = pointing_to(series, paths, pixel_size_angst, image_size_px)
    sections = np.cumsum(series.included) - 1
    return named.with_columns(**{
        column: [image_name(i, path) if used else "none" for i, used in zip(sections.tolist(), series.included, strict=True)]
        for column, path in zip(COLUMNS, paths, strict=True)
    })  # fmt: skip
