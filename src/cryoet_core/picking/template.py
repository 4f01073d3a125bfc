"""Rotated templates: zero-mean density under a soft spherical mask, sampled only where the mask is not zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.fourier import centre_crop_or_pad, fourier_pad
from cryoet_core.kernels.rotate_volume import rotate_volume
from cryoet_core.masks import soft_sphere

OVERSAMPLING = 2  # trilinear rotation needs a finer grid than the tomogram's


@dataclass(frozen=True, eq=False)
class Template:
    """A template ready for rotation.

    fine : (2b, 2b, 2b) masked, zero-mean density on a grid twice as fine, centre on index b.
    half : voxels lie at offsets -half..half (tomogram pixels) along each axis.
    inside : (2*half+1,)*3 bool, True where the mask is above zero.
    mask : (m,) weights of the soft sphere at these m voxels.
    """

    fine: object
    half: int
    inside: object
    mask: object

    @property
    def n_voxels(self) -> int:
        return int(self.mask.shape[0])


def make_template(reference, radius_px: float, edge_px: float = 2.0) -> Template:
    """Template from a bright reference (n, n, n) at the tomogram's pixel size, with a soft sphere of ``radius_px``."""
    xp = array_namespace(reference)
    half = int(np.ceil(radius_px + edge_px))
    box = 2 * (half + 2)
    density = centre_crop_or_pad(reference, (box, box, box), 3)
    sphere = soft_sphere(density.shape, radius_px, edge_px, xp)
    mean = (density * sphere).sum(dtype=xp.float64) / sphere.sum(dtype=xp.float64)
    masked = ((density - mean) * sphere).astype(xp.float32)
    fine = fourier_pad(masked, (OVERSAMPLING * box,) * 3, 3)
    small = soft_sphere((2 * half + 1,) * 3, radius_px, edge_px, xp)
    inside = small > 1e-4
    return Template(fine, half, inside, small[inside])


def rotated_rows(template: Template, rotations):
    """Templates turned by ``rotations`` (m, 3, 3), reference -> tomogram: (m, n_voxels) float32, zero mean in the mask."""
    xp = array_namespace(template.fine)
    h = template.half
    box = (2 * h + 1,) * 3
    rows = xp.empty((len(rotations), template.n_voxels), dtype=xp.float32)
    for first in range(0, len(rotations), 32):
        part = rotations[first : first + 32]
        # pulling at 2 R^T X samples the fine grid at every second pixel: a voxel of the tomogram
        turned = rotate_volume(template.fine, OVERSAMPLING * np.asarray(part), radius_px=h + 1.0, box=box)
        rows[first : first + len(part)] = turned[:, template.inside]
    excess = rows.sum(axis=1, keepdims=True) / template.mask.sum()
    return rows - excess * template.mask


def embed(rows, template: Template, box: int):
    """Rows (m, n_voxels) as volumes (m, box, box, box), centre on index box//2."""
    xp = array_namespace(rows)
    side = 2 * template.half + 1
    volumes = xp.zeros((len(rows), side, side, side), dtype=xp.float32)
    volumes[:, template.inside] = rows
    return centre_crop_or_pad(volumes, (box, box, box), 3)
