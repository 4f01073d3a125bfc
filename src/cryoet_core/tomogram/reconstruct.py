"""Weighted back-projection of raw (unaligned) views, with 3-D CTF correction in the same pass where it is asked for.

The tomogram has z first, its centre on index n//2 and keeps the recorded contrast (protein dark). Grey values are density
per pixel: summed along a ray they give the view again (minus its mean), where the views cover Fourier space.
Super-sampling: rows of views are oversampled by Fourier padding, x-z planes are made on a finer grid and Fourier-cropped, which
removes the rays that a coarse grid folds back beyond Nyquist (IMOD, SuperSampleFactor).
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoet_core.backend import array_namespace, asnumpy, fft_module, tile_size
from cryoet_core.errors import ResourceError
from cryoet_core.fourier import centre_crop_or_pad, filter_real, fourier_pad, frequency_grid
from cryoet_core.kernels.back_project import back_project
from cryoet_core.kernels.back_project_aligned import back_project_aligned
from cryoet_core.masks import taper_window
from cryoet_core.tilt_series.ctf_correction import pad_view
from cryoet_core.tomogram import ctf_in_depth
from cryoet_core.tomogram.frame import Frame, inside_view, make_frame, to_frame
from cryoet_core.tomogram.view_filters import BACK_PROJECTED, FilterOptions, view_filter

KERNEL_ROWS = 64  # y slices that the CPU kernel treats at once
CROP_PLANES = 8  # x-z planes that are Fourier-cropped at once
PLANE_MARGIN = 8  # px around every x-z plane, so that the Fourier crop of super-sampling does not wrap


def scale_views(images, how: str = "none"):
    """Views (n, h, w) with their mean subtracted: as they are ("none"), with standard deviation 1 ("sd"), or relative
    to their mean ("mean"; views whose mean is not positive stay as they are)."""
    xp = array_namespace(images)
    scaled = xp.empty(images.shape, dtype=xp.float32)
    for view, image in zip(scaled, images, strict=True):  # one by one: 64-bit copies of a whole stack would cost more than the rest
        mean = image.mean(dtype=xp.float64)
        view[:] = image
        view -= mean.astype(xp.float32)
        if how == "sd":
            view /= xp.maximum(image.std(dtype=xp.float64), 1e-12).astype(xp.float32)
        elif how == "mean" and mean > 0:
            view /= xp.maximum(mean, 1e-12).astype(xp.float32)
    return scaled


def extended_view(image, margin: int, mirrored: bool = True):
    """A view continued by at least ``margin`` pixels that fade to 0: mirrored, or the mean along its border (before CTF correction,
    which would turn mirrored detail into detail at the wrong place)."""
    shape = tuple(2 * scipy.fft.next_fast_len(n // 2 + margin, real=True) for n in image.shape)
    padded = centre_crop_or_pad(image, shape, 2, mode="symmetric") if mirrored else pad_view(image, shape)
    return padded * taper_window(shape, margin, array_namespace(image))


@dataclass(frozen=True)
class FilteredViews:
    """Filtered views in the frame, in host memory (or a scratch file): images (m, h, w_padded).

    view : (m,) which view each is a copy of. windows : (m, 2) depth windows, px (one without limits where a view has one copy).
    """

    frame: Frame
    images: np.ndarray
    view: np.ndarray
    windows: np.ndarray


def default_margin(raw_shape) -> int:
    """Pixels by which views are continued for filtering."""
    return 2 * max(8, min(raw_shape) // 16)


def _interpolation_transfer(shape, super_sampling: int, aligned: bool, xp):
    """What linear interpolation in back-projection leaves of a frequency, on average over positions between samples."""
    ky, kx = frequency_grid(shape, 1.0, xp)
    transfer = xp.sinc(kx / super_sampling) ** 2
    return transfer if aligned else transfer * xp.sinc(ky / super_sampling) ** 2


def _copies_of_view(image, frame: Frame, view: int, thickness_px, options, ctf, windows, super_sampling):
    """Yield the filtered copies (h, w_padded) of one view of zero mean, in the frame."""
    xp = array_namespace(image)
    framed = to_frame(extended_view(image, frame.margin, mirrored=ctf is None), frame, view)
    framed = framed * taper_window(frame.padded_shape, frame.margin, xp)
    window = view_filter(frame.padded_shape, frame.geometry, view, thickness_px, options, xp)
    if options.method in BACK_PROJECTED:
        window = window / _interpolation_transfer(frame.padded_shape, super_sampling, frame.aligned, xp)
    corrections = [xp.float32(1)] if ctf is None else ctf_in_depth.correction_filters(
        ctf, view, float(frame.raw.z_rot_deg[view]), windows, frame.padded_shape, frame.pixel_size_angst, xp
    )  # fmt: skip
    for correction in corrections:
        filtered = filter_real(framed, window * correction, 2)
        if not frame.aligned:  # with a tilt about x, rows are interpolated too
            filtered = fourier_pad(filtered, (super_sampling * filtered.shape[0], filtered.shape[1]), 2)
        yield centre_crop_or_pad(filtered, (_n_rows(frame, super_sampling), filtered.shape[1]), 2)


def _n_rows(frame: Frame, super_sampling: int) -> int:
    return frame.shape[0] * (1 if frame.aligned else super_sampling)


def _scratch(shape, memory_mb: float):
    """An array in memory, or in an unnamed file when it is larger than ``memory_mb``. Raises ResourceError E-REC-06 without room."""
    n_bytes = 4 * int(np.prod(shape))
    if n_bytes <= memory_mb * 2**20:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="tiltline-views-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, n_bytes)  # a full disk is noticed here, not by a signal later
        except OSError as error:
            raise ResourceError(
                "E-REC-06", "no room for the filtered views", field=tempfile.gettempdir(), found=str(error),
                expected=f"{n_bytes / 2**30:.1f} GB", fix="set TMPDIR to a larger folder, or a larger ctf_depth_step_angst",
            ) from error
        return np.memmap(file, np.float32, "r+", shape=tuple(shape))


def filter_views(images, geometry, pixel_size_angst, size_px, options: FilterOptions, super_sampling=1, ctf=None, scratch_mb=1536.0):
    """Zero-mean raw views (n, h, w) -> :class:`FilteredViews` for a tomogram of ``size_px`` (x, y, z).

    ctf : CtfInDepth of the same views, or None.
    """
    margin = default_margin(images.shape[1:])
    if ctf is not None:
        margin = max(margin, ctf_in_depth.margin_px(ctf, pixel_size_angst))
    frame = make_frame(geometry, images.shape[1:], pixel_size_angst, size_px, margin)
    rotations = frame.geometry.rotation
    windows = [
        np.array([[0.0, np.inf]]) if ctf is None else ctf_in_depth.view_windows(ctf, i, rotations[i], size_px, pixel_size_angst)
        for i in range(len(images))
    ]
    view = np.repeat(np.arange(len(images)), [len(w) for w in windows])
    store = _scratch((len(view), _n_rows(frame, super_sampling), frame.padded_shape[1]), scratch_mb)
    row = 0
    for i, image in enumerate(images):
        for copy in _copies_of_view(image, frame, i, float(size_px[2]), options, ctf, windows[i], super_sampling):
            store[row] = asnumpy(copy)
            row += 1
    return FilteredViews(frame, store, view, np.concatenate(windows))


@dataclass(frozen=True)
class _Grid:
    """The fine grid of x-z planes: ``s`` times finer, with a margin of coarse pixels."""

    size_px: tuple[int, int, int]
    s: int

    @property
    def margin(self) -> int:
        return PLANE_MARGIN if self.s > 1 else 0

    @property
    def shape(self):
        nx, ny, nz = self.size_px
        return self.s * (nz + 2 * self.margin), ny, self.s * (nx + 2 * self.margin)


def _slabs(n_y: int, plane_bytes: int, memory_mb: float):
    """(first, end) of slabs; whole blocks of KERNEL_ROWS rows where they fit, which the kernels treat at the cost of one."""
    length = max(8, tile_size(n_y, plane_bytes, memory_mb))
    if length > KERNEL_ROWS:
        length -= length % KERNEL_ROWS
    return [(y, min(y + length, n_y)) for y in range(0, n_y, length)]


def rows_of_views(views: FilteredViews, s: int, first: int, end: int, xp):
    """Rows first..end of all copies, oversampled along x and cut to the field of each view: (m, end - first, s * w), and of the
    views where they are inside, 0 to 1: (n, end - first, s * w)."""
    frame = views.frame
    fine_width = s * frame.shape[1]
    rows = xp.empty((len(views.view), end - first, fine_width), xp.float32)
    inside = xp.empty((len(frame.raw), *rows.shape[1:]), xp.float32)
    step = 1 if frame.aligned else s
    y = (np.arange(first, end) - views.images.shape[1] // 2) / step
    x = (np.arange(fine_width) - fine_width // 2) / s
    for i in range(len(inside)):
        inside[i] = inside_view(frame, i, y, x, xp)
    for row, image, i in zip(rows, views.images, views.view, strict=True):
        fine = xp.asarray(image[first:end])
        if s > 1:
            fine = fourier_pad(fine, (s * fine.shape[1],), 1)
        row[:] = centre_crop_or_pad(fine, (fine_width,), 1) * inside[i]
    return rows, inside


def _aligned_slab(views: FilteredViews, grid: _Grid, first: int, end: int, xp, out=None):
    """Planes first..end of the fine grid from rows that see one plane each; added to ``out`` when it is given."""
    rows, _ = rows_of_views(views, grid.s, first, end, xp)
    nz, _, nx = grid.shape
    tilts = views.frame.raw.y_tilt_deg[views.view]
    return back_project_aligned(rows.transpose(0, 2, 1), tilts, (nz, end - first, nx), out=out, depth_windows=grid.s * views.windows)


def _general_slab(views: FilteredViews, grid: _Grid, first: int, end: int, xp):
    """Planes first..end of the fine grid with any tilt about x."""
    s, (nz, ny, nx) = grid.s, grid.shape
    rotation = views.frame.geometry.rotation[views.view]
    height = views.images.shape[1]
    corners = np.array([(x, y - ny // 2, z) for x in (-nx / s, nx / s) for y in (first, end) for z in (-nz / s, nz / s)]) * [0.5, 1, 0.5]
    v = s * corners @ rotation[:, 1].T + height // 2
    low, high = max(0, int(np.floor(v.min())) - 1), min(height, int(np.ceil(v.max())) + 2)
    if low >= high:
        return xp.zeros((nz, end - first, nx), xp.float32)
    rows, _ = rows_of_views(views, s, low, high, xp)
    turned = rotation * np.array([s, s, 1])[:, None] * np.array([1 / s, 1.0, 1 / s])
    shifts = np.zeros((len(rows), 2))
    shifts[:, 1] = height // 2 - low - (high - low) // 2
    return back_project(rows, turned, shifts, None, grid.shape, y_range=(first, end), depth_windows=views.windows)


def back_project_views(views: FilteredViews, size_px, super_sampling=1, memory_mb=512.0, report=None, xp=np):
    """Back-project :class:`FilteredViews` -> NumPy float32 (nz, ny, nx).

    size_px : (x, y, z), even, in pixels of the views. ``report(done, total)`` is called after every slab of x-z planes; a slab
    takes about ``memory_mb`` of working memory on the device of ``xp``.
    """
    grid = _Grid(tuple(int(v) for v in size_px), int(super_sampling))
    nx, ny, nz = grid.size_px
    one_plane = 4 * grid.shape[0] * grid.shape[2] + 8 * len(views.view) * grid.s * views.frame.shape[1]
    make_slab = _aligned_slab if views.frame.aligned else _general_slab
    in_place = grid.s == 1 and views.frame.aligned and xp is np  # a slab on the way would cost as much time as a third of the projection
    volume = (np.zeros if in_place else np.empty)((nz, ny, nx), dtype=np.float32)
    for first, end in _slabs(ny, one_plane, memory_mb):
        if in_place:
            _aligned_slab(views, grid, first, end, xp, volume[:, first:end])
            if report is not None:
                report(end, ny)
            continue
        slab = make_slab(views, grid, first, end, xp)
        for y in range(0, end - first, CROP_PLANES):
            planes = _coarse_planes(slab[:, y : y + CROP_PLANES], grid)
            volume[:, first + y : first + y + planes.shape[1]] = asnumpy(planes)
        if report is not None:
            report(end, ny)
    return volume


def _coarse_planes(slab, grid: _Grid):
    """x-z planes of a fine slab (s*(nz + 2m), ny, s*(nx + 2m)) Fourier-cropped to (nz, ny, nx).

    All lengths are even multiples of ``s``, so index 0 and the centre stay where they are; x is cropped before z is transformed.
    """
    if grid.s == 1:
        return slab
    fft, margin = fft_module(array_namespace(slab)), grid.margin
    nz, nx = slab.shape[0] // grid.s, slab.shape[2] // grid.s
    columns = fft.fft(fft.rfft(slab, axis=2)[:, :, : nx // 2], axis=0)  # without the new Nyquist terms, which have no partner
    kept = array_namespace(slab).zeros((nz, *columns.shape[1:]), columns.dtype)
    kept[: nz // 2], kept[nz // 2 + 1 :] = columns[: nz // 2], columns[-(nz // 2 - 1) :]
    planes = fft.irfft(fft.ifft(kept, axis=0), n=nx, axis=2)
    return planes[margin:-margin, :, margin:-margin] * np.float32(1 / grid.s**2)


def reconstruct_tomogram(
    images, geometry, pixel_size_angst: float, size_px, options: FilterOptions | None = None, *,
    super_sampling: int = 2, view_scaling: str = "none", ctf=None, memory_mb: float = 512.0, report=None,
):
    """Tomogram (nz, ny, nx) float32 in host memory from raw views.

    Parameters
    ----------
    images : (n, h, w) views in use, recorded contrast, on any device.
    geometry : TiltGeometry of the same n views.
    pixel_size_angst : of the views and of the tomogram.
    size_px : (x, y, z), even, in those pixels.
    ctf : CtfInDepth of the same views for 3-D CTF correction; the views must not have been corrected before. None: no correction.

    Raises DataQualityError E-REC-01 for fewer than two tilt angles.
    """
    options = options or FilterOptions()
    views = filter_views(
        scale_views(images, view_scaling), geometry, pixel_size_angst, size_px, options, super_sampling, ctf
    )
    return back_project_views(views, size_px, super_sampling, memory_mb, report, array_namespace(images))
