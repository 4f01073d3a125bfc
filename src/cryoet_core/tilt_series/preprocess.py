"""Binning and grey values of views; halves are treated with the factors of the full view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.fourier import bin_images


@dataclass(frozen=True)
class GreyValues:
    """What was measured on a binned full view: the values given back by multiplying by std and adding mean."""

    mean: float
    std: float


def bin_views(images, binning: int):
    """Fourier-crop (m, h, w) by a whole number, one view at a time."""
    xp = array_namespace(images)
    return xp.stack([bin_images(image[None].astype(xp.float32), binning)[0] for image in images])


def scale_views(images, mode: str):
    """Grey values of full, even and odd images of ONE view, (m, h, w), the full one first.

    none: as they are. mean0: each minus its own mean. mean0_std1: besides, all divided by the standard deviation of the full
    view, so that the halves keep their scale relative to it.

    Returns the images and the :class:`GreyValues` of the full view.
    """
    xp = array_namespace(images)
    mean = images.mean(axis=(1, 2), keepdims=True, dtype=xp.float64)
    std = float(images[0].std(dtype=xp.float64))
    factors = GreyValues(float(mean[0, 0, 0]), std)
    if mode == "none":
        return images, factors
    flat = images - mean.astype(xp.float32)
    if mode == "mean0_std1" and std > 0:
        flat = flat / np.float32(std)
    return flat.astype(xp.float32), factors


def preprocess_view(images, binning: int, mode: str):
    """:func:`bin_views`, then :func:`scale_views`."""
    return scale_views(bin_views(images, binning), mode)
