"""Weighted back-projection of raw (unaligned) views, with 3-D CTF correction in the same pass where it is asked for.

The tomogram has z first, its centre on index n//2 and keeps the recorded contrast (protein dark). Grey values are density
per pixel: summed along a ray they give the view again (minus its mean), where the views cover Fourier space.
Super-sampling: rows of views are oversampled by Fourier padding before voxels interpolate in them. What a view adds is band-limited, so
voxels need no finer grid; only the interpolation between pixels folds frequencies back (IMOD's SuperSampleFactor makes finer planes too).
Tomograms are made block by block, so that none needs to be in memory.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import scipy.fft

from cryoet_core.backend import array_namespace, asnumpy, fft_module, tile_size
from cryoet_core.fourier import centre_crop_or_pad, filter_real, fourier_pad, frequency_grid
from cryoet_core.io.atomic import reserve
from cryoet_core.kernels.back_project import back_project
from cryoet_core.kernels.back_project_aligned import back_project_aligned
from cryoet_core.kernels.threads import for_blocks, spans
from cryoet_core.masks import taper_window
from cryoet_core.tilt_series.ctf_correction import pad_view
from cryoet_core.tomogram import ctf_in_depth
from cryoet_core.tomogram.blocks import Block, assembled
from cryoet_core.tomogram.frame import Frame, inside_view, make_frame, to_frame
from cryoet_core.tomogram.view_filters import BACK_PROJECTED, FilterOptions, view_filter

KERNEL_ROWS = 64  # y slices that the CPU kernel treats at once
KERNEL_LAYERS = 16  # z planes that it treats at once
VIEWS_AT_ONCE = 8  # that are filtered on threads: a view at binning 4 takes 0.1 GB meanwhile


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
    return padded * _taper(shape, margin, array_namespace(image))


_taper = lru_cache(maxsize=4)(taper_window)


@dataclass(frozen=True)
class FilteredViews:
    """Filtered views in the frame, in host memory (or a scratch file): images (k, m, h, w_padded) of k stacks treated alike.

    view : (m,) which view each is a copy of. windows : (m, 2) depth windows, px (one without limits where a view has one copy).
    super_sampling : see :func:`samples_per_px`.
    """

    frame: Frame
    images: np.ndarray
    view: np.ndarray
    windows: np.ndarray
    super_sampling: int = 1

    @property
    def row_step(self) -> int:
        """Rows per pixel: with a tilt about x rows are interpolated too."""
        return 1 if self.frame.aligned else self.super_sampling


def samples_per_px(super_sampling: int) -> int:
    """Samples per pixel along a row. One more than asked for: then interpolation errs by less than between planes that are super_sampling times
    finer and cropped in Fourier space (1.2 instead of 2.1 % of the tomogram's deviation for 2, 0.7 instead of 1.3 % for 3)."""
    return super_sampling + (super_sampling > 1)


def default_margin(raw_shape) -> int:
    """Pixels by which views are continued for filtering."""
    return 2 * max(8, min(raw_shape) // 16)


@lru_cache(maxsize=4)
def _interpolation_transfer(shape, samples: int, rows: int, xp):
    """What linear interpolation in back-projection leaves of a frequency, on average over positions between samples; ``rows`` per px, 0 when
    rows are not interpolated."""
    ky, kx = frequency_grid(shape, 1.0, xp)
    transfer = xp.sinc(kx / samples) ** 2
    return transfer * xp.sinc(ky / rows) ** 2 if rows else transfer


def _view_window(frame: Frame, view: int, thickness_px, options, super_sampling, xp):
    """What the spectrum of a view in the frame is multiplied by."""
    window = view_filter(frame.padded_shape, frame.geometry, view, thickness_px, options, xp)
    if options.method not in BACK_PROJECTED:
        return window
    rows = 0 if frame.aligned else super_sampling
    return window / _interpolation_transfer(frame.padded_shape, samples_per_px(super_sampling), rows, xp)


def _filtered_copies(image, frame: Frame, view: int, window, ctf, windows, row_step):
    """Yield the filtered copies (h, w_padded) of one view of zero mean, in the frame."""
    xp = array_namespace(image)
    framed = to_frame(extended_view(image, frame.margin, mirrored=ctf is None), frame, view)
    framed = framed * _taper(frame.padded_shape, frame.margin, xp)
    corrections = [xp.float32(1)] if ctf is None else ctf_in_depth.correction_filters(
        ctf, view, float(frame.raw.z_rot_deg[view]), windows, frame.padded_shape, frame.pixel_size_angst, xp
    )  # fmt: skip
    for correction in corrections:
        filtered = filter_real(framed, window * correction, 2)
        if row_step > 1:
            filtered = fourier_pad(filtered, (row_step * filtered.shape[0], filtered.shape[1]), 2)
        yield centre_crop_or_pad(filtered, (row_step * frame.shape[0], filtered.shape[1]), 2)


def _scratch(shape, memory_mb: float):
    """An array in memory, or in an unnamed file when it is larger than ``memory_mb``. Raises ResourceError E-DISK-02
    without room."""
    n_bytes = 4 * int(np.prod(shape))
    if n_bytes <= memory_mb * 2**20:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="tiltline-views-") as file:
        reserve(file, n_bytes)  # a full disk is noticed here, not by a signal later
        return np.memmap(file, np.float32, "r+", shape=tuple(shape))


def filter_views(images, geometry, pixel_size_angst, size_px, options: FilterOptions, super_sampling=1, ctf=None, scratch_mb=1536.0):
    """Zero-mean raw views -> :class:`FilteredViews` for a tomogram of ``size_px`` (x, y, z).

    images : (n, h, w), or an iterable of n groups (k, h, w): the same view of k stacks (full, even, odd). geometry : of the n views.
    ctf : CtfInDepth of the same views, or None.
    """
    groups = iter(images[:, None] if getattr(images, "ndim", 4) == 3 else images)
    first = next(groups)
    margin = default_margin(first.shape[1:])
    if ctf is not None:
        margin = max(margin, ctf_in_depth.margin_px(ctf, pixel_size_angst))
    frame = make_frame(geometry, first.shape[1:], pixel_size_angst, size_px, margin)
    rotations, xp = frame.geometry.rotation, array_namespace(first)
    windows = [
        np.array([[0.0, np.inf]]) if ctf is None else ctf_in_depth.view_windows(ctf, i, rotations[i], size_px, pixel_size_angst)
        for i in range(len(geometry))
    ]
    view = np.repeat(np.arange(len(geometry)), [len(w) for w in windows])
    starts = np.searchsorted(view, np.arange(len(geometry)))
    views = FilteredViews(frame, None, view, np.concatenate(windows), super_sampling)
    store = _scratch((len(first), len(view), views.row_step * frame.shape[0], frame.padded_shape[1]), scratch_mb)

    def fill(i, group):
        window = _view_window(frame, i, float(size_px[2]), options, super_sampling, xp)
        for stack, image in zip(store, group, strict=True):
            for row, copy in enumerate(_filtered_copies(image, frame, i, window, ctf, windows[i], views.row_step), starts[i]):
                stack[row] = asnumpy(copy)

    fill(0, first)  # tables that all views share are made before threads ask for them
    rest = enumerate(groups, 1)
    while batch := list(islice(rest, VIEWS_AT_ONCE)):
        _on_threads(fill, batch, xp)
    return dataclasses.replace(views, images=store)


def _on_threads(function, items, xp):
    """Call function(*item) for all: on the CPU's threads, on a GPU one after another."""
    if xp is np:
        for_blocks(function, items)
    else:
        for item in items:
            function(*item)


def _field(views: FilteredViews, view: int, y, x, xp):
    """(columns, (columns, rows)): those of ``x`` where some of the rows ``y`` leave the raw view, and how far they are inside there, 0 to 1."""
    frame = views.frame
    ends = inside_view(frame, view, y[[0, -1]], x)  # a row that is inside at both ends is inside
    columns = np.flatnonzero(ends.min(axis=0) < 1)
    return columns, inside_view(frame, view, y, x[columns], xp).T


def rows_of_views(views: FilteredViews, copies, samples: int, first: int, end: int, xp):
    """Rows first..end of the copies ``copies`` (slice), with ``samples`` per pixel and 0 outside the field of each view.

    Returns (k, m, samples * w, end - first) on the device of ``xp``: y innermost, as back-projection wants it.
    """
    width = samples * views.frame.shape[1]
    chosen = np.arange(len(views.view))[copies]
    rows = xp.empty((len(views.images), len(chosen), width, end - first), xp.float32)
    y = (np.arange(first, end) - views.images.shape[2] // 2) / views.row_step
    x = (np.arange(width) - width // 2) / samples

    def fill(number, copy):
        columns, inside = _field(views, views.view[copy], y, x, xp)
        columns = xp.asarray(columns)
        for stack, row in zip(views.images, rows[:, number], strict=True):
            row[:] = _oversampled(xp.asarray(stack[copy, first:end]).T, samples, width)
            row[columns] *= inside

    _on_threads(fill, list(enumerate(chosen)), xp)
    return rows


def _oversampled(columns, samples: int, width: int):
    """(w, rows) -> the middle ``width`` of (samples * w, rows), by Fourier padding. w is even, so index 0 and the centre keep their places."""
    n = columns.shape[0]
    if samples > 1:
        fft = fft_module(array_namespace(columns))
        columns = fft.irfft(fft.rfft(columns, axis=0)[: n // 2], n=samples * n, axis=0) * np.float32(samples)
    start = samples * n // 2 - width // 2
    return columns[start : start + width]


def _partition(size_px, n_tomograms: int, row_bytes: int, memory_mb: float):
    """(slabs of y, layers of z) whose voxels, with the rows of views that they need, take about ``memory_mb``.

    Slabs are whole blocks of KERNEL_ROWS rows, which the CPU kernel treats at the cost of one; where not even one block fits, it is cut into layers.
    """
    nx, ny, nz = size_px
    rows = tile_size(ny, 4 * n_tomograms * nz * nx + row_bytes, memory_mb)
    if rows == ny or rows >= KERNEL_ROWS:
        return spans(0, ny, ny if rows == ny else rows - rows % KERNEL_ROWS), [(0, nz)]
    layer = tile_size(nz, 4 * n_tomograms * KERNEL_ROWS * nx, 0.5 * memory_mb)
    return spans(0, ny, KERNEL_ROWS), spans(0, nz, max(layer - layer % KERNEL_LAYERS, KERNEL_LAYERS))


def back_project_views(views: FilteredViews, size_px, memory_mb=512.0, report=None, xp=np) -> Iterator[Block]:
    """Yield the blocks of the k tomograms of ``size_px`` (x, y, z), even, in pixels of the views, from :class:`FilteredViews`.

    ``report(done, total)`` is called after every slab of x-z planes; a block takes about ``memory_mb`` of working memory on the device of ``xp``.
    The memory of a block is used again for the next.
    """
    size_px = tuple(int(v) for v in size_px)
    nx, ny, nz = size_px
    n_stacks, n_copies = views.images.shape[:2]
    samples = samples_per_px(views.super_sampling)
    copy_bytes = 8 * n_stacks * samples * views.frame.shape[1]  # per row, and the kernel's own copy
    group = tile_size(n_copies, copy_bytes * KERNEL_ROWS, 0.5 * memory_mb)
    group += group % 2  # the kernel adds two images at a time
    groups = [slice(*ends) for ends in spans(0, n_copies, group)]
    slabs, layers = _partition(size_px, n_stacks, copy_bytes * min(group, n_copies), memory_mb)
    make_rows, project = (_aligned_rows, _project_aligned) if views.frame.aligned else (_general_rows, _project_general)
    values = None
    for y0, y1 in slabs:
        kept = None
        for z0, z1 in layers:
            shape = (n_stacks, z1 - z0, y1 - y0, nx)
            if values is None or values.shape != shape:
                values = xp.empty(shape, xp.float32)
            values[:] = 0
            for copies in groups:
                if kept is None or len(groups) > 1 or not views.frame.aligned:
                    kept = make_rows(views, copies, samples, size_px, (z0, z1), (y0, y1), xp)
                project(views, copies, samples, kept, size_px, (z0, z1), (y0, y1), values)
            yield Block(z0, y0, list(asnumpy(values)))
        if report is not None:
            report(y1, ny)


def _aligned_rows(views, copies, samples, size_px, layer, slab, xp):
    """Rows that see one x-z plane each."""
    return rows_of_views(views, copies, samples, *slab, xp)


def _project_aligned(views, copies, samples, rows, size_px, layer, slab, values):
    """Add what rows that see one plane each show of a block to ``values`` (k, planes, rows, nx)."""
    nx, _, nz = size_px
    planes = layer[1] - layer[0]
    centre = (0, 0, layer[0] + planes // 2 - nz // 2)
    tilts = views.frame.raw.y_tilt_deg[views.view[copies]]
    for stack, out in zip(rows, values, strict=True):
        back_project_aligned(
            stack, tilts, (planes, slab[1] - slab[0], nx), centre_offset_px=centre, out=out, depth_windows=views.windows[copies],
            samples_per_px=samples,
        )  # fmt: skip


def _general_rows(views, copies, samples, size_px, layer, slab, xp):
    """(first, end, rows (k, m, rows, samples * w)) that a block with any tilt about x is seen in; None when no view sees it."""
    nx, ny, nz = size_px
    height = views.images.shape[2]
    ends = [np.array(e) - n // 2 for e, n in (((0, nx), nx), (slab, ny), (layer, nz))]
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1).T
    v = views.row_step * corners @ views.frame.geometry.rotation[views.view[copies], 1].T + height // 2
    low, high = max(0, int(np.floor(v.min())) - 1), min(height, int(np.ceil(v.max())) + 2)
    if low >= high:
        return None
    return low, high, rows_of_views(views, copies, samples, low, high, xp).transpose(0, 1, 3, 2)


def _project_general(views, copies, samples, seen, size_px, layer, slab, values):
    """:func:`_project_aligned` for any tilt about x."""
    if seen is None:
        return
    low, high, rows = seen
    (nx, ny, nz), planes, height = size_px, layer[1] - layer[0], views.images.shape[2]
    turned = views.frame.geometry.rotation[views.view[copies]] * np.array([[samples], [views.row_step], [1]])
    shifts = np.zeros((rows.shape[1], 2))
    shifts[:, 1] = height // 2 - low - (high - low) // 2
    centre = (0, 0, layer[0] + planes // 2 - nz // 2)
    for stack, out in zip(rows, values, strict=True):
        back_project(stack, turned, shifts, None, (planes, ny, nx), centre, out=out, y_range=slab, depth_windows=views.windows[copies])


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
    return assembled(back_project_views(views, size_px, memory_mb, report, array_namespace(images)), size_px)[0]
