"""Soft masks. One builder for every step: spheres, discs, masks from a map, edge tapers. Values in [0, 1], float32."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, ndimage_module


def raised_cosine_edge(distance_px, radius_px: float, edge_px: float, xp=np):
    """1 inside ``radius_px``, half a cosine over ``edge_px`` outside it, then 0."""
    t = xp.clip((distance_px - radius_px) / max(edge_px, 1e-6), 0, 1)
    return (0.5 * (1 + xp.cos(np.pi * t))).astype(xp.float32)


def centre_distance(shape, xp=np):
    """Distance in pixels of every element to index n//2, float32."""
    squared = 0
    for axis, n in enumerate(shape):
        index = xp.arange(n, dtype=xp.float32) - n // 2
        squared = squared + (index**2).reshape([-1 if axis == i else 1 for i in range(len(shape))])
    return xp.sqrt(squared)


def soft_sphere(shape, radius_px: float, edge_px: float = 3.0, xp=np):
    """Soft ball about index n//2 of a volume (z, y, x)."""
    return raised_cosine_edge(centre_distance(shape, xp), radius_px, edge_px, xp)


def soft_disc(shape, radius_px: float, edge_px: float = 3.0, xp=np):
    """Soft disc about index n//2 of an image (y, x)."""
    return raised_cosine_edge(centre_distance(shape, xp), radius_px, edge_px, xp)


def taper_window(shape, width_px: float, xp=np):
    """Window (h, w): 1 inside, falling to 0 at the borders over ``width_px`` along each axis (raised cosine)."""
    window = 1
    for axis, n in enumerate(shape):
        index = xp.arange(n, dtype=xp.float32)
        distance = xp.minimum(index, n - 1 - index) + 0.5
        profile = 0.5 * (1 - xp.cos(np.pi * xp.clip(distance / max(width_px, 1e-6), 0, 1)))
        window = window * profile.reshape([-1 if axis == i else 1 for i in range(len(shape))])
    return window.astype(xp.float32)


def mask_from_map(volume, threshold: float, dilate_px: float = 2.0, edge_px: float = 4.0):
    """Mask of the largest object above ``threshold``, dilated by ``dilate_px``, with a raised-cosine edge of ``edge_px``.

    One Euclidean distance transform does dilation and edge. Source: RELION's mask_create.
    """
    xp = array_namespace(volume)
    ndimage = ndimage_module(xp)
    labels, count = ndimage.label(volume > threshold)
    if count == 0:
        return xp.zeros(volume.shape, dtype=xp.float32)
    sizes = xp.bincount(labels.ravel())
    sizes[0] = 0
    distance = ndimage.distance_transform_edt(labels != int(sizes.argmax()))
    return raised_cosine_edge(distance.astype(xp.float32), dilate_px, edge_px, xp)
