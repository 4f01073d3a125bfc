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

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.kernels.back_project import back_project
from cryoet_core.kernels.back_project_aligned import back_project_aligned
from cryoet_core.kernels.forward_project import forward_project
from cryoet_core.kernels.forward_project_aligned import forward_project_aligned
from cryoet_core.tomogram.reconstruct import FilteredViews, _slabs, filter_views, rows_of_views, scale_views
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


def reconstruct_iteratively(
    images, geometry, pixel_size_angst: float, size_px, options: IterativeOptions, filters: FilterOptions | None = None, *,
    view_scaling: str = "none", memory_mb: float = 1024.0, report=None,
):
    """(tomogram (nz, ny, nx) float32 in host memory, (iterations,) rms residual before each pass) from raw views.

    Arguments as in :func:`cryoet_core.tomogram.reconstruct.reconstruct_tomogram`; of ``filters`` only the low-pass is used. Rows are solved
    in slabs of about ``memory_mb``; with a tilt about x rows depend on each other and the whole volume is solved at once.
    """
    filters = dataclasses.replace(filters or FilterOptions(), method="sirt")
    nx, ny, nz = (int(n) for n in size_px)
    solved = padded_size((nx, ny, nz), geometry.y_tilt_deg, options.padding)
    views = filter_views(scale_views(images, view_scaling), geometry, pixel_size_angst, solved, filters)
    xp, subsets = array_namespace(images), view_subsets(geometry.y_tilt_deg, options.subset_size)
    one_row = 4 * (4 * solved[0] * solved[2] + 5 * len(images) * views.frame.shape[1])
    slabs = _slabs(ny, one_row, memory_mb) if views.frame.aligned else [(0, ny)]
    volume = np.empty((nz, ny, nx), np.float32)
    z, x = (solved[2] - nz) // 2, (solved[0] - nx) // 2
    squares, rays = 0.0, 0.0
    for first, end in slabs:
        rows = (first, end) if views.frame.aligned else (0, views.images.shape[1])
        data, inside = rows_of_views(views, 1, *rows, xp)
        projector = _Projector(views, (solved[2], end - first, solved[0]))
        slab, slab_squares, slab_rays = _solve(projector, data, inside, subsets, options)
        volume[:, first:end] = asnumpy(slab[z : z + nz, :, x : x + nx])
        squares, rays = squares + slab_squares, rays + slab_rays
        if report is not None:
            report(end, ny)
    return volume, np.sqrt(squares / max(rays, 1.0))
