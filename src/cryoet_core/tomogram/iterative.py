"""SIRT and SART (ordered subsets) with the projection kernels and their exact adjoints, slab by slab of rows.

    x <- x + relaxation . C_S A_S^T M R (b - A_S x)        for every subset S of views; SIRT has one subset, all views

A projects, R = 1 / length of the ray, C = 1 / number of views of S that see a voxel, M = 1 for rays that are known from end to end.
Start: zero. Sources: Gilbert 1972 (SIRT), Andersen & Kak 1984 (SART), IMOD tilt (weights, sign constraint).

Matter outside the tomogram also casts its shadow on the views ("long object"). Therefore the volume that is solved for is wider than the
tomogram by what the rays through it cross at the highest tilt, thicker by a chosen part, and cut at the end; rays that leave even
this volume through its sides, and pixels outside the view, carry no weight.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, tile_size
from cryoet_core.kernels.back_project import back_project
from cryoet_core.kernels.back_project_aligned import back_project_aligned
from cryoet_core.kernels.forward_project import forward_project
from cryoet_core.kernels.forward_project_aligned import forward_project_aligned
from cryoet_core.kernels.threads import spans
from cryoet_core.tomogram.blocks import Block, BlockStatistics, assembled
from cryoet_core.tomogram.frame import inside_view
from cryoet_core.tomogram.reconstruct import KERNEL_ROWS, FilteredViews, filter_views, rows_of_views, scale_views
from cryoet_core.tomogram.view_filters import FilterOptions

STEEPEST_DEG = 75.0  # rays of steeper views are not followed to their ends
COMPLETE = 0.9  # of the full path through the slab: a ray shorter than this left the volume through its sides


@dataclass(frozen=True)
class IterativeOptions:
    """iterations : passes over all views. subset_size : views per update, None = all at once (SIRT).

    padding : thickness added above and below, as a part of the thickness. sign : "none", or "dark" (nothing brighter than the mean).
    """

    iterations: int = 10
    subset_size: int | None = None
    relaxation: float = 1.0
    padding: float = 0.1
    sign: str = "none"


def padded_size(size_px, y_tilt_deg, padding: float):
    """(x, y, z) of the volume that is solved for: every ray through the tomogram lies in it from end to end."""
    nx, ny, nz = size_px
    thick = nz + 2 * int(np.ceil(padding * nz))
    steepest = np.deg2rad(min(float(np.abs(y_tilt_deg).max()), STEEPEST_DEG))
    return nx + 2 * int(np.ceil(thick * np.tan(steepest))), ny, thick


def view_subsets(y_tilt_deg, subset_size: int | None) -> list[np.ndarray]:
    """Subsets of views, each spread over the whole range, in an order in which neighbours follow each other late (golden ratio)."""
    order = np.argsort(y_tilt_deg, kind="stable")
    count = 1 if subset_size is None else int(np.ceil(len(order) / subset_size))
    turns = np.argsort(np.mod(np.arange(count) * 0.6180339887, 1.0), kind="stable")
    return [np.sort(order[first::count]) for first in turns]


class _Projector:
    """A and its adjoint for some rows of all views; images are (n, rows, w)."""

    def __init__(self, views: FilteredViews, shape):
        self.frame, self.shape = views.frame, tuple(shape)
        self.tilts, self.rotation = views.frame.raw.y_tilt_deg, views.frame.geometry.rotation

    def forward(self, volume, views, image_shape):
        if self.frame.aligned:
            return forward_project_aligned(volume, self.tilts[views], image_shape).transpose(0, 2, 1)
        return forward_project(volume, self.rotation[views], np.zeros((len(views), 2)), image_shape)

    def back(self, images, views):
        if self.frame.aligned:
            return back_project_aligned(images.transpose(0, 2, 1), self.tilts[views], self.shape)
        return back_project(images, self.rotation[views], np.zeros((len(views), 2)), None, self.shape)

    def ray_weights(self, inside):
        """M R: 1 / path length where a ray is known from end to end, else 0; (n, rows, w)."""
        xp = array_namespace(inside)
        lengths = self.forward(xp.ones(self.shape, xp.float32), np.arange(len(inside)), inside.shape[1:])
        full = self.shape[0] / np.maximum(np.abs(self.rotation[:, 2, 2]), 1e-3)
        complete = (lengths > COMPLETE * xp.asarray(full, dtype=xp.float32)[:, None, None]) & (inside > 0.999)
        return xp.where(complete, 1 / xp.maximum(lengths, 1e-3), 0).astype(xp.float32)


def _solve(projector: _Projector, images, inside, subsets, options: IterativeOptions):
    """Volume of one slab and the (iterations,) sums of squared residuals, with the number of rays that count."""
    xp = array_namespace(images)
    weights = projector.ray_weights(inside)
    seen = (weights > 0).astype(xp.float32)
    volume = xp.zeros(projector.shape, xp.float32)
    columns = None
    squares = np.zeros(options.iterations)
    for iteration in range(options.iterations):
        for subset in subsets:
            rows = xp.asarray(subset)
            residual = seen[rows] * (images[rows] - projector.forward(volume, subset, images.shape[1:]))
            squares[iteration] += float((residual**2).sum(dtype=xp.float64))
            if columns is None or len(subsets) > 1:
                columns = options.relaxation / xp.maximum(projector.back(seen[rows], subset), 1)
            volume += columns * projector.back(residual * weights[rows], subset)
            if options.sign == "dark":
                xp.minimum(volume, 0, out=volume)
    return volume, squares, float(seen.sum(dtype=xp.float64))


def _slabs(n_y: int, row_bytes: int, memory_mb: float):
    """(first, end) of slabs of rows; whole blocks of KERNEL_ROWS where they fit, which the kernels treat at the cost of one."""
    length = max(8, tile_size(n_y, row_bytes, memory_mb))
    return spans(0, n_y, length - length % KERNEL_ROWS if length > KERNEL_ROWS else length)


def _inside(frame, first: int, end: int, height: int, xp):
    """Where rows first..end of the frame lie inside the raw views, 0 to 1: (n, end - first, w)."""
    y, x = np.arange(first, end) - height // 2, np.arange(frame.shape[1]) - frame.shape[1] // 2
    return xp.stack([inside_view(frame, i, y, x, xp) for i in range(len(frame.raw))])


def solve_blocks(views: FilteredViews, size_px, options: IterativeOptions, memory_mb: float = 1024.0, report=None, xp=np):
    """Yield the blocks (:class:`Block`) of the k tomograms of ``size_px`` (x, y, z) from views filtered for the padded size.

    Rows are solved in slabs of about ``memory_mb``; with a tilt about x rows depend on each other and the whole volume is solved at once.
    """
    frame, (nx, ny, nz) = views.frame, (int(n) for n in size_px)
    solved, subsets = padded_size((nx, ny, nz), frame.raw.y_tilt_deg, options.padding), view_subsets(frame.raw.y_tilt_deg, options.subset_size)
    row_bytes = 4 * (4 * solved[0] * solved[2] + (4 + len(views.images)) * len(views.view) * frame.shape[1])
    z, x, height = (solved[2] - nz) // 2, (solved[0] - nx) // 2, views.images.shape[2]
    for first, end in _slabs(ny, row_bytes, memory_mb) if frame.aligned else [(0, ny)]:
        rows = (first, end) if frame.aligned else (0, height)
        stacks, inside = rows_of_views(views, slice(None), 1, *rows, xp).transpose(0, 1, 3, 2), _inside(frame, *rows, height, xp)
        projector = _Projector(views, (solved[2], end - first, solved[0]))
        volumes, squares, rays = [], 0.0, 0.0
        for number, data in enumerate(stacks):
            slab, *fit = _solve(projector, data, inside, subsets, options)
            squares, rays = (squares, rays) if number else fit
            volumes.append(asnumpy(slab[z : z + nz, :, x : x + nx]))
        yield Block(0, first, volumes, squares, rays)
        if report is not None:
            report(end, ny)


def views_to_solve(images, geometry, pixel_size_angst: float, size_px, options: IterativeOptions, filters: FilterOptions | None = None):
    """:func:`filter_views` for the volume that is solved for; of ``filters`` only the low-pass is used."""
    filters = dataclasses.replace(filters or FilterOptions(), method="sirt")
    solved = padded_size(tuple(int(n) for n in size_px), geometry.y_tilt_deg, options.padding)
    return filter_views(images, geometry, pixel_size_angst, solved, filters)


def reconstruct_iteratively(
    images, geometry, pixel_size_angst: float, size_px, options: IterativeOptions, filters: FilterOptions | None = None, *,
    view_scaling: str = "none", memory_mb: float = 1024.0, report=None,
):
    """(tomogram (nz, ny, nx) float32 in host memory, (iterations,) rms residual before each pass) from raw views.

    Arguments as in :func:`cryoet_core.tomogram.reconstruct.reconstruct_tomogram`; see :func:`solve_blocks`.
    """
    views = views_to_solve(scale_views(images, view_scaling), geometry, pixel_size_angst, size_px, options, filters)
    statistics = BlockStatistics(int(size_px[2]))
    blocks = statistics.noted(solve_blocks(views, size_px, options, memory_mb, report, array_namespace(images)))
    return assembled(blocks, size_px)[0], statistics.residual_rms
