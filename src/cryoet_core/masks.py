"""Soft masks. One builder for every step: spheres, discs, masks from a map, edge tapers. Values in [0, 1], float32."""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, ndimage_module
from cryoet_core.errors import UserInputError

_OVERSHOOT = 0.05  # of soft edges that were interpolated or filtered
_BYTE = 255.0


def scaled_mask(values, field: str, file=None):
    """A mask that a user gave, 1 inside and 0 outside -> (the same from 0 to 1, what was changed or "").

    Two values, 0 and another, and bytes from 0 to 255 are scaled to 0..1, overshoot of soft edges is cut. field : the key
    that names the mask, file : it, for messages. Raises UserInputError E-MASK-01 for other values and for a mask with nothing
    inside.
    """
    host = asnumpy(values)
    if host.dtype == bool:
        return values, ""
    what = "the mask" if file is None else f"the mask {file}"
    low, high = float(host.min()) + 0.0, float(host.max()) + 0.0  # no "-0" in messages
    found = f"values {low:g} to {high:g}"
    if low >= 0 and 0.5 < high <= 1:
        return values, ""
    if low == 0 and high > 0 and bool(np.all((host == 0) | (host == high))):
        return (values > 0).astype(np.float32), f"{what} has the values 0 and {high:g}: {high:g} is taken as 1 (inside)"
    if low == 0 and high == _BYTE and bool(np.all(host == np.rint(host))):
        return values / np.float32(_BYTE), f"{what} has bytes from 0 to 255: they are divided by 255"
    if low >= -_OVERSHOOT and 0.5 < high <= 1 + _OVERSHOOT:
        return values.clip(0, 1), f"{what} has {found}: they are cut to 0..1"
    distinct = np.unique(host[: min(len(host), 64)])
    if len(distinct) <= 8:
        found += f" ({', '.join(f'{v + 0.0:g}' for v in distinct)})"
    raise UserInputError(
        "E-MASK-01", "nothing is inside this mask" if low == high == 0 else "these are not the values of a mask",
        file=file, field=field, found=found, expected="0 outside, 1 inside, between them at a soft edge",
        fix="write the mask with values from 0 to 1; of several labels, with 1 where particles may be and 0 elsewhere",
    )  # fmt: skip


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
