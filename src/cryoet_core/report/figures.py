"""Small drawing helpers: greyscale images at robust contrast, slices, tracks. Agg figures, never pyplot."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

TRUE, MEASURED, OTHER = "#d97706", "#1f5f99", "#6b7280"


def new_figure(width: float = 11, height: float = 3.2) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def show(axes, image, title: str = "", low: float = 0.5, high: float = 99.5) -> None:
    """Draw an image with +y up, contrast between two percentiles."""
    limits = np.percentile(image, [low, high])
    axes.imshow(image, cmap="gray", origin="lower", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def image_grid(images, titles, columns: int = 5, size: float = 2.2, frames=None) -> Figure:
    """Images in rows; ``frames`` (list of colours or None) draws a border."""
    rows = -(-len(images) // columns)
    figure = new_figure(size * columns, (size + 0.35) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for index, axes in enumerate(grid):
        if index >= len(images):
            axes.set_axis_off()
            continue
        show(axes, images[index], titles[index])
        if frames is not None and frames[index]:
            for spine in axes.spines.values():
                spine.set(color=frames[index], linewidth=3)
    return figure


def thumbnail(image, size: int = 160) -> np.ndarray:
    """Block-averaged copy with its longer side at most about ``size`` pixels."""
    factor = max(1, int(np.ceil(max(image.shape) / size)))
    h, w = (n // factor * factor for n in image.shape)
    return image[:h, :w].reshape(h // factor, factor, w // factor, factor).mean(axis=(1, 3))


def orthogonal_slices(volume, title: str, pixel_size_angst: float, half_thickness: int = 1) -> Figure:
    """The three central sections of a volume (an array, or read by slices), each the mean of 2*half_thickness + 1 slices."""
    centre = [n // 2 for n in volume.shape]

    def section(axis):
        window = [slice(0, n) for n in volume.shape]
        window[axis] = slice(max(0, centre[axis] - half_thickness), centre[axis] + half_thickness + 1)
        return volume[tuple(window)].mean(axis=axis)

    depth, height, width = volume.shape
    figure = new_figure(11, 11 * (height + depth) / (width + depth) * 0.72)
    axes = figure.subplots(2, 2, gridspec_kw={"width_ratios": [width, depth], "height_ratios": [depth, height]})
    show(axes[1, 0], section(0), f"{title}: x-y at z = 0")
    show(axes[0, 0], section(1), f"x-z at y = 0, {pixel_size_angst:.2f} A/px")
    show(axes[1, 1], section(2).T, "z-y at x = 0")
    axes[0, 1].set_axis_off()
    return figure


def map_views(volumes, names) -> Figure:
    """Central sections and projections along z, y, x of one or several averages (same box)."""
    figure = new_figure(11, 1.95 * len(volumes))
    grid = figure.subplots(len(volumes), 6, squeeze=False)
    for row, (volume, name) in enumerate(zip(volumes, names, strict=True)):
        for axis, plane in enumerate(("x-y", "x-z", "y-z")):
            show(grid[row, axis], volume.take(volume.shape[axis] // 2, axis=axis), f"{name} {plane} section", 0, 100)
            show(grid[row, axis + 3], volume.sum(axis=axis), f"{plane} projection", 0, 100)
    return figure


def fsc_plot(axes, curves: dict, pixel_size_angst: float, box: int) -> None:
    """FSC curves over spatial frequency with the 0.143 and 0.5 lines."""
    for name, (curve, style) in curves.items():
        frequency = np.arange(len(curve)) / (box * pixel_size_angst)
        axes.plot(frequency[1:], curve[1:], style, label=name)
    for level in (0.143, 0.5):
        axes.axhline(level, color=OTHER, linewidth=0.7, linestyle=":")
    axes.set(xlabel="spatial frequency (1/A)", ylabel="FSC", ylim=(-0.1, 1.05))
    axes.legend(fontsize=8)
