"""Weighted back-projection of raw (unaligned) views: each view is filtered in its own frame and interpolated once.

The tomogram has z first, its centre on index n//2 and keeps the recorded contrast (protein dark). Grey values are density
per pixel: summed along a ray they give the view again (minus its mean), where the views cover Fourier space.
Super-sampling: views are oversampled by Fourier padding, x-z planes are made on a finer grid and Fourier-cropped, which
removes the rays that a coarse grid folds back beyond Nyquist (IMOD, SuperSampleFactor).
"""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, tile_size
from cryoet_core.fourier import centre_crop_or_pad, filter_real, fourier_crop, fourier_pad
from cryoet_core.kernels.back_project import back_project
from cryoet_core.masks import taper_window
from cryoet_core.tomogram.view_filters import FilterOptions, view_filter

PLANE_MARGIN = 8  # px around every x-z plane, so that the Fourier crop of super-sampling does not wrap


def scale_views(images, how: str = "none"):
    """Views (n, h, w) with their mean subtracted: as they are ("none"), with standard deviation 1 ("sd"), or relative
    to their mean ("mean"; views whose mean is not positive stay as they are)."""
    xp = array_namespace(images)
    mean = images.mean(axis=(1, 2), keepdims=True, dtype=xp.float64)
    if how == "sd":
        factor = 1 / xp.maximum(images.std(axis=(1, 2), keepdims=True, dtype=xp.float64), 1e-12)
    elif how == "mean":
        factor = xp.where(mean > 0, 1 / xp.maximum(mean, 1e-12), 1.0)
    else:
        factor = xp.ones_like(mean)
    return ((images - mean) * factor).astype(xp.float32)


def _extended(image, margin: int):
    """A view with mirrored borders that fade to 0 over ``margin`` pixels outside the view."""
    h, w = image.shape
    padded = centre_crop_or_pad(image, (h + 2 * margin, w + 2 * margin), 2, mode="symmetric")
    return padded * taper_window(padded.shape, margin, array_namespace(image))


def filter_views(images, geometry, thickness_px: float, options: FilterOptions, super_sampling: int = 1):
    """Filtered and oversampled views: (n, h, w) zero-mean float32 -> (n, s*h, s*w), index n//2 kept."""
    xp = array_namespace(images)
    n, h, w = images.shape
    s = int(super_sampling)
    margin = 2 * max(8, min(h, w) // 16)
    filtered = xp.empty((n, s * h, s * w), dtype=xp.float32)
    for i in range(n):
        padded = _extended(images[i], margin)
        window = view_filter(padded.shape, geometry, i, thickness_px, options, xp)
        result = filter_real(padded, window, 2)
        if s > 1:
            result = fourier_pad(result, (s * result.shape[0], s * result.shape[1]), 2)
        filtered[i] = centre_crop_or_pad(result, (s * h, s * w), 2)
    return filtered


def _slabs(n_y: int, plane_bytes: int, memory_mb: float):
    length = max(8, tile_size(n_y, plane_bytes, memory_mb))
    return [(y, min(y + length, n_y)) for y in range(0, n_y, length)]


def back_project_views(filtered, geometry, pixel_size_angst, size_px, super_sampling=1, memory_mb=512.0, report=None):
    """Back-project filtered views (from :func:`filter_views`) -> NumPy float32 (nz, ny, nx).

    size_px : (x, y, z), even, in pixels of ``pixel_size_angst``. ``report(done, total)`` is called after every slab of
    x-z planes; a slab takes about ``memory_mb`` of working memory.
    """
    nx, ny, nz = (int(v) for v in size_px)
    s, margin = int(super_sampling), PLANE_MARGIN if super_sampling > 1 else 0
    fine = (s * (nz + 2 * margin), ny, s * (nx + 2 * margin))
    # view index = s R (x/s, y, z/s): rows for a grid that is s times finer in x and z, on views s times finer
    rows = s * geometry.rotation[:, :2] * np.array([1 / s, 1.0, 1 / s])
    shifts = s * geometry.shift_angst / pixel_size_angst
    volume = np.empty((nz, ny, nx), dtype=np.float32)
    for first, end in _slabs(ny, 16 * fine[0] * fine[2], memory_mb):
        slab = back_project(filtered, rows, shifts, None, fine, y_range=(first, end))
        volume[:, first:end] = asnumpy(_coarse_planes(slab, s, margin))
        if report is not None:
            report(end, ny)
    return volume


def _coarse_planes(slab, s: int, margin: int):
    """x-z planes of a fine slab (s*(nz + 2m), ny, s*(nx + 2m)) Fourier-cropped to (nz, ny, nx)."""
    if s == 1:
        return slab
    xp = array_namespace(slab)
    planes = xp.ascontiguousarray(slab.transpose(1, 0, 2))
    coarse = fourier_crop(planes, (planes.shape[1] // s, planes.shape[2] // s), 2)
    return coarse[:, margin:-margin, margin:-margin].transpose(1, 0, 2)


def reconstruct_tomogram(
    images, geometry, pixel_size_angst: float, size_px, options: FilterOptions | None = None, *,
    super_sampling: int = 2, view_scaling: str = "none", memory_mb: float = 512.0, report=None,
):
    """Tomogram (nz, ny, nx) float32 in host memory from raw views.

    Parameters
    ----------
    images : (n, h, w) views in use, recorded contrast, on any device.
    geometry : TiltGeometry of the same n views.
    pixel_size_angst : of the views and of the tomogram.
    size_px : (x, y, z), even, in those pixels.

    Raises DataQualityError E-REC-01 for fewer than two tilt angles.
    """
    options = options or FilterOptions()
    views = scale_views(images, view_scaling)
    filtered = filter_views(views, geometry, float(size_px[2]), options, super_sampling)
    return back_project_views(filtered, geometry, pixel_size_angst, size_px, super_sampling, memory_mb, report)
