"""Full, even and odd images of a series, read and written together, view by view, so that memory stays small."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

import numpy as np

from cryoet_core.io.images import image_name, image_names, load_named_images
from cryoet_core.io.mrc import MrcStackWriter

COLUMNS = ("image", "image_even", "image_odd")


def iter_views(series):
    """Yield (3, h, w) float32, full, even and odd, of every row."""
    for names in zip(*(series.tilts[column] for column in COLUMNS), strict=True):
        yield np.stack([load_named_images([name])[0] for name in names])


def write_views(paths, views, pixel_size_angst: float, format: str = "float32") -> int:
    """Write an iterable of (3, h, w) to the stacks ``paths`` (full, even, odd), float32 or float16. Returns the number of views.

    All three appear only when the last view is written.
    """
    count, writers = 0, []
    with ExitStack() as opened:
        for images in views:
            if not writers:
                writers = [opened.enter_context(MrcStackWriter(p, images.shape[1:], pixel_size_angst, dtype=format)) for p in paths]
            for writer, image in zip(writers, images, strict=True):
                writer.write(image)
            count += 1
    return count


def pointing_to(series, paths, pixel_size_angst: float | None = None, image_size_px=None):
    """The series with its images in the stacks ``paths`` (full, even, odd), sections in row order."""
    named = series.with_columns(
        **{column: image_names(len(series), path) for column, path in zip(COLUMNS, paths, strict=True)}
    )
    return dataclasses.replace(
        named,
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
